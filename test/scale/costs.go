package main

import "time"

// measured are the medians of docs/scale.md.
var measured = Costs{
	Store: 137 * time.Microsecond, Deliver: 23 * time.Microsecond,
	Read: 4 * time.Microsecond, Slot: 380 * time.Microsecond,
	Wire: 1023, Disk: 66, Memory: 44e3, Base: 60e6, StateOfSlot: 3000,
	Election: 10 * time.Second, Resend: 10 * time.Second,
}
