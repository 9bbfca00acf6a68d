package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// memory is what is known of a device beside its waiting slots. It is stored under device/<id> and survives a restart;
// a device of which nothing is known has no value.
type memory struct {
	accepted    bool                   // the server has accepted something of the device at least once, with status 1
	unexplained bool                   // a 111 came without evidence, and no status 1 since
	aside       int64                  // when stored: stamp of the newest parked slot, 0 if none
	passed      bool                   // when stored: newer slots went before one that had failed often
	asks        bool                   // slots wait for a person's decision, or did while others waited
	reason      string                 // of HoldReasons: why a person must look at parked slots, or ""
	detail      string                 // what the server answered
	suspended   map[unitOf]*suspension // refused parameters
	suspects    map[unitOf]bool        // one of them is refused
	replaced    map[unitOf]bool        // units that the server has refused and the configuration has replaced
}

func newMemory() memory {
	return memory{suspended: map[unitOf]*suspension{}, suspects: map[unitOf]bool{}, replaced: map[unitOf]bool{}}
}

type suspension struct {
	reason string    // of HoldReasons
	tried  time.Time // last try in this run
}

// doubt is a request that the server may have stored: the hashes of its readings in order, without units. An empty
// doubt may be any part of the slot.
type doubt []uint64

// mostDoubts is how many doubts of a slot are kept. If the server has stored a request whose doubt was dropped, the
// slot has to wait.
const mostDoubts = 16

// doubtful is how many slots of a device may be at the server, unknown to the store, after a crash.
const doubtful = 8

func newDoubt(rs []payload.Reading) doubt {
	d := make(doubt, len(rs))
	for i, r := range rs {
		value := math.Float64bits(r.Value)
		if r.Diagnostic {
			value = ^value
		}
		d[i] = xxhash.Sum64String(r.Parameter+"\x00"+r.Flag.String()) ^ value*0x9E3779B97F4A7C15
	}
	slices.Sort(d)
	return d
}

// covers reports whether the doubtful request was this very request, or is known to have contained its only reading.
func (d doubt) covers(request doubt) bool {
	if len(request) == 1 {
		return len(d) == 0 || slices.Contains(d, request[0])
	}
	return slices.Equal(d, request)
}

func (q *queue) inDoubt(s *slot, rs []payload.Reading) bool {
	doubts := s.doubts
	if q.stamps.doubted(s.stamp) {
		doubts = append(slices.Clone(doubts), doubt{})
	}
	if len(doubts) == 0 {
		return false
	}
	asked := newDoubt(rs)
	return slices.ContainsFunc(doubts, func(d doubt) bool { return d.covers(asked) }) &&
		!slices.ContainsFunc(doubts, func(d doubt) bool { return d.touches(asked) })
}

// perhapsSent reports that the slot is in doubt only because the last run crashed, and may not have been sent.
func (q *queue) perhapsSent(s *slot) bool { return q.stamps.doubted(s.stamp) && len(s.doubts) == 0 }

// touches reports whether the server may have stored a part of the request, but not all of it, from the doubtful
// request: it then answers 111 to the whole.
func (d doubt) touches(request doubt) bool {
	return len(request) > 1 && !slices.Equal(d, request) && (len(d) == 0 || slices.ContainsFunc(d, func(h uint64) bool { return slices.Contains(request, h) }))
}

// note adds a doubt.
func (s *slot) note(d doubt) {
	if slices.ContainsFunc(s.doubts, func(o doubt) bool { return slices.Equal(o, d) }) {
		return
	}
	if s.doubts = append(s.doubts, d); len(s.doubts) > mostDoubts {
		s.doubts = s.doubts[1:]
	}
}

const memoryPrefix = "device/"

func (m *memory) empty() bool {
	return !m.accepted && !m.unexplained && m.aside == 0 && !m.passed && !m.asks && len(m.suspended) == 0 && len(m.suspects) == 0 && len(m.replaced) == 0
}

