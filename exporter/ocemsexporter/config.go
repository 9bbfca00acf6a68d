package ocemsexporter

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Config is the exporter's configuration.
type Config struct {
	registry.Config  `mapstructure:",squash"`
	options.Slots    `mapstructure:",squash"`
	options.Delivery `mapstructure:",squash"`
	// HTTP is the client: timeout, tls, proxy_url and so on. Its endpoint and compression must not be set.
	HTTP confighttp.ClientConfig `mapstructure:"http"`
	// Storage is the storage extension that holds the open windows and the outbox.
	Storage *component.ID `mapstructure:"storage"`
}

func createDefaultConfig() component.Config {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = 45 * time.Second
	return &Config{Config: registry.Config{Words: registry.Collector}, Slots: options.DefaultSlots(), Delivery: options.DefaultDelivery(), HTTP: client}
}

// gone are keys of earlier versions, with what to do instead.
var gone = map[string]string{
	"require_slots": "leave it out: the exporter aligns readings itself, and takes finished slots of ocems_slot as they are; `align: false` is for slots of another maker",
}

// Unmarshal refuses keys that are gone, and durations that are numbers without a unit.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := options.Check(conf.ToStringMap(), c, gone); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// Validate returns every mistake.
func (c *Config) Validate() error {
	faults := []error{c.Slots.Check(), c.Delivery.Check()}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.HTTP.Endpoint != "" {
		fault("http.endpoint: must not be set; set `endpoint`")
	}
	if c.HTTP.Compression.IsCompressed() {
		fault("http.compression: must not be set; the server takes no compressed bodies")
	}
	if p := c.HTTP.ProxyURL; p != "" && !options.IsURL(p, "http", "https", "socks5", "socks5h") {
		fault("http.proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)")
	}
	for _, v := range [][2]string{{"min_version", c.HTTP.TLS.MinVersion}, {"max_version", c.HTTP.TLS.MaxVersion}} {
		if known := []string{"1.2", "1.3"}; v[1] != "" && !slices.Contains(known, v[1]) {
			fault("http.tls.%s: %q is not a version from TLS 1.2 on, below which nothing is sent; nearest: %s", v[0], v[1], spec.Nearest(v[1], known)[0])
		}
	}
	if c.HTTP.Timeout <= 0 {
		fault("http.timeout: %s must be more than 0; nearest: 45s", c.HTTP.Timeout)
	}
	_, err := registry.New(c.Config)
	return errors.Join(append(faults, err)...)
}
