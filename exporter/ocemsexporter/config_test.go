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
	lat, long, decimals := registry.Number(12.97), registry.Number(77.59), 2
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

// invalid has for each configuration of invalid.yaml the lines that an operator reads: the key, what stands there, and
// what should. The first of the nearest is enough where a line ends in dots.
var invalid = map[string][]string{
	"endpoint_without_scheme":       {`endpoint: "cems.cpcb.gov.in/v1.0/industry/data" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`},
	"endpoint_of_another_scheme":    {`endpoint: "ftp://cems.cpcb.gov.in/v1.0/industry/data" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`},
	"endpoint_without_host":         {`endpoint: "https:///v1.0/industry/data" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`},
	"endpoint_of_nothing":           {`endpoint: "" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`},
	"http.endpoint":                 {"http.endpoint: must not be set; set `endpoint`"},
	"http.compression":              {"http.compression: must not be set; the server takes no compressed bodies"},
	"http.proxy_url":                {"http.proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)"},
	"http.proxy_url_without_scheme": {"http.proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)"},
	"http.timeout":                  {"http.timeout: 0s must be more than 0"},
	"devices_file_interval":         {"devices_file_interval: 0s must be more than 0"},
	"coalesce":                      {"coalesce: -1s must not be negative"},
	"spread":                        {"spread: -1s must not be negative"},
	"initial_backoff":               {"initial_backoff: -1s must be more than 0"},
	"max_backoff":                   {"max_backoff: 4s must not be less than initial_backoff, 5s"},
	"hold_interval":                 {"hold_interval: 0s must be more than 0"},
	"max_concurrency":               {"max_concurrency: 0 must be at least 1"},
	"no_device":                     {"devices: none is given; give at least one, or a devices_file"},
	"no_key":                        {"public_key: missing; give public_key or public_key_file (devices without their own: 1, the first devices[0].public_key)"},
	"key_twice":                     {"public_key: both public_key and public_key_file are given; keep one"},
	"key_absent":                    {"public_key_file: open absent.pem: no such file or directory"},
	"key_as_its_file":               {"public_key_file: no such file or directory; this is not a file's name; if it is the public_key itself, give it as public_key"},
	"key_of_nothing":                {"public_key_file: /dev/null is empty"},
	"key_in_another_file":           {"public_key_file: metadata.yaml: reading the public key: neither PEM nor base64"},
	"private_key":                   {"public_key_file: ../../ocems/seal/testdata/industry_test_private.pem: reading the public key: this is a private key; it does not belong here"},
	"not_a_key":                     {"public_key: reading the public key: neither PEM nor base64"},
	"small_key":                     {"public_key: the public key of 1024 bits is too small: the signature needs 94 bytes and the key takes 62: ask the board for a key of at least 2048 bits"},
	"not_a_key_of_the_device":       {"devices[0].public_key: reading the public key: neither PEM nor base64"},
	"http.tls": {
		`http.tls.min_version: "1.0" is not a version from TLS 1.2 on, below which nothing is sent; nearest: 1.2`,
		`http.tls.max_version: "1.1" is not a version from TLS 1.2 on, below which nothing is sent; nearest: 1.2`,
	},
	"no_ids": {
		"devices[0].station_id: missing; give the station id that the board registered",
		"devices[0].device_id: missing; give the device id that the board registered",
		"devices[0].token_id: missing; give token_id or token_id_file",
	},
	"ids_of_two_lines": {
		`devices[0].station_id: "station\n1" is not one line of UTF-8; write it as the board does`,
		`devices[0].device_id: "dev\n1" is not one line of UTF-8; write it as the board does`,
	},
	"same_device":       {`devices[1].device_id: "dev_1" is also devices[0].device_id; give each device once`},
	"token_twice":       {"devices[0].token_id: both token_id and token_id_file are given; keep one"},
	"token_absent":      {"devices[0].token_id_file: open dev_1.token: no such file or directory"},
	"token_as_its_file": {"devices[0].token_id_file: no such file or directory; this is not a file's name; if it is the token_id itself, give it as token_id"},
	"token_of_nothing":  {"devices[0].token_id_file: /dev/null is empty"},
	"place": {
		"devices[0].latitude: 775.9 is outside -90 to 90 degrees",
		"devices[0].longitude: -181 is outside -180 to 180 degrees",
	},
	"no_metric": {
		"devices[0].parameters[0].metric: missing; give the name of the metric",
		"devices[0].parameters[0].parameter: missing; give a key of the catalogue",
	},
	"no_parameter":                 {`devices[0].parameters[0].parameter: missing, and the metric's name is none: unknown parameter "Cod": nearest "cod"...`},
	"parameter":                    {`devices[0].parameters[0].parameter: unknown parameter "so_2": nearest "so2"...`},
	"unit":                         {`devices[0].parameters[0].unit: unknown unit "mg/m4": nearest "mg/m³"...`},
	"decimals":                     {"devices[0].parameters[0].decimals: -1 is outside 0 to 10; nearest: 0"},
	"statistic":                    {"devices[0].parameters[0].statistic: \"mean\" does nothing here; set it in the ocems_slot processor's `statistics`"},
	"field":                        {`devices[0].parameters[0].field: "ph" does nothing here; a metric of the collector has none: leave it out`},
	"parameter_twice":              {`devices[0].parameters[1].parameter: "ph" is also parameters[0] of this device; map each parameter once`},
	"metric_twice":                 {`devices[1].parameters[0].metric: "ph" is also devices[0].parameters[0].metric, with the same field and attributes; add attributes that tell the devices apart, such as ocems.device.id`},
	"devices_file_absent":          {"devices_file: open absent.csv: no such file or directory"},
	"devices_file_of_another_kind": {"devices_file: README.md is neither .csv, .yaml nor .yml"},
	"devices.csv": {
		"devices_file: testdata/devices.csv:3: wrong number of fields",
		"testdata/devices.csv:5: longitude: not a number of degrees",
		"testdata/devices.csv:4: station_id: missing; give the station id that the board registered",
		"testdata/devices.csv:4: latitude: 95 is outside -90 to 90 degrees",
		`testdata/devices.csv:5: device_id: "dev_1" is also testdata/devices.csv:2: device_id; give each device once`,
	},
	"devices.yaml": {
		"testdata/devices.yaml:9: devices[0].parameters[0].statistic: \"max\" does nothing here; set it in the ocems_slot processor's `statistics`",
		`testdata/devices.yaml:10: devices[0].parameters[1].parameter: unknown parameter "pH": nearest "ph"...`,
	},
	"all_at_once": {
		`endpoint: "" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`,
		"spread: -1s must not be negative",
		"devices[0].station_id: missing; give the station id that the board registered",
	},
}

func TestInvalid(t *testing.T) {
	file, err := confmaptest.LoadConf("testdata/invalid.yaml")
	require.NoError(t, err)
	require.Len(t, file.ToStringMap(), len(invalid))
	for name, want := range invalid {
		t.Run(name, func(t *testing.T) {
			valid, err := confmaptest.LoadConf("testdata/config.yaml")
			require.NoError(t, err)
			conf, err := valid.Sub("ocems")
			require.NoError(t, err)
			change, err := file.Sub(name)
			require.NoError(t, err)
			require.NoError(t, conf.Merge(change))
			cfg := NewFactory().CreateDefaultConfig()
			require.NoError(t, conf.Unmarshal(cfg))
			err = xconfmap.Validate(cfg)
			require.Error(t, err)
			got := strings.Split(err.Error(), "\n")
			require.Len(t, got, len(want), err)
			for i := range want {
				if begin, open := strings.CutSuffix(want[i], "..."); open {
					assert.True(t, strings.HasPrefix(got[i], begin+", "), got[i])
				} else {
					assert.Equal(t, want[i], got[i])
				}
			}
			for _, secret := range []string{"token-of-dev", "hunter2"} {
				assert.NotContains(t, err.Error(), secret)
			}
		})
	}
}
