package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	aligner "github.com/ocems-io/ocems/ocems/slot" // this package has a type slot
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// A value with too few minutes may wait for a person, who decides by the configuration. A slot with nothing else left
// is tried when the configuration may have changed, and when it is too old.

// OfAll is appended to the reason when a value is left out because of its minutes.
const OfAll = "; the value is computed from all of them"

// asked has the slots of a parameter that wait for a person.
type asked struct {
	stamps
	why string // of the slot that was checked last
}

// tooFew returns why a reading must not be sent, or "", and whether it waits for a person or is left out.
func (t Target) tooFew(r payload.Reading) (why string, waits bool) {
	if r.Minutes == 0 || t.TooFew == nil {
		return "", false
	}
	return t.TooFew(r.Parameter, r.Minutes)
}

// decided returns the readings that may be sent. The others are left out, or wait for a person. done reports that there
// is nothing to send now.
func (a *attempt) decided(rs []payload.Reading) (send []payload.Reading, done bool) {
	var why map[string]string
	for _, r := range rs {
		text, waits := a.target.tooFew(r)
		switch {
		case text == "":
			send = append(send, r)
		case waits:
			if why == nil {
				why = map[string]string{}
			}
			why[r.Parameter] = text
		default:
			a.book(audit.Entry{Outcome: audit.Refused, Parameter: r.Parameter, Reason: string(aligner.TooFew), Count: max(r.Samples, 1), Detail: text + OfAll}, []payload.Reading{r})
		}
	}
	if len(why) > 0 && !a.q.memory.asks { // must be on disk before a newer slot is sent: doubtAll needs it
		a.q.memory.asks = true
		if value, changed := a.changedMemory(); changed {
			a.finish(&work{memory: &store.Op{Key: memoryPrefix + a.q.device, Value: value}})
		}
	}
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.q.ask(a.id.stamp, why) && d.cfg.OnTrouble != nil {
		d.cfg.OnTrouble(a.q.device)
	}
	if len(send) == 0 && len(why) > 0 {
		d.release(a.s)
		if a.version == a.s.version && a.retries == d.retries { // else a reading was added, or the configuration has changed
			a.q.set(a.s, undecided)
		}
		if now := time.Now(); !now.Before(a.id.time().Add(spec.MaxAge)) { // one of the clocks does not confirm the age yet
			a.q.parkedUntil = now.Add(d.cfg.HoldInterval.Duration)
		}
	}
	return send, len(send) == 0
}

// ask records for which parameters of a slot a person must decide, and why. It reports whether that has changed.
func (q *queue) ask(stamp int64, why map[string]string) (changed bool) {
	for parameter, x := range q.asked {
		if _, still := why[parameter]; still || !x.remove(stamp) {
			continue
		}
		if changed = true; x.n == 0 {
			delete(q.asked, parameter)
		}
	}
	for parameter, text := range why {
		x := q.asked[parameter]
		if x == nil {
			if q.asked == nil {
				q.asked = map[string]*asked{}
			}
			x = &asked{}
			q.asked[parameter] = x
		}
		changed = x.add(stamp) || changed
		x.why = text
	}
	return changed
}

// decide queues the slots that wait for a person: the configuration may have changed.
func (q *queue) decide() {
	q.stamps.each(func(w *word) {
		w.of[queued] |= w.of[undecided]
		w.of[undecided] = 0
	})
}

// expireUndecided removes readings that nobody has decided on, and returns the rest.
func (a *attempt) expireUndecided(rs []payload.Reading) (rest []payload.Reading) {
	for _, r := range rs {
		if why, waits := a.target.tooFew(r); waits {
			a.settle(outcome([]payload.Reading{r}, audit.Expired, notDelivered+": no decision was made: "+why), nil)
		} else {
			rest = append(rest, r)
		}
	}
	return rest
}

// mayBeUndecided reports that the whole slot may have waited for a person when the last run ended.
func (d *Delivery) mayBeUndecided(ctx context.Context, id slotID) bool {
	rs, _, _, err := d.load(ctx, id)
	return err == nil && len(rs) > 0 && !slices.ContainsFunc(rs, func(r payload.Reading) bool { return r.Minutes == 0 })
}

// askAgain queues slots that the start took for parked but that may have waited for a person: the person may have
// decided, and parked slots are tried slowly.
func (d *Delivery) askAgain(ctx context.Context, q *queue) {
	if !q.memory.asks {
		return
	}
	for t, ok := q.stamps.next(everBefore, (*word).parked); ok; t, ok = q.stamps.next(t+1, (*word).parked) {
		if d.mayBeUndecided(ctx, slotID{q.device, t}) {
			q.stamps.set(t, queued)
		}
	}
}
