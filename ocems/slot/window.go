package slot

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// maxSamples is the largest number of samples of a series in one window: 15 minutes at 111 Hz.
const maxSamples = 100_000

// maxValue keeps every possible sum finite.
const maxValue = 1e300

// kind is the kind of window of a sample: C and Z have their own kinds, all other flags share the 15-minute windows.
type kind uint8

const (
	normal kind = iota
	calibration
	zero
	kinds
)

func kindOf(f spec.Flag) kind {
	switch f {
	case spec.FlagCalibration:
		return calibration
	case spec.FlagZeroCalibration:
		return zero
	}
	return normal
}

func (k kind) length() time.Duration {
	if k == normal {
		return spec.SlotLength
	}
	return spec.CalibrationLength
}

func (k kind) seconds() int64 { return int64(k.length() / time.Second) }

// bounds identify a window of a device.
type bounds struct {
	start int64 // Unix seconds
	kind  kind
}

func (b bounds) compare(c bounds) int {
	return cmp.Or(cmp.Compare(b.start, c.start), cmp.Compare(b.kind, c.kind))
}

// window is an open window of a device. It closes as a whole.
type window struct {
	bounds
	arrival int64 // arrival of its last sample, ns of Aligner.flowing
	held    int64 // when it was first due but not settled, ns of Aligner.flowing; 0: never
	cells   []*cell
}

// heldTooLong reports that samples have arrived for 15 minutes since the window was due. Otherwise a source with a
// stopped clock would keep it open for ever.
func (w *window) heldTooLong(flow, resumed int64) bool {
	if w.held == 0 {
		w.held = max(flow, 1)
	}
	return flow-max(w.held, resumed) >= int64(spec.SlotLength)
}

// cell is the part of a series in an open window.
type cell struct {
	window  *window
	series  *series
	unit    string
	stat    Statistic // statistic of the first sample, which decides what is kept
	exit    uint8
	marks   []mark64 // one for each sample, sorted
	sources []uint64 // sources of samples, at most maxSources
	flags   []accumulator
	doubt   bool // the clock was not confirmed when a sample was taken

	flag   [1]accumulator // backs flags if there is only one: saves an allocation in many cells
	source [1]uint64      // backs sources likewise
}

// mark64 identifies a sample within a window: microseconds since the window's start (30 bits), the place of its source
// in the cell (6 bits), and a hash of value and flag (28 bits). For a sum, the hash includes the source: sources that
// share the last place are then not mistaken for each other.
type mark64 uint64

const (
	hashBits   = 28
	sourceBits = 6
	maxSources = 1 << sourceBits // further sources share the last place
)

func (m mark64) time() uint64   { return uint64(m) >> (hashBits + sourceBits) }
func (m mark64) source() uint64 { return uint64(m) >> hashBits & (maxSources - 1) }
func (m mark64) hash() uint64   { return uint64(m) & (1<<hashBits - 1) }

// markOf returns the mark of a sample from the cell's source at a place.
func (c *cell) markOf(source uint64, x *Reading, place int) mark64 {
	us := uint64(x.Time.UnixMicro() - c.window.start*1e6)
	h := math.Float64bits(x.Value+0) ^ uint64(x.Flag)<<56 // + 0 makes both zeros equal
	if c.stat == Sum {
		h ^= bits.RotateLeft64(source*0xD6E8FEB86659FD93, 32)
	}
	h = (h ^ h>>32) * 0x9E3779B97F4A7C15
	return mark64(us<<(hashBits+sourceBits) | uint64(place)<<hashBits | h>>(64-hashBits))
}

// place returns the place of a source in the cell, or the place it will get.
func (c *cell) place(source uint64) int {
	if i := slices.Index(c.sources, source); i >= 0 {
		return i
	}
	return min(len(c.sources), maxSources-1)
}

// take adds a sample, unless the cell has one with its time, or it leaps. For a sum, each source may have one for each
// time.
func (c *cell) take(h *Head, x *Reading, leaps bool) Result {
	if h.Unit != c.unit {
		return Result{Reason: BadUnit}
	}
	if c.exit == 0 { // a restart loses the exit
		c.exit = x.Exit
	}
	place := c.place(h.Source)
	m := c.markOf(h.Source, x, place)
	i := len(c.marks)
	if i > 0 && c.marks[i-1].time() >= m.time() {
		i, _ = slices.BinarySearchFunc(c.marks, m.time(), func(o mark64, t uint64) int { return cmp.Compare(o.time(), t) })
	}
	for j := i; j < len(c.marks) && c.marks[j].time() == m.time(); j++ {
		o := c.marks[j]
		if c.stat == Sum && o.source() != m.source() {
			continue
		}
		if o.hash() == m.hash() {
			return Result{Reason: Duplicate}
		}
		return Result{Reason: Conflict, Other: c.sources[o.source()]}
	}
	switch {
	case leaps:
		return Result{Reason: TooFar}
	case len(c.marks) >= maxSamples:
		return Result{Reason: MaxSamples}
	}
	if place == len(c.sources) {
		c.sources = append(c.sources, h.Source)
	}
	if i == len(c.marks) {
		c.marks = append(c.marks, m)
	} else {
		c.marks = slices.Insert(c.marks, i, m)
	}
	acc := c.accumulator(x.Flag)
	if c.stat == TimeWeighted {
		acc.values = append(acc.values, float64(m.time()))
	}
	acc.add(x.Time.UnixNano(), x.Value, c.stat >= Median)
	return Result{}
}

