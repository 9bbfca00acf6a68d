package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// dispatch starts an attempt of each queue when it is due.
func (d *Delivery) dispatch() {
	timer := time.NewTimer(forever)
	defer timer.Stop()
	for {
		timer.Reset(min(d.startDue(), d.checkServer()))
		select {
		case <-d.wake:
		case <-timer.C:
		case <-d.stop:
			return
		}
	}
}

// startDue starts what is due, as far as there are places, and says how long until the next is.
func (d *Delivery) startDue() (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cfg.Clock.Hold() {
		return askTick
	}
	for !d.closing && d.active < d.limit() {
		var q *queue
		if q, wait = d.schedule.next(time.Now()); q == nil {
			return wait
		}
		d.running.Go(d.attempt(q).run)
	}
	return forever // the end of an attempt wakes the dispatcher
}

// limit is how many requests may be in flight.
func (d *Delivery) limit() int {
	if d.server.probing() {
		return 1
	}
	return d.cfg.MaxConcurrency
}

// checkServer sees whether the server has been without an answer for too long, and says when to see again.
func (d *Delivery) checkServer() (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait, changed := d.server.check(time.Now())
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
}

// noteAnswer notes whether the server can be reached. The first answer after it could not brings back all queues that
// wait for one.
func (d *Delivery) noteAnswer(device string, ans answer, sent time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ans.unanswered {
		if d.server.failed(device, ans.detail, sent) {
			d.logUnreachable()
		}
		return
	}
	now := time.Now()
	if !d.server.answered(now) {
		return
	}
	d.cfg.Logger.Info("the server answers again")
	d.changed.send()
	for _, q := range d.queues {
		if q.condition.state == unreachable {
			q.condition = condition{until: now.Add(d.offset(q.device))}
			d.schedule.set(q)
		}
	}
}

// queue returns a device's queue, which it makes. Delivery.mu is held.
func (d *Delivery) queue(device string) *queue {
	q := d.queues[device]
	if q == nil {
		q = newQueue(device)
		d.queues[device] = q
	}
	return q
}

// reschedule schedules a queue, or removes it when it is empty. Delivery.mu is held.
func (d *Delivery) reschedule(q *queue) {
	d.schedule.set(q)
	if len(q.slots) == 0 && !q.busy {
		d.setCondition(q, condition{})
		delete(d.queues, q.device)
	}
}

// setCondition keeps the list of held queues. Delivery.mu is held.
func (d *Delivery) setCondition(q *queue, c condition) {
	before := q.condition
	q.condition = c
	i, found := slices.BinarySearchFunc(d.held, q.device, byDevice)
	switch {
	case c.state == held && !found:
		d.held = slices.Insert(d.held, i, q)
	case c.state != held && found:
		d.held = slices.Delete(d.held, i, i+1)
	}
	if c.state == held && c.detail != before.detail || found != (c.state == held) {
		d.changed.send()
	}
}

// offset spreads the devices' requests after a boundary. Device ids differ by a digit: only a strong hash scatters them.
func (d *Delivery) offset(device string) time.Duration {
	sum := sha256.Sum256([]byte(device))
	return time.Duration(float64(d.cfg.Spread.Duration) * (float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)))
}
