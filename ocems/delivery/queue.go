package delivery

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// state is what a queue currently does with its slots.
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
	until    time.Time // no attempt before this time
	reason   string    // one of HoldReasons, if held
	detail   string    // what the server answered
}

// after returns the condition that follows from a decision. Only an answer about the readings ends the state held:
// other answers say nothing about the registration.
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

// queue has the waiting slots of one device. Delivery.mu guards it, except search and memory, which only the queue's one
// attempt uses. The reason and detail of memory are guarded too.
type queue struct {
	device      string
	stamps      stamps  // of its slots
	slots       []*slot // slots with details beside their stamp and status, oldest first
	asked       map[string]*asked
	trying      *slot // slot of the attempt in progress
	condition   condition
	parkedUntil time.Time // no attempt of parked slots before this time
	parkedTried int64     // stamp of the parked slot that was tried last
	memory      memory
	saved       string // the memory as stored
	trouble     string // trouble as last reported
	heldFor     string // reason of the trouble as last counted
	search      search
	counted     time.Time // see asks.allow
	standing    standing
	delay       time.Duration // shortest time from a slot's stamp to its first attempt
	answered    time.Time     // time of the last answer, zero before the first
	tried       time.Time     // end of the last attempt
	delivered   int           // delivered requests in this run
	leaving     int           // slots whose outcome is not on disk yet
	due         time.Time
	in          *byDue // the heap of the schedule that it is in, or nil
	index       int    // position in that heap
}

// search counts the requests that look for a refused parameter in one hold interval.
type search struct {
	until    time.Time
	requests int
}

// slot is what a queue knows of a slot beside its stamp and status.
type slot struct {
	stamp    int64
	ready    time.Time // when its parameters are complete
	leaving  bool      // its outcome is being written
	version  int       // counts additions, so that an attempt detects them
	held     *content  // its content, while in memory
	failures int       // answered attempts without success
	before   int       // queue.delivered at the first failure
	refusal  answer    // answer that caused parking, if the server gave one
	taken    bool      // the server has accepted a part of it
	foreign  bool      // the server had it before anything of it was sent
	doubts   []doubt
}

type slotStatus int

const (
	queued    slotStatus = iota
	parked               // the rest of the slot is refused for now: tried slowly, apart from others
	shown                // by a dry run: never sent
	undecided            // the rest of the slot waits for a person's decision
)

func newQueue(device string) *queue {
	return &queue{device: device, memory: newMemory()}
}

func (q *queue) busy() bool { return q.trying != nil }

func (q *queue) place(stamp int64) (int, bool) {
	return slices.BinarySearchFunc(q.slots, stamp, func(s *slot, t int64) int { return cmp.Compare(s.stamp, t) })
}

// find returns the details of a slot, or nil.
func (q *queue) find(stamp int64) *slot {
	if i, found := q.place(stamp); found {
		return q.slots[i]
	}
	return nil
}

// slot returns the details of a waiting slot, to which more may be added.
func (q *queue) slot(stamp int64) *slot {
	i, found := q.place(stamp)
	if !found {
		q.slots = slices.Insert(q.slots, i, &slot{stamp: stamp})
	}
	return q.slots[i]
}

// tidy drops the slots that have no details.
func (q *queue) tidy(now time.Time) {
	q.slots = slices.DeleteFunc(q.slots, func(s *slot) bool {
		return s != q.trying && !s.leaving && s.held == nil && s.failures == 0 && s.refusal == (answer{}) && len(s.doubts) == 0 && !s.ready.After(now)
	})
	if len(q.slots) == 0 {
		q.slots = nil
	}
}

// has reports whether s is still the waiting slot of its stamp.
func (q *queue) has(s *slot) bool { return q.find(s.stamp) == s }

// remove takes a slot out. It reports whether it was there.
func (q *queue) remove(stamp int64) bool {
	q.ask(stamp, nil)
	if i, found := q.place(stamp); found {
		q.stay(q.slots[i])
		q.slots = slices.Delete(q.slots, i, i+1)
	}
	return q.stamps.remove(stamp)
}

// set gives a slot a status.
func (q *queue) set(s *slot, status slotStatus) {
	if q.has(s) {
		q.stamps.set(s.stamp, status)
	}
}

// leave records that the outcome of the whole slot is being written.
func (q *queue) leave(s *slot) {
	if q.has(s) {
		s.leaving = true
		q.leaving++
	}
}

// rest records that an outcome is on disk while readings were added to the slot: if the outcome was about all others,
// nothing of the added ones was sent.
func (q *queue) rest(s *slot) {
	if s.leaving {
		s.doubts = nil
		q.stamps.believe(s.stamp)
	}
	q.stay(s)
}

// stay records that the outcome is on disk.
func (q *queue) stay(s *slot) {
	if s.leaving {
		s.leaving = false
		q.leaving--
	}
}

