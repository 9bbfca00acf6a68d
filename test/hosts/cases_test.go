package hosts

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
)

// tag is the attribute that tells the rows apart, because all rows have the same metric in one host.
const tag = "row"

// complete sets the defaults of a row.
func (x *row) complete() {
	if x.devices == nil {
		x.devices = cod(func(*parameter) {})
	}
	x.devices, x.refused = slices.Clone(x.devices), slices.Clone(x.refused) // rows may share them
	for i := range x.devices {
		d := &x.devices[i]
		if d.id = x.name; len(x.devices) > 1 {
			d.id = fmt.Sprintf("%s.%d", x.name, i+1)
		}
		d.parameters = slices.Clone(d.parameters)
		for j := range d.parameters {
			d.parameters[j].tags = with(d.parameters[j].tags, tag, x.name)
		}
	}
	for _, list := range []*[][]reading{&x.before, &x.after, &x.late} {
		*list = slices.Clone(*list)
		for i, batch := range *list {
			(*list)[i] = tagged(batch, tag, x.name)
		}
	}
	x.want = slices.Clone(x.want)
	for i := range x.want {
		w := &x.want[i]
		w.device, w.parameter, w.unit, w.flag = cmp.Or(w.device, x.name), cmp.Or(w.parameter, "cod"), cmp.Or(w.unit, "mg/L"), cmp.Or(w.flag, "U")
		if w.stamp.IsZero() {
			w.stamp = base.Add(time.Duration(max(w.slot, 1)) * 15 * time.Minute)
		}
	}
	for i := range x.refused {
		w := &x.refused[i]
		w.device, w.parameter = cmp.Or(w.device, x.name), cmp.Or(w.parameter, "cod")
	}
}

func (w want) String() string {
	text := fmt.Sprintf("%s %s %s %s %s %s", w.device, w.parameter, w.stamp.UTC().Format("15:04:05"), strconv.FormatFloat(w.value, 'f', -1, 64), w.unit, w.flag)
	if w.diagnostic {
		text += " diagnostic"
	}
	return text
}

// words returns a reading of the board in the form of want.String.
func words(r simulator.Reading) string {
	text := fmt.Sprintf("%s %s %s %s %s %s", r.Device, r.Parameter, time.UnixMilli(r.Timestamp).UTC().Format("15:04:05"), r.Value, r.Unit, r.Flag)
	if r.Diagnostic {
		text += " diagnostic"
	}
	return text
}

// settle is long enough to kill the host before a window closes.
const settle = 3 * time.Second

func table() (list []row, p plant) {
	list = rows()
	p.options = map[string]any{"settle": settle.String()}
	for i := range list {
		list[i].complete()
		p.devices = append(p.devices, list[i].devices...)
	}
	return list, p
}

// carryOut runs the whole table through one host. The host is killed once and started again.
func carryOut(t *testing.T, start func(t *testing.T, p plant, at place) host) {
	list, p := table()
	b := board.New(t, p.stations()...)
	at := newPlace(t, b.URL, b.PublicKey)
	h := start(t, p, at)
	var wanted []string
	repeats := 0
	for _, x := range list {
		repeats += x.repeats
		for _, w := range x.want {
			wanted = append(wanted, w.String())
		}
	}

	sendAll(h, list, func(x row) [][]reading { return x.before })
	h.flush()
	require.Zero(t, len(b.Received().Readings), "the host was too slow: a window closed before it was killed")
	h.kill()
	sendAll(h, list, func(x row) [][]reading { return x.after })
	h.flush()
	board.Until(t, "the windows close that have readings", func() bool {
		got := received(b)
		return !slices.ContainsFunc(list, func(x row) bool { return x.late != nil && !contains(got, x.want[0].String()) })
	})
	sendAll(h, list, func(x row) [][]reading { return x.late })
	h.flush()
	end := time.Now().Add(20 * time.Second)
	for len(b.Received().Readings) < len(wanted) && time.Now().Before(end) {
		time.Sleep(20 * time.Millisecond)
	}
	if h.duplicates() >= 0 {
		for end := time.Now().Add(10 * time.Second); h.duplicates() != repeats && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
		assert.Equal(t, repeats, h.duplicates(), "counted as duplicates")
	}
	h.stop()

	got, trail, log := received(b), readTrail(t, at.trail()), strings.Split(h.log(), "\n")
	for _, x := range list {
		if x.waits > 0 && strings.Contains(t.Name(), "processor") {
			x.refused = append(x.refused, refused{device: x.name, parameter: "cod", reason: "min_coverage", count: x.waits})
		}
		t.Run(x.name, func(t *testing.T) { x.judge(t, got, trail, log) })
	}
	assert.ElementsMatch(t, wanted, got)
	assert.NotContains(t, strings.Join(slices.DeleteFunc(log, func(line string) bool { return !strings.Contains(line, "take turns") }), "\n"), "before the restart")
}

