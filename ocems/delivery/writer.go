package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	aligner "github.com/ocems-io/ocems/ocems/slot" // this package has a type slot
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// work is a unit of the writer's work: a Put, or an outcome by which readings leave a slot.
type work struct {
	records []payload.Record
	with    []store.Op
	whole   bool // these slots get no further parameters

	withdrawn *Withdrawal // goes to the trail with the reason clock; may be nil

	leaves  *slotID           // nil for a Put and for a memory alone
	settled []payload.Reading // readings that leave it
	entry   audit.Entry       // their outcome
	logged  bool              // the entry is in the trail
	memory  *store.Op         // new memory of a device
	version int               // of the slot, if it leaves as a whole
	urgent  bool              // a caller waits for it

	taken atomic.Bool // by the writer, or by the Put that gave up
	done  chan error
}

// Work that is not urgent is gathered for this time, or until there is this much of it.
const (
	maxGathered = 512
	gatherFor   = 1500 * time.Millisecond
)

const (
	firstRewrite = 100 * time.Millisecond
	lastRewrite  = 10 * time.Second
)

// writeLoop is the only writer of the outbox. It carries out all waiting work in one transaction. A failed outcome is
// tried again, together with all later work, and never delays a Put.
func (d *Delivery) writeLoop() {
	var unwritten []*work
	wait := firstRewrite
	for open := true; open; {
		var retry <-chan time.Time
		if len(unwritten) > 0 || !d.isMarked() {
			retry = time.After(wait)
		}
		var list []*work
		if list, open = d.gather(retry); len(list) == 0 {
			wait = min(2*wait, lastRewrite)
		}
		d.tellOutages()
		before := len(unwritten)
		var err error
		switch unwritten, err = d.write(append(unwritten, list...)); {
		case len(unwritten) == 0 && d.isMarked():
			wait = firstRewrite
		case before == 0 && len(unwritten) > 0: // else only the mark is missing, and New has logged why
			d.cfg.Logger.Error("cannot write the outbox or the audit trail: free disk space or repair the directory; trying again", "error", err)
		}
	}
	d.unwritten = len(unwritten) > 0 // it is sent again after the restart, and the answer is 111
}

