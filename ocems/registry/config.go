package registry

import (
	"fmt"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Config is the part of a configuration that names devices. TOML and YAML have the same keys, except the tables `device` and
// `parameter` in TOML, and `tags` for attributes in Telegraf. Keys of secrets have no TOML name, because Telegraf has its
// own type for secrets.
type Config struct {
	// PublicKey is the industry's public key, for devices without their own.
	PublicKey Secret `mapstructure:"public_key" toml:"-" yaml:"public_key"`
	// PublicKeyFile is the file that holds it instead.
	PublicKeyFile string `mapstructure:"public_key_file" toml:"public_key_file" yaml:"public_key_file"`
	// Devices are the devices in the configuration itself.
	Devices []DeviceConfig `mapstructure:"devices" toml:"device" yaml:"devices"`
	// DevicesFile is a CSV or YAML file with more devices. Reload reads it again.
	DevicesFile string `mapstructure:"devices_file" toml:"devices_file" yaml:"devices_file"`
	Common      `mapstructure:",squash" yaml:",inline"`
	// Words are the host's names of keys.
	Words Words `mapstructure:"-" toml:"-" yaml:"-"`
	// NamesOnly reads neither tokens nor keys. The devices can then name metrics, but not seal.
	NamesOnly bool `mapstructure:"-" toml:"-" yaml:"-"`
	// NoOutbox says that slots are passed on immediately, so that none can wait for a person.
	NoOutbox bool `mapstructure:"-" toml:"-" yaml:"-"`
}

// DeviceConfig is one registered device (spec 2.1). Relative file names are relative to the working directory.
type DeviceConfig struct {
	// StationID is the board's stationId.
	StationID string `mapstructure:"station_id" toml:"station_id" yaml:"station_id"`
	// DeviceID is the board's deviceId, also in the header X-Device-Id.
	DeviceID string `mapstructure:"device_id" toml:"device_id" yaml:"device_id"`
	// TokenID is the device's token (spec 2.3.1).
	TokenID Secret `mapstructure:"token_id" toml:"-" yaml:"token_id"`
	// TokenIDFile is the file that holds the token instead.
	TokenIDFile string `mapstructure:"token_id_file" toml:"token_id_file" yaml:"token_id_file"`
	// Latitude in degrees, -90 to 90; left out of the payload when not set.
	Latitude *Number `mapstructure:"latitude" toml:"latitude" yaml:"latitude"`
	// Longitude in degrees, -180 to 180; left out of the payload when not set.
	Longitude *Number `mapstructure:"longitude" toml:"longitude" yaml:"longitude"`
	// PublicKey is the key of this device's industry, if it differs from Config.PublicKey.
	PublicKey Secret `mapstructure:"public_key" toml:"-" yaml:"public_key"`
	// PublicKeyFile is the file that holds it instead.
	PublicKeyFile string `mapstructure:"public_key_file" toml:"public_key_file" yaml:"public_key_file"`
	// SharedDevice says that another sender reports the device too. The default is the key of the whole configuration.
	SharedDevice *bool `mapstructure:"shared_device" toml:"shared_device" yaml:"shared_device"`
	// Delay is the shortest time from the window's end until a slot of the device is sent. The default is the key of the whole
	// configuration.
	Delay *Duration `mapstructure:"delay" toml:"delay" yaml:"delay"`
	// Formerly are earlier ids of this device. Slots that wait under these ids are delivered under the current one.
	Formerly []string `mapstructure:"formerly" toml:"formerly" yaml:"formerly"`
	// Timestamps says which clock stamps its readings: auto or source. The default is in the host's options.
	Timestamps string `mapstructure:"timestamps" toml:"timestamps" yaml:"timestamps"`
	// ReadingStamp is the bound of its period that stamps a reading of this device. The default is in Common.
	ReadingStamp string `mapstructure:"reading_stamp" toml:"reading_stamp" yaml:"reading_stamp"`
	// Parameters map metrics to this device's parameters.
	Parameters []ParameterConfig `mapstructure:"parameters" toml:"parameter" yaml:"parameters"`
}

// ParameterConfig maps a metric to a parameter.
type ParameterConfig struct {
	// Metric is the metric's name.
	Metric string `mapstructure:"metric" toml:"metric" yaml:"metric"`
	// Field is the field of a Telegraf metric. The default is the only field, or the field `value`.
	Field string `mapstructure:"field" toml:"field" yaml:"field"`
	// Attributes are attributes with values that the metric must have.
	Attributes map[string]string `mapstructure:"attributes" toml:"tags" yaml:"attributes"`
	// Parameter is the key of annexe 3.1. The default is the name of the field or metric, if this is a key.
	Parameter string `mapstructure:"parameter" toml:"parameter" yaml:"parameter"`
	// Formerly are earlier values of Parameter. Slots that wait under these keys are delivered under the current one.
	Formerly []string `mapstructure:"formerly" toml:"formerly" yaml:"formerly"`
	// Unit is the key of annexe 3.2 or another spelling of it. The default is the metric's own unit.
	Unit string `mapstructure:"unit" toml:"unit" yaml:"unit"`
	// Statistic is mean, time_weighted, last, min, max, sum or median. The default depends on the parameter and the metric.
	Statistic string `mapstructure:"statistic" toml:"statistic" yaml:"statistic"`
	// Decimals is the number of decimals to round to, 0 to 10. By default the value keeps 7 significant digits and at least 3
	// decimals.
	Decimals *int `mapstructure:"decimals" toml:"decimals" yaml:"decimals"`
	// Diagnostic puts the parameter into diag_params.
	Diagnostic bool `mapstructure:"diagnostic" toml:"diagnostic" yaml:"diagnostic"`
	// AllowUnlisted sends Parameter and Unit exactly as written, even if they are not in the catalogue.
	AllowUnlisted bool `mapstructure:"allow_unlisted" toml:"allow_unlisted" yaml:"allow_unlisted"`
	Validity      `mapstructure:",squash" yaml:",inline"`
}

// With TimestampsAuto, times near this machine's clock are from this clock. With TimestampsSource, none are.
const (
	TimestampsAuto   = "auto"
	TimestampsSource = "source"
)

// Timestamps are the valid values of the key.
var Timestamps = []string{TimestampsAuto, TimestampsSource}

// maxDelay is the longest delay. With a longer one, a slot would always wait.
const maxDelay = spec.SlotLength

// CheckDelay checks a delay, which needs shared_device. A key that is not set is nil.
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

// WrongTimestamps returns the error for an invalid value.
func WrongTimestamps(value string) error {
	return fmt.Errorf("%q is neither %q nor %q; nearest: %s", value, TimestampsAuto, TimestampsSource, spec.Nearest(value, Timestamps)[0])
}