// sendAll sends the first batches of all rows as one batch, then the second ones, and so on.
func sendAll(h host, list []row, batches func(row) [][]reading) {
	for n := 0; ; n++ {
		var batch []reading
		for _, x := range list {
			if b := batches(x); n < len(b) {
				batch = append(batch, b[n]...)
			}
		}
		if batch == nil {
			return
		}
		h.send(batch)
	}
}

func received(b *board.Board) (got []string) {
	for _, r := range b.Received().Readings {
		got = append(got, words(r))
	}
	return got
}

func contains(got []string, w string) bool { return slices.Contains(got, w) }

func (x row) has(id string) bool {
	return slices.ContainsFunc(x.devices, func(d device) bool { return d.id == id })
}

// judge compares the readings of a row in board, trail and log with the expected ones.
func (x row) judge(t *testing.T, got []string, trail []audit.Entry, log []string) {
	var want, have []string
	for _, w := range x.want {
		want = append(want, w.String())
	}
	for _, g := range got {
		if id, _, _ := strings.Cut(g, " "); x.has(id) {
			have = append(have, g)
		}
	}
	assert.ElementsMatch(t, want, have, "at the board")

	for _, w := range x.want {
		if w.of == "" {
			continue
		}
		assert.True(t, slices.ContainsFunc(trail, func(e audit.Entry) bool {
			return e.Outcome == audit.Delivered && e.Device == w.device && e.Stamp == w.stamp.UnixMilli() && slices.ContainsFunc(e.Readings, func(r audit.Reading) bool {
				return r.Parameter == w.parameter && fmt.Sprintf("%d %v..%v", r.Samples, r.Range[0], r.Range[1]) == w.of
			})
		}), "a line of the trail with a value of %s", w.of)
	}

	counts, lines := map[string]int{}, map[string]int{}
	for _, e := range trail {
		if x.has(e.Device) && (e.Outcome == audit.Refused || e.Outcome == audit.Late) {
			counts[e.Device+" "+e.Parameter+" "+e.Reason] += e.Count
			lines[e.Device+" "+e.Parameter+" "+e.Reason]++
		}
	}
	refused := map[string]int{}
	for _, r := range x.refused {
		refused[r.device+" "+r.parameter+" "+r.reason] += r.count
		if r.lines > 0 {
			assert.Equal(t, r.lines, lines[r.device+" "+r.parameter+" "+r.reason], "lines of the trail")
		}
		for _, word := range r.detail {
			assert.True(t, slices.ContainsFunc(trail, func(e audit.Entry) bool {
				return e.Device == r.device && e.Reason == r.reason && strings.Contains(e.Detail, word)
			}), "a line of the trail with %s", word)
		}
	}
	assert.Equal(t, refused, counts, "in the trail")

	for _, words := range x.warns {
		assert.True(t, slices.ContainsFunc(log, func(line string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(strings.ReplaceAll(line, `\"`, `"`), w) })
		}), "a line of the log with %q", words)
	}
	for _, line := range log {
		if !strings.Contains(line, "take turns") || !strings.Contains(line, fmt.Sprintf("%q", x.devices[0].id)) {
			continue
		}
		assert.True(t, slices.ContainsFunc(x.warns, func(words []string) bool { return words[0] == "take turns" }), "no warning of two sources: %s", line)
	}
}

func readTrail(t *testing.T, path string) (list []audit.Entry) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, audit.Verify(f, func(e audit.Entry) { list = append(list, e) }))
	return list
}

func TestAdapters(t *testing.T) {
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			carryOut(t, func(t *testing.T, p plant, at place) host { return newAdapter(t, at, start(p, at)) })
		})
	}
}
