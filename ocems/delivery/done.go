package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"time"

	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// done has slots that have left the outbox but whose values are still in the store. Deleting each value immediately
// would rewrite a whole page of other slots. Instead, one value names many slots until all are deleted together.
type done struct {
	slots map[slotID]bool // true: delivered
	keys  []string        // of the values that name the slots
	next  uint64          // number of the next key
	since time.Time       // time of the first
}

const (
	donePrefix = "done/"
	mostDone   = 1 << 14     // slots named
	foldAfter  = time.Minute // then the next new slots delete them in their transaction
)

// leaving is a change of done that is being written.
type leaving struct {
	fold      bool
	key       string
	slots     map[slotID]bool
	postponed []*queue // queues whose memories are written too
}

func (d *done) has(id slotID) bool { return has(d.slots, id) }

// due reports that it is time to delete the named slots.
func (d *done) due(list []*work) bool {
	puts := false
	for _, w := range list {
		puts = puts || w.leaves == nil && len(w.records) > 0
	}
	return len(d.slots) >= mostDone || puts && len(d.slots) > 0 && time.Since(d.since) >= foldAfter
}

// leave returns the operations by which slots leave.
func (d *done) leave(slots map[slotID]bool, fold bool) (ops []store.Op, l leaving) {
	if fold {
		for id := range d.slots {
			ops = append(ops, store.Op{Key: id.key()})
		}
		for _, key := range d.keys {
			ops = append(ops, store.Op{Key: key})
		}
		for id := range slots {
			ops = append(ops, store.Op{Key: id.key()})
		}
		return ops, leaving{fold: true}
	}
	if len(slots) == 0 {
		return nil, leaving{}
	}
	e := frame.Sized(formatVersion, 16+32*len(slots))
	for id, delivered := range slots {
		e.Int(id.stamp)
		e.Text(id.device)
		e.Bool(delivered)
	}
	key := donePrefix + string(binary.BigEndian.AppendUint64(nil, d.next))
	return []store.Op{{Key: key, Value: e.Seal()}}, leaving{key: key, slots: slots}
}

// left records that the change is written.
func (d *done) left(l leaving) {
	if l.fold {
		d.slots, d.keys = nil, nil
	}
	if len(l.slots) > 0 {
		if len(d.slots) == 0 {
			d.since = time.Now()
		}
		d.add(l.key, l.slots)
		d.next++
	}
}

func (d *done) add(key string, slots map[slotID]bool) {
	if d.slots == nil {
		d.slots = map[slotID]bool{}
	}
	maps.Copy(d.slots, slots)
	d.keys = append(d.keys, key)
}

// readDone reads the done slots of a store. A damaged value goes to keep, which may be nil: its slots are sent again.
func readDone(ctx context.Context, stored store.Store, keep func(key string, value []byte)) (d done, err error) {
	err = stored.Range(ctx, donePrefix, func(key string, value []byte) error {
		slots, err := decodeDone(value)
		number := key[len(donePrefix):]
		if len(number) != 8 {
			err = errors.Join(err, frame.ErrDamaged)
		}
		if errors.Is(err, frame.ErrNewer) {
			return err
		}
		if err != nil {
			if keep != nil {
				keep(key, value)
			}
			return nil
		}
		d.add(key, slots)
		d.next = max(d.next, binary.BigEndian.Uint64([]byte(number))+1)
		return nil
	})
	return d, err
}

func decodeDone(value []byte) (slots map[slotID]bool, err error) {
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return nil, err
	}
	slots = map[slotID]bool{}
	for d.Left() > 0 && d.Err() == nil {
		id := slotID{stamp: d.Int()}
		id.device = d.Text()
		slots[id] = d.Bool()
	}
	return slots, d.Err()
}
