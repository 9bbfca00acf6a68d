package delivery

import (
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// The server counts as unreachable once unreachableDevices devices that were answered before get no answer, and no
// device was answered since the first of them sent. A plant with one device has no others: it is enough that for a
// minute no request was answered, if no device is left that was answered lately.
const (
	unreachableDevices = 8
	unreachableAfter   = time.Minute
	lately             = spec.SlotLength + 5*time.Minute // a healthy device reports once a slot
)

// reachability derives from answers and unanswered requests whether the server is reachable.
type reachability struct {
	answeredAt  time.Time       // time of the last answer
	since       time.Time       // first unanswered request after it; zero: none
	devices     map[string]bool // devices without an answer that count, at most unreachableDevices
	attempts    int             // unanswered requests
	reason      string          // of the last failure before the server counted as unreachable
	unreachable bool
}

// failed records a request, sent at sent, without an answer. before says whether the device's last request was
// answered. If that is not known, the failure does not count while other devices were answered lately. It reports
// whether the server becomes unreachable.
func (r *reachability) failed(device string, before bool, reason string, sent time.Time) (changed bool) {
	if sent.Before(r.answeredAt) { // another device was answered meanwhile: the server is reachable
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

// answered records an answer. It reports whether the server was unreachable before.
func (r *reachability) answered(now time.Time) (recovered bool) {
	recovered = r.unreachable
	*r = reachability{answeredAt: now}
	return recovered
}

// check applies the passing of time. others says whether a device is left that was answered lately and does not fail
// now: its next request may be answered. wait is the time until the next check; 0: not before the next attempt.
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

// A request that waits longer for its answer no longer counts against max_concurrency. It continues: the board once
// answered after 13.5 s, just after a slot boundary.
const (
	minPatience   = time.Second
	maxPatience   = 15 * time.Second
	patienceTimes = 4                      // times the usual latency
	firstLatency  = 500 * time.Millisecond // the usual latency before any answer
)

// latency has the durations of the last answers.
type latency struct {
	took  [32]time.Duration
	n     int           // answers recorded
	usual time.Duration // their median, updated every few answers
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

// patience depends on the median, so that a few slow devices do not change it.
func (l *latency) patience() time.Duration {
	usual := l.usual
	if l.n == 0 {
		usual = firstLatency
	}
	return min(max(patienceTimes*usual, minPatience), maxPatience)
}
