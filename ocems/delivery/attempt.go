package delivery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// attempt is the work on one slot of a queue: it sends requests and carries out decisions. It keeps the values that it
// started from, even if new readings or a Retry change the queue meanwhile.
type attempt struct {
	d       *Delivery
	q       *queue
	s       *slot
	id      slotID
	parked  bool          // whether the slot is parked
	shown   bool          // a dry run has logged it
	heldFor string        // why the device is held, or ""
	made    time.Duration // running time when the slot was made
	retries uint64        // Delivery.retries
	target  Target
	stored  []payload.Reading // the slot's readings as stored
	mended  bool              // some readings are sent in another unit
	left    int               // stored readings without an outcome
	version int               // of the slot when it was read
	held    *content          // the slot's content in memory, or nil: read the store
	place   bool              // counts against Delivery.limit
}

// attempt begins an attempt. Delivery.mu is held.
func (d *Delivery) attempt(q *queue) *attempt {
	stamp, _, _ := q.pick()
	s := q.slot(stamp)
	status, _ := q.stamps.status(stamp)
	a := &attempt{d: d, q: q, s: s, id: slotID{q.device, stamp}, parked: status == parked, shown: status == shown, retries: d.retries, version: s.version, held: s.held}
	if q.condition.state == held {
		a.heldFor = q.condition.detail
	}
	q.trying = s
	d.takePlace(a)
	return a
}

func (a *attempt) run() {
	a.trySlot()
	a.remember()
	d, now := a.d, time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if status, _ := a.q.stamps.status(a.id.stamp); a.parked && status == parked {
		a.q.parkedTried, a.q.parkedUntil = a.id.stamp, now.Add(d.cfg.HoldInterval.Duration)
	}
	if a.retries != d.retries { // a Retry came after the attempt had read the configuration
		a.q.retryAt(now)
	}
	a.q.trying, a.q.tried = nil, now
	d.inFlight--
	a.giveBack()
	d.reschedule(a.q)
	d.wake.send()
}

// trySlot reads the slot and processes it.
func (a *attempt) trySlot() {
	var rs []payload.Reading
	if c := a.held; c != nil {
		rs, a.made = c.readings, c.made
	} else {
		var value []byte
		var err error
		rs, a.made, value, err = a.d.load(a.d.ctx, a.id)
		switch {
		case errors.Is(err, frame.ErrDamaged) || err == nil && value == nil:
			a.finish(&work{leaves: &a.id}) // the writer finds the reason, logs it and removes the slot
			return
		case err != nil:
			a.carryOut(request{}, answer{verdict: failed, detail: err.Error()})
			return
		}
	}
	a.left = len(rs)
	var known bool
	a.target, known = a.d.cfg.Lookup(a.q.device)
	switch {
	case a.d.cfg.Clock.Expired(a.id.time(), a.made):
		a.expire(rs)
	case !known:
		a.carryOut(request{}, answer{verdict: refusedDevice, detail: notConfigured})
	case a.formerly(rs):
		a.takeOver()
	default:
		rs, done := a.decided(rs)
		switch {
		case done:
		case a.d.cfg.DryRun:
			a.show(a.mend(rs))
		default:
			a.deliver(a.mend(rs))
		}
	}
}

// show logs the requests of a dry run once. The slot is tried again when it is too old.
func (a *attempt) show(rs []payload.Reading) {
	if a.shown {
		rs = nil
	}
	for _, r := range requests(rs) {
		text, err := a.target.record(r.readings).Marshal()
		if err != nil {
			a.carryOut(request{}, answer{verdict: failed, detail: err.Error()})
			return
		}
		a.d.cfg.Logger.Info("dry run: this would be sent", "device", a.q.device, "json", string(text))
	}
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	a.q.set(a.s, shown)
	a.q.parkedUntil = time.Now().Add(a.d.cfg.HoldInterval.Duration)
}

const notDelivered = "not delivered within 7 days of its stamp"

// expire removes readings that were not delivered within 7 days, and records the reason.
func (a *attempt) expire(rs []payload.Reading) {
	why := cmp.Or(a.heldFor, a.s.refusal.detail)
	for _, r := range rs {
		if s := a.q.memory.suspended[unitOf{r.Parameter, r.Unit}]; s != nil && why == "" {
			why = "the server refuses the parameter: status " + s.reason
		}
	}
	if why != "" {
		why = ": " + why
	}
	a.d.mu.Lock()
	a.q.set(a.s, queued) // an expiry is no attempt: parked slots must not pause after it
	a.d.mu.Unlock()
	if rs = a.expireUndecided(rs); len(rs) > 0 {
		a.settle(outcome(rs, audit.Expired, notDelivered+why), a.s.refusal.status)
	}
}

