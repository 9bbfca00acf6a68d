// Package computed_test feeds both hosts the readings of a plant's instruments, and checks the computed values at the board.
package computed_test

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	quarter = 15 * time.Minute
	token   = "8d97c71e68c2f4eee5fb254fccb49773"
)

// reading is a reading of an instrument. An empty flag means U; "none" is a status without a mapping.
type reading struct {
	value float64
	flag  string
}

// normal are the readings of all instruments in a step, unless a row has others.
var normal = map[string]reading{
	"so2": {100, ""}, "o2": {13.45, ""}, "pm": {50, ""}, "temperature": {136.575, ""}, "pressure": {101.325, ""}, "moisture": {20, ""},
	"flow": {50000, ""}, "total_1": {1000, ""}, "total_2": {2000, ""},
}

// offsets are the times within a step at which the instruments are read.
var offsets = map[string]time.Duration{
	"so2": 0, "o2": 9 * time.Second, "pm": time.Second, "temperature": 2 * time.Second, "pressure": 2 * time.Second, "moisture": 2 * time.Second,
	"flow": 1500 * time.Millisecond, "total_1": 3 * time.Second, "total_2": 4200 * time.Millisecond,
}

// left is the value of a row that is left out.
var left = math.NaN()

// rows are the steps of a slot: the readings that differ from normal or are missing, and the correct SO2, PM, load and total. The
// gas of normal has 1.5 times the normal volume, and a fifth of it is water. With its oxygen, the correction to 6 % doubles a value.
var rows = []struct {
	name                 string
	differs              map[string]reading
	missing              string
	so2, pm, load, total float64
}{
	{name: "normal", so2: 200, pm: 187.5, load: 5, total: 3000},
	{name: "one outlet", missing: "total_2", so2: 200, pm: 187.5, load: 5, total: left},
	{name: "the other outlet", missing: "total_1", so2: 200, pm: 187.5, load: 5, total: left},
	{name: "no oxygen", missing: "o2", so2: left, pm: left, load: 5, total: 3000},
	{name: "oxygen of the standard", differs: map[string]reading{"o2": {6, ""}}, so2: 100, pm: 93.75, load: 5, total: 3000},
	{name: "less oxygen than that", differs: map[string]reading{"o2": {5.9999, ""}}, so2: 100 * 14.9 / 14.9001, pm: 93.75 * 14.9 / 14.9001, load: 5, total: 3000},
	{name: "oxygen at the limit", differs: map[string]reading{"o2": {19, ""}}, so2: 1490 / 1.9, pm: 93.75 * 14.9 / 1.9, load: 5, total: 3000},
	{name: "too near to air", differs: map[string]reading{"o2": {19.1, ""}}, so2: left, pm: left, load: 5, total: 3000},
	{name: "air", differs: map[string]reading{"o2": {20.9, ""}}, so2: left, pm: left, load: 5, total: 3000},
	{name: "negative oxygen", differs: map[string]reading{"o2": {-0.5, ""}}, so2: left, pm: left, load: 5, total: 3000},
	{name: "oxygen in calibration", differs: map[string]reading{"o2": {13.45, "C"}}, so2: left, pm: left, load: 5, total: 3000},
	{name: "oxygen of unknown status", differs: map[string]reading{"o2": {13.45, "none"}}, so2: left, pm: left, load: 5, total: 3000},
	{name: "lower pressure", differs: map[string]reading{"pressure": {81.06, ""}}, so2: 200, pm: 234.375, load: 5, total: 3000},
	{name: "cold, dry gas", differs: map[string]reading{"temperature": {0, ""}, "moisture": {0, ""}}, so2: 200, pm: 100, load: 5, total: 3000},
	{name: "no temperature", missing: "temperature", so2: 200, pm: left, load: 5, total: 3000},
	{name: "pressure in mbar", differs: map[string]reading{"pressure": {1013.25, ""}}, so2: 200, pm: left, load: 5, total: 3000},
	{name: "all water", differs: map[string]reading{"moisture": {100, ""}}, so2: 200, pm: left, load: 5, total: 3000},
	{name: "SO2 in zero calibration", differs: map[string]reading{"so2": {0.5, "Z"}}, so2: left, pm: 187.5, load: left, total: 3000},
	{name: "PM in calibration", differs: map[string]reading{"pm": {42, "C"}}, so2: 200, pm: left, load: 5, total: 3000},
	{name: "no value of SO2", differs: map[string]reading{"so2": {-9999, ""}}, so2: left, pm: 187.5, load: left, total: 3000},
	{name: "zero drift of SO2", differs: map[string]reading{"so2": {-1, ""}}, so2: -2, pm: 187.5, load: -0.05, total: 3000},
	{name: "SO2 of unknown status", differs: map[string]reading{"so2": {100, "none"}}, so2: left, pm: 187.5, load: left, total: 3000},
	{name: "no flow", missing: "flow", so2: 200, pm: 187.5, load: left, total: 3000},
	{name: "stack at rest", differs: map[string]reading{"flow": {0, ""}}, so2: 200, pm: 187.5, load: 0, total: 3000},
	{name: "end", differs: map[string]reading{"total_1": {1001.5, ""}}, so2: 200, pm: 187.5, load: 5, total: 3001.5},
	{name: "outlet in calibration", differs: map[string]reading{"total_1": {1500, "C"}}, so2: 200, pm: 187.5, load: 5, total: left},
}

