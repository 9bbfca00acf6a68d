package hosts

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
)

// base is the start of a slot some hours ago, so that every window of a case has ended.
var base = time.Now().Truncate(15 * time.Minute).Add(-5 * time.Hour)

// row is one case: the readings of senders, and the expected readings at the board at the end.
type row struct {
	name    string
	devices []device // default: one with the row's name and one parameter; more have the names row.1 and so on
	// Batches by time of sending: before the host is killed, after its restart, and after the windows have closed.
	before, after, late [][]reading
	want                []want
	refused             []refused
	waits               int        // readings of cod in slots that wait for a person; a processor leaves them out
	repeats             int        // readings that are counted as duplicates after the restart
	warns               [][]string // words of one log line
}

// want is one expected reading at the board.
type want struct {
	device, parameter string // default: the row's only one
	slot              int    // stamp in slots after base
	stamp             time.Time
	value             float64
	unit, flag        string
	diagnostic        bool
	of                string // number of samples, smallest and largest sample in the trail, such as "3 1..9"
}

// refused are the expected readings in the trail.
type refused struct {
	device, parameter, reason string
	count                     int
	lines                     int      // number of lines for them; 0 is any
	detail                    []string // words of the line's detail
}

// at returns a reading of the row's own analyser, minutes after base.
func at(minutes, value float64) reading {
	return reading{name: "analyser.cod", value: value, at: base.Add(time.Duration(minutes * float64(time.Minute))).Round(time.Millisecond)}
}

// each returns one reading per minute, beginning at a minute.
func each(from int, values ...float64) (list []reading) {
	for i, v := range values {
		list = append(list, at(float64(from+i), v))
	}
	return list
}

func times(n int, value float64) []float64 { return slices.Repeat([]float64{value}, n) }

// change returns the readings changed by f.
func change(list []reading, f func(*reading)) []reading {
	out := slices.Clone(list)
	for i := range out {
		f(&out[i])
	}
	return out
}

func tagged(list []reading, key, value string) []reading {
	return change(list, func(r *reading) { r.tags = with(r.tags, key, value) })
}

func from(list []reading, key, value string) []reading {
	return change(list, func(r *reading) { r.resource = with(r.resource, key, value) })
}

func flagged(list []reading, flag string) []reading {
	return change(list, func(r *reading) { r.flag = flag })
}

func called(list []reading, name string) []reading {
	return change(list, func(r *reading) { r.name = name })
}

func as(k kind, list []reading) []reading { return change(list, func(r *reading) { r.kind = k }) }

func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

