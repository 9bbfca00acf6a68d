package slot

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// second makes a reading s seconds into the window.
func second(s int, v float64) Sample { return of("x", t0.Add(time.Duration(s)*time.Second), v, 'U') }

func sum(x Sample) Sample { return with(Sum, x) }

func flagged(f spec.Flag, x Sample) Sample {
	x.Flag = f
	return x
}

// TestReadings checks the value of one window for a list of readings, without a restart and with a restart after each
// reading.
func TestReadings(t *testing.T) {
	type step struct {
		Sample
		want Result
	}
	taken := func(x Sample) step { return step{x, Result{}} }
	duplicate := func(x Sample) step { return step{x, Result{Reason: Duplicate}} }
	conflict := func(x Sample, first uint64) step { return step{x, Result{Conflict, first}} }
	unit := func(x Sample) step { return step{x, Result{Reason: BadUnit}} }
	slow := func(x Sample) Sample { x.MaxStep = 50; return x }
	tight := func(x Sample) Sample { x.MaxStep = 0.1; return x }
	far := func(x Sample) step { return step{slow(x), Result{Reason: TooFar}} }
	held := func(s int, v float64) Sample { return with(TimeWeighted, second(s, v)) }
	for _, c := range []struct {
		name    string
		steps   []step
		value   float64
		samples int
	}{
		{"twice", []step{taken(second(1, 200)), taken(second(2, 300)), taken(second(3, 400)),
			duplicate(second(1, 200)), duplicate(second(2, 300))}, 300, 3},
		{"twice, delta sum", []step{taken(sum(second(1, 5))), taken(sum(second(2, 5))),
			duplicate(sum(second(1, 5))), duplicate(sum(second(2, 5)))}, 10, 2},
		{"twice, from another source", []step{taken(second(1, 200)), taken(second(2, 300)),
			duplicate(from(2, second(1, 200))), duplicate(from(3, second(2, 300)))}, 250, 2},
		{"twice, backwards", []step{taken(second(3, 400)), taken(second(2, 300)), taken(second(1, 200)),
			duplicate(second(2, 300)), duplicate(second(3, 400)), duplicate(second(1, 200))}, 300, 3},
		{"zero and minus zero", []step{taken(second(1, 0)), duplicate(second(1, minusZero))}, 0, 1},
		{"another value", []step{taken(from(7, second(1, 200))), taken(second(2, 300)), conflict(from(8, second(1, 900)), 7),
			conflict(second(2, 900), 1), duplicate(from(8, second(1, 200)))}, 250, 2},
		{"another flag", []step{taken(from(7, second(1, 200))), conflict(flagged('M', second(1, 200)), 7)}, 200, 1},
		{"calibration is another window", []step{taken(second(1, 200)), taken(flagged('C', second(1, 900))),
			duplicate(flagged('C', second(1, 900))), conflict(flagged('C', second(1, 901)), 1)}, 200, 1},
		{"last, twice", []step{taken(with(Last, second(1, 10))), taken(with(Last, second(2, 20))),
			duplicate(with(Last, second(1, 10)))}, 20, 2},
		{"median, twice", []step{taken(with(Median, second(1, 10))), taken(with(Median, second(2, 20))), taken(with(Median, second(3, 90))),
			duplicate(with(Median, second(3, 90))), duplicate(with(Median, second(3, 90)))}, 20, 3},
		{"sum of two sources at one time", []step{taken(from(1, sum(second(1, 5)))), taken(from(2, sum(second(1, 5)))),
			duplicate(from(1, sum(second(1, 5)))), duplicate(from(2, sum(second(1, 5)))),
			conflict(from(2, sum(second(1, 6))), 2), taken(from(2, sum(second(2, 7)))), taken(from(1, sum(second(0, 8))))}, 25, 4},
		{"the statistic of the first", []step{taken(sum(second(1, 5))), taken(second(2, 5)), duplicate(second(2, 5)),
			taken(from(2, second(2, 5)))}, 15, 3},
		{"another unit", []step{taken(second(1, 5)), unit(in("ug/l", second(2, 5))), unit(in("ug/l", second(1, 5))), taken(second(2, 7))}, 6, 2},
		{"two units, at a time of their own", []step{taken(second(1, 5)),
			taken(in("ug/l", second(901, 5))), unit(second(902, 5))}, 5, 1},
		{"microseconds", []step{taken(second(1, 10)), taken(of("x", t0.Add(time.Second+time.Microsecond), 20, 'U')),
			duplicate(of("x", t0.Add(time.Second+999), 10, 'U')), conflict(of("x", t0.Add(time.Second+999), 20, 'U'), 1),
			taken(of("x", t0.Add(time.Second-1), 30, 'U')), duplicate(of("x", t0.Add(time.Second-1000), 30, 'U'))}, 20, 3},
		{"the first and the last microsecond", []step{taken(second(0, 10)), taken(of("x", t0.Add(15*time.Minute-1), 20, 'U')),
			duplicate(second(0, 10)), duplicate(of("x", t0.Add(15*time.Minute-1000), 20, 'U')), taken(second(900, 90)), duplicate(second(900, 90))}, 15, 2},
		{"max_step, a spike", []step{taken(slow(second(0, 100))), far(second(60, 400)), duplicate(slow(second(0, 100))), taken(slow(second(120, 110)))}, 105, 2},
		{"max_step, a conflict", []step{taken(slow(second(0, 100))), conflict(slow(second(0, 900)), 1)}, 100, 1},
		{"max_step, less than a minute apart", []step{taken(slow(second(0, 100))), taken(slow(second(10, 150))), far(second(20, 201)), duplicate(slow(second(0, 100)))}, 125, 2},
		{"max_step, a value that has changed", []step{taken(slow(second(0, 100))), far(second(60, 400)), far(second(300, 400)), taken(slow(second(360, 400)))}, 250, 2},
		{"max_step, a quarter of an hour later", []step{taken(slow(second(0, 100))), far(second(899, 9000)), far(second(900, 9000)), taken(slow(second(901, 9000)))}, 100, 1},
		{"max_step, calibration", []step{taken(slow(second(0, 100))), taken(slow(flagged('C', second(5, 900)))), taken(slow(flagged('Z', second(40, 0)))), far(second(50, 0))}, 100, 1},
		{"max_step, another flag", []step{taken(slow(second(0, 100))), taken(slow(flagged('M', second(60, 0)))), taken(slow(second(120, 100))), far(second(180, 900))}, 100, 2},
		{"max_step, to the last digit", []step{taken(tight(second(0, 0.3))), taken(tight(second(60, 0.4)))}, 0.35, 2},
		{"max_step, the unit of a window", []step{taken(slow(second(60, 100))), far(second(901, 9000)), taken(slow(in("ug/l", second(902, 110))))}, 100, 1},
		{"time_weighted", []step{taken(held(0, 100)), taken(held(840, 400))}, 120, 2},
		{"time_weighted, backwards", []step{taken(held(840, 400)), taken(held(0, 100)), duplicate(held(840, 400))}, 120, 2},
		{"time_weighted, from the first on", []step{taken(held(300, 100)), taken(held(600, 400))}, 250, 2},
		{"time_weighted, another flag", []step{taken(held(0, 100)), taken(flagged('M', held(300, 900))), taken(held(600, 200))}, 150, 2},
	} {
		for _, restarts := range []bool{false, true} {
			name := c.name
			if restarts {
				name += ", restarted"
			}
			t.Run(name, func(t *testing.T) {
				a, now := aligner(), t0.Add(15*time.Minute)
				for i, s := range c.steps {
					got := a.Add(s.Sample, now)
					if got.Reason == Taken {
						got.Other = 0 // see TestSources
					}
					if got != s.want {
						t.Fatalf("reading %d, %+v: %+v, want %+v", i+1, s.Sample, got, s.want)
					}
					if restarts {
						a = reopened(t, a, now)
					}
				}
				slots := a.Close(t0.Add(16 * time.Minute))
				slots = slices.DeleteFunc(slots, func(s Slot) bool { return s.Flag.Calibration() })
				if got := one(t, slots); got.Value != c.value || got.Samples != c.samples {
					t.Fatalf("closed %+v, want %v of %d samples", got, c.value, c.samples)
				}
			})
		}
	}
}

