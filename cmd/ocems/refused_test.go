package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A configuration that a host refuses fails in the doctor with a text that names the key. If OCEMS_COLLECTOR and
// OCEMS_TELEGRAF name the hosts, the test also runs the hosts.
func TestDoctorRefusesWhatTheCollectorRefuses(t *testing.T) {
	good := func(t *testing.T, more string) string {
		text := collectorText(t, "https://cems.example.org/v1.0/industry/data", more)
		text = strings.Replace(text, "\nexporters:\n", "\nreceivers: {otlp: {protocols: {http: {endpoint: \"127.0.0.1:0\"}}}}\nexporters:\n  debug: {}\n", 1)
		text = strings.Replace(text, "extensions: {ocems", "extensions: {health_check: {endpoint: \"127.0.0.1:0\"}, ocems", 1)
		return strings.Replace(text, "extensions: [ocems_storage]", "extensions: [ocems_storage, health_check]", 1)
	}
	key, err := filepath.Abs(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, more   string // keys of the exporter
		old, changed string // anywhere
		want         []string
		starts       bool // the collector reports it at start, not in validate
	}{
		{name: "good"},
		{name: "unknown key of http", more: "http: {proxyurl: x}", want: []string{"'http'", "proxyurl"}},
		{name: "key of http that only newer collectors have", more: "http: {keepalive: {max_idle_conns: 5}}", want: []string{"http.keepalive: not every version"}},
		{name: "key of http that only older collectors have", more: "http: {max_idle_conns: 5}", want: []string{"http.max_idle_conns: not every version"}},
		{name: "unknown key of http.tls", more: "http: {tls: {ca_fil: x}}", want: []string{"http.tls", "ca_fil", "nearest: ca_file"}},
		{name: "type of a key of http", more: "http: {max_conns_per_host: many}", want: []string{"http.max_conns_per_host"}},
		{name: "value of a key of http.tls", more: "http: {tls: {reload_interval: -1s, cert_file: x}}", want: []string{"cert"}},
		{name: "duration without unit", more: "coalesce: 5 seconds", want: []string{"coalesce"}},
		{name: "duration as a text without unit", more: `spread: "10"`, want: []string{"spread"}},
		{name: "unknown key", more: "endpont: x", want: []string{"endpont", "nearest: endpoint"}},
		{name: "type of decimals", old: "unit: mg/L", changed: "unit: mg/L, decimals: two", want: []string{"devices[0].parameters[0].decimals"}},
		{name: "unknown key of a parameter", old: "unit: mg/L", changed: "unit: mg/L, unt: x", want: []string{"devices[0].parameters[0]", "unt"}},
		{name: "keys twice", more: "coalesce: 5s\n    spread: 1s\n    coalesce: 6s", want: []string{"coalesce", "already defined"}},
		{name: "tab", more: "\tcoalesce: 5s", want: []string{"line 11", "cannot start any token"}},
		{name: "unknown exporter in a pipeline", old: "exporters: [ocems]", changed: "exporters: [ocems, debgu]", want: []string{"service::pipelines::metrics", "debgu", "nearest: debug"}},
		{name: "unknown processor in a pipeline", old: "[ocems_slot]", changed: "[ocems_slots]", want: []string{"ocems_slots", "nearest: ocems_slot"}},
		{name: "unknown receiver in a pipeline", old: "receivers: [otlp]", changed: "receivers: [otpl]", want: []string{"otpl", "nearest: otlp"}},
		{name: "no receiver in a pipeline", old: "receivers: [otlp],", changed: "", want: []string{"service::pipelines::metrics", "at least one receiver"}},
		{name: "unknown extension", old: "extensions: [ocems_storage, health_check]", changed: "extensions: [ocems_storage, ocems_storag]", want: []string{"service::extensions", "ocems_storag"}},
		{name: "extension not started", old: "extensions: [ocems_storage, health_check]", changed: "extensions: []", want: []string{"storage:", "service.extensions"}, starts: true},
		{name: "unknown group", old: "\nprocessors:", changed: "\nprocesors: {}\nprocessors:", want: []string{"procesors", "nearest: processors"}},
		{name: "unknown signal", old: "pipelines: {metrics:", changed: "pipelines: {metric:", want: []string{"service", "metric"}},
		{name: "unknown key of the processor", old: "processors: {ocems_slot: {", changed: "processors: {ocems_slot: {grac: 1s, ", want: []string{"ocems_slot", "grac", "nearest: grace"}},
		{name: "value of the processor", old: "processors: {ocems_slot: {", changed: "processors: {ocems_slot: {stamp: middle, ", want: []string{"ocems_slot", "stamp"}},
		{name: "unknown key of the storage", old: "create_directory: true", changed: "create_directory: true, fsync: true", want: []string{"extensions.ocems_storage", "fsync"}},
		{name: "value of the storage", old: "create_directory: true", changed: "create_directory: perhaps", want: []string{"extensions.ocems_storage", "create_directory"}},
		{name: "storage that cannot list", old: "storage: ocems_storage\n", changed: "storage: health_check\n", want: []string{"storage:", "health_check", "use an ocems_storage extension"}, starts: true},
		{name: "key that is gone", more: "require_slots: true", want: []string{"require_slots: the key is gone"}},
		{name: "key of the processor that is gone", old: "processors: {ocems_slot: {", changed: "processors: {ocems_slot: {checkpoint_interval: 1s, ", want: []string{"checkpoint_interval: the key is gone"}},
		{name: "no devices of the processor", old: "devices: [{station_id: station_1, device_id: dev_1}]", changed: "stamp: end", want: []string{"devices: none is given"}},
		{name: "processor in a pipeline of logs", old: "pipelines: {metrics:", changed: "pipelines: {logs: {receivers: [otlp], processors: [ocems_slot], exporters: [debug]}, metrics:", want: []string{"service::pipelines::logs", "accepts metrics only"}, starts: true},
		{name: "processor twice in a pipeline", old: "processors: [ocems_slot]", changed: "processors: [ocems_slot, ocems_slot]", want: []string{"references processor \"ocems_slot\" multiple times"}},
		{name: "variable in another host's style", more: "audit_file: ${OCEMS_DIR:-x}", want: []string{"OCEMS_DIR", "${env:NAME:-default}"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := good(t, c.more)
			if strings.HasPrefix(c.more, "audit_file") {
				text = strings.Replace(text, "    audit_file: /", "    # audit_file: /", 1)
			}
			if c.old != "" && !strings.Contains(text, c.old) {
				t.Fatalf("no %q in %s", c.old, text)
			}
			text = strings.ReplaceAll(strings.Replace(text, c.old, c.changed, 1), publicPath, key)
			config := write(t, "config.yaml", text)
			refuses(t, config, c.want)
			command := "validate"
			if c.starts {
				command = ""
			}
			hostRefuses(t, "OCEMS_COLLECTOR", c.want != nil, strings.Fields(command+" --config "+config)...)
		})
	}
}

