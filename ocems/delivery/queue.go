package delivery

import (
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// state is what a queue is doing about its slots.
type state int

const (
	ready       state = iota // its slots are sent as they become due
	waiting                  // until the server's clock has reached the slot
	backingOff               // the server answered, and the attempt failed
	unreachable              // the server did not answer
	held                     // the device's registration is refused: a person is needed
)

// condition is a state with its reasons.
type condition struct {
	state    state
	failures int       // since the last success
	until    time.Time // no attempt before
	reason   string    // one of HoldReasons, where held
	detail   string    // what the server answered
}

// after is the condition that follows from a decision. Only an answer about the readings ends that a device is held: one of
// another kind says nothing about its registration.
func (c condition) after(d decision, a answer, now time.Time) condition {
	next := condition{state: d.state, failures: c.failures, until: now.Add(d.pause), detail: a.detail}
	switch {
	case d.state == ready && (d.progress() || d.park):
		return condition{}
	case d.state == ready:
		return c
	case d.state == held:
		next.reason = a.reason()
		return next
	case d.state == backingOff || d.state == unreachable:
		next.failures++
	}
	if c.state == held {
		next.state, next.reason, next.detail = held, c.reason, c.detail
	}
	return next
}

// queue holds what waits for one device. Delivery.mu guards it, but for what only its one attempt touches: memory, except
// for its reason and detail, and search.
type queue struct {
	device      string
	slots       []*slot // oldest first
	busy        bool    // an attempt is under way
	condition   condition
	parkedUntil time.Time // no attempt of what is parked before
	memory      memory
	saved       string // the memory as it is in the store
	trouble     string // as it was told
	search      search
	standing    standing
	answered    time.Time // the last answer, zero before the first
	delivered   int       // requests, in this run
	leaving     int       // slots whose outcome is not on disk yet
	due         time.Time
	in          *byDue // of the schedule, nil outside
	index       int    // in it
}

// search counts the requests by which a refused parameter is looked for, in one hold interval.
type search struct {
	until    time.Time
	requests int
}

// slot is one stamp's readings in the outbox.
type slot struct {
	stamp    int64
	ready    time.Time // its parameters are complete
	status   slotStatus
	leaving  bool      // its outcome is on the way to the disk
	version  int       // counts what was added
	held     *content  // what it holds, while it is in memory too
	failures int       // answered, without success
	before   int       // queue.delivered at the first of them
	tried    time.Time // while parked
	refusal  answer    // why it was parked, if the server said so
	doubts   []doubt
}

type slotStatus int

const (
	queued slotStatus = iota
	parked            // what is left of it is refused for now: tried slowly, apart from the others
	shown             // by a dry run: never sent
)

func newQueue(device string) *queue {
	return &queue{device: device, memory: newMemory()}
}

func (q *queue) find(stamp int64) (int, bool) {
	return slices.BinarySearchFunc(q.slots, stamp, func(s *slot, t int64) int { return int(max(-1, min(1, s.stamp-t))) })
}

// update adds, keeps or removes a slot, whose readings have changed. What was added to a parked one is tried at once. It
// returns the slot, or nil when it is not there any more.
func (q *queue) update(stamp int64, holds, added bool, ready time.Time) *slot {
	i, found := q.find(stamp)
	switch {
	case found && !holds:
		if q.slots[i].leaving {
			q.leaving--
		}
		q.slots = slices.Delete(q.slots, i, i+1)
		return nil
	case !holds:
		return nil
	case !found:
		q.slots = slices.Insert(q.slots, i, &slot{stamp: stamp, ready: ready})
	case added:
		q.slots[i].status = queued
		q.slots[i].version++
	}
	return q.slots[i]
}

// stay notes that the outcome of a part of a slot is on disk, and the rest is to be sent.
func (q *queue) stay(s *slot) {
	if s.leaving {
		s.leaving = false
		q.leaving--
	}
}

// pick returns the slot to try next and when: the oldest that is queued, where none failed often, or of the parked ones the
// one that has waited longest since its last try, or is too old, when its time is nearer. It returns nil when none is to be
// sent.
func (q *queue) pick() (s *slot, due time.Time) {
	if q.leaving >= doubtful {
		return nil, time.Time{}
	}
	var p *slot
	for _, o := range q.slots {
		switch {
		case o.leaving:
		case o.status == queued && (s == nil || o.failures/maxSlotFailures < s.failures/maxSlotFailures):
			s, due = o, later(o.ready, q.condition.until)
		case o.status == parked && (p == nil || o.tried.Before(p.tried)):
			p = o
		}
	}
	at := later(q.parkedUntil, q.condition.until)
	if len(q.slots) > 0 && q.slots[0].status != queued && !q.slots[0].leaving {
		tooOld := time.UnixMilli(q.slots[0].stamp).Add(spec.MaxAge)
		if p == nil || time.Now().After(tooOld) {
			p, at = q.slots[0], later(at, tooOld)
		}
	}
	if p != nil && (s == nil || at.Before(due)) {
		return p, at
	}
	return s, due
}

// park keeps a slot apart and says when it is tried again, at the latest.
func (q *queue) park(s *slot, now time.Time, interval time.Duration) {
	s.status, s.tried = parked, now
	if !q.parkedUntil.After(now) {
		q.parkedUntil = now.Add(interval)
	}
}

// unpark brings all parked slots back, since the server takes what it refused.
func (q *queue) unpark() {
	for _, s := range q.slots {
		s.failures = 0
		if s.status == parked {
			s.status = queued
		}
	}
}

// retryPerhapsSent brings back the slots that waited for the first that the server calls delivered.
func (q *queue) retryPerhapsSent() {
	for _, s := range q.slots {
		if s.status == parked && s.perhapsSent() && s.refusal.verdict == stored {
			s.status = queued
		}
	}
}

// parked returns the stamp of the newest slot that is parked, or 0.
func (q *queue) parked() (newest int64) {
	for _, s := range q.slots {
		if s.status == parked {
			newest = s.stamp
		}
	}
	return newest
}

// waitsFor is why a person must look at the device, or "".
func (q *queue) waitsFor() (reason, detail string) {
	if q.condition.state == held {
		return q.condition.reason, q.condition.detail
	}
	return q.memory.reason, q.memory.detail
}

// retryAt has the next attempt at that time, whatever the queue waits for.
func (q *queue) retryAt(at time.Time) { q.condition.until, q.parkedUntil = at, at }

func byDevice(q *queue, device string) int { return strings.Compare(q.device, device) }
