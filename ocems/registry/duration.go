package registry

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time such as 30s or 1m30s. All hosts refuse a number without a unit.
type Duration struct {
	time.Duration `mapstructure:"-"`
}

// UnmarshalText parses a duration. In TOML the text may be a number, which is refused.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(strings.TrimSpace(string(b)))
	if _, number := strconv.ParseFloat(string(b), 64); number == nil {
		return fmt.Errorf(`%s has no unit; nearest: "%ss"`, b, b)
	}
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s or 5m", b)
	}
	d.Duration = v
	return nil
}

// MarshalText writes the duration in the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String leaves out zeros at the end: 5m, not 5m0s.
func (d Duration) String() string {
	s := d.Duration.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
