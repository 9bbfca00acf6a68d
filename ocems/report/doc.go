// Package report reads audit trails and says what became of each 15-minute slot of each device and parameter. A slot that no
// line names is missing. A [Host] adds what is configured and what waits; an [Export] what the board's page says. A trail is checked
// first; what comes after the place where it was altered or cut is read too, and marked as not verified. Of a closed file it
// reads the lines that sum it up, unless it is to verify every line.
//
// It keeps a byte a slot and parameter, once for days that are alike, and the readings only where they are shown, so that
// months of trail need little memory.
package report
