package ocems

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/influxdata/telegraf/config"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/registry"
)

// uncommented enables the sample's options, which have one # before them. Prose has two.
func uncommented(text string) string {
	text = regexp.MustCompile(`(?m)^( *)# ([a-z\[])`).ReplaceAllString(text, "$1$2")
	return regexp.MustCompile(`"/path/to/.*"`).ReplaceAllString(text, `""`) // Telegraf reads some of these files when it loads
}

// keysOf returns the TOML keys of a struct and of its embedded structs.
func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := strings.Split(f.Tag.Get("toml"), ",")[0]
		switch {
		case f.Anonymous:
			keys = append(keys, keysOf(f.Type)...)
		case f.IsExported() && key != "" && key != "-":
			keys = append(keys, key)
		}
	}
	return keys
}

// unfit lists keys that the sample must not show: options of Telegraf's HTTP client for a login, which this server does not
// have, two TLS options that do not apply, and a key that no longer exists.
var unfit = []string{"client_id", "client_secret", "token_url", "audience", "scopes", "cookie_auth_url", "cookie_auth_method",
	"cookie_auth_headers", "cookie_auth_username", "cookie_auth_password", "cookie_auth_body", "cookie_auth_renewal", "tls_enable",
	"tls_renegotiation_method", "max_series"}

func TestSample(t *testing.T) {
	for name, text := range map[string]string{"as it is": sampleConfig, "with all options": uncommented(sampleConfig)} {
		c := config.NewConfig()
		require.NoError(t, c.LoadConfigData([]byte(text), "sample.conf"), name)
		require.Empty(t, c.UnusedFields, name)
		require.Len(t, c.Outputs, 1)
	}

	// Telegraf's docs/developers/SAMPLE_CONFIG.md: indented by 2, "## " for text, "# " for a default, a blank line between options.
	line := regexp.MustCompile(`^((  )+(## \S.*|# ( *)[a-z_0-9]+ = .+|# \[[a-z_.]+\]|[a-z_0-9]+ = .+|\[\[[a-z_.]+\]\])|)$`)
	for i, l := range strings.Split(sampleConfig, "\n")[2:] {
		assert.Regexp(t, line, l, "line %d", i+3)
	}
	for _, l := range regexp.MustCompile(`(?m)^ *(?:# )?[a-z_0-9]+ = .*\n *## .*`).FindAllString(sampleConfig, -1) {
		assert.Contains(t, l, "tls_", "no blank line before the text") // Telegraf's own TLS block has none
	}

	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^ *(?:# )?([a-z_0-9]+) = `).FindAllStringSubmatch(sampleConfig, -1) {
		documented = append(documented, m[1])
	}
	all := slices.Concat(keysOf(reflect.TypeFor[OCEMS]()), keysOf(reflect.TypeFor[Device]()), keysOf(reflect.TypeFor[registry.ParameterConfig]()))
	var missing []string
	for _, key := range all {
		switch {
		case slices.Contains(documented, key), key == "device", key == "parameter", key == "tags": // the last three are tables
		case slices.Contains(unfit, key):
		default:
			missing = append(missing, key)
		}
	}
	assert.Empty(t, missing)
	for _, key := range documented {
		assert.True(t, slices.Contains(all, key) || key == "line", key)
	}
}

func TestDefaultsAreThoseOfTheSample(t *testing.T) {
	bare, _ := load(t, "[[outputs.ocems]]\n")
	all, _ := load(t, uncommented(sampleConfig))
	for _, f := range reflect.VisibleFields(reflect.TypeFor[OCEMS]()) {
		switch key := f.Tag.Get("toml"); key {
		case "", "-", "device", "state_directory", "public_key", "public_key_file", "cookie_auth_headers": // no default, or one of the host
		case "tls_server_name", "tls_min_version", "tls_cipher_suites": // the sample shows an example value
		default:
			assert.Equal(t, reflect.ValueOf(all).Elem().FieldByIndex(f.Index).Interface(), reflect.ValueOf(bare).Elem().FieldByIndex(f.Index).Interface(), key)
		}
	}
}

func TestReadmeHoldsTheSample(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	assert.Contains(t, string(text), "```toml @sample.conf\n"+sampleConfig+"```\n")
}

const head = `
[[outputs.ocems]]
  public_key_file = "../../../ocems/seal/testdata/industry_test_public.pem"
`