func TestDoctorRefusesWhatTelegrafRefuses(t *testing.T) {
	key, err := filepath.Abs(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, agent, output, more string
		want                      []string
	}{
		{name: "good"},
		{name: "type of namepass", output: `namepass = 5`, want: []string{"namepass"}},
		{name: "flush_interval of the agent", agent: `flush_interval = "soon"`, want: []string{"FlushInterval", "soon"}},
		{name: "flush_interval of nought", agent: `flush_interval = "0s"`, want: []string{"flush_interval", "positive"}},
		{name: "flush_interval of the output", output: `flush_interval = "soon"`, want: []string{"duration", "soon"}},
		{name: "startup_error_behavior", output: `startup_error_behavior = "never"`, want: []string{"startup_error_behavior", "never"}},
		{name: "metric_batch_size of the agent", agent: `metric_batch_size = "x"`, want: []string{"MetricBatchSize"}},
		{name: "unknown key", output: `endpont = "x"`, want: []string{"endpont", "nearest: endpoint"}},
		{name: "unknown key of the agent", agent: `flush_intervall = "10s"`, want: []string{"flush_intervall", "nearest: flush_interval"}},
		{name: "unknown key of a parameter", more: `decimal = 2`, want: []string{"decimal", "nearest: decimals"}},
		{name: "type of decimals", more: `decimals = "two"`, want: []string{"Decimals"}},
		{name: "string without an end", output: "alias = \"etp", want: []string{"line 8"}},
		{name: "key twice", output: "grace = \"30s\"\n  grace = \"40s\"", want: []string{"grace", "conflict"}},
		{name: "unknown table", more: "\n[agnet]\n  interval = \"10s\"", want: []string{"agnet"}},
		{name: "name of a cipher", output: "tls_cipher_suites = [\"none\"]\n  insecure_skip_verify = true", want: []string{"cipher"}},
		{name: "filter", output: `metricpass = "name ="`, want: []string{"Syntax error"}},
		{name: "required variable", output: `audit_file = "hunter2${OCEMS_NOT_SET:?is needed}"`, want: []string{"OCEMS_NOT_SET", "is needed"}},
		{name: "secret store that is not there", output: `public_key = "@{store:key}"`, want: []string{"unknown secret-store", "@{store:key}"}},
		{name: "namepass of an input", more: "\n[[inputs.file]]\n  files = [\"/dev/null\"]\n  namepass = 5", want: []string{"namepass"}},
		{name: "buffer_strategy", agent: `buffer_strategy = "paper"`, want: []string{"buffer", "paper"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(telegrafText(t, c.output), "[agent]\n", "[agent]\n  omit_hostname = true\n  "+c.agent+"\n", 1) + "      " + c.more + "\n[[inputs.file]]\n  files = [\"/dev/null\"]\n  data_format = \"influx\"\n"
			text = strings.ReplaceAll(text, publicPath, key)
			config := write(t, "telegraf.conf", text)
			refuses(t, config, c.want)
			hostRefuses(t, "OCEMS_TELEGRAF", c.want != nil, "--test", "--config", config)
		})
	}
}