// deliver sends the readings in as few requests as possible, until all have an outcome or the queue has to wait.
func (a *attempt) deliver(rs []payload.Reading) {
	pausing := a.searched() >= mostSearched
	todo := plan(rs, &a.q.memory, a.parked, pausing)
	if len(todo) == 0 {
		a.d.mu.Lock()
		defer a.d.mu.Unlock()
		a.d.release(a.s)
		a.q.park(a.s, time.Now(), a.d.cfg.HoldInterval.Duration)
		return
	}
	for len(todo) > 0 && !a.d.cfg.Clock.Hold() {
		r := todo[0]
		ans, known := r.known()
		if !known {
			ans = a.send(r.readings)
		}
		if h := r.halves; h != nil && ans.verdict == delivered {
			h.first = true
		}
		next := a.carryOut(r, ans)
		todo = append(next.next, todo[1:]...)
		if next.state != ready || next.pausing {
			a.suspect(ans, r, todo)
			return
		}
	}
	if !pausing && len(todo) == 0 {
		clear(a.q.memory.suspects)
	}
}

// suspect keeps the result of an unfinished search: the server refuses one of the parameters that are left.
func (a *attempt) suspect(ans answer, r request, todo []request) {
	searching := ans.verdict == badParameter
	left := r.readings
	for _, t := range todo {
		searching = searching || t.halves != nil && t.halves.whole.verdict == badParameter
		left = append(slices.Clone(left), t.readings...)
	}
	if searching || r.halves != nil && r.halves.whole.verdict == badParameter {
		for _, x := range left {
			a.q.memory.suspects[unitOf{x.Parameter, x.Unit}] = true
		}
	}
}

// searched counts the requests of the present search.
func (a *attempt) searched() int {
	if now := time.Now(); now.After(a.q.search.until) {
		a.q.search = search{until: now.Add(a.d.cfg.HoldInterval.Duration)}
	}
	return a.q.search.requests
}

// carryOut decides on an answer and applies the decision.
func (a *attempt) carryOut(r request, ans answer) decision {
	if ans.verdict == badParameter {
		a.searched()
		a.q.search.requests++
	}
	dec := a.d.timing.decide(r, ans, a.evidence(r, ans))
	first := false
	if len(dec.settled) > 0 {
		a.settle(dec, ans.status)
		first = a.taken(dec)
	}
	for _, s := range dec.suspend {
		a.suspend(s, ans)
	}
	if dec.trouble && ans.verdict == stored {
		a.q.memory.unexplained = true
	}
	a.conclude(r, ans, dec, first)
	return dec
}

func (a *attempt) evidence(r request, ans answer) evidence {
	if ans.verdict == delivered { // needs no evidence
		return evidence{}
	}
	e := evidence{unexplained: a.q.memory.unexplained, shared: a.target.Shared && (a.q.memory.accepted || a.target.Delay > 0), searched: a.q.search.requests, jitter: rand.Float64()}
	d := a.d
	d.mu.Lock()
	e.inDoubt = a.q.inDoubt(a.s, r.readings)
	e.failures, e.slotFailures, e.alone = a.q.condition.failures, a.s.failures, a.q.alone()
	e.othersTaken = e.slotFailures > 0 && a.q.delivered > a.s.before
	e.untested = !a.q.memory.accepted && a.q.perhapsSent(a.s)
	e.asks = ans.verdict == stored && e.shared && len(r.readings) > 1 && d.asks.allow(&a.q.counted, len(r.readings), time.Now())
	e.fresh = !a.s.taken && len(a.s.doubts) == 0 && !a.q.stamps.doubted(a.s.stamp)
	d.mu.Unlock()
	at, c := a.id.time(), d.cfg.Clock
	e.ahead, e.passed, e.tooOld = c.Until(at), c.Passed(at), c.Expired(at, a.made)
	if ans.verdict == stored && !e.shared && !e.sentBefore() {
		var sent bool
		e.recorded, e.conflict, sent, e.unread = d.recorded(a.id, r.readings)
		e.fresh = e.fresh && !sent
	}
	return e
}

// settle removes readings from the outbox with their outcome. If no reading of the slot is left, the queue continues
// while the outcome is written to disk; otherwise settle returns once it is on disk. Many queues share one transaction.
func (a *attempt) settle(dec decision, status *int) {
	entry := audit.Entry{Outcome: dec.outcome, Status: status, Detail: join(dec.note, a.units(dec.settled))}
	if dec.outcome == audit.Rejected {
		entry.Reason = "conflict"
	}
	a.book(entry, dec.settled)
}

