package main

import "time"

// measured has the costs of docs/scale.md: the medians for messages of 7 readings, and disk, wire, memory and slot for 20,000
// devices.
var measured = Costs{
	Store: 125 * time.Microsecond, Deliver: 28 * time.Microsecond,
	Read: 4 * time.Microsecond, Slot: 305 * time.Microsecond,
	Wire: 1513, Disk: 14, Memory: 34e3, Base: 35e6, StateOfSlot: 3000,
	Election: 10 * time.Second, Resend: 10 * time.Second,
}
