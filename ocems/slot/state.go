package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	shardCount = 64
	magic      = "OSL"
	version    = 2
)

// ErrNewer is a saved state that a newer version of this program wrote.
var ErrNewer = errors.New("a newer version of this program wrote it: use that version, or another place for the state")

// mark says whether a part of the state must be saved.
type mark struct {
	dirty  bool // changed since the last Save
	saving bool // given out by Save, not yet confirmed by Saved
}

func (m *mark) give() bool {
	m.saving = m.saving || m.dirty
	m.dirty = false
	return m.saving
}

func shardKey(i int) string { return fmt.Sprintf("%02d", i) }

// Save returns the entries of the state that changed since the last Save that [Aligner.Saved] confirmed. All of them
// belong into one atomic write, together with the slots that Close has returned. A nil value deletes an entry.
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
			e := &encoder{append([]byte(magic), version)}
			for _, d := range sh.devices {
				a.encodeDevice(e, d)
			}
			entries[shardKey(i)] = e.done()
		}
	}
	return entries
}

// Saved confirms that what the last Save returned is stored.
func (a *Aligner) Saved() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.shards {
		a.shards[i].mark.saving = false
	}
}

// Restore loads a saved state into an Aligner that was not used before. What cannot be read is left out and named in
// damaged; the rest is restored all the same. The error wraps [ErrNewer].
func (a *Aligner) Restore(entries map[string][]byte, now time.Time) (damaged map[string]error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.series > 0 {
		return nil, errors.New("restoring the slots' state: the aligner is in use already")
	}
	a.base, a.restored = now, len(entries) > 0
	a.evictAt = math.MinInt64
	a.next = math.MinInt64 // the next Close looks at every window
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
		if errors.Is(err, ErrNewer) {
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

// load takes a decoded device over.
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
	d, err := open(data)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for len(d.b) > 0 && d.err == nil {
		x := a.decodeDevice(d)
		if d.err == nil && (seen[x.id] || x.shard != int32(number)) {
			d.fail("a device that is there twice, or of another shard")
		}
		seen[x.id] = true
		list = append(list, x)
	}
	return list, d.err
}

func (a *Aligner) encodeDevice(e *encoder, d *device) {
	base := a.base.UnixNano() // arrivals are stored as wall time
	e.text(d.id)
	e.uint(uint64(len(d.windows)))
	places := map[*window]int{}
	for i, w := range d.windows {
		places[w] = i
		e.int(w.start)
		e.byte(byte(w.kind))
		e.int(base + w.arrival)
	}
	e.uint(uint64(len(d.series)))
	for _, s := range slices.SortedFunc(maps.Values(d.series), func(s, o *series) int { return s.compare(o.Series) }) {
		e.text(s.Parameter)
		e.bool(s.Diagnostic)
		e.int(base + s.seen)
		e.rings(s)
		e.uint(uint64(len(s.open)))
		for _, c := range s.open {
			e.uint(uint64(places[c.window]))
			e.cell(c)
		}
	}
}

func (a *Aligner) decodeDevice(d *decoder) *device {
	base := a.base.UnixNano()
	arrival := func() int64 { return min(d.time()-base, 0) } // a clock that stepped back must not hold a window open
	x := &device{id: d.text(), series: map[parameter]*series{}}
	x.shard = shardOf(x.id)
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		w := &window{bounds: bounds{d.time(), kind(d.byte())}, arrival: arrival()}
		switch {
		case w.kind >= kinds:
			d.fail("an unknown kind of window")
		case w.start%w.kind.seconds() != 0 || max(w.start, -w.start) > math.MaxInt64/int64(2*time.Second):
			d.fail("a window off the grid")
		case len(x.windows) > 0 && x.windows[len(x.windows)-1].compare(w.bounds) >= 0:
			d.fail("windows out of order")
		}
		x.windows = append(x.windows, w)
	}
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		s := &series{Series: Series{Device: x.id, Parameter: d.text(), Diagnostic: d.bool()}, seen: arrival()}
		name := parameter{s.Parameter, s.Diagnostic}
		if d.err == nil && x.series[name] != nil {
			d.fail("a series that is there twice")
		}
		x.series[name] = s
		d.rings(s)
		for n := d.uint(); n > 0 && d.err == nil; n-- {
			place := d.uint()
			if place >= uint64(len(x.windows)) {
				d.fail("a window that is not there")
				break
			}
			c := &cell{series: s, window: x.windows[place]}
			if len(s.open) > 0 && s.open[len(s.open)-1].window.compare(c.window.bounds) >= 0 {
				d.fail("windows out of order")
			}
			d.cell(c)
			s.open, c.window.cells = append(s.open, c), append(c.window.cells, c)
		}
	}
	return x
}

func (e *encoder) rings(s *series) {
	for k := range kinds {
		var r ring
		if k == normal || s.calibration != nil {
			r = *s.ring(k)
		}
		e.uint(uint64(len(r.bits)))
		if r.bits != nil {
			e.int(r.top)
		}
		for _, w := range r.bits {
			e.fixed(w)
		}
	}
}

