package delivery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// repair is what the writer's next transaction does about a damaged or missing value.
type repair struct {
	key     string
	entries []audit.Entry // not yet in the trail
	ops     []store.Op
}

// restore finds the waiting slots. It writes nothing, so that the state of another version stays unchanged.
func (d *Delivery) restore(ctx context.Context) error {
	var err error
	d.done, err = readDone(ctx, d.cfg.Store, func(key string, value []byte) { d.keep(key, slotID{}, slices.Clone(value)) })
	if err != nil {
		return err
	}
	fault, err := d.readIndex(ctx)
	if err == nil && fault != nil {
		err = d.makeIndex(ctx, fault)
	}
	for id := range d.done.slots {
		if q := d.queues[id.device]; q != nil {
			d.remove(q, id.stamp)
		}
	}
	if err == nil {
		err = d.cfg.Store.Range(ctx, memoryPrefix, d.recall)
	}
	for id, delivered := range d.done.slots {
		if q := d.queue(id.device); delivered && !q.memory.accepted {
			q.memory.accepted = true
			d.postpone(q)
		}
	}
	if err == nil {
		err = d.doubtAll(ctx)
	}
	for _, q := range d.queues {
		d.askAgain(ctx, q)
		d.setCondition(q, q.condition)
		d.reschedule(q)
	}
	if text := d.trouble(); text != "" {
		d.cfg.Logger.Warn("slots have waited apart since before the start: " + text)
	}
	return err
}

// parseValue reads a key and checks its value.
func parseValue(key string, value []byte) (id slotID, err error) {
	id, ok := parseKey(key)
	if !ok || !onGrid(id.stamp) {
		return slotID{}, fmt.Errorf("key %q: %w", key, frame.ErrDamaged)
	}
	if _, _, err := decodeReadings(value, id.stamp); err != nil {
		return id, fmt.Errorf("slot %s of device %q: %w", spec.ISTString(id.time()), id.device, err)
	}
	return id, nil
}

// keep makes the writer move a damaged value to a key that is never overwritten; value is nil if it is missing. The log
// names the key and never the content.
func (d *Delivery) keep(key string, id slotID, value []byte) {
	if slices.ContainsFunc(d.repairs, func(r repair) bool { return r.key == key }) {
		return // found again, because the transaction that should keep it failed
	}
	r, detail := repair{key: key}, "the slot is missing in the outbox"
	if value != nil {
		to := damagedKey(key, time.Now())
		r.ops = []store.Op{{Key: to, Value: value}, {Key: key}}
		detail = fmt.Sprintf("the slot's value in the outbox, %d bytes, is damaged and kept as %q", len(value), to)
	}
	r.entries = []audit.Entry{{Outcome: audit.Recovered, Device: id.device, Stamp: id.stamp, Detail: detail}}
	d.repairs = append(d.repairs, r)
	d.cfg.Logger.Error("cannot read a slot of the outbox: the other slots are not affected", "device", id.device, "slot", spec.ISTString(id.time()), "reason", detail)
}