func reversed(list []reading) []reading {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

func shuffled(list []reading) []reading {
	list = slices.Clone(list)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func batches(list ...[]reading) [][]reading { return list }

// one returns the row's only reading at the board.
func one(value float64) []want { return []want{{value: value}} }

func cod(change func(*parameter)) []device {
	p := parameter{name: "analyser.cod", unit: "mg/L"}
	change(&p)
	return []device{{parameters: []parameter{p}}}
}

func statistic(s string) []device { return cod(func(p *parameter) { p.statistic = s }) }

// measured has a different result for each statistic.
var measured = each(1, 3, 9, 1, 7, 4)

// rows returns the table.
func rows() (list []row) {
	list = append(list, identity()...)
	list = append(list, twice()...)
	list = append(list, totalisers()...)
	list = append(list, sources()...)
	list = append(list, conflicts()...)
	list = append(list, order()...)
	list = append(list, flags()...)
	list = append(list, lateness()...)
	list = append(list, names()...)
	list = append(list, values()...)
	list = append(list, validity()...)
	list = append(list, periods()...)
	return list
}

// identity: a parameter is one series, even if other attributes of its sender change within a window.
func identity() (list []row) {
	for name, change := range map[string]func(list []reading, value string) []reading{
		"service-instance-id": func(list []reading, v string) []reading { return from(list, "service.instance.id", v) },
		"pid":                 func(list []reading, v string) []reading { return from(list, "process.pid", v) },
		"pod-uid":             func(list []reading, v string) []reading { return from(list, "k8s.pod.uid", v) },
		"host":                func(list []reading, v string) []reading { return from(list, "host", v) },
		"unmapped-tag":        func(list []reading, v string) []reading { return tagged(list, "firmware", v) },
		"scope-version": func(list []reading, v string) []reading {
			for i := range list {
				list[i].scope = v
			}
			return list
		},
	} {
		old, new := change(each(0, times(8, 100)...), "1"), change(each(8, times(2, 200)...), "2")
		list = append(list,
			row{name: "identity-" + name, before: batches(old, new), want: one(120)},
			row{name: "identity-in-one-batch-" + name, before: batches(slices.Concat(old, new)), want: one(120)},
			row{name: "identity-across-kill-" + name, before: batches(old), after: batches(new), want: one(120)},
		)
	}
	slices.SortFunc(list, func(a, b row) int { return compare(a.name, b.name) })
	return list
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// twice: a reading that is sent again counts once.
func twice() []row {
	three, deltas := each(0, 200, 300, 400), as(delta, each(0, 5, 5))
	sum := cod(func(p *parameter) { p.statistic, p.kindTells = "sum", true })
	return []row{
		{name: "twice", before: batches(three, three[:2]), want: one(300)},
		{name: "twice-in-one-batch", before: batches(slices.Concat(three, three[:2])), want: one(300)},
		{name: "twice-by-a-restarted-sender", before: batches(from(three, "service.instance.id", "1"), from(three[:2], "service.instance.id", "2")), want: one(300)},
		{name: "twice-across-kill", before: batches(three), after: batches(three[:2]), repeats: 2, want: one(300)},
		{name: "twice-all-across-kill", before: batches(three), after: batches(three, three), repeats: 6, want: one(300)},
		{name: "twice-all-after-kill", after: batches(three, three[:2]), repeats: 2, want: one(300)},
		{name: "twice-sum", devices: sum, before: batches(deltas, deltas), want: one(10)},
		{name: "twice-sum-across-kill", devices: sum, before: batches(deltas), after: batches(deltas), repeats: 2, want: one(10)},
		{name: "sum-of-two-sources", devices: statistic("sum"), before: batches(tagged(deltas, "pump", "1"), tagged(deltas, "pump", "2"), tagged(deltas, "pump", "1")), want: one(20)},
	}
}

// totalisers: the parameter decides the statistic, not the metric's name or kind.
func totalisers() []row {
	var nine []reading
	for i := range 10 {
		nine = append(nine, called([]reading{at(float64(i), 1000000000+10*float64(i))}, "meter.volume")...)
	}
	meter := func(parameter_, statistic string) []device {
		return []device{{parameters: []parameter{{name: "meter.volume", parameter: parameter_, unit: "m3", statistic: statistic}}}}
	}
	last := func(parameter string) []want { return []want{{parameter: parameter, unit: "m³", value: 1000000090}} }
	return []row{
		{name: "totaliser-gauge", devices: meter("flow_totalizer", ""), before: batches(nine), want: last("flow_totalizer")},
		{name: "totaliser-inlet", devices: meter("flow_inlet_totalizer", ""), before: batches(nine), want: last("flow_inlet_totalizer")},
		{name: "totaliser-cumulative", devices: meter("flow_totalizer", ""), before: batches(as(cumulative, nine)), want: last("flow_totalizer")},
		{name: "totaliser-shuffled", devices: meter("flow_totalizer", ""), before: batches(shuffled(nine)), want: last("flow_totalizer")},
		{name: "totaliser-across-kill", devices: meter("flow_totalizer", ""), before: batches(nine[5:]), after: batches(nine[:5]), want: last("flow_totalizer")},
		{name: "totaliser-asked-for-min", devices: meter("flow_totalizer", "min"), before: batches(nine), want: []want{{parameter: "flow_totalizer", unit: "m³", value: 1000000000}}},
		{name: "counter-asked-for-last", devices: cod(func(p *parameter) { p.statistic, p.kindTells = "last", true }), before: batches(as(cumulative, measured)), want: one(4)},
	}
}

// sources: readings of two instruments that fit one entry are averaged together, and there is a warning.
func sources() []row {
	var both []reading
	for i := range 10 {
		both = append(both, tagged([]reading{at(float64(i), 100)}, "stack", "a")...)
		both = append(both, tagged([]reading{at(float64(i)+0.5, 300)}, "stack", "b")...)
	}
	apart := func(stack string) device {
		return device{parameters: []parameter{{name: "analyser.cod", unit: "mg/L", tags: map[string]string{"stack": stack}}}}
	}
	return []row{
		{name: "two-sources", before: batches(both), want: one(200), warns: [][]string{{"take turns", "two-sources", "stack=a", "stack=b", "tell_apart_by", "stack"}}},
		{name: "two-sources-batch-by-batch", before: batches(both[:6], both[6:13], both[13:]), want: one(200), warns: [][]string{{"take turns", "two-sources-batch-by-batch", "stack=a", "stack=b"}}},
		{name: "two-sources-told-apart", devices: []device{apart("a"), apart("b")}, before: batches(both),
			want: []want{{device: "two-sources-told-apart.1", value: 100}, {device: "two-sources-told-apart.2", value: 300}}},
	}
}

// conflicts: of two values for one time the first stays, and there is a warning.
func conflicts() []row {
	first, second := from(each(3, 100), "gateway", "g1"), from(each(3, 500), "gateway", "g2")
	trail := []refused{{reason: "conflict", count: 1, detail: []string{"gateway=g1", "gateway=g2"}}}
	return []row{
		{name: "conflict", after: batches(first, second), want: one(100), refused: trail,
			warns: [][]string{{"reading is refused", "conflict", "gateway=g1", "gateway=g2"}}},
		{name: "conflict-in-one-batch", after: batches(slices.Concat(first, second)), want: one(100), refused: trail},
		{name: "conflict-before-kill", before: batches(first, second), want: one(100), refused: []refused{{reason: "conflict", count: 1}},
			warns: [][]string{{"reading is refused", `"conflict-before-kill"`, "conflict", "gateway=g1", "gateway=g2"}}},
		{name: "conflict-across-kill", before: batches(first), after: batches(second), want: one(100), refused: []refused{{reason: "conflict", count: 1}}},
		{name: "conflict-of-flags", before: batches(first, flagged(first, "M")), want: one(100), refused: []refused{{reason: "conflict", count: 1}}},
		{name: "conflict-many", before: batches(each(0, 1, 2, 3), each(0, 4, 5, 6), each(0, 1, 2, 3)), want: one(2), refused: []refused{{reason: "conflict", count: 3}}},
	}
}

// order: the order of arrival does not matter.
func order() (list []row) {
	tenths := each(0, 0.1, 0.2, 0.3, 1e9, 0.4, -1e9, 0.5, 0.6, 0.7)
	for statistic_, value := range map[string]float64{"mean": 0.3111111, "last": 0.7, "min": -1e9, "max": 1e9, "sum": 2.8, "median": 0.4} {
		for name, readings := range map[string][]reading{"in-order": tenths, "reversed": reversed(tenths), "shuffled": shuffled(tenths)} {
			list = append(list, row{name: name + "-" + statistic_, devices: statistic(statistic_), before: batches(readings), want: one(value)})
		}
	}
	slices.SortFunc(list, func(a, b row) int { return compare(a.name, b.name) })
	two := slices.Concat(each(1, 10, 20), each(16, 30, 40))
	return append(list, row{name: "two-slots-shuffled", before: batches(shuffled(two)), want: []want{{slot: 1, value: 15}, {slot: 2, value: 35}}})
}

// flags: U wins if there is one, and calibration has its own windows.
func flags() []row {
	calibrated := cod(func(*parameter) {})
	calibrated[0].calibrations = []simulator.Calibration{{From: base.Add(-time.Minute), To: base.Add(time.Hour)}}
	points := []reading{at(1, 50), at(1.25, 60), at(1.5, 70), at(2, 80)}
	stamp := func(minutes float64) time.Time { return base.Add(time.Duration(minutes * float64(time.Minute))) }
	return []row{
		{name: "flag-m", before: batches(flagged(each(0, 10, 20), "M")), want: []want{{value: 15, flag: "M"}}},
		{name: "flag-small-letter", before: batches(flagged(each(0, 10, 20), " m ")), want: []want{{value: 15, flag: "M"}}},
		{name: "flag-minority-of-u", before: batches(slices.Concat(flagged(each(0, times(9, 100)...), "M"), each(9, 200))), want: one(200)},
		{name: "flag-majority-without-u", before: batches(slices.Concat(flagged(each(0, 1, 2), "M"), flagged(each(2, 5, 6, 7), "F"), flagged(each(5, 9), "D"))), want: []want{{value: 6, flag: "F"}}},
		{name: "flag-unknown-of-two", devices: []device{{parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}, {name: "analyser.cod", parameter: "bod", unit: "mg/L"}}}},
			before: batches(flagged(each(0, 10, 20), "?")), refused: []refused{{reason: "bad_flag", count: 2}, {parameter: "bod", reason: "bad_flag", count: 2}}},
		{name: "flag-unknown", before: batches(slices.Concat(each(0, 10, 20), flagged(each(2, 90), "?"))), want: one(15), refused: []refused{{reason: "bad_flag", count: 1}}},
		{name: "flag-c", devices: slices.Clone(calibrated), before: batches(flagged(points, "C"), each(3, 10)), want: []want{
			{stamp: stamp(1.5), value: 55, flag: "C"}, {stamp: stamp(2), value: 70, flag: "C"}, {stamp: stamp(2.5), value: 80, flag: "C"}, {value: 10}}},
		{name: "flag-z", devices: slices.Clone(calibrated), before: batches(flagged(points[:2], "Z")), after: batches(flagged(points[1:], "Z"), each(3, 10)), repeats: 1, want: []want{
			{stamp: stamp(1.5), value: 55, flag: "Z"}, {stamp: stamp(2), value: 70, flag: "Z"}, {stamp: stamp(2.5), value: 80, flag: "Z"}, {value: 10}}},
	}
}

// since1970 returns a reading whose time is the given number of nanoseconds after 1970.
func since1970(nanoseconds int64) []reading {
	return change(each(0, 500), func(r *reading) { r.at = time.Unix(0, nanoseconds) })
}

// lateness: a closed window does not change.
func lateness() []row {
	three := each(0, 200, 300, 400)
	twoParameters := []device{{parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}, {name: "analyser.bod", unit: "mg/L"}}}}
	return []row{
		{name: "late-repeat", before: batches(three), late: batches(three, three[1:]), want: one(300), refused: []refused{{reason: "late", count: 5}}},
		{name: "late-other-value", before: batches(three), late: batches(each(7, 900)), want: one(300), refused: []refused{{reason: "late", count: 1}}},
		{name: "late-other-parameter", devices: twoParameters, before: batches(three), late: batches(called(each(0, 7, 9), "analyser.bod")),
			want: []want{{parameter: "cod", value: 300}, {parameter: "bod", value: 8}}},
		{name: "late-other-slot", before: batches(three), late: batches(slices.Concat(three[:1], each(15, 50))), want: []want{{value: 300}, {slot: 2, value: 50}},
			refused: []refused{{reason: "late", count: 1}}},
		{name: "too-old", before: batches(three, change(three, func(r *reading) { r.at = r.at.Add(-8 * 24 * time.Hour) })), want: one(300), refused: []refused{{reason: "too_old", count: 3}}},
		{name: "no-time", before: batches(three, since1970(0)), want: one(300), refused: []refused{{reason: "too_old", count: 1, detail: []string{"gives no time", "time_unix_nano"}}}},
		{name: "time-in-seconds", before: batches(three, since1970(base.Unix())), want: one(300), refused: []refused{{reason: "too_old", count: 1, detail: []string{"in seconds where nanoseconds"}}}},
		{name: "time-in-milliseconds", before: batches(three, since1970(base.UnixMilli())), want: one(300), refused: []refused{{reason: "too_old", count: 1, detail: []string{"in milliseconds where nanoseconds"}}}},
		{name: "time-in-microseconds", before: batches(three, since1970(base.UnixMicro())), want: one(300), refused: []refused{{reason: "too_old", count: 1, detail: []string{"in microseconds where nanoseconds"}}}},
		{name: "future", before: batches(three, change(three[:1], func(r *reading) { r.at = time.Now().Add(2 * time.Hour) })), want: one(300), refused: []refused{{reason: "future", count: 1}}},
	}
}

