package hostconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
)

const publicKey = "../../../../ocems/seal/testdata/industry_test_public.pem"

// environment has variables of the service that the tests' process lacks.
var environment = map[string]string{"OCEMS_TEST_TOKEN": "0123456789abcdef0123456789abcdef", "OCEMS_TEST_WORD": "plant", "OCEMS_TEST_NUMBER": "007",
	"OCEMS_TEST_LIST": "[{station_id: s, device_id: d, token_id: 0123456789abcdef0123456789abcdef}]"}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func load(t *testing.T, set []string, paths ...string) *hostconfig.Config {
	t.Helper()
	cfg, err := hostconfig.Load(paths, hostconfig.Options{Environment: environment, Set: set})
	require.NoError(t, err)
	for name := range environment {
		_, left := os.LookupEnv(name)
		assert.False(t, left, "%s is left in the environment", name)
	}
	return cfg
}

// failures are the faults that keep the host from starting.
func failures(faults []hostconfig.Fault) (lines []string) {
	for _, f := range faults {
		if f.Severity == hostconfig.Failed {
			lines = append(lines, f.Text)
		}
	}
	return lines
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	return path
}

// collector is a valid configuration of a collector, with more keys for the exporter.
func collector(t *testing.T, exporter string) string {
	t.Helper()
	return fmt.Sprintf(`
receivers: {otlp: }
exporters:
  ocems:
    public_key_file: %s
    devices: [{station_id: s, device_id: d, token_id: "${env:OCEMS_TEST_TOKEN}"}]
    storage: ocems_storage
    audit_file: audit.jsonl
    %s
processors:
  ocems_slot: {storage: ocems_storage, audit_file: slots.jsonl, devices: [{station_id: s, device_id: d}]}
extensions:
  ocems_storage: {directory: /var/lib/x}
service:
  extensions: [ocems_storage]
  pipelines:
    metrics: {receivers: [otlp], processors: [ocems_slot], exporters: [ocems]}
`, absolute(t, publicKey), exporter)
}

func TestCollector(t *testing.T) {
	cfg := load(t, nil, write(t, "c.yaml", collector(t, "http: {timeout: 31s, tls: {ca_file: ca.pem, key_pem: k, cert_pem: c}}")))
	require.Len(t, cfg.Outputs, 2)
	slots, o := cfg.Outputs[0], cfg.Outputs[1]
	assert.Empty(t, failures(append(append(cfg.Faults, o.Faults...), slots.Faults...)))
	assert.Equal(t, &hostconfig.State{Key: "extensions.ocems_storage.directory", Directory: "/var/lib/x", File: "/var/lib/x/exporter_ocems_", Create: true}, o.State)
	assert.Equal(t, "/var/lib/x/processor_ocems_slot_", slots.State.File)
	assert.True(t, slots.Slots)
	require.Len(t, slots.Behind, 1)
	assert.Equal(t, "ocems", slots.Behind[0].ID.String())
	assert.Equal(t, 31*time.Second, o.Client.Timeout)
	_, err := o.Client.TLS()
	assert.ErrorContains(t, err, "ca.pem")
	assert.Equal(t, environment["OCEMS_TEST_TOKEN"], o.Names.Devices[0].TokenID.Reveal())
	assert.Contains(t, o.Where, "c.yaml:4")
}

