package ocemsexporter

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/confmap/xconfmap"

	"github.com/ocems-io/ocems/ocems/registry"
)

const publicKeyFile = "../../ocems/seal/testdata/industry_test_public.pem"

func testConfig(devices ...registry.DeviceConfig) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.PublicKeyFile = publicKeyFile
	cfg.Devices = devices
	if devices == nil {
		cfg.Devices = []registry.DeviceConfig{{StationID: "station_1", DeviceID: "dev_1", TokenID: "token-of-dev-1"}}
	}
	return cfg
}

func TestLoadConfig(t *testing.T) {
	file, err := confmaptest.LoadConf("testdata/config.yaml")
	require.NoError(t, err)
	storage := component.MustNewIDWithName("file_storage", "outbox")
	lat, long, decimals := 12.97, 77.59, 2
	all := testConfig(registry.DeviceConfig{StationID: "station_1", DeviceID: "dev_1", TokenID: "token-of-dev-1", Latitude: &lat, Longitude: &long,
		Parameters: []registry.ParameterConfig{{Metric: "effluent.ph", Attributes: map[string]string{"outlet": "main"},
			Parameter: "ph", Unit: "pH", Decimals: &decimals, Diagnostic: true}}})
	all.Endpoint = "https://staging.example.org/v1.0/industry/data"
	all.HTTP.Timeout = time.Minute
	all.DevicesFileInterval, all.Storage, all.AuditFile = time.Minute, &storage, "/var/lib/ocems/audit.jsonl"
	all.Coalesce, all.Spread, all.InitialBackoff, all.MaxBackoff = 0, 20*time.Second, time.Second, time.Minute
	all.HoldInterval, all.MaxConcurrency, all.DryRun, all.RequireSlots = 5*time.Minute, 8, true, false

	for name, want := range map[string]*Config{"ocems": testConfig(), "ocems/all": all} {
		t.Run(name, func(t *testing.T) {
			sub, err := file.Sub(name)
			require.NoError(t, err)
			cfg := NewFactory().CreateDefaultConfig()
			require.NoError(t, sub.Unmarshal(cfg))
			require.NoError(t, xconfmap.Validate(cfg))
			assert.Equal(t, want, cfg)
		})
	}
	require.NoError(t, componenttest.CheckConfigStruct(NewFactory().CreateDefaultConfig()))
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no scheme":        {func(c *Config) { c.Endpoint = "cems.cpcb.gov.in" }, `endpoint: "cems.cpcb.gov.in" is not a URL`},
		"no host":          {func(c *Config) { c.Endpoint = "https:///v1.0" }, "endpoint:"},
		"ftp":              {func(c *Config) { c.Endpoint = "ftp://host/" }, "endpoint:"},
		"http.endpoint":    {func(c *Config) { c.HTTP.Endpoint = "http://x" }, "http.endpoint: must not be set; set `endpoint`"},
		"http.compression": {func(c *Config) { c.HTTP.Compression = "gzip" }, "http.compression: must not be set"},
		"http.timeout":     {func(c *Config) { c.HTTP.Timeout = 0 }, "http.timeout: 0s must be more than 0"},
		"interval":         {func(c *Config) { c.DevicesFileInterval = 0 }, "devices_file_interval:"},
		"coalesce":         {func(c *Config) { c.Coalesce = -1 }, "coalesce: -1ns must not be negative"},
		"spread":           {func(c *Config) { c.Spread = -1 }, "spread:"},
		"initial_backoff":  {func(c *Config) { c.InitialBackoff = -1 }, "initial_backoff:"},
		"max_backoff":      {func(c *Config) { c.MaxBackoff = 1 }, "max_backoff:"},
		"hold_interval":    {func(c *Config) { c.HoldInterval = 0 }, "hold_interval:"},
		"max_concurrency":  {func(c *Config) { c.MaxConcurrency = 0 }, "max_concurrency: 0 must be at least 1"},
		"no device":        {func(c *Config) { c.Devices = nil }, "devices: none is given"},
		"no key":           {func(c *Config) { c.PublicKeyFile = "" }, "public_key: missing"},
		"statistic": {func(c *Config) {
			c.Devices[0].Parameters = []registry.ParameterConfig{{Metric: "ph", Statistic: "mean"}}
		}, "devices[0].parameters[0].statistic: set it in the ocems_slot processor's `statistics`"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			c.change(cfg)
			assert.ErrorContains(t, cfg.Validate(), c.want)
		})
	}
	cfg := testConfig()
	cfg.Endpoint, cfg.Spread, cfg.Devices[0].StationID = "", -1, ""
	assert.Equal(t, 3, strings.Count(cfg.Validate().Error(), "\n")+1, "every mistake at once")
	assert.NotContains(t, cfg.Validate().Error(), "token-of-dev-1")
}
