package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
	"github.com/ocems-io/ocems/ocems/store/place"
)

const (
	tick        = time.Second
	frozen      = 10 * time.Second // longer without progress: the process, its machine or its disk stood still
	mostTakes   = 512              // takes that share one write
	showFiles   = time.Minute      // how long a fault of the files stays in the health
	mostBytes   = 32 << 20         // of samples beside the saved aligner, or as many as the aligner has: more would make a restart slow
	samplesKeys = "samples/"
	openKeys    = "open/"
)

// loop is used by the engine's goroutine only, apart from start and end.
type loop struct {
	restored   bool
	renamed    bool     // during restore
	next       uint64   // number of the next batch of samples
	batches    []string // keys of batches that are not in the saved aligner
	bytes      int      // of these batches
	weight     int      // bytes of the aligner when last saved
	closed     []slot.Slot
	waiting    atomic.Int64 // len(closed)
	refusals   refusals
	unnoted    bool // the trail cannot be written
	units      map[string]string
	moved      time.Time            // last progress
	stood      time.Time            // when windows began to wait because the process stood still; zero if they do not
	opens      time.Time            // until when they wait
	saved      time.Time            // when the aligner was saved or restored
	held       []held               // these readings are in the batches too
	again      bool                 // the readings being aligned were counted in a previous run
	changed    bool                 // by the clock since the last checkpoint
	wrong      []uint64             // eras of the clock that were taken back but not yet put right
	withdrawal *delivery.Withdrawal // of these eras, not stored yet

	era                     uint64 // of everything that is aligned in doubt
	confirmed, contradicted bool

	damaged []store.Op // operations that keep damaged values under other keys
	fault   error
	files   string    // result of the last check
	checked time.Time // when a check last found a fault
}

// take is one batch of samples on its way to the disk. When it is done its memory is reused.
type take struct {
	moment
	samples []sample
	coder   coder
	value   []byte // encoded samples
	done    chan error
}

var errClosed = errors.New("the engine is shut down")

// newTake returns an empty take.
func (e *Engine) newTake(m moment) *take {
	t, _ := e.room.Get().(*take)
	if t == nil {
		t = &take{done: make(chan error, 1)}
	}
	t.moment = m
	return t
}

// take returns when the samples are on disk.
func (e *Engine) take(ctx context.Context, t *take) error {
	t.value = t.coder.encode(t.moment, t.samples)
	select {
	case e.takes <- t:
	case <-e.stopped:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-t.done:
		return e.taken(t, err)
	case <-e.stopped:
		select {
		case err := <-t.done:
			return e.taken(t, err)
		default:
			return errClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// taken makes the memory of a finished take reusable.
func (e *Engine) taken(t *take, err error) error {
	if cap(t.samples) <= mostExpected {
		t.samples, t.value = t.samples[:0], nil
		e.room.Put(t)
	}
	return err
}

// run carries out one step after the other: it takes batches or closes windows.
func (e *Engine) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	e.moves()
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-e.takes:
			e.takeAll(ctx, t)
		case <-ticker.C:
			now, _ := e.clock.Now()
			for n, came := 0, false; n < mostTakes && !came && len(e.takes) > 0; n++ { // takes that came before now, up to which windows close
				t := <-e.takes
				came = t.now.After(now) // on a slow disk another one always waits
				e.takeAll(ctx, t)
			}
			if ctx.Err() == nil { // both channels may be ready
				e.step(ctx, now)
			}
		}
	}
}

// moves records progress. After a time without any, readings that were sent meanwhile are not taken yet, so no window
// closes for grace and settle. A machine that stands still again and again closes windows every 15 minutes nevertheless.
func (e *Engine) moves() {
	now, rest := time.Now(), e.rules.Grace+e.rules.Settle
	if !e.loop.moved.IsZero() && now.Sub(e.loop.moved) > frozen {
		if e.loop.stood.IsZero() {
			e.loop.stood = now
		}
		e.loop.opens = now.Add(rest)
		if last := e.loop.stood.Add(rest + spec.SlotLength); last.Before(e.loop.opens) {
			e.loop.opens = last
		}
	}
	e.loop.moved = now
}