// names: the mapping of readings to devices and parameters.
func names() []row {
	bare := func(list []reading, name, unit, device string) []reading {
		return change(list, func(r *reading) { r.name, r.unit, r.device = name, unit, device })
	}
	lines := func(line, unit string) device {
		return device{parameters: []parameter{{name: "analyser.cod", unit: unit, tags: map[string]string{"line": line}}}}
	}
	two := each(0, 10, 20)
	latitude, longitude := 28.0, 77.2
	return []row{
		{name: "whole-degrees", devices: []device{{latitude: &latitude, longitude: &longitude}}, before: batches(bare(two, "cod", "mg/L", "whole-degrees")), want: one(15)},
		{name: "several-devices", devices: []device{lines("1", "mg/L"), lines("2", "mg/L"), lines("3", "mg/L")},
			before: batches(slices.Concat(tagged(two, "line", "1"), tagged(each(0, 30), "line", "2"), from(each(0, 50), "line", "3"), tagged(each(5, 60), "line", "4"))),
			want:   []want{{device: "several-devices.1", value: 15}, {device: "several-devices.2", value: 30}, {device: "several-devices.3", value: 50}}},
		{name: "two-parameters-of-one-metric", devices: []device{{parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}, {name: "analyser.cod", parameter: "bod", unit: "mg/L", statistic: "max"}}}},
			before: batches(two), want: []want{{parameter: "cod", value: 15}, {parameter: "bod", value: 20}}},
		{name: "no-entry", devices: []device{{}}, before: batches(bare(two, "cod", "mg/l", "no-entry")), want: one(15)},
		{name: "no-entry-field", devices: []device{{}}, before: batches(change(bare(two, "ph", "pH", "no-entry-field"), func(r *reading) { r.flag = "M" })),
			want: []want{{parameter: "ph", unit: "pH", value: 15, flag: "M"}}},
		{name: "no-entry-totaliser", devices: []device{{}}, before: batches(bare(two, "flow_totalizer", "m3", "no-entry-totaliser")),
			want: []want{{parameter: "flow_totalizer", unit: "m³", value: 20}}},
		{name: "no-entry-no-unit", devices: []device{{}}, before: batches(bare(two, "cod", "", "no-entry-no-unit")), want: nil, refused: []refused{{reason: "unit", count: 2}}},
		{name: "unknown-device", devices: []device{{}}, before: batches(slices.Concat(bare(two, "cod", "mg/L", "unknown-device"), bare(two, "cod", "mg/L", "nobody"))), want: one(15),
			warns: [][]string{{"the device is not configured", "nobody"}}},
		{name: "not-a-key", devices: []device{{}}, before: batches(slices.Concat(bare(two, "cod", "mg/L", "not-a-key"), bare(two, "uptime", "s", "not-a-key"))), want: one(15)},
	}
}

