// Package payload turns the readings of one slot of one device into the JSON of spec 2.4, and finds every fault of
// such a JSON with the status code that the server answers it with.
package payload
