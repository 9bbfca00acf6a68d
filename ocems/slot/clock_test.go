package slot

import (
	"fmt"
	"testing"
	"time"
)

// If a machine's clock is set hours forward and back, by hand or by NTP, no window closes twice and no window gets a
// sample of another one. Each sample refused meanwhile is reported.
func TestClockThatJumps(t *testing.T) {
	a := aligner()
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	closed := map[time.Time][]Slot{}
	taken := map[time.Time]int{}
	count := 0
	jump := time.Duration(0)
	for i := range 3 * 90 { // three windows with a sample every 10 s
		at := start.Add(time.Duration(i) * 10 * time.Second)
		switch i {
		case 40:
			jump = 5 * time.Hour // the clock is ahead: 10:06:40 is shown as 15:06:40
		case 50:
			jump = 0
		case 130:
			jump = -3 * time.Hour // behind: these samples are in the future
		case 140:
			jump = 0
		}
		now := at.Add(jump) // arrivals use the machine's clock, samples their instrument's
		if a.Add(of("x", at, float64(i), 'U'), now).Reason == Taken {
			taken[at.Truncate(15*time.Minute)]++
		} else {
			count++
		}
		for _, c := range a.Close(now.Add(6 * time.Second)) {
			closed[c.Start] = append(closed[c.Start], c)
		}
	}
	for _, c := range a.Close(start.Add(2 * time.Hour)) {
		closed[c.Start] = append(closed[c.Start], c)
	}
	total := uint64(0)
	for _, n := range a.Stats().Refused {
		total += n
	}
	if total != uint64(count) {
		t.Errorf("%d samples were refused, %d are counted", count, total)
	}
	for window, n := range taken {
		if len(closed[window]) != 1 || closed[window][0].Samples != n {
			t.Errorf("window %s took %v samples and closed as %+v", window.Format(time.TimeOnly), n, closed[window])
		}
	}
	if len(closed) != 3 {
		t.Errorf("%d windows closed, want 3", len(closed))
	}
	// With the clock hours ahead, the first window closes early and the rest of its samples are late. With the clock
	// behind, ten samples are in the future.
	if s := a.Stats().Refused; s[Future] != 10 || s[Late] == 0 {
		t.Errorf("refused: %v", s)
	}
}

// A restored sample that arrived by a clock hours ahead does not delay its window longer than a sample that arrives
// now.
func TestArrivalInTheFuture(t *testing.T) {
	a := aligner()
	due := t0.Add(15*time.Minute + 30*time.Second)
	add(t, a, of("x", t0, 1, 'U'), t0.Add(6*time.Hour))
	if closed := a.Close(due); closed != nil {
		t.Errorf("closed before it settled: %v", closed)
	}
	if closed := a.Close(due.Add(5 * time.Second)); len(closed) != 1 {
		t.Error("it waits for the clock to come to where it was")
	}
}

// A machine without a battery starts in 1970, where a reading may be from the year before.
func TestClockThatStartsAtTheEpoch(t *testing.T) {
	a, boot := aligner(), time.Unix(5, 0).UTC()
	add(t, a, of("x", time.Unix(-1, 0), 1, 'U'), boot)
	add(t, a, of("x", time.Unix(1, 0), 2, 'U'), boot)
	b := reopened(t, a, boot)
	got := b.Close(boot.Add(time.Hour))
	if len(got) != 2 || got[0].Value != 1 || !got[0].Stamp.Equal(time.Unix(0, 0)) || got[1].Value != 2 {
		t.Fatalf("closed %+v", got)
	}
	refused(t, b.Add(of("x", time.Unix(-2, 0), 1, 'U'), boot.Add(time.Hour)), Late)
}