// The collector expands ${...}; this tests that its result is used.
func TestCollectorVariables(t *testing.T) {
	for value, want := range map[string]string{`${env:OCEMS_TEST_WORD}`: "plant", `${OCEMS_TEST_WORD}-x`: "plant-x", `${env:OCEMS_NOT_SET:-x}`: "x", `$$x`: "$x",
		`"${env:OCEMS_TEST_NUMBER}"`: "007", "${yaml:z}": "z", "${file:" + write(t, "name", "of-a-file") + "}": "of-a-file"} {
		cfg := load(t, nil, write(t, "c.yaml", strings.Replace(collector(t, ""), "audit.jsonl", value, 1)))
		require.Len(t, cfg.Outputs, 2, "%s: %v", value, cfg.Faults)
		assert.Equal(t, want, cfg.Outputs[1].AuditFile, value)
		assert.Empty(t, cfg.Unset, value)
	}
	cfg := load(t, nil, write(t, "c.yaml", strings.Replace(collector(t, ""), `[{station_id: s, device_id: d, token_id: "${env:OCEMS_TEST_TOKEN}"}]`, "${env:OCEMS_TEST_LIST}", 1)))
	assert.Empty(t, failures(cfg.Outputs[1].Faults))
	assert.Equal(t, "d", cfg.Outputs[1].Names.Devices[0].DeviceID)
	cfg = load(t, nil, write(t, "c.yaml", strings.Replace(collector(t, ""), "OCEMS_TEST_TOKEN", "OCEMS_NOT_SET", 1)))
	assert.Equal(t, []string{"OCEMS_NOT_SET"}, cfg.Unset)
	require.Len(t, failures(cfg.Outputs[1].Faults), 1)
	assert.Contains(t, failures(cfg.Outputs[1].Faults)[0], "devices[0].token_id: missing")

	cfg = load(t, nil, write(t, "c.yaml", collector(t, "public_key: ${NAME:-hunter2}")))
	require.Len(t, failures(cfg.Faults), 1)
	assert.NotContains(t, failures(cfg.Faults)[0], "hunter2")
}

// Several files, URIs and --set make one configuration; a later one overrides an earlier one.
func TestCollectorSources(t *testing.T) {
	first := write(t, "first.yaml", collector(t, "timeout: &t {} "))
	second := write(t, "second.yaml", "exporters: {ocems: {endpoint: 'https://staging.example.org/x', audit_file: other.jsonl}}\n")
	cfg := load(t, []string{"exporters.ocems.dry_run=true", "exporters.ocems.public_key=hunter2"}, first, "file:"+second, "yaml:exporters::ocems::coalesce: 7s")
	o := cfg.Outputs[1]
	assert.Equal(t, []any{"https://staging.example.org/x", "other.jsonl", true}, []any{o.Endpoint, o.AuditFile, o.DryRun})
	assert.Equal(t, []string{first, second, "yaml:...", "--set exporters.ocems.dry_run", "--set exporters.ocems.public_key"}, cfg.Files)
	require.Len(t, failures(o.Faults), 1)
	assert.Contains(t, failures(o.Faults)[0], `invalid keys: timeout`)
	cfg = load(t, []string{"exporters.ocems.public_key=hunter2"}, write(t, "c.yaml", collector(t, "")))
	require.Len(t, failures(cfg.Outputs[1].Faults), 1)
	assert.Contains(t, failures(cfg.Outputs[1].Faults)[0], `public_key: both`)
	for _, f := range o.Faults {
		assert.NotContains(t, f.Text+f.Do, "hunter2")
	}
	assert.Contains(t, o.Faults[0].Do, "first.yaml:9")

	_, err := hostconfig.Load([]string{first}, hostconfig.Options{Set: []string{"exporters.ocems.dry_run"}})
	assert.ErrorContains(t, err, "key=value")
	_, err = hostconfig.Load([]string{write(t, "t.conf", "")}, hostconfig.Options{Set: []string{"a=b"}})
	assert.ErrorContains(t, err, "--set is for the collector")
}

func telegrafOutput(t *testing.T, id, more string) string {
	t.Helper()
	return fmt.Sprintf("[[outputs.ocems]]\n  state_directory = \"/var/lib/%[1]s\"\n  public_key_file = %[2]q\n  %[3]s\n  [[outputs.ocems.device]]\n    station_id = \"s\"\n    device_id = %[1]q\n    token_id = \"${OCEMS_TEST_TOKEN}\"\n",
		id, absolute(t, publicKey), more)
}

func TestTelegraf(t *testing.T) {
	cfg := load(t, nil, write(t, "telegraf.conf", "[agent]\n"+telegrafOutput(t, "d", "alias = \"etp\"\n  timeout = \"${OCEMS_NOT_SET:-31s}\"\n  audit_file = \"$OCEMS_TEST_WORD/a$1\" # ${OCEMS_TEST_WORD}")))
	o := cfg.Outputs[0]
	assert.Equal(t, "outputs.ocems::etp", o.Name)
	assert.Equal(t, []any{31 * time.Second, "plant/a$1", environment["OCEMS_TEST_TOKEN"], "/var/lib/d/state.db"},
		[]any{o.Client.Timeout, o.AuditFile, o.Names.Devices[0].TokenID.Reveal(), o.State.File})
	assert.Empty(t, failures(o.Faults))
	assert.Empty(t, cfg.Unset)
}

