package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

const (
	readyKeys  = "ready/"
	mostReady  = 5000             // slots of one batch, plus the rest of their last request
	mostWait   = 30 * time.Second // between tries
	reportWait = time.Minute      // a shorter time of refusals is not reported in the health
)

// ready has the slots of a processor that the next consumer has not taken yet. They leave in the order in which they
// closed.
type ready struct {
	e    *Engine
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{}

	mu      sync.Mutex
	batches []readyBatch
	slots   int
	next    uint64
}

type readyBatch struct {
	key   string
	exit  uint8 // 0 after a restart: any exit
	slots []slot.Slot
}

func openReady(ctx context.Context, e *Engine) (*ready, error) {
	r := &ready{e: e, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	var renamed []store.Op
	err := e.cfg.Store.Range(ctx, readyKeys, func(key string, value []byte) error {
		slots, err := decodeSlots(value)
		if errors.Is(err, frame.ErrNewer) {
			return err
		}
		if number := key[len(readyKeys):]; len(number) == 8 {
			r.next = max(r.next, binary.BigEndian.Uint64([]byte(number))+1)
		}
		if err != nil {
			e.log.Error("damaged slots in the state: they stay in the state and are not handed on", "key", fmt.Sprintf("%q", key), "bytes", len(value))
			return nil
		}
		if e.rename(slots) {
			renamed = append(renamed, store.Op{Key: key, Value: encodeSlots(slots)})
		}
		r.batches, r.slots = append(r.batches, readyBatch{key, 0, slots}), r.slots+len(slots)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	if err := e.cfg.Store.Batch(ctx, renamed...); err != nil {
		e.log.Error("cannot save slots under their current names: the next start tries again", "error", err)
	}
	ctx, r.stop = context.WithCancel(ctx)
	go r.run(ctx)
	return r, nil
}

func (r *ready) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots
}

// together gives slots from before a restart, whose exit is unknown, the exit of their device's other slots: what goes
// to the board in one request is handed on in one batch.
func together(slots []slot.Slot) []slot.Slot {
	exits := map[string]uint8{}
	for _, s := range slots {
		if exits[s.Device] == 0 {
			exits[s.Device] = s.Exit
		}
	}
	slots = slices.Clone(slots)
	for i, s := range slots {
		if s.Exit == 0 {
			slots[i].Exit = exits[s.Device]
		}
	}
	return slots
}

func sameRequest(a, b slot.Slot) bool { return a.Device == b.Device && a.Stamp.Equal(b.Stamp) }

// put stores slots together with the operations.
func (r *ready) put(ctx context.Context, slots []slot.Slot, ops []store.Op) error {
	slots = together(slots)
	slices.SortStableFunc(slots, func(a, b slot.Slot) int { return cmp.Or(cmp.Compare(a.Exit, b.Exit), a.Compare(b)) })
	var batches []readyBatch
	for len(slots) > 0 {
		n := 1
		for n < len(slots) && slots[n].Exit == slots[0].Exit && (n < mostReady || sameRequest(slots[n-1], slots[n])) {
			n++
		}
		key := readyKeys + string(binary.BigEndian.AppendUint64(nil, r.next+uint64(len(batches))))
		batches = append(batches, readyBatch{key, slots[0].Exit, slots[:n]})
		ops = append(ops, store.Op{Key: key, Value: encodeSlots(slots[:n])})
		slots = slots[n:]
	}
	if err := r.e.cfg.Store.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("saving slots: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next += uint64(len(batches))
	r.batches = append(r.batches, batches...)
	for _, b := range batches {
		r.slots += len(b.slots)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// run hands slots on until ctx ends.
func (r *ready) run(ctx context.Context) {
	defer close(r.done)
	var failing time.Time
	wait := time.Duration(0)
	for {
		err := r.send(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if !failing.IsZero() {
				r.e.log.Info("the next consumer takes slots again")
			}
			failing, wait = time.Time{}, time.Hour
			r.e.health.set(&r.e.health.next, nil)
		default:
			if failing.IsZero() {
				failing, wait = time.Now(), 0
				r.e.log.Error("the next consumer refused slots: they are kept and tried again", "slots", r.waiting(), "error", err)
			}
			wait = min(max(2*wait, tick), mostWait)
			if time.Since(failing) >= reportWait {
				r.e.health.set(&r.e.health.next, fmt.Errorf("the next consumer refuses slots: %w", err))
			}
		}
		timer := time.NewTimer(wait)
		wake := r.wake
		if err != nil {
			wake = nil // new slots are no reason to retry sooner
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// send hands on the waiting slots, oldest first. If one exit refuses a batch, the other exits are still tried.
func (r *ready) send(ctx context.Context) error {
	r.mu.Lock()
	list := slices.Clone(r.batches)
	r.mu.Unlock()
	failed := map[uint8]error{}
	for _, b := range list {
		if ctx.Err() != nil {
			break
		}
		if failed[b.exit] != nil {
			continue
		}
		if err := r.e.cfg.Next(ctx, b.exit, b.slots); err != nil {
			failed[b.exit] = err
			continue
		}
		r.e.account.handed(b.slots)
		r.taken(ctx, b)
	}
	var errs []error
	for _, err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// taken removes a batch. If that cannot be written, the batch is handed on again after a restart: the exporter
// recognises the same slots.
func (r *ready) taken(ctx context.Context, b readyBatch) {
	if err := r.e.cfg.Store.Batch(context.WithoutCancel(ctx), store.Op{Key: b.key}); err != nil {
		r.e.log.Error("cannot remove slots that were handed on: they are handed on again after a restart", "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = slices.DeleteFunc(r.batches, func(o readyBatch) bool { return o.key == b.key })
	r.slots -= len(b.slots)
}

// close stops handing on. It does not wait longer for a next consumer that does not return.
func (r *ready) close(ctx context.Context) error {
	r.stop()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-r.done:
		return nil
	case <-time.After(time.Second):
		return fmt.Errorf("waiting for the next consumer: %w", ctx.Err())
	}
}

// rounded returns slots with the decimals of their entries.
func (e *Engine) rounded(slots []slot.Slot) []slot.Slot {
	slots = slices.Clone(slots)
	for i := range slots {
		s, decimals := &slots[i], e.decimals(slots[i].Series)
		for _, v := range []*float64{&s.Value, &s.Min, &s.Max} {
			*v = registry.Round(*v, decimals)
		}
	}
	return slots
}

func (e *Engine) decimals(s slot.Series) int {
	if d, ok := e.names.Device(s.Device); ok {
		return d.Decimals(s.Parameter)
	}
	return -1
}

func encodeSlots(slots []slot.Slot) []byte {
	e := frame.New(formatVersion)
	text, _ := json.Marshal(slots) // cannot fail: plain fields and finite values
	e.Append(text)
	return e.Seal()
}

func decodeSlots(value []byte) (slots []slot.Slot, err error) {
	d, err := frame.Open(value, formatVersion)
	if err == nil && json.Unmarshal(d.Rest(), &slots) != nil {
		err = frame.ErrDamaged
	}
	for i := range slots {
		if s := &slots[i]; !s.Flag.Valid() || !s.Statistic.Valid() || s.Samples < 0 {
			return nil, frame.ErrDamaged
		}
		slots[i].Exit = 0 // pipelines are numbered anew after a restart
	}
	return slots, err
}