var minusZero = math.Copysign(0, -1)

func TestDuplicatesAreCounted(t *testing.T) {
	a := aligner()
	for range 3 {
		for s := range 4 {
			a.Add(second(s, 1), t0)
			a.Add(second(s, 2), t0)
		}
	}
	if s := a.Stats(); s.Taken != 4 || s.Refused[Duplicate] != 8 || s.Refused[Conflict] != 12 {
		t.Fatalf("stats %+v", s)
	}
}

// Sources that alternate are reported. A restarted sender is a source that changes once, and is not reported.
func TestSources(t *testing.T) {
	for _, c := range []struct {
		name          string
		apart         time.Duration // time between readings
		sources, want []uint64
	}{
		{"one", time.Second, []uint64{1, 1, 1}, []uint64{0, 0, 0}},
		{"restarted", time.Second, []uint64{1, 1, 2, 2, 2}, []uint64{0, 0, 0, 0, 0}},
		{"restarted again and again", time.Second, []uint64{1, 2, 2, 3, 4, 4}, []uint64{0, 0, 0, 0, 0, 0}},
		{"two take turns", time.Second, []uint64{1, 2, 1, 2, 2, 1}, []uint64{0, 0, 2, 1, 0, 2}},
		{"three take turns", time.Second, []uint64{1, 2, 3, 1, 2, 3}, []uint64{0, 0, 0, 3, 1, 2}},
		{"two take turns, a reading a window", 15 * time.Minute, []uint64{1, 2, 1, 2}, []uint64{0, 0, 2, 1}},
		{"restarted, a reading a window", 15 * time.Minute, []uint64{1, 1, 2, 2}, []uint64{0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, got := aligner(), []uint64(nil)
			for i, source := range c.sources {
				r := a.Add(from(source, of("x", t0.Add(time.Duration(i)*c.apart), 1, 'U')), t0.Add(2*time.Hour))
				refused(t, r, Taken)
				got = append(got, r.Other)
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("the others are %v, want %v", got, c.want)
			}
		})
	}
	a := aligner()
	add(t, a, second(1, 1), t0)
	add(t, a, second(2, 1), t0)
	if r := a.Add(from(2, second(1, 1)), t0); r != (Result{Reason: Duplicate}) {
		t.Errorf("a repeat by another source is %+v", r)
	}
	if r := a.Add(second(3, 1), t0); r != (Result{}) {
		t.Errorf("after a repeat by another source a reading is %+v", r)
	}
}

