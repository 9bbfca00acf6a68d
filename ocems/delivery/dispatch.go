package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

// dispatch starts an attempt of each queue when it is due.
func (d *Delivery) dispatch() {
	timer := time.NewTimer(forever)
	defer timer.Stop()
	for {
		timer.Reset(min(d.startDue(), d.checkServer(), d.checkOutages()))
		select {
		case <-d.wake:
		case <-timer.C:
		case <-d.stop:
			return
		}
	}
}

// startDue starts what is due, as far as it is admitted, and says how long until more is due.
func (d *Delivery) startDue() (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cfg.Clock.Hold() {
		return askTick
	}
	for !d.closing && d.mayStart() {
		var q *queue
		if q, wait = d.schedule.next(time.Now(), d.admits); q == nil {
			return wait
		}
		a := d.attempt(q)
		select {
		case d.idle <- a:
		default:
			d.running.Go(func() { d.worker(a) })
		}
	}
	return forever
}

// worker runs attempts until the end: a goroutine's stack has to grow for each anew.
func (d *Delivery) worker(a *attempt) {
	for {
		a.run()
		select {
		case a = <-d.idle:
		case <-d.stop:
			return
		}
	}
}

// maxInFlight is how many requests may be in flight in all, as a multiple of limit. Those beyond limit hang.
const maxInFlight = 8

// admits reports whether a device of a standing may be asked now. Devices that hang begin without a place. They leave
// room for all others, and those leave room for the devices that were answered.
func (d *Delivery) admits(s standing) bool {
	return d.hasRoom(s) && (!d.needsPlace(s) || d.places < d.limit())
}

func (d *Delivery) hasRoom(s standing) bool {
	room := maxInFlight
	switch s {
	case hanging:
		room -= 2
	case unasked, failing:
		room--
	}
	return d.inFlight < room*d.limit()
}

// needsPlace reports whether a request of a device counts against limit from its start. While nobody is answered all
// devices are alike.
func (d *Delivery) needsPlace(s standing) bool { return s != hanging || d.server.unreachable }

// limit is how many requests may be in flight, besides those that hang. While the server is unreachable, one asks for
// all the others.
func (d *Delivery) limit() int {
	if d.server.unreachable {
		return 1
	}
	return d.cfg.MaxConcurrency
}

// takePlace counts an attempt that begins. Delivery.mu is held.
func (d *Delivery) takePlace(a *attempt) {
	d.inFlight++
	if a.place = d.needsPlace(a.q.standing); a.place {
		d.places++
	}
}

// giveBack gives the attempt's place, where it still has one, to another. Delivery.mu is held.
func (a *attempt) giveBack() {
	if a.place {
		a.place = false
		a.d.places--
		a.d.wake.send()
	}
}

// watch has the attempt give its place back when the request that begins now hangs. Later it gives the request up, if there
// are so many that devices which were never asked have no room. The request's end is to call ended.
func (a *attempt) watch(giveUp func(error)) (ended func()) {
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	sent, patience := time.Now(), d.patience()
	long := max(longHang, 2*patience)
	over := false
	var t *time.Timer
	t = time.AfterFunc(patience, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		switch {
		case over:
		case a.place:
			a.giveBack()
			t.Reset(long - patience)
		case d.hasRoom(unasked), d.slowForAll(sent, long):
			t.Reset(time.Second)
		default:
			giveUp(fmt.Errorf("none for %s, and other devices wait", long))
		}
	})
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		over = true
		t.Stop()
	}
}

// slowForAll reports that nobody was answered lately; before the first answer, that not even a slow one can be expected of a
// request yet.
func (d *Delivery) slowForAll(sent time.Time, long time.Duration) bool {
	if d.server.answeredAt.IsZero() {
		return time.Since(sent) < 2*long
	}
	return time.Since(d.server.answeredAt) > 2*long
}

const longHang = 10 * time.Second

// patience is how long a request keeps its place. One that was given up has lost it.
func (d *Delivery) patience() time.Duration {
	p := d.latency.patience()
	if timeout := d.cfg.Client.Timeout; timeout > 0 {
		p = min(p, timeout)
	}
	return p
}

// checkServer sees whether the server has been without an answer for too long, and says when to see again.
func (d *Delivery) checkServer() (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	wait, changed := d.server.check(now, func() bool {
		for _, q := range d.queues {
			if q.standing == answering && now.Sub(q.answered) < lately {
				return true
			}
		}
		return false
	})
	if changed {
		d.logUnreachable()
	}
	if wait == 0 {
		return forever
	}
	return wait
}

func (d *Delivery) logUnreachable() {
	d.cfg.Logger.Error("the server does not answer: the readings wait in the outbox", "since", d.server.since, "reason", d.server.reason)
	d.changed.send()
	d.outageBegins("", d.server.since, "", d.server.reason)
	d.outageGoesOn("", d.server.attempts)
}

