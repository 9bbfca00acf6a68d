package delivery

import (
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// The server counts as unreachable once so many devices that were answered before get no answer, and nobody was answered
// since the first of them asked; or after a minute without an answer, when no device is left that was answered lately,
// since a plant with one device has no others.
const (
	unreachableDevices = 8
	unreachableAfter   = time.Minute
	lately             = spec.SlotLength + 5*time.Minute // a device that is well reports once a slot
)

// reachability tells from the answers, and from the requests without one, whether the server can be reached.
type reachability struct {
	answeredAt  time.Time       // the last answer
	since       time.Time       // the first request after it that got no answer; zero: none
	devices     map[string]bool // whose silence counts, at most unreachableDevices
	attempts    int             // such requests
	reason      string          // of the last one before it counted as unreachable
	unreachable bool
}

// failed notes that a request which was sent at sent got no answer. before says whether the device's last request was
// answered. One of which that is not known says nothing about the server, while others were answered lately. It reports
// whether the server now counts as unreachable and did not before.
func (r *reachability) failed(device string, before bool, reason string, sent time.Time) (changed bool) {
	if sent.Before(r.answeredAt) { // somebody was answered meanwhile: the server is there
		return false
	}
	if r.attempts++; r.unreachable {
		return false
	}
	if r.since.IsZero() {
		r.since, r.devices = sent, map[string]bool{}
	}
	if sent.Before(r.since) {
		r.since = sent
	}
	r.reason = reason
	if before || sent.Sub(r.answeredAt) >= lately {
		r.devices[device] = true
	}
	r.unreachable = len(r.devices) >= unreachableDevices
	return r.unreachable
}

// answered notes an answer. It reports whether the server counted as unreachable before it.
func (r *reachability) answered(now time.Time) (recovered bool) {
	recovered = r.unreachable
	*r = reachability{answeredAt: now}
	return recovered
}

// check notes the time. others says whether a device is left that was answered lately and is not silent: it may be
// answered when it asks again. wait is when to check again; 0: not before the next attempt.
func (r *reachability) check(now time.Time, others func() bool) (wait time.Duration, changed bool) {
	if r.since.IsZero() || r.unreachable {
		return 0, false
	}
	if left := r.since.Add(unreachableAfter).Sub(now); left > 0 {
		return left, false
	}
	if others() {
		return unreachableAfter, false
	}
	r.unreachable = true
	return 0, true
}

// A request that is without an answer for so long no longer counts against max_concurrency. It goes on: the board took
// 13.5 s once, just after a slot boundary, and answered.
const (
	minPatience   = time.Second
	maxPatience   = 15 * time.Second
	patienceTimes = 4                      // the usual latency
	firstLatency  = 500 * time.Millisecond // the usual one before any answer
)

// latency is how long the last answers took.
type latency struct {
	took  [32]time.Duration
	n     int           // answers noted
	usual time.Duration // their median, as it was a few answers ago
}

func (l *latency) note(took time.Duration) {
	l.took[l.n%len(l.took)] = took
	l.n++
	if n := min(l.n, len(l.took)); n < len(l.took) || l.n%8 == 0 {
		sorted := slices.Clone(l.took[:n])
		slices.Sort(sorted)
		l.usual = sorted[n/2]
	}
}

// patience follows the median, so that some slow devices do not change it.
func (l *latency) patience() time.Duration {
	usual := l.usual
	if l.n == 0 {
		usual = firstLatency
	}
	return min(max(patienceTimes*usual, minPatience), maxPatience)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
