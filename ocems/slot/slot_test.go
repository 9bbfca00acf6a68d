package slot

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

var t0 = time.Date(2026, 3, 10, 4, 30, 0, 0, time.UTC) // on the grid

func aligner(change ...func(*Options)) *Aligner {
	o := Defaults()
	o.SettleOld, o.SettleSlow = 0, 0
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

// Sample is one reading of a series.
type Sample struct {
	Head
	Reading
}

// Add takes one sample.
func (a *Aligner) Add(x Sample, now time.Time) (r Result) {
	a.AddAll(now, 1, func(int) (*Head, Reading) { return &x.Head, x.Reading }, func(_ int, not Result) { r = not })
	return r
}

// of makes a reading of a parameter of the device "d" from the source 1.
func of(parameter string, at time.Time, v float64, f spec.Flag) Sample {
	return Sample{Head{Series: Series{Device: "d", Parameter: parameter}, Unit: "mg/l", Source: 1}, Reading{Time: at, Value: v, Flag: f}}
}

func with(stat Statistic, x Sample) Sample {
	x.Statistic = stat
	return x
}

func from(source uint64, x Sample) Sample {
	x.Source = source
	return x
}

func in(unit string, x Sample) Sample {
	x.Unit = unit
	return x
}

func add(t testing.TB, a *Aligner, x Sample, now time.Time) {
	t.Helper()
	refused(t, a.Add(x, now), Taken)
}

func refused(t testing.TB, r Result, want Reason) {
	t.Helper()
	if r.Reason != want {
		t.Fatalf("the reason is %q, want %q", r.Reason, want)
	}
}

func one(t testing.TB, slots []Slot) Slot {
	t.Helper()
	if len(slots) != 1 {
		t.Fatalf("closed %+v, want one slot", slots)
	}
	return slots[0]
}

func TestStatisticNames(t *testing.T) {
	if _, err := ParseStatistic("meen"); err == nil || !strings.Contains(err.Error(), "mean") {
		t.Errorf("error is %v", err)
	}
	for i, name := range statistics {
		if s, err := ParseStatistic(" " + strings.ToUpper(name)); err != nil || s != Statistic(i) || s.String() != name {
			t.Errorf("ParseStatistic(%q) = %v, %v", name, s, err)
		}
	}
}

func TestGraceAndSettle(t *testing.T) {
	a := aligner()
	end := t0.Add(15 * time.Minute)
	add(t, a, of("x", t0, 1, 'U'), t0)
	add(t, a, of("x", end.Add(-1), 3, 'U'), end)
	add(t, a, of("x", end, 100, 'U'), end) // half-open: belongs to the next window
	if got := a.Close(end.Add(30*time.Second - 1)); got != nil {
		t.Fatal("closed within the grace", got)
	}
	add(t, a, of("x", t0.Add(time.Minute), 5, 'U'), end.Add(28*time.Second))
	if got := a.Close(end.Add(33*time.Second - 1)); got != nil {
		t.Fatal("closed before it settled", got)
	}
	got := a.Close(end.Add(33 * time.Second))
	want := []Slot{{Series: Series{"d", "x", false}, Unit: "mg/l", Start: t0, End: end, Stamp: end, Flag: 'U', Value: 3, Min: 1, Max: 5, Samples: 3, Minutes: 3,
		Last: end.Add(-1), LastValue: 3}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("closed %+v, want %+v", got, want)
	}
	refused(t, a.Add(of("x", t0, 1, 'U'), end.Add(34*time.Second)), Late)
	if s := a.Stats(); s.Open != 1 || s.Series != 1 || s.Refused[Late] != 1 || s.Taken != 4 || s.Closed != 1 {
		t.Fatalf("stats %+v", s)
	}

	b := aligner(func(o *Options) { o.Stamp = "start" })
	add(t, b, of("x", t0, 1, 'U'), t0)
	if got := one(t, b.Close(end.Add(time.Minute))); !got.Stamp.Equal(t0) {
		t.Fatalf("closed %+v", got)
	}
}

// With WaitForNewer a pause of any length closes no window, live or past: only newer samples, of any device, close it.
// Samples that these have overtaken are taken until the window has settled, and for a quarter of settle after a pause.
func TestWaitForNewer(t *testing.T) {
	end := t0.Add(15 * time.Minute)
	for name, now := range map[string]time.Time{"live": end.Add(-5 * time.Minute), "replayed": end.Add(48 * time.Hour)} {
		a := aligner(func(o *Options) { o.WaitForNewer = true })
		other := of("x", end.Add(30*time.Second-time.Millisecond), 9, 'U')
		other.Device = "e"
		open := func(when string) {
			t.Helper()
			if got := a.Close(now); got != nil {
				t.Fatalf("%s: closed %s: %+v", name, when, got)
			}
		}
		pause := func(when string) {
			t.Helper()
			for range 10 {
				now = now.Add(time.Hour)
				open(when)
			}
		}
		add(t, a, of("x", t0, 1, 'U'), now)
		pause("in the pause")
		add(t, a, other, now)
		now = now.Add(time.Minute)
		open("within the grace")
		flows := func(seconds int, when string) { // of a settle of 5 s
			t.Helper()
			for range seconds {
				now = now.Add(time.Second)
				other.Time = other.Time.Add(time.Second)
				add(t, a, other, now)
				open(when)
			}
		}
		flows(2, "at once after the pause")
		pause("in a pause while it settles") // longer than 1.25 s
		flows(1, "at once after that pause")
		add(t, a, of("x", t0.Add(14*time.Minute), 3, 'U'), now)
		pause("in a pause after a sample that was overtaken")
		flows(2, "at once after that pause, too")
		now = now.Add(time.Second)
		if got := one(t, a.Close(now)); got.Value != 2 || got.Samples != 2 {
			t.Errorf("%s: closed %+v", name, got)
		}
	}
}

// Loggers that all send at the same moment make a pause between two of their messages. Their windows close all the same.
func TestWaitForNewerOfBursts(t *testing.T) {
	for _, c := range []struct{ every, closes time.Duration }{
		{time.Second, 4 * time.Minute}, {20 * time.Second, 4*time.Minute + 20*time.Second}, {time.Minute, 5*time.Minute + 30*time.Second}, {5 * time.Minute, 10*time.Minute + 30*time.Second},
	} {
		a := aligner(func(o *Options) { o.WaitForNewer, o.Grace, o.Settle = true, 2*time.Minute, 2*time.Minute })
		end, after := t0.Add(15*time.Minute), time.Duration(-1)
		for now := t0.Add(time.Second); after < 0 && now.Before(end.Add(time.Hour)); now = now.Add(time.Second) {
			if now.Sub(t0)%c.every == 0 {
				for at := now.Add(-c.every); at.Before(now); at = at.Add(time.Second) {
					add(t, a, of("x", at, 1, 'U'), now)
				}
			}
			if len(a.Close(now)) > 0 {
				after = now.Sub(end)
			}
		}
		if after < c.closes || after > c.closes+2*time.Second {
			t.Errorf("a message each %s: the window closes after %s, want %s", c.every, after, c.closes)
		}
	}
}

// A source whose clock is behind, or that sends its history slowly: each window is due when its first sample comes. It closes
// once the series has passed its end, or after a wait that depends on the pauses between the arrivals.
func TestOldSamplesThatComeSlowly(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		name        string
		lag         time.Duration // of the first sample
		every, each time.Duration // between two arrivals, and between two samples
		n           int           // samples that arrive together
		live        string        // a parameter that is on time
		reopen      bool          // the process restarts in each window
		want        []int         // samples of the first windows
	}{
		{"each 10 seconds", hour, 10 * time.Second, 10 * time.Second, 1, "", false, []int{90, 90}},
		{"each minute", hour, time.Minute, time.Minute, 1, "", false, []int{1, 15, 15}},
		{"each minute, a sample of each 10 seconds", hour, time.Minute, 10 * time.Second, 6, "", false, []int{6, 90, 90}},
		{"each minute, beside live readings", hour, time.Minute, time.Minute, 1, "bod", false, []int{1, 15, 15}},
		{"each 10 seconds, with restarts", hour, 10 * time.Second, 10 * time.Second, 1, "", true, []int{90, 90}},
		{"each minute, with restarts", hour, time.Minute, time.Minute, 1, "", true, []int{1, 15, 15}},
		{"each 5 minutes", 6 * hour, 5 * time.Minute, 5 * time.Minute, 1, "", false, []int{1, 3, 3}},
		{"each 5 minutes, with restarts", 6 * hour, 5 * time.Minute, 5 * time.Minute, 1, "", true, []int{1, 3, 3}},
		{"each second", hour, time.Second, time.Second, 1, "", false, []int{900, 900}},
		{"each 7 minutes, which is too slow", hour, 7 * time.Minute, 7 * time.Minute, 1, "", false, []int{1, 1, 1}},
		{"faster than their times, with pauses", 24 * hour, 20 * time.Second, 5 * time.Minute, 1, "", false, []int{1, 3, 3, 3}},
		{"ten at once, with pauses", 24 * hour, 18 * time.Second, time.Minute, 10, "", false, []int{10, 15, 15}},
		{"each 10 seconds, 15 minutes and 20 seconds behind", 15*time.Minute + 20*time.Second, 10 * time.Second, 10 * time.Second, 1, "", false, []int{2, 90, 90}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Defaults()
			a, state := New(o), store{}
			var closed []Slot
			at := t0.Add(-c.lag)
			old := at
			for now := t0; now.Before(t0.Add(time.Hour)); now = now.Add(time.Second) {
				if now.Sub(t0)%c.every == 0 {
					for range c.n {
						a.Add(of("cod", at, 1, 'U'), now)
						at = at.Add(c.each)
					}
					if c.live != "" {
						add(t, a, of(c.live, now, 1, 'U'), now)
					}
				}
				closed = append(closed, a.Close(now)...)
				if c.reopen && now.Sub(t0)%(7*time.Minute) == 0 {
					state.save(a)
					a = New(o)
					if _, err := a.Restore(state, now); err != nil {
						t.Fatal(err)
					}
				}
			}
			var samples []int
			for _, s := range closed {
				if s.Parameter == "cod" && (c.live != "cod" || s.End.Before(old.Add(2*time.Hour))) {
					samples = append(samples, s.Samples)
				}
			}
			if got := samples[:min(len(samples), len(c.want))]; !slices.Equal(got, c.want) {
				t.Errorf("the first windows have %d samples, want %d", got, c.want)
			}
		})
	}
}

