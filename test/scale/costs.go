package main

import "time"

// measured has the costs of docs/scale.md for 7 readings per message and 20,000 devices.
var measured = Costs{
	Store: 150 * time.Microsecond, Deliver: 32 * time.Microsecond,
	Read: 3400 * time.Nanosecond, Slot: 328 * time.Microsecond,
	Wire: 1188, Disk: 34, Memory: 27e3, Base: 41e6, StateOfSlot: 3000,
	Election: 10 * time.Second, Resend: 10 * time.Second,
}
