package slot

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// point is a sample outside of its window. Its flag is 0 if there is none.
type point struct {
	at    int64 // Unix ns
	value float64
	flag  spec.Flag
}

// in reports that a point is in the 15-minute window that starts at the given time, in Unix seconds.
func (p point) in(start int64) bool {
	since := time.Duration(p.at - start*int64(time.Second))
	return p.flag != 0 && since >= 0 && since < spec.SlotLength
}

// memory is what a series keeps beside its windows, for samples with a MaxStep and for the statistic TimeWeighted.
type memory struct {
	step point  // last sample taken
	held []held // last samples of the recently closed 15-minute windows, in order of closing
}

type held struct {
	point
	unit string
}

// mostHeld is the limit of held: windows of live data and of history may close alternately.
const mostHeld = 16

func (m *memory) hold(h held) {
	if m.held = append(m.held, h); len(m.held) > mostHeld {
		oldest := slices.MinFunc(m.held, func(a, b held) int { return cmp.Compare(a.at, b.at) })
		i := slices.Index(m.held, oldest)
		m.held = slices.Delete(m.held, i, i+1)
	}
}

// forget removes what is held of a window.
func (m *memory) forget(start int64) {
	m.held = slices.DeleteFunc(m.held, func(h held) bool { return h.in(start) })
}

func (s *series) remember() *memory {
	if s.memory == nil {
		s.memory = new(memory)
	}
	return s.memory
}

// leaps reports that a sample differs too much from the last one taken: by more than step for each minute between their
// times, or within a minute by more than one step. Two samples more than 15 minutes apart never leap, so that a real
// change is left out for 15 minutes at most. The first sample of another flag does not leap either: it comes from other
// air.
func (s *series) leaps(step float64, x *Reading) bool {
	if s.memory == nil || s.memory.step.flag == 0 {
		return false
	}
	last := &s.memory.step
	apart := time.Duration(x.Time.UnixNano() - last.at).Abs()
	exact := 1e-6 * max(math.Abs(x.Value), math.Abs(last.value)) // rounding of a 32-bit register
	return last.flag == x.Flag && apart <= spec.SlotLength && math.Abs(x.Value-last.value) > step*max(apart.Minutes(), 1)+exact
}

// at returns the open window of a series with these bounds, or nil.
func (s *series) at(b bounds) *cell {
	i, found := slices.BinarySearchFunc(s.open, b, func(c *cell, b bounds) int { return c.window.bounds.compare(b) })
	if !found {
		return nil
	}
	return s.open[i]
}

// before returns the last sample of the window directly before a cell's, if it has the same unit.
func (c *cell) before() point {
	start := c.window.start - normal.seconds()
	if c.window.kind != normal {
		return point{}
	}
	if o := c.series.at(bounds{start, normal}); o != nil && o.unit == c.unit {
		return o.latest()
	}
	if m := c.series.memory; m != nil {
		if i := slices.IndexFunc(m.held, func(h held) bool { return h.in(start) && h.unit == c.unit }); i >= 0 {
			return m.held[i].point
		}
	}
	return point{}
}

// latest returns the cell's sample with the latest time.
func (c *cell) latest() (p point) {
	for i := range c.flags {
		if a := &c.flags[i]; p.flag == 0 || a.lastTime > p.at {
			p = point{a.lastTime, a.last, a.flag}
		}
	}
	return p
}

// value returns the value of an accumulator, and the number of minutes of the window in which the cell has samples.
func (c *cell) value(acc *accumulator) (value float64, minutes int) {
	if c.window.kind != normal {
		if c.stat != TimeWeighted {
			return acc.value(c.stat), 0
		}
		return c.weighted(acc, point{}), 0
	}
	const minute = uint64(time.Minute / time.Microsecond)
	if c.stat == TimeWeighted {
		before, first := c.before(), c.marks[0].time()/minute
		if before.flag != 0 {
			first = 0
		}
		return c.weighted(acc, before), int(spec.SlotLength/time.Minute) - int(first)
	}
	last := uint64(math.MaxUint64)
	for _, m := range c.marks { // sorted
		if at := m.time() / minute; at != last {
			last = at
			minutes++
		}
	}
	return acc.value(c.stat), minutes
}

// weighted returns the mean weighted by the time for which samples of one flag hold: each until the next sample of any
// flag, and before from the start of the window.
func (c *cell) weighted(acc *accumulator, before point) float64 {
	type since struct {
		from  float64 // microseconds since the window's start
		value float64
		flag  spec.Flag
	}
	list := make([]since, 0, len(c.marks)+2)
	if before.flag != 0 {
		list = append(list, since{0, before.value, before.flag})
	}
	for i := range c.flags {
		f := &c.flags[i]
		for j := 0; j < len(f.values); j += 2 {
			list = append(list, since{f.values[j], f.values[j+1], f.flag})
		}
	}
	slices.SortStableFunc(list, func(a, b since) int { return cmp.Compare(a.from, b.from) })
	list = append(list, since{from: float64(c.window.kind.length() / time.Microsecond)})
	sum, total, low, high := 0.0, 0.0, math.Inf(1), math.Inf(-1)
	for i, x := range list[:len(list)-1] {
		weight := (list[i+1].from - x.from) / (1 << 30) // exact, and small enough that every sum is finite
		if x.flag != acc.flag || weight == 0 {
			continue
		}
		sum, total = sum+x.value*weight, total+weight
		low, high = min(low, x.value), max(high, x.value)
	}
	if total == 0 {
		return acc.last
	}
	return min(max(sum/total, low), high)
}

func encodeMemory(e *frame.Encoder, m *memory) {
	e.Bool(m != nil)
	if m == nil {
		return
	}
	m.step.encode(e)
	e.Uint(uint64(len(m.held)))
	for _, h := range m.held {
		h.encode(e)
		e.Text(h.unit)
	}
}

func (p point) encode(e *frame.Encoder) {
	e.Int(p.at)
	e.Float(p.value)
	e.Byte(byte(p.flag))
}

func decodeMemory(d *frame.Decoder) *memory {
	if !d.Bool() {
		return nil
	}
	m := &memory{step: decodePoint(d)}
	n := d.Uint()
	if n > mostHeld {
		d.Fail("too many windows")
	}
	for ; n > 0 && d.Err() == nil; n-- {
		m.held = append(m.held, held{decodePoint(d), d.Text()})
	}
	return m
}

func decodePoint(d *frame.Decoder) point {
	p := point{decodeTime(d), decodeFloat(d), spec.Flag(d.Byte())}
	if p.flag != 0 && !p.flag.Valid() {
		d.Fail("an unknown flag")
	}
	return p
}
