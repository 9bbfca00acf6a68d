package slot

import (
	"fmt"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Options are the rules of an [Aligner].
type Options struct {
	Stamp            string        // bound of the window that stamps its slot: "end" or "start"
	Grace            time.Duration // wait after the end of a 15-minute window
	CalibrationGrace time.Duration // wait after the end of a 30-second window
	Settle           time.Duration // wait after a window's last arrival; at most 15 minutes in all
	SettleOld        time.Duration // the same, if a sample came when its window was due, and its series has no newer one; 0: Settle
	SettleSlow       time.Duration // the same, if such samples come slowly; at least 1.5 times their longest pause
	MaxSkew          time.Duration // how far ahead of the wall clock a sample may be
	MinSamples       int           // a window with this many samples flagged U has the flag U
	WaitForNewer     bool          // the newest sample ends the grace, not the clock: without samples no window closes
}

// Stamps are the values of Options.Stamp.
var Stamps = []string{"end", "start"}

// Defaults are the rules without configuration. A calibration point is closed within a minute.
func Defaults() Options {
	return Options{Stamp: "end", Grace: 30 * time.Second, CalibrationGrace: 10 * time.Second, Settle: 5 * time.Second,
		SettleOld: 15 * time.Second, SettleSlow: 90 * time.Second, MaxSkew: time.Minute, MinSamples: 1}
}

// Statistic is the way to compute one value from the samples of a window.
type Statistic uint8

// The statistics. Use Last for totalisers and Sum for delta sums.
const (
	Mean Statistic = iota
	Last
	Min
	Max
	Sum
	Median
	TimeWeighted // weights each value by how long it holds: until the next sample or the end of the window
)

var statistics = []string{"mean", "last", "min", "max", "sum", "median", "time_weighted"}

// ParseStatistic reads the name of a statistic. It ignores surrounding white space and case; an empty name is mean. The
// error is a [*spec.UnknownError] with the nearest names.
func ParseStatistic(s string) (Statistic, error) {
	name := strings.ToLower(strings.TrimSpace(s))
	if name == "" {
		return Mean, nil
	}
	for i, known := range statistics {
		if name == known {
			return Statistic(i), nil
		}
	}
	nearest := spec.Nearest(s, statistics)
	if strings.HasPrefix(name, "av") { // by letters alone, avg would be nearest to last
		nearest = []string{Mean.String()}
	}
	return 0, &spec.UnknownError{Kind: "statistic", Value: s, Nearest: func() []string { return nearest }}
}

// Valid reports whether the statistic is known.
func (s Statistic) Valid() bool { return int(s) < len(statistics) }

// String is the name of the statistic.
func (s Statistic) String() string {
	if s.Valid() {
		return statistics[s]
	}
	return fmt.Sprintf("Statistic(%d)", uint8(s))
}

// Reason is why a sample was not taken.
type Reason string

// The reasons. Only Duplicate loses nothing: the reading is in its window already.
const (
	Taken      Reason = ""
	Duplicate  Reason = "duplicate"    // the window has a sample of the same time, value and flag
	Conflict   Reason = "conflict"     // the window has a sample of the same time with another value or flag
	Late       Reason = "late"         // its window is closed
	TooOld     Reason = "too_old"      // its slot's stamp is older than 7 days
	Future     Reason = "future"       // ahead of the wall clock by more than MaxSkew
	NotANumber Reason = "not_a_number" // NaN, infinite, or beyond 1e300, because a sum must be finite
	BadFlag    Reason = "bad_flag"     // not one of the API's six
	BadUnit    Reason = "unit"         // not the unit of the window's first sample
	WrongClock Reason = "clock"        // taken while this machine's clock was wrong, so its slot is unknown
	MaxSamples Reason = "max_samples"  // the window has 100,000 samples of the series

	// Reasons of the parameter's rules. The aligner itself uses only Head.MaxStep.
	BelowMin Reason = "below_valid_min"
	AboveMax Reason = "above_valid_max"
	Invalid  Reason = "invalid_value" // in the list of invalid values
	TooFar   Reason = "max_step"      // too far from the last sample that was taken
	TooFew   Reason = "min_coverage"  // too few minutes of the slot have a sample
)

// Reasons lists the reasons of readings that are in no slot: all but Taken and Duplicate.
func Reasons() []Reason {
	return []Reason{Conflict, Late, TooOld, Future, NotANumber, BadFlag, BadUnit, MaxSamples, WrongClock,
		BelowMin, AboveMax, Invalid, TooFar, TooFew}
}
