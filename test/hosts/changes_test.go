package hosts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
)

// mending is a change of a configuration between two runs of its host. The first run has two slots: one has ended, and the
// board refuses it if the configuration is wrong; the other is open. The second run has the rest of the open slot, and a third
// slot.
type mending struct {
	name        string
	wrong       func(d *device)
	right       func(d *device) // nil removes the device
	metric      string          // metric of the readings in the second run
	board       []string        // readings at the board at the end, without the device
	delivered   bool            // the first slot is at the board before the change
	notes, logs []string        // words of a line in the trail, in the log
	refused     []refused
}

var mendings = []mending{
	{name: "id", wrong: func(d *device) { d.id = "wrong-id" }, right: func(d *device) { d.formerly = []string{"wrong-id"} },
		board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}, logs: []string{"waiting slots from former names", "wrong-id"}},
	{name: "key", wrong: func(d *device) { d.parameters[0].parameter = "bod" }, right: func(d *device) { d.parameters[0].formerly = []string{"bod"} },
		board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}, logs: []string{"waiting slots from former names", "bod"}},
	{name: "unit", wrong: func(d *device) { d.parameters[0].unit = "ppm" }, right: func(*device) {},
		board: []string{"15 mg/L", "30 mg/L", "60 mg/L"}, notes: []string{"made in ppm and sent in mg/L"}, refused: []refused{{reason: "unit", count: 1}}},
	{name: "spelling", wrong: func(d *device) { d.parameters[0].unit, d.parameters[0].unlisted = "mg/l", true }, right: func(*device) {},
		board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}, notes: []string{"made in mg/l and sent in mg/L"}},
	{name: "station", wrong: func(d *device) { d.station = "station_0" }, right: func(*device) {}, board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}},
	{name: "token", wrong: func(d *device) { d.token = "00000000000000000000000000000000" }, right: func(*device) {}, board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}},
	{name: "metric", wrong: func(*device) {}, right: func(d *device) { d.parameters[0].name, d.parameters[0].parameter = "probe.x", "cod" }, metric: "probe.x",
		delivered: true, board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}},
	{name: "bound", wrong: func(d *device) { d.parameters[0].rules = map[string]any{"valid_max": 25} }, right: func(*device) {}, delivered: true, // readings that are left out stay left out
		board: []string{"15 mg/L", "50 mg/L", "60 mg/L"}, refused: []refused{{reason: "above_valid_max", count: 1}}},
	{name: "coverage-lowered", wrong: waits, right: func(*device) {}, board: []string{"15 mg/L", "40 mg/L", "60 mg/L"}},
	{name: "coverage-left-out", wrong: waits, right: func(d *device) { d.parameters[0].rules = map[string]any{"min_coverage": 0.5} },
		refused: []refused{{reason: "min_coverage", count: 5}}},
	{name: "removed", wrong: func(*device) {}, delivered: true, board: []string{"15 mg/L"}, logs: []string{"not configured: put it back", "removed"}},
}

// waits configures that slots with few readings wait for a person.
func waits(d *device) {
	d.parameters[0].rules = map[string]any{"min_coverage": 0.5, "below_min_coverage": "wait"}
}

// mendingsOf returns the cases for a host. A processor leaves out slots that wait in the other hosts.
func mendingsOf(host string) []mending {
	list := slices.Clone(mendings)
	for i := range list {
		if m := &list[i]; m.name == "coverage-lowered" && host == "processor-exporter" {
			m.board, m.refused = m.board[1:], []refused{{reason: "min_coverage", count: 2}}
		}
	}
	return list
}

// configured returns the plants of the first and the second run, and the board's stations.
func configured(rows []mending) (first, second plant, stations []simulator.Station) {
	first.options = map[string]any{"settle": settle.String()}
	second.options = first.options
	stations = []simulator.Station{{ID: station}}
	for _, m := range rows {
		mended := func(change func(*device)) device {
			d := device{id: m.name, parameters: []parameter{{name: "analyser.cod", unit: "mg/L", tags: map[string]string{tag: m.name}}}}
			change(&d)
			return d
		}
		first.devices = append(first.devices, mended(m.wrong))
		if m.right != nil {
			second.devices = append(second.devices, mended(m.right))
		}
		stations[0].Devices = append(stations[0].Devices, simulator.Device{ID: m.name, Token: token, Parameters: map[string][]string{"cod": {"mg/L"}}})
	}
	return first, second, stations
}