// takeAll writes all waiting batches in one value, and then aligns them in the order that a restart would use. It saves
// closed slots first: otherwise a reading could be late now, but after a restart its window would be open again.
func (e *Engine) takeAll(ctx context.Context, first *take) {
	e.moves()
	defer e.moves()
	list := []*take{first}
	for len(list) < mostTakes {
		select {
		case t := <-e.takes:
			list = append(list, t)
			continue
		default:
		}
		break
	}
	now, _ := e.clock.Now()
	e.believe(now)
	size := 16
	for _, t := range list {
		size += 1 + len(t.value)
	}
	v := frame.Sized(formatVersion, size)
	trust := make([]clock.Trust, len(list)) // stored, so that a restart decides the same
	for i, t := range list {
		trust[i] = e.clock.Trust(t.era)
		v.Byte(byte(trust[i]))
		v.Append(t.value)
	}
	value := v.Seal()
	key := e.nextBatch()
	var err error
	if len(e.loop.closed) > 0 {
		err = e.save(ctx)
	}
	switch {
	case err != nil:
	case e.heldBytes() > mostHeld:
		err = errors.New("too many readings wait until this machine's clock is trusted")
	default:
		ops := []store.Op{{Key: key, Value: value}}
		if e.clock.SaveDue(false) {
			ops = append(ops, store.Op{Key: clockKey, Value: e.clock.Save()})
		}
		err = e.cfg.Store.Batch(ctx, ops...)
	}
	if err != nil {
		if err = fmt.Errorf("taking readings: %w", err); ctx.Err() == nil {
			err = e.full(err)
		}
	} else {
		e.loop.next++
		e.loop.batches, e.loop.bytes = append(e.loop.batches, key), e.loop.bytes+len(value)
		e.rested()
	}
	for i, t := range list {
		if err == nil {
			e.place(t.moment, t.samples, trust[i], len(t.value))
		}
		t.done <- err // from here on the take belongs to the sender again
	}
}

// place aligns samples. While the clock is not trusted, live samples wait, and so do samples that the clock would
// refuse for their time.
func (e *Engine) place(m moment, samples []sample, trust clock.Trust, bytes int) {
	if e.looks {
		e.align(m, samples)
		return
	}
	if trust == clock.Confirmed || trust == clock.Trusted {
		e.release(m, trust)
		e.alignAll(m, samples, trust)
		return
	}
	h := held{moment: m, oldest: m.now, restored: e.restoring}
	untimely := h
	untimely.own = true
	own := samples[:0]
	late := slices.ContainsFunc(e.loop.held, func(h held) bool { return h.own }) // later samples wait behind them
	wait := func(h *held, x *sample) {
		h.samples = append(h.samples, *x)
		if x.Time.Before(h.oldest) {
			h.oldest = x.Time
		}
	}
	for i := range samples {
		x := &samples[i]
		switch {
		case !x.live && x.reason == slot.Taken && (late || e.untimely(m, x)):
			wait(&untimely, x)
			continue
		case !x.live:
		case trust == clock.Wrong:
			x.fault = fault{reason: slot.WrongClock, detail: wrongClock}
		default:
			wait(&h, x)
			continue
		}
		if len(own) < i {
			samples[len(own)] = *x
		}
		own = samples[:len(own)+1]
	}
	e.align(m, own)
	for _, h := range []held{h, untimely} {
		if h.samples != nil {
			h.bytes = int(int64(bytes) * int64(len(h.samples)) / int64(len(samples)))
			e.loop.held = append(e.loop.held, h)
		}
	}
}

// untimely reports that this machine's clock would refuse a sample with source time, although a server may soon give a
// better time.
func (e *Engine) untimely(m moment, x *sample) bool {
	return e.cfg.Board != nil && e.aligner.Untimely(x.seenFrom(m.skew), m.now)
}

// full records that readings were refused because the state cannot be written. No window closes until the sender has
// sent them again or has given up, because they belong into the open windows.
func (e *Engine) full(err error) error {
	e.patience.Store(int64(e.clock.Running() + e.cfg.Patience))
	if !e.refusing.Swap(true) {
		e.log.Error("readings are refused until the state can be written again: their senders keep them", "error", err)
		e.health.set(&e.health.intake, err)
	}
	return err
}

// writable records that the state can be written.
func (e *Engine) writable() {
	if e.refusing.Swap(false) {
		e.log.Info("readings are accepted again")
		e.health.set(&e.health.intake, nil)
	}
}

// rested records that readings are taken again.
func (e *Engine) rested() {
	e.writable()
	if rest := int64(e.clock.Running() + cmp.Or(e.cfg.Rest, e.cfg.Patience)); rest < e.patience.Load() {
		e.patience.Store(rest)
	}
}

