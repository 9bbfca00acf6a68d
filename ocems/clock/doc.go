// Package clock says how far this machine's wall clock can be believed: against the monotonic clock, against the last wall
// time and the time since the machine's boot that were stored, and against the Date of the server's answers. It decides, and
// reads nothing but the kernel's boot id and clocks.
//
// Time is parted into eras: one begins with each start and with each step of the wall clock. An era is confirmed by the
// first Date that agrees, or where the clock comes back to where it was confirmed before. An era that ends with a step, and
// that nobody had confirmed, is accused: a clock that is set back to it goes on with it. Once another clock is confirmed, or
// trusted by the time that has passed, it was wrong, unless that is the same clock or the server's Date agreed with it.
package clock