// A source that is on time, but sends several samples together: its window closes at the end of grace.
func TestUploads(t *testing.T) {
	for _, c := range []struct {
		name         string
		upload, each time.Duration   // between two uploads, and between two samples
		after        time.Duration   // from a multiple of upload to the upload
		stamped      time.Duration   // from the time of a sample to the time when it is ready to be sent
		out          []time.Duration // from a gap in the link to its end, by the time since the start; repeated
		closes       time.Duration   // after the end of each window but the first
		samples      int
	}{
		{"each 5 minutes", 5 * time.Minute, time.Minute, 0, time.Second, nil, 30 * time.Second, 15},
		{"each 3 minutes", 3 * time.Minute, time.Minute, 0, time.Second, nil, 30 * time.Second, 15},
		{"means of 5 minutes, stamped at their start", 5 * time.Minute, 5 * time.Minute, 0, 5 * time.Minute, nil, 30 * time.Second, 3},
		{"a link that fails", 10 * time.Second, 10 * time.Second, 0, time.Second, []time.Duration{5 * time.Minute, 7 * time.Minute, 8 * time.Minute, 770 * time.Second}, 30 * time.Second, 90},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, at := New(Defaults()), t0
			var closed []Slot
			for now := t0; now.Before(t0.Add(3 * time.Hour)); now = now.Add(time.Second) {
				up := now.Sub(t0)%c.upload == c.after
				for i := 0; i < len(c.out); i += 2 {
					minute := now.Sub(t0) % spec.SlotLength
					up = up && (minute < c.out[i] || minute >= c.out[i+1])
				}
				for ; up && !at.Add(c.stamped).After(now); at = at.Add(c.each) {
					a.Add(of("cod", at, 1, 'U'), now)
				}
				for _, s := range a.Close(now) {
					closed = append(closed, s)
					if after := now.Sub(s.End); len(closed) > 1 && c.closes >= 0 && after != c.closes {
						t.Errorf("the window until %s closes %s after its end, want %s", s.End, after, c.closes)
					}
				}
			}
			for _, s := range closed[1:] {
				if s.Samples != c.samples {
					t.Errorf("the window until %s has %d samples, want %d", s.End, s.Samples, c.samples)
				}
			}
		})
	}
}

