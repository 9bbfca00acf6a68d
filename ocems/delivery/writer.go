package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// work is what the writer carries out: a Put, or an outcome, by which readings leave a slot.
type work struct {
	records []payload.Record
	with    []store.Op

	leaves  *place            // nil for a Put
	settled []payload.Reading // leave it
	entry   audit.Entry       // what became of them
	logged  bool              // the entry is in the trail

	taken atomic.Bool // by the writer, or by the Put that gave up waiting
	done  chan error
}

// content is what a slot holds while a transaction is made.
type content struct {
	readings []payload.Reading
	changed  bool
	whole    bool // of a window that closed as a whole: it waits for no other parameters
}

type contents map[place]*content

// at is the content of a slot, empty where nothing waits.
func (c contents) at(p place) *content {
	if c[p] == nil {
		c[p] = &content{}
	}
	return c[p]
}

const maxGathered = 512 // works in one transaction

const (
	firstRewrite = 100 * time.Millisecond
	lastRewrite  = 10 * time.Second
)

// writeLoop is the only writer of the outbox. It carries out all work that waits in one transaction. An outcome that
// could not be written is tried again, with all later work too, and never makes a Put wait.
func (d *Delivery) writeLoop() {
	var unwritten []*work
	wait := firstRewrite
	for open := true; open; {
		var retry <-chan time.Time
		if len(unwritten) > 0 {
			retry = time.After(wait)
		}
		var list []*work
		if list, open = d.gather(retry); len(list) == 0 {
			wait = min(2*wait, lastRewrite)
		}
		before := len(unwritten)
		var err error
		switch unwritten, err = d.write(append(unwritten, list...)); {
		case len(unwritten) == 0:
			wait = firstRewrite
		case before == 0:
			d.cfg.Logger.Error("cannot write the outbox or the audit trail: free disk space or mend the directory; trying again", "error", err)
		}
	} // an outcome that is unwritten even now is sent again after the restart, and answered 111
}

// gather waits for work or for the time of a retry, and takes all there is. open is false once the outbox is closed.
func (d *Delivery) gather(retry <-chan time.Time) (list []*work, open bool) {
	select {
	case w, ok := <-d.work:
		if !ok {
			return nil, false
		}
		list = w.take(list)
	case <-retry:
	}
	for len(list) < maxGathered {
		select {
		case w, ok := <-d.work:
			if !ok {
				return list, false
			}
			list = w.take(list)
		default:
			return list, true
		}
	}
	return list, true
}

func (w *work) take(list []*work) []*work {
	if w.taken.Swap(true) {
		return list
	}
	return append(list, w)
}

// write carries out a list and returns the outcomes that are still to be written, with the reason. A Put that cannot be
// written goes back to the host, which keeps its readings.
func (d *Delivery) write(list []*work) (unwritten []*work, err error) {
	slots, readable, unwritten, err := d.read(list)
	fault := d.commit(readable, slots)
	if fault == nil {
		return unwritten, err
	}
	var puts []*work
	for _, w := range readable {
		if w.leaves == nil {
			puts = append(puts, w)
		} else {
			unwritten = append(unwritten, w)
		}
	}
	if errors.Is(fault, errTrail) && len(puts) > 0 && len(puts) < len(readable) { // a Put seldom has anything for the trail
		_, _ = d.write(puts)
		return unwritten, fault
	}
	for _, w := range puts {
		w.done <- fmt.Errorf("writing the outbox: %w", fault)
	}
	return unwritten, fault
}

var errTrail = errors.New("the audit trail")

// read reads the slots that a list is about. Work about a slot that the store cannot read now is parted from the rest.
func (d *Delivery) read(list []*work) (slots contents, readable, unwritten []*work, err error) {
	slots = contents{}
	for _, w := range list {
		fault := d.readFor(w, slots)
		switch {
		case fault == nil:
			readable = append(readable, w)
		case w.leaves == nil:
			w.done <- fmt.Errorf("writing the outbox: %w", fault)
		default:
			unwritten, err = append(unwritten, w), fault
		}
	}
	return slots, readable, unwritten, err
}

func (d *Delivery) readFor(w *work, slots contents) error {
	for p := range w.places() {
		if slots[p] != nil || !d.waits(p) {
			continue
		}
		c, err := d.readSlot(p)
		if err != nil {
			return err
		}
		slots[p] = c
	}
	return nil
}

// places are the slots that it is about.
func (w *work) places() map[place]bool {
	out := map[place]bool{}
	if w.leaves != nil {
		out[*w.leaves] = true
	}
	for _, rec := range w.records {
		for _, r := range rec.Readings {
			out[place{rec.DeviceID, r.Stamp.UnixMilli()}] = true
		}
	}
	return out
}

// waits reports whether the store has a slot. The queues know: nobody else writes the outbox.
func (d *Delivery) waits(p place) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queues[p.device]
	if q == nil {
		return false
	}
	_, found := q.find(p.stamp)
	return found
}

// readSlot reads a slot that waits. Where it is damaged or lost, that is noted, and the slot is empty.
func (d *Delivery) readSlot(p place) (*content, error) {
	rs, value, err := d.load(context.WithoutCancel(d.ctx), p)
	switch {
	case errors.Is(err, errDamaged):
		d.keepDamaged(p, value)
	case err != nil:
		return nil, err
	case value == nil:
		d.noteLost(p)
	default:
		return &content{readings: rs}, nil
	}
	return &content{changed: true}, nil
}

