package main

import "time"

// measured are of docs/scale.md: messages of 7 readings, the medians; disk, wire, memory and slot of 20,000 devices.
var measured = Costs{
	Store: 125 * time.Microsecond, Deliver: 28 * time.Microsecond,
	Read: 4 * time.Microsecond, Slot: 305 * time.Microsecond,
	Wire: 1513, Disk: 14, Memory: 34e3, Base: 35e6, StateOfSlot: 3000,
	Election: 10 * time.Second, Resend: 10 * time.Second,
}
