// Package slot turns samples into the API's slots: 15-minute values on the grid of spec 2.4.3, and 30-second points
// during calibration.
//
// An [Aligner] sorts the samples of each series (one parameter of one device) into windows by event time. Within a
// window a series has one sample for each timestamp: a repeated reading counts once. A device's window closes as a
// whole, and only once: when the wall clock has passed its end and a grace, and no sample of its parameters has arrived
// for a while. So live data closes on time, and a day of history that arrives at one time closes at one time. Nothing
// else closes a window, not even a shutdown: the state is saved and restored. Without a sample there is no slot:
// nothing is filled in.
package slot
