package ocemsslotprocessor

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/confmap/xconfmap"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func requireGolden(t *testing.T, path, got string) {
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func load(conf *confmap.Conf) (*Config, error) {
	cfg := createDefaultConfig().(*Config)
	if err := conf.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, xconfmap.Validate(cfg)
}

func TestConfig(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	file, err := confmaptest.LoadConf("testdata/config.yaml")
	require.NoError(t, err)
	one := createDefaultConfig().(*Config)
	one.Devices = []registry.DeviceConfig{{StationID: "station_1", DeviceID: "D1"}}
	seconds := func(n time.Duration) options.Duration { return options.Duration{Duration: n * time.Second} }
	storage, latitude, decimals := component.MustNewIDWithName("ocems_storage", "slots"), registry.Number(12.97), 2
	all := createDefaultConfig().(*Config)
	all.Slots = options.Slots{AuditFile: "/var/lib/ocems/slots.jsonl", AuditRotateMB: 200, ParameterMetrics: 1000, DevicesFileInterval: seconds(60), Stamp: "start", Grace: seconds(60),
		CalibrationGrace: seconds(5), Settle: seconds(1), MaxSkew: seconds(120), Timestamps: "source", MinSamples: 3}
	all.Storage, all.PublicKeyFile = &storage, "absent.pem"
	all.Devices = []registry.DeviceConfig{{StationID: "station_1", DeviceID: "D1", TokenIDFile: "absent.token", Latitude: &latitude,
		Parameters: []registry.ParameterConfig{{Metric: "effluent.ph", Attributes: map[string]string{"outlet": "main"}, Parameter: "ph", Unit: "pH",
			Statistic: "max", Decimals: &decimals, Diagnostic: true}}}}
	for name, want := range map[string]*Config{"ocems_slot": one, "ocems_slot/all": all} {
		t.Run(name, func(t *testing.T) {
			sub, err := file.Sub(name)
			require.NoError(t, err)
			cfg, err := load(sub)
			require.NoError(t, err)
			require.Equal(t, want, cfg)
		})
	}
}

// TestInvalid compares the errors of each configuration in invalid.yaml with testdata/invalid.txt.
func TestInvalid(t *testing.T) {
	file, err := confmaptest.LoadConf("testdata/invalid.yaml")
	require.NoError(t, err)
	got := ""
	for _, name := range slices.Sorted(maps.Keys(file.ToStringMap())) {
		valid, err := confmaptest.LoadConf("testdata/config.yaml")
		require.NoError(t, err)
		conf, err := valid.Sub("ocems_slot")
		require.NoError(t, err)
		change, err := file.Sub(name)
		require.NoError(t, err)
		require.NoError(t, conf.Merge(change))
		_, err = load(conf)
		require.Error(t, err, name)
		got += name + "\n    " + strings.ReplaceAll(err.Error(), "\n", "\n    ") + "\n"
	}
	requireGolden(t, "testdata/invalid.txt", got)
}