// History that comes without pauses: its last window does not wait long for more.
func TestHistoryClosesSoon(t *testing.T) {
	for _, c := range []struct {
		name   string
		steps  []time.Duration // from one arrival to the next
		stride time.Duration   // from one sample to the next
		closes time.Duration   // after the last arrival
	}{
		{"one sample", []time.Duration{0}, 0, 15 * time.Second},
		{"ten at once", make([]time.Duration, 10), time.Minute, 15 * time.Second},
		{"two parts", []time.Duration{0, 0, 0, 3 * time.Second, 0}, time.Minute, 15 * time.Second},
		{"many parts", slices.Repeat([]time.Duration{5 * time.Second, 0, 0}, 9), 10 * time.Second, 15 * time.Second},
		{"two slots, an hour apart", []time.Duration{0, time.Hour}, 15 * time.Minute, 15 * time.Second},
		{"two slots, with a pause", []time.Duration{0, 0, 45 * time.Second}, 15 * time.Minute, 90 * time.Second},
		{"a part of the second slot, after a pause", []time.Duration{0, 0, 0, 45 * time.Second}, 5 * time.Minute, 90 * time.Second},
		{"a part of the second slot, after a longer pause", []time.Duration{0, 0, 0, 4 * time.Minute}, 5 * time.Minute, 6 * time.Minute},
		{"with pauses", []time.Duration{0, 10 * time.Second, 10 * time.Second}, 10 * time.Second, 90 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, now := New(Defaults()), t0
			arrived := now
			for i, step := range c.steps {
				for end := now.Add(step); now.Before(end); now = now.Add(time.Second) {
					a.Close(now)
				}
				add(t, a, of("cod", t0.Add(-2*time.Hour+time.Duration(i)*c.stride), 1, 'U'), now)
				arrived = now
			}
			for ; a.Stats().Open > 0; now = now.Add(time.Second) {
				a.Close(now)
			}
			if after := now.Add(-time.Second).Sub(arrived); after != c.closes {
				t.Errorf("the last window closed after %s, want %s", after, c.closes)
			}
		})
	}
}

