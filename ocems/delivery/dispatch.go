package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
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

// startDue starts the due queues that are admitted, and returns the time until more are due.
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

// worker runs attempts until the end. A goroutine that is reused keeps its grown stack.
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

// maxInFlight is the limit of all requests in flight, as a multiple of limit. Those beyond limit hang.
const maxInFlight = 8

// admits reports whether a device of a standing may send now. Devices that hang start without a place. They leave room
// for all others, and those leave room for devices that were answered.
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

// needsPlace reports whether a request counts against limit from its start. While the server is unreachable, all
// devices are treated alike.
func (d *Delivery) needsPlace(s standing) bool { return s != hanging || d.server.unreachable }

// limit is how many requests may be in flight, besides those that hang. While the server is unreachable, one request
// probes for all devices.
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

// giveBack frees the attempt's place, if it still has one. Delivery.mu is held.
func (a *attempt) giveBack() {
	if a.place {
		a.place = false
		a.d.places--
		a.d.wake.send()
	}
}

// watch makes the attempt give its place back when the request that begins now hangs. Later it aborts the request if
// hanging requests leave no room for devices that have sent nothing yet. The caller calls ended when the request ends.
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
			giveUp(fmt.Errorf("none within %s, and other devices wait", long))
		}
	})
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		over = true
		t.Stop()
	}
}

// slowForAll reports that no device was answered lately. Before the first answer it reports that even a slow answer to
// this request cannot be expected yet.
func (d *Delivery) slowForAll(sent time.Time, long time.Duration) bool {
	if d.server.answeredAt.IsZero() {
		return time.Since(sent) < 2*long
	}
	return time.Since(d.server.answeredAt) > 2*long
}

const longHang = 10 * time.Second

// patience is how long a request keeps its place. A request that was aborted has already lost it.
func (d *Delivery) patience() time.Duration {
	p := d.latency.patience()
	if timeout := d.cfg.Client.Timeout; timeout > 0 {
		p = min(p, timeout)
	}
	return p
}

// checkServer checks whether the server has not answered for too long, and returns the time until the next check.
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
	d.cfg.Logger.Error("the server does not answer: the readings wait in the outbox", "since", spec.ISTString(d.server.since.Truncate(time.Second)), "reason", d.server.reason)
	d.changed.send()
	d.outageBegins("", d.server.since, "", d.server.reason)
	d.outageGoesOn("", d.server.attempts)
}

// noteAnswer records the result of a request: the standing of its device, if it has one, and whether the server is
// reachable. The first answer after an outage starts all queues again, except those that wait for something else.
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
		if q.standing == hanging { // the cause may have been the server: let the device take a place once more
			q.standing = failing
		}
		if q.condition.state == unreachable || q.condition.state == ready {
			q.condition = condition{until: now.Add(d.offset(q.device))}
		}
		d.schedule.set(q)
	}
}

// queue returns a device's queue and creates it if needed. Delivery.mu is held.
func (d *Delivery) queue(device string) *queue {
	q := d.queues[device]
	if q == nil {
		q = newQueue(device)
		q.delay = d.delay(device)
		d.queues[device] = q
	}
	return q
}

// delay returns the configured delay of a device. The offset is added so that the devices of a standby hub do not send
// at the same instant.
func (d *Delivery) delay(device string) time.Duration {
	target, _ := d.cfg.Lookup(device)
	if target.Delay > 0 {
		return target.Delay + d.offset(device)
	}
	return 0
}

// reschedule schedules a queue, or removes it if it is empty and its standing is not needed. Delivery.mu is held.
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

// forget removes the empty queues of devices that were not answered lately, such as those that have left the
// configuration. Delivery.mu is held.
func (d *Delivery) forget(now time.Time) {
	maps.DeleteFunc(d.queues, func(_ string, q *queue) bool {
		return q.stamps.n == 0 && !q.busy() && q.memory.empty() && q.saved == "" && now.Sub(q.answered) >= lately
	})
}

// setCondition sets a queue's condition and updates the list of queues for which a person is needed. Delivery.mu is
// held.
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
			d.cfg.Logger.Info("no slot of the device waits apart any more", "device", q.device)
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

// countHeld updates the count of held devices for a reason. Delivery.mu is held.
func (d *Delivery) countHeld(reason string, n int) {
	if d.heldFor[reason] += n; d.heldFor[reason] == 0 {
		delete(d.heldFor, reason)
	}
}

// offset spreads the devices' requests after a slot boundary. Device ids may differ in one digit, so a strong hash is
// needed.
func (d *Delivery) offset(device string) time.Duration {
	if d.cfg.Spread.Duration == 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(device))
	return time.Duration(float64(d.cfg.Spread.Duration) * (float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)))
}
