package delivery

import "time"

// The server counts as unreachable once so many devices got no answer in a row; or after a minute without an answer,
// since a plant with one device has no others.
const (
	unreachableDevices = 8
	unreachableAfter   = time.Minute
)

// reachability tells from the answers, and from the requests without one, whether the server can be reached.
type reachability struct {
	answeredAt  time.Time       // the last answer
	since       time.Time       // the first attempt after it without an answer; zero: none
	devices     map[string]bool // without an answer since, at most unreachableDevices
	reason      string          // of the last one before it counted as unreachable
	unreachable bool
}

// failed notes that an attempt which began at sent got no answer. It reports whether the server now counts as
// unreachable and did not before.
func (r *reachability) failed(device, reason string, sent time.Time) (changed bool) {
	if r.since.IsZero() {
		r.since, r.devices = later(sent, r.answeredAt), map[string]bool{}
	}
	if !r.unreachable {
		r.reason = reason
	}
	if !r.probing() {
		r.devices[device] = true
	}
	return r.probing() && r.set()
}

// answered notes an answer. It reports whether the server counted as unreachable before it.
func (r *reachability) answered(now time.Time) (recovered bool) {
	recovered = r.unreachable
	*r = reachability{answeredAt: now}
	return recovered
}

// check notes the time. wait is when to check again; 0: not before the next attempt.
func (r *reachability) check(now time.Time) (wait time.Duration, changed bool) {
	if r.since.IsZero() || r.unreachable {
		return 0, false
	}
	if left := r.since.Add(unreachableAfter).Sub(now); left > 0 {
		return left, false
	}
	return 0, r.set()
}

func (r *reachability) set() (changed bool) {
	changed = !r.unreachable
	r.unreachable = true
	return changed
}

// probing reports whether one request at a time is enough: it asks for all the others.
func (r *reachability) probing() bool { return len(r.devices) >= unreachableDevices }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
