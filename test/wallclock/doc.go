// Package wallclock starts a program whose wall clock a test can set, like a step of the machine's clock. Its monotonic clock
// is not changed.
package wallclock
