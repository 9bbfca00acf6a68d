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
	pendingKey = "pending"
	magic      = "OSL"
	version    = 1
)

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

func shardKey(i int) string { return fmt.Sprintf("shard-%02d", i) }

// Keys returns the names of all entries of a saved state, for stores that cannot list.
func (a *Aligner[K]) Keys() []string {
	keys := make([]string, 0, shardCount+1)
	for i := range shardCount {
		keys = append(keys, shardKey(i))
	}
	return append(keys, pendingKey)
}

// Save returns the entries of the state that changed since the last Save that [Aligner.Saved] confirmed. All of them
// belong into one atomic write: a slot leaves its shard when it comes to the pending.
func (a *Aligner[K]) Save() map[string][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	entries := map[string][]byte{}
	for i := range a.shards {
		if sh := &a.shards[i]; sh.mark.give() {
			e := a.encoder()
			e.uint(uint64(len(sh.series)))
			for _, s := range sh.series {
				a.encodeSeries(e, s)
			}
			entries[shardKey(i)] = e.done()
		}
	}
	if a.changed.give() {
		e := a.encoder()
		e.uint(a.seq)
		e.uint(uint64(len(a.pending)))
		for _, c := range a.pending {
			a.encodeClosed(e, &c)
		}
		entries[pendingKey] = e.done()
	}
	return entries
}

// Saved confirms that what the last Save returned is stored.
func (a *Aligner[K]) Saved() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.shards {
		a.shards[i].mark.saving = false
	}
	a.changed.saving = false
}

// Restore loads a saved state into an Aligner that was not used before. Absent and empty entries are none. Damaged
// entries are left out and named in the error; the others are restored all the same.
func (a *Aligner[K]) Restore(entries map[string][]byte, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.index) > 0 || a.seq > 0 {
		return errors.New("restoring the slots' state: the aligner is in use already")
	}
	a.base = now
	a.evictAt = math.MinInt64
	a.next = math.MinInt64 // the next Close looks at every window
	numbers := map[string]int{}
	for i := range shardCount {
		numbers[shardKey(i)] = i
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if len(entries[name]) == 0 {
			continue
		}
		i, isShard := numbers[name]
		var err error
		switch {
		case isShard:
			err = a.restoreShard(i, entries[name])
		case name == pendingKey:
			err = a.restorePending(entries[name])
		default:
			err = errors.New("no such entry")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restoring the slots' state, entry %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Aligner[K]) restoreShard(number int, data []byte) error {
	d, err := open(data)
	if err != nil {
		return err
	}
	var loaded []*series[K]
	seen := map[K]bool{}
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		s := a.decodeSeries(d)
		if d.err == nil && (seen[s.key] || a.shardOf(s.key) != int32(number)) {
			d.fail("a key that is double or of another shard")
		}
		seen[s.key] = true
		loaded = append(loaded, s)
	}
	if err := d.end(); err != nil {
		return err
	}
	for _, s := range loaded {
		a.install(s)
		a.open += len(s.open)
	}
	return nil
}

func (a *Aligner[K]) restorePending(data []byte) error {
	d, err := open(data)
	if err != nil {
		return err
	}
	seq, last := d.uint(), uint64(0)
	var loaded []Closed[K]
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		c := a.decodeClosed(d)
		if c.Seq <= last || c.Seq > seq {
			d.fail("sequence numbers out of order")
		}
		last = c.Seq
		loaded = append(loaded, c)
	}
	if err := d.end(); err != nil {
		return err
	}
	a.seq, a.pending = seq, loaded
	return nil
}

func (a *Aligner[K]) encodeSeries(e *encoder, s *series[K]) {
	a.buf = a.codec.Append(a.buf[:0], s.key)
	e.bytes(a.buf)
	base := a.base.UnixNano() // arrivals are stored as wall time
	e.int(base + s.seen)
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
	e.uint(uint64(len(s.open)))
	for _, w := range s.open {
		e.int(w.start)
		e.int(base + w.arrival)
		e.b = append(e.b, byte(w.kind), byte(w.stat))
		e.uint(uint64(len(w.flags)))
		for _, acc := range w.flags {
			e.b = append(e.b, byte(acc.flag))
			e.uint(uint64(acc.count))
			for _, f := range []float64{acc.sum, acc.rest, acc.min, acc.max, acc.last} {
				e.float(f)
			}
			e.int(acc.lastTime)
			if w.stat == Median {
				for _, f := range acc.values {
					e.float(f)
				}
			}
		}
	}
}

