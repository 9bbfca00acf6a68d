// Package wallclock starts a program whose wall clock a test sets, as a step of the machine's clock would. Its monotonic
// Clock goes on.
package wallclock