// pick returns the slot to try next and when. This is the oldest queued slot, unless it failed often; or a parked slot
// if its time comes earlier: the one tried longest ago, or one that is too old. It returns false if there is none.
func (q *queue) pick() (stamp int64, due time.Time, ok bool) {
	if q.leaving >= doubtful || q.stamps.n == 0 {
		return 0, time.Time{}, false
	}
	stamp, due, ok = q.pickQueued()
	p, at, found := q.pickParked()
	if found && (!ok || at.Before(due)) {
		return p, at, true
	}
	return stamp, due, ok
}

func (q *queue) pickQueued() (stamp int64, due time.Time, ok bool) {
	often := 0 // how often the picked slot has failed, in units of maxSlotFailures
	for t, more := q.stamps.next(everBefore, (*word).queued); more; t, more = q.stamps.next(t+1, (*word).queued) {
		var ready time.Time
		failed := 0
		if s := q.find(t); s != nil {
			if s.leaving {
				continue
			}
			ready, failed = s.ready, s.failures/maxSlotFailures
		}
		if !ok || failed < often {
			if q.delay > 0 {
				ready = spec.Later(ready, time.UnixMilli(t).Add(q.delay))
			}
			stamp, due, ok, often = t, spec.Later(spec.Later(ready, q.tried), q.condition.until), true, failed
		}
		if often == 0 {
			break
		}
	}
	return stamp, due, ok
}

func (q *queue) pickParked() (stamp int64, at time.Time, ok bool) {
	stamp, ok = q.nextParked(q.parkedTried+1, math.MaxInt64)
	if !ok {
		stamp, ok = q.nextParked(everBefore, q.parkedTried)
	}
	at = spec.Later(q.parkedUntil, q.condition.until)
	first, _ := q.stamps.next(everBefore, (*word).waiting)
	if status, _ := q.stamps.status(first); status != queued && !q.isLeaving(first) {
		tooOld := time.UnixMilli(first).Add(spec.MaxAge)
		if !ok || time.Now().After(tooOld) {
			stamp, at, ok = first, spec.Later(at, tooOld), true
		}
	}
	return stamp, at, ok
}

func (q *queue) nextParked(from, to int64) (stamp int64, ok bool) {
	for stamp, ok = q.stamps.next(from, (*word).parked); ok && q.isLeaving(stamp); {
		stamp, ok = q.stamps.next(stamp+1, (*word).parked)
	}
	return stamp, ok && stamp <= to
}

// passesOver reports that newer slots go before one that failed often.
func (q *queue) passesOver() bool {
	return slices.ContainsFunc(q.slots, func(s *slot) bool { return s.failures >= maxSlotFailures })
}

func (q *queue) isLeaving(stamp int64) bool {
	s := q.find(stamp)
	return s != nil && s.leaving
}

// park parks a slot and schedules its next try within the interval.
func (q *queue) park(s *slot, now time.Time, interval time.Duration) {
	q.set(s, parked)
	if !q.parkedUntil.After(now) {
		q.parkedUntil = now.Add(interval)
	}
}

// unpark queues all parked slots again, because the server accepts what it refused before.
func (q *queue) unpark() {
	for _, s := range q.slots {
		s.failures = 0
	}
	q.stamps.each(func(w *word) {
		w.of[queued] |= w.of[parked]
		w.of[parked] = 0
	})
}

// retryPerhapsSent queues again the slots that waited for the device's first accepted slot.
func (q *queue) retryPerhapsSent() {
	for _, s := range q.slots {
		if status, _ := q.stamps.status(s.stamp); status == parked && q.perhapsSent(s) && s.refusal.verdict == stored {
			q.set(s, queued)
		}
	}
}

// alone reports that no other slot is to be sent.
func (q *queue) alone() bool {
	n := q.stamps.n
	q.stamps.each(func(w *word) { n -= bits.OnesCount64(w.of[undecided]) })
	return n == 1
}

// parked returns the stamp of the newest parked slot, or 0.
func (q *queue) parked() int64 { return q.stamps.newest((*word).parked) }

// foreign counts the slots that the server had before anything of them was sent.
func (q *queue) foreign() (n int) {
	for _, s := range q.slots {
		if s.foreign {
			n++
		}
	}
	return n
}

// waitsFor returns why a person must look at the device, or "".
func (q *queue) waitsFor() (reason, detail string) {
	if q.condition.state == held {
		return q.condition.reason, q.condition.detail
	}
	return q.memory.reason, q.memory.detail
}

// retryAt sets the time of the next attempt, whatever the queue waits for.
func (q *queue) retryAt(at time.Time) { q.condition.until, q.parkedUntil = at, at }

func byDevice(q *queue, device string) int { return strings.Compare(q.device, device) }
