package ocemsexporter

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/confmap/xconfmap"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
)

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
	storage := component.MustNewIDWithName("ocems_storage", "outbox")
	lat, long, decimals := registry.Number(12.97), registry.Number(77.59), 2
	all := testConfig(registry.DeviceConfig{StationID: "station_1", DeviceID: "dev_1", TokenID: "token-of-dev-1", Latitude: &lat, Longitude: &long,
		Parameters: []registry.ParameterConfig{{Metric: "effluent.ph", Attributes: map[string]string{"outlet": "main"},
			Parameter: "ph", Unit: "pH", Statistic: "max", Decimals: &decimals, Diagnostic: true}}})
	all.Endpoint = "https://staging.example.org/v1.0/industry/data"
	all.HTTP.Timeout = time.Minute
	minutes, seconds := func(n time.Duration) options.Duration { return options.Duration{Duration: n * time.Minute} },
		func(n time.Duration) options.Duration { return options.Duration{Duration: n * time.Second} }
	all.DevicesFileInterval, all.Storage, all.AuditFile = minutes(1), &storage, "/var/lib/ocems/audit.jsonl"
	all.AuditRotateMB, all.AuditRotateMonthly = 200, false
	all.Align, all.Stamp, all.MinSamples = false, "start", 3
	all.Grace, all.CalibrationGrace, all.Settle, all.MaxSkew = minutes(1), seconds(5), seconds(1), minutes(2)
	all.Coalesce, all.Spread, all.InitialBackoff, all.MaxBackoff = seconds(0), seconds(20), seconds(1), minutes(1)
	all.HoldInterval, all.MaxConcurrency, all.DryRun = minutes(5), 8, true

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

// TestInvalid compares the errors of each configuration in invalid.yaml with testdata/invalid.txt.
func TestInvalid(t *testing.T) {
	file, err := confmaptest.LoadConf("testdata/invalid.yaml")
	require.NoError(t, err)
	got := ""
	for _, name := range slices.Sorted(maps.Keys(file.ToStringMap())) {
		valid, err := confmaptest.LoadConf("testdata/config.yaml")
		require.NoError(t, err)
		conf, err := valid.Sub("ocems")
		require.NoError(t, err)
		change, err := file.Sub(name)
		require.NoError(t, err)
		require.NoError(t, conf.Merge(change))
		cfg := NewFactory().CreateDefaultConfig()
		if err = conf.Unmarshal(cfg); err == nil {
			err = xconfmap.Validate(cfg)
		}
		require.Error(t, err, name)
		for _, secret := range []string{"token-of-dev", "hunter2"} {
			assert.NotContains(t, err.Error(), secret)
		}
		got += name + "\n    " + strings.ReplaceAll(err.Error(), "\n", "\n    ") + "\n"
	}
	requireGolden(t, "testdata/invalid.txt", got)
}
