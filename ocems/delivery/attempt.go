package delivery

import (
	"bytes"
	"cmp"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// attempt is the work on one slot of a queue: it sends, and carries out what decide says. What it starts from stays with
// it while new readings, or a Retry, change the queue.
type attempt struct {
	d       *Delivery
	q       *queue
	s       *slot
	id      slotID
	parked  bool   // the slot
	heldFor string // the device, or ""
	retries uint64 // Delivery.retries
	target  Target
}

// attempt begins one. Delivery.mu is held.
func (d *Delivery) attempt(q *queue) *attempt {
	s, _ := q.pick()
	a := &attempt{d: d, q: q, s: s, id: slotID{q.device, s.stamp}, parked: s.status == parked, retries: d.retries}
	if q.condition.state == held {
		a.heldFor = q.condition.detail
	}
	q.busy = true
	d.active++
	return a
}

func (a *attempt) run() {
	a.trySlot()
	d, now := a.d, time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.parked && a.s.status == parked {
		a.s.tried, a.q.parkedUntil = now, now.Add(d.cfg.HoldInterval.Duration)
	}
	if a.retries != d.retries { // what was sent was made with what was before
		a.q.retryAt(now)
	}
	a.q.busy = false
	d.active--
	d.reschedule(a.q)
	d.wake.send()
}

// trySlot reads the slot and does what is to be done with it.
func (a *attempt) trySlot() {
	rs, made, value, err := a.d.load(a.d.ctx, a.id)
	switch {
	case errors.Is(err, frame.ErrDamaged) || err == nil && value == nil:
		a.finish(&work{}) // the writer sees why, says so, and takes the slot out
		return
	case err != nil:
		a.carryOut(request{}, answer{verdict: failed, detail: err.Error()})
		return
	}
	var known bool
	a.target, known = a.d.cfg.Lookup(a.q.device)
	switch {
	case a.d.cfg.Clock.Expired(a.id.time(), made):
		a.settle(outcome(rs, audit.Expired, "not delivered within 7 days of its stamp: "+a.heldFor), nil)
	case !known:
		a.carryOut(request{}, answer{verdict: refusedDevice, detail: "the configuration has no such device any more: its readings wait until they expire"})
	case a.d.cfg.DryRun:
		a.show(rs)
	default:
		a.deliver(rs)
	}
}

// show logs what would be sent.
func (a *attempt) show(rs []payload.Reading) {
	for _, r := range requests(rs) {
		text, err := a.target.record(a.q.device, r.readings).Marshal()
		if err != nil {
			a.carryOut(request{}, answer{verdict: failed, detail: err.Error()})
			return
		}
		a.d.cfg.Logger.Info("dry run: this would be sent", "device", a.q.device, "json", string(text))
	}
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	a.s.status = shown
}

// deliver sends the readings in as few requests as may be, until all are dealt with or the queue has to wait.
func (a *attempt) deliver(rs []payload.Reading) {
	todo := plan(rs, a.q.suspended, a.parked)
	if len(todo) == 0 {
		a.d.mu.Lock()
		defer a.d.mu.Unlock()
		a.q.park(a.s, time.Now(), a.d.cfg.HoldInterval.Duration)
		return
	}
	for len(todo) > 0 {
		r := todo[0]
		next := a.carryOut(r, a.send(r.readings))
		if next.state != ready {
			return
		}
		todo = append(next.next, todo[1:]...)
	}
}

// carryOut decides on an answer, and does what is to be done at once.
func (a *attempt) carryOut(r request, ans answer) decision {
	dec := a.d.timing.decide(r, ans, a.evidence(r))
	if len(dec.settled) > 0 {
		a.settle(dec, ans.status)
	}
	for _, s := range dec.suspend {
		a.suspend(s, cmp.Or(r.refusal, ans.detail))
	}
	a.conclude(r, ans, dec)
	return dec
}

func (a *attempt) evidence(r request) evidence {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return evidence{inDoubt: slices.Equal(a.s.doubt, r.readings), failures: a.q.condition.failures,
		slotFailures: a.s.failures, alone: len(a.q.slots) == 1, ahead: a.d.cfg.Clock.Until(a.id.time()), jitter: rand.Float64()}
}

// settle takes readings out of the outbox with their outcome, and returns when that is on disk: until then the queue
// must not look at the slot again. Many queues share one transaction.
func (a *attempt) settle(dec decision, status *int) {
	for _, r := range dec.settled {
		delete(a.q.suspended, unitOf{r.Parameter, r.Unit})
	}
	a.finish(&work{settled: dec.settled, entry: audit.Entry{Outcome: dec.outcome, Station: a.target.StationID,
		Device: a.id.device, Stamp: a.id.stamp, Readings: audit.Readings(dec.settled), Status: status, Detail: dec.note}})
}

// finish hands an outcome to the writer and waits until it is on disk, or the outbox closes at once.
func (a *attempt) finish(w *work) {
	w.leaves, w.done = &a.id, make(chan error, 1)
	a.d.work <- w
	select {
	case <-w.done:
	case <-a.d.ctx.Done():
	}
}

func (a *attempt) suspend(r payload.Reading, refusal string) {
	u := unitOf{r.Parameter, r.Unit}
	if !a.q.suspended[u] {
		a.d.cfg.Logger.Error("the server refuses a parameter: its readings wait, the device's others go on; check the key and the unit with the board",
			"device", a.q.device, "parameter", r.Parameter, "unit", r.Unit, "reason", refusal)
	}
	a.q.suspended[u] = true
}

// conclude brings slot and queue to what a decision makes of them.
func (a *attempt) conclude(r request, ans answer, dec decision) {
	d, now := a.d, time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if dec.state != ready && ans.doubt {
		a.s.doubt = r.readings
	}
	if dec.state == backingOff {
		a.s.failures++
	}
	if dec.park {
		a.q.park(a.s, now, d.cfg.HoldInterval.Duration)
	}
	if a.parked && len(dec.settled) > 0 {
		a.q.unpark()
	}
	before := a.q.condition
	d.setCondition(a.q, before.after(dec, ans, now))
	a.log(before, dec, ans)
}

// log tells what a person wants to know about a decision.
func (a *attempt) log(before condition, dec decision, ans answer) {
	logger, now := a.d.cfg.Logger, a.q.condition
	switch {
	case before.state == held && now.state == ready:
		logger.Info("the server takes the device's readings again", "device", a.q.device)
	case dec.state == held && (before.state != held || before.detail != now.detail):
		logger.Error("the server refuses the device: its readings wait; check station id, device id, token and key",
			"device", a.q.device, "waiting_slots", len(a.q.slots), "reason", ans.detail, "next_try_in", dec.pause.String())
	case dec.state == waiting:
		logger.Warn("the server says the slot is in the future: waiting", "device", a.q.device,
			"slot", spec.ISTString(a.id.time()), "server_ahead_by", a.d.cfg.Clock.Skew().String())
	case (dec.state == backingOff || dec.state == unreachable) && now.failures == 1:
		logger.Warn("an attempt failed: trying again", "device", a.q.device, "reason", ans.detail, "next_try_in", dec.pause.String())
	}
}

// record is what a request of a device carries.
func (t Target) record(device string, rs []payload.Reading) payload.Record {
	return payload.Record{StationID: t.StationID, DeviceID: device, Latitude: t.Latitude, Longitude: t.Longitude, Readings: rs}
}

// send makes one request: sealed, signed anew, answered or not.
func (a *attempt) send(rs []payload.Reading) answer {
	d := a.d
	text, err := a.target.record(a.q.device, rs).Marshal()
	if err != nil {
		return answer{verdict: failed, detail: err.Error()}
	}
	sent := time.Now()
	signature, err := a.target.Sealer.Sign(sent)
	if err != nil {
		return answer{verdict: refusedDevice, detail: err.Error()}
	}
	req, err := http.NewRequestWithContext(d.ctx, http.MethodPost, d.cfg.Endpoint, bytes.NewReader(a.target.Sealer.Seal(text)))
	if err != nil {
		return answer{verdict: failed, detail: err.Error()}
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header["signature"] = []string{signature} // as the document writes it (spec 2.3)
	req.Header.Set("X-Device-Id", a.q.device)
	ans := d.exchange(req, sent, a.id.time(), a.target.Sealer.Hide)
	d.noteAnswer(a.q.device, ans, sent)
	if d.cfg.OnTry != nil {
		d.cfg.OnTry(time.Since(sent), ans.verdict == delivered)
	}
	return ans
}

func (d *Delivery) exchange(req *http.Request, sent, stamp time.Time, hide func([]byte) []byte) answer {
	resp, err := d.cfg.Client.Do(req)
	if err != nil {
		return answer{verdict: failed, detail: "no answer: " + d.cfg.Words.hint(err), unanswered: true, doubt: true}
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return answer{verdict: failed, detail: "half an answer: " + d.cfg.Words.hint(err), unanswered: true, doubt: true}
	}
	ans := judge(resp, hide(body))
	if ans.verdict != delivered {
		stamp = time.Time{}
	}
	d.observe(resp.Header, sent, ans.status != nil, stamp)
	return ans
}