// at is the time at which a row's step begins. The last row's step is the last step of the slot.
func at(start time.Time, row int) time.Time {
	if row == len(rows)-1 {
		row = 89
	}
	return start.Add(time.Duration(row) * 10 * time.Second)
}

// sample is a reading to be sent.
type sample struct {
	what string
	at   time.Time
	reading
}

// samples are those of a slot. In every second step their order is reversed, so that the first input of a formula arrives after the
// others.
func samples(start time.Time) (all []sample) {
	for i, row := range rows {
		read := maps.Clone(normal)
		maps.Copy(read, row.differs)
		delete(read, row.missing)
		names := slices.Sorted(maps.Keys(read))
		if i%2 == 1 {
			slices.Reverse(names)
		}
		for _, what := range names {
			all = append(all, sample{what, at(start, i).Add(offsets[what]), read[what]})
		}
	}
	return all
}

// want are the values that the board must have for these samples.
func want(start time.Time) map[string]float64 {
	values := map[string]float64{}
	end := start.Add(quarter)
	mean := func(parameter string, of func(i int) float64) {
		sum, n := 0., 0.
		for i := range rows {
			if v := of(i); !math.IsNaN(v) {
				sum, n = sum+v, n+1
			}
		}
		values[board.Key(parameter, end, "U")] = sum / n
	}
	mean("so2", func(i int) float64 { return rows[i].so2 })
	mean("pm", func(i int) float64 { return rows[i].pm })
	mean("so2_load", func(i int) float64 { return rows[i].load })
	for i, row := range rows {
		if !math.IsNaN(row.total) { // the last total counts
			values[board.Key("flow_totalizer", end, "U")] = row.total
		}
		for _, parameter := range []string{"so2", "pm"} { // calibrations are reported without correction
			if r := row.differs[parameter]; r.flag == "C" || r.flag == "Z" {
				point := at(start, i).Add(offsets[parameter]).Truncate(30 * time.Second).Add(30 * time.Second)
				values[board.Key(parameter, point, r.flag)] = r.value
			}
		}
	}
	return values
}

// plant is the board, the files of a host's configuration, and the functions that start and feed the host.
type plant struct {
	*board.Board
	t     *testing.T
	dir   string
	start func() *board.Program
	feed  func([]sample)
}

// newPlant gives the board, and the replacements with which a configuration of this folder uses it.
func newPlant(t *testing.T) (p *plant, pairs []string) {
	t.Parallel()
	p = &plant{t: t, dir: t.TempDir()}
	gone := []simulator.Calibration{{From: time.Now().Add(-3 * time.Hour), To: time.Now()}}
	p.Board = board.Of(t, &simulator.Registry{UnlistedParameters: []string{"so2_load"}, Stations: []simulator.Station{
		{ID: "station_stack", Devices: []simulator.Device{{ID: "stack_1", Token: token, Calibrations: gone,
			Parameters: map[string][]string{"so2": {"mg/Nm³"}, "pm": {"mg/Nm³"}, "so2_load": {"Kg/Hr"}}}}},
		{ID: "station_etp", Devices: []simulator.Device{{ID: "etp_1", Token: token,
			Parameters: map[string][]string{"flow_totalizer": {"m³"}}}}}}})
	board.Write(t, filepath.Join(p.dir, "token"), token)
	return p, []string{"/etc/ocems/public.pem", p.PublicKey, "/etc/ocems/tokens/stack_1", filepath.Join(p.dir, "token"),
		"/etc/ocems/tokens/etp_1", filepath.Join(p.dir, "token"), "/var/lib/ocems", p.dir}
}

