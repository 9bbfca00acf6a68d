package registry

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Common are keys of a parameter that the configuration may also set for all parameters.
type Common struct {
	// ReadingStamp is the bound of its period that stamps a reading: start or end. With end, a reading on the boundary of two
	// slots belongs to the slot that ends there.
	ReadingStamp string `mapstructure:"reading_stamp" toml:"reading_stamp" yaml:"reading_stamp"`
	// MinCoverage is the share of a slot's 15 minutes, 0 to 1, in which there must be readings. With less, BelowMinCoverage
	// applies.
	MinCoverage Number `mapstructure:"min_coverage" toml:"min_coverage" yaml:"min_coverage"`
	// BelowMinCoverage is the action for a slot below MinCoverage: leave_out, or wait for a person.
	BelowMinCoverage string `mapstructure:"below_min_coverage" toml:"below_min_coverage" yaml:"below_min_coverage"`
	// FlatLineAfter is the time without a change of the value after which there is a warning; 0 is never. Data is not changed.
	FlatLineAfter Duration `mapstructure:"flat_line_after" toml:"flat_line_after" yaml:"flat_line_after"`
}

// DefaultCommon returns the defaults.
func DefaultCommon() Common {
	return Common{ReadingStamp: readingStamps[0], BelowMinCoverage: belowMinCoverage[0], FlatLineAfter: Duration{24 * time.Hour}}
}

// readingStamps and belowMinCoverage are the valid values of these keys.
var (
	readingStamps    = []string{"start", "end"}
	belowMinCoverage = []string{"leave_out", "wait"}
)

// Validity are the keys of a parameter that say which of its readings and values are valid.
type Validity struct {
	// ReadingStamp is as in Common.
	ReadingStamp string `mapstructure:"reading_stamp" toml:"reading_stamp" yaml:"reading_stamp"`
	// ValidMin and ValidMax are the inclusive bounds of a reading's value.
	ValidMin *Number `mapstructure:"valid_min" toml:"valid_min" yaml:"valid_min"`
	ValidMax *Number `mapstructure:"valid_max" toml:"valid_max" yaml:"valid_max"`
	// InvalidValues are values that are not readings, such as -9999.
	InvalidValues Numbers `mapstructure:"invalid_values" toml:"invalid_values" yaml:"invalid_values"`
	// MaxStep is the largest change of a value per minute.
	MaxStep *Number `mapstructure:"max_step" toml:"max_step" yaml:"max_step"`
	// MinCoverage is as in Common.
	MinCoverage *Number `mapstructure:"min_coverage" toml:"min_coverage" yaml:"min_coverage"`
	// BelowMinCoverage is as in Common.
	BelowMinCoverage string `mapstructure:"below_min_coverage" toml:"below_min_coverage" yaml:"below_min_coverage"`
	// FlatLineAfter is as in Common.
	FlatLineAfter *Duration `mapstructure:"flat_line_after" toml:"flat_line_after" yaml:"flat_line_after"`
	// LimitLow and LimitHigh are bounds of a 15-minute value. Outside them there is a warning. Data is not changed.
	LimitLow  *Number `mapstructure:"limit_low" toml:"limit_low" yaml:"limit_low"`
	LimitHigh *Number `mapstructure:"limit_high" toml:"limit_high" yaml:"limit_high"`
}

// Rules are the configured rules for a parameter's readings and its 15-minute values. Parameters may share them.
type Rules struct {
	ValidMin, ValidMax  float64 // of a reading, inclusive; infinite if not set
	MaxStep             float64 // of a reading, per minute; 0 is no limit
	MinCoverage         float64 // of a slot, 0 to 1
	Waits               bool    // a slot below MinCoverage waits for a person; otherwise it is left out
	EndStamped          bool    // a reading's time is the end of its period
	FlatLineAfter       time.Duration
	LimitLow, LimitHigh float64 // of a 15-minute value, inclusive; infinite if not set

	invalid []float64
}

// LeftOut returns why a reading with this value is left out, with the key, or Taken.
func (r *Rules) LeftOut(v float64) (reason slot.Reason, detail string) {
	switch {
	case math.IsInf(v, 0): // not a number
	case slices.Contains(r.invalid, v):
		return slot.Invalid, fmt.Sprint(v, " is one of invalid_values")
	case v < min(r.ValidMin, float64(float32(r.ValidMin))): // the limit of its range may come as a 32-bit float
		return slot.BelowMin, fmt.Sprint(v, " is below valid_min ", r.ValidMin)
	case v > max(r.ValidMax, float64(float32(r.ValidMax))):
		return slot.AboveMax, fmt.Sprint(v, " is above valid_max ", r.ValidMax)
	}
	return slot.Taken, ""
}

// TooFew returns why a slot with readings in this number of minutes is below MinCoverage, or "".
func (r *Rules) TooFew(minutes int) string {
	const all = int(spec.SlotLength / time.Minute)
	if float64(minutes)/float64(all) >= r.MinCoverage {
		return ""
	}
	return fmt.Sprintf("readings in %d of %d minutes, min_coverage is %v", minutes, all, r.MinCoverage)
}

// LeavesOut reports whether LeftOut leaves anything out.
func (r *Rules) LeavesOut() bool {
	return len(r.invalid) > 0 || !math.IsInf(r.ValidMin, -1) || !math.IsInf(r.ValidMax, 1)
}

