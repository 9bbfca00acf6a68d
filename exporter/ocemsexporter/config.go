package ocemsexporter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Config is the exporter's configuration.
type Config struct {
	// Endpoint is the URL that takes the POST (spec 2.1).
	Endpoint string `mapstructure:"endpoint"`
	// HTTP is the client: timeout, tls, proxy_url and so on. Its endpoint and compression must not be set.
	HTTP confighttp.ClientConfig `mapstructure:"http"`
	// PublicKey is the industry's public key, for devices that give none of their own.
	PublicKey registry.Secret `mapstructure:"public_key"`
	// PublicKeyFile is the file that holds it instead.
	PublicKeyFile string `mapstructure:"public_key_file"`
	// Devices are the registered devices.
	Devices []registry.DeviceConfig `mapstructure:"devices"`
	// DevicesFile is a CSV or YAML file of further devices, read again when it changes.
	DevicesFile string `mapstructure:"devices_file"`
	// DevicesFileInterval is how often that file is looked at.
	DevicesFileInterval time.Duration `mapstructure:"devices_file_interval"`
	// Storage is the storage extension that holds the outbox.
	Storage *component.ID `mapstructure:"storage"`
	// AuditFile is the file of final outcomes.
	AuditFile string `mapstructure:"audit_file"`
	// Coalesce is how long a slot waits for its other parameters.
	Coalesce time.Duration `mapstructure:"coalesce"`
	// Spread is over how long the devices' requests are spread.
	Spread time.Duration `mapstructure:"spread"`
	// InitialBackoff is the first wait after a failed attempt, doubled each time.
	InitialBackoff time.Duration `mapstructure:"initial_backoff"`
	// MaxBackoff is the longest such wait.
	MaxBackoff time.Duration `mapstructure:"max_backoff"`
	// HoldInterval is between attempts of a device whose registration is refused.
	HoldInterval time.Duration `mapstructure:"hold_interval"`
	// MaxConcurrency is how many requests are in flight at most.
	MaxConcurrency int `mapstructure:"max_concurrency"`
	// DryRun logs the JSON and sends nothing.
	DryRun bool `mapstructure:"dry_run"`
	// RequireSlots refuses points that the ocems_slot processor has not made.
	RequireSlots bool `mapstructure:"require_slots"`
}

const defaultEndpoint = "https://cems.cpcb.gov.in/v1.0/industry/data"

func createDefaultConfig() component.Config {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = 45 * time.Second
	return &Config{
		Endpoint:            defaultEndpoint,
		HTTP:                client,
		DevicesFileInterval: 10 * time.Second,
		Coalesce:            5 * time.Second,
		Spread:              10 * time.Second,
		InitialBackoff:      5 * time.Second,
		MaxBackoff:          5 * time.Minute,
		HoldInterval:        10 * time.Minute,
		MaxConcurrency:      32,
		RequireSlots:        true,
	}
}

func (c *Config) registry() registry.Config {
	return registry.Config{PublicKey: c.PublicKey, PublicKeyFile: c.PublicKeyFile, Devices: c.Devices, DevicesFile: c.DevicesFile,
		Unused: map[string]string{
			"field":     "a metric of the collector has none: leave it out",
			"statistic": "set it in the ocems_slot processor's `statistics`",
		}}
}

// Validate returns every mistake.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if !isURL(c.Endpoint, "http", "https") {
		fault("endpoint: %q is not a URL with http or https and a host; nearest: %s", c.Endpoint, nearestURL(c.Endpoint))
	}
	if c.HTTP.Endpoint != "" {
		fault("http.endpoint: must not be set; set `endpoint`")
	}
	if c.HTTP.Compression.IsCompressed() {
		fault("http.compression: must not be set; the server takes no compressed bodies")
	}
	if p := c.HTTP.ProxyURL; p != "" && !isURL(p, "http", "https", "socks5", "socks5h") {
		fault("http.proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)")
	}
	for _, v := range [][2]string{{"min_version", c.HTTP.TLS.MinVersion}, {"max_version", c.HTTP.TLS.MaxVersion}} {
		if known := []string{"1.2", "1.3"}; v[1] != "" && !slices.Contains(known, v[1]) {
			fault("http.tls.%s: %q is not a version from TLS 1.2 on, below which nothing is sent; nearest: %s", v[0], v[1], spec.Nearest(v[1], known)[0])
		}
	}
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			fault("%s: %s must be more than 0", key, d)
		}
	}
	positive("http.timeout", c.HTTP.Timeout)
	positive("devices_file_interval", c.DevicesFileInterval)
	positive("initial_backoff", c.InitialBackoff)
	positive("hold_interval", c.HoldInterval)
	notNegative := func(key string, d time.Duration) {
		if d < 0 {
			fault("%s: %s must not be negative", key, d)
		}
	}
	notNegative("coalesce", c.Coalesce)
	notNegative("spread", c.Spread)
	if c.MaxBackoff < c.InitialBackoff {
		fault("max_backoff: %s must not be less than initial_backoff, %s", c.MaxBackoff, c.InitialBackoff)
	}
	if c.MaxConcurrency < 1 {
		fault("max_concurrency: %d must be at least 1", c.MaxConcurrency)
	}
	if _, err := registry.New(c.registry()); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && slices.Contains(schemes, u.Scheme)
}

// nearestURL keeps of a wrong endpoint what follows the scheme, where that has a host.
func nearestURL(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	if s = "https://" + rest; isURL(s, "https") {
		return s
	}
	return defaultEndpoint
}
