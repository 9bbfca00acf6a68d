package slot

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

const (
	shardCount = 64
	version    = 6
)

// mark says whether a part of the state has to be saved.
type mark struct {
	dirty  bool // changed since the last Save
	saving bool // returned by Save, not yet confirmed by Saved
}

func (m *mark) give() bool {
	m.saving = m.saving || m.dirty
	m.dirty = false
	return m.saving
}

func shardKey(i int) string { return fmt.Sprintf("%02d", i) }

// Save returns the entries of the state that changed since the last Save that [Aligner.Saved] has confirmed. They must
// be written in one atomic write, together with the slots that Close has returned. A nil value deletes an entry.
func (a *Aligner) Save() map[string][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	entries := map[string][]byte{}
	for i := range a.shards {
		sh := &a.shards[i]
		if !sh.mark.give() {
			continue
		}
		entries[shardKey(i)] = nil
		if len(sh.devices) > 0 {
			e := frame.Sized(version, sh.bytes+sh.bytes/8)
			for _, d := range sh.devices {
				a.encodeDevice(e, d)
			}
			entries[shardKey(i)] = e.Seal()
			sh.bytes = len(entries[shardKey(i)])
		}
	}
	return entries
}

// Saved confirms that the result of the last Save is stored.
func (a *Aligner) Saved() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.shards {
		a.shards[i].mark.saving = false
	}
}

// Restore loads a saved state into an unused Aligner. Unreadable entries are left out and named in damaged; the others
// are restored. The error wraps [frame.ErrNewer].
func (a *Aligner) Restore(entries map[string][]byte, now time.Time) (damaged map[string]error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.series > 0 {
		return nil, errors.New("restoring the slots' state: the aligner is in use already")
	}
	a.base, a.restored = now, len(entries) > 0
	a.next = math.MinInt64 // the next Close checks every window
	numbers := map[string]int{}
	for i := range shardCount {
		numbers[shardKey(i)] = i
	}
	damaged = map[string]error{}
	var loaded []*device
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		i, known := numbers[name]
		if !known {
			damaged[name] = errors.New("no such entry")
			continue
		}
		list, err := a.decodeShard(i, entries[name])
		if errors.Is(err, frame.ErrNewer) {
			return nil, fmt.Errorf("restoring the slots' state, entry %q: %w", name, err)
		}
		if err != nil {
			damaged[name] = err
			continue
		}
		loaded = append(loaded, list...)
	}
	for _, d := range loaded {
		a.load(d)
	}
	return damaged, nil
}

// load adds a decoded device.
func (a *Aligner) load(d *device) {
	sh := &a.shards[d.shard]
	d.pos = int32(len(sh.devices))
	sh.devices = append(sh.devices, d)
	a.devices[d.id] = d
	a.series += len(d.series)
	for _, s := range d.series {
		a.open += len(s.open)
	}
}

func (a *Aligner) decodeShard(number int, data []byte) (list []*device, err error) {
	d, err := frame.Open(data, version)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for d.Left() > 0 && d.Err() == nil {
		x := a.decodeDevice(d)
		if d.Err() == nil && (seen[x.id] || x.shard != int32(number)) {
			d.Fail("a duplicate device, or one of another shard")
		}
		seen[x.id] = true
		list = append(list, x)
	}
	return list, d.Err()
}

func (a *Aligner) encodeDevice(e *frame.Encoder, d *device) {
	base := a.base.UnixNano() // arrivals are stored as wall time
	e.Text(d.id)
	e.Uint(uint64(len(d.windows)))
	for _, w := range d.windows {
		e.Int(w.start)
		e.Byte(byte(w.kind))
		e.Int(base + w.arrival)
	}
	e.Uint(uint64(len(d.series)))
	for _, s := range d.inOrder() {
		e.Text(s.Parameter)
		e.Bool(s.Diagnostic)
		e.Int(base + s.seen)
		e.Int(s.pace.newest)
		e.Int(int64(s.pace.slow))
		encodeMemory(e, s.memory)
		encodeRings(e, s)
		e.Uint(uint64(len(s.open)))
		place := 0
		for _, c := range s.open { // both lists have the same order
			for d.windows[place] != c.window {
				place++
			}
			e.Uint(uint64(place))
			encodeCell(e, c)
		}
	}
}

func (a *Aligner) decodeDevice(d *frame.Decoder) *device {
	base := a.base.UnixNano()
	// A step back of the clock must not keep a window open, and a step forward must not delete the record of closed
	// windows.
	arrival := func() int64 { return max(min(decodeTime(d)-base, 0), -int64(a.idle/2)) }
	x := &device{id: d.Text(), series: map[parameter]*series{}}
	x.shard = shardOf(x.id)
	for n := d.Uint(); n > 0 && d.Err() == nil; n-- {
		w := &window{bounds: bounds{decodeTime(d), kind(d.Byte())}, arrival: arrival()}
		switch {
		case w.kind >= kinds:
			d.Fail("an unknown kind of window")
		case w.start%w.kind.seconds() != 0 || max(w.start, -w.start) > math.MaxInt64/int64(2*time.Second):
			d.Fail("a window off the grid")
		case len(x.windows) > 0 && x.windows[len(x.windows)-1].compare(w.bounds) >= 0:
			d.Fail("windows out of order")
		}
		x.windows = append(x.windows, w)
	}
	for n := d.Uint(); n > 0 && d.Err() == nil; n-- {
		s := &series{device: x, shard: x.shard, Series: Series{Device: x.id, Parameter: d.Text(), Diagnostic: d.Bool()}, seen: arrival()}
		s.pace = pace{newest: decodeTime(d), slow: min(max(time.Duration(d.Int()), 0), longestPause)}
		name := parameter{s.Parameter, s.Diagnostic}
		if d.Err() == nil && x.series[name] != nil {
			d.Fail("a duplicate series")
		}
		x.series[name] = s
		s.memory = decodeMemory(d)
		decodeRings(d, s)
		for n := d.Uint(); n > 0 && d.Err() == nil; n-- {
			place := d.Uint()
			if place >= uint64(len(x.windows)) {
				d.Fail("an unknown window")
				break
			}
			c := &cell{series: s, window: x.windows[place]}
			if len(s.open) > 0 && s.open[len(s.open)-1].window.compare(c.window.bounds) >= 0 {
				d.Fail("windows out of order")
			}
			decodeCell(d, c)
			s.open, c.window.cells = append(s.open, c), append(c.window.cells, c)
		}
	}
	return x
}

