// The hosts themselves are asked here, so that this package and they cannot drift apart: what they refuse, and in which
// words, which keys they have, and what they make of a variable.
package hostconfig_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	telegrafconfig "github.com/influxdata/telegraf/config"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/extension"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

const publicKey = "../seal/testdata/industry_test_public.pem"

// environment is what the variables of the tests hold.
var environment = map[string]string{"TOKEN": "0123456789abcdef0123456789abcdef", "EMPTY": "", "DOLLARS": `a$b${TOKEN}"c\`, "NUMBER": "007",
	"TRUE": "true", "LIST": "[{station_id: s, device_id: d, token_id: t}]", "NESTED": "${env:NUMBER}", "WORD": "plant"}

func lookup(name string) (string, bool) {
	v, ok := environment[name]
	return v, ok
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func load(t *testing.T, path string) *hostconfig.Config {
	t.Helper()
	cfg, err := hostconfig.Load([]string{path}, hostconfig.Options{Lookup: lookup})
	require.NoError(t, err)
	return cfg
}

// failures are the faults with which the host does not start.
func failures(faults []hostconfig.Fault) (lines []string) {
	for _, f := range faults {
		if f.Severity == hostconfig.Failed {
			lines = append(lines, f.Text)
		}
	}
	return lines
}

// Every mistake that the exporter's own tests know is found here too, word by word.
func TestCollectorMistakes(t *testing.T) {
	t.Chdir("../../exporter/ocemsexporter")
	mistakes, err := confmaptest.LoadConf("testdata/invalid.yaml")
	require.NoError(t, err)
	require.Greater(t, len(mistakes.ToStringMap()), 40)
	for name := range mistakes.ToStringMap() {
		t.Run(name, func(t *testing.T) {
			valid, err := confmaptest.LoadConf("testdata/config.yaml")
			require.NoError(t, err)
			conf, err := valid.Sub("ocems")
			require.NoError(t, err)
			change, err := mistakes.Sub(name)
			require.NoError(t, err)
			require.NoError(t, conf.Merge(change))
			theirs := ocemsexporter.NewFactory().CreateDefaultConfig()
			require.NoError(t, conf.Unmarshal(theirs))
			err = xconfmap.Validate(theirs)
			require.Error(t, err)

			text, wrong := yaml.Marshal(map[string]any{"exporters": map[string]any{"ocems": conf.ToStringMap()},
				"processors": map[string]any{"ocems_slot": nil},
				"service":    map[string]any{"pipelines": map[string]any{"metrics": map[string]any{"processors": []string{"ocems_slot"}, "exporters": []string{"ocems"}}}}})
			require.NoError(t, wrong)
			cfg := load(t, write(t, "config.yaml", string(text)))
			require.Empty(t, failures(cfg.Faults))
			assert.Equal(t, strings.Split(err.Error(), "\n"), failures(cfg.Outputs[0].Faults))
		})
	}
}

func TestProcessorMistakes(t *testing.T) {
	for _, change := range []string{"stamp: ended", "grace: 0s", "calibration_grace: 200h", "settle: -1s", "max_skew: 0s", "checkpoint_interval: 20m",
		"min_samples: 0", "max_series: -4", "statistics: [{metric: a, statistic: avg}, {metric: a}, {statistic: max}]"} {
		t.Run(change, func(t *testing.T) {
			var changed map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(change), &changed))
			theirs := ocemsslotprocessor.NewFactory().CreateDefaultConfig()
			require.NoError(t, confmap.NewFromStringMap(changed).Unmarshal(theirs))
			err := xconfmap.Validate(theirs)
			require.Error(t, err)
			cfg := load(t, write(t, "config.yaml", collector(t, "", change)))
			var want []string
			for line := range strings.SplitSeq(err.Error(), "\n") {
				want = append(want, "processors.ocems_slot: "+line)
			}
			assert.ElementsMatch(t, want, failures(cfg.Outputs[0].Faults))
		})
	}
}

// collector is a good configuration of a collector with further keys.
func collector(t *testing.T, exporter, processor string) string {
	t.Helper()
	key, err := filepath.Abs(publicKey)
	require.NoError(t, err)
	return fmt.Sprintf(`
exporters:
  ocems:
    public_key_file: %s
    devices: [{station_id: s, device_id: d, token_id: "${env:TOKEN}"}]
    storage: file_storage
    audit_file: audit.jsonl
    %s
processors:
  ocems_slot:
    storage: file_storage
    %s
extensions:
  file_storage: {directory: /var/lib/x, create_directory: true, fsync: true}
service:
  extensions: [file_storage]
  pipelines:
    metrics: {receivers: [otlp], processors: [ocems_slot], exporters: [ocems]}
`, key, exporter, processor)
}

// The storage's keys and defaults are the extensions' own.
func TestStorage(t *testing.T) {
	for kind, factory := range map[string]extension.Factory{"file_storage": filestorage.NewFactory(), "ocems_storage": ocemsstorage.NewFactory()} {
		var theirs filestorage.Config
		switch c := factory.CreateDefaultConfig().(type) {
		case *filestorage.Config:
			theirs = *c
		case *ocemsstorage.Config:
			theirs = c.Config
		}
		text := strings.ReplaceAll(collector(t, "", ""), "file_storage", kind)
		text = strings.Replace(text, "{directory: /var/lib/x, create_directory: true, fsync: true}", "", 1)
		cfg := load(t, write(t, "config.yaml", text))
		o := cfg.Outputs[0]
		require.NotNil(t, o.Outbox, kind)
		assert.Equal(t, []any{theirs.Directory, theirs.CreateDirectory}, []any{o.Outbox.Directory, o.Outbox.Create}, kind)
		assert.Equal(t, theirs.FSync, len(failures(o.Faults)) == 0, "%s: %q", kind, failures(o.Faults))
		keys := map[string]bool{}
		tagged(reflect.TypeOf(theirs), "mapstructure", "", keys)
		for key := range keys {
			if strings.Contains(key, ".") {
				continue // of compaction
			}
			for _, spoilt := range []string{"", "x"} {
				cfg := load(t, write(t, "config.yaml", strings.Replace(text, kind+": \n", kind+": {"+key+spoilt+": null}\n", 1)))
				assert.Equal(t, spoilt != "", slices.ContainsFunc(failures(cfg.Outputs[0].Faults), func(s string) bool { return strings.Contains(s, "unknown key") }), key)
			}
		}
	}
}

// env is the collector's provider of variables, with the tests' own.
type env struct{}

func (env) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	name, byDefault, _ := strings.Cut(strings.TrimPrefix(uri, "env:"), ":-")
	if v, ok := environment[name]; ok {
		byDefault = v
	}
	return confmap.NewRetrievedFromYAML([]byte(byDefault))
}
func (env) Scheme() string                 { return "env" }
func (env) Shutdown(context.Context) error { return nil }

type text struct{ env }

func (text) Scheme() string { return "text" }
func (text) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	return confmap.NewRetrievedFromYAML([]byte(strings.TrimPrefix(uri, "text:")))
}

// The collector's own resolver says what a value becomes.
func TestCollectorVariables(t *testing.T) {
	for _, value := range []string{`${env:TOKEN}`, `${TOKEN}`, `"${env:TOKEN}"`, `'${env:TOKEN}'`, `a-${env:WORD}-${WORD}.b`, `${env:NOT_SET}`, `${env:NOT_SET:-x}`,
		`${env:EMPTY:-x}`, `"${env:NOT_SET:-}"`, `$$x`, `"$${env:TOKEN}"`, `a$$b`, `$TOKEN`, `${env:NUMBER}`, `${env:NESTED}`, `"${env:DOLLARS}"`, `x${env:NUMBER}`,
		`"${env:${WORD}}"`, `${env:TRUE}`, `"}${env:WORD}"`, `0123`, `"0123"`, `1e3`, `${env:NOT_SET:-1e3}`} {
		t.Run(value, func(t *testing.T) {
			file := "audit_file: " + value + "\n"
			resolver, err := confmap.NewResolver(confmap.ResolverSettings{URIs: []string{"text:" + file}, DefaultScheme: "env",
				ProviderFactories: []confmap.ProviderFactory{
					confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return env{} }),
					confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return text{} })}})
			require.NoError(t, err)
			conf, err := resolver.Resolve(t.Context())
			theirs := ocemsexporter.NewFactory().CreateDefaultConfig().(*ocemsexporter.Config)
			if err == nil {
				err = conf.Unmarshal(theirs)
			}
			text := strings.Replace(collector(t, "", ""), "    audit_file: audit.jsonl\n", "    "+file, 1)
			cfg := load(t, write(t, "config.yaml", text))
			if err != nil {
				assert.NotEmpty(t, append(failures(cfg.Faults), failures(cfg.Outputs[0].Faults)...), "the host says %v", err)
				return
			}
			assert.Equal(t, theirs.AuditFile, cfg.Outputs[0].AuditFile)
		})
	}
	t.Run("a list", func(t *testing.T) {
		cfg := load(t, write(t, "config.yaml", strings.Replace(collector(t, "", ""), `[{station_id: s, device_id: d, token_id: "${env:TOKEN}"}]`, "${env:LIST}", 1)))
		assert.Empty(t, failures(cfg.Outputs[0].Faults))
		require.Len(t, cfg.Outputs[0].Names.Devices, 1)
		assert.Equal(t, "d", cfg.Outputs[0].Names.Devices[0].DeviceID)
	})
}

// tagged are all keys of a struct, those of the structs in it too.
func tagged(t reflect.Type, tag, path string, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || strings.HasPrefix(t.PkgPath(), "time") {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get(tag), ",")
		switch {
		case f.Anonymous && name == "" || strings.Contains(rest, "squash"):
			tagged(f.Type, tag, path, into)
		case f.IsExported() && name != "" && name != "-":
			into[path+name] = true
			if !strings.Contains(f.Type.String(), "Optional") {
				tagged(f.Type, tag, path+name+".", into)
			}
		}
	}
}

// Each key that a host has is known here, and a word beside it is not.
func TestKeys(t *testing.T) {
	own := map[string]bool{}
	tagged(reflect.TypeFor[ocemsexporter.Config](), "mapstructure", "", own)
	require.Contains(t, own, "http.tls.ca_file")
	require.Contains(t, own, "devices.parameters.attributes")
	for key := range own {
		if opaque(key) {
			continue
		}
		words := strings.Split(key, ".")
		value := any(nil)
		for _, w := range slices.Backward(words) {
			value = map[string]any{w: value}
			if w == "devices" || w == "parameters" {
				value = map[string]any{w: []any{value.(map[string]any)[w]}}
			}
		}
		for _, spoilt := range []bool{false, true} {
			text, err := yaml.Marshal(map[string]any{"exporters": map[string]any{"ocems": value}})
			require.NoError(t, err)
			last := words[len(words)-1]
			if spoilt {
				text = []byte(strings.Replace(string(text), last+":", last+"x:", 1))
			}
			cfg := load(t, write(t, "config.yaml", string(text)))
			assert.Equal(t, spoilt, slices.ContainsFunc(failures(cfg.Outputs[0].Faults), func(s string) bool { return strings.Contains(s, "unknown key") }), "%s", text)
		}
	}
	own = map[string]bool{}
	tagged(reflect.TypeFor[ocems.OCEMS](), "toml", "", own)
	require.Contains(t, own, "tls_ca")
	require.Contains(t, own, "device.parameter.tags")
	for key := range own {
		words := strings.Split(key, ".")
		last := words[len(words)-1]
		for _, spoilt := range []string{"", "x"} {
			text := "[[outputs.ocems]]\n"
			for i := range words[:len(words)-1] {
				text += "[[outputs.ocems." + strings.Join(words[:i+1], ".") + "]]\n"
			}
			if last == "device" || last == "parameter" {
				text += "[[outputs.ocems." + key + spoilt + "]]\n"
			} else {
				text += last + spoilt + " = 1\n"
			}
			cfg := load(t, write(t, "telegraf.conf", text))
			assert.Equal(t, spoilt != "", slices.ContainsFunc(failures(cfg.Outputs[0].Faults), func(s string) bool { return strings.Contains(s, "unknown key") }), text)
		}
	}
}

// opaque keys of the HTTP client are not looked into.
func opaque(key string) bool {
	for _, of := range []string{"http.headers.", "http.compression_params.", "http.tls.tpm.", "http.middlewares.", "http.auth.", "http.cookies.", "storage."} {
		if strings.HasPrefix(key, of) {
			return true
		}
	}
	return false
}

// telegrafs is what Telegraf makes of a file, or its error.
func telegrafs(text string) (*ocems.OCEMS, error) {
	c := telegrafconfig.NewConfig()
	c.Agent.Quiet = true
	if err := c.LoadConfigData([]byte(text), "telegraf.conf"); err != nil {
		return nil, err
	}
	return c.Outputs[0].Output.(*ocems.OCEMS), nil
}

func TestTelegrafMistakes(t *testing.T) {
	good := `
[agent]
  interval = "10s"
[[outputs.ocems]]
  state_directory = "/var/lib/x"
  public_key_file = "` + publicKey + `"
  %s
  [[outputs.ocems.device]]
    station_id = "s"
    device_id = "d"
    token_id = "0123456789abcdef0123456789abcdef"
    %s
`
	for _, c := range [][2]string{
		{`endpoint = "cems.cpcb.gov.in"`, ""}, {`endpoint = "ftp://x"`, ""}, {`timeout = "0s"`, ""}, {`timeout = 0`, ""}, {`devices_file_interval = "0s"`, ""},
		{`initial_backoff = "0s"`, ""}, {`hold_interval = "-1s"`, ""}, {`coalesce = "-1s"`, ""}, {`spread = "-1s"`, ""}, {`max_backoff = "1s"`, ""},
		{`max_concurrency = 0`, ""}, {`stamp = "ending"`, ""}, {`grace = "9d"`, ""}, {`min_samples = -1`, ""}, {`devices_file = "absent.csv"`, ""},
		{`public_key = "x"`, ""}, {"", "latitude = 91.0"}, {"", `token_id_file = "absent"`}, {"", `public_key_file = "absent"`},
		{"", `[[outputs.ocems.device]]` + "\n" + `station_id = "s"`}, {"", `[[outputs.ocems.device.parameter]]` + "\n" + `metric = "m"` + "\n" + `field = "codd"`},
		{"", `[[outputs.ocems.device.parameter]]` + "\n" + `metric = "m"` + "\n" + `field = "cod"` + "\n" + `unit = "mgl"` + "\n" + `statistic = "avg"` + "\n" + `decimals = 11`},
	} {
		text := fmt.Sprintf(good, c[0], c[1])
		t.Run(strings.Join(c[:], "|"), func(t *testing.T) {
			plugin, err := telegrafs(text)
			require.NoError(t, err)
			err = plugin.Init()
			require.Error(t, err)
			cfg := load(t, write(t, "telegraf.conf", text))
			assert.ElementsMatch(t, strings.Split(err.Error(), "\n"), failures(cfg.Outputs[0].Faults))
		})
	}
	t.Run("none", func(t *testing.T) {
		text := fmt.Sprintf(good, "", "")
		plugin, err := telegrafs(text)
		require.NoError(t, err)
		require.NoError(t, plugin.Init())
		cfg := load(t, write(t, "telegraf.conf", text))
		assert.Empty(t, cfg.Outputs[0].Faults)
		o := cfg.Outputs[0]
		assert.Equal(t, []any{plugin.Endpoint, time.Duration(plugin.Timeout), plugin.AuditFile}, []any{o.Endpoint, o.Client.Timeout, o.AuditFile})
	})
}

func TestTelegrafVariables(t *testing.T) {
	for name, v := range environment {
		t.Setenv(name, v)
	}
	for _, value := range []string{`"${TOKEN}"`, `'${TOKEN}'`, `"$TOKEN"`, `"a-${WORD}-$WORD.b"`, `"${NOT_SET}"`, `"$NOT_SET"`, `"${NOT_SET:-x}"`, `"${EMPTY:-x}"`,
		`"${EMPTY-x}"`, `"${WORD:+y}"`, `"${EMPTY}"`, `"$$x"`, `"a$1b"`, `"${1}"`, `"${DOLLARS}"`, `"${NOT_SET:-${WORD}}/x"`, `"${NOT_SET:?is needed}"`,
		`"a # b ${WORD}"`, `"""${WORD}"""`, `"a\\b${WORD}\n"`} {
		t.Run(value, func(t *testing.T) {
			text := "[agent]\n[[outputs.ocems]] # a comment with ${WORD}\n  state_directory = " + value + "\n  timeout = \"${NOT_SET:-31s}\"\n"
			plugin, err := telegrafs(text)
			cfg := load(t, write(t, "telegraf.conf", text))
			if err != nil {
				assert.NotEmpty(t, failures(cfg.Faults), "Telegraf says %v", err)
				return
			}
			got := ""
			if s := cfg.Outputs[0].Outbox; s != nil {
				got = s.Directory
			}
			assert.Equal(t, plugin.StateDirectory, got)
			assert.Equal(t, time.Duration(plugin.Timeout), cfg.Outputs[0].Client.Timeout)
		})
	}
}

// Several files are one configuration, as the hosts read them.
func TestSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "telegraf.d", "..data"), 0o700))
	key, err := filepath.Abs(publicKey)
	require.NoError(t, err)
	output := func(id string) string {
		return fmt.Sprintf("[[outputs.ocems]]\n  state_directory = \"/var/lib/%[1]s\"\n  public_key_file = %[2]q\n  [[outputs.ocems.device]]\n    station_id = \"s\"\n    device_id = %[1]q\n    token_id = \"${TOKEN}\"\n", id, key)
	}
	for name, text := range map[string]string{"telegraf.conf": "[agent]\n  flush_interval = \"40s\"\n", "telegraf.d/a.conf": output("a"), "telegraf.d/b.conf": output("b"),
		"telegraf.d/c.conf.off": output("c"), "telegraf.d/..data/a.conf": output("a")} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	cfg, err := hostconfig.Load([]string{filepath.Join(dir, "telegraf.conf"), filepath.Join(dir, "telegraf.d")}, hostconfig.Options{Lookup: lookup})
	require.NoError(t, err)
	require.Len(t, cfg.Outputs, 2)
	assert.Equal(t, hostconfig.Telegraf, cfg.Host)
	for i, o := range cfg.Outputs {
		assert.Contains(t, o.Where, []string{"a.conf:1", "b.conf:1"}[i])
		require.Len(t, o.Faults, 1) // the agent's, which is in another file
		assert.Contains(t, o.Faults[0].Text, "flush_interval: 40s is not shorter than grace, 30s")
	}
	for host, want := range map[hostconfig.Host]hostconfig.Host{"": hostconfig.External, hostconfig.Telegraf: hostconfig.Telegraf} {
		cfg, err := hostconfig.Load([]string{filepath.Join(dir, "telegraf.d/a.conf")}, hostconfig.Options{Lookup: lookup, Host: host})
		require.NoError(t, err)
		assert.Equal(t, want, cfg.Host)
		assert.Empty(t, cfg.Outputs[0].Faults)
	}

	first := write(t, "first.yaml", collector(t, "timeout: &t {} ", ""))
	second := write(t, "second.yaml", "exporters: {ocems: {endpoint: 'https://staging.example.org/x', audit_file: other.jsonl, timeout: 5}}\n")
	cfg, err = hostconfig.Load([]string{first, second}, hostconfig.Options{Lookup: lookup})
	require.NoError(t, err)
	o := cfg.Outputs[0]
	assert.Equal(t, []string{"https://staging.example.org/x", "other.jsonl"}, []string{o.Endpoint, o.AuditFile})
	require.Len(t, failures(o.Faults), 1)
	assert.Contains(t, failures(o.Faults)[0], `unknown key "timeout"`)

	anchored := write(t, "anchored.yaml", strings.Replace(collector(t, "<<: *waits", ""), "\nexporters:", "\nwaits: &waits {coalesce: 1s, spred: 2s}\nexporters:", 1))
	cfg = load(t, anchored)
	require.Len(t, failures(cfg.Outputs[0].Faults), 1)
	assert.Contains(t, failures(cfg.Outputs[0].Faults)[0], `unknown key "spred"; nearest: spread`)
}