// remember encodes the queue's memory and its slots' doubts, or returns nil if there are none.
func (q *queue) remember() []byte {
	type doubtOf struct {
		stamp int64
		doubt doubt
	}
	var doubts []doubtOf
	for t, ok := q.stamps.next(everBefore, (*word).doubted); ok; t, ok = q.stamps.next(t+1, (*word).doubted) {
		doubts = append(doubts, doubtOf{stamp: t})
	}
	for _, s := range q.slots {
		for _, d := range s.doubts {
			doubts = append(doubts, doubtOf{s.stamp, d})
		}
	}
	m := &q.memory
	m.aside, m.passed, m.asks = q.parked(), q.passesOver(), len(q.asked) > 0 || m.asks && q.stamps.n > 0
	if m.empty() && len(doubts) == 0 {
		return nil
	}
	e := frame.New(formatVersion)
	e.Bool(m.accepted)
	e.Bool(m.unexplained)
	e.Int(m.aside)
	e.Bool(m.passed)
	e.Bool(m.asks)
	e.Text(m.reason)
	e.Text(m.detail)
	e.Uint(uint64(len(m.suspended)))
	for _, u := range sortedUnits(m.suspended) {
		e.Text(u.parameter)
		e.Text(u.unit)
		e.Text(m.suspended[u].reason)
	}
	for _, units := range []map[unitOf]bool{m.suspects, m.replaced} {
		e.Uint(uint64(len(units)))
		for _, u := range sortedUnits(units) {
			e.Text(u.parameter)
			e.Text(u.unit)
		}
	}
	e.Uint(uint64(len(doubts)))
	for _, of := range doubts {
		e.Int(of.stamp)
		e.Uint(uint64(len(of.doubt)))
		for _, h := range of.doubt {
			e.Fixed(h)
		}
	}
	return e.Seal()
}

// plain is the memory of a device of which only accepted is known.
var plain = string((&queue{memory: memory{accepted: true}}).remember())

func (q *queue) isPlain() bool {
	m := &q.memory
	return m.accepted && !m.unexplained && !m.asks && m.reason == "" && len(q.asked) == 0 && !q.passesOver() && len(m.suspended)+len(m.suspects)+len(m.replaced) == 0 &&
		q.parked() == 0 && q.stamps.newest((*word).doubted) == 0 && !slices.ContainsFunc(q.slots, func(s *slot) bool { return len(s.doubts) > 0 })
}

// postpone reports that a queue's memory is stored, or will be stored with the next new slots. At the first slots of a
// hub, writing each memory alone would rewrite a page of others. Delivery.mu is held.
func (d *Delivery) postpone(q *queue) bool {
	if !q.isPlain() || q.saved != "" && q.saved != plain {
		return false
	}
	if q.saved == "" {
		d.postponed[q] = true
	}
	return true
}

// postponedOps returns the operations that store the postponed memories.
func (d *Delivery) postponedOps() (ops []store.Op, queues []*queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for q := range d.postponed {
		queues = append(queues, q)
		if q.saved == "" {
			ops = append(ops, store.Op{Key: memoryPrefix + q.device, Value: []byte(plain)})
		}
	}
	return ops, queues
}

// remembered records that these memories are stored. Delivery.mu is held.
func (d *Delivery) remembered(queues []*queue) {
	for _, q := range queues {
		if q.saved == "" {
			q.saved = plain
		}
		delete(d.postponed, q)
	}
}

func sortedUnits[V any](units map[unitOf]V) []unitOf {
	return slices.SortedFunc(maps.Keys(units), func(a, b unitOf) int {
		if c := strings.Compare(a.parameter, b.parameter); c != 0 {
			return c
		}
		return strings.Compare(a.unit, b.unit)
	})
}

