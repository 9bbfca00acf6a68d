package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// Queue is the outbox of one device as stored.
type Queue struct {
	Device string
	Stamps []time.Time // of the waiting slots that can be read, oldest first
	Err    error       // of the first damaged slot; the host keeps damaged values apart when it starts
}

// Queues lists the devices of a stored outbox, ordered by id. The store must not change meanwhile: use a copy while the
// host runs. The store does not say which devices are held: a Delivery finds that out after each start.
func Queues(ctx context.Context, stored store.Store) ([]Queue, error) {
	found := map[string]*Queue{}
	done, err := readDone(ctx, stored, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	err = stored.Range(ctx, prefix, func(key string, value []byte) error {
		id, err := parseValue(key, value)
		if done.has(id) {
			return nil
		}
		if err != nil && !errors.Is(err, frame.ErrDamaged) {
			return err
		}
		q := found[id.device]
		if q == nil {
			q = &Queue{Device: id.device}
			found[id.device] = q
		}
		if err == nil {
			q.Stamps = append(q.Stamps, id.time())
		}
		q.Err = cmp.Or(q.Err, err)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	var queues []Queue
	for _, device := range slices.Sorted(maps.Keys(found)) {
		queues = append(queues, *found[device])
	}
	return queues, nil
}

// EachWaiting visits each readable reading that waits in a stored outbox. The store must not change meanwhile.
func EachWaiting(ctx context.Context, stored store.Store, visit func(device string, r *payload.Reading)) error {
	done, err := readDone(ctx, stored, nil)
	if err == nil {
		err = stored.Range(ctx, prefix, func(key string, value []byte) error {
			id, ok := parseKey(key)
			if !ok || done.has(id) {
				return nil
			}
			rs, _, err := decodeReadings(value, id.stamp)
			if errors.Is(err, frame.ErrDamaged) { // the host keeps it apart when it starts
				return nil
			}
			for i := range rs {
				visit(id.device, &rs[i])
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("reading the outbox: %w", err)
	}
	return nil
}

// Requests returns the records that a Delivery would send for one waiting slot: one, or two if a calibration point and
// an average of one parameter end together; none if all of the slot waits for a person or is left out. It includes
// suspended parameters, which the host leaves out.
func Requests(ctx context.Context, stored store.Store, device string, stamp time.Time, to Target) ([]payload.Record, error) {
	id := slotID{device, stamp.UnixMilli()}
	done, err := readDone(ctx, stored, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	value, err := stored.Get(ctx, id.key())
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	if value == nil || done.has(id) {
		return nil, fmt.Errorf("reading the outbox: device %q has no slot %s there", device, spec.ISTString(stamp))
	}
	rs, _, err := decodeReadings(value, id.stamp)
	if err != nil {
		return nil, fmt.Errorf("reading slot %s of device %q: %w", spec.ISTString(stamp), device, err)
	}
	m := newMemory()
	if value, err := stored.Get(ctx, memoryPrefix+device); err == nil && value != nil {
		if known, _, err := decodeMemory(value); err == nil {
			m = known
		}
	}
	rs = to.mended(rs, &m)
	for i := range rs {
		rs[i], _ = to.current(rs[i])
	}
	rs = slices.DeleteFunc(rs, func(r payload.Reading) bool {
		why, _ := to.tooFew(r)
		return why != ""
	})
	var records []payload.Record
	for _, r := range requests(rs) {
		records = append(records, to.record(r.readings))
	}
	return records, nil
}

// State is what a Delivery knows of one device.
type State struct {
	Slots     int               // waiting slots
	Oldest    time.Time         // stamp of the oldest waiting slot, zero if none
	Runs      [][2]int64        // of waiting 15-minute slots: stamps of the first and last of each run, in milliseconds
	Answered  time.Time         // time of the server's last answer to the device, zero before the first
	Held      string            // of HoldReasons: why a person must look at the whole device, or ""
	Apart     string            // of HoldReasons: why some slots wait apart, or ""
	Detail    string            // what the server answered to slots that are held, wait apart or are tried again
	Suspended map[string]string // of HoldReasons, by parameter: why it waits
	Undecided map[string]Undecided
}

// Undecided has the slots of a parameter that wait for a person's decision.
type Undecided struct {
	Slots  int
	Oldest time.Time // stamp
	Why    string    // of the slot that was checked last
}

// State returns the state of a device; it is zero if the device has sent nothing.
func (d *Delivery) State(device string) (s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queues[device]
	if q == nil {
		return s
	}
	s = State{Slots: q.stamps.n, Answered: q.answered}
	if stamp, ok := q.stamps.next(everBefore, (*word).waiting); ok {
		s.Oldest = time.UnixMilli(stamp)
		s.Runs = q.stamps.runs((*word).waiting)
	}
	if q.condition.state == held {
		s.Held, s.Detail = q.condition.reason, q.condition.detail
	} else {
		s.Apart, s.Detail = q.memory.reason, q.memory.detail
	}
	for parameter, x := range q.asked {
		if s.Undecided == nil {
			s.Undecided = map[string]Undecided{}
		}
		oldest, _ := x.next(everBefore, (*word).waiting)
		s.Undecided[parameter] = Undecided{x.n, time.UnixMilli(oldest), x.why}
	}
	if q.saved != "" && q.saved != plain { // the memory itself belongs to the attempt
		if m, _, err := decodeMemory([]byte(q.saved)); err == nil && len(m.suspended) > 0 {
			s.Suspended = map[string]string{}
			for u, why := range m.suspended {
				s.Suspended[u.parameter] = why.reason
				if s.Apart == why.reason { // only the parameter waits
					s.Apart, s.Detail = "", ""
				}
			}
		}
	}
	if s.Held == "" && s.Apart == "" && q.condition.state == backingOff {
		s.Detail = q.condition.detail
	}
	return s
}

// Server is what a Delivery knows of the server.
type Server struct {
	Reachable bool
	Reason    string        // why it is not reachable, or ""
	Answered  time.Time     // time of the last answer, zero before the first
	Latency   time.Duration // median of the last answers, 0 before
}

// Server returns the server's current state.
func (d *Delivery) Server() Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Server{Reachable: !d.server.unreachable, Answered: d.server.answeredAt, Latency: d.latency.usual}
	if !s.Reachable {
		s.Reason = d.server.reason
	}
	return s
}
