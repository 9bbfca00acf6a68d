// Package slot turns samples into the API's slots: 15-minute values on the grid of spec 2.4.3, and 30-second points
// during calibration.
//
// An [Aligner] sorts each series' samples into windows of event time. A window closes once, when the wall clock has
// passed its end and a grace, and no sample for it came for a while: live data closes on time, and a day of history
// fed at once closes at once. Nothing else closes a window, a shutdown neither: the state is saved and restored. No
// sample, no slot: nothing is filled in.
package slot