// A clock that was ahead before the restart: its samples are replayed. Settling still stops in a pause, and no window
// is kept open.
func TestWaitForNewerAfterAClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 20 * time.Second, 50 * time.Second} {
		o := Defaults()
		o.WaitForNewer = true
		a := New(o)
		end := t0.Add(15 * time.Minute)
		now := end.Add(time.Minute)
		if _, err := a.Restore(map[string][]byte{}, now); err != nil {
			t.Fatal(err)
		}
		add(t, a, of("x", t0.Add(time.Minute), 1, 'U'), now.Add(ahead)) // replayed
		now = now.Add(31 * time.Second)
		other := of("x", end.Add(40*time.Second), 1, 'U')
		other.Device = "other"
		add(t, a, other, now)
		for range 25 { // a pause
			if got := a.Close(now); len(got) > 0 {
				t.Fatalf("ahead by %s: a pause closed %+v at %s", ahead, got, now)
			}
			now = now.Add(time.Second)
		}
		closed := 0
		for range 60 {
			other.Time = other.Time.Add(time.Second)
			now = now.Add(time.Second)
			add(t, a, other, now)
			closed += len(a.Close(now))
		}
		if closed == 0 {
			t.Fatalf("ahead by %s: nothing closed", ahead)
		}
	}
}