func (a *Aligner[K]) decodeSeries(d *decoder) *series[K] {
	s := &series[K]{key: decodeKey(d, a.codec)}
	base := a.base.UnixNano()
	arrival := func() int64 { return min(d.time()-base, 0) } // a clock that stepped back must not hold a window open
	s.seen = arrival()
	for k := range kinds {
		n := d.uint()
		if n == 0 {
			continue
		}
		if n != uint64(ringWords(k)) {
			d.fail("a history of another length")
			return s
		}
		r := s.ring(k)
		r.top = d.time()
		r.bits = make([]uint64, n)
		for i := range r.bits {
			r.bits[i] = d.fixed()
		}
	}
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		w := window{start: d.time(), arrival: arrival(), kind: kind(d.byte()), stat: Statistic(d.byte())}
		switch {
		case w.kind >= kinds || int(w.stat) >= len(statistics):
			d.fail("an unknown kind of window or statistic")
		case w.start%int64(w.kind.length()/time.Second) != 0 || w.start > math.MaxInt64/int64(2*time.Second) || w.start < 0:
			d.fail("a window off the grid")
		case len(s.open) > 0 && compareWindows(s.open[len(s.open)-1], w) >= 0:
			d.fail("windows out of order")
		}
		flags := d.uint()
		if flags == 0 || flags > uint64(len(spec.Flags)) {
			d.fail("a window without samples")
		}
		for ; flags > 0 && d.err == nil; flags-- {
			acc := d.accumulator(w.stat)
			if kindOf(acc.flag) != w.kind || !acc.flag.Valid() ||
				slices.ContainsFunc(w.flags, func(b accumulator) bool { return b.flag == acc.flag }) {
				d.fail("a flag that is unknown, double or of another kind of window")
			}
			w.flags = append(w.flags, acc)
		}
		s.open = append(s.open, w)
	}
	return s
}

func (d *decoder) accumulator(stat Statistic) accumulator {
	acc := accumulator{flag: spec.Flag(d.byte()), count: int64(d.uint())}
	for _, f := range []*float64{&acc.sum, &acc.rest, &acc.min, &acc.max, &acc.last} {
		*f = d.float()
	}
	acc.lastTime = d.time()
	if acc.count <= 0 || acc.min > acc.max || acc.last < acc.min || acc.last > acc.max {
		d.fail("impossible samples")
	}
	if stat == Median {
		if acc.count > maxMedian || acc.count > int64(len(d.b)/8) {
			d.fail("too many values")
			return acc
		}
		for range acc.count {
			acc.values = append(acc.values, d.float())
		}
	}
	return acc
}

func (a *Aligner[K]) encodeClosed(e *encoder, c *Closed[K]) {
	e.uint(c.Seq)
	a.buf = a.codec.Append(a.buf[:0], c.Key)
	e.bytes(a.buf)
	for _, t := range []time.Time{c.Start, c.End, c.Stamp} {
		e.int(t.Unix())
	}
	e.b = append(e.b, byte(c.Flag), byte(c.Statistic))
	e.float(c.Value)
	e.uint(uint64(c.Samples))
}

func (a *Aligner[K]) decodeClosed(d *decoder) Closed[K] {
	c := Closed[K]{Seq: d.uint(), Key: decodeKey(d, a.codec)}
	for _, t := range []*time.Time{&c.Start, &c.End, &c.Stamp} {
		*t = time.Unix(d.time(), 0).UTC()
	}
	c.Flag, c.Statistic = spec.Flag(d.byte()), Statistic(d.byte())
	c.Value = d.float()
	c.Samples = int(d.uint())
	if !c.Flag.Valid() || int(c.Statistic) >= len(statistics) || c.Samples <= 0 {
		d.fail("an impossible slot")
	}
	return c
}

func decodeKey[K comparable](d *decoder, codec Codec[K]) (key K) {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("cut off")
	}
	if d.err != nil {
		return key
	}
	key, err := codec.Read(d.b[:n])
	if err != nil {
		d.fail("reading a key: " + err.Error())
	}
	d.b = d.b[n:]
	return key
}

type encoder struct{ b []byte }

func (a *Aligner[K]) encoder() *encoder { return &encoder{append([]byte(magic), version)} }

func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) fixed(v uint64)  { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) float(v float64) { e.fixed(math.Float64bits(v)) }
func (e *encoder) bytes(v []byte)  { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
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
	if v := data[len(magic)]; v != version {
		return nil, fmt.Errorf("version %d of the format is unknown; this program reads version %d", v, version)
	}
	if crc32.ChecksumIEEE(data[:n]) != binary.LittleEndian.Uint32(data[n:]) {
		return nil, errors.New("damaged: the checksum does not match")
	}
	return &decoder{b: data[len(magic)+1 : n]}, nil
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = errors.New("damaged: " + why)
	}
	d.b = nil
}

func (d *decoder) end() error {
	if len(d.b) > 0 {
		d.fail("more than was expected")
	}
	return d.err
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
