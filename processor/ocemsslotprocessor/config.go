package ocemsslotprocessor

import (
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
)

// Config is the processor's configuration. Devices have the same keys as in the exporter. Tokens and public keys are not read.
type Config struct {
	registry.Config `mapstructure:",squash"`
	options.Slots   `mapstructure:",squash"`
	// Storage is the storage extension that keeps the open windows and the slots that are not passed on yet.
	Storage *component.ID `mapstructure:"storage"`
}

func createDefaultConfig() component.Config {
	return &Config{Config: registry.Config{Words: registry.Collector, Common: registry.DefaultCommon(), NamesOnly: true, NoOutbox: true}, Slots: options.DefaultSlots()}
}

// gone lists keys of earlier versions and what to do instead.
var gone = map[string]string{
	"max_series":          options.NoMaxSeries,
	"statistics":          "set `statistic` in the parameters of a device",
	"checkpoint_interval": "leave it out: every reading is saved before it is acknowledged",
}

// Unmarshal refuses keys of earlier versions and durations without a unit.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := options.Check(conf.ToStringMap(), c, gone); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// Validate returns all mistakes.
func (c *Config) Validate() error {
	_, err := registry.New(c.Config)
	return errors.Join(c.Slots.Check(), err)
}