func (p *plant) post(url, kind string, body []byte) {
	p.t.Helper()
	answer, err := board.Client.Post(url, kind, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		p.t.Fatal(answer.Status)
	}
}

// newTelegraf and newCollector are the two hosts, with shorter waits.
func newTelegraf(t *testing.T) *plant {
	binary := board.Built(t, "OCEMS_TELEGRAF")
	p, pairs := newPlant(t)
	script, err := filepath.Abs("computed.star")
	if err != nil {
		t.Fatal(err)
	}
	address := loopback.Addr(t)
	config := board.Config(t, "telegraf.conf", p.dir, append(pairs, "127.0.0.1:8186", address, "/etc/telegraf/computed.star", script,
		`ZERO = "Z"`, "ZERO = \"Z\"\n      MAINT = \"M\"", `flush_interval = "1s"`, `flush_interval = "200ms"`, "[[outputs.ocems]]",
		"[[outputs.ocems]]\n  spread = \"0s\"\n  coalesce = \"1s\"\n  settle = \"6s\"\n  endpoint = \""+p.URL+`"`)...)
	p.start = func() *board.Program {
		program := board.Start(t, p.dir, nil, binary, "--debug", "--config", config)
		board.Listens(t, address)
		return program
	}
	metrics := map[string]string{"so2": "so2_analyser so2", "o2": "o2_analyser o2", "pm": "dust_monitor pm", "temperature": "stack temperature",
		"pressure": "stack pressure", "moisture": "stack moisture", "flow": "stack flow", "total_1": "outlet_1 total", "total_2": "outlet_2 total"}
	status := map[string]string{"": "OK", "C": "CAL", "Z": "ZERO", "M": "MAINT", "none": "FAULT"}
	p.feed = func(all []sample) {
		t.Helper()
		var lines bytes.Buffer
		for _, s := range all {
			metric, field, _ := strings.Cut(metrics[s.what], " ")
			value := fmt.Sprint(s.value)
			if s.value == math.Trunc(s.value) {
				value = fmt.Sprintf("%di", int64(s.value))
			}
			fmt.Fprintf(&lines, "%s,status=%s %s=%s %d\n", metric, status[s.flag], field, value, s.at.UnixNano())
		}
		p.post("http://"+address+"/write", "text/plain", lines.Bytes())
	}
	return p
}

func newCollector(t *testing.T) *plant {
	binary := board.Built(t, "OCEMS_COLLECTOR")
	p, pairs := newPlant(t)
	address := loopback.Addr(t)
	config := board.Config(t, "collector.yaml", p.dir, append(pairs, "127.0.0.1:4318", address,
		"  ocems:\n", "  ocems:\n    endpoint: "+p.URL+"\n    spread: 0s\n    coalesce: 1s\n    settle: 6s\n")...)
	p.start = func() *board.Program {
		program := board.Start(t, p.dir, nil, binary, "--config", config)
		board.Listens(t, address)
		return program
	}
	p.feed = func(all []sample) {
		t.Helper()
		md := pmetric.NewMetrics()
		metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
		for _, s := range all {
			m := metrics.AppendEmpty()
			switch s.what {
			case "total_1", "total_2":
				m.SetName("outlet_" + s.what[6:] + ".total")
			default:
				m.SetName("stack." + s.what)
			}
			point := m.SetEmptyGauge().DataPoints().AppendEmpty()
			point.SetTimestamp(pcommon.NewTimestampFromTime(s.at))
			if s.value == math.Trunc(s.value) {
				point.SetIntValue(int64(s.value))
			} else {
				point.SetDoubleValue(s.value)
			}
			switch s.flag {
			case "":
				point.Attributes().PutStr("ocems.flag", "U")
			case "none":
			default:
				point.Attributes().PutStr("ocems.flag", s.flag)
			}
		}
		body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		if err != nil {
			t.Fatal(err)
		}
		p.post("http://"+address+"/v1/metrics", "application/x-protobuf", body)
	}
	return p
}

