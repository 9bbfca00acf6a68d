package delivery

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ocems-io/ocems/ocems/spec"
)

func TestStamps(t *testing.T) {
	type marks struct {
		status slotStatus
		unsure bool
	}
	r := rand.New(rand.NewPCG(1, 2))
	var s stamps
	want := map[int64]marks{}
	stamp := func() int64 {
		n := int64(r.IntN(200))
		if r.IntN(20) == 0 {
			n = r.Int64N(1<<20) - 1<<19
		}
		if r.IntN(3) == 0 {
			return n * spec.CalibrationLength.Milliseconds()
		}
		return n * spec.SlotLength.Milliseconds()
	}
	list := func(of func(*word) uint64) (all []int64) {
		for at, ok := s.next(everBefore, of); ok; at, ok = s.next(at+1, of) {
			all = append(all, at)
		}
		return all
	}
	for step := range 20_000 {
		at := stamp()
		m, waits := want[at]
		switch r.IntN(5) {
		case 0, 1:
			if s.add(at) == waits {
				t.Fatalf("step %d: %d is added twice or not at all", step, at)
			}
			want[at] = m
		case 2:
			if s.remove(at) != waits {
				t.Fatalf("step %d: %d was there: %v", step, at, waits)
			}
			delete(want, at)
		case 3:
			m.status = slotStatus(r.IntN(3))
			s.set(at, m.status)
		case 4:
			m.unsure = true
			s.doubt(at)
		}
		if _, waits = want[at]; waits {
			want[at] = m
		}
		if status, is := s.status(at); is != waits || waits && status != want[at].status || s.doubted(at) != want[at].unsure || s.n != len(want) {
			t.Fatalf("step %d: %d has status %v, waits %v, of %d, want %+v, of %d", step, at, status, is, s.n, want[at], len(want))
		}
		if step%100 > 0 {
			continue
		}
		for name, c := range map[string]struct {
			of  func(*word) uint64
			has func(marks) bool
		}{
			"waiting": {(*word).waiting, func(marks) bool { return true }},
			"queued":  {(*word).queued, func(m marks) bool { return m.status == queued }},
			"parked":  {(*word).parked, func(m marks) bool { return m.status == parked }},
			"unsure":  {(*word).doubted, func(m marks) bool { return m.unsure }},
		} {
			var all []int64
			for _, at := range slices.Sorted(maps.Keys(want)) {
				if c.has(want[at]) {
					all = append(all, at)
				}
			}
			if got := list(c.of); !slices.Equal(got, all) {
				t.Fatalf("step %d: %s are %d, want %d", step, name, got, all)
			}
			if len(all) > 0 && all[len(all)-1] > 0 && s.newest(c.of) != all[len(all)-1] {
				t.Fatalf("step %d: the newest %s is %d, want %d", step, name, s.newest(c.of), all[len(all)-1])
			}
			slot := spec.SlotLength.Milliseconds()
			var alone []int64 // of the runs
			for i, run := range s.runs(c.of) {
				if run[0] > run[1] || i > 0 && run[0] <= alone[len(alone)-1]+slot {
					t.Fatalf("step %d: a run of %s is %d, after %d", step, name, run, alone)
				}
				for at := run[0]; at <= run[1]; at += slot {
					alone = append(alone, at)
				}
			}
			if want := slices.DeleteFunc(all, func(at int64) bool { return at%slot != 0 }); !slices.Equal(alone, want) {
				t.Fatalf("step %d: the runs of %s are %d, want %d", step, name, alone, want)
			}
		}
	}
}
