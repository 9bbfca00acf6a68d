package delivery

import (
	"slices"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// request is a part of a slot that goes to the server at once. The server names no parameter when it refuses one, nor the
// reading that it has stored: the request comes again in two halves, until it is found.
type request struct {
	readings []payload.Reading
	halves   *halves // which it is one of, or nil
}

// halves are two requests made of one, by what was answered to it. What is true of the whole, and not of its first half,
// is true of its second.
type halves struct {
	whole  answer
	first  bool // the first is at the server: of the second is known what was answered to the whole
	second []payload.Reading
}

// known returns the answer that a request would get, where that is sure.
func (r request) known() (answer, bool) {
	if h := r.halves; h != nil && h.first && slices.Equal(h.second, r.readings) {
		return h.whole, true
	}
	return answer{}, false
}

// evidence is what else is known when an answer comes.
type evidence struct {
	inDoubt      bool              // this very request was sent before, or one with its only reading, and not answered
	untested     bool              // a run that ended in no order may have sent it, and the server has never called anything delivered
	unexplained  bool              // a 111 stands for which there is no evidence, and no status 1 of the device came since
	shared       bool              // another sender reports the device too, and comes first or the server has taken something from us
	recorded     []payload.Reading // the trail says that the server took them, with this value
	conflict     string            // the trail says that the server took another value of the only reading
	asks         bool              // the readings may be asked for one by one
	fresh        bool              // nothing of the slot was sent before
	unread       bool              // the trail could not be asked now
	tooOld       bool              // our clock and the server's say that the slot is older than 7 days
	passed       bool              // our clock and the server's say that the slot is over
	ahead        time.Duration     // from the server's clock to the slot's stamp
	searched     int               // requests that halving has cost the device since its last pause
	failures     int               // of the device since its last success
	slotFailures int               // of this slot; only those that the server answered
	othersTaken  bool              // the server took something of the device since the first of them
	alone        bool              // no other slot of the device waits
	jitter       float64           // from 0 to 1, so that devices which failed together do not come back together
}

// sentBefore reports that a 111 is believed to be the answer to a request that was sent before.
func (e evidence) sentBefore() bool { return e.inDoubt && !e.unexplained && !e.untested }

// decision is what follows from an answer.
type decision struct {
	settled []payload.Reading // leave the outbox
	outcome audit.Outcome     // of them
	note    string            // for the trail
	suspend []payload.Reading // the server refuses their parameters: they wait, and the device's others go on
	next    []request         // comes next, before what else the slot has
	state   state             // of the queue; anything but ready ends the attempt
	pause   time.Duration     // before the next attempt; only where the state is not ready
	park    bool              // what is left of the slot waits apart, so that it does not hold up the others
	trouble bool              // and a person must look
	foreign bool              // the server has readings of a slot of which nothing was sent
	pausing bool              // the search for a reading goes on with the next try of what is parked
}

// progress reports whether the server has dealt with readings.
func (d decision) progress() bool { return len(d.settled)+len(d.suspend) > 0 }

// timing is how long a queue waits after what.
type timing struct {
	initialBackoff, maxBackoff, holdInterval time.Duration
}

// maxSlotFailures is how often one slot may fail, answered, before others of its device come first, and it waits apart where
// the server takes those. Otherwise a slot which the server cannot process would hold up all others until it expires.
const maxSlotFailures = 5

// mostSearched is how many requests a device spends in one hold interval to find what the server refuses: enough for one
// of 200 parameters, and for two of 60.
const mostSearched = 24

// plan parts what a slot holds into requests. Suspended parameters are left out; a parked slot tries the one of them that
// has waited longest. Of the suspects one is refused, so that they go in two halves, unless the search for it pauses.
// Without a request the slot has to be parked.
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

// requests parts readings of one stamp so that a request names a parameter once: a calibration point and an average may
// end together.
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

// split parts the calibration points of a slot from its averages.
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

// halve parts a request in two.
func halve(r request, whole *answer) []request {
	n := len(r.readings) / 2
	one, other := request{readings: r.readings[:n]}, request{readings: r.readings[n:]}
	if whole != nil {
		h := &halves{whole: *whole, second: other.readings}
		one.halves, other.halves = h, h
	}
	return []request{one, other}
}

// decide is the table of outcomes: what an answer to a request means, with what else is known.
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
	return decision{park: true, trouble: true} // the answer contradicts what else is known
}

func outcome(rs []payload.Reading, o audit.Outcome, note string) decision {
	return decision{settled: rs, outcome: o, note: note}
}

// alreadyStored is for status 111. The same status says that a timestamp is off the grid, so that it takes evidence to
// believe that the server has the readings.
func alreadyStored(r request, a answer, e evidence) decision {
	switch {
	case e.shared && len(r.readings) > 1 && e.asks: // the other one may have lacked some, and the server may take those
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
		return decision{park: true} // until the server calls another slot delivered
	case len(r.readings) > 1 && !e.unexplained:
		return decision{next: halve(r, &a)}
	}
	return decision{park: true, trouble: true, foreign: e.fresh}
}

// singly makes a request of each reading.
func singly(r request) (list []request) {
	for i := range r.readings {
		list = append(list, request{readings: r.readings[i : i+1 : i+1]})
	}
	return list
}

// What a 111 without a reason is taken for, once there are more of them. Both are HoldReasons.
const (
	anotherSender = "another_sender"
	offGrid       = "off_grid"
)

// certain is how many slots the server must have had before anything of them was sent.
const certain = 2

// whose tells by what a device's 111s are known to be what they are of: of another sender where the server has taken
// something of the device, or else of a server that expects other times. foreign counts slots of which nothing was sent
// before. before is what they were taken for until now, which only a status 1 changes.
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

// retry keeps everything and tries again later.
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

// backoff doubles with each failure, less up to a quarter.
func (t timing) backoff(failures int, jitter float64) time.Duration {
	wait := t.initialBackoff << min(failures-1, 20)
	if wait <= 0 || wait > t.maxBackoff {
		wait = t.maxBackoff
	}
	return wait - time.Duration(jitter*float64(wait/4))
}