// Rules returns the rules for a parameter of the device.
func (d *Device) Rules(parameter string) *Rules {
	if m := d.parameters[parameter]; m != nil {
		return m.rules
	}
	return d.rules
}

// TooFew returns why a parameter's value is not sent if it has readings in this number of minutes, or "". waits says that
// it waits for a person; otherwise it is left out.
func (d *Device) TooFew(parameter string, minutes int) (why string, waits bool) {
	r := d.Rules(parameter)
	return r.TooFew(minutes), r.Waits
}

// common checks the keys that apply to all parameters.
func (b *builder) common(d Common) *Rules {
	at := func(key string) string { return key }
	r := &Rules{ValidMin: math.Inf(-1), ValidMax: math.Inf(1), LimitLow: math.Inf(-1), LimitHigh: math.Inf(1)}
	r.EndStamped = b.second(at, "reading_stamp", d.ReadingStamp, readingStamps, false)
	r.MinCoverage = b.coverage(at, d.MinCoverage)
	r.Waits = b.waits(at, d.BelowMinCoverage, false)
	r.FlatLineAfter = b.flatLine(at, d.FlatLineAfter)
	return r
}

// rules returns the rules of an entry. The common rules are the defaults.
func (b *builder) rules(at func(string) string, common *Rules, v *Validity) *Rules {
	if v.ReadingStamp == "" && v.ValidMin == nil && v.ValidMax == nil && len(v.InvalidValues) == 0 && v.MaxStep == nil && v.MinCoverage == nil &&
		v.BelowMinCoverage == "" && v.FlatLineAfter == nil && v.LimitLow == nil && v.LimitHigh == nil {
		return common
	}
	r := *common
	r.EndStamped = b.second(at, "reading_stamp", v.ReadingStamp, readingStamps, r.EndStamped)
	r.Waits = b.waits(at, v.BelowMinCoverage, r.Waits)
	b.bounds(at, "valid_min", "valid_max", v.ValidMin, v.ValidMax, &r.ValidMin, &r.ValidMax)
	b.bounds(at, "limit_low", "limit_high", v.LimitLow, v.LimitHigh, &r.LimitLow, &r.LimitHigh)
	for _, n := range v.InvalidValues {
		x := float64(n)
		b.finite(at, "invalid_values", x)
		r.invalid = append(r.invalid, x, float64(float32(x))) // as a 32-bit register has it
	}
	if v.MaxStep != nil {
		r.MaxStep = float64(*v.MaxStep)
		switch {
		case !b.finite(at, "max_step", r.MaxStep):
		case r.MaxStep == 0:
			b.fault(at("max_step"), "0 refuses every reading that differs from the one before; leave the key out for no limit")
		case r.MaxStep < 0:
			b.fault(at("max_step"), "%v is less than 0; nearest: %v", r.MaxStep, -r.MaxStep)
		}
	}
	if v.MinCoverage != nil {
		r.MinCoverage = b.coverage(at, *v.MinCoverage)
	}
	if v.FlatLineAfter != nil {
		r.FlatLineAfter = b.flatLine(at, *v.FlatLineAfter)
	}
	return &r
}

// second reports whether a key has the second of its two values.
func (b *builder) second(at func(string) string, key, value string, values []string, common bool) bool {
	if value != "" && !slices.Contains(values, value) {
		b.fault(at(key), "%q is neither %q nor %q; nearest: %s", value, values[0], values[1], spec.Nearest(value, values)[0])
	}
	return value == values[1] || value == "" && common
}

func (b *builder) waits(at func(string) string, value string, common bool) bool {
	const key = "below_min_coverage"
	waits := b.second(at, key, value, belowMinCoverage, common)
	if b.noOutbox && value == belowMinCoverage[1] {
		b.fault(at(key), "%q needs an outbox, and a processor has none: let the exporter make these slots; nearest: %s", value, belowMinCoverage[0])
	}
	return waits
}

func (b *builder) coverage(at func(string) string, share Number) float64 {
	if !(share >= 0 && share <= 1) {
		b.fault(at("min_coverage"), "%v is not from 0 to 1; nearest: %v", share, max(0, min(share, 1)))
	}
	return float64(share)
}

func (b *builder) flatLine(at func(string) string, after Duration) time.Duration {
	if d := after.Duration; d != 0 && (d < spec.SlotLength || d > spec.MaxAge) {
		b.fault(at("flat_line_after"), "%s is not from %s to %s; nearest: %s", after, Duration{spec.SlotLength}, Duration{spec.MaxAge}, Duration{min(max(d, spec.SlotLength), spec.MaxAge)})
	}
	return after.Duration
}

// bounds sets a lower and an upper bound if they are given.
func (b *builder) bounds(at func(string) string, low, high string, from, to *Number, least, most *float64) {
	if from != nil && b.finite(at, low, float64(*from)) {
		*least = float64(*from)
	}
	if to != nil && b.finite(at, high, float64(*to)) {
		*most = float64(*to)
	}
	if *least > *most {
		b.fault(at(low), "%v is more than %s, %v; nearest: %v", *least, high, *most, *most)
	}
}

func (b *builder) finite(at func(string) string, key string, v float64) bool {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		b.fault(at(key), "%v is not a finite number; leave it out, or give one such as 19.076", v)
		return false
	}
	return true
}