// floodOfNaN returns 20 minutes of NaN, one per second.
func floodOfNaN() (list []reading) {
	for i := range 1200 {
		list = append(list, at(float64(i)/60, math.NaN()))
	}
	return list
}

// values: the form in which values are sent.
func values() (list []row) {
	two := 2
	spelled := map[string]string{"mg/l": "mg/L", "MG/L": "mg/L", "mgpl": "mg/L", "mg / l": "mg/L", "Cel": "°C", "KLD": "m³/day"}
	for spelling, unit := range spelled {
		name := fmt.Sprintf("unit-%x", spelling)
		list = append(list,
			row{name: name, devices: cod(func(p *parameter) { p.unit = spelling }), before: batches(each(0, 10, 20)), want: []want{{value: 15, unit: unit}}},
			row{name: name + "-of-the-metric", devices: cod(func(p *parameter) { p.unit = "" }),
				before: batches(change(each(0, 10, 20), func(r *reading) { r.unit = spelling })), want: []want{{value: 15, unit: unit}}})
	}
	slices.SortFunc(list, func(a, b row) int { return compare(a.name, b.name) })
	inUnit := func(list []reading, unit string) []reading {
		return change(list, func(r *reading) { r.unit = unit })
	}
	return append(list,
		row{name: "decimals", devices: cod(func(p *parameter) { p.decimals = &two }), before: batches(each(0, 1, 0, 0)), want: one(0.33)},
		row{name: "decimals-none", before: batches(each(0, 1, 0, 0)), want: one(0.3333333)},
		row{name: "decimals-of-32-bits", before: batches(each(0, float64(float32(110.1)))), want: one(110.1)},
		row{name: "diagnostic", devices: cod(func(p *parameter) { p.diagnostic = true }), before: batches(each(0, 10, 20)), want: []want{{value: 15, diagnostic: true}}},
		row{name: "nan", before: batches(each(0, 10, math.NaN(), 20, math.Inf(1))), want: one(15), refused: []refused{{reason: "not_a_number", count: 2}}},
		row{name: "nan-flood", after: batches(each(0, times(10, math.NaN())...), floodOfNaN()), want: nil, refused: []refused{{reason: "not_a_number", count: 1210, lines: 2}}},
		row{name: "nan-alone", before: batches(each(0, math.NaN())), want: nil, refused: []refused{{reason: "not_a_number", count: 1}}},
		row{name: "zero", before: batches(each(0, 0, math.Copysign(0, -1))), want: one(0)},
		row{name: "one-reading", before: batches(each(14, 7.25)), want: one(7.25)},
		row{name: "borders", before: batches([]reading{at(0, 1), at(14.999, 3), at(15, 10), at(29.999, 20)}), want: []want{{slot: 1, value: 2}, {slot: 2, value: 15}}},
		row{name: "unit-changes", devices: cod(func(p *parameter) { p.unit = "" }), before: batches(inUnit(each(0, 10, 20), "mg/L"), inUnit(each(2, 90), "ppm"), inUnit(each(3, 30), "mg/l")),
			want: one(20), refused: []refused{{reason: "unit", count: 1}}},
	)
}

