package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

const (
	lateTogether = 10 * time.Second
	mostLines    = 10  // devices that have a log line for each slot; with more there is one line for all
	mostNamed    = 20  // warnings after one slot
	linesStay    = 700 // slots whose late delivery may still be logged
)

// slotLines has the slots whose number of delivered parameters is to be logged, or was.
type slotLines struct {
	by   map[int64]*slotLine
	last int64 // newest slot whose time is over

	older, olderAlready    int // late slots of devices that are not logged yet; and how many of them the board had already
	oldestLate, newestLate int64
	lateAt                 time.Time // when the last of them was delivered
}

// slotLine is one slot.
type slotLine struct {
	delivered int
	devices   map[string]int // delivered parameters by device, in a plant
	already   map[string]int // how many of these the board had already
	told      map[string]bool
}

func (l *slotLines) of(stamp int64) *slotLine {
	x := l.by[stamp]
	if x == nil {
		if len(l.by) >= linesStay {
			delete(l.by, slices.Min(slices.Collect(maps.Keys(l.by))))
		}
		x = &slotLine{devices: map[string]int{}, already: map[string]int{}, told: map[string]bool{}}
		l.by[stamp] = x
	}
	return x
}

func (a *account) perDevice() bool { return len(a.ids) <= mostLines }

// delivered records that the board has parameters of a slot; already: it had them before.
func (a *account) delivered(device string, stamp int64, parameters int, already bool) {
	d := a.devices[device]
	if d == nil || parameters == 0 {
		return
	}
	x := a.slots.of(stamp)
	x.delivered += parameters
	if !a.perDevice() {
		return
	}
	x.devices[device] += parameters
	if already {
		x.already[device] += parameters
	}
	due := d.due(stamp, a.e.windowOf(stamp))
	switch l := &a.slots; {
	case x.devices[device] < due || x.told[device]:
	case stamp > l.last:
		x.told[device] = true
		a.sayDelivered(stamp, d, x, max(due, x.devices[device]), nil)
	default: // after an outage there are many
		x.told[device] = true
		if l.older++; l.older == 1 {
			l.oldestLate, l.newestLate = stamp, stamp
		}
		if x.already[device] >= x.devices[device] {
			l.olderAlready++
		}
		l.oldestLate, l.newestLate, l.lateAt = min(l.oldestLate, stamp), max(l.newestLate, stamp), time.Now()
	}
}

// sayLate logs late deliveries in one line.
func (a *account) sayLate() {
	l := &a.slots
	if l.older == 0 || time.Since(l.lateAt) < lateTogether {
		return
	}
	text := fmt.Sprintf("delivered slots that waited: %d, from %s to %s", l.older, a.clock(l.oldestLate), a.clock(l.newestLate))
	if l.olderAlready > 0 {
		text += fmt.Sprintf("; the board had %d of them already", l.olderAlready)
	}
	a.e.log.Info(text)
	l.older, l.olderAlready = 0, 0
}

// due returns how many parameters are due in the slot of a window, or have it although it was not due, as after a start
// within a window.
func (d *deviceAccount) due(stamp int64, window time.Time) (n int) {
	for _, p := range d.parameters {
		if !window.Before(p.Due) || p.Slot != nil && p.Slot.Stamp.UnixMilli() == stamp {
			n++
		}
	}
	return n
}

func (a *account) sayDelivered(stamp int64, d *deviceAccount, x *slotLine, due int, missing []string) {
	already := x.already[d.DeviceID]
	text := fmt.Sprintf("%s delivered %d of %s of %s", a.clock(stamp), x.devices[d.DeviceID]-already, spec.Counted(due, "parameter"), d.DeviceID)
	if already > 0 {
		text += fmt.Sprintf("; the board had %d already", already)
	}
	if len(missing) > 0 {
		text += "; " + strings.Join(missing, "; ")
	}
	a.e.log.Info(text)
}

func (a *account) clock(stamp int64) string { return status.Time(time.UnixMilli(stamp), a.now()) }

// windowOf returns the start of the window of a stamp.
func (e *Engine) windowOf(stamp int64) time.Time {
	t := time.UnixMilli(stamp).UTC()
	if e.rules.Stamp == "end" {
		t = t.Add(-spec.SlotLength)
	}
	return t
}

