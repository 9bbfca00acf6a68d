package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// repair is what the writer does, with its next transaction, about a value that is damaged or lost.
type repair struct {
	key    string
	entry  audit.Entry
	ops    []store.Op
	logged bool // the entry is in the trail
}

// restore finds what waits. It writes nothing, so that a newer version's state stays as it is.
func (d *Delivery) restore(ctx context.Context) error {
	now := time.Now()
	err := d.cfg.Store.Range(ctx, prefix, func(key string, value []byte) error {
		p, err := parseValue(key, value)
		switch {
		case errors.Is(err, errIndex):
			d.note(repair{key: key, ops: []store.Op{{Key: key}}})
		case errors.Is(err, errDamaged):
			d.keep(key, p, append([]byte{}, value...))
		case err != nil:
			return err
		default:
			d.queue(p.device).update(p.stamp, true, now)
		}
		return ctx.Err()
	})
	for _, q := range d.queues {
		d.schedule.place(q)
	}
	return err
}

// parseValue reads a key and checks its value.
func parseValue(key string, value []byte) (p place, err error) {
	switch {
	case isOlderIndex(key):
		return place{}, errIndex
	case strings.HasPrefix(key, olderSlots):
		return place{}, errOlder
	}
	p, ok := parseKey(key)
	if !ok {
		return place{}, fmt.Errorf("key %q: %w", key, errDamaged)
	}
	if _, err := decodeReadings(value, p.stamp); err != nil {
		return p, fmt.Errorf("slot %s of device %q: %w", spec.ISTString(p.time()), p.device, err)
	}
	return p, nil
}

func (d *Delivery) keepDamaged(p place, value []byte) { d.keep(p.key(), p, value) }

// keep has the writer move a damaged value to a key under which nothing overwrites it. The log names the key and never
// the content.
func (d *Delivery) keep(key string, p place, value []byte) {
	to := damagedKey(key, time.Now())
	if d.note(repair{key: key, ops: []store.Op{{Key: to, Value: value}, {Key: key}}, entry: audit.Entry{Outcome: audit.Recovered,
		Device: p.device, Stamp: p.stamp, Detail: fmt.Sprintf("the slot's value in the outbox, %d bytes, is damaged and kept as %q", len(value), to)}}) {
		d.cfg.Logger.Error("a value of the outbox is damaged: it is kept under another key, and the rest goes on",
			"device", p.device, "slot", spec.ISTString(p.time()), "bytes", len(value), "kept_as", to)
	}
}

// noteLost has the trail say that a slot is no longer in the store.
func (d *Delivery) noteLost(p place) {
	d.note(repair{key: p.key(), entry: audit.Entry{Outcome: audit.Recovered, Device: p.device, Stamp: p.stamp,
		Detail: "the slot is not in the store any more, although nothing of it was settled"}})
}

// note reports whether a repair is new. The same is found again when the transaction that was to make it has failed.
func (d *Delivery) note(r repair) (fresh bool) {
	if slices.ContainsFunc(d.repairs, func(x repair) bool { return x.key == r.key }) {
		return false
	}
	d.repairs = append(d.repairs, r)
	return true
}

// pendingRepairs are the entries and operations of the repairs that are still to be written.
func (d *Delivery) pendingRepairs() (entries []audit.Entry, ops []store.Op) {
	for _, r := range d.repairs {
		if !r.logged && r.entry.Outcome != "" {
			entries = append(entries, r.entry)
		}
		ops = append(ops, r.ops...)
	}
	return entries, ops
}
