package slot

import (
	"testing"
	"time"
)

// A machine whose clock is set hours forward and back again, by hand or by NTP, closes no window twice and gives no
// window a sample that was not its own. What it refuses meanwhile it names.
func TestClockThatJumps(t *testing.T) {
	a := aligner()
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	closed := map[time.Time][]Slot{}
	taken := map[time.Time]int{}
	count := 0
	jump := time.Duration(0)
	for i := range 3 * 90 { // three windows, a sample each 10 s
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
		now := at.Add(jump) // arrivals by the machine's clock, samples by their instrument's
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
	// Ahead by hours, the first window closes early and the rest of its samples come late; behind, ten samples are in
	// the future.
	if s := a.Stats().Refused; s[Future] != 10 || s[Late] == 0 {
		t.Errorf("refused: %v", s)
	}
}

// What came by a clock that was hours ahead, and is read again from the store, waits no longer than what came just now.
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

// A board without a battery starts in 1970, where a reading may be of the year before.
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
