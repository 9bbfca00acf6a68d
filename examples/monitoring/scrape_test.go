package monitoring_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	deadline = 40 * time.Second
	length   = 15 * time.Minute // of a slot
	testKeys = "../../ocems/seal/testdata/industry_test_"
	token    = "test-token-0000000000000000000000000000001"
)

// Devices that the simulated board has registered. The token of the held device differs in the host's devices_file.
var devices = []string{"good-1", "held-1", "calibrating-1", "waiting-1", "lost-1"}

const heldDevice = "held-1"

// twelve are the instruments of one device, and their faults.
var twelve = []struct{ parameter, entry, alert string }{
	{"cod", "", ""}, {"bod", "", "OcemsParameterSilent"}, {"tss", "", "OcemsParameterNeverSeen"}, {"toc", "valid_max: 0.5", "OcemsParameterExcluded"},
	{"ph", "", "OcemsParameterRefused"}, // which the board does not know
	{"do", "flat_line_after: 1h", "OcemsParameterFlat"}, {"no3-n", "limit_high: 0.5", "OcemsParameterLimit"},
	{"tds", "", ""}, {"cl", "", ""}, {"fluoride", "", ""}, {"ni", "", ""}, {"hg", "", ""},
}

const twelveDevice = "twelve-1"

// The order matters: a request gets the first fault for its device. In all answers the clock is two minutes ahead.
const faults = `[
	{"device": "waiting-1", "status": 117, "clock_offset": "2m"},
	{"device": "lost-1", "after_store": true, "close": true, "count": 1},
	{"clock_offset": "2m"}]`

// sample is a reading of an instrument.
type sample struct {
	device, parameter, unit, flag string
	at                            time.Time
	finished                      bool // a slot that was made upstream
}