// decodeMemory reads a value that remember has written.
func decodeMemory(value []byte) (m memory, doubts map[int64][]doubt, err error) {
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return memory{}, nil, err
	}
	m = newMemory()
	m.accepted, m.unexplained, m.aside, m.passed, m.asks, m.reason, m.detail = d.Bool(), d.Bool(), d.Int(), d.Bool(), d.Bool(), d.Text(), d.Text()
	for n := d.Count(3); n > 0 && d.Err() == nil; n-- {
		m.suspended[unitOf{d.Text(), d.Text()}] = &suspension{reason: d.Text()}
	}
	for _, units := range []map[unitOf]bool{m.suspects, m.replaced} {
		for n := d.Count(2); n > 0 && d.Err() == nil; n-- {
			units[unitOf{d.Text(), d.Text()}] = true
		}
	}
	doubts = map[int64][]doubt{}
	for n := d.Count(2); n > 0 && d.Err() == nil; n-- {
		stamp := d.Int()
		var one doubt
		for n := d.Count(8); n > 0 && d.Err() == nil; n-- {
			one = append(one, d.Fixed())
		}
		doubts[stamp] = append(doubts[stamp], one)
	}
	if d.Err() == nil && d.Left() > 0 {
		d.Fail("unexpected data at the end")
	}
	return m, doubts, d.Err()
}

// recall restores a queue's memory. A value that cannot be read is kept apart; its device then accepts no 111 as
// evidence until the server has accepted something from it.
func (d *Delivery) recall(key string, value []byte) error {
	q := d.queue(key[len(memoryPrefix):])
	m, doubts, err := decodeMemory(value)
	if errors.Is(err, frame.ErrNewer) {
		return err
	}
	if err != nil {
		d.keep(key, slotID{device: q.device}, slices.Clone(value))
		q.memory.unexplained = true
		return nil
	}
	q.memory, q.saved = m, string(value)
	for stamp, list := range doubts {
		if _, waits := q.stamps.status(stamp); !waits {
			continue
		}
		for _, one := range list {
			if len(one) == 0 {
				q.stamps.doubt(stamp)
			} else {
				q.slot(stamp).note(one)
			}
		}
	}
	for t, ok := q.stamps.next(everBefore, (*word).queued); ok && t <= m.aside; t, ok = q.stamps.next(t+1, (*word).queued) {
		q.stamps.set(t, parked)
	}
	return nil
}

// sendingKey is in the store from before the first request until the end of all work. If a start finds it, the run
// before may have ended with requests in flight.
const sendingKey = "sending"

// doubtAll marks the slots of each device that may have been at the server when the last run crashed: the oldest ones
// and all parked ones. All slots are marked if newer ones went before one that had failed often.
func (d *Delivery) doubtAll(ctx context.Context) error {
	found, err := d.cfg.Store.Get(ctx, sendingKey)
	if err != nil || found == nil {
		return err
	}
	for _, q := range d.queues {
		q.stamps.each(func(w *word) { w.unsure |= w.of[parked] })
		n := 0
		for t, ok := q.stamps.next(everBefore, (*word).queued); ok && (n < doubtful || q.memory.passed); t, ok = q.stamps.next(t+1, (*word).queued) {
			q.stamps.doubt(t)
			if !q.memory.asks || !d.mayBeUndecided(ctx, slotID{q.device, t}) { // such a slot was most likely not sent
				n++
			}
		}
	}
	return nil
}

// mayStart reports that a request may be sent: the next start will know of it, whatever happens. Delivery.mu is held.
func (d *Delivery) mayStart() bool { return d.marked || d.cfg.DryRun }

func (d *Delivery) isMarked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mayStart()
}

// marks returns the operations that record the start of a run and the doubts that the last run left.
func (d *Delivery) marks() (ops []store.Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mayStart() {
		return nil
	}
	for _, q := range d.queues {
		if value := q.remember(); string(value) != q.saved {
			ops, q.saved = append(ops, store.Op{Key: memoryPrefix + q.device, Value: value}), string(value)
		}
	}
	return append(ops, store.Op{Key: sendingKey, Value: []byte{formatVersion}})
}

func (d *Delivery) mark() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marked = d.marked || !d.cfg.DryRun
	d.wake.send()
}