func (c *cell) accumulator(flag spec.Flag) *accumulator {
	for i := range c.flags {
		if c.flags[i].flag == flag {
			return &c.flags[i]
		}
	}
	c.flags = append(c.flags, accumulator{flag: flag})
	return &c.flags[len(c.flags)-1]
}

// chosen returns the accumulator that becomes the slot: U if it has enough samples, else the one with the most samples.
// Of equal ones it is the first in the order of the API document.
func (c *cell) chosen(minSamples int) *accumulator {
	var best *accumulator
	rank := func(f spec.Flag) int { return slices.Index([]byte(spec.Flags), byte(f)) }
	for i := range c.flags {
		a := &c.flags[i]
		if a.flag == spec.FlagNormal && a.count >= int64(minSamples) {
			return a
		}
		if best == nil || a.count > best.count || a.count == best.count && rank(a.flag) < rank(best.flag) {
			best = a
		}
	}
	return best
}

// last returns the last sample of all flags.
func (c *cell) last() (at time.Time, value float64) {
	p := c.latest()
	return time.Unix(0, p.at).UTC(), p.value
}

// accumulator combines the samples of one window and flag.
type accumulator struct {
	flag     spec.Flag
	count    int64
	sum      float64 // with rest: Neumaier's sum, so that the order of samples does not matter
	rest     float64
	min, max float64
	last     float64
	lastTime int64     // event time of last, Unix ns
	values   []float64 // for a median; for time_weighted each value follows its time, in microseconds since the window's start
}

func (a *accumulator) add(at int64, v float64, keep bool) {
	t := a.sum + v
	if math.Abs(a.sum) >= math.Abs(v) {
		a.rest += (a.sum - t) + v
	} else {
		a.rest += (v - t) + a.sum
	}
	a.sum = t
	if a.count == 0 {
		a.min, a.max = v, v
	} else {
		a.min, a.max = min(a.min, v), max(a.max, v)
	}
	if a.count == 0 || at >= a.lastTime {
		a.last, a.lastTime = v, at
	}
	a.count++
	if keep {
		a.values = append(a.values, v)
	}
}

func (a *accumulator) value(s Statistic) float64 {
	switch s {
	case Last:
		return a.last
	case Min:
		return a.min
	case Max:
		return a.max
	case Sum:
		return a.sum + a.rest
	case Median:
		slices.Sort(a.values)
		n := len(a.values)
		if n%2 == 1 {
			return a.values[n/2]
		}
		return a.values[n/2-1]/2 + a.values[n/2]/2
	}
	return min(max((a.sum+a.rest)/float64(a.count), a.min), a.max)
}

// ring records which windows of the last 7 days are closed, one bit each. A grace is never zero, so the newest closed
// window and the oldest window that may still get a sample are less than 7 days apart. A wrong wall clock may close a
// window that is days away from all others: other then keeps the windows closed before.
type ring struct {
	stretch
	other stretch
}

// stretch has a ring's bits up to a window.
type stretch struct {
	top  int64 // index of the newest closed window
	bits []uint64
}

func ringSize(k kind) int64 { return int64(spec.MaxAge / k.length()) }

func ringWords(k kind) int { return int((ringSize(k) + 63) / 64) }

func bitOf(i, size int64) (word int64, bit uint64) {
	i %= size
	if i < 0 {
		i += size
	}
	return i / 64, 1 << (i % 64)
}

func (r *ring) has(i int64, k kind) bool { return r.stretch.has(i, k) || r.other.has(i, k) }

func (r *stretch) has(i int64, k kind) bool {
	if !r.covers(i, k) || i > r.top {
		return false
	}
	w, b := bitOf(i, ringSize(k))
	return r.bits[w]&b != 0
}

// covers reports that a window is within 7 days before the newest closed one, or shortly after it.
func (r *stretch) covers(i int64, k kind) bool {
	size := ringSize(k)
	return r.bits != nil && r.top-i < size && i-r.top < size/7
}

func (r *ring) set(i int64, k kind) {
	if r.bits != nil && !r.covers(i, k) {
		if i < r.top || r.other.top > r.top {
			r.stretch, r.other = r.other, r.stretch
		} else {
			r.other = stretch{r.top, slices.Clone(r.bits)}
		}
	}
	r.stretch.set(i, k)
}

func (r *stretch) set(i int64, k kind) {
	size := ringSize(k)
	switch d := i - r.top; {
	case r.bits == nil:
		r.bits = make([]uint64, ringWords(k))
		r.top = i
	case d >= size || d <= -size:
		clear(r.bits)
		r.top = i
	default:
		for ; r.top < i; r.top++ {
			w, b := bitOf(r.top+1, size)
			r.bits[w] &^= b
		}
	}
	w, b := bitOf(i, size)
	r.bits[w] |= b
}

func (r *ring) clear(i int64, k kind) {
	for _, s := range []*stretch{&r.stretch, &r.other} {
		if s.has(i, k) {
			w, b := bitOf(i, ringSize(k))
			s.bits[w] &^= b
		}
	}
}