// watched is a host that reports to a simulated board, with a Prometheus that scrapes it.
type watched struct {
	*testing.T
	host                     string
	program, tool, server    string // paths of the host, ocems and Prometheus
	dir                      string
	board, input, prometheus string        // addresses
	metrics                  string        // the instance
	off                      time.Duration // offset of the clocks of all programs except Prometheus
	environment              []string
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func newWatched(t *testing.T, host string) *watched {
	t.Helper()
	w := &watched{T: t, host: host, dir: t.TempDir(), server: prometheus(t, "prometheus"), program: board.Built(t, "OCEMS_"+strings.ToUpper(host)),
		tool: filepath.Join(board.Built(t, "OCEMS_BIN"), "ocems"), board: loopback.Addr(t), input: loopback.Addr(t), prometheus: loopback.Addr(t), metrics: loopback.Addr(t)}
	public, err := filepath.Abs(testKeys + "public.pem")
	if err != nil {
		t.Fatal(err)
	}
	w.environment = []string{"OCEMS_ENDPOINT=http://" + w.board + board.Path, "OCEMS_PUBLIC_KEY_FILE=" + public,
		"OCEMS_DEVICES_FILE=" + filepath.Join(w.dir, "devices.yaml"), "OCEMS_STATE=" + filepath.Join(w.dir, "state"),
		"OCEMS_METRICS_PORT=" + port(w.metrics), "OCEMS_OTLP_PORT=" + port(w.input), "OCEMS_INPUT_PORT=" + port(w.input)}
	return w
}

// run starts a program.
func (w *watched) run(argv ...string) *board.Program {
	w.Helper()
	p := board.StartAt(w.T, w.off, w.dir, w.environment, argv...)
	w.Cleanup(func() {
		p.Stop()
		if strings.Contains(p.Log(), token) {
			w.Errorf("a token is in the log of %s", filepath.Base(argv[0]))
		}
	})
	return p
}

// simulate starts the board.
func (w *watched) simulate(registry string) {
	w.Helper()
	key, err := filepath.Abs(testKeys + "private.pem")
	if err != nil {
		w.Fatal(err)
	}
	w.run(w.tool, "simulate", "--listen", w.board, "--registry", w.write("registry.yaml", registry), "--private-key", key)
	w.await("the board answers", func() bool { return w.get("http://"+w.board+"/received", nil) == nil })
}

// configure writes the host's configuration, with short waits. With units, the host's metrics have the names of Prometheus' own
// conventions.
func (w *watched) configure(units bool) string {
	w.Helper()
	if w.host == "telegraf" {
		return w.write("telegraf.conf", replace(w.T, read(w.T, "telegraf.conf"),
			`interval = "10s"`, `interval = "1s"`, "[[outputs.prometheus_client]]\n", "[[outputs.prometheus_client]]\n  expiration_interval = \"5s\"\n",
			"[[outputs.ocems]]\n", "[[outputs.ocems]]\n  settle = \"1s\"\n  coalesce = \"200ms\"\n  spread = \"100ms\"\n  initial_backoff = \"200ms\"\n"))
	}
	text := read(w.T, "collector.yaml")
	if units {
		text = regexp.MustCompile(`(?m)^ *without_.*\n`).ReplaceAllString(text, "")
	}
	return w.write("collector.yaml", replace(w.T, text,
		"  ocems:\n", "  ocems:\n    settle: 1s\n    coalesce: 200ms\n    spread: 100ms\n    initial_backoff: 200ms\n"))
}

// start starts the host.
func (w *watched) start(config string) *board.Program {
	w.Helper()
	p := w.run(w.program, "--config", config)
	w.await("the host shows its metrics", func() bool { return w.get("http://"+w.metrics+"/metrics", nil) == nil })
	return p
}

// scrape starts Prometheus, with rules that are edited.
func (w *watched) scrape(edit func(rules string) string) {
	w.Helper()
	for _, h := range hosts {
		name := "ocems-" + h + ".rules.yaml"
		w.write(name, edit(read(w.T, name)))
	}
	mine, other := "localhost:8888", "localhost:9273"
	if w.host == "telegraf" {
		mine, other = other, mine
	}
	config := w.write("prometheus.yml", replace(w.T, read(w.T, "prometheus.yml"), "scrape_interval: 15s", "scrape_interval: 1s",
		"evaluation_interval: 15s", "evaluation_interval: 1s", mine, w.metrics, other, loopback.Addr(w.T)))
	board.Start(w.T, w.dir, nil, w.server, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(w.dir, "tsdb"), "--web.listen-address="+w.prometheus, "--log.level=warn")
	w.await("Prometheus has scraped the host", func() bool {
		s, err := w.query(`up == 1`)
		return err == nil && len(s) == 1 && s[0].labels["instance"] == w.metrics
	})
}

// watch starts board, host and Prometheus.
func watch(t *testing.T, host string, units bool) *watched {
	t.Helper()
	w := newWatched(t, host)
	registry, list := "stations:\n  - id: plant\n    devices:\n", "devices:\n"
	for _, d := range append(slices.Clone(devices), twelveDevice) {
		known := ""
		for _, p := range twelve {
			if d == twelveDevice && p.alert != "OcemsParameterRefused" {
				known += p.parameter + ": [], "
			}
		}
		if known != "" {
			known = ", parameters: {" + known + "}"
		}
		registry += fmt.Sprintf("      - {id: %s, token: %s%s}\n", d, token, known)
		given := token
		if d == heldDevice {
			given = strings.Repeat("0", len(token))
		}
		list += fmt.Sprintf("  - {station_id: plant, device_id: %s, token_id: %q", d, given)
		if d != twelveDevice {
			list += "}\n"
			continue
		}
		list += ", parameters: [\n"
		for _, p := range twelve {
			entry := "metric: twelve." + p.parameter
			if host == "telegraf" {
				entry = "metric: twelve, field: " + p.parameter
			}
			list += fmt.Sprintf("      {%s, parameter: %s, unit: mg/L, %s},\n", entry, p.parameter, p.entry)
		}
		list += "  ]}\n"
	}
	w.reportedBefore()
	w.simulate(registry)
	if err := w.post(w.board, "/faults", "application/json", faults); err != nil {
		t.Fatal(err)
	}
	w.write("devices.yaml", list)
	w.start(w.configure(units))
	w.scrape(func(rules string) string { return rules })
	return w
}

// reportedBefore writes a state in which the host reported all of the twelve except one, two hours ago.
func (w *watched) reportedBefore() {
	w.Helper()
	at := time.Now().Add(-2 * time.Hour).Truncate(length).UTC()
	d := status.Device{Station: "plant", ID: twelveDevice}
	value := 0.0 // the same value as in parameters
	for _, p := range twelve {
		x := status.Parameter{Parameter: p.parameter, Unit: "mg/L", Due: at.Add(-time.Hour)}
		if p.alert != "OcemsParameterNeverSeen" {
			if p.alert != "OcemsParameterSilent" {
				value++
			}
			x.Reading, x.Slot, x.Delivered = &status.Reading{At: at, Value: value}, &status.Slot{Stamp: at, Value: value, Flag: "U"}, &at
			x.Flat = &status.Flat{Since: at, Slots: 1}
		}
		d.Parameters = append(d.Parameters, x)
	}
	state := filepath.Join(w.dir, "state", "state.db")
	if w.host == "collector" {
		state = filepath.Join(w.dir, "state", "storage", "exporter_ocems_")
	}
	if err := os.MkdirAll(filepath.Dir(state), 0o700); err != nil {
		w.Fatal(err)
	}
	if err := (&status.Host{Written: at, Devices: []status.Device{d}}).Write(status.Path(state)); err != nil {
		w.Fatal(err)
	}
}

// replace replaces each old text by the new text that follows it. The old text must exist.
func replace(t *testing.T, text string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("%q is not in the file any more", oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return text
}

func (w *watched) write(name, text string) string {
	w.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *watched) await(what string, ok func() bool) { w.Helper(); board.Until(w.T, what, ok) }

func (w *watched) post(address, path, kind, body string) error {
	resp, err := board.Client.Post("http://"+address+path, kind, strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

func (w *watched) get(address string, into any) error {
	resp, err := http.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// feed gives the host samples in the format of its input.
func (w *watched) feed(samples ...sample) {
	w.Helper()
	path, kind, body := "/readings", "text/plain", ""
	if w.host == "telegraf" {
		for i, s := range samples {
			name := "analyser,ocems_device_id=" + s.device
			if s.device == twelveDevice {
				name = "twelve"
			}
			body += fmt.Sprintf("%s,ocems_unit=%s,ocems_flag=%s %s=%d %d\n", name, s.unit, s.flag, s.parameter, i+1, s.at.UnixNano())
		}
	} else {
		type m = map[string]any
		var metrics []m
		for i, s := range samples {
			var more []m
			if s.finished {
				more = []m{{"key": "ocems.samples", "value": m{"intValue": "1"}}}
			}
			attribute := func(key, value string) m { return m{"key": key, "value": m{"stringValue": value}} }
			name := s.parameter
			if s.device == twelveDevice {
				name = "twelve." + name
			}
			metrics = append(metrics, m{"name": name, "unit": s.unit, "gauge": m{"dataPoints": []m{{
				"timeUnixNano": strconv.FormatInt(s.at.UnixNano(), 10), "asDouble": i + 1,
				"attributes": append(more, attribute("ocems.device.id", s.device), attribute("ocems.flag", s.flag)),
			}}}})
		}
		text, err := json.Marshal(m{"resourceMetrics": []m{{"scopeMetrics": []m{{"metrics": metrics}}}}})
		if err != nil {
			w.Fatal(err)
		}
		path, kind, body = "/v1/metrics", "application/json", string(text)
	}
	w.await("the host takes the samples", func() bool { return w.post(w.input, path, kind, body) == nil })
}

// accepted is the number of readings that the board has.
func (w *watched) accepted() int {
	w.Helper()
	var got struct{ Accepted int }
	if err := w.get("http://"+w.board+"/received", &got); err != nil {
		w.Fatal(err)
	}
	return got.Accepted
}

// series is one series of an answer, with its last value.
type series struct {
	labels map[string]string
	value  float64
}

// ask asks Prometheus as Grafana does: for now, or for the last five minutes.
func (w *watched) ask(query string, overTime bool) ([]series, error) {
	path, form := "/api/v1/query", url.Values{"query": {query}}
	if overTime {
		now := time.Now() // whole seconds would leave out the last scrape
		path = "/api/v1/query_range"
		form.Set("start", now.Add(-5*time.Minute).Format(time.RFC3339Nano))
		form.Set("end", now.Format(time.RFC3339Nano))
		form.Set("step", "1")
	}
	var got struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  []any
				Values [][]any
			}
		}
		Warnings []string
	}
	if err := w.get("http://"+w.prometheus+path+"?"+form.Encode(), &got); err != nil {
		return nil, err
	}
	if len(got.Warnings) > 0 {
		return nil, fmt.Errorf("warnings: %q", got.Warnings)
	}
	var all []series
	for _, r := range got.Data.Result {
		last := r.Value
		if overTime {
			last = r.Values[len(r.Values)-1]
		}
		v, err := strconv.ParseFloat(last[1].(string), 64)
		if err != nil {
			return nil, err
		}
		all = append(all, series{r.Metric, v})
	}
	return all, nil
}

func (w *watched) query(query string) ([]series, error) { return w.ask(query, false) }

// substitute replaces the variables as Grafana does, with all instances or with one.
func (w *watched) substitute(expr string, one bool) string {
	instance := ".*"
	if one {
		instance = regexp.QuoteMeta(w.metrics)
		instance = strings.ReplaceAll(instance, `\`, `\\`)
	}
	return strings.NewReplacer("$__range", "3600s", "$instance", instance, "$state_directory", ".*").Replace(expr)
}

// play feeds samples with which every query has data. It feeds them in two parts, so that counters change between two scrapes. It
// returns the values that the dashboards must show, by the panel's title and refId: the value of the only series, or of the series
// with this label.
func (w *watched) play() map[string]float64 {
	now := time.Now()
	at := now.Truncate(length).Add(-2 * time.Hour).Add(time.Minute)
	long := at.Add(-6*24*time.Hour + 3*time.Hour)
	u := func(device, parameter string, at time.Time) sample {
		return sample{device, parameter, "mg/L", "U", at, false}
	}
	w.feed(u("good-1", "cod", at), u("good-1", "bod", at), u(heldDevice, "cod", long), u("waiting-1", "cod", at))
	w.await("the board has the first slot", func() bool { return w.accepted() == 2 })
	w.settled(2, 2)
	next := at.Add(length)
	w.feed(u("good-1", "cod", next), u("good-1", "bod", next), u(heldDevice, "cod", next), u("waiting-1", "cod", next), u("lost-1", "tss", next),
		sample{"calibrating-1", "cod", "mg/L", "C", next, false}, sample{"calibrating-1", "cod", "mg/L", "C", next.Add(time.Minute), false})
	w.feed(u("good-1", "cod", at.Add(time.Second)))              // late
	w.feed(u("good-1", "cod", now.Add(10*time.Minute)))          // in the future
	w.feed(sample{"good-1", "cod", "furlong", "U", next, false}) // not a unit of the board
	w.feed(u("good-1", "speed", next))                           // not a parameter of the board
	w.await("the board has all slots", func() bool { return w.accepted() == 5 })
	w.settled(5, 6)
	if w.host == "collector" { // another value for a delivered slot, and a slot that is too old
		stamp := at.Truncate(length).Add(length)
		w.feed(sample{"good-1", "bod", "mg/L", "U", stamp, true}, sample{"good-1", "cod", "mg/L", "U", stamp.Add(-7 * 24 * time.Hour), true})
		w.await("both have an outcome", func() bool {
			s, err := w.query(`sum({__name__=~"otelcol_exporter_ocems_readings(_total)?", outcome=~"rejected|expired"}) == 2`)
			return err == nil && len(s) == 1
		})
	}
	want := map[string]float64{
		"Delivered A": float64(w.accepted()), "Slots waiting A": 6, "Devices held A": 2, "Clock skew A": 120,
		"Oldest undelivered A":                time.Since(long.Truncate(length).Add(length)).Seconds(),
		"Late and refused samples per hour A": 1,
	}
	if w.host == "collector" {
		maps.Copy(want, map[string]float64{
			"Delivered share A": 5. / 11, "Lost A": 2,
			"Final outcomes per hour A outcome=delivered": 4, "Final outcomes per hour A outcome=already_stored": 1,
			"Final outcomes per hour A outcome=rejected": 1, "Final outcomes per hour A outcome=expired": 1,
			"Late and refused samples per hour B reason=future": 1, "Late and refused samples per hour B reason=unit": 1, "Answers per hour A ok=true": 2, "Answers per hour A ok=false": 8,
			"Delivered and due per hour A": 4 * 6, "Delivered and due per hour B": 11, "Delivered and due per hour C": 5,
		})
	} else {
		maps.Copy(want, map[string]float64{
			"Delivered share A": 5. / 11, "Lost A": 0,
			"Final outcomes per hour A": 4, "Final outcomes per hour B": 1, "Final outcomes per hour C": 0, "Final outcomes per hour D": 0,
			"Final outcomes per hour E": 0, "Late and refused samples per hour B": 2, "Answers per hour A": 2, "Answers per hour B": 7,
			"Delivered and due per hour A": 4 * 6, "Delivered and due per hour B": 11, "Delivered and due per hour C": 5,
		})
	}
	return want
}

// settled waits until Prometheus has these numbers of delivered readings and of waiting slots.
func (w *watched) settled(delivered, waiting int) {
	w.Helper()
	query := `sum({__name__=~"otelcol_exporter_ocems_readings(_total)?", outcome=~"delivered|already_stored"}) == %d and sum(otelcol_exporter_ocems_outbox_slots) == %d`
	if w.host == "telegraf" {
		query = `sum({__name__=~"internal_ocems_readings_(delivered|already_stored)"}) == %d and sum(internal_ocems_outbox_slots) == %d`
	}
	query = fmt.Sprintf(query, delivered, waiting)
	w.await(query, func() bool { s, err := w.query(query); return err == nil && len(s) == 1 })
}

func TestScraped(t *testing.T) {
	for _, c := range []struct {
		name, host string
		units      bool
	}{{"collector", "collector", false}, {"collector with units in the names", "collector", true}, {"telegraf", "telegraf", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, c.host, c.units)
			want := w.play()
			w.alerts()
			w.panels(want)
			w.names(map[string]string{"collector": "exporter_ocems", "telegraf": "internal_"}[c.host])
			w.parameters()
		})
	}
}

// parameters feeds the twelve, and checks that only those in trouble have an alert.
func (w *watched) parameters() {
	now, want := time.Now(), map[string]string{}
	for back := range 4 {
		var all []sample
		at := now.Truncate(length).Add(-time.Duration(back) * length).Add(time.Millisecond)
		for _, p := range twelve {
			all = append(all, sample{twelveDevice, p.parameter, "mg/L", "U", at, false})
			if p.alert != "" {
				want[p.parameter] = p.alert
			}
		}
		// Each parameter has a constant value: its index.
		w.feed(slices.DeleteFunc(all, func(s sample) bool {
			return want[s.parameter] == "OcemsParameterSilent" || want[s.parameter] == "OcemsParameterNeverSeen"
		})...)
	}
	var got map[string]string
	for end := time.Now().Add(deadline); ; time.Sleep(100 * time.Millisecond) {
		found, err := w.query(`ALERTS{alertname=~"OcemsParameter.*", device="` + twelveDevice + `"}`)
		if err != nil {
			w.Fatal(err)
		}
		got = map[string]string{}
		for _, s := range found {
			got[s.labels["parameter"]] = s.labels["alertname"]
		}
		if maps.Equal(got, want) {
			break
		}
		if time.Now().After(end) {
			w.Fatalf("the alerts are %v, want %v", got, want)
		}
	}
}

// alerts checks each rule's expression, and the alerts of Prometheus, against the state after play.
func (w *watched) alerts() {
	expected := []string{"OcemsClockSkew", "OcemsDeviceHeld", "OcemsParameterNeverSeen", "OcemsParameterRefused", "OcemsParameterSilent", "OcemsSamplesLate", "OcemsSamplesRefused", "OcemsSlotsExpireSoon", "OcemsSlotsUndelivered"}
	if w.host == "collector" {
		expected = append(expected, "OcemsReadingsExpired", "OcemsReadingsRejected")
	}
	var got []string
	end := time.Now().Add(deadline)
	for slices.Sort(expected); ; time.Sleep(100 * time.Millisecond) {
		got = nil
		for _, r := range rules(w.T, w.host) {
			found, err := w.query(r.Expr)
			if err != nil {
				w.Fatalf("%s: %v", r.Alert, err)
			}
			if len(found) > 0 {
				got = append(got, r.Alert)
			}
		}
		if slices.Sort(got); slices.Equal(got, expected) {
			break
		}
		if time.Now().After(end) {
			w.Fatalf("the rules say %q, want %q", got, expected)
		}
	}
	type alert struct {
		Labels, Annotations map[string]string
		State               string
	}
	active := map[string]alert{}
	w.await("Prometheus holds the same alerts active", func() bool {
		var answer struct{ Data struct{ Alerts []alert } }
		if err := w.get("http://"+w.prometheus+"/api/v1/alerts", &answer); err != nil {
			w.Fatal(err)
		}
		clear(active)
		for _, a := range answer.Data.Alerts {
			if a.Labels["job"] == "ocems-"+w.host {
				active[a.Labels["alertname"]] = a
			}
		}
		return slices.Equal(slices.Sorted(maps.Keys(active)), expected)
	})
	for name, a := range active {
		w.Logf("%s: %s: %s", name, a.State, a.Annotations["summary"])
		if text := a.Annotations["summary"] + a.Annotations["description"]; !strings.HasPrefix(text, w.metrics+": ") || strings.Contains(text, "error expanding") {
			w.Errorf("%s says %q", name, text)
		}
		immediate := strings.HasPrefix(name, "OcemsReadings") || strings.HasPrefix(name, "OcemsSamples")
		if want := map[bool]string{true: "firing", false: "pending"}[immediate]; a.State != want {
			w.Errorf("%s is %s, want %s", name, a.State, want)
		}
	}
}

// panels runs every query of the dashboard.
func (w *watched) panels(want map[string]float64) {
	d, seen := dashboards(w.T, w.host), map[string]int{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			for _, one := range []bool{false, true} {
				name, expr := p.Title+" "+q.RefID, w.substitute(q.Expr, one)
				found, err := w.ask(expr, q.Range)
				switch {
				case err != nil:
					w.Errorf("%s: %v\n%s", name, err, expr)
					continue
				case len(found) == 0:
					w.Errorf("%s: no data\n%s", name, expr)
					continue
				}
				for _, s := range found {
					names := []string{name}
					for label, value := range s.labels {
						names = append(names, name+" "+label+"="+value)
					}
					for _, n := range names {
						v, known := want[n]
						if known {
							seen[n]++
						}
						if math.IsNaN(s.value) || math.IsInf(s.value, 0) || known && math.Abs(s.value-v) > math.Max(1e-6, v/1e4) {
							w.Errorf("%s: %v of %v, want %v\n%s", n, s.value, s.labels, v, expr)
						}
					}
				}
			}
		}
	}
	for n := range want {
		if seen[n] != 2 {
			w.Errorf("%s: %d series, want one for each choice of instances", n, seen[n])
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		text, _ := v.Query.(map[string]any)["query"].(string)
		parts := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(text)
		if parts == nil {
			w.Errorf("variable %s: %q is not label_values(metric, label)", v.Name, text)
			continue
		}
		var values struct{ Data []string }
		address := fmt.Sprintf("http://%s/api/v1/label/%s/values?match[]=%s", w.prometheus, parts[2], url.QueryEscape(w.substitute(parts[1], false)))
		if err := w.get(address, &values); err != nil || len(values.Data) != 1 {
			w.Errorf("variable %s: %q, %v", v.Name, values.Data, err)
		}
	}
}

// names checks that each metric of a component in a rule or query exists: Prometheus gives no error for a misspelled name.
func (w *watched) names(component string) {
	var known struct{ Data []string }
	if err := w.get("http://"+w.prometheus+"/api/v1/label/__name__/values", &known); err != nil {
		w.Fatal(err)
	}
	text := ""
	for _, r := range rules(w.T, w.host) {
		text += r.Expr + "\n"
	}
	for _, p := range dashboards(w.T, w.host).Panels {
		for _, q := range p.Targets {
			text += q.Expr + "\n"
		}
	}
	for _, name := range regexp.MustCompile(`\b(?:otelcol_\([\w|]+\)|otelcol_|internal_)\w*(?:\(\w+\)\?\w*)?`).FindAllString(text, -1) {
		if !strings.Contains(name, component) {
			continue
		}
		if match := regexp.MustCompile("^(" + name + ")$"); !slices.ContainsFunc(known.Data, match.MatchString) {
			w.Errorf("%s is in no scrape", name)
		}
	}
}
