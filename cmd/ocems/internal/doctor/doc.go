// Package doctor checks a host from outside, by its configuration and its files, and finds what would keep its slots from
// the board. It sends no reading and takes no lock. Its only change is an empty file that it makes and removes, to test
// whether a directory is writable.
package doctor