func parameter(text string) string {
	return head + oneDevice + "  [[outputs.ocems.device.parameter]]\n" + text
}

// Each error names the key as Telegraf writes it, and the nearest valid value.
func TestWrongConfigurations(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"endpoint", head + `endpoint = "cems.cpcb.gov.in"` + oneDevice, `endpoint: "cems.cpcb.gov.in" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in`},
		{"endpoint with a password", head + `endpoint = "ftp://plant:secret-password@cems.cpcb.gov.in/x"` + oneDevice, `endpoint: "ftp://plant:xxxxx@cems.cpcb.gov.in/x" is not a URL with http or https and a host; nearest: https://plant:xxxxx@cems.cpcb.gov.in/x`},
		{"endpoint that is no URL", head + `endpoint = "https://plant:secret-password@ce ms/%zz"` + oneDevice, `endpoint: "xxxxx@ce ms/%zz" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in/v1.0/industry/data`},
		{"proxy", head + `http_proxy_url = "plant:secret-password@proxy:3128"` + oneDevice, `http_proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)`},
		{"timeout", head + `timeout = "0s"` + oneDevice, `timeout: 0s must be more than 0; nearest: 45s`},
		{"old TLS", head + `tls_min_version = "TLS11"` + oneDevice, `tls_min_version: "TLS11" is not TLS 1.2 or newer; nearest: TLS12`},
		{"coalesce", head + `coalesce = "-1s"` + oneDevice, `coalesce: -1s is not from 0s to 168h; nearest: 0s`},
		{"spread", head + `spread = "16m"` + oneDevice, `spread: 16m is not from 0s to 15m; nearest: 15m`},
		{"initial backoff", head + `initial_backoff = "0s"` + oneDevice, `initial_backoff: 0s is not from 1ms to 168h; nearest: 1ms`},
		{"max backoff", head + `max_backoff = "1s"` + oneDevice, `max_backoff: 1s is less than initial_backoff; nearest: 5s`},
		{"hold interval", head + `hold_interval = "200h"` + oneDevice, `hold_interval: 200h is not from 1ms to 168h; nearest: 168h`},
		{"concurrency", head + `max_concurrency = 0` + oneDevice, `max_concurrency: 0 is less than 1; nearest: 1`},
		{"stamp", head + `stamp = "ende"` + oneDevice, `stamp: "ende" is neither "end" nor "start"; nearest: end`},
		{"grace", head + `grace = "-1s"` + oneDevice, `grace: -1s is not from 1ms to 168h; nearest: 1ms`},
		{"calibration grace", head + `calibration_grace = "0s"` + oneDevice, `calibration_grace: 0s is not from 1ms to 168h; nearest: 1ms`},
		{"settle", head + `settle = "-1s"` + oneDevice, `settle: -1s is not from 0s to 168h; nearest: 0s`},
		{"max skew", head + `max_skew = "200h"` + oneDevice, `max_skew: 200h is not from 0s to 168h; nearest: 168h`},
		{"audit rotate", head + `audit_rotate_mb = 0` + oneDevice, `audit_rotate_mb: 0 is less than 1; nearest: 1`},
		{"parameter metrics", head + `parameter_metrics = -1` + oneDevice, `parameter_metrics: -1 is less than 0; nearest: 0`},
		{"min samples", head + `min_samples = -1` + oneDevice, `min_samples: -1 is less than 1; nearest: 1`},
		{"max series", head + `max_series = 100000` + oneDevice, `max_series: the key is gone; leave it out: the configured devices and parameters limit the number of series`},
		{"interval", head + `devices_file_interval = "0s"` + oneDevice, `devices_file_interval: 0s is not from 1ms to 24h; nearest: 1ms`},
		{"no devices", head, `device: none is given; give at least one, or a devices_file`},
		{"no station", head + "[[outputs.ocems.device]]\ndevice_id = \"d\"\ntoken_id = \"t\"\n", `device[0].station_id: missing; give the station id that the board registered`},
		{"no token", head + "[[outputs.ocems.device]]\nstation_id = \"s\"\ndevice_id = \"d\"\n", `device[0].token_id: missing; give token_id or token_id_file`},
		{"no key", "[[outputs.ocems]]\n" + oneDevice, `public_key: missing; give public_key or public_key_file (devices without their own: 1, the first device[0].public_key)`},
		{"key file", "[[outputs.ocems]]\npublic_key_file = \"/nowhere.pem\"\n" + oneDevice, `public_key_file: open /nowhere.pem: no such file or directory`},
		{"same device twice", head + oneDevice + strings.Split(oneDevice, "  [[")[0], `device[1].device_id: "dev_1" is also device[0].device_id; give each device once`},
		{"latitude", head + "[[outputs.ocems.device]]\nstation_id = \"s\"\ndevice_id = \"d\"\ntoken_id = \"secret-token\"\nlatitude = 91.0\n", `device[0].latitude: 91 is outside -90 to 90 degrees; nearest: 90`},
		{"unit", parameter(`metric = "modbus"
field = "bod"
unit = "mg/LL"`), `device[0].parameter[1].unit: unknown unit "mg/LL": nearest "mg/L"`},
		{"parameter", parameter(`metric = "modbus"
field = "x"
parameter = "codd"
unit = "mg/L"`), `device[0].parameter[1].parameter: unknown parameter "codd": nearest "cod", "bod", "co"`},
		{"no parameter", parameter(`metric = "modbus"
field = "register_4"`), `device[0].parameter[1].parameter: missing, and the field's name is not a parameter key: unknown parameter "register_4": nearest "pressure", "secondary_temperature", "temp_test"`},
		{"no metric", parameter(`field = "bod"`), `device[0].parameter[1].metric: missing; give the name of the metric`},
		{"parameter twice", parameter(`metric = "modbus"
field = "x"
parameter = "cod"`), `device[0].parameter[1].parameter: "cod" is also parameter[0] of this device; map each parameter once`},
		{"statistic", head + oneDevice + `    statistic = "meen"`, `device[0].parameter[0].statistic: unknown statistic "meen": nearest "mean", "min", "max"`},
		{"decimals", head + oneDevice + `    decimals = 11`, `device[0].parameter[0].decimals: 11 is outside 0 to 10; nearest: 10`},
		{"all at once", head + "endpoint = \"x\"\nstamp = \"x\"\ntimeout = \"-1s\"" + oneDevice, "stamp: \"x\" is neither \"end\" nor \"start\"; nearest: end\nendpoint: \"x\" is not a URL with http or https and a host; nearest: https://x\ntimeout: -1s must be more than 0; nearest: 45s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _ := load(t, tt.text)
			err := o.Init()
			require.EqualError(t, err, tt.want)
			for _, secret := range []string{token, "secret-token", "secret-password"} {
				assert.NotContains(t, err.Error(), secret)
			}
		})
	}
}