// Samples whose timestamps do not advance, or hardly, do not keep a window open for ever.
func TestStampThatRepeats(t *testing.T) {
	for _, c := range []struct {
		name    string
		reading func(second int) Sample
		reason  Reason // of all samples but the first
		held    time.Duration
		samples int
	}{
		{"the same reading", func(int) Sample { return of("x", t0, 1, 'U') }, Duplicate, 0, 1},
		{"another value", func(s int) Sample { return of("x", t0, float64(s), 'U') }, Conflict, 0, 1},
		{"a clock that is slow", func(s int) Sample { return of("x", t0.Add(time.Duration(s)*time.Microsecond), 1, 'U') }, Taken,
			15 * time.Minute, 30*60 + 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := aligner()
			due := t0.Add(15*time.Minute + 30*time.Second)
			for s := range 3600 {
				now := t0.Add(time.Duration(s) * time.Second)
				if got := a.Close(now); got != nil {
					if held := now.Sub(due); held != c.held || got[0].Samples != c.samples {
						t.Fatalf("held for %s with %d samples, want %s with %d", held, got[0].Samples, c.held, c.samples)
					}
					return
				}
				if r := a.Add(c.reading(s), now); s > 0 && r.Reason != c.reason {
					t.Fatalf("the reason is %q, want %q", r.Reason, c.reason)
				}
			}
			t.Fatal("it is open for ever")
		})
	}
}

// The parameters of a device leave together: a late sample of one delays the others of its window.
func TestWindowClosesAsAWhole(t *testing.T) {
	a := aligner()
	due := t0.Add(15*time.Minute + 30*time.Second)
	add(t, a, of("cod", t0, 1, 'U'), t0)
	add(t, a, of("bod", t0, 2, 'U'), t0)
	add(t, a, of("bod", t0.Add(15*time.Minute), 2, 'U'), due) // a sample of another window does not delay it
	elsewhere := of("cod", t0, 3, 'U')
	elsewhere.Device = "e"
	add(t, a, elsewhere, t0)
	add(t, a, of("tss", t0, 4, 'U'), due.Add(-time.Second))
	if got := one(t, a.Close(due)); got.Device != "e" {
		t.Fatalf("closed %+v, want the other device's slot", got)
	}
	if got := a.Close(due.Add(4*time.Second - 1)); got != nil {
		t.Fatalf("closed %+v before the window settled", got)
	}
	got := a.Close(due.Add(4 * time.Second))
	if len(got) != 3 || got[0].Parameter != "bod" || got[1].Parameter != "cod" || got[2].Parameter != "tss" {
		t.Fatalf("closed %+v, want all of the window", got)
	}
	// A parameter without a sample in the closed window is not late: its own window is not closed.
	add(t, a, of("ph", t0, 7, 'U'), due.Add(time.Minute))
	if got := one(t, a.Close(due.Add(time.Minute+5*time.Second))); got.Parameter != "ph" {
		t.Fatalf("closed %+v", got)
	}

	b := aligner()
	add(t, b, of("cod", t0, 1, 'U'), t0)
	now := due
	for s := 0; ; s++ { // continuous samples delay them for 15 minutes at most
		add(t, b, of("bod", t0.Add(time.Duration(s)*time.Millisecond), 2, 'U'), now)
		if got := b.Close(now); got != nil {
			if held := now.Sub(due); len(got) != 2 || held != 15*time.Minute {
				t.Fatalf("closed %+v after %s", got, held)
			}
			break
		}
		now = now.Add(time.Second)
	}
}