// align adds samples to their windows.
func (e *Engine) align(m moment, samples []sample) {
	for len(samples) > 0 {
		good := 0
		for good < len(samples) && samples[good].reason == slot.Taken {
			good++
		}
		e.add(m, samples[:good])
		if samples = samples[good:]; len(samples) > 0 {
			x := samples[0]
			e.refuse(x, x.reason, func() string { return e.why(x) }, m.now)
			samples = samples[1:]
		}
	}
}

// add adds samples without a fault.
func (e *Engine) add(m moment, samples []sample) {
	type told struct {
		x sample
		slot.Result
	}
	var list []told
	e.aligner.AddAll(m.now, len(samples), func(i int) (*slot.Head, slot.Reading) { return samples[i].head, samples[i].seenFrom(m.skew) },
		func(i int, r slot.Result) { list = append(list, told{samples[i], r}) })
	for _, t := range list {
		x, r := t.x, t.Result
		switch r.Reason {
		case slot.Taken:
			e.mixed(x, r.Other)
		case slot.Duplicate:
		case slot.Conflict:
			e.refuse(x, r.Reason, func() string {
				if x.Source == r.Other {
					return "another value for this time came first, from the same source: " + e.source(x.Source)
				}
				return fmt.Sprintf("another value for this time came first; this one is from %s, the first from %s", e.source(x.Source), e.source(r.Other))
			}, m.now)
		default:
			e.refuse(x, r.Reason, func() string { return detail(x, r.Reason) }, m.now)
		}
	}
}

// detail adds to a reason what the reason alone does not say.
func detail(x sample, reason slot.Reason) string {
	switch {
	case reason == slot.TooOld && x.Time.Year() < 2000:
		return noTime(x.Time)
	case reason == slot.BadUnit:
		return fmt.Sprintf("the unit is %q, and the slot began with another", x.Unit)
	case reason == slot.NotANumber:
		return fmt.Sprintf("the value is %v", x.Value)
	case reason == slot.TooFar:
		return fmt.Sprintf("max_step is %v a minute", x.MaxStep)
	}
	return ""
}

// noTime explains how a sender can produce a time near 1970.
func noTime(at time.Time) string {
	n := at.UnixNano()
	if n == 0 {
		return "the sender gives no time: each point must have one (OTLP: time_unix_nano)"
	}
	for _, unit := range []struct {
		name string
		in   int64
	}{{"seconds", 1e9}, {"milliseconds", 1e6}, {"microseconds", 1e3}} {
		if n > 0 && n < math.MaxInt64/unit.in {
			if meant := time.Unix(0, n*unit.in); meant.Year() >= 2000 && meant.Year() < 2100 {
				return fmt.Sprintf("the sender gives the time in %s where nanoseconds are expected (OTLP: time_unix_nano): it means %s", unit.name, spec.ISTString(meant))
			}
		}
	}
	return "the sender gives no time, or a time in a unit that the host does not expect"
}

// why explains a fault of a reading.
func (e *Engine) why(x sample) string {
	if x.detail != "" {
		return x.detail
	}
	switch {
	case x.reason == slot.BadUnit:
		return e.loop.badUnit(x.Unit)
	case x.reason == unknown:
		if _, err := spec.LookupParameter(x.Parameter); err != nil {
			return err.Error()
		}
	}
	return detail(x, x.reason)
}

// badUnit explains what is wrong with a unit. Results are cached, because all devices of a hub may have the same wrong
// unit.
func (l *loop) badUnit(unit string) string {
	text, known := l.units[unit]
	if !known {
		if right, err := spec.ResolveUnit(unit); err != nil {
			text = err.Error()
		} else {
			text = fmt.Sprintf("it must be written %q", right)
		}
		if l.units == nil || len(l.units) >= mostForeign {
			l.units = map[string]string{}
		}
		l.units[unit] = text
	}
	return text
}

// mixed warns once of two sources that alternate in one series. After a restart, the name of a source is known only
// once it sends again.
func (e *Engine) mixed(x sample, other uint64) {
	if !e.knows(x.Source) || !e.knows(other) || !e.once.first(mixedSources, x.Device+"\x00"+x.Parameter) {
		return
	}
	a, b := e.source(x.Source), e.source(other)
	e.log.Warn("two sources take turns as one parameter, and their readings are averaged together: if they are two instruments, tell them apart in its entry",
		"device", x.Device, "parameter", x.Parameter, "one", a, "other", b, "tell_apart_by", parting(a, b))
}