func ruled(rules map[string]any) []device {
	return cod(func(p *parameter) { p.rules = rules })
}

// validity: invalid readings are in no slot, and are in the trail.
func validity() []row {
	bounds := ruled(map[string]any{"valid_min": 0, "valid_max": 500.5, "invalid_values": []any{0, -9999.9, 65535, 6553.5, 250.0}})
	slow := ruled(map[string]any{"max_step": 50})
	covered := ruled(map[string]any{"min_coverage": 0.2})
	waits := ruled(map[string]any{"min_coverage": 0.2, "below_min_coverage": "wait"})
	waits[0].parameters = append(waits[0].parameters, parameter{name: "analyser.bod", unit: "mg/L"})
	single, two := float64(float32(-9999.9)), 2
	return []row{
		{name: "sentinel", devices: bounds, before: batches(each(0, 100, -9999.9, single, 200, 65535, 6553.5, 0, -1, 501, math.NaN(), math.Inf(1), 250)),
			want: []want{{value: 150, of: "2 100..200"}}, refused: []refused{{reason: "invalid_value", count: 6, lines: 1, detail: []string{"invalid_values"}},
				{reason: "below_valid_min", count: 1, detail: []string{" is below valid_min 0"}}, {reason: "above_valid_max", count: 1, detail: []string{" is above valid_max 500.5"}}, {reason: "not_a_number", count: 2}}},
		{name: "sentinel-alone", devices: bounds, before: batches(each(0, times(9, 65535)...)), want: nil, refused: []refused{{reason: "invalid_value", count: 9}},
			warns: [][]string{{"reading is refused", "sentinel-alone", "invalid_value"}}},
		{name: "sentinel-across-kill", devices: bounds, before: batches(each(0, 100, -2)), after: batches(each(1, -2, 300)), want: one(200), refused: []refused{{reason: "below_valid_min", count: 2}}},
		{name: "sentinel-then-a-value", devices: bounds, before: batches(each(3, -2), each(3, 100)), want: one(100), refused: []refused{{reason: "below_valid_min", count: 1}}},
		{name: "bounds", devices: ruled(map[string]any{"valid_min": 10, "valid_max": 20}), before: batches(each(0, 10, 20, 9.99, 20.01)), want: one(15),
			refused: []refused{{reason: "below_valid_min", count: 1}, {reason: "above_valid_max", count: 1}}},
		{name: "step", devices: slow, before: batches(each(0, 100, 400, 110), each(0, 100)), want: one(105), refused: []refused{{reason: "max_step", count: 1, detail: []string{"max_step is 50 a minute"}}}},
		{name: "step-across-kill", devices: slow, before: batches(each(0, 100)), after: batches(each(0, 100), each(1, 400, 110)), repeats: 1, want: one(105), refused: []refused{{reason: "max_step", count: 1}}},
		{name: "step-to-stay", devices: slow, before: batches(each(0, 100, 400, 400, 400)), after: batches(each(4, 400, 400, 400, 400, 400)), want: one(325), refused: []refused{{reason: "max_step", count: 5}}},
		{name: "step-far-to-stay", devices: slow, before: batches(each(0, 100), each(1, times(20, 9000)...)), want: []want{{value: 100}, {slot: 2, value: 9000}},
			refused: []refused{{reason: "max_step", count: 15}}},
		{name: "coverage", devices: covered, before: batches([]reading{at(0, 1), at(0.5, 2), at(7, 3), at(15, 5), at(20, 6), at(29, 7)}), want: []want{{slot: 2, value: 6, of: "3 5..7"}},
			refused: []refused{{reason: "min_coverage", count: 3, detail: []string{"readings in 2 of 15 minutes", "min_coverage is 0.2"}}}},
		{name: "coverage-waits", devices: waits, before: batches([]reading{at(0, 1), at(0.5, 2)}, called(each(0, 8), "analyser.bod")),
			after: batches([]reading{at(7, 3), at(15, 5), at(20, 6), at(29, 7)}), want: []want{{parameter: "bod", value: 8}, {slot: 2, value: 6}}, waits: 3},
		{name: "trail-of-one", before: batches(each(3, 7)), want: []want{{value: 7, of: "1 0..0"}}},
		{name: "trail-of-the-same", before: batches(each(3, 7, 7)), want: []want{{value: 7, of: "2 0..0"}}},
		{name: "trail-of-nought", before: batches(each(3, 0, 7)), want: []want{{value: 3.5, of: "2 0..7"}}},
		{name: "trail-of-many-digits", before: batches(each(3, 100.0625, 101.03125, 107.53125)), want: []want{{value: 102.875, of: "3 100..108"}}},
		{name: "trail-of-few-digits", devices: cod(func(p *parameter) { p.decimals = &two }), before: batches(each(3, 100.0625, 101.03125, 107.53125)), want: []want{{value: 102.88, of: "3 100.06..107.53"}}},
	}
}