// tell logs the result of a slot once its time is over.
func (a *account) tell(now time.Time) {
	a.sayLate()
	h := status.Host{Stamp: a.e.rules.Stamp, Within: a.within().Seconds()}
	stamp := h.Expected(now).UnixMilli()
	if a.slots.last == 0 {
		a.slots.last = stamp // of the last slot before the start
	}
	if !a.e.trustsClock() || a.e.loop.waiting.Load() > 0 {
		return
	}
	if a.slots.last > stamp { // from a clock that was ahead
		a.slots.last = stamp - 1
	}
	if stamp <= a.slots.last {
		return
	}
	a.slots.last, h = stamp, *a.describe(false)
	lost := a.came.lost()
	for _, f := range lost[:min(len(lost), mostNamed)] {
		a.e.log.Warn("a flag or unit is on a metric without a reported field, so it applies to no reading: join it with the readings in a processor",
			"metric", f.metric, "attribute", f.word, "of", a.e.hide(f.source))
	}
	if more := len(lost) - mostNamed; more > 0 {
		a.e.log.Warn("more flags or units are on metrics without a reported field", "metrics", more)
	}
	window, due, warned := a.e.windowOf(stamp), 0, 0
	x, classes, well := a.slots.of(stamp), map[status.Class]int{}, 0
	for _, id := range a.ids {
		d := a.devices[id]
		for _, p := range d.parameters {
			if first := firstWindow(now); p.Due.After(first) { // from a clock that was ahead
				p.Due = first
			}
		}
		n := d.due(stamp, window)
		due += n
		if n == 0 {
			continue
		}
		device := a.describeDevice(d, now, false)
		missing := map[status.Class][]string{}
		for i, p := range d.parameters {
			q := &device.Parameters[i]
			if p.told != status.Never && warned < mostNamed && p.neverCame(d) {
				q.Never = a.instead(p, d)
			}
			v := h.Judge(&device, q, now)
			if v.Level == status.Failed || v.Class == status.Waits || v.Class == status.Behind {
				missing[v.Class] = append(missing[v.Class], p.Parameter.Parameter)
			}
			if v.Level != status.OK {
				classes[v.Class]++
			}
			a.warn(p, id, v, &warned, &well)
		}
		if a.perDevice() && !x.told[id] && !h.Slots && !h.DryRun {
			var parts []string
			for _, class := range slices.Sorted(maps.Keys(missing)) {
				parts = append(parts, fmt.Sprintf("%s: %s", class, strings.Join(missing[class], ", ")))
			}
			a.sayDelivered(stamp, d, x, n, parts)
		}
	}
	a.classes = classes
	if warned > mostNamed {
		a.e.log.Warn("more parameters need a person: see `ocems status`", "parameters", warned-mostNamed)
	}
	if well > mostNamed {
		a.e.log.Info("more parameters are well again", "parameters", well-mostNamed)
	}
	if !a.perDevice() && !h.Slots && !h.DryRun && due > 0 {
		a.e.log.Info(fmt.Sprintf("%s delivered %d of %s of %s", a.clock(stamp), x.delivered, spec.Counted(due, "parameter"), spec.Counted(len(a.ids), "device")))
	}
}

// warn logs once that a parameter needs a person, and once that it no longer does; it counts all and logs the first
// few. A parameter that waits for the board counts as neither.
func (a *account) warn(p *parameterAccount, device string, v status.Verdict, warned, well *int) {
	class := status.Class("")
	switch {
	case v.Class == status.Waits:
		return
	case v.Level != status.OK:
		class = v.Class
	}
	before := p.told
	if p.told = class; class == before {
		return
	}
	switch {
	case class == "":
		if *well++; *well <= mostNamed {
			a.e.log.Info("a parameter is well again", "device", device, "parameter", p.Parameter.Parameter)
		}
	default:
		if *warned++; *warned <= mostNamed {
			a.e.log.Warn("a parameter needs a person: "+v.Text, "device", device, "parameter", p.Parameter.Parameter, "do", cmp.Or(v.Cure, "see `ocems status`"))
		}
	}
}
