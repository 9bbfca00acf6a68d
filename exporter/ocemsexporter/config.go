package ocemsexporter

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
)

// Config is the exporter's configuration.
type Config struct {
	registry.Config  `mapstructure:",squash"`
	options.Slots    `mapstructure:",squash"`
	options.Delivery `mapstructure:",squash"`
	// HTTP configures the client: timeout, tls, proxy_url and so on. Its endpoint and compression must not be set.
	HTTP confighttp.ClientConfig `mapstructure:"http"`
	// Storage is the storage extension that holds the open windows and the outbox.
	Storage *component.ID `mapstructure:"storage"`
}

func createDefaultConfig() component.Config {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = 45 * time.Second
	return &Config{Config: registry.Config{Words: registry.Collector, Common: registry.DefaultCommon()}, Slots: options.DefaultSlots(), Delivery: options.DefaultDelivery(), HTTP: client}
}

// gone lists keys of earlier versions and what to do instead.
var gone = map[string]string{
	"max_series":    options.NoMaxSeries,
	"require_slots": "leave it out: the exporter averages readings itself and accepts finished slots of ocems_slot; `align: false` is for 15-minute values from other sources",
}

// unlike lists keys of http that only some versions of the collector have.
var unlike = []string{"disable_keep_alives", "idle_conn_timeout", "keepalive", "max_idle_conns", "max_idle_conns_per_host"}

// Unmarshal refuses keys of earlier versions, keys that not every version of the collector has, and durations without a unit.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	raw := conf.ToStringMap()
	faults := []error{options.Check(raw, c, gone)}
	client, _ := raw["http"].(map[string]any)
	for _, key := range unlike {
		if _, given := client[key]; given {
			faults = append(faults, fmt.Errorf("http.%s: not every version of the collector has the key; leave it out: the exporter keeps as many connections as max_concurrency", key))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// Validate returns all mistakes.
func (c *Config) Validate() error {
	var own []error
	if c.HTTP.Endpoint != "" {
		own = append(own, errors.New("http.endpoint: must not be set; set `endpoint`"))
	}
	if c.HTTP.Compression.IsCompressed() {
		own = append(own, errors.New("http.compression: must not be set; the server takes no compressed bodies"))
	}
	client := options.CheckClient("http.timeout", c.HTTP.Timeout, "http.proxy_url", c.HTTP.ProxyURL,
		map[string]string{"http.tls.min_version": c.HTTP.TLS.MinVersion, "http.tls.max_version": c.HTTP.TLS.MaxVersion}, []string{"1.2", "1.3"})
	_, err := registry.New(c.Config)
	return errors.Join(c.Slots.Check(), c.Delivery.Check(), errors.Join(own...), client, err)
}