// step closes the windows whose time has come and saves the state if needed. All takes that came before now are aligned.
func (e *Engine) step(ctx context.Context, now time.Time) {
	e.moves()
	defer e.moves()
	e.check(now)
	e.believe(now)
	e.tellClock()
	waits := time.Now().Before(e.loop.opens)
	if !waits {
		e.loop.stood = time.Time{}
	}
	if len(e.loop.wrong) == 0 && !waits && int64(e.clock.Running()) >= e.patience.Load() {
		over := e.closesBy()
		if now.Before(over) {
			over = now
		}
		closed := e.sendable(e.aligner.CloseBy(now, over), now)
		e.account.made(closed, false)
		if len(e.loop.closed) > 0 {
			closed = append(e.loop.closed, closed...)
		}
		e.loop.closed = closed
	}
	noted := e.noteSaved(e.loop.refusals.due(now, func(stamp time.Time) bool { return e.over(stamp, now) }), now)
	var err error
	switch {
	case len(e.loop.wrong) > 0 || len(e.loop.closed) > 0 || noted || e.loop.changed || e.loop.bytes > max(mostBytes, e.loop.weight) ||
		len(e.loop.batches) > 0 && now.Sub(e.loop.saved).Abs() > spec.SlotLength: // if nothing closes, because all readings are refused
		err = e.save(ctx)
	case e.clock.SaveDue(e.loop.bytes == 0) && e.loop.fault == nil:
		_ = e.cfg.Store.Batch(ctx, store.Op{Key: clockKey, Value: e.clock.Save()}) // if this fails, the clock loses only some minutes of history
	}
	e.loop.waiting.Store(int64(len(e.loop.closed)))
	if ctx.Err() != nil {
		return
	}
	switch {
	case err == nil && e.loop.fault != nil:
		e.log.Info("slots are saved and handed on again")
	case err != nil && e.loop.fault == nil:
		e.log.Error("closed slots are held until the state can be written again", "error", err)
	}
	e.loop.fault = err
	e.health.set(&e.health.state, err)
}

// check verifies that the next start will find state and trail.
func (e *Engine) check(now time.Time) {
	err := e.cfg.Store.Check()
	if e.trail != nil {
		err = errors.Join(err, e.trail.Check())
	}
	text := fmt.Sprint(err)
	switch {
	case err != nil:
		if e.loop.checked = now; text != e.loop.files || errors.As(err, new(place.Mended)) {
			e.log.Error("another program has moved, replaced or cut a file of this host: keep it away", "error", err)
		}
		e.health.set(&e.health.files, err)
	case now.Sub(e.loop.checked).Abs() >= showFiles:
		e.health.set(&e.health.files, nil)
	}
	e.loop.files = text
}

// sendable returns the slots that JSON can represent and whose readings cover enough minutes, or that wait for a person
// if they do not; only the latter keep their Minutes. A slot that an earlier configuration let in does not block
// others.
func (e *Engine) sendable(slots []slot.Slot, now time.Time) []slot.Slot {
	list := slots[:0]
	for _, s := range slots {
		rules := &registry.Rules{}
		if d, known := e.names.Device(s.Device); known && !s.Flag.Calibration() {
			rules = d.Rules(s.Parameter)
		}
		switch why := rules.TooFew(s.Minutes); {
		case why == "" || s.Doubt && !rules.Waits: // a slot in doubt stays, so that its window opens again if its clock was wrong
			s.Minutes = 0
		case !rules.Waits:
			x := sampleOf(s)
			x.count = s.Samples
			e.refuse(x, slot.TooFew, func() string { return why + delivery.OfAll }, now)
			continue
		}
		r := payload.Reading{Parameter: s.Parameter, Unit: s.Unit, Value: s.Value, Flag: s.Flag}
		if err := r.Check(); err != nil {
			e.refuse(sampleOf(s), slot.BadUnit, err.Error, now)
			continue
		}
		list = append(list, s)
	}
	return list
}

// checkpoint writes in one transaction: the closed slots to their exit, the aligner without them, and of the sample
// batches only those that wait for the clock. withdrawn is removed from the outbox, which puts the eras in righted
// right.
func (e *Engine) checkpoint(ctx context.Context, righted []uint64, withdrawn *delivery.Withdrawal) error {
	entries := e.aligner.Save()
	ops := append(make([]store.Op, 0, len(entries)+len(e.loop.batches)+2), e.loop.damaged...)
	weight := 0
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		ops = append(ops, store.Op{Key: openKeys + key, Value: entries[key]})
		weight += len(entries[key])
	}
	for _, key := range e.loop.batches {
		ops = append(ops, store.Op{Key: key})
	}
	if e.loop.refusals.changed {
		ops = append(ops, store.Op{Key: refusedKey, Value: e.loop.refusals.save()})
	}
	waiting, held := e.saveHeld()
	ops = append(append(ops, held...), store.Op{Key: clockKey, Value: e.clock.Save(righted...)})
	if err := e.leave(ctx, e.loop.closed, withdrawn, ops); err != nil {
		return err
	}
	e.writable()
	e.aligner.Saved()
	e.loop.saved, e.loop.weight = time.Now(), weight
	e.loop.closed, e.loop.batches, e.loop.bytes, e.loop.refusals.changed, e.loop.damaged, e.loop.changed = nil, nil, 0, false, nil, false
	if waiting != "" {
		e.loop.next++
		e.loop.batches = []string{waiting}
	}
	return nil
}

