package delivery

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// stamps stores the slots of a queue as bits, because a hub may have millions. A slot is on the 15-minute grid, or is a
// calibration point between two grid points.
type stamps struct {
	n     int // slots
	grids [2][]word
}

// word has the marks of 64 consecutive stamps on a grid.
type word struct {
	at     int64                 // number of the first stamp, divided by 64
	of     [undecided + 1]uint64 // each waiting slot has exactly one of these marks
	unsure uint64                // a crashed run may have sent the slot
}

// lengths are the steps of the grids in milliseconds.
var lengths = [...]int64{spec.SlotLength.Milliseconds(), spec.CalibrationLength.Milliseconds()}

// onGrid reports whether a slot can have the stamp.
func onGrid(stamp int64) bool { return spec.Aligned(time.UnixMilli(stamp), spec.CalibrationLength) }

const everBefore = math.MinInt64 // before any stamp

func (w *word) waiting() uint64 { return w.of[queued] | w.of[parked] | w.of[shown] | w.of[undecided] }
func (w *word) queued() uint64  { return w.of[queued] }
func (w *word) parked() uint64  { return w.of[parked] }
func (w *word) doubted() uint64 { return w.unsure }

// locate finds the place of a stamp. If found, (*grid)[i] has its bit.
func (s *stamps) locate(stamp int64) (grid *[]word, i int, found bool, at int64, bit uint64) {
	g := 0
	if stamp%lengths[0] != 0 {
		g = 1
	}
	number := stamp / lengths[g]
	grid, at = &s.grids[g], number>>6
	i, found = find(*grid, at)
	return grid, i, found, at, 1 << (number & 63)
}

func find(words []word, at int64) (i int, found bool) {
	if n := len(words); n > 0 && words[n-1].at <= at { // usually the newest
		if words[n-1].at == at {
			return n - 1, true
		}
		return n, false
	}
	return slices.BinarySearchFunc(words, at, func(w word, at int64) int { return cmp.Compare(w.at, at) })
}

// add reports whether the slot is new.
func (s *stamps) add(stamp int64) bool {
	grid, i, found, at, bit := s.locate(stamp)
	if !found {
		*grid = slices.Insert(*grid, i, word{at: at})
	}
	w := &(*grid)[i]
	if w.waiting()&bit != 0 {
		return false
	}
	w.of[queued] |= bit
	s.n++
	return true
}

// remove reports whether the slot was there.
func (s *stamps) remove(stamp int64) bool {
	grid, i, found, _, bit := s.locate(stamp)
	if !found || (*grid)[i].waiting()&bit == 0 {
		return false
	}
	w := &(*grid)[i]
	for status := range w.of {
		w.of[status] &^= bit
	}
	w.unsure &^= bit
	if w.waiting() == 0 {
		*grid = slices.Delete(*grid, i, i+1)
	}
	s.n--
	return true
}

// status returns the status of a slot, if it waits.
func (s *stamps) status(stamp int64) (status slotStatus, waits bool) {
	if grid, i, found, _, bit := s.locate(stamp); found {
		for status, marks := range (*grid)[i].of {
			if marks&bit != 0 {
				return slotStatus(status), true
			}
		}
	}
	return queued, false
}

// set gives a waiting slot a status.
func (s *stamps) set(stamp int64, status slotStatus) {
	if grid, i, found, _, bit := s.locate(stamp); found && (*grid)[i].waiting()&bit != 0 {
		w := &(*grid)[i]
		for other := range w.of {
			w.of[other] &^= bit
		}
		w.of[status] |= bit
	}
}

// doubt marks a waiting slot as in doubt.
func (s *stamps) doubt(stamp int64) {
	if grid, i, found, _, bit := s.locate(stamp); found {
		(*grid)[i].unsure |= bit & (*grid)[i].waiting()
	}
}

// believe ends the doubt.
func (s *stamps) believe(stamp int64) {
	if grid, i, found, _, bit := s.locate(stamp); found {
		(*grid)[i].unsure &^= bit
	}
}

func (s *stamps) doubted(stamp int64) bool {
	grid, i, found, _, bit := s.locate(stamp)
	return found && (*grid)[i].unsure&bit != 0
}

// next returns the first slot with a mark, starting at a stamp.
func (s *stamps) next(from int64, marks func(*word) uint64) (stamp int64, ok bool) {
	for g, words := range s.grids {
		number := from / lengths[g]
		if from%lengths[g] > 0 {
			number++
		}
		i, found := find(words, number>>6)
		before := ^uint64(0) << (number & 63)
		if !found {
			before = ^uint64(0)
		}
		for ; i < len(words); i, before = i+1, ^uint64(0) {
			if m := marks(&words[i]) & before; m != 0 {
				if t := (words[i].at<<6 + int64(bits.TrailingZeros64(m))) * lengths[g]; !ok || t < stamp {
					stamp, ok = t, true
				}
				break
			}
		}
	}
	return stamp, ok
}

// runs returns the 15-minute slots with a mark as runs: first and last of consecutive slots.
func (s *stamps) runs(marks func(*word) uint64) (list [][2]int64) {
	for i := range s.grids[0] {
		w := &s.grids[0][i]
		for m, at := marks(w), 0; m != 0; {
			skip := bits.TrailingZeros64(m)
			n := bits.TrailingZeros64(^(m >> skip))
			first := (w.at<<6 + int64(at+skip)) * lengths[0]
			last := first + int64(n-1)*lengths[0]
			if end := len(list) - 1; end >= 0 && list[end][1]+lengths[0] == first {
				list[end][1] = last
			} else {
				list = append(list, [2]int64{first, last})
			}
			at += skip + n
			m >>= skip
			m >>= n
		}
	}
	return list
}

// newest returns the last slot with a mark, or 0.
func (s *stamps) newest(marks func(*word) uint64) (stamp int64) {
	for g, words := range s.grids {
		for _, w := range slices.Backward(words) {
			if m := marks(&w); m != 0 {
				stamp = max(stamp, (w.at<<6+int64(bits.Len64(m)-1))*lengths[g])
				break
			}
		}
	}
	return stamp
}

// each visits the words.
func (s *stamps) each(visit func(*word)) {
	for _, words := range s.grids {
		for i := range words {
			visit(&words[i])
		}
	}
}
