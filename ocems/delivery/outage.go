package delivery

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

// evident is how long the server is without an answer, or a device held, before the trail says so. What is shorter keeps no
// slot from the board for long, and a server that comes and goes writes no more than two lines in that time.
const evident = 5 * time.Minute

// lookAgain is between two looks at all outages: where a key is wrong, a hub has thousands, each of its own millisecond.
const lookAgain = time.Second

// outage is a time without an answer of the server, or in which a device is held, for the trail: one line when it is
// evident, one when it is over.
type outage struct {
	since          time.Time
	reason, detail string
	told           bool // the trail says that it began
	over           bool
	attempts       int
}

// outages are those that are not over, or not yet in the trail, by device; that of the server is "". Delivery.mu guards them.
type outages struct {
	by   map[string]*outage
	due  time.Time // when the next one is evident; zero: none
	news bool      // something may be for the trail
}

// outageBegins notes one. It goes on where the trail has not been told of its end. Delivery.mu is held.
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

// see has them looked at again at a time, at the latest.
func (s *outages) see(at time.Time) {
	if s.due.IsZero() || at.Before(s.due) {
		s.due = at
	}
}

// outageGoesOn counts an attempt in it. Delivery.mu is held.
func (d *Delivery) outageGoesOn(device string, attempts int) {
	if o := d.outages.by[device]; o != nil {
		o.attempts += attempts
	}
}

// outageEnds notes that one is over. Delivery.mu is held.
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

// checkOutages has the writer tell of those that have become evident, and says when to see again.
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
	s.due = later(s.due, now.Add(lookAgain))
	return s.due.Sub(now)
}

// tellOutages writes the lines of outages. What cannot be written is tried again, and nothing waits for it.
func (d *Delivery) tellOutages() {
	entries, undo := d.outageLines()
	if len(entries) > 0 && d.cfg.Trail.Append(entries...) != nil {
		undo()
	}
}

// outageLines are what the trail is to say. undo is for the case that it cannot be written.
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
			o.over = d.outages.by[device] == nil // else it goes on
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