// leave puts slots into the outbox, or into ready, together with the operations.
func (e *Engine) leave(ctx context.Context, slots []slot.Slot, withdrawn *delivery.Withdrawal, ops []store.Op) error {
	e.rename(slots)
	slots = e.rounded(slots)
	if e.ready != nil {
		return e.ready.put(ctx, slots, ops)
	}
	var records []payload.Record
	index := map[string]int{}
	for _, s := range slots {
		records = e.appendReading(records, index, s)
	}
	return e.outbox.PutWhole(ctx, records, withdrawn, ops...)
}

// restore loads the aligner and the batches taken since it was saved. It writes nothing, so that the state of a newer
// version stays unchanged.
func (e *Engine) restore(ctx context.Context) error {
	e.restoring = true
	defer func() { e.restoring = false }()
	keep := func(key string, value []byte, why error) {
		kept := "damaged/" + key + "/" + time.Now().UTC().Format("20060102T150405.000000000")
		e.log.Error("a part of the state is damaged: it is kept under another key, and the other parts are not affected", "key", fmt.Sprintf("%q", key),
			"bytes", len(value), "kept_as", fmt.Sprintf("%q", kept), "error", why)
		e.loop.damaged = append(e.loop.damaged, store.Op{Key: key}, store.Op{Key: kept, Value: slices.Clone(value)})
	}
	confirmed, damaged, err := e.restoreClock(ctx)
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	if damaged != nil {
		keep(clockKey, damaged, frame.ErrDamaged)
	}
	entries := map[string][]byte{}
	err = e.cfg.Store.Range(ctx, openKeys, func(key string, value []byte) error {
		entries[key[len(openKeys):]] = slices.Clone(value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	bad, err := e.aligner.Restore(entries, time.Now())
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		keep(openKeys+name, entries[name], bad[name])
	}
	e.renameOpen()
	value, err := e.cfg.Store.Get(ctx, refusedKey)
	if err == nil && value != nil {
		if wrong := e.loop.refusals.restore(value); errors.Is(wrong, frame.ErrNewer) {
			return fmt.Errorf("reading the state: %w", wrong)
		} else if wrong != nil {
			keep(refusedKey, value, wrong)
		}
	}
	if err == nil {
		err = e.cfg.Store.Range(ctx, samplesKeys, func(key string, value []byte) error {
			if wrong := e.replay(key, value); errors.Is(wrong, frame.ErrNewer) {
				return wrong
			} else if wrong != nil {
				keep(key, value, wrong)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	if confirmed {
		e.aligner.Confirm()
	}
	return nil
}

// keepDamaged moves damaged values to keys that are never overwritten. If that fails, the next checkpoint does it.
func (e *Engine) keepDamaged(ctx context.Context) {
	if len(e.loop.damaged) == 0 {
		return
	}
	if err := e.cfg.Store.Batch(ctx, e.loop.damaged...); err != nil {
		e.log.Error("cannot keep the damaged part under another key: trying again when slots are saved", "error", err)
		return
	}
	e.loop.damaged = nil
}

// replay aligns a batch of samples as it was aligned when it was taken.
func (e *Engine) replay(key string, value []byte) error {
	e.loop.batches = append(e.loop.batches, key)
	e.loop.bytes += len(value)
	if number := key[len(samplesKeys):]; len(number) == 8 {
		e.loop.next = max(e.loop.next, binary.BigEndian.Uint64([]byte(number))+1)
	}
	d, err := frame.Open(value, formatVersion)
	for err == nil && d.Left() > 0 {
		trust, left := clock.Trust(d.Byte()), d.Left()
		m, samples, wrong := decodeSamples(d)
		if err = wrong; err == nil {
			e.renameSamples(samples)
			e.place(m, samples, trust, left-d.Left())
		}
	}
	return err
}
