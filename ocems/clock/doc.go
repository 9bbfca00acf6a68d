// Package clock says how far this machine's wall clock can be believed: against the monotonic clock, against the last wall
// time that was stored, and against the Date of the server's answers. It decides and does no I/O.
//
// Time is parted into eras: one begins with each start and with each step of the wall clock. An era is confirmed by the
// first Date that agrees, or where the clock comes back to where it was confirmed before. What was taken by the clock of an
// era that ends with a step, and that nobody had confirmed, is wrong.
package clock