// unmark records a clean stop if the store knows the outcome of all that was sent. Otherwise it stores what it can.
func (d *Delivery) unmark(ctx context.Context) {
	if !d.marked {
		return
	}
	ops, _ := d.postponedOps()
	if !d.unwritten {
		leave, _ := d.done.leave(nil, true)
		ops = slices.Concat(ops, leave, d.index.write(ctx, d.cfg.Store, nil, d.done.slots), []store.Op{{Key: sendingKey}})
	}
	if err := d.cfg.Store.Batch(ctx, ops...); err != nil {
		d.cfg.Logger.Warn("cannot record a clean stop in the outbox: the next start treats this stop as a crash", "error", err)
	}
}

// asks limits the requests for single readings of slots that another sender has reported. A plant sends all of them. The
// standby of a hub would send many times the hub's requests, so it sends those of a random share of such slots: on average
// one request in askInterval. The requests of one askBurst may be sent in advance.
type asks struct {
	paid           time.Time
	turn           time.Time     // when the current askBurst began
	wanted, before time.Duration // cost of one such slot of each device in this askBurst, and in the one before
}

const (
	askInterval = time.Second / 5
	askBurst    = spec.SlotLength
)

// allow decides on a slot. counted is the device's last turn with such a slot.
func (a *asks) allow(counted *time.Time, requests int, now time.Time) bool {
	cost := time.Duration(requests) * askInterval
	if now.Sub(a.turn) >= askBurst {
		a.turn, a.before, a.wanted = now, a.wanted, 0
	}
	if *counted != a.turn {
		*counted = a.turn
		a.wanted += cost
	}
	share := float64(askBurst) / float64(max(a.before, a.wanted))
	if a.paid = spec.Later(a.paid, now); a.paid.Sub(now) > askBurst || rand.Float64() >= share {
		return false
	}
	a.paid = a.paid.Add(cost)
	return true
}

// lookup finds in the trail what the server has accepted. It may use a tenth of the time, because a server that answers
// 111 to all slots of a hub would cause endless reading. Each lookup adds a debt of ten times its duration, and the
// debt may be at most lookupBurst.
type lookup struct {
	mu   sync.Mutex
	paid time.Time
}

const lookupBurst = 10 * time.Second

// recorded returns the readings that the trail has as delivered with the same value. For a single reading it returns
// the conflicting value, if any. some reports that the trail has any of the slot; unread, that it could not be read
// now.
func (d *Delivery) recorded(id slotID, rs []payload.Reading) (same []payload.Reading, conflict string, some, unread bool) {
	d.lookup.mu.Lock()
	defer d.lookup.mu.Unlock()
	begin := time.Now()
	if d.cfg.Trail == nil || d.lookup.paid.Sub(begin) > lookupBurst {
		return nil, "", false, d.cfg.Trail != nil
	}
	found, err := d.cfg.Trail.Delivered(id.device, id.stamp)
	if err != nil {
		d.cfg.Logger.Error("cannot read the audit trail: a slot that the server calls stored has to wait", "error", err)
	}
	d.lookup.paid = spec.Later(d.lookup.paid, begin).Add(10 * time.Since(begin))
	for i, r := range audit.Readings(rs) {
		for _, f := range found {
			unit := f.Unit
			f.Unit, f.Samples, f.Range = r.Unit, r.Samples, r.Range // the unit may have been mended since, and replayed history may differ in samples and range
			if f == r {
				same = append(same, rs[i])
			} else if len(rs) == 1 && f.Parameter == r.Parameter && f.Diagnostic == r.Diagnostic && f.Flag != "" && f.Calibration() == r.Calibration() {
				conflict = fmt.Sprintf("the server has %v %s flag %s of this parameter and stamp, which was delivered before", f.Value, unit, f.Flag)
			}
		}
	}
	if len(same) > 0 {
		conflict = ""
	}
	return same, conflict, len(found) > 0, err != nil
}