// book removes readings from the outbox and adds their line to the trail.
func (a *attempt) book(entry audit.Entry, settled []payload.Reading) {
	entry.Station, entry.Device, entry.Stamp, entry.Readings = a.target.StationID, a.id.device, a.id.stamp, audit.Readings(settled)
	w := &work{leaves: &a.id, settled: settled, entry: entry}
	if a.left -= len(settled); a.left > 0 {
		a.finish(w)
		return
	}
	w.version = a.version
	a.d.mu.Lock()
	a.q.leave(a.s)
	w.urgent = a.q.leaving >= doubtful // the queue cannot continue before it is on disk
	a.d.mu.Unlock()
	a.d.hand(w)
}

// hand passes work to the writer.
func (d *Delivery) hand(w *work) {
	w.done = make(chan error, 1)
	d.work <- w
}

// finish passes work to the writer and waits until it is on disk, or until the outbox is aborted.
func (a *attempt) finish(w *work) {
	w.urgent = true
	a.d.hand(w)
	select {
	case <-w.done:
	case <-a.d.ctx.Done():
	}
}

// remember stores the device's memory if it has changed.
func (a *attempt) remember() {
	if value, changed := a.changedMemory(); changed {
		a.d.hand(&work{memory: &store.Op{Key: memoryPrefix + a.q.device, Value: value}})
	}
}

func (a *attempt) changedMemory() (value []byte, changed bool) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	if a.d.postpone(a.q) {
		return nil, false
	}
	value = a.q.remember()
	changed = string(value) != a.q.saved
	a.q.saved = string(value)
	return value, changed
}

func (a *attempt) suspend(r payload.Reading, ans answer) {
	u, m := unitOf{r.Parameter, r.Unit}, &a.q.memory
	delete(m.suspects, u)
	if _, unit := a.target.current(r); unit != "" && unit != r.Unit && ans.reason() == invalidUnit {
		a.d.cfg.Logger.Info("the server refuses the unit of waiting readings: they are sent in the unit that is configured now",
			"device", a.q.device, "parameter", r.Parameter, "unit", r.Unit, "configured", unit)
		m.replaced[u] = true
		return
	}
	if m.suspended[u] == nil {
		a.d.cfg.Logger.Error("the server refuses a parameter: its readings wait, the device's other parameters are sent; check the key and the unit with the board",
			"device", a.q.device, "parameter", r.Parameter, "unit", r.Unit, "reason", ans.detail)
	}
	m.suspended[u] = &suspension{reason: ans.reason(), tried: time.Now()}
}

// taken records what the server has accepted. If it accepts a parameter that it refused before, all refused parameters
// are tried again. first reports that this is the first slot of the device that it has accepted.
func (a *attempt) taken(dec decision) (first bool) {
	m := &a.q.memory
	if dec.outcome == audit.Delivered {
		first = !m.accepted
		m.unexplained, m.accepted = false, true
	}
	for _, r := range dec.settled {
		delete(m.suspects, unitOf{r.Parameter, r.Unit})
		for u, s := range m.suspended {
			if u.parameter == r.Parameter && (u.unit == r.Unit || s.reason != invalidUnit) {
				clear(m.suspended)
			}
		}
	}
	return first
}

// conclude updates slot and queue after a decision.
func (a *attempt) conclude(r request, ans answer, dec decision, first bool) {
	d, now := a.d, time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if ans.doubt {
		a.s.note(newDoubt(r.readings))
	}
	switch {
	case dec.outcome == audit.Delivered && len(dec.settled) > 0:
		a.q.delivered++
		a.s.taken = true
	case dec.state == backingOff || ans.whole:
		if a.s.failures == 0 {
			a.s.before = a.q.delivered
		}
		a.s.failures++
	}
	if dec.state != ready || dec.park {
		d.release(a.s)
	}
	if dec.park {
		a.q.park(a.s, now, d.cfg.HoldInterval.Duration)
		a.s.refusal = ans
	}
	if dec.trouble || len(dec.suspend) > 0 {
		a.explain(ans, dec)
	}
	if a.parked && len(dec.settled) > 0 {
		a.q.unpark()
	}
	if first {
		a.q.retryPerhapsSent()
	}
	before := a.q.condition
	d.setCondition(a.q, before.after(dec, ans, now))
	if dec.state == held && ans.detail != notConfigured {
		d.outageGoesOn(a.q.device, 1)
	}
	a.log(before, dec, ans)
}

// explain records why a person must look at waiting slots, and logs it once. Delivery.mu is held.
func (a *attempt) explain(ans answer, dec decision) {
	m, reason, cure := &a.q.memory, ans.reason(), ans.cure()
	if dec.trouble && ans.verdict == stored {
		a.s.foreign = a.s.foreign || dec.foreign
		reason = whose(m.reason, a.q.foreign(), m.accepted)
		cure = cmp.Or(cures[reason], cure)
	}
	if dec.trouble && m.reason != reason {
		a.d.cfg.Logger.Error("the server's answer contradicts what is known of the slot: its readings wait apart and are tried slowly, newer ones are sent; "+cure,
			"device", a.q.device, "slot", spec.ISTString(a.id.time()), "reason", ans.detail, "next_try_in", a.d.cfg.HoldInterval.String())
	}
	m.reason, m.detail = reason, ans.detail
}

