package slot

import (
	"fmt"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Options are the rules of an [Aligner]. A zero value takes the default.
type Options struct {
	Stamp            string        // which bound of its window stamps a slot: "end" (default) or "start"
	Grace            time.Duration // wait after the end of a 15-minute window, 30 s
	CalibrationGrace time.Duration // wait after the end of a 30-second window, 10 s: its point is out within a minute
	Settle           time.Duration // wait after a window's last arrival, 5 s; at most 15 minutes in all
	MaxSkew          time.Duration // how far ahead of the wall clock a sample may be, 1 m
	MinSamples       int           // samples flagged U that make a window U, 1
	MaxSeries        int           // series held at once, 100000
}

func (o *Options) complete() error {
	stamps := []string{"end", "start"}
	switch o.Stamp {
	case "":
		o.Stamp = "end"
	case "end", "start":
	default:
		text := fmt.Sprintf("stamp = %q: must be one of %q", o.Stamp, stamps)
		if near := spec.Nearest(o.Stamp, stamps); len(near) > 0 {
			text += fmt.Sprintf("; nearest is %q", near[0])
		}
		return fmt.Errorf("%s", text)
	}
	for _, d := range []struct {
		key   string
		value *time.Duration
		def   time.Duration
	}{
		{"grace", &o.Grace, 30 * time.Second},
		{"calibration_grace", &o.CalibrationGrace, 10 * time.Second},
		{"settle", &o.Settle, 5 * time.Second},
		{"max_skew", &o.MaxSkew, time.Minute},
	} {
		if *d.value < 0 || *d.value > spec.MaxAge {
			return fmt.Errorf("%s = %s: must be from 0 (the default, %s) to %s", d.key, *d.value, d.def, spec.MaxAge)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		key   string
		value *int
		def   int
	}{
		{"min_samples", &o.MinSamples, 1},
		{"max_series", &o.MaxSeries, 100000},
	} {
		if *n.value < 0 {
			return fmt.Errorf("%s = %d: must be at least 1, or 0 for the default of %d", n.key, *n.value, n.def)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	return nil
}

// Codec writes the keys of series into the saved state and reads them back. Equal keys must give equal bytes.
type Codec[K comparable] interface {
	Append(dst []byte, key K) []byte
	Read(src []byte) (K, error)
}

// StringCodec is the [Codec] of keys that are strings.
type StringCodec struct{}

// Append implements [Codec].
func (StringCodec) Append(dst []byte, key string) []byte { return append(dst, key...) }

// Read implements [Codec].
func (StringCodec) Read(src []byte) (string, error) { return string(src), nil }

// Statistic is how the samples of a window become one value.
type Statistic uint8

// The statistics. Totalisers want Last, delta sums want Sum.
const (
	Mean Statistic = iota
	Last
	Min
	Max
	Sum
	Median
)

var statistics = []string{"mean", "last", "min", "max", "sum", "median"}

// ParseStatistic reads the name of a statistic. White space around it and its case are ignored, and nothing at all is
// mean. The error is a [*spec.UnknownError] with the nearest names.
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
	return 0, &spec.UnknownError{Kind: "statistic", Value: s, Nearest: spec.Nearest(s, statistics)}
}

// String is the name of the statistic.
func (s Statistic) String() string {
	if int(s) < len(statistics) {
		return statistics[s]
	}
	return fmt.Sprintf("Statistic(%d)", uint8(s))
}

// Reason is why a sample was refused.
type Reason string

// The reasons.
const (
	Late         Reason = "late"          // its window is closed
	TooOld       Reason = "too_old"       // its slot's stamp is older than 7 days
	Future       Reason = "future"        // ahead of the wall clock by more than MaxSkew
	NotANumber   Reason = "not_a_number"  // NaN, infinite, or beyond 1e300, which no sum could hold
	BadFlag      Reason = "bad_flag"      // not one of the six
	BadStatistic Reason = "bad_statistic" // not one of the six
	MaxSeries    Reason = "max_series"    // a new series, and no room for one
	MaxSamples   Reason = "max_samples"   // the window's median already has 86,400 values
)

// RefusedError says that a sample was not taken.
type RefusedError struct{ Reason Reason }

func (e *RefusedError) Error() string { return "sample refused: " + string(e.Reason) }