// A window distinguishes 64 sources. Further ones pool in the same way; for a sum they share one sample for each time,
// and each refused one is reported.
func TestManySources(t *testing.T) {
	for _, stat := range []Statistic{Mean, Sum} {
		a, now := aligner(), t0.Add(10*time.Minute)
		for i := range 200 {
			add(t, a, with(stat, from(uint64(i+1), second(i, 1))), now)
		}
		for i := range 200 {
			refused(t, a.Add(with(stat, from(uint64(i+1), second(i, 1))), now), Duplicate)
		}
		a = reopened(t, a, now)
		for i := range 200 {
			refused(t, a.Add(with(stat, from(uint64(i+1), second(i, 1))), now), Duplicate)
			refused(t, a.Add(with(stat, from(uint64(i+1), second(i, 2))), now), Conflict)
		}
		want := map[Statistic]float64{Mean: 1, Sum: 200}[stat]
		if got := one(t, a.Close(t0.Add(time.Hour))); got.Samples != 200 || got.Value != want {
			t.Fatalf("closed %+v", got)
		}
	}

	a := aligner()
	for i := range 70 {
		want := Taken
		if i >= maxSources {
			want = Conflict
		}
		refused(t, a.Add(sum(from(uint64(i+1), second(1, 5))), t0), want)
	}
	for i := range 70 {
		want := Duplicate
		if i >= maxSources {
			want = Conflict
		}
		refused(t, a.Add(sum(from(uint64(i+1), second(1, 5))), t0), want)
	}
	if got := one(t, a.Close(t0.Add(time.Hour))); got.Samples != maxSources || got.Value != 5*maxSources {
		t.Fatalf("closed %+v", got)
	}

	// A sample that is not taken uses no place among the sources.
	b := aligner()
	add(t, b, sum(second(1, 5)), t0)
	for i := range 200 {
		refused(t, b.Add(in("l", sum(from(uint64(i+2), second(1, 5)))), t0), BadUnit)
	}
	m := with(Mean, of("m", t0, 1, 'U'))
	add(t, b, m, t0)
	for i := range 200 {
		refused(t, b.Add(from(uint64(i+2), m), t0), Duplicate)
	}
	for s := range b.devices["d"].series {
		if c := b.devices["d"].series[s].open[0]; len(c.sources) != 1 {
			t.Errorf("%s has %d sources", s.name, len(c.sources))
		}
	}
}