// The result does not depend on the order of readings or on repeats.
func TestOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	exact, values := new(big.Rat), make([]float64, 3000)
	for i := range values {
		values[i] = r.NormFloat64() * math.Pow(10, float64(r.IntN(12)))
		exact.Add(exact, new(big.Rat).SetFloat64(values[i]))
	}
	sum, _ := exact.Float64()
	mean, _ := exact.Quo(exact, big.NewRat(int64(len(values)), 1)).Float64()
	for stat := range Statistic(len(statistics)) {
		var first Slot
		for round := range 5 {
			order := r.Perm(len(values))
			for range 1000 {
				order = append(order, r.IntN(len(values)))
			}
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			a := aligner()
			for _, i := range order {
				a.Add(with(stat, of("x", t0.Add(time.Duration(i)*time.Millisecond), values[i], 'U')), t0.Add(time.Minute))
			}
			got := one(t, a.Close(t0.Add(time.Hour)))
			if n := a.Stats().Refused[Duplicate]; got.Samples != len(values) || n != 1000 {
				t.Fatalf("%s: %d samples and %d duplicates", stat, got.Samples, n)
			}
			if want := map[Statistic]float64{Mean: mean, Sum: sum}[stat]; stat == Mean || stat == Sum {
				if math.Abs(got.Value-want) > 1e-15*math.Abs(want) {
					t.Fatalf("%s is %v, want %v", stat, got.Value, want)
				}
				got.Value = want
			}
			if round == 0 {
				first = got
			}
			if got != first {
				t.Fatalf("%s: %+v, and in another order %+v", stat, got, first)
			}
		}
	}
}

func TestHistoryOfADay(t *testing.T) {
	a := aligner()
	now := t0.Add(24*time.Hour + 5*time.Minute)
	r := rand.New(rand.NewPCG(3, 4))
	for _, m := range r.Perm(24 * 60) {
		add(t, a, of("x", t0.Add(time.Duration(m)*time.Minute), float64(m), 'U'), now)
	}
	if got := a.Close(now.Add(4 * time.Second)); got != nil {
		t.Fatal("closed before it settled")
	}
	got := a.Close(now.Add(5 * time.Second))
	if len(got) != 96 {
		t.Fatalf("closed %d slots, want 96", len(got))
	}
	for i, c := range got {
		if !c.Start.Equal(t0.Add(time.Duration(i)*15*time.Minute)) || c.Value != float64(15*i+7) || c.Samples != 15 {
			t.Fatalf("slot %d is %+v", i, c)
		}
	}
}

func TestLateAndNeverSeen(t *testing.T) {
	a := aligner()
	now := t0.Add(15*time.Minute + 30*time.Second)
	add(t, a, of("x", t0, 1, 'U'), t0)
	a.Close(now)
	refused(t, a.Add(of("x", t0, 1, 'M'), now), Late)
	oldest := t0.Add(-7 * 24 * time.Hour).Add(15 * time.Minute)
	refused(t, a.Add(of("x", oldest.Add(-1), 1, 'U'), now), TooOld)
	add(t, a, of("x", oldest, 1, 'U'), now)
	if got := one(t, a.Close(now.Add(5*time.Second))); !got.Start.Equal(oldest) {
		t.Fatalf("closed %+v", got)
	}
	refused(t, a.Add(of("x", oldest, 1, 'U'), now.Add(5*time.Second)), Late)
	refused(t, a.Add(of("x", t0, 1, 'U'), now.Add(5*time.Second)), Late)
	// Every window of the week closes once, in any order.
	now = now.Add(time.Minute)
	for pass := range 2 {
		for i := range spec.SlotsKept - 1 {
			want := Late
			if pass == 0 && i > 0 {
				want = Taken
			}
			refused(t, a.Add(of("x", t0.Add(-time.Duration(i)*15*time.Minute), 1, 'U'), now), want)
		}
		now = now.Add(5 * time.Second)
		a.Close(now)
	}
}

func TestRefusals(t *testing.T) {
	a := aligner()
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64} {
		refused(t, a.Add(of("x", t0, v, 'U'), t0), NotANumber)
	}
	refused(t, a.Add(of("x", t0, 1, 'x'), t0), BadFlag)
	refused(t, a.Add(of("x", t0.Add(time.Minute+1), 1, 'U'), t0), Future)
	refused(t, a.Add(of("x", time.Time{}, 1, 'U'), t0), TooOld)
	add(t, a, of("x", t0.Add(time.Minute), 1, 'U'), t0)
	if s := a.Stats(); s.Refused[NotANumber] != 4 || s.Series != 1 {
		t.Fatalf("stats %+v", s)
	}
	now := t0.Add(2 * time.Minute)
	for i := range maxSamples {
		add(t, a, of("m", t0.Add(time.Duration(i)*time.Millisecond), 1, 'U'), now)
	}
	refused(t, a.Add(of("m", t0.Add(time.Microsecond), 1, 'U'), now), MaxSamples)
	refused(t, a.Add(of("m", t0, 1, 'U'), now), Duplicate) // a sample that was taken stays
	refused(t, a.Add(of("m", t0, 2, 'U'), now), Conflict)
}