// Telegraf refuses a configuration that it cannot decode when it loads it.
func TestUnreadableConfigurations(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a duration without a unit", `grace = 30`, `(ocems.OCEMS.Grace) 30 has no unit; nearest: "30s"`},
		{"a duration in quotes without a unit", `grace = "30"`, `(ocems.OCEMS.Grace) 30 has no unit; nearest: "30s"`},
		{"not a duration", `max_backoff = "soon"`, `(ocems.OCEMS.MaxBackoff) "soon" is not a duration such as 30s or 5m`},
		{"an unknown key", `gracee = "30s"`, `configuration specified the fields ["gracee"], but they were not used`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := config.NewConfig().LoadConfigData([]byte(head+tt.text+oneDevice), "test.conf")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// An error in a devices_file names the key as that file writes it.
func TestInitNamesTheKeyOfAFile(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"devices.yaml": {`devices:
  - station_id: station_1
    device_id: dev_1
    token_id: secret-token
    parameters:
      - {metric: modbus, field: bod, unit: mg/LL}
`, `devices.yaml:6: devices[0].parameters[0].unit: `},
		"devices.csv": {"station_id,device_id,token_id,latitude\nstation_1,dev_1,secret-token,91\n", `devices.csv:2: latitude: `},
	} {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
		o, _ := load(t, "[[outputs.ocems]]\npublic_key_file = \"../../../ocems/seal/testdata/industry_test_public.pem\"\n"+
			"devices_file = '"+file+"'\n")
		err := o.Init()
		require.ErrorContains(t, err, tt.want)
		assert.NotContains(t, err.Error(), "secret-token")
	}
}
