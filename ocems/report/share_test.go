package report

import "testing"

// A year of seven parameters has more values than a 32-bit int has hundredths of a percent.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		reached, due int
		want         float64
	}{{245_280, 245_280, 100}, {245_279, 245_280, 99.99}, {0, 245_280, 0}} {
		if got := shareOf(c.reached, c.due); got == nil || *got != c.want {
			t.Errorf("%d of %d is %s", c.reached, c.due, percent(got))
		}
	}
	if got := shareOf(0, 0); got != nil {
		t.Errorf("nothing was due: %s", percent(got))
	}
}
