// Package options holds the keys that Telegraf's output, the collector's exporter and its processor share, with defaults,
// limits and checks, and tags for TOML and YAML. Keys of only one host, such as its HTTP client, are in the host's package.
package options

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// DefaultEndpoint is the URL of spec 2.1.
const DefaultEndpoint = "https://cems.cpcb.gov.in/v1.0/industry/data"

// Slots are the keys for naming and averaging.
type Slots struct {
	// AuditFile is the file with final outcomes and with readings that are in no slot.
	AuditFile string `mapstructure:"audit_file" toml:"audit_file"`
	// AuditRotateMB is the largest size of a trail file in MB. At this size the file is closed and compressed.
	AuditRotateMB int `mapstructure:"audit_rotate_mb" toml:"audit_rotate_mb"`
	// AuditRotateMonthly also closes it at the end of a month of IST.
	AuditRotateMonthly bool `mapstructure:"audit_rotate_monthly" toml:"audit_rotate_monthly"`
	// DevicesFileInterval is the time between two looks at the devices_file.
	DevicesFileInterval Duration `mapstructure:"devices_file_interval" toml:"devices_file_interval"`
	// ParameterMetrics is the largest number of parameters with their own gauges. With more parameters, or with 0, none has.
	ParameterMetrics int `mapstructure:"parameter_metrics" toml:"parameter_metrics"`
	// Stamp is the bound of the window that stamps a slot: end or start.
	Stamp string `mapstructure:"stamp" toml:"stamp"`
	// Grace is the wait after the end of a 15-minute window.
	Grace Duration `mapstructure:"grace" toml:"grace"`
	// CalibrationGrace is the wait after the end of a 30-second window.
	CalibrationGrace Duration `mapstructure:"calibration_grace" toml:"calibration_grace"`
	// Settle is the wait after the last arrival of a sample for the window. With 0 it is 5 s; 15 s if a sample came when its
	// window was due already, and its parameter has sent nothing newer; and if such samples come slowly, one after the other,
	// 90 s or 1.5 times the longest pause.
	Settle Duration `mapstructure:"settle" toml:"settle"`
	// WaitForNewer keeps a window open until any device has a reading that is Grace after the window's end.
	WaitForNewer bool `mapstructure:"wait_for_newer" toml:"wait_for_newer"`
	// MaxSkew is how far ahead of the clock a reading may be.
	MaxSkew Duration `mapstructure:"max_skew" toml:"max_skew"`
	// Timestamps says which clock stamps the readings. With auto, times near this machine's clock are from this clock. With
	// source, all times are from the source's clock. A device can override it.
	Timestamps string `mapstructure:"timestamps" toml:"timestamps"`
	// MinSamples is the number of readings with flag U that a window needs for flag U.
	MinSamples int `mapstructure:"min_samples" toml:"min_samples"`
}

// DefaultSlots returns the defaults.
func DefaultSlots() Slots {
	d := slot.Defaults()
	return Slots{
		AuditRotateMB: 1000, AuditRotateMonthly: true, ParameterMetrics: 1000,
		DevicesFileInterval: Duration{Duration: 10 * time.Second}, Stamp: d.Stamp, Grace: Duration{Duration: d.Grace},
		CalibrationGrace: Duration{Duration: d.CalibrationGrace}, MaxSkew: Duration{Duration: d.MaxSkew},
		Timestamps: registry.TimestampsAuto, MinSamples: d.MinSamples,
	}
}

// Rules returns the options of the aligner.
func (o Slots) Rules() slot.Options {
	r := slot.Defaults()
	r.Stamp, r.Grace, r.CalibrationGrace, r.MaxSkew = o.Stamp, o.Grace.Duration, o.CalibrationGrace.Duration, o.MaxSkew.Duration
	r.MinSamples, r.WaitForNewer = o.MinSamples, o.WaitForNewer
	if o.Settle.Duration > 0 {
		r.Settle, r.SettleOld, r.SettleSlow = o.Settle.Duration, 0, 0
	}
	return r
}

// Rotation returns the options for the rotation of the trail.
func (o Slots) Rotation(failed func(error)) audit.Rotation {
	return audit.Rotation{Size: int64(o.AuditRotateMB) * 1e6, Monthly: o.AuditRotateMonthly, Failed: failed}
}

