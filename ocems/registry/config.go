package registry

import (
	"fmt"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Config is the part of a configuration that names devices. TOML and YAML use the same words, except that TOML's tables
// are called `device` and Telegraf's attributes `tags`. A key of a secret has no TOML name: Telegraf has a type of its own
// for secrets.
type Config struct {
	// PublicKey is the industry's public key, for devices that give none of their own.
	PublicKey Secret `mapstructure:"public_key" toml:"-" yaml:"public_key"`
	// PublicKeyFile is the file that holds it instead.
	PublicKeyFile string `mapstructure:"public_key_file" toml:"public_key_file" yaml:"public_key_file"`
	// Devices are the devices of this configuration.
	Devices []DeviceConfig `mapstructure:"devices" toml:"device" yaml:"devices"`
	// DevicesFile is a CSV or YAML file of further devices. Reload reads it again.
	DevicesFile string `mapstructure:"devices_file" toml:"devices_file" yaml:"devices_file"`
	Common      `mapstructure:",squash" yaml:",inline"`
	// Words are the host's.
	Words Words `mapstructure:"-" toml:"-" yaml:"-"`
	// NamesOnly reads neither tokens nor keys: the devices can then name metrics, and not seal.
	NamesOnly bool `mapstructure:"-" toml:"-" yaml:"-"`
	// NoOutbox says that slots are handed on at once, so that none can wait for a person.
	NoOutbox bool `mapstructure:"-" toml:"-" yaml:"-"`
}

// DeviceConfig is one registered device (spec 2.1). Relative file names start at the working directory.
type DeviceConfig struct {
	// StationID is the stationId that the board gave.
	StationID string `mapstructure:"station_id" toml:"station_id" yaml:"station_id"`
	// DeviceID is the deviceId that the board gave, also the X-Device-Id header.
	DeviceID string `mapstructure:"device_id" toml:"device_id" yaml:"device_id"`
	// TokenID is the device's token (spec 2.3.1).
	TokenID Secret `mapstructure:"token_id" toml:"-" yaml:"token_id"`
	// TokenIDFile is the file that holds the token instead.
	TokenIDFile string `mapstructure:"token_id_file" toml:"token_id_file" yaml:"token_id_file"`
	// Latitude in degrees, -90 to 90; left out of the payload when not set.
	Latitude *Number `mapstructure:"latitude" toml:"latitude" yaml:"latitude"`
	// Longitude in degrees, -180 to 180; left out of the payload when not set.
	Longitude *Number `mapstructure:"longitude" toml:"longitude" yaml:"longitude"`
	// PublicKey is the key of this device's industry, where it differs from Config's.
	PublicKey Secret `mapstructure:"public_key" toml:"-" yaml:"public_key"`
	// PublicKeyFile is the file that holds it instead.
	PublicKeyFile string `mapstructure:"public_key_file" toml:"public_key_file" yaml:"public_key_file"`
	// SharedDevice says that another sender reports the device too; by default what the whole configuration says.
	SharedDevice *bool `mapstructure:"shared_device" toml:"shared_device" yaml:"shared_device"`
	// Delay is how long after its window a slot of the device is sent at the soonest; by default what the whole
	// configuration says.
	Delay *Duration `mapstructure:"delay" toml:"delay" yaml:"delay"`
	// Formerly are earlier ids of this device: what waits under them is delivered as this device's.
	Formerly []string `mapstructure:"formerly" toml:"formerly" yaml:"formerly"`
	// Timestamps is whose clock its readings' times are of: auto or source; by default what the host's options say.
	Timestamps string `mapstructure:"timestamps" toml:"timestamps" yaml:"timestamps"`
	// ReadingStamp is which bound of its own period stamps a reading of this device; by default what Common says.
	ReadingStamp string `mapstructure:"reading_stamp" toml:"reading_stamp" yaml:"reading_stamp"`
	// Parameters says which metrics are this device's parameters.
	Parameters []ParameterConfig `mapstructure:"parameters" toml:"parameter" yaml:"parameters"`
}

// ParameterConfig maps a metric to a parameter.
type ParameterConfig struct {
	// Metric is the metric's name.
	Metric string `mapstructure:"metric" toml:"metric" yaml:"metric"`
	// Field is the field of a Telegraf metric. Without it, the metric's only field, or the one called `value`.
	Field string `mapstructure:"field" toml:"field" yaml:"field"`
	// Attributes must all be on the metric with these values.
	Attributes map[string]string `mapstructure:"attributes" toml:"tags" yaml:"attributes"`
	// Parameter is the key of annexe 3.1; by default the field or metric, where that is one.
	Parameter string `mapstructure:"parameter" toml:"parameter" yaml:"parameter"`
	// Formerly are earlier values of Parameter: what waits under them is delivered as this parameter's.
	Formerly []string `mapstructure:"formerly" toml:"formerly" yaml:"formerly"`
	// Unit is the key of annexe 3.2 or another spelling of it; by default the metric's own unit.
	Unit string `mapstructure:"unit" toml:"unit" yaml:"unit"`
	// Statistic is mean, time_weighted, last, min, max, sum or median; by default what fits the metric.
	Statistic string `mapstructure:"statistic" toml:"statistic" yaml:"statistic"`
	// Decimals is the number of decimals to round to, 0 to 10; by default 7 significant digits and at least 3 decimals stay.
	Decimals *int `mapstructure:"decimals" toml:"decimals" yaml:"decimals"`
	// Diagnostic puts the parameter among diag_params.
	Diagnostic bool `mapstructure:"diagnostic" toml:"diagnostic" yaml:"diagnostic"`
	// AllowUnlisted sends Parameter and Unit exactly as they are written, in the catalogue or not.
	AllowUnlisted bool `mapstructure:"allow_unlisted" toml:"allow_unlisted" yaml:"allow_unlisted"`
	Validity      `mapstructure:",squash" yaml:",inline"`
}

// TimestampsAuto takes times near to this machine's clock for its own, and TimestampsSource takes none so.
const (
	TimestampsAuto   = "auto"
	TimestampsSource = "source"
)

// Timestamps are the values of that key.
var Timestamps = []string{TimestampsAuto, TimestampsSource}

// maxDelay is the longest delay: with more, a slot would always wait.
const maxDelay = spec.SlotLength

// CheckDelay returns what is wrong with a delay, which stands beside shared_device; nil where a key is not set.
func CheckDelay(delay *Duration, shared *bool) error {
	switch {
	case delay == nil || delay.Duration == 0:
		return nil
	case delay.Duration < 0 || delay.Duration > maxDelay:
		return fmt.Errorf("%s is not from 0s to %s; nearest: %s", delay, Duration{Duration: maxDelay}, Duration{Duration: min(max(delay.Duration, 0), maxDelay)})
	case shared == nil || !*shared:
		return fmt.Errorf("%s is for a host that stands by for another sender; set shared_device = true beside it, or leave it out", delay)
	}
	return nil
}

// WrongTimestamps is the error of another value.
func WrongTimestamps(value string) error {
	return fmt.Errorf("%q is neither %q nor %q; nearest: %s", value, TimestampsAuto, TimestampsSource, spec.Nearest(value, Timestamps)[0])
}
