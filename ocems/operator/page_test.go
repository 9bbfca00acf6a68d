package operator_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/operator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

// noon is the time of the tests, shortly after a slot was delivered.
var noon = time.Date(2026, 11, 24, 12, 2, 0, 0, spec.IST)

func stamp(hour, minute int) time.Time { return time.Date(2026, 11, 24, hour, minute, 0, 0, spec.IST) }

// plant is a host with a real trail and status files, and its page.
type plant struct {
	t     *testing.T
	dir   string
	trail *audit.Trail
	page  *httptest.Server
}

func newPlant(t *testing.T, c operator.Config, hosts map[string]*status.Host) *plant {
	t.Helper()
	p := &plant{t: t, dir: t.TempDir()}
	var err error
	p.trail, err = audit.Open(filepath.Join(p.dir, "audit.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.trail.Close()) })
	var sources []operator.Source
	for _, name := range []string{"exporter", "processor", "memory"} {
		h, ok := hosts[name]
		if !ok {
			continue
		}
		s := operator.Source{Name: name}
		if h != nil {
			s.Path = status.Path(filepath.Join(p.dir, name+".db"))
			h.Trail = p.trail.Path()
			require.NoError(t, h.Write(s.Path))
			if h.Files = status.Files(len(h.Devices)); h.Files > 0 { // of a hub
				devices := h.Devices
				h.Devices = nil
				require.NoError(t, h.Write(s.Path))
				for i := range h.Files {
					var part []status.Device
					for _, d := range devices {
						if status.FileOf(d.ID, h.Files) == i {
							part = append(part, d)
						}
					}
					require.NoError(t, status.WriteDevices(s.Path, i, part))
				}
			}
		}
		sources = append(sources, s)
	}
	c.Now, c.Sources = func() time.Time { return noon }, func() ([]operator.Source, error) { return sources, nil }
	handler, err := operator.New(c)
	require.NoError(t, err)
	p.page = httptest.NewServer(handler)
	t.Cleanup(p.page.Close)
	return p
}

// host is a host without faults.
func host(devices ...status.Device) *status.Host {
	answered := noon.Add(-80 * time.Second).UTC()
	return &status.Host{Written: noon.Add(-time.Second).UTC(), Started: noon.Add(-24 * time.Hour).UTC(), Software: "ocems/1.0", Endpoint: "https://board.example/data", Stamp: "end", Grace: 33, Within: 93,
		Clock: status.Clock{Trusted: true}, Board: status.Board{Reachable: true, Answered: &answered, Latency: .25}, Devices: devices}
}

func parameter(name string, change func(*status.Parameter)) status.Parameter {
	last := stamp(12, 0).UTC()
	p := status.Parameter{Parameter: name, Unit: "mg/L", Due: stamp(6, 0).UTC(), Reading: &status.Reading{At: noon.UTC(), Value: 31.5}, Slot: &status.Slot{Stamp: last, Value: 30, Flag: "U"}, Delivered: &last}
	if change != nil {
		change(&p)
	}
	return p
}

func (p *plant) get(path string, into any) (code int, text string) {
	p.t.Helper()
	answer, err := http.Get(p.page.URL + path)
	require.NoError(p.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(p.t, err)
	if into != nil {
		require.Equal(p.t, http.StatusOK, answer.StatusCode, string(body))
		require.NoError(p.t, json.Unmarshal(body, into))
	}
	return answer.StatusCode, string(body)
}

// answer is the part of /status.json that other programs read.
type answer struct {
	Level, Text, Cure string
	Hosts             []struct{ Name, Fault string }
	Devices           []struct {
		Host          int
		Device, Level string
		Parameters    []struct {
			Verdict struct{ Level, Class, Text, Cure string }
		}
	}
	Total   int `json:"devices_total"`
	Matched int `json:"devices_matched"`
	Wrong   int `json:"devices_wrong"`
	Page    int
	Pages   int
}

func (p *plant) line(o audit.Outcome, at, stamp time.Time, readings ...audit.Reading) {
	p.t.Helper()
	e := audit.Entry{Time: at, Outcome: o, Station: "s", Device: "a", Stamp: stamp.UnixMilli(), Readings: readings}
	if o == audit.Refused {
		e.Parameter, e.Reason, e.Count = readings[0].Parameter, "invalid_value", 15
	}
	require.NoError(p.t, p.trail.Append(e))
}

func reading(parameter string, value float64) audit.Reading {
	return audit.Reading{Parameter: parameter, Value: value, Unit: "mg/L", Flag: "U"}
}

func TestCalendar(t *testing.T) {
	d := status.Device{Station: "s", ID: "a", Waiting: 3, Runs: [][2]int64{{stamp(9, 30).UnixMilli(), stamp(10, 0).UnixMilli()}}, Parameters: []status.Parameter{parameter("cod", nil),
		parameter("bod", func(p *status.Parameter) { p.Refused = &status.Refusal{Reason: "119", Since: stamp(9, 30)} })}}
	p := newPlant(t, operator.Config{}, map[string]*status.Host{"exporter": host(d)})
	soon := func(stamp time.Time) time.Time { return stamp.Add(40 * time.Second) }
	p.line(audit.Delivered, soon(stamp(6, 15)), stamp(6, 15), reading("cod", 1), reading("bod", 2))
	p.line(audit.Delivered, soon(stamp(6, 30)), stamp(6, 30), reading("cod", 1))
	p.line(audit.AlreadyStored, soon(stamp(6, 45)), stamp(6, 45), reading("cod", 1), reading("bod", 2))
	p.line(audit.Rejected, soon(stamp(7, 0)), stamp(7, 0), reading("cod", 1), reading("bod", 2))
	p.line(audit.Expired, soon(stamp(7, 15)), stamp(7, 15), reading("cod", 1), reading("bod", 2))
	p.line(audit.Refused, soon(stamp(7, 30)), stamp(7, 30), reading("cod", -9999))
	p.line(audit.Refused, soon(stamp(7, 45)), stamp(7, 45), reading("cod", -9999)) // but other readings made a slot
	p.line(audit.Delivered, soon(stamp(7, 45)), stamp(7, 45), reading("cod", 5), reading("bod", 6))
	p.line(audit.Delivered, stamp(8, 15), stamp(8, 15).Add(-15*time.Minute), reading("cod", 7), reading("bod", 8))
	p.line(audit.Delivered, stamp(9, 0), stamp(8, 15), reading("cod", 7), reading("bod", 8)) // late
	for at := stamp(8, 45).Add(30 * time.Second); !at.After(stamp(9, 0)); at = at.Add(30 * time.Second) {
		x, y := reading("cod", 0), reading("bod", 0)
		x.Flag, y.Flag = "Z", "C"
		p.line(audit.Delivered, at, at, x, y)
	}
	p.line(audit.Delivered, soon(stamp(9, 30)), stamp(9, 30), reading("cod", 9))
	p.line(audit.Delivered, soon(stamp(10, 0)), stamp(10, 0), reading("ph", 9))
	var got operator.History
	row := func(query string) string {
		t.Helper()
		p.get("/history.json?host=0&device=a"+query, &got)
		require.Len(t, got.Days, 8)
		require.Len(t, got.Days[0].Slots, 96)
		assert.Equal(t, stamp(0, 0).UnixMilli(), got.Days[0].First, "the newest day is the first")
		return got.Days[0].Slots
	}
	//                                     06:15          09:15               12:00
	want := strings.Repeat("-", 25) + "DPDREXDDD" + "M" + "M" + "C" + "M" + "PBB" + "MMMMMMMM" + strings.Repeat("-", 47)
	assert.Equal(t, want[:49], row("")[:49])
	assert.Equal(t, strings.Repeat("-", 47), row("")[49:])
	assert.Equal(t, "DMDREMDDD", row("&parameter=bod")[25:34])
	assert.Equal(t, "BBB", row("&parameter=bod")[38:41], "its waiting slots are refused")
	assert.Equal(t, "DWM", row("&parameter=cod")[38:41], "another parameter waits, unless the slot was delivered without it")
	row("")
	assert.Equal(t, 1, got.Late)
	assert.Equal(t, []float64{1, 1, 1, 1, 1, 5, 7, 7, 9}, got.Trends[0].Values, "what was left out is no value")

	var parts []operator.SlotPart
	for at, want := range map[time.Time]string{stamp(7, 30): "cod excluded invalid value -9999, bod missing", stamp(8, 15): "cod delivered late 7, bod delivered late 8",
		stamp(9, 30): "cod delivered 9, bod refused by the board 119 invalid parameter", stamp(9, 0): "cod calibration, bod calibration", stamp(12, 15): "cod not due, bod not due"} {
		parts = nil
		p.get(fmt.Sprintf("/slot.json?host=0&device=a&stamp=%d", at.UnixMilli()), &parts)
		var said []string
		for _, x := range parts {
			text := strings.TrimSpace(x.Parameter + " " + x.Outcome + " " + strings.ToLower(x.Detail))
			if x.Value != nil {
				text += fmt.Sprintf(" %v", *x.Value)
			}
			said = append(said, text)
		}
		assert.Equal(t, want, strings.Join(said, ", "))
	}

	// Only new lines of the trail are read.
	p.line(audit.Delivered, noon, stamp(12, 0), reading("cod", 11), reading("bod", 12))
	assert.Equal(t, byte('D'), row("")[48])
	assert.Equal(t, byte('D'), row("")[25])
}

func TestLight(t *testing.T) {
	silent := parameter("cod", func(p *status.Parameter) { p.Slot.Stamp, p.Reading.At = stamp(9, 0).UTC(), stamp(9, 0).UTC() })
	well := host(status.Device{Station: "s", ID: "a", Parameters: []status.Parameter{parameter("cod", nil)}})
	ill := host(status.Device{Station: "s", ID: "a", Parameters: []status.Parameter{silent}})
	ill.Slots = true
	stopped := host()
	stopped.Stopped = true
	for _, test := range []struct {
		name  string
		hosts map[string]*status.Host
		level string
		text  string // beginning of the text
	}{
		{"well", map[string]*status.Host{"exporter": well}, "ok", "Reporting 1 parameter of 1 device; the next slot, 12:15, is made at 12:15:33."},
		{"the worst of two", map[string]*status.Host{"exporter": well, "processor": ill}, "failed", "processor: 1 of 1 parameter needs a person"},
		{"two that are well", map[string]*status.Host{"exporter": well, "processor": well}, "ok", "Reporting"},
		{"stopped", map[string]*status.Host{"exporter": stopped}, "failed", "The host was stopped at 12:01."},
		{"in memory", map[string]*status.Host{"exporter": well, "memory": nil}, "failed", "memory: No status: it keeps its state in memory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPlant(t, operator.Config{}, test.hosts)
			var got answer
			p.get("/status.json", &got)
			assert.Equal(t, test.level, got.Level)
			assert.True(t, strings.HasPrefix(got.Text, test.text), got.Text)
			assert.Len(t, got.Hosts, len(test.hosts))
		})
	}
}

func TestHub(t *testing.T) {
	var devices []status.Device
	for i := range 3000 {
		d := status.Device{Station: fmt.Sprintf("station_%d", i/2), ID: fmt.Sprintf("device_%04d", i), Parameters: []status.Parameter{parameter("cod", nil)}}
		if i%100 == 50 {
			d.Held = "102"
		}
		devices = append(devices, d)
	}
	p := newPlant(t, operator.Config{}, map[string]*status.Host{"exporter": host(devices...)})
	var got answer
	p.get("/status.json", &got)
	assert.Equal(t, []int{3000, 3000, 30, 1, 150, 20}, []int{got.Total, got.Matched, got.Wrong, got.Page, got.Pages, len(got.Devices)})
	for i, d := range got.Devices {
		assert.Equal(t, "failed", d.Level, "%d: those that need a person come first", i)
	}
	assert.Equal(t, "compare station_id with the board's e-mail, letter by letter", got.Devices[0].Parameters[0].Verdict.Cure)
	p.get("/status.json?page=2", &got)
	assert.Equal(t, "failed ok", got.Devices[9].Level+" "+got.Devices[10].Level)
	p.get("/status.json?find=DEVICE_00&page=99", &got)
	assert.Equal(t, []int{100, 5, 5}, []int{got.Matched, got.Page, got.Pages}, "beyond the last page is the last")
	p.get("/status.json?find=refused", &got)
	assert.Equal(t, 30, got.Matched, "what a parameter is doing is found")
	code, text := p.get("/status.json?page=x", nil)
	assert.Equal(t, 400, code)
	assert.Contains(t, text, `page: "x"`)
	code, _ = p.get("/history.json?host=0&device=nobody", nil)
	assert.Equal(t, 404, code)
}

func TestWhoMaySeeIt(t *testing.T) {
	well := host(status.Device{Station: "s", ID: "a", Parameters: []status.Parameter{parameter("cod", nil)}})
	open := newPlant(t, operator.Config{Hosts: []string{"plant.example"}}, map[string]*status.Host{"exporter": well})
	locked := newPlant(t, operator.Config{Password: "correct horse"}, map[string]*status.Host{"exporter": well})
	for _, test := range []struct {
		name                   string
		page                   *plant
		host, origin, password string
		code                   int
	}{
		{"this machine", open, "localhost:8790", "", "", 200},
		{"an address", open, "192.168.1.5:8790", "", "", 200},
		{"a name that is given", open, "plant.example", "", "", 200},
		{"a name of another site", open, "attacker.example:8790", "", "", 403},
		{"a page of another site", open, "", "https://attacker.example", "", 403},
		{"no password", locked, "", "", "", 401},
		{"a wrong password", locked, "", "", "wrong horse", 401},
		{"the password", locked, "", "", "correct horse", 200},
		{"the password under a name of another site", locked, "attacker.example", "", "correct horse", 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, path := range []string{"/", "/status.json", "/webui/webui.js", "/history.json?host=0&device=a"} {
				r, err := http.NewRequest(http.MethodGet, test.page.page.URL+path, nil)
				require.NoError(t, err)
				if r.Host = test.host; test.origin != "" {
					r.Header.Set("Origin", test.origin)
				}
				if test.password != "" {
					r.SetBasicAuth("anybody", test.password)
				}
				answer, err := http.DefaultClient.Do(r)
				require.NoError(t, err)
				_ = answer.Body.Close()
				assert.Equal(t, test.code, answer.StatusCode, path)
				assert.Equal(t, test.code == 401, answer.Header.Get("WWW-Authenticate") != "")
			}
		})
	}
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8",
		"/webui/webui.css": "text/css; charset=utf-8", "/webui/webui.js": "text/javascript; charset=utf-8", "/webui/icon.svg": "image/svg+xml", "/status.json": "application/json"} {
		answer, err := http.Get(open.page.URL + path)
		require.NoError(t, err)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		_ = answer.Body.Close()
		assert.Equal(t, kind, answer.Header.Get("Content-Type"), path)
		assert.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'; style-src 'self'", path)
		assert.NotContains(t, answer.Header.Get("Content-Security-Policy"), "unsafe", path)
		assert.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"), path)
		if path != "/status.json" { // it has the board's address
			text := strings.NewReplacer("http://www.w3.org/2000/svg", "").Replace(string(body))
			assert.Empty(t, regexp.MustCompile(`(https?:)?//[a-z0-9]+\.[a-z.]+`).FindString(text), path)
			assert.NotRegexp(t, `innerHTML =|insertAdjacentHTML|document\.write|eval\(`, text, path)
		}
	}
}