// Check returns all mistakes. Each begins with its key.
func (o Slots) Check() error {
	var c checker
	if !slices.Contains(slot.Stamps, o.Stamp) {
		c.fault("stamp: %q is neither %q nor %q; nearest: %s", o.Stamp, slot.Stamps[0], slot.Stamps[1], spec.Nearest(o.Stamp, slot.Stamps)[0])
	}
	if !slices.Contains(registry.Timestamps, o.Timestamps) {
		c.fault("timestamps: %w", registry.WrongTimestamps(o.Timestamps))
	}
	c.duration("devices_file_interval", o.DevicesFileInterval, time.Millisecond, 24*time.Hour)
	c.duration("grace", o.Grace, time.Millisecond, spec.MaxAge) // closed windows are remembered for 7 days, so a window must not close exactly at its end
	c.duration("calibration_grace", o.CalibrationGrace, time.Millisecond, spec.MaxAge)
	c.duration("settle", o.Settle, 0, spec.MaxAge)
	c.duration("max_skew", o.MaxSkew, 0, spec.MaxAge)
	c.number("audit_rotate_mb", o.AuditRotateMB, 1)
	c.number("parameter_metrics", o.ParameterMetrics, 0)
	c.number("min_samples", o.MinSamples, 1)
	return c.err()
}

// Delivery are the keys for sending slots to the board.
type Delivery struct {
	// Endpoint is the URL of the POST (spec 2.1).
	Endpoint string `mapstructure:"endpoint" toml:"endpoint"`
	// Align averages readings to slots. Without it every reading must already be a slot.
	Align bool `mapstructure:"align" toml:"align"`
	// Coalesce is how long a slot that was made upstream waits for other parameters.
	Coalesce Duration `mapstructure:"coalesce" toml:"coalesce"`
	// Spread is the time over which the requests of the devices are spread.
	Spread Duration `mapstructure:"spread" toml:"spread"`
	// InitialBackoff is the first wait after a failed attempt, doubled each time.
	InitialBackoff Duration `mapstructure:"initial_backoff" toml:"initial_backoff"`
	// MaxBackoff is the longest such wait.
	MaxBackoff Duration `mapstructure:"max_backoff" toml:"max_backoff"`
	// HoldInterval is the time between attempts for a refused device, a refused parameter, or a slot that waits apart.
	HoldInterval Duration `mapstructure:"hold_interval" toml:"hold_interval"`
	// MaxConcurrency is the largest number of requests in flight, without those that hang. With these the limit is 8 times as high.
	MaxConcurrency int `mapstructure:"max_concurrency" toml:"max_concurrency"`
	// SharedDevice says that another sender reports the devices too. Status 111 then means that the server has the slot.
	SharedDevice bool `mapstructure:"shared_device" toml:"shared_device"`
	// Delay is the shortest time from the window's end until a slot is sent. It is for the standby of two hosts.
	Delay Duration `mapstructure:"delay" toml:"delay"`
	// SignatureTime is the time in a signature (spec 2.3.2): now, or the slot's time.
	SignatureTime string `mapstructure:"signature_time" toml:"signature_time"`
	// DryRun logs the JSON and sends nothing.
	DryRun bool `mapstructure:"dry_run" toml:"dry_run"`
}

// DefaultDelivery returns the defaults.
func DefaultDelivery() Delivery {
	return Delivery{
		Endpoint: DefaultEndpoint, Align: true, Coalesce: Duration{Duration: 5 * time.Second}, Spread: Duration{Duration: 10 * time.Second},
		InitialBackoff: Duration{Duration: 5 * time.Second}, MaxBackoff: Duration{Duration: 5 * time.Minute}, HoldInterval: Duration{Duration: 10 * time.Minute},
		MaxConcurrency: 32, SignatureTime: SignatureTimes[0],
	}
}

// SignatureTimes are the values of Delivery.SignatureTime.
var SignatureTimes = []string{"now", "slot"}

// Check returns all mistakes. Each begins with its key.
func (o Delivery) Check() error {
	var c checker
	if !isURL(o.Endpoint, "http", "https") {
		c.fault("endpoint: %q is not a URL with http or https and a host; nearest: %s", Shown(o.Endpoint), nearestEndpoint(o.Endpoint))
	}
	c.duration("coalesce", o.Coalesce, 0, spec.MaxAge)
	c.duration("spread", o.Spread, 0, spec.SlotLength)
	c.duration("initial_backoff", o.InitialBackoff, time.Millisecond, spec.MaxAge)
	c.duration("hold_interval", o.HoldInterval, time.Millisecond, spec.MaxAge)
	if o.MaxBackoff.Duration < o.InitialBackoff.Duration {
		c.fault("max_backoff: %s is less than initial_backoff; nearest: %s", o.MaxBackoff, o.InitialBackoff)
	} else {
		c.duration("max_backoff", o.MaxBackoff, 0, spec.MaxAge)
	}
	c.number("max_concurrency", o.MaxConcurrency, 1)
	if err := registry.CheckDelay(&o.Delay, &o.SharedDevice); err != nil {
		c.fault("delay: %w", err)
	}
	if !slices.Contains(SignatureTimes, o.SignatureTime) {
		c.fault("signature_time: %q is neither %q nor %q; nearest: %s", o.SignatureTime, SignatureTimes[0], SignatureTimes[1], spec.Nearest(o.SignatureTime, SignatureTimes)[0])
	}
	return c.err()
}