// A window closed by a clock that is wrong for one tick stays closed, and so does a window that was closed before, also
// if the state is saved in between.
func TestWhatIsClosedStaysClosed(t *testing.T) {
	const day = 24 * time.Hour
	for _, jump := range []time.Duration{2 * day, 5 * day, 6*day + 23*time.Hour, 9 * day, 400 * day, -2 * day, -9 * day, -400 * day} {
		for _, saved := range []bool{false, true} {
			t.Run(fmt.Sprint(jump, saved), func(t *testing.T) {
				a := aligner()
				a.Close(t0.Add(-500 * day)) // arrivals are counted from this time
				at := func(window int) time.Time { return t0.Add(time.Duration(window) * 15 * time.Minute) }
				closeAt := func(window int, jump time.Duration, value float64) {
					t.Helper()
					x := at(window).Add(jump)
					add(t, a, of("x", x, value, 'U'), x)
					if got := a.Close(x.Add(20 * time.Minute)); len(got) != 1 || got[0].Value != value {
						t.Fatalf("closed %v", got)
					}
				}
				closed := []int{-600, -400, -100, -1, 0} // of 672
				for _, w := range closed {
					closeAt(w, 0, 1)
				}
				closeAt(0, jump, 5)
				if saved {
					a = reopened(t, a, at(1))
				}
				for _, w := range closed {
					refused(t, a.Add(of("x", at(w).Add(time.Minute), 9, 'U'), at(1)), Late)
				}
				for w := 1; w < 20; w++ {
					closeAt(w, 0, 1)
					refused(t, a.Add(of("x", at(w).Add(time.Minute), 9, 'U'), at(w+1)), Late)
					refused(t, a.Add(of("x", at(-400).Add(time.Minute), 9, 'U'), at(w+1)), Late)
				}
			})
		}
	}
}

// Samples in doubt are taken back as if they had never been taken.
func TestDoubt(t *testing.T) {
	doubt := func(x Sample) Sample { x.Doubt = true; return x }
	a := aligner()
	add(t, a, doubt(of("x", t0, 1, 'U')), t0)
	add(t, a, of("y", t0, 2, 'U'), t0)
	add(t, a, doubt(of("x", t0.Add(15*time.Minute), 3, 'U')), t0.Add(15*time.Minute))
	got := a.Close(t0.Add(15*time.Minute + 40*time.Second))
	if len(got) != 2 || !got[0].Doubt || got[1].Doubt {
		t.Fatalf("closed %+v", got)
	}
	a = reopened(t, a, t0.Add(16*time.Minute))
	if got := a.Withdraw(); len(got) != 1 || got[0].Value != 3 {
		t.Fatalf("withdrawn %+v", got)
	}
	for _, series := range got {
		a.Reopen(series.Series, series.Stamp, series.Flag)
	}
	now := t0.Add(17 * time.Minute)
	add(t, a, doubt(of("x", t0, 7, 'U')), now)
	add(t, a, of("x", t0.Add(15*time.Minute), 8, 'U'), now)
	a.Confirm()
	if got := a.Withdraw(); got != nil {
		t.Fatalf("withdrawn after it was confirmed: %+v", got)
	}
	got = a.Close(t0.Add(31 * time.Minute))
	if len(got) != 2 || got[0].Value != 7 || got[0].Doubt || got[1].Value != 8 {
		t.Fatalf("closed %+v", got)
	}
}

// A calibration point that is taken back leaves the last sample of the 15-minute window to the next one.
func TestReopenCalibration(t *testing.T) {
	a := aligner()
	point := of("x", t0.Add(8*time.Minute), 5, 'C')
	add(t, a, point, point.Time)
	add(t, a, with(TimeWeighted, of("x", t0.Add(10*time.Minute), 10, 'U')), t0.Add(10*time.Minute))
	closed := a.Close(t0.Add(16 * time.Minute))
	if len(closed) != 2 || closed[0].Flag != 'C' {
		t.Fatalf("closed %+v", closed)
	}
	a.Reopen(closed[0].Series, closed[0].Stamp, closed[0].Flag)
	add(t, a, point, t0.Add(17*time.Minute))
	add(t, a, with(TimeWeighted, of("x", t0.Add(20*time.Minute), 25, 'U')), t0.Add(20*time.Minute))
	if got := a.Close(t0.Add(31 * time.Minute)); len(got) != 2 || got[1].Value != 20 { // 5 minutes of 10, 10 minutes of 25
		t.Errorf("closed %+v", got)
	}
}

// A sample is too old or in the future only if it is by both clocks.
func TestTwoClocks(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		at, skew time.Duration
		want     Reason
	}{
		{time.Hour, 0, Future}, {time.Hour, 2 * time.Hour, Taken}, {time.Hour, -2 * time.Hour, Future}, {3 * time.Hour, 2 * time.Hour, Future},
		{-8 * day, 0, TooOld}, {-8 * day, -9 * day, Taken}, {-8 * day, 9 * day, TooOld}, {-time.Hour, 10 * day, Taken}, {-time.Hour, -10 * day, Taken},
	} {
		x := of("x", t0.Add(c.at), 1, 'U')
		x.Skew = c.skew
		if got := aligner().Add(x, t0).Reason; got != c.want {
			t.Errorf("a sample %s from a clock that the server's is %s from: %q, want %q", c.at, c.skew, got, c.want)
		}
	}
}