func (d *decoder) rings(s *series) {
	for k := range kinds {
		n := d.uint()
		if n == 0 {
			continue
		}
		if n != uint64(ringWords(k)) {
			d.fail("a history of another length")
			return
		}
		r := s.ring(k)
		r.top = d.time()
		r.bits = make([]uint64, n)
		for i := range r.bits {
			r.bits[i] = d.fixed()
		}
	}
}

func (e *encoder) cell(c *cell) {
	e.text(c.unit)
	e.byte(byte(c.stat))
	e.uint(uint64(len(c.sources)))
	for _, s := range c.sources {
		e.fixed(s)
	}
	e.uint(uint64(len(c.marks)))
	for _, m := range c.marks {
		e.fixed(uint64(m))
	}
	e.uint(uint64(len(c.flags)))
	for _, acc := range c.flags {
		e.byte(byte(acc.flag))
		e.uint(uint64(acc.count))
		for _, f := range []float64{acc.sum, acc.rest, acc.min, acc.max, acc.last} {
			e.float(f)
		}
		e.int(acc.lastTime)
		if c.stat == Median {
			for _, f := range acc.values {
				e.float(f)
			}
		}
	}
}

func (d *decoder) cell(c *cell) {
	c.unit, c.stat = d.text(), Statistic(d.byte())
	if int(c.stat) >= len(statistics) {
		d.fail("an unknown statistic")
	}
	for n := d.count(8); n > 0 && d.err == nil; n-- {
		c.sources = append(c.sources, d.fixed())
	}
	if len(c.sources) > maxSources {
		d.fail("too many sources")
	}
	last := mark64(0)
	for n := d.count(8); n > 0 && d.err == nil; n-- {
		m := mark64(d.fixed())
		if m.time() < last.time() || m.source() >= uint64(len(c.sources)) {
			d.fail("samples out of order, or of no source")
		}
		c.marks, last = append(c.marks, m), m
	}
	samples := int64(0)
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		acc := d.accumulator(c.stat)
		if kindOf(acc.flag) != c.window.kind || !acc.flag.Valid() ||
			slices.ContainsFunc(c.flags, func(b accumulator) bool { return b.flag == acc.flag }) {
			d.fail("a flag that is unknown, there twice or of another kind of window")
		}
		c.flags, samples = append(c.flags, acc), samples+acc.count
	}
	if samples != int64(len(c.marks)) || samples == 0 {
		d.fail("another number of samples than was counted")
	}
}

func (d *decoder) accumulator(stat Statistic) accumulator {
	acc := accumulator{flag: spec.Flag(d.byte()), count: int64(d.uint())}
	for _, f := range []*float64{&acc.sum, &acc.rest, &acc.min, &acc.max, &acc.last} {
		*f = d.float()
	}
	acc.lastTime = d.time()
	if acc.count <= 0 || acc.count > maxSamples || acc.min > acc.max || acc.last < acc.min || acc.last > acc.max {
		d.fail("impossible samples")
	}
	if stat == Median && d.err == nil {
		if acc.count > int64(len(d.b)/8) {
			d.fail("too many values")
			return acc
		}
		for range acc.count {
			acc.values = append(acc.values, d.float())
		}
	}
	return acc
}

type encoder struct{ b []byte }

func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) fixed(v uint64)  { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) float(v float64) { e.fixed(math.Float64bits(v)) }
func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) text(v string)   { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}
func (e *encoder) done() []byte {
	return binary.LittleEndian.AppendUint32(e.b, crc32.ChecksumIEEE(e.b))
}

type decoder struct {
	b   []byte
	err error // the first; from then on every value is zero
}

func open(data []byte) (*decoder, error) {
	n := len(data) - 4
	if n < len(magic)+1 || string(data[:len(magic)]) != magic {
		return nil, errors.New("not a state of slots")
	}
	if crc32.ChecksumIEEE(data[:n]) != binary.LittleEndian.Uint32(data[n:]) {
		return nil, errors.New("damaged: the checksum does not match")
	}
	switch v := data[len(magic)]; {
	case v > version:
		return nil, fmt.Errorf("version %d of the format: %w", v, ErrNewer)
	case v < version:
		return nil, fmt.Errorf("version %d of the format is not read any more", v)
	}
	return &decoder{b: data[len(magic)+1 : n]}, nil
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = errors.New("damaged: " + why)
	}
	d.b = nil
}

func (d *decoder) text() string {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("cut off")
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("neither true nor false")
	}
	return v == 1
}

// count reads how many entries of the given size follow.
func (d *decoder) count(size uint64) uint64 {
	n := d.uint()
	if n > uint64(len(d.b))/size {
		d.fail("cut off")
		return 0
	}
	return n
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// time reads a time or an index of windows, within what can be counted with.
func (d *decoder) time() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || v > math.MaxInt64/2 || v < math.MinInt64/2 {
		d.fail("cut off, or no time")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("cut off")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.fail("cut off")
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) float() float64 {
	v := math.Float64frombits(d.fixed())
	if math.IsNaN(v) || math.IsInf(v, 0) {
		d.fail("not a number")
		return 0
	}
	return v
}