// ShortTimeout is the shortest timeout without a warning. The server is slow just after a slot ends, and may store a request
// that timed out.
const ShortTimeout = 30 * time.Second

// CheckClient returns all mistakes in the keys of a host's HTTP client that all hosts check. proxy is a URL or "". tls has
// TLS versions by key. known are the safe versions.
func CheckClient(timeoutKey string, timeout time.Duration, proxyKey, proxy string, tls map[string]string, known []string) error {
	var c checker
	if timeout <= 0 {
		c.fault("%s: %s must be more than 0; nearest: 45s", timeoutKey, timeout)
	}
	if proxy != "" && !isURL(proxy, "http", "https", "socks5", "socks5h") {
		c.fault("%s: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)", proxyKey)
	}
	for _, key := range slices.Sorted(maps.Keys(tls)) {
		if v := tls[key]; v != "" && !slices.Contains(known, v) {
			c.fault("%s: %q is not TLS 1.2 or newer; nearest: %s", key, v, spec.Nearest(v, known)[0])
		}
	}
	return c.err()
}

type checker struct{ faults []error }

func (c *checker) err() error { return errors.Join(c.faults...) }

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *checker) duration(key string, d Duration, least, most time.Duration) {
	if d.Duration < least || d.Duration > most {
		c.fault("%s: %s is not from %s to %s; nearest: %s", key, d, Duration{Duration: least}, Duration{Duration: most}, Duration{Duration: min(max(d.Duration, least), most)})
	}
}

func (c *checker) number(key string, n, least int) {
	if n < least {
		c.fault("%s: %d is less than %d; nearest: %d", key, n, least, least)
	}
}

// isURL reports whether s is a URL of one of the schemes, with a host.
func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && slices.Contains(schemes, u.Scheme)
}

// Shown returns a URL without its password, for an error or a log.
func Shown(s string) string {
	u, err := url.Parse(s)
	if err == nil {
		return u.Redacted()
	}
	if at := strings.LastIndex(s, "@"); at >= 0 { // an invalid URL may still contain a password
		return "xxxxx" + s[at:]
	}
	return s
}

// nearestEndpoint replaces the scheme of a wrong endpoint, if the rest has a host.
func nearestEndpoint(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	if s = "https://" + rest; isURL(s, "https") {
		return Shown(s)
	}
	return DefaultEndpoint
}

// Duration is a time such as 30s or 1m30s.
type Duration = registry.Duration

// NoMaxSeries says what to do instead of the key max_series of earlier versions.
const NoMaxSeries = "leave it out: the configured devices and parameters limit the number of series"

// Check returns the mistakes in the keys of a YAML configuration before they are decoded: keys of earlier versions, each with
// what to do instead, and durations without a unit, which a decoder would read as nanoseconds. cfg is a pointer to the struct
// that they are decoded into.
func Check(raw map[string]any, cfg any, gone map[string]string) error {
	var faults []error
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		if _, given := raw[key]; given {
			faults = append(faults, fmt.Errorf("%s: the key is gone; %s", key, gone[key]))
		}
	}
	durations(reflect.TypeOf(cfg).Elem(), "", raw, func(key string, number any) {
		faults = append(faults, fmt.Errorf("%s: %w", key, new(Duration).UnmarshalText(fmt.Append(nil, number))))
	})
	return errors.Join(faults...)
}

// durations calls fault for each duration without a unit in a struct and its nested structs.
func durations(t reflect.Type, path string, raw map[string]any, fault func(key string, number any)) {
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		kind := f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case kind == reflect.TypeFor[Duration](), kind == reflect.TypeFor[time.Duration]():
			switch v := raw[key].(type) {
			case int, int64, uint64, float64:
				fault(path+key, v)
			}
		case kind.Kind() == reflect.Struct && f.Anonymous && key == "":
			durations(kind, path, raw, fault)
		case kind.Kind() == reflect.Struct:
			if inner, ok := raw[key].(map[string]any); ok {
				durations(kind, path+key+".", inner, fault)
			}
		case kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct:
			list, _ := raw[key].([]any)
			for i, v := range list {
				if inner, ok := v.(map[string]any); ok {
					durations(kind.Elem(), fmt.Sprintf("%s%s[%d].", path, key, i), inner, fault)
				}
			}
		}
	}
}
