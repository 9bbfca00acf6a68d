package delivery

import (
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
)

// request is a part of a slot that goes to the server at once. The server names no parameter when it refuses one: the
// refused request comes again with one reading left out, each in turn.
type request struct {
	readings []payload.Reading
	whole    []payload.Reading // the refused request, of which readings has all but one; nil for any other request
	left     int               // index in whole of the reading that is left out
	refusal  string            // the answer to whole
}

// evidence is what else is known when an answer comes.
type evidence struct {
	inDoubt      bool          // these very readings were sent before, and the answer was lost
	failures     int           // of the device since its last success
	slotFailures int           // of this slot; only those that the server answered
	alone        bool          // no other slot of the device waits
	ahead        time.Duration // from the server's clock to the slot's stamp
	jitter       float64       // from 0 to 1, so that devices which failed together do not come back together
}

// decision is what follows from an answer.
type decision struct {
	settled []payload.Reading // leave the outbox
	outcome audit.Outcome     // of them
	note    string            // for the trail
	suspend []payload.Reading // the server refuses their parameters: they wait, and the device's others go on
	next    []request         // comes next, before what else the slot has
	state   state             // of the queue; anything but ready ends the attempt
	pause   time.Duration     // before the next attempt; only where the state is not ready
	park    bool              // the slot waits apart, so that it does not hold up the others
}

// progress reports whether the server has dealt with readings.
func (d decision) progress() bool { return len(d.settled)+len(d.suspend) > 0 }

// timing is how long a queue waits after what.
type timing struct {
	initialBackoff, maxBackoff, holdInterval time.Duration
}

// maxSlotFailures is how often one slot may fail, answered, before the queue goes on without it. Otherwise a slot which
// the server cannot process would hold up all others until it expires.
const maxSlotFailures = 5

// plan parts what a slot holds into requests. Suspended parameters are left out; a parked slot tries each of them by
// itself. Without a request the slot has to be parked.
func plan(rs []payload.Reading, suspended map[unitOf]bool, parked bool) (todo []request) {
	var good []payload.Reading
	for i, r := range rs {
		if !suspended[unitOf{r.Parameter, r.Unit}] {
			good = append(good, r)
		} else if parked {
			todo = append(todo, request{readings: rs[i : i+1]})
		}
	}
	return append(todo, requests(good)...)
}

// unitOf is what the server refuses with 110 and 119: a parameter in a unit.
type unitOf struct{ parameter, unit string }

// requests parts readings of one stamp so that a request names a parameter once: a calibration point and an average may
// end together.
func requests(rs []payload.Reading) []request {
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

// each asks for the readings one by one.
func each(rs []payload.Reading) (out []request) {
	for i := range rs {
		out = append(out, request{readings: rs[i : i+1]})
	}
	return out
}

func halves(rs []payload.Reading) []request {
	return []request{{readings: rs[:len(rs)/2]}, {readings: rs[len(rs)/2:]}}
}

// without is the request of all readings but one.
func without(rs []payload.Reading, left int, refusal string) []request {
	return []request{{readings: slices.Delete(slices.Clone(rs), left, left+1), whole: rs, left: left, refusal: refusal}}
}

// decide is the table of outcomes: what an answer to a request means, with what else is known.
func (t timing) decide(r request, a answer, e evidence) decision {
	var d decision
	switch a.verdict {
	case delivered:
		d = outcome(r.readings, audit.Delivered, "")
	case stored:
		d = alreadyStored(r, a, e)
	case expired:
		d = outcome(r.readings, audit.Expired, a.detail)
	case notScheduled:
		d = withoutCalibration(r, a)
	case badParameter:
		return isolate(r, a.detail)
	case tooLarge:
		if r.whole != nil {
			return decision{next: halves(r.whole)}
		}
		if len(r.readings) > 1 {
			return decision{next: halves(r.readings)}
		}
		return t.retry(a, e)
	case future:
		return decision{state: waiting, pause: min(max(e.ahead, t.initialBackoff), t.maxBackoff)}
	case refusedDevice:
		return decision{state: held, pause: max(t.holdInterval, a.wait)}
	default:
		return t.retry(a, e)
	}
	if r.whole != nil { // what the server deals with has no bad parameter: the one that was left out is bad
		d.suspend = r.whole[r.left : r.left+1]
	}
	return d
}

func outcome(rs []payload.Reading, o audit.Outcome, note string) decision {
	return decision{settled: rs, outcome: o, note: note}
}

// alreadyStored is for status 111 on the grid. Some readings of the request may be new, so each is asked for alone.
func alreadyStored(r request, a answer, e evidence) decision {
	switch {
	case e.inDoubt:
		return outcome(r.readings, audit.AlreadyStored, "sent before by this process, whose answer was lost")
	case len(r.readings) > 1:
		return decision{next: each(r.readings)}
	case r.readings[0].Flag.Calibration():
		return outcome(r.readings, audit.Rejected, a.detail)
	}
	return outcome(r.readings, audit.AlreadyStored, "stored before: by an earlier run, by another sender, or with the slot's other parameters")
}

// withoutCalibration is for status 112: the calibration points are rejected, and the averages go on.
func withoutCalibration(r request, a answer) decision {
	points, averages := split(r.readings)
	if len(points) == 0 {
		return outcome(r.readings, audit.Rejected, a.detail)
	}
	d := outcome(points, audit.Rejected, a.detail)
	d.next = requests(averages)
	return d
}

// isolate finds the reading whose parameter or unit is refused: first one is left out, so that the others stay together
// in one request; then by halves, for there are several.
func isolate(r request, refusal string) decision {
	switch {
	case r.whole == nil && len(r.readings) == 1:
		return decision{suspend: r.readings}
	case r.whole == nil:
		return decision{next: without(r.readings, 0, refusal)}
	case r.left+1 < len(r.whole):
		return decision{next: without(r.whole, r.left+1, r.refusal)}
	}
	return decision{next: halves(r.whole)}
}

// retry keeps everything and tries again later.
func (t timing) retry(a answer, e evidence) decision {
	d := decision{state: backingOff, pause: max(t.backoff(e.failures+1, e.jitter), a.wait)}
	if a.unanswered {
		d.state = unreachable
	} else {
		d.park = e.slotFailures+1 >= maxSlotFailures && !e.alone
	}
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
