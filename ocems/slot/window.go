package slot

import (
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// maxMedian is the most values a median keeps: 15 minutes at 96 Hz.
const maxMedian = 86400

// maxValue keeps every possible sum finite.
const maxValue = 1e300

// kind is which windows a sample belongs to: C and Z each have their own, all other flags share the 15-minute ones.
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

// window is an open window of a series.
type window struct {
	start   int64 // Unix seconds
	arrival int64 // when its last sample came, ns since Aligner.base
	held    int64 // when it was first due and not settled, ns since Aligner.base; 0 is never
	kind    kind
	stat    Statistic // of its first sample, since only that decides what is kept
	flags   []accumulator
}

// heldTooLong reports that samples have come for a quarter of an hour since the window was due: a source whose clock
// stands still would hold it open for ever.
func (w *window) heldTooLong(elapsed int64) bool {
	if w.held == 0 {
		w.held = max(elapsed, 1)
	}
	return elapsed-w.held >= int64(spec.SlotLength)
}

func compareWindows(a, b window) int {
	switch {
	case a.start < b.start:
		return -1
	case a.start > b.start:
		return 1
	}
	return int(a.kind) - int(b.kind)
}

// chosen is the accumulator that speaks for the window: U if it has enough samples, else the one with most, and of
// equals the first in the order of the document.
func (w *window) chosen(minSamples int) *accumulator {
	var best *accumulator
	rank := func(f spec.Flag) int { return slices.Index([]byte(spec.Flags), byte(f)) }
	for i := range w.flags {
		a := &w.flags[i]
		if a.flag == spec.FlagNormal && a.count >= int64(minSamples) {
			return a
		}
		if best == nil || a.count > best.count || a.count == best.count && rank(a.flag) < rank(best.flag) {
			best = a
		}
	}
	return best
}

// accumulator holds what the samples of one window and flag amount to.
type accumulator struct {
	flag     spec.Flag
	count    int64
	sum      float64 // with rest: Neumaier's sum, so that the order of the samples does not matter
	rest     float64
	min, max float64
	last     float64
	lastTime int64     // event time of last, Unix ns
	values   []float64 // median only
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

// ring remembers which windows of the last 7 days are closed, one bit each. Between the newest closed window and the
// oldest that a sample may still be for lie less than 7 days, because a grace is never zero.
type ring struct {
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

func (r *ring) has(i int64, k kind) bool {
	size := ringSize(k)
	if r.bits == nil || i > r.top || r.top-i >= size {
		return false
	}
	w, b := bitOf(i, size)
	return r.bits[w]&b != 0
}

func (r *ring) set(i int64, k kind) {
	size := ringSize(k)
	switch d := i - r.top; {
	case r.bits == nil:
		r.bits = make([]uint64, ringWords(k))
		r.top = i
	case d >= size || d <= -size: // a long gap, or a wall clock that was wrong and stepped back
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
