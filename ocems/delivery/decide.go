package delivery

import (
	"slices"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// request is a part of a slot that is sent at one time. A refusal does not name the parameter, and a 111 does not name
// the stored reading: the request is split in halves until the reading is found.
type request struct {
	readings []payload.Reading
	halves   *halves // the pair that it belongs to, or nil
}

// halves are two requests that one request was split into after its answer. An answer that holds for the whole but not
// for the first half holds for the second.
type halves struct {
	whole  answer
	first  bool // the first half is being sent, so the answer to the whole holds for the second
	second []payload.Reading
}

// known returns the answer that a request would get, if it is certain.
func (r request) known() (answer, bool) {
	if h := r.halves; h != nil && h.first && slices.Equal(h.second, r.readings) {
		return h.whole, true
	}
	return answer{}, false
}

// evidence is what is known when an answer arrives, beside the answer.
type evidence struct {
	inDoubt      bool              // this very request was sent before, or one with its only reading, and its answer was lost
	untested     bool              // a crashed run may have sent it, and the server has accepted nothing of the device yet
	unexplained  bool              // a 111 came without evidence, and no status 1 of the device since
	shared       bool              // another sender reports the device too, and that sender goes first or the server has accepted something from us
	recorded     []payload.Reading // readings that the trail has as delivered with this value
	conflict     string            // the trail has another delivered value of the only reading
	asks         bool              // the readings may be sent one by one
	fresh        bool              // nothing of the slot was sent before
	unread       bool              // the trail could not be read now
	tooOld       bool              // our clock and the server's agree that the slot is older than 7 days
	passed       bool              // our clock and the server's agree that the slot is over
	ahead        time.Duration     // from the server's clock to the slot's stamp
	searched     int               // requests that the device's search has used since its last pause
	failures     int               // of the device since its last success
	slotFailures int               // of this slot, counting only answered attempts
	othersTaken  bool              // the server has accepted something of the device since the slot's first failure
	alone        bool              // no other slot of the device waits to be sent
	jitter       float64           // 0 to 1, so that devices that failed together do not retry together
}

// sentBefore reports that a 111 counts as the answer to an earlier request.
func (e evidence) sentBefore() bool { return e.inDoubt && !e.unexplained && !e.untested }

// decision follows from an answer.
type decision struct {
	settled []payload.Reading // readings that leave the outbox
	outcome audit.Outcome     // of the settled readings
	note    string            // for the trail
	suspend []payload.Reading // readings whose parameter the server refuses: they wait, the device's others are sent
	next    []request         // requests to send before the rest of the slot
	state   state             // of the queue; any other than ready ends the attempt
	pause   time.Duration     // before the next attempt; only if the state is not ready
	park    bool              // the rest of the slot waits apart, so that it does not delay other slots
	trouble bool              // with park: a person must look
	foreign bool              // the server has the slot although nothing of it was sent
	pausing bool              // the search continues with the next try of parked slots
}

// progress reports whether the server has settled or refused single readings.
func (d decision) progress() bool { return len(d.settled)+len(d.suspend) > 0 }

// timing has the waits of a queue.
type timing struct {
	initialBackoff, maxBackoff, holdInterval time.Duration
}

// maxSlotFailures is how many answered attempts of one slot may fail before other slots of its device go first. The
// slot is parked if the server accepts those. Otherwise a slot that the server cannot process would delay all others
// until it expires.
const maxSlotFailures = 5

// mostSearched is how many requests a device may use in one hold interval to find a refused parameter: enough for one
// of 200 parameters, or two of 60.
const mostSearched = 24

// plan divides a slot into requests. It leaves out suspended parameters; for a parked slot it tries the one that has
// waited longest. One of the suspects is refused, so they go in two halves unless the search pauses. If there is no
// request, the slot has to be parked.
func plan(rs []payload.Reading, m *memory, parked, pausing bool) (todo []request) {
	if len(m.suspended)+len(m.suspects) == 0 {
		return requests(rs)
	}
	var good, suspects []payload.Reading
	var oldest *suspension
	var try payload.Reading
	for _, r := range rs {
		u := unitOf{r.Parameter, r.Unit}
		switch s := m.suspended[u]; {
		case s != nil && parked && (oldest == nil || s.tried.Before(oldest.tried)):
			oldest, try = s, r
		case s != nil:
		case m.suspects[u] && pausing:
		case m.suspects[u]:
			suspects = append(suspects, r)
		default:
			good = append(good, r)
		}
	}
	if oldest != nil {
		todo = []request{{readings: []payload.Reading{try}}}
	}
	todo = append(todo, requests(good)...)
	switch n := len(suspects); {
	case n == 1:
		todo = append(todo, request{readings: suspects})
	case n > 1:
		todo = append(todo, requests(suspects[:n/2])...)
		todo = append(todo, requests(suspects[n/2:])...)
	}
	return todo
}

// unitOf is what the server refuses with 110 and 119: a parameter in a unit.
type unitOf struct{ parameter, unit string }

// requests divides readings of one stamp so that a request names a parameter once: a calibration point and an average
// may end at the same time.
func requests(rs []payload.Reading) []request {
	if len(rs) > 0 && !slices.ContainsFunc(rs, func(r payload.Reading) bool { return r.Flag.Calibration() }) {
		return []request{{readings: rs}}
	}
	points, averages := split(rs)
	twice := slices.ContainsFunc(points, func(p payload.Reading) bool {
		return slices.ContainsFunc(averages, func(r payload.Reading) bool {
			return r.Parameter == p.Parameter && r.Diagnostic == p.Diagnostic
		})
	})
	switch {
	case len(rs) == 0:
		return nil
	case twice:
		return []request{{readings: averages}, {readings: points}}
	}
	return []request{{readings: rs}}
}

// split separates the calibration points of a slot from its averages.
func split(rs []payload.Reading) (points, averages []payload.Reading) {
	for _, r := range rs {
		if r.Flag.Calibration() {
			points = append(points, r)
		} else {
			averages = append(averages, r)
		}
	}
	return points, averages
}

// halve splits a request in two.
func halve(r request, whole *answer) []request {
	n := len(r.readings) / 2
	one, other := request{readings: r.readings[:n]}, request{readings: r.readings[n:]}
	if whole != nil {
		h := &halves{whole: *whole, second: other.readings}
		one.halves, other.halves = h, h
	}
	return []request{one, other}
}

// decide is the table of outcomes: what an answer to a request means in view of the evidence.
func (t timing) decide(r request, a answer, e evidence) decision {
	switch a.verdict {
	case delivered:
		return outcome(r.readings, audit.Delivered, "")
	case stored:
		return alreadyStored(r, a, e)
	case expired:
		if e.tooOld {
			return outcome(r.readings, audit.Expired, a.detail)
		}
	case notScheduled:
		if points, averages := split(r.readings); len(points) > 0 { // the board may still schedule it
			return decision{next: requests(averages), park: true}
		}
	case badParameter:
		switch {
		case len(r.readings) == 1:
			return decision{suspend: r.readings}
		case e.searched >= mostSearched:
			return decision{park: true, pausing: true}
		}
		return decision{next: halve(r, &a)}
	case tooLarge:
		if len(r.readings) > 1 {
			return decision{next: halve(r, nil)}
		}
		return t.retry(a, e)
	case future:
		if !e.passed {
			return decision{state: waiting, pause: min(max(e.ahead, t.initialBackoff), t.maxBackoff)}
		}
	case refusedDevice:
		return decision{state: held, pause: max(t.holdInterval, a.wait)}
	default:
		return t.retry(a, e)
	}
	return decision{park: true, trouble: true} // the answer contradicts the evidence
}

func outcome(rs []payload.Reading, o audit.Outcome, note string) decision {
	return decision{settled: rs, outcome: o, note: note}
}

// alreadyStored handles status 111. The same status also means that a timestamp is off the grid, so evidence is needed
// that the server has the readings.
func alreadyStored(r request, a answer, e evidence) decision {
	switch {
	case e.shared && len(r.readings) > 1 && e.asks: // the other sender may have left some out, and the server may accept those
		return decision{next: singly(r)}
	case e.sentBefore():
		return outcome(r.readings, audit.AlreadyStored, "sent before, and the answer was lost")
	case e.conflict != "":
		return outcome(r.readings, audit.Rejected, e.conflict)
	case len(e.recorded) > 0:
		d := outcome(e.recorded, audit.AlreadyStored, "the trail has them as delivered")
		if rest := others(r.readings, e.recorded); len(rest) > 0 {
			d.next = []request{{readings: rest}}
		}
		return d
	case e.unread:
		return decision{park: true}
	case e.shared:
		return outcome(r.readings, audit.AlreadyStored, "stored before, by another sender of the device")
	case e.untested && !e.unexplained:
		return decision{park: true} // until the server has accepted another slot
	case len(r.readings) > 1 && !e.unexplained:
		return decision{next: halve(r, &a)}
	}
	return decision{park: true, trouble: true, foreign: e.fresh}
}

// singly makes one request for each reading.
func singly(r request) (list []request) {
	for i := range r.readings {
		list = append(list, request{readings: r.readings[i : i+1 : i+1]})
	}
	return list
}

// Causes of repeated 111s without evidence. Both are HoldReasons.
const (
	anotherSender = "another_sender"
	offGrid       = "off_grid"
)

// certain is how many slots the server must have had although nothing of them was sent.
const certain = 2

// whose returns the cause of a device's 111s: another sender if the server has accepted something of the device, or
// else a server that expects other times. foreign counts the slots of which nothing was sent before. before is the
// cause until now; only a status 1 changes it.
func whose(before string, foreign int, taken bool) string {
	sure := foreign >= certain || before == offGrid || before == anotherSender
	switch {
	case sure && (taken || before == anotherSender):
		return anotherSender
	case sure:
		return offGrid
	}
	return strconv.Itoa(int(spec.StatusNotSlot))
}

func others(rs, without []payload.Reading) []payload.Reading {
	return slices.DeleteFunc(slices.Clone(rs), func(r payload.Reading) bool { return slices.Contains(without, r) })
}

// retry keeps all readings and tries again later.
func (t timing) retry(a answer, e evidence) decision {
	d := decision{state: backingOff, pause: max(t.backoff(e.failures+1, e.jitter), a.wait)}
	often := e.slotFailures+1 >= maxSlotFailures
	d.park = often && (e.othersTaken || !e.alone)
	if a.unanswered {
		d.state, d.park = unreachable, often && e.othersTaken && a.whole
	}
	d.trouble = d.park
	return d
}

// backoff doubles with each failure, less up to a quarter at random.
func (t timing) backoff(failures int, jitter float64) time.Duration {
	wait := t.initialBackoff << min(failures-1, 20)
	if wait <= 0 || wait > t.maxBackoff {
		wait = t.maxBackoff
	}
	return wait - time.Duration(jitter*float64(wait/4))
}