// gather waits for work or for the time of a retry. It takes all work there is, and waits for more unless a caller
// waits. open is false once the outbox is closed.
func (d *Delivery) gather(retry <-chan time.Time) (list []*work, open bool) {
	var enough <-chan time.Time
	wait := func() {
		if enough == nil {
			enough = time.After(gatherFor)
		}
	}
	urgent := false
	for len(list) < maxGathered {
		if urgent && len(d.work) == 0 {
			return list, true
		}
		select {
		case w, open := <-d.work:
			if !open {
				return list, false
			}
			list, urgent = w.take(list), urgent || w.urgent
			wait()
		case <-d.noted:
			wait()
		case <-enough:
			return list, true
		case <-retry:
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

// write carries out a list. It returns the outcomes that are still to be written, and the reason. A failed Put returns
// to the host, which keeps its readings.
func (d *Delivery) write(list []*work) (unwritten []*work, err error) {
	if d.commit(list...) == nil {
		return nil, nil
	}
	var failed []*work
	for _, w := range apart(list) { // so that nothing waits for an unreadable slot, or for a trail that it does not need
		if len(failed) >= mostFailed { // the cause is the disk
			unwritten = append(unwritten, w)
			continue
		}
		fault := d.commit(w)
		switch {
		case fault == nil:
		case w.isPut():
			w.done <- fault
		default:
			failed, err = append(failed, w), fault
		}
	}
	return append(unwritten, failed...), err
}

const mostFailed = 8 // outcomes, in one pass

func (w *work) isPut() bool { return w.leaves == nil && w.memory == nil }

// apart returns works in the order in which they are tried one by one: first those that a host waits for. Of the
// memories of a device it returns only the newest.
func apart(list []*work) (puts []*work) {
	newest := map[string]*work{}
	for _, w := range list {
		if w.memory != nil {
			newest[w.memory.Key] = w
		}
	}
	var rest []*work
	for _, w := range list {
		switch {
		case w.isPut():
			puts = append(puts, w)
		case w.memory == nil || newest[w.memory.Key] == w:
			rest = append(rest, w)
		}
	}
	return append(puts, rest...)
}

// commit carries out a list in one transaction, in this order: audit trail, store, queues.
func (d *Delivery) commit(list ...*work) error {
	t := transaction{d: d, slots: map[slotID]*content{}}
	for _, w := range list {
		if err := t.apply(w); err != nil {
			return fmt.Errorf("writing the outbox: %w", err)
		}
	}
	for _, r := range d.repairs {
		t.entries = append(t.entries, r.entries...)
		t.ops = append(t.ops, r.ops...)
	}
	if err := d.audit(t.entries); err != nil {
		return fmt.Errorf("writing the outbox: the audit trail: %w", err)
	}
	t.logged(list)
	ops, left := t.operations(list)
	ops = append(ops, d.marks()...)
	if len(ops) > 0 {
		if err := d.cfg.Store.Batch(context.WithoutCancel(d.ctx), ops...); err != nil {
			for _, e := range t.entries {
				d.told[told(e)] = true
			}
			return fmt.Errorf("writing the outbox: %w", err)
		}
	}
	clear(d.told)
	d.repairs = nil
	d.mark()
	d.update(t.slots, left)
	for _, w := range list {
		w.done <- nil
	}
	return nil
}

// told identifies an entry, for a Put that is repeated because the store could not be written.
func told(e audit.Entry) string {
	return fmt.Sprint(e.Outcome, e.Device, e.Stamp, e.Readings, e.Detail)
}

// transaction is one write of the outbox.
type transaction struct {
	d       *Delivery
	slots   map[slotID]*content // slots that it changes
	entries []audit.Entry       // to be written to the trail first
	ops     []store.Op
}

// content is the content of a slot.
type content struct {
	readings []payload.Reading
	made     time.Duration // running time
	changed  bool
	waited   bool // before the transaction
	added    bool
	whole    bool
	left     bool // an outcome removed readings

	delivered bool // that outcome was delivered
}

// apply applies a work to the slots.
func (t *transaction) apply(w *work) error {
	t.ops = append(t.ops, w.with...)
	if w.memory != nil {
		t.ops = append(t.ops, *w.memory)
	}
	var entries []audit.Entry
	if w.withdrawn != nil {
		for _, x := range w.withdrawn.Readings {
			removed := false
			for _, now := range x.names(t.d) {
				one, err := t.remove(slotID{now.Device, now.Reading.Stamp.UnixMilli()}, func(r payload.Reading) bool {
					return r.Era == now.Reading.Era && sameReading(r, now.Reading)
				})
				if err != nil {
					return err
				}
				removed = removed || one
			}
			if removed && !w.withdrawn.logged {
				entries = append(entries, x.entry(t.d))
			}
		}
	}
	for _, rec := range w.records {
		if w.leaves != nil {
			if err := t.keepAge(*w.leaves, rec); err != nil {
				return err
			}
		}
		for _, r := range rec.Readings {
			refused, err := t.add(rec, r, w.whole)
			if err != nil {
				return err
			}
			if len(refused) > 0 && !t.d.told[told(refused[0])] {
				entries = append(entries, refused...)
			}
		}
	}
	if w.leaves != nil {
		if err := t.leave(w); err != nil {
			return err
		}
		if w.entry.Outcome != "" {
			entries = append(entries, w.entry)
		}
	}
	if !w.logged {
		t.entries = append(t.entries, entries...)
	}
	return nil
}

// add adds a reading to its slot, or returns the entry of its refusal.
func (t *transaction) add(rec payload.Record, r payload.Reading, whole bool) (refused []audit.Entry, err error) {
	r.Parameter, r.Unit = strings.TrimSpace(r.Parameter), strings.TrimSpace(r.Unit)
	id := slotID{rec.DeviceID, r.Stamp.UnixMilli()}
	c, err := t.at(id)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(c.readings, func(x payload.Reading) bool { return sameParameter(x, r) })
	if i < 0 {
		if c.readings == nil {
			c.readings = make([]payload.Reading, 0, len(rec.Readings))
		}
		c.readings, c.changed, c.added, c.whole = append(c.readings, r), true, true, c.whole || whole
		return nil, nil
	}
	x := c.readings[i]
	if x.Value == r.Value && x.Unit == r.Unit && x.Flag == r.Flag {
		return nil, nil
	}
	return []audit.Entry{{Outcome: audit.Refused, Station: rec.StationID, Device: id.device, Stamp: id.stamp,
		Readings: audit.Readings([]payload.Reading{r}), Parameter: r.Parameter, Reason: string(aligner.Conflict), Count: 1,
		Detail: fmt.Sprintf("value %v %s flag %s for the same parameter and stamp waits already", x.Value, x.Unit, x.Flag)}}, nil
}

// keepAge keeps the time at which a slot was made when the slot moves.
func (t *transaction) keepAge(from slotID, to payload.Record) error {
	old, err := t.at(from)
	if err != nil {
		return err
	}
	c, err := t.at(slotID{to.DeviceID, from.stamp})
	if err != nil {
		return err
	}
	if len(c.readings) == 0 {
		c.made = old.made
	}
	c.made = max(c.made, old.made)
	return nil
}

// leave removes the readings that a work settles. A slot that leaves as a whole is not read.
func (t *transaction) leave(w *work) error {
	id := *w.leaves
	if t.slots[id] == nil && t.d.leavesWhole(id, w.version) {
		t.slots[id] = &content{made: t.d.cfg.Clock.Running(), changed: true, waited: true, left: true, delivered: w.entry.Outcome == audit.Delivered}
		return nil
	}
	_, err := t.remove(id, func(r payload.Reading) bool { // a withdrawn reading may have been replaced by another value since
		return slices.ContainsFunc(w.settled, func(s payload.Reading) bool { return sameReading(r, s) })
	})
	if err != nil {
		return err
	}
	t.slots[id].left = true
	return nil
}

// leavesWhole reports that the whole slot leaves, and nothing was added since it was read.
func (d *Delivery) leavesWhole(id slotID, version int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slot(id)
	return s != nil && s.leaving && s.version == version
}

func (t *transaction) remove(id slotID, which func(payload.Reading) bool) (removed bool, err error) {
	c, err := t.at(id)
	if err != nil {
		return false, err
	}
	before := len(c.readings)
	c.changed, c.readings = true, slices.DeleteFunc(c.readings, which)
	return len(c.readings) < before, nil
}

func sameReading(a, b payload.Reading) bool {
	return sameParameter(a, b) && a.Value == b.Value && a.Flag == b.Flag
}

// sameParameter reports whether two readings of one stamp have the same parameter. A calibration point differs from the
// 15-minute average that ends with it.
func sameParameter(a, b payload.Reading) bool {
	return a.Parameter == b.Parameter && a.Diagnostic == b.Diagnostic && a.Flag.Calibration() == b.Flag.Calibration()
}

// at returns the content of a slot. It reads the store only if the queues know that the slot waits: nobody else writes
// the outbox. A damaged or missing value is recorded, and the slot is empty.
func (t *transaction) at(id slotID) (*content, error) {
	if c := t.slots[id]; c != nil {
		return c, nil
	}
	c := &content{made: t.d.cfg.Clock.Running()}
	held, waits := t.d.waits(id)
	c.waited = waits
	if held != nil {
		c.readings, c.made = slices.Clone(held.readings), held.made
	} else if waits {
		rs, made, value, err := t.d.load(context.WithoutCancel(t.d.ctx), id)
		switch {
		case errors.Is(err, frame.ErrDamaged) || err == nil && value == nil:
			t.d.keep(id.key(), id, value)
			c.changed = true
		case err != nil:
			return nil, err
		default:
			c.made = made
		}
		c.readings = rs
	}
	t.slots[id] = c
	return c, nil
}

// waits reports that a slot waits, with its content if that is in memory.
func (d *Delivery) waits(id slotID) (held *content, waits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.slot(id); s != nil {
		held = s.held
	}
	if q := d.queues[id.device]; q != nil {
		_, waits = q.stamps.status(id.stamp)
	}
	return held, waits
}

// mostHeld is how many readings of waiting slots stay in memory; other slots are read from the store.
const mostHeld = 1 << 18

// hold keeps the content of a new slot in memory. Delivery.mu is held.
func (d *Delivery) hold(q *queue, stamp int64, c *content) {
	if n := len(c.readings); d.inMemory+n <= mostHeld {
		q.slot(stamp).held = &content{readings: c.readings, made: c.made}
		d.inMemory += n
	}
}

// release removes a slot's content from memory. Delivery.mu is held.
func (d *Delivery) release(s *slot) {
	if s != nil && s.held != nil {
		d.inMemory -= len(s.held.readings)
		s.held = nil
	}
}

// slot returns the details of a waiting slot, or nil. Delivery.mu is held.
func (d *Delivery) slot(id slotID) *slot {
	if q := d.queues[id.device]; q != nil {
		return q.find(id.stamp)
	}
	return nil
}

// load reads a slot's readings, the running time at which it was made, and its raw value, for the case that it is
// damaged. Readings and value are nil if the slot is not in the store.
func (d *Delivery) load(ctx context.Context, id slotID) (rs []payload.Reading, made time.Duration, value []byte, err error) {
	value, err = d.cfg.Store.Get(ctx, id.key())
	if err == nil && value != nil {
		rs, made, err = decodeReadings(value, id.stamp)
	}
	if err != nil {
		return nil, 0, value, fmt.Errorf("reading slot %s of device %q: %w", spec.ISTString(id.time()), id.device, err)
	}
	return rs, made, value, nil
}

// logged records what is in the trail, so that a retry after a failed transaction adds no second line.
func (t *transaction) logged(list []*work) {
	for i := range t.d.repairs {
		t.d.repairs[i].entries = nil
	}
	for _, w := range list {
		w.logged = true
		if w.withdrawn != nil {
			w.withdrawn.logged = true
		}
	}
}

// operations returns the store's writes, those of the slots last: a new slot may have the key of a damaged one, or of
// one that has left.
func (t *transaction) operations(list []*work) ([]store.Op, leaving) {
	leave := map[slotID]bool{}
	var slots []store.Op
	come := map[int64][]string{}
	fold := t.d.done.due(list)
	for id, c := range t.slots {
		switch {
		case !c.changed:
		case len(c.readings) > 0:
			slots = append(slots, store.Op{Key: id.key(), Value: encodeReadings(c.made, c.readings)})
			fold = fold || t.d.done.has(id)
			if !c.waited {
				come[id.stamp] = append(come[id.stamp], id.device)
			}
		case c.waited:
			leave[id] = c.delivered
		}
	}
	ops, left := t.d.done.leave(leave, fold)
	var gone map[slotID]bool
	if fold {
		gone = maps.Clone(leave)
		maps.Copy(gone, t.d.done.slots)
	}
	if fold || len(come) > 0 {
		var memories []store.Op
		memories, left.postponed = t.d.postponedOps()
		ops = append(ops, memories...)
	}
	ops = append(ops, t.d.index.write(context.WithoutCancel(t.d.ctx), t.d.cfg.Store, come, gone)...)
	slices.SortFunc(slots, func(a, b store.Op) int { return strings.Compare(a.Key, b.Key) }) // with many operations, the store then sorts faster
	return slices.Concat(t.ops, ops, slots), left
}

// update updates the queues to the new content of the store.
func (d *Delivery) update(slots map[slotID]*content, left leaving) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done.left(left)
	d.remembered(left.postponed)
	now := time.Now()
	for id, c := range slots {
		if c.changed {
			q := d.queue(id.device)
			ready := now.Add(d.offset(id.device))
			if !c.whole {
				ready = ready.Add(d.cfg.Coalesce.Duration)
			}
			s := q.find(id.stamp)
			d.release(s)
			switch {
			case len(c.readings) == 0:
				d.remove(q, id.stamp)
			case d.add(q, id.stamp):
				q.slot(id.stamp).ready = ready
			default:
				if c.added { // a parked slot that gets a reading is tried immediately
					q.stamps.set(id.stamp, queued)
				}
				if s != nil && c.added {
					s.version++
				}
				if s != nil && c.left {
					q.rest(s)
				}
			}
			if len(c.readings) > 0 {
				d.hold(q, id.stamp, c)
			}
			d.reschedule(q)
		}
	}
	d.wake.send()
}

// add makes a slot wait, and reports whether it is new. Delivery.mu is held.
func (d *Delivery) add(q *queue, stamp int64) bool {
	if !q.stamps.add(stamp) {
		return false
	}
	if d.waiting++; d.waiting == 1 || stamp < d.oldest {
		d.oldest = stamp
	}
	return true
}

// remove takes a slot out. Delivery.mu is held.
func (d *Delivery) remove(q *queue, stamp int64) {
	if !q.remove(stamp) {
		return
	}
	if d.waiting--; stamp == d.oldest {
		d.oldest = 0
	}
}

// findOldest returns the stamp of the oldest slot, if there is one. Delivery.mu is held.
func (d *Delivery) findOldest() int64 {
	if d.oldest == 0 {
		d.oldest = math.MaxInt64
		for _, q := range d.queues {
			if first, ok := q.stamps.next(everBefore, (*word).waiting); ok {
				d.oldest = min(d.oldest, first)
			}
		}
	}
	return d.oldest
}

// audit writes to the trail, or to the log if there is none.
func (d *Delivery) audit(entries []audit.Entry) error {
	if d.cfg.Trail != nil {
		if err := d.cfg.Trail.Append(entries...); err != nil {
			return err
		}
	}
	if d.cfg.OnEntries != nil && len(entries) > 0 {
		d.cfg.OnEntries(entries)
	}
	for _, e := range entries {
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
