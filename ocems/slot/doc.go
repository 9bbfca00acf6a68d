// Package slot turns samples into the API's slots: 15-minute values on the grid of spec 2.4.3, and 30-second points
// during calibration.
//
// An [Aligner] sorts the samples of each series, one parameter of one device, into windows of event time. Within a
// window a series has one sample a timestamp: a repeated reading counts once. A device's window closes as a whole, once,
// when the wall clock has passed its end and a grace, and no sample of any of its parameters came for a while: live data
// closes on time, and a day of history fed at once closes at once. Nothing else closes a window, not even a shutdown:
// the state is saved and restored. No sample, no slot: nothing is filled in.
package slot