// noteAnswer notes what became of a request: where its device stands, if it was of one, and whether the server can be
// reached. The first
// answer after it could not brings back all queues, except what waits for something else.
func (d *Delivery) noteAnswer(q *queue, ans answer, sent time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	took := now.Sub(sent)
	if ans.unanswered {
		device, before := "", false
		if q != nil {
			device, before, q.standing = q.device, q.standing == answering, failing
			if took >= d.patience() {
				q.standing = hanging
			}
		}
		attempts := d.server.attempts
		if d.server.failed(device, before, ans.detail, sent) {
			d.logUnreachable()
		} else if d.server.unreachable {
			d.outageGoesOn("", d.server.attempts-attempts)
		}
		return
	}
	if q != nil {
		q.standing, q.answered = answering, now
		d.latency.note(took)
	}
	if !d.server.answered(now) {
		return
	}
	d.outageEnds("")
	d.cfg.Logger.Info("the server answers again")
	d.changed.send()
	for _, q := range d.queues {
		if q.standing == hanging { // was it the server or the device? It takes a place once more
			q.standing = failing
		}
		if q.condition.state == unreachable || q.condition.state == ready {
			q.condition = condition{until: now.Add(d.offset(q.device))}
		}
		d.schedule.set(q)
	}
}

// queue returns a device's queue, which it makes. Delivery.mu is held.
func (d *Delivery) queue(device string) *queue {
	q := d.queues[device]
	if q == nil {
		q = newQueue(device)
		q.delay = d.delay(device)
		d.queues[device] = q
	}
	return q
}

// delay is that of a device, as it is configured now. All devices of a hub that stands by would else have their turn at
// the same instant.
func (d *Delivery) delay(device string) time.Duration {
	target, _ := d.cfg.Lookup(device)
	if target.Delay > 0 {
		return target.Delay + d.offset(device)
	}
	return 0
}

// reschedule schedules a queue, or removes it when it is empty and its standing tells nothing. Delivery.mu is held.
func (d *Delivery) reschedule(q *queue) {
	q.tidy(time.Now())
	d.schedule.set(q)
	if q.stamps.n == 0 && !q.busy() {
		d.setCondition(q, condition{})
		if q.standing != answering && q.memory.empty() && q.saved == "" {
			delete(d.queues, q.device)
		}
	}
}

// forget removes the empty queues of devices that were not answered lately, such as have left the configuration.
// Delivery.mu is held.
func (d *Delivery) forget(now time.Time) {
	maps.DeleteFunc(d.queues, func(_ string, q *queue) bool {
		return q.stamps.n == 0 && !q.busy() && q.memory.empty() && q.saved == "" && now.Sub(q.answered) >= lately
	})
}

// setCondition sets a queue's condition and keeps the list of those for which a person is needed. Delivery.mu is held.
func (d *Delivery) setCondition(q *queue, c condition) {
	before := q.condition.state
	switch q.condition = c; {
	case c.state == held && before != held:
		d.outageBegins(q.device, time.Now(), c.reason, c.detail)
	case c.state != held && before == held:
		d.outageEnds(q.device)
	}
	if q.stamps.n == 0 || q.memory.reason != "" && len(q.memory.suspended) == 0 && q.parked() == 0 {
		if q.memory.reason != "" {
			d.cfg.Logger.Info("nothing of the device waits apart any more", "device", q.device)
		}
		q.memory.reason, q.memory.detail = "", ""
	}
	reason, trouble := q.waitsFor()
	if trouble == q.trouble && reason == q.heldFor {
		return
	}
	if d.cfg.OnTrouble != nil {
		d.cfg.OnTrouble(q.device)
	}
	i, found := slices.BinarySearchFunc(d.held, q.device, byDevice)
	if found {
		d.countHeld(q.heldFor, -1)
	}
	q.heldFor, q.trouble = reason, trouble
	switch {
	case trouble != "" && !found:
		d.held = slices.Insert(d.held, i, q)
	case trouble == "" && found:
		d.held = slices.Delete(d.held, i, i+1)
	}
	if trouble != "" {
		d.countHeld(reason, 1)
	}
	d.changed.send()
}

// countHeld counts the held devices of a reason. Delivery.mu is held.
func (d *Delivery) countHeld(reason string, n int) {
	if d.heldFor[reason] += n; d.heldFor[reason] == 0 {
		delete(d.heldFor, reason)
	}
}

// offset spreads the devices' requests after a boundary. Device ids differ by a digit: only a strong hash scatters them.
func (d *Delivery) offset(device string) time.Duration {
	if d.cfg.Spread.Duration == 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(device))
	return time.Duration(float64(d.cfg.Spread.Duration) * (float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)))
}
