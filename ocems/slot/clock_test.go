package slot_test

import (
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// A machine whose clock is set hours forward and back again, by hand or by NTP, closes no window twice and gives no
// window a sample that was not its own. What it refuses meanwhile it names.
func TestClockThatJumps(t *testing.T) {
	a, err := slot.New(slot.Options{}, slot.StringCodec{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	closed := map[time.Time][]slot.Closed[string]{}
	taken := map[time.Time]float64{}
	refused := 0
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
		if err := a.Add("x", slot.Mean, at, float64(i), spec.FlagNormal, now); err == nil {
			taken[at.Truncate(15*time.Minute)]++
		} else {
			refused++
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
	if total != uint64(refused) {
		t.Errorf("%d samples were refused, %d are counted", refused, total)
	}
	for window, n := range taken {
		if len(closed[window]) != 1 || closed[window][0].Samples != int(n) {
			t.Errorf("window %s took %v samples and closed as %+v", window.Format(time.TimeOnly), n, closed[window])
		}
	}
	if len(closed) != 3 {
		t.Errorf("%d windows closed, want 3", len(closed))
	}
	// Ahead by hours, the first window closes early and the rest of its samples come late; behind, ten samples are in
	// the future.
	if s := a.Stats().Refused; s[slot.Future] != 10 || s[slot.Late] == 0 {
		t.Errorf("refused: %v", s)
	}
}

// What came by a clock that was hours ahead, and is read again from a journal, waits no longer than what came just now.
func TestArrivalInTheFuture(t *testing.T) {
	a, err := slot.New(slot.Options{}, slot.StringCodec{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	due := start.Add(15*time.Minute + 30*time.Second)
	if err := a.Add("x", slot.Mean, start, 1, spec.FlagNormal, start.Add(6*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if closed := a.Close(due); closed != nil {
		t.Errorf("closed before it settled: %v", closed)
	}
	if closed := a.Close(due.Add(5 * time.Second)); len(closed) != 1 {
		t.Error("it waits for the clock to come to where it was")
	}
}