// load reads a slot's readings, and their value for the case that it is damaged. Both are nil where there is none.
func (d *Delivery) load(ctx context.Context, p place) (rs []payload.Reading, value []byte, err error) {
	value, err = d.cfg.Store.Get(ctx, p.key())
	if err == nil && value != nil {
		rs, err = decodeReadings(value, p.stamp)
	}
	if err != nil {
		return nil, value, fmt.Errorf("reading slot %s of device %q: %w", spec.ISTString(p.time()), p.device, err)
	}
	return rs, value, nil
}

// commit carries out a list in one transaction, in this order: audit trail, store, queues.
func (d *Delivery) commit(list []*work, slots contents) error {
	entries, ops := d.pendingRepairs()
	for _, w := range list {
		entries = append(entries, w.apply(slots)...)
		ops = append(ops, w.with...)
	}
	if err := d.audit(entries); err != nil {
		return fmt.Errorf("%w: %w", errTrail, err)
	}
	for i := range d.repairs {
		d.repairs[i].logged = true
	}
	for _, w := range list {
		w.logged = true
	}
	if ops = append(ops, slots.operations()...); len(ops) > 0 {
		if err := d.cfg.Store.Batch(context.WithoutCancel(d.ctx), ops...); err != nil {
			return err
		}
	}
	d.repairs = nil
	d.update(slots)
	for _, w := range list {
		w.done <- nil
	}
	return nil
}

// apply changes the slots and returns what the trail must have first.
func (w *work) apply(slots contents) (entries []audit.Entry) {
	for _, rec := range w.records {
		for _, r := range rec.Readings {
			entries = append(entries, slots.add(rec, r)...)
			slots.at(place{rec.DeviceID, r.Stamp.UnixMilli()}).whole = len(w.with) > 0
		}
	}
	if w.leaves == nil {
		return entries
	}
	slots.remove(*w.leaves, w.settled)
	if w.entry.Outcome != "" && !w.logged {
		entries = append(entries, w.entry)
	}
	return entries
}

// add puts a reading into its slot, or returns an entry of its refusal.
func (c contents) add(rec payload.Record, r payload.Reading) []audit.Entry {
	r.Parameter, r.Unit = strings.TrimSpace(r.Parameter), strings.TrimSpace(r.Unit)
	p := place{rec.DeviceID, r.Stamp.UnixMilli()}
	slot := c.at(p)
	i := slices.IndexFunc(slot.readings, func(x payload.Reading) bool { return sameParameter(x, r) })
	if i < 0 {
		slot.readings, slot.changed = append(slot.readings, r), true
		return nil
	}
	x := slot.readings[i]
	if x.Value == r.Value && x.Unit == r.Unit && x.Flag == r.Flag {
		return nil
	}
	return []audit.Entry{{Outcome: audit.Refused, Station: rec.StationID, Device: p.device, Stamp: p.stamp,
		Readings: audit.Readings([]payload.Reading{r}),
		Detail:   fmt.Sprintf("value %v %s flag %s for the same parameter and stamp waits already", x.Value, x.Unit, x.Flag)}}
}

func (c contents) remove(p place, settled []payload.Reading) {
	slot := c.at(p)
	slot.changed = true
	slot.readings = slices.DeleteFunc(slot.readings, func(x payload.Reading) bool {
		return slices.ContainsFunc(settled, func(r payload.Reading) bool { return sameParameter(x, r) })
	})
}

// sameParameter reports whether two readings of one stamp are of one parameter. A calibration point is apart from the
// 15-minute average that ends with it.
func sameParameter(a, b payload.Reading) bool {
	return a.Parameter == b.Parameter && a.Diagnostic == b.Diagnostic && a.Flag.Calibration() == b.Flag.Calibration()
}

// operations are the store's writes for the new content.
func (c contents) operations() (ops []store.Op) {
	for p, slot := range c {
		switch {
		case !slot.changed:
		case len(slot.readings) == 0:
			ops = append(ops, store.Op{Key: p.key()})
		default:
			ops = append(ops, store.Op{Key: p.key(), Value: encodeReadings(slot.readings)})
		}
	}
	return ops
}

// update brings the queues to what the store now holds.
func (d *Delivery) update(slots contents) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for p, slot := range slots {
		if slot.changed {
			q := d.queue(p.device)
			wait := d.offset(p.device)
			if !slot.whole {
				wait += d.cfg.Coalesce
			}
			q.update(p.stamp, len(slot.readings) > 0, now.Add(wait))
			d.place(q)
		}
	}
	d.wake.send()
}

// audit writes to the trail, or to the log where there is none.
func (d *Delivery) audit(entries []audit.Entry) error {
	if d.cfg.Trail != nil {
		if err := d.cfg.Trail.Append(entries...); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if d.cfg.OnResult != nil {
			d.cfg.OnResult(e.Outcome, len(e.Readings))
		}
		d.log(e)
	}
	return nil
}

func (d *Delivery) log(e audit.Entry) {
	slot := spec.ISTString(time.UnixMilli(e.Stamp))
	switch e.Outcome {
	case audit.Rejected, audit.Expired, audit.Refused:
		d.cfg.Logger.Warn("readings are not at the server", "outcome", e.Outcome, "device", e.Device,
			"slot", slot, "readings", e.Readings, "reason", e.Detail)
	case audit.Delivered, audit.AlreadyStored:
		if d.cfg.Trail == nil {
			d.cfg.Logger.Info("readings are at the server", "outcome", e.Outcome, "device", e.Device,
				"slot", slot, "readings", e.Readings, "detail", e.Detail)
		}
	}
}
