package ocemsslotprocessor

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/confmap/xconfmap"

	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

func TestConfig(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	all := createDefaultConfig().(*Config)
	store := component.MustNewIDWithName("file_storage", "slots")
	*all = Config{Stamp: "start", Grace: time.Minute, CalibrationGrace: 5 * time.Second, Settle: time.Second, MaxSkew: 2 * time.Minute,
		MinSamples: 3, MaxSeries: 50, CheckpointInterval: 20 * time.Second, Storage: &store, AuditFile: "/var/lib/ocems/slots.jsonl",
		Statistics: []StatisticConfig{{Metric: "peak", Statistic: "max"}}}
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for name, want := range map[string]struct {
		cfg *Config
		err string
	}{
		"":                {cfg: createDefaultConfig().(*Config)},
		"all":             {cfg: all},
		"stamp":           {err: `stamp = "begin": must be "end" or "start"; nearest is "end"`},
		"grace":           {err: `grace = 0s: must be more than 0s and at most 168h0m0s; nearest is 1ms`},
		"calibration":     {err: `calibration_grace = -1s: must be more than 0s and at most 168h0m0s; nearest is 1ms`},
		"settle":          {err: `settle = 200h0m0s: must be more than 0s and at most 168h0m0s; nearest is 168h0m0s`},
		"max_skew":        {err: `max_skew = -1m0s: must be more than 0s and at most 168h0m0s; nearest is 1ms`},
		"checkpoint":      {err: `checkpoint_interval = 1h0m0s: must be more than 0s and at most 15m0s; nearest is 15m0s`},
		"min_samples":     {err: `min_samples = 0: must be at least 1; nearest is 1`},
		"max_series":      {err: `max_series = -5: must be at least 1; nearest is 1`},
		"statistic":       {err: `statistics[0].statistic = "avrage": `},
		"double":          {err: `statistics[1].metric = "a": is listed twice; keep one`},
		"nameless":        {err: `statistics[0].metric = "": must be the name of a metric`},
		"unknown_setting": {err: `grase`},
	} {
		t.Run(name, func(t *testing.T) {
			sub, err := conf.Sub(component.NewIDWithName(metadata.Type, name).String())
			require.NoError(t, err)
			cfg := createDefaultConfig()
			if err = sub.Unmarshal(cfg); err == nil {
				err = xconfmap.Validate(cfg)
			}
			if want.err != "" {
				require.ErrorContains(t, err, want.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want.cfg, cfg)
		})
	}
}
