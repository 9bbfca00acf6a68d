package slot

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// current renames the device "old" and the parameter "was", and corrects a spelling of mg/L.
func current(s Series, unit string) (Series, string) {
	if s.Device == "old" {
		s.Device = "d"
	}
	if s.Parameter == "was" {
		s.Parameter = "p"
	}
	if unit == "mgpl" {
		unit = "mg/l"
	}
	return s, unit
}

// A stream whose names change at some time gives the same slots as a stream with the later names only.
func TestRename(t *testing.T) {
	for name, former := range map[string]func(x Sample) Sample{
		"device":             func(x Sample) Sample { x.Device = "old"; return x },
		"parameter":          func(x Sample) Sample { x.Parameter = "was"; return x },
		"device, parameter":  func(x Sample) Sample { x.Device, x.Parameter = "old", "was"; return x },
		"spelling of a unit": func(x Sample) Sample { return in("mgpl", x) },
	} {
		windows := 0
		run := func(seed uint64, renamed bool) (out []Slot, final *Aligner) {
			r := rand.New(rand.NewPCG(seed, 1))
			a, now := aligner(), t0
			for n := range 600 {
				now = now.Add(time.Duration(r.IntN(20000)) * time.Millisecond)
				if n == 300 {
					a = reopened(t, a, now)
					windows += a.Rename(current)
					a = reopened(t, a, now)
				}
				at := now.Add(-time.Duration(r.ExpFloat64() * float64(10*time.Minute)))
				x := with(Statistic(seed%6), of("p", at, r.NormFloat64()*1e6, spec.Flag(spec.Flags[r.IntN(6)])))
				x.Source, x.Doubt = r.Uint64N(3), r.IntN(30) == 0
				if n < 300 && renamed {
					x = former(x)
				}
				for range 1 + r.IntN(2) {
					a.Add(x, now)
				}
				for _, s := range a.Close(now) {
					s.Series, s.Unit = current(s.Series, s.Unit)
					out = append(out, s)
				}
			}
			return append(out, a.Close(now.Add(time.Hour))...), a
		}
		for seed := range uint64(12) {
			want, a := run(seed, false)
			got, b := run(seed, true)
			if len(want) < 10 || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, seed %d: %d slots, want %d", name, seed, len(got), len(want))
			}
			s, r := a.Stats(), b.Stats()
			if s.Series != r.Series || s.Open != r.Open {
				t.Fatalf("%s, seed %d: %+v, want %+v", name, seed, r, s)
			}
		}
		if (windows == 0) != (name == "spelling of a unit") {
			t.Errorf("%s: %d windows were renamed", name, windows)
		}
	}
}

// If both names have samples of one window, its slot is computed from all of them.
func TestRenameJoins(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		one, two := aligner(), aligner()
		for n := range 500 {
			x := with(Statistic(seed%6), of("p", t0.Add(time.Duration(n)*7*time.Second), float64(r.IntN(1000)), spec.Flag(spec.Flags[r.IntN(6)])))
			x.Source, x.Doubt = r.Uint64N(40), r.IntN(100) == 0
			add(t, one, x, t0.Add(time.Hour))
			if r.IntN(2) == 0 {
				x.Device, x.Parameter = "old", "was"
			}
			add(t, two, x, t0.Add(time.Hour))
		}
		two = reopened(t, two, t0.Add(time.Hour))
		two.Rename(current)
		want, got := one.Close(t0.Add(3*time.Hour)), two.Close(t0.Add(3*time.Hour))
		if len(want) < 5 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d:\n%v\n%v", seed, got, want)
		}
		if s := two.Stats(); s.Series != 1 || s.Open != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// What cannot be joined stays unchanged, and no window closes twice.
func TestRenameKeepsApart(t *testing.T) {
	old := func(x Sample) Sample { x.Device = "old"; return x }
	a := aligner()
	add(t, a, old(of("p", t0, 1, 'U')), t0)
	a.Close(t0.Add(time.Hour))
	add(t, a, of("p", t0.Add(spec.SlotLength), 1, 'U'), t0.Add(spec.SlotLength))
	a.Close(t0.Add(time.Hour))
	at := t0.Add(time.Hour)
	add(t, a, of("p", at, 2, 'U'), at)
	add(t, a, old(of("p", at, 3, 'U')), at)
	if n := a.Rename(current); n != 0 {
		t.Errorf("renamed %d", n)
	}
	for i := range 2 {
		refused(t, a.Add(of("p", t0.Add(time.Duration(i)*spec.SlotLength+time.Second), 9, 'U'), at), Late)
	}
	got := a.Close(at.Add(time.Hour))
	if len(got) != 2 || got[0].Device != "d" || got[0].Value != 2 || got[1].Device != "old" || got[1].Value != 3 {
		t.Errorf("closed %+v", got)
	}
	if n := a.Rename(current); n != 0 || a.Stats().Series != 1 {
		t.Errorf("%d, %+v", n, a.Stats())
	}
	refused(t, a.Add(of("p", at.Add(time.Second), 9, 'U'), at.Add(time.Hour)), Late)
}