// log reports a decision if a person needs to know it.
func (a *attempt) log(before condition, dec decision, ans answer) {
	logger, now := a.d.cfg.Logger, a.q.condition
	switch {
	case before.state == held && now.state == ready:
		logger.Info("the server accepts the device's readings again", "device", a.q.device)
	case dec.state == held && ans.detail == notConfigured:
		if before.detail != now.detail {
			logger.Error("slots wait for a device that is not configured: put it back, or name it in `formerly` of the device that replaces it",
				"device", a.q.device, "waiting_slots", a.q.stamps.n)
		}
	case dec.state == held && (before.state != held || before.detail != now.detail):
		logger.Error("the server refuses the device: its readings wait; check station id, device id, token and key",
			"device", a.q.device, "waiting_slots", a.q.stamps.n, "reason", ans.detail, "next_try_in", dec.pause.String())
	case ans.verdict == notScheduled && !dec.trouble && !a.parked:
		logger.Info("no calibration is scheduled with the board: the point waits apart, in case the board schedules one", "device", a.q.device,
			"slot", spec.ISTString(a.id.time()), "reason", ans.detail)
	case dec.state == waiting:
		logger.Warn("the server says the slot is in the future: waiting", "device", a.q.device,
			"slot", spec.ISTString(a.id.time()), "server_ahead_by", a.d.cfg.Clock.Skew().String())
	case (dec.state == backingOff || dec.state == unreachable) && now.failures == 1:
		logger.Warn("an attempt failed: trying again", "device", a.q.device, "reason", ans.detail, "next_try_in", dec.pause.String())
	}
}

// record returns the content of a request for a device.
func (t Target) record(rs []payload.Reading) payload.Record {
	return payload.Record{StationID: t.StationID, DeviceID: t.DeviceID, Latitude: t.Latitude, Longitude: t.Longitude, Readings: rs}
}

// send makes one request with a new signature.
func (a *attempt) send(rs []payload.Reading) answer {
	d := a.d
	text, err := a.target.record(rs).Marshal()
	if err != nil {
		return answer{verdict: failed, detail: err.Error()}
	}
	sent := time.Now()
	signed := sent
	if d.cfg.SignatureTime == "slot" {
		signed = a.id.time()
	}
	signature, err := a.target.Sealer.Sign(signed)
	if err != nil {
		return answer{verdict: refusedDevice, detail: err.Error()}
	}
	ctx, giveUp := context.WithCancelCause(d.ctx)
	defer giveUp(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.cfg.Endpoint, bytes.NewReader(a.target.Sealer.Seal(text)))
	if err != nil {
		return answer{verdict: failed, detail: err.Error()}
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("User-Agent", d.agent)
	req.Header["signature"] = []string{signature} // lower case as in the API document (spec 2.3)
	req.Header.Set("X-Device-Id", a.q.device)
	ended := a.watch(giveUp)
	ans := d.exchange(req, sent, a.id.time())
	ended()
	d.noteAnswer(a.q, ans, sent)
	if d.cfg.OnTry != nil {
		d.cfg.OnTry(time.Since(sent), ans.verdict == delivered)
	}
	return ans
}

func (d *Delivery) exchange(req *http.Request, sent, stamp time.Time) answer {
	var left atomic.Bool // the whole request was written, as far as can be known
	trace := httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { left.Store(true) },
		WroteRequest: func(i httptrace.WroteRequestInfo) { left.Store(i.Err == nil) },
	}
	resp, err := d.cfg.Client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), &trace)))
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return answer{verdict: failed, detail: "no answer: " + d.cfg.Words.hint(err, d.cfg.Hide), unanswered: true, doubt: left.Load()}
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return answer{verdict: failed, detail: "half an answer: " + d.cfg.Words.hint(err, d.cfg.Hide), unanswered: true, doubt: true}
	}
	if code, _, ok := readStatus(body); ok && code == int(spec.StatusSuccess) && resp.StatusCode/100 == 2 { // nothing of the body is logged, so nothing needs to be hidden
		d.observe(resp.Header, sent, true, stamp)
		return answer{verdict: delivered, status: &code}
	}
	for _, values := range resp.Header {
		for i, v := range values {
			values[i] = string(d.cfg.Hide([]byte(v)))
		}
	}
	ans := judge(resp, d.cfg.Hide(body))
	if ans.status != nil || speaks(resp) {
		d.observe(resp.Header, sent, ans.status != nil, time.Time{})
	}
	return ans
}
