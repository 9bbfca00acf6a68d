// Package clock decides how far this machine's wall clock can be trusted. It compares the wall clock with the monotonic
// clock, with the stored wall time and time since boot, and with the Date of the server's answers. It reads only the
// clocks and the kernel's boot id.
//
// Time is divided into eras: one begins with each start and with each step of the wall clock. An era is confirmed by
// the first Date that agrees, or if the clock returns to where it was confirmed before. An era that ends with a step
// without being confirmed is accused; if the clock is set back to it, the era continues. Once another clock is
// confirmed, or trusted because enough time has passed, an accused era is wrong, unless it had the same clock or the
// server's Date agreed with it.
package clock
