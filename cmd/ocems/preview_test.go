package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/test/loopback"
)

func TestPreview(t *testing.T) {
	text := telegrafText(t, "dry_run = true", "min_coverage = 0.5", `below_min_coverage = "wait"`) + `
  [[outputs.ocems.device]]
    station_id = "station_2"
    device_id = "dev_2"
    token_id = "${VARIABLE_OF_THE_SERVICE}"
    latitude = 19.076
`
	config := write(t, "telegraf.conf", text)
	if code, out, errs := quiet(t, "preview", "--config", config); code != 0 || !strings.Contains(out, "nothing waits: ") || errs != "" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	stamp := time.Date(2026, 11, 23, 10, 15, 0, 0, spec.IST)
	now := time.Now().Truncate(spec.SlotLength)
	point := reading("so2", 3.5, "mg/Nm³", now)
	point.Flag = 'Z'
	diagnostic := reading("pm", 0.00001, "mg/Nm³", now)
	diagnostic.Diagnostic = true
	few, fewToo := reading("cod", 1, "mg/L", stamp.Add(-spec.SlotLength)), reading("ph", 1, "pH", stamp)
	few.Minutes, fewToo.Minutes = 4, 4 // a person is to decide
	// The database is open and locked, as with a running host.
	outbox(t, text,
		payload.Record{StationID: "x", DeviceID: "dev_1", Readings: []payload.Reading{few, fewToo, reading("cod", 31.5, "mg/L", stamp), reading("bod", 1e21, "mg/L", stamp), reading("cod", 32, "mg/L", stamp.Add(spec.SlotLength))}},
		payload.Record{StationID: "x", DeviceID: "dev_2", Readings: []payload.Reading{reading("so2", 40, "mg/Nm³", now), point, diagnostic}},
		payload.Record{StationID: "x", DeviceID: "gone", Readings: []payload.Reading{reading("ph", 7, "pH", now)}})

	code, out, errs := quiet(t, "preview", "--config", config)
	if code != 0 || errs != "" {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	for _, want := range []string{
		"dry_run is set: the host logs the requests and sends nothing",
		"station_1 / dev_1: slots waiting 3, the oldest 2026-11-23 10:00:00 IST\n",
		"older slots that are not sent because their readings cover fewer minutes than min_coverage requires: 1\n",
		"parameter  value                   unit  flag  stamp\n" +
			"bod        1000000000000000000000  mg/L  U     2026-11-23 10:15:00 IST\n" +
			"cod        31.5                    mg/L  U     2026-11-23 10:15:00 IST\n",
		`"timestamp": 1795409100000,`,
		"station_2 / dev_2: slots waiting 1",
		"request 1 of 2",
		"request 2 of 2",
		"diagnostic",
		`"latitude": 19.076`,
		"(not configured) / gone: slots waiting 1",
		"the configuration does not have this device",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "longitude") || strings.Contains(out, "nothing waits") {
		t.Error(out)
	}

	code, out, errs = quiet(t, "preview", "--json", "--config", config)
	want := `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` +
		`{"parameter":"bod","value":1000000000000000000000,"unit":"mg/L","timestamp":1795409100000,"flag":"U"},` +
		`{"parameter":"cod","value":31.5,"unit":"mg/L","timestamp":1795409100000,"flag":"U"}]}]}]}`
	if lines := strings.Split(out, "\n"); code != 0 || len(lines) != 4 || lines[0] != want || !strings.Contains(errs, "slots waiting 3") {
		t.Errorf("exit %d:\n%swant\n%s\n%s", code, out, want, errs)
	}
	code, out, _ = quiet(t, "preview", "--json", "--device", "dev_2", "--config", config)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 2 || !strings.Contains(lines[0], `"diag_params":[{"parameter":"pm","value":0.00001,`) || !strings.Contains(lines[1], `"flag":"Z"`) {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out, _ = quiet(t, "preview", "--device", "gone", "--config", config); code != 0 || !strings.Contains(out, "ph ") || strings.Contains(out, "dev_1") {
		t.Errorf("exit %d: %s", code, out)
	}
	old := strings.Replace(text, "/state\"", "/old\"", 1)
	outbox(t, old,
		payload.Record{StationID: "x", DeviceID: "dev_1", Readings: []payload.Reading{reading("cod", 1, "mg/L", now.Add(-8*24*time.Hour))}})
	if code, out, _ = quiet(t, "preview", "--config", write(t, "telegraf.conf", old)); code != 0 || !strings.Contains(out, "the oldest is more than 7 days old") {
		t.Errorf("exit %d: %s", code, out)
	}
	two := write(t, "telegraf.conf", text+strings.Replace(text[strings.Index(text, "[[outputs.ocems]]"):], "/state\"", "/state2\"", 1))
	if code, out, errs = quiet(t, "preview", "--device", "dev_3", "--config", two); code != 3 || strings.Count(errs, "dev_1") != 1 || strings.Contains(out, "waits to be sent") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	memory := write(t, "telegraf.conf", regexp.MustCompile(`state_directory.*`).ReplaceAllString(text, ""))
	if code, out, _ = quiet(t, "preview", "--config", memory); code != 0 || !strings.Contains(out, "in the host's memory") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// A collector that makes slots for a vendor's collector has no outbox. Its open windows are shown while it runs.
func TestPreviewOfTheProcessor(t *testing.T) {
	dir := t.TempDir()
	config := write(t, "plant.yaml", `
receivers: {otlp: {}}
processors:
  ocems_slot:
    storage: ocems_storage
    audit_file: `+dir+`/audit.jsonl
    devices: [{station_id: station_1, device_id: dev_1, parameters: [{metric: m, parameter: cod, unit: mg/L}]}, {station_id: station_1, device_id: dev_2}]
exporters: {otlphttp: {endpoint: http://vendor, sending_queue: {enabled: false}}}
extensions: {ocems_storage: {directory: `+dir+`}}
service:
  extensions: [ocems_storage]
  pipelines: {metrics: {receivers: [otlp], processors: [ocems_slot], exporters: [otlphttp]}}
`)
	if code, out, errs := quiet(t, "preview", "--config", config); code != 0 || !strings.Contains(out, "does not exist yet") || errs != "" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	file, err := store.Open(filepath.Join(dir, "processor_ocems_slot_"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	names := registry.Config{NamesOnly: true, Words: registry.Collector, Devices: []registry.DeviceConfig{
		{StationID: "station_1", DeviceID: "dev_1", Parameters: []registry.ParameterConfig{{Metric: "m", Parameter: "cod", Unit: "mg/L"}}}}}
	e, err := engine.Open(t.Context(), engine.Config{Slots: options.DefaultSlots(), Names: names, Store: file, Logger: slog.New(slog.DiscardHandler),
		Next: func(context.Context, uint8, []slot.Slot) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	start, end := spec.Window(time.Now(), spec.SlotLength)
	batch := e.NewBatch()
	for i := range 3 {
		batch.Add(engine.Reading{Metric: registry.Metric{Name: "m", Attr: func(string) (string, bool) { return "", false }}, Time: start.Add(time.Duration(i) * time.Millisecond), Value: 1})
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "open slot " + spec.ISTString(end) + ": parameters 1, readings so far 3\n"
	if code, out, errs := quiet(t, "preview", "--device", "dev_1", "--config", config); code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "it does not deliver to the board") || errs != "" {
		t.Errorf("exit %d: %s%s, want %s", code, out, errs, want)
	}
	if code, out, _ := quiet(t, "preview", "--device", "dev_2", "--config", config); code != 0 || !strings.Contains(out, "open slots: none") {
		t.Errorf("exit %d: %s", code, out)
	}
	checks, code := diagnose(t, "--offline", "--config", config)
	if wants(t, checks, "state", "ok", "open windows 1"); code != 0 {
		t.Errorf("exit %d: %v", code, checks)
	}
}

// listening is the board's server. It records each decrypted body before it checks it.
type listening struct {
	board  *simulator.Server
	mu     sync.Mutex
	bodies map[string][]string // by device, in order of arrival
}

func (l *listening) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if text, wrong := seal.Open(token, body); err == nil && wrong == nil {
		device := r.Header.Get("X-Device-Id")
		l.mu.Lock()
		l.bodies[device] = append(l.bodies[device], string(text))
		l.mu.Unlock()
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	l.board.ServeHTTP(w, r)
}

func (l *listening) first(device string, n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bodies[device][:min(n, len(l.bodies[device]))]
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}

type sample struct {
	device, parameter, flag string
	at                      time.Time
	value                   float64
}

// day is the readings of three slots, with a zero calibration in the last half minute of the first.
func day(start time.Time) (list []sample) {
	for at := start; at.Before(start.Add(3 * spec.SlotLength)); at = at.Add(10 * time.Second) {
		for _, p := range []string{"cod", "bod"} {
			list = append(list, sample{"dev_1", p, "U", at, 100.0 / 3 * float64(1+at.Unix()%7)})
		}
		flag := "U"
		if age := at.Sub(start); age >= spec.SlotLength-spec.CalibrationLength && age < spec.SlotLength {
			flag = "Z"
		}
		list = append(list, sample{"dev_2", "so2", flag, at, 1.0 / 3 * float64(at.Unix()%11)})
	}
	return list
}

func influx(list []sample) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "plant,ocems_device_id=%s,ocems_flag=%s,ocems_unit=mg/L %s=%v %d\n", s.device, s.flag, s.parameter, s.value, s.at.UnixNano())
	}
	return strings.ReplaceAll(b.String(), "ocems_unit=mg/L so2", "ocems_unit=mg/Nm3 so2")
}

func otlp(t *testing.T, list []sample) []byte {
	text := func(key, value string) map[string]any {
		return map[string]any{"key": key, "value": map[string]any{"stringValue": value}}
	}
	points := map[string][]any{}
	for _, s := range list {
		points[s.parameter] = append(points[s.parameter], map[string]any{"timeUnixNano": fmt.Sprint(s.at.UnixNano()), "asDouble": s.value,
			"attributes": []any{text("ocems.device.id", s.device), text("ocems.flag", s.flag)}})
	}
	var metrics []any
	for name, p := range points {
		unit := "mg/L"
		if name == "so2" {
			unit = "mg/Nm3"
		}
		metrics = append(metrics, map[string]any{"name": name, "unit": unit, "gauge": map[string]any{"dataPoints": p}})
	}
	body, err := json.Marshal(map[string]any{"resourceMetrics": []any{map[string]any{"scopeMetrics": []any{map[string]any{"metrics": metrics}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

const twoDevices = `
stations:
  - id: station_1
    devices: [{id: dev_1, token: ` + token + `}]
  - id: station_2
    devices:
      - {id: dev_2, token: ` + token + `, calibrations: [{from: -8h, to: 8h}]}
`

// Preview shows, while a real host runs without the board, exactly the bytes that the board decrypts later.
func TestPreviewIsWhatIsSent(t *testing.T) {
	for _, host := range []struct {
		name, variable string
		start          func(t *testing.T, binary, dir, endpoint, key string, list []sample) (config string)
	}{
		{"ocems-telegraf", "OCEMS_TELEGRAF_EXTERNAL", startExternal},
		{"Telegraf", "OCEMS_TELEGRAF", startTelegraf},
		{"collector", "OCEMS_COLLECTOR", startCollector},
	} {
		t.Run(host.name, func(t *testing.T) {
			binary := os.Getenv(host.variable)
			if binary == "" {
				t.Skipf("%s names no program: make test builds one and sets it", host.variable)
			}
			t.Parallel()
			dir := t.TempDir()
			address := loopback.Addr(t)
			key, err := filepath.Abs(publicPath)
			if err != nil {
				t.Fatal(err)
			}
			start, _ := spec.Window(time.Now(), spec.SlotLength)
			readings := day(start.Add(-12 * spec.SlotLength))
			open := time.Since(start) < spec.SlotLength-time.Minute // otherwise it would close during the test
			if open {
				readings = append(readings, sample{"dev_1", "cod", "U", start, 5}, sample{"dev_1", "cod", "U", start.Add(time.Second), 6})
			}
			config := host.start(t, binary, dir, "http://"+address+"/v1.0/industry/data", key, readings)

			// All three slots, twice with the same result.
			var shown, text, before string
			until(t, "three slots wait for each device", func() bool {
				before = shown
				_, text, _ = quiet(t, "preview", "--config", config)
				_, shown, _ = quiet(t, "preview", "--json", "--config", config)
				return strings.Count(text, "slots waiting 3, ") == 2 && shown == before
			})
			_, diagnosis, _ := quiet(t, "doctor", "--offline", "--config", config)
			if !strings.Contains(diagnosis, "devices with waiting slots 2, slots 6") {
				t.Errorf("the doctor finds:\n%s", diagnosis)
			}

			private, err := os.ReadFile(privatePath)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := seal.ParsePrivateKey(string(private))
			if err != nil {
				t.Fatal(err)
			}
			stations, err := simulator.ParseRegistry([]byte(twoDevices), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			board, err := simulator.New(simulator.Config{PrivateKey: secret, Registry: stations})
			if err != nil {
				t.Fatal(err)
			}
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			l := &listening{board: board, bodies: map[string][]string{}}
			server := httptest.NewUnstartedServer(l)
			server.Listener.Close()
			server.Listener = listener
			server.Start()
			defer server.Close()

			until(t, "the next requests of both devices arrive", func() bool { return len(l.first("dev_1", 1)) == 1 && len(l.first("dev_2", 2)) == 2 })
			sent := strings.Join(append(l.first("dev_1", 1), l.first("dev_2", 2)...), "\n") + "\n"
			if shown != sent {
				t.Errorf("preview showed\n%sand this was sent\n%s", shown, sent)
			}
			if n := strings.Count(sent, `"parameter"`); n != 4 || !strings.Contains(sent, `"flag":"Z"`) {
				t.Errorf("the requests hold %d readings: %s", n, sent)
			}
			until(t, "nothing waits any more", func() bool {
				_, out, _ := quiet(t, "preview", "--config", config)
				return strings.Contains(out, "nothing waits to be sent") && (!open || strings.Contains(out, "parameters 1, readings so far 2"))
			})
		})
	}
}

// run starts a host, and ends it with the test.
func runHost(t *testing.T, dir string, in io.Reader, argv ...string) {
	t.Helper()
	command := exec.Command(argv[0], argv[1:]...)
	log, err := os.Create(filepath.Join(dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	command.Stdin, command.Stdout, command.Stderr, command.Dir = in, log, log, dir
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the host's log:\n%.4000s", text)
		}
	})
}

func outputText(dir, endpoint, key string) string {
	return fmt.Sprintf(`
[[outputs.ocems]]
  endpoint = %q
  state_directory = %q
  public_key_file = %q
  grace = "1s"
  settle = "2s"
  coalesce = "1s"
  spread = "100ms"
  initial_backoff = "200ms"
  max_backoff = "500ms"
  [[outputs.ocems.device]]
    station_id = "station_1"
    device_id = "dev_1"
    token_id = %[4]q
    latitude = 19.0760
    [[outputs.ocems.device.parameter]]
      metric = "plant"
      field = "cod"
      unit = "mg/l"
      decimals = 2
      tags = {ocems_device_id = "dev_1"}
  [[outputs.ocems.device]]
    station_id = "station_2"
    device_id = "dev_2"
    token_id = %[4]q
`, endpoint, filepath.Join(dir, "state"), key, token)
}

func startExternal(t *testing.T, binary, dir, endpoint, key string, list []sample) string {
	config := write(t, "ocems.conf", outputText(dir, endpoint, key))
	in, out := io.Pipe()
	runHost(t, dir, in, binary, "--config", config)
	t.Cleanup(func() { out.Close() }) // before the host is waited for
	if _, err := io.WriteString(out, influx(list)); err != nil {
		t.Fatal(err)
	}
	return config
}

func startTelegraf(t *testing.T, binary, dir, endpoint, key string, list []sample) string {
	history := write(t, "history.influx", influx(list))
	config := write(t, "telegraf.conf", fmt.Sprintf(`[agent]
  interval = "1s"
  flush_interval = "1s"
  round_interval = false
  omit_hostname = true
  metric_buffer_limit = 100000
[[inputs.file]]
  interval = "24h"
  files = [%q]
  data_format = "influx"
`, history)+outputText(dir, endpoint, key))
	runHost(t, dir, nil, binary, "--config", config)
	return config
}

func startCollector(t *testing.T, binary, dir, endpoint, key string, list []sample) string {
	address := loopback.Addr(t)
	config := write(t, "config.yaml", fmt.Sprintf(`
receivers:
  otlp: {protocols: {http: {endpoint: "%s"}}}
exporters:
  "ocems/board#1":
    endpoint: %s
    public_key_file: %s
    storage: ocems_storage/plants
    audit_file: %s/audit.jsonl
    grace: 1s
    settle: 2s
    spread: 100ms
    initial_backoff: 200ms
    max_backoff: 500ms
    devices:
      - {station_id: station_1, device_id: dev_1, token_id: "%[5]s", latitude: 19.0760, parameters: [{metric: cod, unit: mg/l, decimals: 2}]}
      - {station_id: station_2, device_id: dev_2, token_id: "%[5]s"}
extensions:
  ocems_storage/plants: {directory: %[4]s/storage}
service:
  telemetry: {metrics: {level: none}}
  extensions: [ocems_storage/plants]
  pipelines:
    metrics: {receivers: [otlp], exporters: ["ocems/board#1"]}
`, address, endpoint, key, dir, token))
	runHost(t, dir, nil, binary, "--config", config)
	until(t, "the collector takes metrics", func() bool {
		resp, err := http.Post("http://"+address+"/v1/metrics", "application/json", bytes.NewReader(otlp(t, list)))
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return config
}

// A relative path is of the working directory, which may not be the service's.
func TestPreviewOfARelativeState(t *testing.T) {
	config := write(t, "t.conf", regexp.MustCompile(`state_directory = .*`).ReplaceAllString(telegrafText(t), `state_directory = "no-such-state"`))
	code, out, errs := quiet(t, "preview", "--config", config)
	if want := "/no-such-state/state.db (relative to the working directory"; code != 0 || !strings.Contains(filepath.ToSlash(out), want) {
		t.Errorf("exit %d: %s%s, want %s", code, out, errs, want)
	}
}
