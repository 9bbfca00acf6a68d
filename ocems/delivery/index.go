package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// The index lists the slots in the outbox, so that the start does not read their values. Each index value names the
// devices whose slots of one stamp came in one transaction. An outcome does not change the index, see done: a slot
// waits if it is in the index and not done. If the index is missing or damaged, the start rebuilds it.
const indexPrefix = store.Derived

// index is the number of the next key.
type index uint64

func indexOf(stamp int64) string {
	return indexPrefix + string(binary.BigEndian.AppendUint64(nil, uint64(stamp)^signBit)) + "/"
}

// op puts a new value for devices in order.
func (x *index) op(stamp int64, devices []string) store.Op {
	key := indexOf(stamp) + string(binary.BigEndian.AppendUint64(nil, uint64(*x)))
	*x++
	return store.Op{Key: key, Value: encodeIndex(devices)}
}

// encodeIndex stores of each name only the part that differs from the name before.
func encodeIndex(devices []string) []byte {
	e := frame.New(formatVersion)
	last := ""
	for _, device := range devices {
		n := 0
		for n < min(len(last), len(device)) && last[n] == device[n] {
			n++
		}
		e.Uint(uint64(n))
		e.Text(device[n:])
		last = device
	}
	return e.Seal()
}

// decodeIndex visits the names, each of which is valid until visit returns.
func decodeIndex(value []byte, visit func(device []byte)) error {
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return err
	}
	var device []byte
	for d.Left() > 0 && d.Err() == nil {
		n := d.Uint()
		rest := d.Bytes()
		if n > uint64(len(device)) || len(rest) == 0 {
			d.Fail("no name")
			break
		}
		device = append(device[:n], rest...)
		visit(device)
	}
	return d.Err()
}

func parseIndexKey(key string) (stamp int64, number uint64, ok bool) {
	if len(key) != len(indexPrefix)+2*stampSize+1 {
		return 0, 0, false
	}
	rest := []byte(key[len(indexPrefix):])
	stamp = int64(binary.BigEndian.Uint64(rest) ^ signBit)
	return stamp, binary.BigEndian.Uint64(rest[stampSize+1:]), rest[stampSize] == '/' && onGrid(stamp)
}

// write returns the operations that update the index for new and deleted slots. For each stamp of deleted slots it
// replaces the values by a single one. It leaves a value that it cannot read, and adds one that makes the next start
// rebuild the index.
func (x *index) write(ctx context.Context, s store.Store, come map[int64][]string, gone map[slotID]bool) (ops []store.Op) {
	left := map[int64][]string{}
	for id := range gone {
		if _, found := left[id.stamp]; found {
			continue
		}
		devices := come[id.stamp]
		delete(come, id.stamp)
		err := s.Range(ctx, indexOf(id.stamp), func(key string, value []byte) error {
			ops = append(ops, store.Op{Key: key})
			return decodeIndex(value, func(device []byte) {
				if other := (slotID{string(device), id.stamp}); !has(gone, other) {
					devices = append(devices, other.device)
				}
			})
		})
		if err != nil {
			damaged := x.op(id.stamp, nil)
			ops = append(ops, store.Op{Key: damaged.Key, Value: []byte{}})
		}
		left[id.stamp] = devices
	}
	for _, by := range []map[int64][]string{come, left} {
		for stamp, devices := range by {
			if len(devices) > 0 {
				slices.Sort(devices)
				ops = append(ops, x.op(stamp, slices.Compact(devices)))
			}
		}
	}
	return ops
}

// readIndex adds the slots that the index names. A fault is the reason why it has to be rebuilt.
func (d *Delivery) readIndex(ctx context.Context) (fault, err error) {
	fault = errors.New("it is missing")
	found := false
	err = d.cfg.Store.Range(ctx, indexPrefix, func(key string, value []byte) error {
		if !found {
			found, fault = true, nil
		}
		stamp, number, ok := parseIndexKey(key)
		err := decodeIndex(value, func(device []byte) {
			q := d.queues[string(device)]
			if q == nil {
				q = d.queue(string(device))
			}
			d.add(q, stamp)
		})
		switch {
		case errors.Is(err, frame.ErrNewer):
			return err
		case err == nil && !ok:
			err = fmt.Errorf("key %q: %w", key, frame.ErrDamaged)
		}
		if err != nil {
			fault = err
		} else {
			d.index = max(d.index, index(number)+1)
		}
		return ctx.Err()
	})
	return fault, err
}

// makeIndex finds the slots in the outbox itself, and makes the writer rebuild the index.
func (d *Delivery) makeIndex(ctx context.Context, fault error) error {
	clear(d.queues)
	d.waiting = 0
	r := repair{key: indexPrefix}
	err := d.cfg.Store.Range(ctx, indexPrefix, func(key string, _ []byte) error {
		r.ops = append(r.ops, store.Op{Key: key})
		return nil
	})
	if err != nil {
		return err
	}
	var stamp int64
	var devices []string // of the current stamp
	flush := func() {
		if len(devices) > 0 {
			r.ops = append(r.ops, d.index.op(stamp, devices))
		}
		devices = devices[:0]
	}
	err = d.cfg.Store.Range(ctx, prefix, func(key string, value []byte) error {
		id, err := parseValue(key, value)
		switch {
		case d.done.has(id):
		case errors.Is(err, frame.ErrDamaged):
			d.keep(key, id, append([]byte{}, value...))
		case err != nil:
			return err
		default:
			if id.stamp != stamp {
				flush()
			}
			q := d.queue(id.device)
			d.add(q, id.stamp)
			stamp, devices = id.stamp, append(devices, q.device)
		}
		return ctx.Err()
	})
	if flush(); err != nil || len(r.ops) == 0 {
		return err
	}
	d.repairs = append(d.repairs, r)
	d.cfg.Logger.Warn("rebuilding the index of the outbox from its stored slots", "reason", fault, "slots", d.waiting)
	return nil
}

func has(slots map[slotID]bool, id slotID) bool { _, found := slots[id]; return found }
