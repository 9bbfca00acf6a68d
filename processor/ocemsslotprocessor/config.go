package ocemsslotprocessor

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Config is the processor's configuration.
type Config struct {
	// Stamp is which bound of its window stamps a slot: end or start.
	Stamp string `mapstructure:"stamp"`
	// Grace is the wait after the end of a 15-minute window.
	Grace time.Duration `mapstructure:"grace"`
	// CalibrationGrace is the wait after the end of a 30-second window.
	CalibrationGrace time.Duration `mapstructure:"calibration_grace"`
	// Settle is the wait after a window's last arrival.
	Settle time.Duration `mapstructure:"settle"`
	// MaxSkew is how far ahead of the wall clock a sample may be.
	MaxSkew time.Duration `mapstructure:"max_skew"`
	// MinSamples is how many samples flagged U make a window U.
	MinSamples int `mapstructure:"min_samples"`
	// MaxSeries is how many series are held at once.
	MaxSeries int `mapstructure:"max_series"`
	// CheckpointInterval is how often the state is saved; a crash costs at most the samples of one interval.
	CheckpointInterval time.Duration `mapstructure:"checkpoint_interval"`
	// Storage is the storage extension that keeps the state.
	Storage *component.ID `mapstructure:"storage"`
	// AuditFile is the trail of late and refused samples.
	AuditFile string `mapstructure:"audit_file"`
	// Statistics are the metrics whose statistic is not the default.
	Statistics []StatisticConfig `mapstructure:"statistics"`
}

// StatisticConfig gives a metric its statistic.
type StatisticConfig struct {
	// Metric is the metric's name.
	Metric string `mapstructure:"metric"`
	// Statistic is one of mean, last, min, max, sum, median.
	Statistic string `mapstructure:"statistic"`
}

// Validate implements xconfmap.Validator.
func (c *Config) Validate() error {
	var errs []error
	if c.Stamp != "end" && c.Stamp != "start" {
		near := spec.Nearest(c.Stamp, []string{"end", "start"})
		errs = append(errs, fmt.Errorf("stamp = %q: must be \"end\" or \"start\"; nearest is %q", c.Stamp, near[0]))
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		max   time.Duration
	}{
		{"grace", c.Grace, spec.MaxAge},
		{"calibration_grace", c.CalibrationGrace, spec.MaxAge},
		{"settle", c.Settle, spec.MaxAge},
		{"max_skew", c.MaxSkew, spec.MaxAge},
		{"checkpoint_interval", c.CheckpointInterval, spec.SlotLength},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("%s = %s: must be more than 0s and at most %s; nearest is 1ms", d.key, d.value, d.max))
		} else if d.value > d.max {
			errs = append(errs, fmt.Errorf("%s = %s: must be more than 0s and at most %s; nearest is %s", d.key, d.value, d.max, d.max))
		}
	}
	if c.MinSamples < 1 {
		errs = append(errs, fmt.Errorf("min_samples = %d: must be at least 1; nearest is 1", c.MinSamples))
	}
	if c.MaxSeries < 1 {
		errs = append(errs, fmt.Errorf("max_series = %d: must be at least 1; nearest is 1", c.MaxSeries))
	}
	_, err := c.statistics()
	return errors.Join(append(errs, err)...)
}

func (c *Config) statistics() (map[string]slot.Statistic, error) {
	var errs []error
	out := make(map[string]slot.Statistic, len(c.Statistics))
	for i, s := range c.Statistics {
		stat, err := slot.ParseStatistic(s.Statistic)
		if err != nil {
			errs = append(errs, fmt.Errorf("statistics[%d].statistic = %q: %w", i, s.Statistic, err))
		}
		if _, double := out[s.Metric]; double {
			errs = append(errs, fmt.Errorf("statistics[%d].metric = %q: is listed twice; keep one", i, s.Metric))
		}
		if s.Metric == "" {
			errs = append(errs, fmt.Errorf("statistics[%d].metric = \"\": must be the name of a metric", i))
		}
		out[s.Metric] = stat
	}
	return out, errors.Join(errs...)
}