// Tables of one plugin may be between those of another. No disk buffer of Telegraf is created.
func TestTelegrafBlocks(t *testing.T) {
	dir := t.TempDir()
	text := telegrafOutput(t, "d", "") + "\n[[inputs.modbus]]\n  name = \"etp\"\n[[outputs.ocems.device]]\n  station_id = \"s\"\n  device_id = \"e\"\n  token_id = \"${OCEMS_TEST_TOKEN}\"\n" +
		"[agent]\n  flush_interval = \"40s\"\n  buffer_strategy = \"disk\"\n  buffer_directory = \"" + dir + "\"\n[[secretstores.docker]]\n  id = \"store\"\n[[inputs.modbus.metric]]\n  x = [1]\n[[outputs.file]]\n" +
		strings.Replace(telegrafOutput(t, "f", ""), "${OCEMS_TEST_TOKEN}", "@{store:key}", 1)
	cfg := load(t, nil, write(t, "telegraf.conf", text))
	assert.Empty(t, failures(cfg.Faults))
	assert.Equal(t, "not checked: inputs.modbus, outputs.file, secretstores.docker", cfg.Faults[len(cfg.Faults)-1].Text)
	require.Len(t, cfg.Outputs, 2)
	assert.Len(t, cfg.Outputs[0].Names.Devices, 2)
	assert.Equal(t, &hostconfig.Buffer{Flush: 40 * time.Second, Interval: 10 * time.Second, Limit: 10000, Batch: 1000}, cfg.Outputs[0].Buffer)
	assert.Empty(t, failures(cfg.Outputs[1].Faults))
	assert.Equal(t, hostconfig.Unchecked, cfg.Outputs[1].Faults[0].Severity)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries)
}

// Several files make one configuration.
func TestTelegrafFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "telegraf.d", "..data"), 0o700))
	for name, text := range map[string]string{"telegraf.conf": "[agent]\n  flush_interval = \"40s\"\n", "telegraf.d/a.conf": telegrafOutput(t, "a", ""), "telegraf.d/b.conf": telegrafOutput(t, "b", ""),
		"telegraf.d/c.conf.off": telegrafOutput(t, "c", ""), "telegraf.d/..data/a.conf": telegrafOutput(t, "a", "")} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	cfg := load(t, nil, filepath.Join(dir, "telegraf.conf"), filepath.Join(dir, "telegraf.d"))
	require.Len(t, cfg.Outputs, 2)
	assert.Equal(t, hostconfig.Telegraf, cfg.Host)
	for i, o := range cfg.Outputs {
		assert.Contains(t, o.Where, []string{"a.conf:1", "b.conf:1"}[i])
		assert.Empty(t, o.Faults)
		assert.Equal(t, 40*time.Second, o.Buffer.Flush) // the agent's, which is in another file
	}
	for host, want := range map[hostconfig.Host]hostconfig.Host{"": hostconfig.External, hostconfig.Telegraf: hostconfig.Telegraf} {
		cfg, err := hostconfig.Load([]string{filepath.Join(dir, "telegraf.d/a.conf")}, hostconfig.Options{Environment: environment, Host: host})
		require.NoError(t, err)
		assert.Equal(t, want, cfg.Host)
		assert.Empty(t, cfg.Outputs[0].Faults)
	}
	cfg, err := hostconfig.Load([]string{write(t, "ocems.conf", telegrafOutput(t, "a", "namepass = [\"x\"]"))}, hostconfig.Options{Environment: environment, Host: hostconfig.External})
	require.NoError(t, err)
	assert.Equal(t, []string{`"namepass" is Telegraf's own: set it in the [[outputs.execd]] block`}, failures(cfg.Outputs[0].Faults))
}
