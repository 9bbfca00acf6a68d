package slot

import (
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Closed is the value of a closed window.
type Closed[K comparable] struct {
	Seq        uint64 // increases with every closed window
	Key        K
	Start, End time.Time // of the window
	Stamp      time.Time // Start or End, as Options.Stamp says
	Flag       spec.Flag
	Value      float64
	Samples    int // that the value was made of
	Statistic  Statistic
}

// Stats are an Aligner's gauges and counters.
type Stats struct {
	Series, Open, Pending int
	Taken, Closed         uint64 // samples taken and windows closed since New
	Refused               map[Reason]uint64
}

// Aligner makes slots of samples. It may be used by several goroutines at once.
type Aligner[K comparable] struct {
	opt   Options
	codec Codec[K]
	idle  time.Duration

	mu      sync.Mutex
	base    time.Time // arrivals are counted from here, so that the monotonic clock holds
	index   map[K]*series[K]
	shards  [shardCount]shard[K]
	open    int
	next    int64 // no window ends and has its grace before, Unix ns
	settle  bool  // some window only waits to settle
	evictAt int64 // no series is idle for long enough before, ns since base
	pending []Closed[K]
	changed mark // pending
	seq     uint64
	taken   uint64
	closed  uint64
	refused map[Reason]uint64
	buf     []byte
}

type shard[K comparable] struct {
	series []*series[K]
	mark   mark
}

type series[K comparable] struct {
	key         K
	shard, pos  int32
	seen        int64    // last arrival, ns since Aligner.base
	open        []window // by start
	closed      ring
	calibration *[2]ring // C and Z, once one has closed
}

func (s *series[K]) ring(k kind) *ring {
	if k == normal {
		return &s.closed
	}
	if s.calibration == nil {
		s.calibration = new([2]ring)
	}
	return &s.calibration[k-calibration]
}

func (s *series[K]) isClosed(start int64, k kind) bool {
	if k != normal && s.calibration == nil {
		return false
	}
	return s.ring(k).has(start/int64(k.length()/time.Second), k)
}

// New makes an Aligner. An error names the option and its value.
func New[K comparable](o Options, codec Codec[K]) (*Aligner[K], error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Aligner[K]{
		opt: o, codec: codec,
		// A sample may be ahead by MaxSkew, and its window's end by a slot more: only after that plus 7 days is a series'
		// every closed window too old to be met again.
		idle:    spec.MaxAge + spec.SlotLength + o.MaxSkew,
		index:   map[K]*series[K]{},
		next:    math.MaxInt64,
		evictAt: math.MinInt64,
		refused: map[Reason]uint64{},
	}, nil
}

// since counts from base, which is the first time the Aligner was told.
func (a *Aligner[K]) since(now time.Time) int64 {
	if a.base.IsZero() {
		a.base = now
	}
	return int64(now.Sub(a.base))
}

func (a *Aligner[K]) refuse(r Reason) error {
	a.refused[r]++
	return &RefusedError{r}
}

// Add takes a sample of event time at that arrived now. The error is nil or a [*RefusedError]. A window's statistic is
// that of its first sample.
func (a *Aligner[K]) Add(key K, stat Statistic, at time.Time, value float64, flag spec.Flag, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !(math.Abs(value) <= maxValue) {
		return a.refuse(NotANumber)
	}
	if !flag.Valid() {
		return a.refuse(BadFlag)
	}
	if int(stat) >= len(statistics) {
		return a.refuse(BadStatistic)
	}
	at = at.Round(0) // event time: wall clocks are compared
	if at.Sub(now) > a.opt.MaxSkew {
		return a.refuse(Future)
	}
	k := kindOf(flag)
	if now.Sub(at) > spec.MaxAge+spec.SlotLength {
		return a.refuse(TooOld)
	}
	seconds := int64(k.length() / time.Second)
	start := at.Unix() - (at.Unix()%seconds+seconds)%seconds
	stamp := start
	if a.opt.Stamp == "end" {
		stamp += seconds
	}
	if now.Sub(time.Unix(stamp, 0)) > spec.MaxAge {
		return a.refuse(TooOld)
	}

	arrival := a.since(now)
	s := a.index[key]
	if s == nil {
		if len(a.index) >= a.opt.MaxSeries {
			a.evict(arrival)
		}
		if len(a.index) >= a.opt.MaxSeries {
			return a.refuse(MaxSeries)
		}
		s = &series[K]{key: key, seen: arrival}
		a.install(s)
	} else if s.isClosed(start, k) {
		return a.refuse(Late)
	}

	w := a.window(s, start, k, stat)
	i := 0
	for i < len(w.flags) && w.flags[i].flag != flag {
		i++
	}
	if i == len(w.flags) {
		w.flags = append(w.flags, accumulator{flag: flag})
	}
	acc := &w.flags[i]
	if w.stat == Median && len(acc.values) >= maxMedian {
		return a.refuse(MaxSamples)
	}
	acc.add(at.UnixNano(), value, w.stat == Median)
	w.arrival, s.seen = arrival, arrival
	a.shards[s.shard].mark.dirty = true
	a.taken++
	return nil
}

// window finds the open window, or opens it.
func (a *Aligner[K]) window(s *series[K], start int64, k kind, stat Statistic) *window {
	n := len(s.open)
	if n > 0 && s.open[n-1].start == start && s.open[n-1].kind == k {
		return &s.open[n-1]
	}
	w := window{start: start, kind: k, stat: stat}
	i, found := slices.BinarySearchFunc(s.open, w, compareWindows)
	if !found {
		s.open = slices.Insert(s.open, i, w)
		a.open++
		a.next = min(a.next, a.due(&w))
	}
	return &s.open[i]
}

// due is when the window's grace ends, Unix ns.
func (a *Aligner[K]) due(w *window) int64 {
	grace := a.opt.Grace
	if w.kind != normal {
		grace = a.opt.CalibrationGrace
	}
	return w.start*int64(time.Second) + int64(w.kind.length()+grace)
}

func (a *Aligner[K]) shardOf(key K) int32 {
	a.buf = a.codec.Append(a.buf[:0], key)
	h := fnv.New64a()
	h.Write(a.buf)
	return int32(h.Sum64() % shardCount)
}

func (a *Aligner[K]) install(s *series[K]) {
	s.shard = a.shardOf(s.key)
	sh := &a.shards[s.shard]
	s.pos = int32(len(sh.series))
	sh.series = append(sh.series, s)
	a.index[s.key] = s
}

// evict drops the series that nothing can be met of again.
func (a *Aligner[K]) evict(elapsed int64) {
	if elapsed < a.evictAt {
		return
	}
	oldest := elapsed
	for i := range a.shards {
		sh := &a.shards[i]
		for j := len(sh.series) - 1; j >= 0; j-- {
			s := sh.series[j]
			if len(s.open) > 0 || time.Duration(elapsed-s.seen) <= a.idle {
				oldest = min(oldest, s.seen)
				continue
			}
			n := len(sh.series) - 1
			sh.series[j] = sh.series[n]
			sh.series[j].pos = int32(j)
			sh.series[n] = nil
			sh.series = sh.series[:n]
			sh.mark.dirty = true
			delete(a.index, s.key)
		}
	}
	a.evictAt = oldest + int64(a.idle)
}

// Close closes the windows whose time has come, keeps their values among the pending, and returns them, oldest stamp
// first.
func (a *Aligner[K]) Close(now time.Time) []Closed[K] {
	a.mu.Lock()
	defer a.mu.Unlock()
	elapsed, wall := a.since(now), now.UnixNano()
	a.evict(elapsed)
	if !a.settle && wall < a.next {
		return nil
	}
	var out []Closed[K]
	a.settle, a.next = false, math.MaxInt64
	for i := range a.shards {
		sh := &a.shards[i]
		for _, s := range sh.series {
			kept := s.open[:0]
			for _, w := range s.open {
				w.arrival = min(w.arrival, elapsed) // what was replayed came by a clock that may have been ahead
				if due := a.due(&w); wall < due {
					a.next = min(a.next, due)
				} else if elapsed-w.arrival < int64(a.opt.Settle) && !w.heldTooLong(elapsed) {
					a.settle = true
				} else {
					out = append(out, a.close(s, &w))
					sh.mark.dirty = true
					continue
				}
				kept = append(kept, w)
			}
			clear(s.open[len(kept):])
			s.open = kept
			if len(kept) == 0 && cap(kept) > 4 {
				s.open = nil // history is over
			}
		}
	}
	slices.SortStableFunc(out, func(x, y Closed[K]) int { return x.Stamp.Compare(y.Stamp) })
	for i := range out {
		a.seq++
		out[i].Seq = a.seq
	}
	if len(out) > 0 {
		a.pending = append(a.pending, out...)
		a.changed.dirty = true
		a.open -= len(out)
		a.closed += uint64(len(out))
	}
	return out
}

func (a *Aligner[K]) close(s *series[K], w *window) Closed[K] {
	s.ring(w.kind).set(w.start/int64(w.kind.length()/time.Second), w.kind)
	acc := w.chosen(a.opt.MinSamples)
	start := time.Unix(w.start, 0).UTC()
	c := Closed[K]{
		Key: s.key, Start: start, End: start.Add(w.kind.length()), Stamp: start,
		Flag: acc.flag, Value: acc.value(w.stat), Samples: int(acc.count), Statistic: w.stat,
	}
	if a.opt.Stamp == "end" {
		c.Stamp = c.End
	}
	return c
}

// Pending returns the closed windows that were not yet taken, in the order they were closed in.
func (a *Aligner[K]) Pending() []Closed[K] {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pending)
}

// Taken removes closed windows from the pending: the next step has them. One call for many is quicker than many calls.
func (a *Aligner[K]) Taken(seqs ...uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seqs = slices.Clone(seqs)
	slices.Sort(seqs)
	n := len(a.pending)
	a.pending = slices.DeleteFunc(a.pending, func(c Closed[K]) bool {
		_, found := slices.BinarySearch(seqs, c.Seq)
		return found
	})
	if len(a.pending) != n {
		a.changed.dirty = true
	}
}

// Stats returns the gauges and counters.
func (a *Aligner[K]) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{len(a.index), a.open, len(a.pending), a.taken, a.closed, maps.Clone(a.refused)}
}
