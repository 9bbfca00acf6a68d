// Package doctor looks at a host from outside, with its configuration and its files, and says what would keep its slots
// from the board. It sends no reading, takes no lock, and changes nothing but that it makes and removes an empty file
// where it asks whether a directory can be written.
package doctor
