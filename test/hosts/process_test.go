package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

// process is a host that runs as a built program.
type process struct {
	t       *testing.T
	start   func() *board.Program
	post    func(batch []reading)
	marked  bool // sent readings are on disk only when a later reading is in the log
	marks   int
	program *board.Program
	before  string // log of earlier runs
	counter func() int
}

func (p *process) send(batch []reading) { p.post(batch) }

// flush sends readings of unknown devices, which the log names. The second of two is in a later write than the readings before
// the first.
func (p *process) flush() {
	for range 2 {
		if p.marks++; p.marked {
			id := fmt.Sprintf("mark-%d-", p.marks)
			p.post([]reading{{name: "cod", value: 1, at: base, unit: "mg/L", device: id}})
			p.program.Says(id)
		}
	}
}

func (p *process) kill() {
	p.program.Kill()
	p.before += p.program.Log()
	p.program = p.start()
}

func (p *process) stop() { p.program.Stop() }

func (p *process) duplicates() int {
	if p.counter == nil {
		return -1
	}
	return p.counter()
}

func (p *process) log() string { return p.before + p.program.Log() }

// post sends a request that the program must accept.
func post(t *testing.T, url, kind string, body []byte) {
	t.Helper()
	resp, err := board.Client.Post(url, kind, bytes.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	require.Less(t, resp.StatusCode, 300, "%s: %s", url, answer)
}

// lastNumber returns the group of the last match of a pattern in a file as a number, or 0 without a match.
func lastNumber(t *testing.T, file, pattern string) (n int) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	if all := regexp.MustCompile(pattern).FindAllSubmatch(text, -1); all != nil {
		n, err = strconv.Atoi(string(all[len(all)-1][1]))
		require.NoError(t, err)
	}
	return n
}

// scraped returns the sum of the collector's counters of duplicates. Each must have the version of its scope.
func scraped(t *testing.T, url string) (n int) {
	resp, err := board.Client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`(?m)^\w+_duplicate_samples\{\S*otel_scope_version="[^"]+"\S* (\d+)$`).FindAllSubmatch(text, -1) {
		one, err := strconv.Atoi(string(found[1]))
		require.NoError(t, err)
		n += one
	}
	return n
}

// telegrafProcess starts a Telegraf with the built-in output and an input for line protocol.
func telegrafProcess(t *testing.T, p plant, at place) host {
	binary, address := board.Built(t, "OCEMS_TELEGRAF"), loopback.Addr(t)
	config, counters := filepath.Join(at.dir, "telegraf.conf"), filepath.Join(at.dir, "counters.json")
	board.Write(t, config, fmt.Sprintf(`[agent]
  interval = "1s"
  flush_interval = "100ms"
  metric_buffer_limit = 1000000
  omit_hostname = true
[[inputs.http_listener_v2]]
  service_address = "tcp://%s"
  paths = ["/write"]
  data_format = "influx"
[[inputs.internal]]
  collect_memstats = false
[[outputs.file]]
  files = [%q]
  data_format = "json"
  namepass = ["internal_ocems"]
`, address, counters)+p.toml(at))
	h := &process{t: t, marked: true, counter: func() int { return lastNumber(t, counters, `"samples_duplicate":(\d+)`) }}
	h.start = func() *board.Program {
		program := board.Start(t, at.dir, nil, binary, "--config", config)
		board.Listens(t, address)
		return program
	}
	h.post = func(batch []reading) { post(t, "http://"+address+"/write", "text/plain", []byte(lines(batch))) }
	h.program = h.start()
	return h
}

// externalProcess starts the external plugin. Its input is a named pipe that stays when it is killed.
func externalProcess(t *testing.T, p plant, at place) host {
	binary := board.Built(t, "OCEMS_TELEGRAF_EXTERNAL")
	config, pipe := filepath.Join(at.dir, "ocems.conf"), filepath.Join(at.dir, "pipe")
	board.Write(t, config, p.toml(at))
	require.NoError(t, exec.Command("mkfifo", pipe).Run())
	in, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { in.Close() })
	h := &process{t: t, marked: true}
	h.start = func() *board.Program {
		return board.Start(t, at.dir, nil, "sh", "-c", `exec "$0" --config "$1" <"$2"`, binary, config, pipe)
	}
	h.post = func(batch []reading) {
		_, err := in.WriteString(lines(batch))
		require.NoError(t, err)
	}
	h.program = h.start()
	return h
}

// collectorProcess starts a collector with only the exporter, or also with the processor.
func collectorProcess(processors ...string) func(t *testing.T, p plant, at place) host {
	return func(t *testing.T, p plant, at place) host {
		binary, address, metrics := board.Built(t, "OCEMS_COLLECTOR"), loopback.Addr(t), loopback.Addr(t)
		_, port, _ := strings.Cut(metrics, ":")
		number, err := strconv.Atoi(port)
		require.NoError(t, err)
		type object = map[string]any
		conf := object{
			"receivers":  object{"otlp": object{"protocols": object{"http": object{"endpoint": address}}}},
			"exporters":  object{"ocems": p.exporter(at)},
			"extensions": object{"ocems_storage": object{"directory": filepath.Join(at.state(), "storage")}},
			"service": object{
				"extensions": []string{"ocems_storage"},
				"pipelines":  object{"metrics": object{"receivers": []string{"otlp"}, "processors": processors, "exporters": []string{"ocems"}}},
				"telemetry": object{"logs": object{"sampling": object{"enabled": false}}, "metrics": object{"readers": []any{object{"pull": object{"exporter": object{
					"prometheus": object{"host": "127.0.0.1", "port": number, "without_scope_info": false, "without_units": true}}}}}}},
			},
		}
		if processors != nil {
			conf["processors"] = object{"ocems_slot": p.processor(at)}
		}
		config := filepath.Join(at.dir, "collector.yaml")
		board.Write(t, config, asJSON(conf))
		h := &process{t: t, counter: func() int { return scraped(t, "http://"+metrics+"/metrics") }}
		h.start = func() *board.Program {
			program := board.Start(t, at.dir, nil, binary, "--config", config)
			board.Listens(t, address)
			return program
		}
		h.post = func(batch []reading) {
			body, err := pmetricotlp.NewExportRequestFromMetrics(otlp(batch)).MarshalProto()
			require.NoError(t, err)
			post(t, "http://"+address+"/v1/metrics", "application/x-protobuf", body)
		}
		h.program = h.start()
		return h
	}
}

// programs are the hosts as built programs.
var programs = map[string]func(t *testing.T, p plant, at place) host{
	"telegraf":           telegrafProcess,
	"external":           externalProcess,
	"exporter":           collectorProcess(),
	"processor-exporter": collectorProcess("ocems_slot"),
}

// TestPrograms runs the table with the built programs.
func TestPrograms(t *testing.T) {
	for name, start := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			carryOut(t, start)
		})
	}
}