// periods: the time span that a reading covers.
func periods() []row {
	held, ends := statistic("time_weighted"), ruled(map[string]any{"reading_stamp": "end"})
	minutes := each(1, append(times(14, 100), 250)...)
	return []row{
		{name: "changes-only", devices: held, before: batches([]reading{at(0, 100), at(14, 400)}), want: []want{{value: 120, of: "2 100..400"}}},
		{name: "changes-only-shuffled", devices: held, before: batches([]reading{at(14, 400)}), after: batches([]reading{at(0, 100), at(14, 400)}), repeats: 1, want: one(120)},
		{name: "changes-only-from-the-first-on", devices: held, before: batches([]reading{at(5, 100), at(10, 400)}), want: one(250)},
		{name: "changes-only-held", devices: held, before: batches([]reading{at(0, 100), at(14, 400)}), after: batches([]reading{at(20, 100)}), late: batches([]reading{at(36, 250), at(51, 40)}, []reading{at(80, 1)}),
			want: []want{{slot: 1, value: 120}, {slot: 2, value: 200}, {slot: 3, value: 190}, {slot: 4, value: 124}, {slot: 6, value: 1}}},
		{name: "end-stamped", devices: ends, before: batches(minutes), after: batches(minutes[14:]), repeats: 1, want: []want{{value: 110, of: "15 100..250"}}},
		{name: "end-stamped-covered", devices: ruled(map[string]any{"reading_stamp": "end", "min_coverage": 1}), before: batches(minutes), want: one(110)},
		{name: "end-stamped-refused", devices: ends, before: batches(slices.Concat(minutes[:14], each(15, math.NaN()))), want: one(100),
			refused: []refused{{reason: "not_a_number", count: 1, detail: []string{"taken at " + base.Add(15*time.Minute).UTC().Format(time.RFC3339) + ":"}}}},
	}
}