func TestCalibration(t *testing.T) {
	a := aligner()
	for s := range 60 {
		at := t0.Add(time.Duration(s) * time.Second)
		add(t, a, of("x", at, 1, 'U'), at)
		add(t, a, of("x", at, 10, 'C'), at)
		add(t, a, of("x", at, 20, 'Z'), at)
	}
	first := t0.Add(30 * time.Second)
	if got := a.Close(first.Add(10*time.Second - 1)); got != nil {
		t.Fatal("closed within the grace")
	}
	got := a.Close(first.Add(10 * time.Second))
	if len(got) != 2 || got[0].Flag != 'C' || got[0].Value != 10 || got[0].Samples != 30 || got[1].Flag != 'Z' ||
		got[1].Value != 20 || !got[1].Stamp.Equal(first) {
		t.Fatalf("closed %+v", got)
	}
	refused(t, a.Add(of("x", t0, 1, 'C'), first.Add(11*time.Second)), Late)
	add(t, a, of("x", t0.Add(time.Millisecond), 1, 'U'), first.Add(11*time.Second))
	got = a.Close(t0.Add(16 * time.Minute))
	if len(got) != 3 || got[2].Value != 1 || got[2].Samples != 61 || got[2].Flag != 'U' {
		t.Fatalf("closed %+v", got)
	}
}

func TestFlagChoice(t *testing.T) {
	for _, c := range []struct {
		name, flags string
		min         int
		want        spec.Flag
	}{
		{"one U is enough", "UMMM", 1, 'U'},
		{"too few U", "UMMM", 2, 'M'},
		{"enough U", "MMUMU", 2, 'U'},
		{"only U, too few", "UU", 5, 'U'},
		{"most", "DFDMD", 1, 'D'},
		{"equal: order of the document", "DDFFUU", 3, 'U'},
		{"equal: without U", "DDFF", 1, 'F'},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := aligner(func(o *Options) { o.MinSamples = c.min })
			for i, f := range []byte(c.flags) {
				add(t, a, of("x", t0.Add(time.Duration(i)*time.Second), float64(f), spec.Flag(f)), t0)
			}
			got := one(t, a.Close(t0.Add(time.Hour)))
			if got.Flag != c.want || got.Value != float64(c.want) || got.Samples != strings.Count(c.flags, c.want.String()) {
				t.Fatalf("closed %+v, want flag %s", got, c.want)
			}
		})
	}
}

func TestStatistics(t *testing.T) {
	now := t0.Add(time.Minute)
	for stat, want := range map[Statistic]float64{Mean: 4, Last: 2, Min: -1, Max: 9, Sum: 16, Median: 4} {
		a := aligner()
		for _, x := range []Sample{
			of("x", t0.Add(2*time.Second), 6, 'U'),
			of("x", t0.Add(3*time.Second), 2, 'U'),
			of("x", t0.Add(1*time.Second), 9, 'U'),
			of("x", t0, -1, 'U'), // the sample that arrives last is not the latest
		} {
			add(t, a, with(stat, x), now)
		}
		got := one(t, a.Close(t0.Add(time.Hour)))
		if got.Value != want || got.Statistic != stat || got.Min != -1 || got.Max != 9 {
			t.Errorf("%s is %+v, want %v", stat, got, want)
		}
	}
	a := aligner()
	for i, v := range []float64{9, 1, 5} {
		add(t, a, with(Median, of("x", t0.Add(time.Duration(i)*time.Second), v, 'U')), t0)
	}
	if got := one(t, a.Close(t0.Add(time.Hour))).Value; got != 5 {
		t.Errorf("median is %v, want 5", got)
	}
}