func TestMendedConfigurations(t *testing.T) {
	for host, start := range adapters {
		for end, change := range map[string]func(*adapter){
			"restarted": func(a *adapter) { a.stop(); a.life = a.start(a) },
			"killed":    (*adapter).kill,
		} {
			t.Run(host+" "+end, func(t *testing.T) {
				t.Parallel()
				mendings := mendingsOf(host)
				first, second, stations := configured(mendings)
				b := board.New(t, stations...)
				at := newPlace(t, b.URL, b.PublicKey)
				a := newAdapter(t, at, start(first, at))
				send := func(values []reading, metric func(mending) string) {
					var batch []reading
					for _, m := range mendings {
						batch = append(batch, tagged(called(values, metric(m)), tag, m.name)...)
					}
					a.send(batch)
				}
				before := func(mending) string { return "analyser.cod" }
				after := func(m mending) string {
					if m.metric == "" {
						return before(m)
					}
					return m.metric
				}
				send(each(0, 10, 20), before)
				board.Until(t, "the first slots are delivered or refused", func() bool {
					got := b.Received()
					return got.Rejected >= 6 && len(got.Readings) == 3
				})
				send(each(15, 30), before)
				a.start = start(second, at)
				change(a)
				send(each(16, 50), after)
				send(each(30, 60), after)
				n := 0
				for _, m := range mendings {
					n += len(m.board)
				}
				b.Arrive(n)
				time.Sleep(time.Second)
				a.stop()
				trail, log := readTrail(t, at.trail()), strings.Split(a.log(), "\n")
				for _, m := range mendings {
					m.judge(t, host, b.Received().Readings, trail, log)
				}
				assert.Len(t, b.Received().Readings, n)
			})
		}
	}
}

func (m mending) judge(t *testing.T, host string, got []simulator.Reading, trail []audit.Entry, log []string) {
	var have []string
	for _, r := range got {
		if r.Device == m.name {
			assert.Equal(t, "cod", r.Parameter, m.name)
			have = append(have, r.Value.String()+" "+r.Unit)
		}
	}
	assert.Equal(t, m.board, have, m.name)
	if m.notes != nil {
		assert.True(t, slices.ContainsFunc(trail, func(e audit.Entry) bool { return e.Device == m.name && strings.Contains(e.Detail, m.notes[0]) }), m.name)
	}
	if m.name == "removed" && host == "processor-exporter" {
		return // the exporter does not know the device of a finished slot; this is in the trail
	}
	if m.logs != nil {
		assert.True(t, slices.ContainsFunc(log, func(line string) bool { return strings.Contains(line, m.logs[0]) && strings.Contains(line, m.logs[1]) }), m.name)
	}
	counts, want := map[string]int{}, map[string]int{}
	for _, e := range trail {
		if e.Device == m.name && e.Outcome == audit.Refused {
			counts[e.Reason] += e.Count
		}
	}
	for _, r := range m.refused {
		want[r.reason] = r.count
	}
	assert.Equal(t, want, counts, m.name)
}

// TestStampChanged: if the change gives two windows the same stamp, the first is sent and the other is in the trail.
func TestStampChanged(t *testing.T) {
	for host, start := range adapters {
		for _, c := range []struct {
			name, from, to string
			wrong          func(*device) // in the first run
			board          []string
			lost           int
		}{
			{"to the start", "end", "start", func(*device) {}, []string{"15=15", "30=60"}, 1},
			{"to the start, the first waits", "end", "start", func(d *device) { d.station = "station_0" }, []string{"15=15", "30=60"}, 1},
			{"to the end", "start", "end", func(*device) {}, []string{"0=15", "30=30", "45=60"}, 0},
		} {
			t.Run(host+" "+c.name, func(t *testing.T) {
				t.Parallel()
				first, second, stations := configured([]mending{{name: "d", wrong: c.wrong, right: func(*device) {}}})
				first.options, second.options = maps.Clone(first.options), maps.Clone(second.options)
				first.options["stamp"], second.options["stamp"] = c.from, c.to
				first.options["settle"], second.options["settle"] = "1s", "1s"
				b := board.New(t, stations...)
				at := newPlace(t, b.URL, b.PublicKey)
				a := newAdapter(t, at, start(first, at))
				a.send(tagged(each(0, 10, 20), tag, "d"))
				board.Until(t, "the first slot is delivered or refused", func() bool { return b.Received().Requests > 0 })
				a.send(tagged(each(15, 30), tag, "d"))
				a.start = start(second, at)
				a.kill()
				a.send(tagged(each(30, 60), tag, "d"))
				b.Arrive(len(c.board))
				board.Until(t, "the trail has all lines", func() bool { return len(rejected(t, at)) == c.lost })
				a.stop()
				var got []string
				for _, r := range b.Received().Readings {
					got = append(got, fmt.Sprintf("%.0f=%s", time.UnixMilli(r.Timestamp).Sub(base).Minutes(), r.Value))
				}
				slices.Sort(got)
				require.Equal(t, c.board, got)
				if c.lost > 0 {
					e := rejected(t, at)[0]
					assert.Equal(t, "conflict", e.Reason)
					assert.Equal(t, 30.0, e.Readings[0].Value)
				}
			})
		}
	}
}

func rejected(t *testing.T, at place) []audit.Entry {
	return slices.DeleteFunc(readTrail(t, at.trail()), func(e audit.Entry) bool { return e.Outcome != audit.Rejected && e.Outcome != audit.Refused })
}
