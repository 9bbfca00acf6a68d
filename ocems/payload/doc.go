// Package payload writes the readings of one slot of one device as the JSON of spec 2.4. It also validates such JSON and
// returns each fault with the status code of the server's answer.
package payload