func encodeRings(e *frame.Encoder, s *series) {
	for k := range kinds {
		var r ring
		if k == normal || s.calibration != nil {
			r = *s.ring(k)
		}
		for _, p := range []*stretch{&r.stretch, &r.other} {
			e.Uint(uint64(len(p.bits)))
			if p.bits != nil {
				e.Int(p.top)
			}
			for _, w := range p.bits {
				e.Fixed(w)
			}
		}
	}
}

func decodeRings(d *frame.Decoder, s *series) {
	for k := range kinds {
		for second := range 2 {
			n := d.Uint()
			if n == 0 {
				continue
			}
			if n != uint64(ringWords(k)) {
				d.Fail("a wrong ring length")
				return
			}
			p := &s.ring(k).stretch
			if second == 1 {
				p = &s.ring(k).other
			}
			p.top = decodeTime(d)
			p.bits = make([]uint64, n)
			for i := range p.bits {
				p.bits[i] = d.Fixed()
			}
		}
	}
}

func encodeCell(e *frame.Encoder, c *cell) {
	e.Text(c.unit)
	e.Byte(byte(c.stat))
	e.Bool(c.doubt)
	e.Uint(uint64(len(c.sources)))
	for _, s := range c.sources {
		e.Fixed(s)
	}
	e.Uint(uint64(len(c.marks)))
	for _, m := range c.marks {
		e.Fixed(uint64(m))
	}
	e.Uint(uint64(len(c.flags)))
	for _, acc := range c.flags {
		e.Byte(byte(acc.flag))
		e.Uint(uint64(acc.count))
		for _, f := range []float64{acc.sum, acc.rest, acc.min, acc.max, acc.last} {
			e.Float(f)
		}
		e.Int(acc.lastTime)
		if c.stat >= Median {
			for _, f := range acc.values {
				e.Float(f)
			}
		}
	}
}

func decodeCell(d *frame.Decoder, c *cell) {
	c.unit, c.stat = d.Text(), Statistic(d.Byte())
	if !c.stat.Valid() {
		d.Fail("an unknown statistic")
	}
	c.doubt = d.Bool()
	for n := d.Count(8); n > 0 && d.Err() == nil; n-- {
		c.sources = append(c.sources, d.Fixed())
	}
	if len(c.sources) > maxSources {
		d.Fail("too many sources")
	}
	last := mark64(0)
	for n := d.Count(8); n > 0 && d.Err() == nil; n-- {
		m := mark64(d.Fixed())
		if m.time() < last.time() || m.source() >= uint64(len(c.sources)) {
			d.Fail("samples out of order or without a source")
		}
		c.marks, last = append(c.marks, m), m
	}
	samples := int64(0)
	for n := d.Uint(); n > 0 && d.Err() == nil; n-- {
		acc := decodeAccumulator(d, c.stat)
		if kindOf(acc.flag) != c.window.kind || !acc.flag.Valid() ||
			slices.ContainsFunc(c.flags, func(b accumulator) bool { return b.flag == acc.flag }) {
			d.Fail("an unknown or duplicate flag, or one of another kind of window")
		}
		c.flags, samples = append(c.flags, acc), samples+acc.count
	}
	if samples != int64(len(c.marks)) || samples == 0 {
		d.Fail("a wrong number of samples")
	}
}

func decodeAccumulator(d *frame.Decoder, stat Statistic) accumulator {
	acc := accumulator{flag: spec.Flag(d.Byte()), count: int64(d.Uint())}
	for _, f := range []*float64{&acc.sum, &acc.rest, &acc.min, &acc.max, &acc.last} {
		*f = decodeFloat(d)
	}
	acc.lastTime = decodeTime(d)
	if acc.count <= 0 || acc.count > maxSamples || acc.min > acc.max || acc.last < acc.min || acc.last > acc.max {
		d.Fail("impossible samples")
	}
	n := int64(0)
	switch stat {
	case Median:
		n = acc.count
	case TimeWeighted:
		n = 2 * acc.count
	}
	if n > int64(d.Left()/8) {
		d.Fail("too many values")
		return acc
	}
	for i := range n {
		v := decodeFloat(d)
		if stat == TimeWeighted && i%2 == 0 && !(v >= 0 && v < float64(spec.SlotLength/time.Microsecond)) {
			d.Fail("a time outside of the window")
		}
		acc.values = append(acc.values, v)
	}
	return acc
}

// decodeTime reads a time or a window index, within the range that arithmetic allows.
func decodeTime(d *frame.Decoder) int64 {
	v := d.Int()
	if v > math.MaxInt64/2 || v < math.MinInt64/2 {
		d.Fail("no time")
		return 0
	}
	return v
}

func decodeFloat(d *frame.Decoder) float64 {
	v := d.Float()
	if math.IsNaN(v) || math.IsInf(v, 0) {
		d.Fail("not a number")
		return 0
	}
	return v
}
