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
)

// uncommented turns the sample's options on. Prose is marked by two signs.
func uncommented(text string) string {
	text = regexp.MustCompile(`(?m)^( *)# ([a-z\[])`).ReplaceAllString(text, "$1$2")
	return regexp.MustCompile(`"/path/to/.*"`).ReplaceAllString(text, `""`) // Telegraf reads some when it loads
}

// options are the keys of a struct as TOML has them, embedded ones too.
func options(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := strings.Split(f.Tag.Get("toml"), ",")[0]
		switch {
		case f.Anonymous:
			keys = append(keys, options(f.Type)...)
		case f.IsExported() && key != "" && key != "-":
			keys = append(keys, key)
		}
	}
	return keys
}

// unfit are options of Telegraf's HTTP client for logging in, which this server does not have, and two that https decides.
var unfit = []string{"client_id", "client_secret", "token_url", "audience", "scopes", "cookie_auth_url", "cookie_auth_method",
	"cookie_auth_headers", "cookie_auth_username", "cookie_auth_password", "cookie_auth_body", "cookie_auth_renewal", "tls_enable",
	"tls_renegotiation_method"}

func TestSample(t *testing.T) {
	for name, text := range map[string]string{"as it is": sampleConfig, "with all options": uncommented(sampleConfig)} {
		c := config.NewConfig()
		require.NoError(t, c.LoadConfigData([]byte(text), "sample.conf"), name)
		require.Empty(t, c.UnusedFields, name)
		require.Len(t, c.Outputs, 1)
	}

	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^ *(?:# )?([a-z_0-9]+) = `).FindAllStringSubmatch(sampleConfig, -1) {
		documented = append(documented, m[1])
	}
	all := slices.Concat(options(reflect.TypeFor[OCEMS]()), options(reflect.TypeFor[Device]()), options(reflect.TypeFor[Parameter]()))
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
		case "endpoint", "devices_file_interval", "align", "coalesce", "spread", "initial_backoff", "max_backoff", "hold_interval",
			"max_concurrency", "timeout", "bools_as_numbers", "strings_as_numbers", "dry_run":
			assert.Equal(t, reflect.ValueOf(all).Elem().FieldByIndex(f.Index).Interface(), reflect.ValueOf(bare).Elem().FieldByIndex(f.Index).Interface(), key)
		}
	}
}

func TestReadmeHoldsTheSample(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	assert.Contains(t, string(text), "```toml @sample.conf\n"+sampleConfig+"```\n")
}

func TestInitNamesTheKey(t *testing.T) {
	const head = `
[[outputs.ocems]]
  public_key_file = "../../../ocems/seal/testdata/industry_test_public.pem"
`
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"endpoint", head + `endpoint = "cems.cpcb.gov.in"` + oneDevice, []string{`endpoint: "cems.cpcb.gov.in" is not a URL`}},
		{"timeout", head + `timeout = "0s"` + oneDevice, []string{`timeout: 0s must be more than 0`}},
		{"old TLS", head + `tls_min_version = "TLS11"` + oneDevice, []string{`tls_min_version: "TLS11" is not a version from TLS 1.2 on, below which nothing is sent; nearest: TLS12`}},
		{"coalesce", head + `coalesce = "-1s"` + oneDevice, []string{`coalesce: -1s must not be negative`}},
		{"backoff", head + `max_backoff = "1s"` + oneDevice, []string{`max_backoff: 1s must not be less than initial_backoff, 5s`}},
		{"concurrency", head + `max_concurrency = 0` + oneDevice, []string{`max_concurrency: 0 must be at least 1`}},
		{"stamp", head + `stamp = "ende"` + oneDevice, []string{`stamp = "ende"`, `nearest is "end"`}},
		{"grace", head + `grace = "-1s"` + oneDevice, []string{`grace = -1s: must be from 0`}},
		{"min_samples", head + `min_samples = -1` + oneDevice, []string{`min_samples = -1: must be at least 1`}},
		{"no devices", head, []string{`device: none is given; give at least one, or a devices_file`}},
		{"no token", head + "[[outputs.ocems.device]]\nstation_id = \"s\"\ndevice_id = \"d\"\n", []string{`device[0].token_id`}},
		{"no key", "[[outputs.ocems]]\n" + oneDevice, []string{`device[0]`, `public_key`}},
		{"key file", "[[outputs.ocems]]\npublic_key_file = \"/nowhere.pem\"\n" + oneDevice, []string{`public_key_file`, `/nowhere.pem`}},
		{"unit", head + oneDevice + `
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "bod"
    unit = "mg/LL"`, []string{`device[0].parameter[1].unit`, `"mg/LL"`, `"mg/L"`}},
		{"parameter", head + oneDevice + `
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "x"
    parameter = "codd"
    unit = "mg/L"`, []string{`device[0].parameter[1].parameter`, `"codd"`, `"cod"`}},
		{"statistic", head + oneDevice + `    statistic = "meen"`, []string{`device[0].parameter[0].statistic`, `"meen"`, `mean`}},
		{"decimals", head + oneDevice + `    decimals = 11`, []string{`device[0].parameter[0].decimals`, `11`}},
		{"same twice", head + oneDevice + oneDevice, []string{`device[1].device_id`, `dev_1`}},
		{"latitude", head + `
[[outputs.ocems.device]]
  station_id = "s"
  device_id = "d"
  token_id = "secret-token"
  latitude = 91.0`, []string{`device[0].latitude`, `91`}},
		{"all at once", head + "endpoint = \"x\"\nstamp = \"x\"\ntimeout = \"-1s\"" + oneDevice, []string{"endpoint: ", "stamp = ", "timeout: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _ := load(t, tt.text)
			err := o.Init()
			require.Error(t, err)
			t.Log(err)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "devices[")
			assert.NotContains(t, err.Error(), "parameters[")
			assert.NotContains(t, err.Error(), token)
		})
	}
}

// A mistake in a devices_file is named in the words of that file.
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