// A diagnostic is another series than the parameter of the same name, and comes after it.
func TestDiagnostic(t *testing.T) {
	for range 10 {
		a := aligner()
		d := of("x", t0, 2, 'U')
		d.Diagnostic = true
		add(t, a, d, t0)
		add(t, a, of("x", t0, 1, 'U'), t0)
		got := a.Close(t0.Add(time.Hour))
		if len(got) != 2 || got[0].Diagnostic || !got[1].Diagnostic || got[0].Value != 1 || got[1].Value != 2 {
			t.Fatalf("closed %+v", got)
		}
	}
}

// A slot leaves through the exit of the window's first sample.
func TestExit(t *testing.T) {
	a := aligner()
	for i := range 4 {
		x := of("x", t0.Add(time.Duration(10-i)*time.Second), 1, 'U')
		x.Exit = uint8(3 - i)
		add(t, a, x, t0)
	}
	if got := one(t, a.Close(t0.Add(time.Hour))); got.Exit != 3 {
		t.Fatalf("closed %+v", got)
	}
}

// A series is evicted once no sample can be accepted for any of its closed windows.
func TestIdleSeriesAreForgotten(t *testing.T) {
	a := aligner()
	for i := range 10 {
		add(t, a, of(fmt.Sprint(i), t0, 1, 'U'), t0)
	}
	now := t0.Add(6 * 24 * time.Hour)
	a.Close(now)
	add(t, a, of("3", now, 1, 'U'), now)
	now = t0.Add(7*24*time.Hour + time.Hour)
	a.Close(now)
	if n := a.Stats().Series; n != 1 {
		t.Fatalf("%d series are held, want 1", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	a, now := aligner(), t0.Add(time.Hour)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 { // two goroutines send the same readings
				a.Add(of(fmt.Sprint(g%2), t0.Add(time.Duration(i)*time.Second/2), 1, 'U'), now)
				if i%100 == 0 {
					a.Close(now)
					a.Save()
					a.Saved()
					a.Stats()
				}
			}
		})
	}
	wg.Wait()
	got := a.Close(now.Add(time.Minute))
	if len(got) != 2 || got[0].Samples != 1000 || got[1].Samples != 1000 || a.Stats().Refused[Duplicate] != 2000 {
		t.Fatalf("closed %+v, stats %+v", got, a.Stats())
	}
}

func TestAddAllocates(t *testing.T) {
	a, n, x := aligner(), 0, of("x", t0, 1, 'U')
	hundred := func() {
		a.AddAll(t0, 100, func(int) (*Head, Reading) {
			x.Time = t0.Add(time.Duration(n) * time.Millisecond)
			n++
			return &x.Head, x.Reading
		}, func(i int, r Result) { t.Errorf("sample %d: %+v", i, r) })
	}
	for range 10 {
		hundred()
	}
	if allocations := testing.AllocsPerRun(200, hundred); allocations > 1 {
		t.Fatalf("%v allocations in 100 samples", allocations)
	}
}

// An open window takes about 8 bytes for each sample.
func TestMemoryOfSamples(t *testing.T) {
	const series, samples = 200, 900
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, a := heap(), aligner()
	for i := range series {
		name := fmt.Sprint(i)
		for s := range samples {
			add(t, a, of(name, t0.Add(time.Duration(s)*time.Second), float64(s), 'U'), t0.Add(15*time.Minute))
		}
	}
	each := float64(heap()-before) / (series * samples)
	runtime.KeepAlive(a)
	t.Logf("%.1f bytes a sample", each)
	if each > 14 {
		t.Errorf("%.1f bytes a sample", each)
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := aligner()
			readings := make([]Sample, n)
			for i := range readings {
				readings[i] = of(fmt.Sprint("parameter-", i%50), t0, 1, 'U')
				readings[i].Device = fmt.Sprint("device-", i/50)
				add(b, a, readings[i], t0)
			}
			b.ReportAllocs()
			i, at, closeAt := 0, t0, t0.Add(15*time.Minute)
			for b.Loop() {
				if i == 0 {
					if at = at.Add(100 * time.Millisecond); at.After(closeAt) {
						a.Close(at)
						closeAt = closeAt.Add(15 * time.Minute)
					}
				}
				readings[i].Time = at
				if a.Add(readings[i], at).Reason != Taken {
					b.Fatal("refused")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
