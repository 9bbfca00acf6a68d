package delivery

import (
	"net/http"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// serverClock is what the answers tell of the server's clock.
type serverClock struct {
	skew time.Duration // the server's clock less ours
	at   time.Time     // of the last measurement; zero before the first
}

const (
	skewLasts   = 15 * time.Minute
	clockMargin = 24 * time.Hour // for a clock of ours that nobody confirmed
	skewWarning = 30 * time.Second
)

// now is the time by which readings expire: the server's as far as it is known. Without an answer for a while our own
// clock may be the wrong one, and readings are kept for a day longer.
func (c serverClock) now(ours time.Time) time.Time {
	if !c.at.IsZero() && ours.Sub(c.at) < skewLasts {
		return ours.Add(c.skew)
	}
	return ours.Add(-clockMargin)
}

// measure takes the Date of an answer to a request that was sent at sent. It reports whether the skew has changed by
// enough for a warning.
func (c *serverClock) measure(h http.Header, sent, now time.Time) (jumped bool) {
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return false
	}
	before := c.skew
	// The header has whole seconds: half a second is its mean error.
	c.skew = at.Add(500 * time.Millisecond).Sub(sent.Add(now.Sub(sent) / 2)).Round(time.Second)
	c.at = now
	return (c.skew - before).Abs() > skewWarning
}

// passed reports that both clocks have reached a time.
func (c serverClock) passed(at, ours time.Time) bool {
	return !at.After(ours) && !c.at.IsZero() && !at.After(ours.Add(c.skew))
}

// tooOld reports that both clocks say that a slot is older than the server takes.
func (c serverClock) tooOld(stamp, ours time.Time) bool {
	return c.passed(stamp.Add(spec.MaxAge), ours)
}