func TestDoctorRefusesWhatTheExternalPluginRefuses(t *testing.T) {
	key, err := filepath.Abs(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	good := strings.ReplaceAll(strings.TrimPrefix(telegrafText(t, "grace = \"30s\""), "[agent]\n"), publicPath, key)
	for _, c := range []struct {
		name, old, changed string
		want               []string
	}{
		{name: "good"},
		{"unknown key", "grace", "grac", []string{"grac", "nearest: grace"}},
		{"duration", "30s", "soon", []string{"soon", "is not a duration"}},
		{"key of Telegraf", "grace", "namepass = [\"m\"]\n  grace", []string{`"namepass" is Telegraf's own`}},
		{"another plugin", "[[outputs.ocems]]", "[[outputs.file]]\n[[outputs.ocems]]", []string{"may have only [[outputs.ocems]]"}},
		{"secret store", token, "@{store:token}", []string{"device[0].token_id", "secret stores are not available"}},
		{"variable not set", token, "${OCEMS_NOT_SET}", []string{`"${OCEMS_NOT_SET}" is the name of a variable`}},
		{"variable without braces not set", token, "$OCEMS_NOT_SET", []string{`"$OCEMS_NOT_SET" is the name of a variable`}},
		{"required variable", token, "${OCEMS_NOT_SET:?is needed}", []string{"OCEMS_NOT_SET", "is needed"}},
		{"unit", "mg/L", "mgl", []string{"device[0].parameter[0].unit", "mgl"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := write(t, "ocems.conf", strings.Replace(good, c.old, c.changed, 1))
			refuses(t, config, c.want, "--host", "ocems-telegraf")
			if out, refused, ok := askHost(t, "OCEMS_TELEGRAF_EXTERNAL", "--check", "--config", config); ok && refused != (c.want != nil) {
				t.Errorf("the host refuses it: %v: %s", refused, out)
			}
		})
	}
}

// refuses runs doctor, which must fail with all these words; without words it must pass.
func refuses(t *testing.T, config string, words []string, more ...string) {
	t.Helper()
	code, out, errs := quiet(t, append([]string{"doctor", "--offline", "--config", config}, more...)...)
	if want := map[bool]int{true: 0, false: 1}[words == nil]; code != want {
		t.Errorf("exit %d, want %d: %s%s", code, want, out, errs)
		return
	}
	faults := strings.Split(strings.ReplaceAll(out, filepath.Dir(config)+"/", ""), "\nfailed   ") // the directory has the test's name
	for _, fault := range faults[1:] {
		fault, _, _ = strings.Cut(fault, "\nwarning ")
		fault, _, _ = strings.Cut(fault, "\nskipped ")
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(fault, word) }) {
			return
		}
	}
	if words != nil {
		t.Errorf("no fault has %q:\n%s", words, out)
	}
}

// askHost runs the host with a configuration until it accepts or refuses it; ok is false without a host.
func askHost(t *testing.T, variable string, args ...string) (out string, refused, ok bool) {
	t.Helper()
	binary := os.Getenv(variable)
	if binary == "" {
		return "", false, false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	return string(text), err != nil && ctx.Err() == nil, true // otherwise it kept running
}

func hostRefuses(t *testing.T, variable string, want bool, args ...string) {
	t.Helper()
	if out, refused, ok := askHost(t, variable, args...); ok && refused != want {
		t.Errorf("the host refuses it: %v, want %v: %s", refused, want, out)
	}
}
