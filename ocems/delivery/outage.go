package delivery

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// evident is how long an outage lasts before the trail records it. A shorter one does not delay a slot for long, and a
// server with frequent outages causes at most two lines in this time.
const evident = 5 * time.Minute

// lookAgain is the shortest time between two checks of all outages: with one wrong key, a hub has thousands that begin
// at different milliseconds.
const lookAgain = time.Second

// outage is a time in which the server does not answer or a device is held. The trail gets one line when it is evident
// and one when it is over.
type outage struct {
	since          time.Time
	reason, detail string
	told           bool // its first line is in the trail
	over           bool
	attempts       int
}

// outages has those that are not over, or not yet in the trail, by device; "" is the server. Delivery.mu guards them.
type outages struct {
	by   map[string]*outage
	due  time.Time // when the next one becomes evident; zero: none
	news bool      // there may be lines for the trail
}

// outageBegins adds an outage, or continues one whose end is not yet in the trail. Delivery.mu is held.
func (d *Delivery) outageBegins(device string, since time.Time, reason, detail string) {
	if d.cfg.Trail == nil || d.cfg.DryRun {
		return
	}
	if o := d.outages.by[device]; o != nil {
		o.over = false
		return
	}
	if d.outages.by == nil {
		d.outages.by = map[string]*outage{}
	}
	d.outages.by[device] = &outage{since: since, reason: reason, detail: detail}
	d.outages.see(since.Add(evident))
	d.wake.send()
}

// see schedules a check of all outages no later than at.
func (s *outages) see(at time.Time) {
	if s.due.IsZero() || at.Before(s.due) {
		s.due = at
	}
}

// outageGoesOn counts attempts in an outage. Delivery.mu is held.
func (d *Delivery) outageGoesOn(device string, attempts int) {
	if o := d.outages.by[device]; o != nil {
		o.attempts += attempts
	}
}

// outageEnds ends an outage. Delivery.mu is held.
func (d *Delivery) outageEnds(device string) {
	o := d.outages.by[device]
	switch {
	case o == nil:
	case o.told:
		o.over, d.outages.news = true, true
		d.noted.send()
	default:
		delete(d.outages.by, device)
	}
}

// checkOutages makes the writer record outages that have become evident, and returns the time until the next check.
func (d *Delivery) checkOutages() (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, now := &d.outages, time.Now()
	if s.due.IsZero() {
		return forever
	}
	if wait = s.due.Sub(now); wait > 0 {
		return wait
	}
	s.due, s.news = time.Time{}, true
	for _, o := range s.by {
		if due := o.since.Add(evident); due.After(now) {
			s.see(due)
		}
	}
	d.noted.send()
	if s.due.IsZero() {
		return forever
	}
	s.due = spec.Later(s.due, now.Add(lookAgain))
	return s.due.Sub(now)
}

// tellOutages writes the lines of outages. A failed write is tried again, and nothing waits for it.
func (d *Delivery) tellOutages() {
	entries, undo := d.outageLines()
	if len(entries) > 0 && d.cfg.Trail.Append(entries...) != nil {
		undo()
	}
}

// outageLines returns the lines for the trail. undo restores the outages if the write fails.
func (d *Delivery) outageLines() (entries []audit.Entry, undo func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.outages.news {
		return nil, nil
	}
	d.outages.news = false
	begun, over := map[string]*outage{}, map[string]*outage{}
	for device, o := range d.outages.by {
		switch {
		case o.told && o.over:
			entries = append(entries, o.entry(d, device, audit.Released, audit.Reachable))
			over[device] = o
			delete(d.outages.by, device)
		case !o.told && time.Since(o.since) >= evident:
			entries = append(entries, o.entry(d, device, audit.Held, audit.Unreachable))
			begun[device], o.told = o, true
		}
	}
	slices.SortFunc(entries, func(a, b audit.Entry) int { return cmp.Compare(a.Device, b.Device) })
	return entries, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for device, o := range begun {
			if o.told = false; o.over {
				delete(d.outages.by, device)
			}
		}
		for device, o := range over {
			o.over = d.outages.by[device] == nil // else a new one has begun: continue it
			d.outages.by[device] = o
		}
		d.outages.see(time.Now().Add(lastRewrite))
		d.wake.send()
	}
}

func (o *outage) entry(d *Delivery, device string, ofDevice, ofServer audit.Outcome) audit.Entry {
	e := audit.Entry{Outcome: ofServer, Device: device, Stamp: o.since.UnixMilli(), Detail: o.detail}
	if device != "" {
		target, _ := d.cfg.Lookup(device)
		e.Outcome, e.Station, e.Reason = ofDevice, target.StationID, o.reason
	}
	if n, err := strconv.Atoi(o.reason); err == nil {
		e.Status, e.Reason = &n, ""
	}
	if o.over {
		e.Count = o.attempts
	}
	return e
}
