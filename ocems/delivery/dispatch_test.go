package delivery

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

func TestReachability(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type step struct {
		at     time.Duration
		event  string        // "answer", "check", "check, others are well", or the device without an answer
		asked  time.Duration // when that device sent its request; 0: now
		well   bool          // that device was answered before
		change bool          // the change is reported
		down   bool          // unreachable afterwards
	}
	devices := func(at, asked time.Duration, n int, well bool) (list []step) {
		for _, name := range "abcdefghijklmnop"[:n] {
			list = append(list, step{at: at, event: string(name), asked: asked, well: well})
		}
		return list
	}
	last := func(list []step) []step {
		list[len(list)-1].change, list[len(list)-1].down = true, true
		return list
	}
	const s, m = time.Second, time.Minute
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"one device, for a minute", []step{{event: "a"}, {at: 59 * s, event: "check"}, {at: 60 * s, event: "check", change: true, down: true},
			{at: 61 * s, event: "check", down: true}, {at: 70 * s, event: "a", down: true}, {at: 80 * s, event: "answer", change: true}}},
		{"a short break", []step{{event: "a"}, {at: 30 * s, event: "answer"}, {at: 90 * s, event: "check"}}},
		{"an answer begins a new minute", []step{{event: "a"}, {at: 50 * s, event: "answer"}, {at: 55 * s, event: "a"}, {at: 100 * s, event: "check"},
			{at: 115 * s, event: "check", change: true, down: true}}},
		{"a minute, and others were answered lately", []step{{event: "a"}, {at: 60 * s, event: "check, others are well"},
			{at: 120 * s, event: "check", change: true, down: true}}},
		{"the minute begins with the request that was sent first", []step{{at: 40 * s, event: "a"}, {at: 45 * s, event: "b", asked: s},
			{at: 61 * s, event: "check", change: true, down: true}}},
		{"seven devices", devices(0, 0, 7, true)},
		{"eight devices", append(last(devices(0, 0, 8, true)), step{at: 2 * s, event: "check", down: true}, step{at: 3 * s, event: "answer", change: true})},
		{"the same device eight times", slices.Repeat(devices(0, 0, 1, true), 8)},
		{"eight, before anybody was answered", last(devices(0, 0, 8, false))},
		{"eight, long after anybody was answered", append([]step{{event: "answer"}}, last(devices(20*m, 0, 8, false))...)},
		{"sixteen that were silent before, between two slots", append([]step{{event: "answer"}}, devices(14*m, 0, 16, false)...)},
		{"sixteen that hang while another is answered", append([]step{{at: 10 * s, event: "answer"}}, devices(45*s, 5*s, 16, true)...)},
		{"an answer between them", append(append(devices(0, 0, 7, true), step{at: s, event: "answer"}), devices(2*s, 0, 7, true)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r reachability
			for i, s := range c.steps {
				now, changed := start.Add(s.at), false
				switch s.event {
				case "answer":
					changed = r.answered(now)
				case "check", "check, others are well":
					_, changed = r.check(now, func() bool { return s.event != "check" })
				default:
					asked := now
					if s.asked > 0 {
						asked = start.Add(s.asked)
					}
					changed = r.failed(s.event, s.well, "refused", asked)
				}
				if changed != s.change || r.unreachable != s.down {
					t.Errorf("step %d, %s: changed %v, %+v", i+1, s.event, changed, r)
				}
			}
		})
	}
}

func TestPatience(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		took []time.Duration
		want time.Duration
	}{
		{"nothing known", nil, 2 * time.Second},
		{"as fast as usual", slices.Repeat([]time.Duration{125 * ms}, 100), time.Second},
		{"a slow board", slices.Repeat([]time.Duration{2 * time.Second}, 5), 8 * time.Second},
		{"as slow as was ever seen", slices.Repeat([]time.Duration{13500 * ms}, 5), 15 * time.Second},
		{"it was fast long ago", append(slices.Repeat([]time.Duration{100 * ms}, 1000), slices.Repeat([]time.Duration{time.Second}, 20)...), 4 * time.Second},
		{"one device in four is slow", slices.Repeat([]time.Duration{100 * ms, 100 * ms, 100 * ms, 20 * time.Second}, 10), time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l latency
			for _, took := range c.took {
				l.note(took)
			}
			if got := l.patience(); got != c.want {
				t.Errorf("patience %s, want %s", got, c.want)
			}
		})
	}
}

// Devices come and go with the configuration, and so does what is known of them.
func TestForget(t *testing.T) {
	now := time.Now()
	d := &Delivery{queues: map[string]*queue{}, cfg: Config{Lookup: func(string) (Target, bool) { return Target{}, true }}}
	d.queue("well").answered = now.Add(-15 * time.Minute)
	d.queue("gone").answered = now.Add(-time.Hour)
	d.add(d.queue("waits"), now.Truncate(spec.SlotLength).UnixMilli())
	d.queue("asks").trying = &slot{}
	d.forget(now)
	if got := slices.Sorted(maps.Keys(d.queues)); !slices.Equal(got, []string{"asks", "waits", "well"}) {
		t.Errorf("%q are left", got)
	}
}