// trail is the audit file.
func (p *plant) trail() string {
	for _, dir := range []string{p.dir, filepath.Join(p.dir, "telegraf")} {
		if text, err := os.ReadFile(filepath.Join(dir, "audit.jsonl")); err == nil {
			return string(text)
		}
	}
	return ""
}

func (p *plant) compare(want map[string]float64) {
	p.t.Helper()
	got := p.Values()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[key]; !ok || math.Abs(v-want[key]) > 5e-7*math.Abs(want[key]) {
			p.t.Errorf("%s is %v (there: %t), want %v", key, v, ok, want[key])
		}
	}
	if len(got) != len(want) {
		p.t.Errorf("the board has %v, want %v", got, want)
	}
	if n := p.Received().Rejected; n != 0 {
		p.t.Errorf("%d requests were rejected", n)
	}
}

var hosts = map[string]func(*testing.T) *plant{"telegraf": newTelegraf, "collector": newCollector}

func TestComputed(t *testing.T) {
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			p := host(t)
			start := time.Now().Truncate(quarter).Add(-2 * quarter)
			program := p.start()
			p.feed(samples(start))
			p.feed(samples(start)) // the sender got no answer, and sends them again
			values := want(start)
			p.Arrive(len(values))
			p.compare(values)
			for _, parameter := range []string{"so2", "pm", "so2_load", "flow_totalizer"} {
				if !strings.Contains(p.trail(), `"parameter":"`+parameter+`","reason":"not_a_number"`) {
					t.Errorf("the audit file has no line for the values of %s that are left out", parameter)
				}
			}
			if name == "telegraf" {
				for _, text := range []string{"so2: no o2 in the same step of 10 s", "pm: no temperature in", "so2: o2 is not between 0 and 19.0",
					"so2: o2 has the flag C", "so2_load: so2 is not between -10 and 3000", "so2: computed again"} {
					if !strings.Contains(program.Log(), text) {
						t.Errorf("the log does not say %q", text)
					}
				}
			}

			if log := program.Log(); strings.Contains(log, "failed to execute statement") || strings.Contains(log, "E! ") {
				t.Errorf("a formula fails:\n%s", log)
			}

			// A replay after a kill gives the same values at the same times: they are late, and none is a conflict.
			program.Kill()
			p.start()
			p.feed(samples(start))
			board.Until(t, "the replay is in the audit file", func() bool { return strings.Contains(p.trail(), `"late"`) })
			p.compare(values)
			if trail := p.trail(); strings.Contains(trail, `"conflict"`) {
				t.Errorf("the replay has other values:\n%s", trail)
			}
		})
	}
}

// step are the normal readings of one step, with a flag of the SO2 analyser.
func step(start time.Time, flag string) (all []sample) {
	for what, r := range normal {
		if what == "so2" {
			r.flag = flag
		}
		all = append(all, sample{what, start.Add(offsets[what]), r})
	}
	return all
}

func TestOtherFlagIsKept(t *testing.T) {
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			p := host(t)
			start := time.Now().Truncate(quarter).Add(-2 * quarter)
			end := start.Add(quarter)
			p.start()
			p.feed(step(start, "M"))
			p.Arrive(3)
			p.compare(map[string]float64{board.Key("so2", end, "M"): 200, board.Key("pm", end, "U"): 187.5, board.Key("flow_totalizer", end, "U"): 3000})
		})
	}
}

// Telegraf's script waits for the other readings of a step. The collector joins only the readings of one request.
func TestReadingsApart(t *testing.T) {
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			p := host(t)
			start := time.Now().Truncate(quarter).Add(-2 * quarter)
			end := start.Add(quarter)
			p.start()
			all := step(start, "")
			oxygen := slices.IndexFunc(all, func(s sample) bool { return s.what == "o2" })
			p.feed(slices.Concat(all[:oxygen], all[oxygen+1:]))
			p.feed(all[oxygen : oxygen+1])
			values := map[string]float64{board.Key("so2_load", end, "U"): 5, board.Key("flow_totalizer", end, "U"): 3000}
			if name == "telegraf" {
				values[board.Key("so2", end, "U")], values[board.Key("pm", end, "U")] = 200, 187.5
			}
			p.Arrive(len(values))
			p.compare(values)
		})
	}
}
