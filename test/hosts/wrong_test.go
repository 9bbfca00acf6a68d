package hosts

import (
	"fmt"
	"io"
	"log"
	"strings"
	"testing"

	telegrafconfig "github.com/influxdata/telegraf/config"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/xconfmap"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	_ "github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// wrong lists mistakes in the keys that all hosts share, and the error text of each. @ is the path of the device, # the path of
// its parameter. Each value is valid in both TOML and YAML.
var wrong = []struct {
	key, value string
	want       string
	delivery   bool // the processor does not have the key
}{
	{"stamp", `"ende"`, `stamp: "ende" is neither "end" nor "start"; nearest: end`, false},
	{"grace", `30`, `30 has no unit; nearest: "30s"`, false},
	{"grace", `"30"`, `30 has no unit; nearest: "30s"`, false},
	{"grace", `"0s"`, `grace: 0s is not from 1ms to 168h; nearest: 1ms`, false},
	{"grace", `"200h"`, `grace: 200h is not from 1ms to 168h; nearest: 168h`, false},
	{"grace", `"soon"`, `"soon" is not a duration such as 30s or 5m`, false},
	{"calibration_grace", `"-1s"`, `calibration_grace: -1s is not from 1ms to 168h; nearest: 1ms`, false},
	{"settle", `5`, `5 has no unit; nearest: "5s"`, false},
	{"settle", `"-1s"`, `settle: -1s is not from 0s to 168h; nearest: 0s`, false},
	{"max_skew", `"-1m"`, `max_skew: -1m is not from 0s to 168h; nearest: 0s`, false},
	{"timestamps", `"sauce"`, `timestamps: "sauce" is neither "auto" nor "source"; nearest: source`, false},
	{"@timestamps", `"own"`, `@timestamps: "own" is neither "auto" nor "source"; nearest:`, false},
	{"min_samples", `0`, `min_samples: 0 is less than 1; nearest: 1`, false},
	{"reading_stamp", `"begin"`, `reading_stamp: "begin" is neither "start" nor "end"; nearest:`, false},
	{"@reading_stamp", `"ende"`, `@reading_stamp: "ende" is neither "start" nor "end"; nearest: end`, false},
	{"#reading_stamp", `"ende"`, `#reading_stamp: "ende" is neither "start" nor "end"; nearest: end`, false},
	{"min_coverage", `1.5`, `min_coverage: 1.5 is not from 0 to 1; nearest: 1`, false},
	{"#min_coverage", `-1`, `#min_coverage: -1 is not from 0 to 1; nearest: 0`, false},
	{"below_min_coverage", `"waits"`, `below_min_coverage: "waits" is neither "leave_out" nor "wait"; nearest: wait`, false},
	{"#below_min_coverage", `"leave out"`, `#below_min_coverage: "leave out" is neither "leave_out" nor "wait"; nearest: leave_out`, false},
	{"flat_line_after", `"5m"`, `flat_line_after: 5m is not from 15m to 168h; nearest: 15m`, false},
	{"flat_line_after", `5`, `5 has no unit; nearest: "5s"`, false},
	{"#flat_line_after", `"200h"`, `#flat_line_after: 200h is not from 15m to 168h; nearest: 168h`, false},
	{"#flat_line_after", `60`, `60 has no unit; nearest: "60s"`, false},
	{"#valid_min", `501`, `#valid_min: 501 is more than valid_max, 500; nearest: 500`, false},
	{"#valid_max", `-0.5`, `#valid_min: 0 is more than valid_max, -0.5; nearest: -0.5`, false},
	{"#limit_low", `251`, `#limit_low: 251 is more than limit_high, 250; nearest: 250`, false},
	{"#max_step", `-2.5`, `#max_step: -2.5 is less than 0; nearest: 2.5`, false},
	{"#max_step", `0`, `#max_step: 0 refuses every reading that differs from the one before; leave the key out for no limit`, false},
	{"#statistic", `"time_weighted"`, `#reading_stamp: "end" does not fit the statistic time_weighted, where a value holds from its timestamp on; nearest: start`, false},
	{"max_series", `100000`, `max_series: the key is gone; leave it out: the configured devices and parameters limit the number of series`, false},
	{"devices_file_interval", `"0s"`, `devices_file_interval: 0s is not from 1ms to 24h; nearest: 1ms`, false},
	{"devices_file", `"absent.csv"`, `devices_file: open absent.csv`, false},
	{"endpoint", `"cems.cpcb.gov.in"`, `endpoint: "cems.cpcb.gov.in" is not a URL with http or https and a host; nearest: https://cems.cpcb.gov.in`, true},
	{"endpoint", `"ftp://plant:hunter2@cems.cpcb.gov.in"`, `nearest: https://plant:xxxxx`, true},
	{"coalesce", `"-1s"`, `coalesce: -1s is not from 0s to 168h; nearest: 0s`, true},
	{"spread", `"1h"`, `spread: 1h is not from 0s to 15m; nearest: 15m`, true},
	{"initial_backoff", `"0s"`, `initial_backoff: 0s is not from 1ms to 168h; nearest: 1ms`, true},
	{"max_backoff", `"1s"`, `max_backoff: 1s is less than initial_backoff; nearest: 5s`, true},
	{"hold_interval", `"0s"`, `hold_interval: 0s is not from 1ms to 168h; nearest: 1ms`, true},
	{"max_concurrency", `0`, `max_concurrency: 0 is less than 1; nearest: 1`, true},
	{"delay", `"20m"`, `delay: 20m is not from 0s to 15m; nearest: 15m`, true},
	{"delay", `5`, `5 has no unit; nearest: "5s"`, true},
	{"delay", `"5m"`, `delay: 5m is for a host that stands by for another sender; set shared_device = true beside it, or leave it out`, true},
	{"@delay", `"-1m"`, `@delay: -1m is not from 0s to 15m; nearest: 0s`, false},
	{"@delay", `"5m"`, `@delay: 5m is for a host that stands by for another sender`, false},
	{"@station_id", `""`, `@station_id: missing; give the station id that the board registered`, false},
	{"@device_id", `" "`, `@device_id: missing; give the device id that the board registered`, false},
	{"@latitude", `91.5`, `@latitude: 91.5 is outside -90 to 90 degrees; nearest: 90`, false},
	{"@token_id", `""`, `@token_id: missing; give token_id or token_id_file`, true},
	{"@token_id_file", `"absent.txt"`, `@token_id: both token_id and token_id_file are given; keep one`, true},
	{"@public_key", `"nonsense!"`, `@public_key: reading the public key: neither PEM nor base64`, true},
	{"@formerly", `["dev_1"]`, `@formerly: "dev_1" is the current name`, false},
	{"#formerly", `["bod", ""]`, `#formerly: an empty name; leave it out`, false},
	{"#metric", `""`, `#metric: missing; give the name of the metric`, false},
	{"#parameter", `"codd"`, `#parameter: unknown parameter "codd": nearest "cod"`, false},
	{"#unit", `"mg2"`, `#unit: unknown unit "mg2"`, false},
	{"#statistic", `"avg"`, `#statistic: unknown statistic "avg": nearest "mean"`, false},
	{"#statistic", `"average"`, `#statistic: unknown statistic "average": nearest "mean"`, false},
	{"#decimals", `11`, `#decimals: 11 is outside 0 to 10; nearest: 10`, false},
}

// TestWrongConfigurations checks that every host gives the same text, with the host's names of keys.
func TestWrongConfigurations(t *testing.T) {
	log.SetOutput(io.Discard) // Telegraf's loader logs
	for _, w := range wrong {
		t.Run(w.key+" "+w.value, func(t *testing.T) {
			for name, h := range map[string]struct {
				check             func(top, device, parameter map[string]string) error
				device, parameter string
			}{
				"telegraf":  {telegrafRefuses, "device[0].", "device[0].parameter[0]."},
				"exporter":  {refusedBy(ocemsexporter.NewFactory()), "devices[0].", "devices[0].parameters[0]."},
				"processor": {refusedBy(ocemsslotprocessor.NewFactory()), "devices[0].", "devices[0].parameters[0]."},
			} {
				if w.delivery && name == "processor" {
					continue
				}
				top := map[string]string{"public_key_file": `"../../ocems/seal/testdata/industry_test_public.pem"`}
				device := map[string]string{"station_id": `"station_1"`, "device_id": `"dev_1"`, "token_id": `"token-of-dev-1"`}
				parameter := map[string]string{"metric": `"tank"`, "parameter": `"cod"`, "unit": `"mg/L"`,
					"valid_min": `0`, "valid_max": `500.0`, "invalid_values": `[0, -9999, 0.5]`, "limit_low": `5`, "limit_high": `250`, "reading_stamp": `"end"`}
				require.NoError(t, h.check(top, device, parameter), name)
				switch w.key[0] {
				case '@':
					device[w.key[1:]] = w.value
				case '#':
					parameter[w.key[1:]] = w.value
				default:
					top[w.key] = w.value
				}
				err := h.check(top, device, parameter)
				assert.ErrorContains(t, err, strings.NewReplacer("@", h.device, "#", h.parameter).Replace(w.want), name)
				assert.NotContains(t, fmt.Sprint(err), "hunter2", name)
			}
		})
	}
}

func telegrafRefuses(top, device, parameter map[string]string) error {
	text := "[[outputs.ocems]]\n" + keyLines(top, " = ", "") + "[[outputs.ocems.device]]\n" + keyLines(device, " = ", "") +
		"[[outputs.ocems.device.parameter]]\n" + keyLines(parameter, " = ", "")
	c := telegrafconfig.NewConfig()
	if err := c.LoadConfigData([]byte(text), "test.conf"); err != nil {
		return err
	}
	return c.Outputs[0].Output.(interface{ Init() error }).Init()
}

func refusedBy(f component.Factory) func(top, device, parameter map[string]string) error {
	return func(top, device, parameter map[string]string) error {
		text := keyLines(top, ": ", "") + "devices:\n- parameters:\n  - {}\n" + keyLines(device, ": ", "  ")
		text = strings.Replace(text, "  - {}\n", "  -\n"+keyLines(parameter, ": ", "    "), 1)
		r, err := confmap.NewRetrievedFromYAML([]byte(text))
		if err != nil {
			return err
		}
		conf, err := r.AsConf()
		if err != nil {
			return err
		}
		cfg := f.CreateDefaultConfig()
		if err := conf.Unmarshal(cfg); err != nil {
			return err
		}
		return xconfmap.Validate(cfg)
	}
}

func keyLines(keys map[string]string, is, indent string) string {
	var b strings.Builder
	for key, value := range keys {
		b.WriteString(indent + key + is + value + "\n")
	}
	return b.String()
}
