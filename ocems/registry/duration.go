package registry

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time such as 30s or 1m30s. A number without a unit is refused in every host.
type Duration struct {
	time.Duration `mapstructure:"-"`
}

// UnmarshalText reads a duration, in TOML also the number that stands for one.
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

// MarshalText writes the duration as it is read.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String leaves out what is zero at the end: 5m and not 5m0s.
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
