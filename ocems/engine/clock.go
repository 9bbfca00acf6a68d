package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

const (
	clockKey = "clock"
	mostHeld = 64 << 20 // bytes of live readings that wait for the clock; beyond it a batch fails and its sender keeps it
)

// held has readings of one batch that wait until the clock is trusted: live ones, and ones whose source time this clock
// would refuse.
type held struct {
	moment
	samples []sample
	oldest  time.Time
	bytes   int  // of their value in the store
	own     bool // the time is the sender's own

	restored bool // from a previous run, which has counted them
}

// moment is the time at which a batch arrived.
type moment struct {
	now  time.Time
	era  uint64        // of this machine's clock
	skew time.Duration // the server's clock minus this machine's
}

func (e *Engine) moment() moment {
	now, era := e.clock.Now()
	return moment{now, era, e.clock.Skew()}
}

// timed decides whether a reading's time comes from this machine's clock. It returns true for a reading that its sender
// had kept and that arrives just after a step: its time comes from the clock before the step.
func (b *Batch) timed(x *sample, d *registry.Device) (before bool) {
	kind := b.e.cfg.Slots.Timestamps
	if d != nil && d.Timestamps != "" {
		kind = d.Timestamps
	}
	switch {
	case kind == registry.TimestampsSource || x.reason != slot.Taken:
	case b.before.Took(x.Time) && b.e.lived.in(x.Device, b.before.Era):
		x.live = true
		return true
	default:
		if x.live = x.Time.Sub(b.now).Abs() <= clock.LiveWithin; x.live {
			b.e.lived.note(x.Device, b.era)
		}
	}
	return false
}

// lived has the last two eras of the clock in which a device had live readings. A device without live readings that
// sends readings from before a step sends history.
type lived struct {
	mu    sync.RWMutex
	first uint64 // first era that belongs to this run alone
	eras  map[string][2]uint64
}

func (l *lived) note(device string, era uint64) {
	l.mu.RLock()
	known := l.eras[device][0] == era
	l.mu.RUnlock()
	if !known {
		l.mu.Lock()
		if l.eras == nil {
			l.eras = map[string][2]uint64{}
		}
		l.eras[device] = [2]uint64{era, l.eras[device][0]}
		l.mu.Unlock()
	}
}

// in returns true for eras of previous runs, because these are not recorded.
func (l *lived) in(device string, era uint64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	eras := l.eras[device]
	return era < l.first || eras[0] == era || eras[1] == era
}

const wrongClock = "this machine's clock was wrong then, and was corrected"

// restoreClock reads what the last run knew of the clock.
func (e *Engine) restoreClock(ctx context.Context) (confirmed bool, damaged []byte, err error) {
	value, err := e.cfg.Store.Get(ctx, clockKey)
	_, e.lived.first = e.clock.Now()
	if err != nil || value == nil {
		return false, nil, err
	}
	confirmed, err = e.clock.Restore(value)
	if _, e.lived.first = e.clock.Now(); !confirmed { // the clock may continue an era of the previous run
		e.lived.first++
	}
	e.loop.era = e.clock.Doubted()
	if errors.Is(err, frame.ErrDamaged) {
		return false, value, nil
	}
	return confirmed, nil, err
}

// closesBy is the time up to which windows close. Readings that wait for the clock may belong to open windows.
func (e *Engine) closesBy() time.Time {
	at := e.clock.Closing()
	for _, h := range e.loop.held {
		if start, _ := spec.Window(h.oldest, spec.SlotLength); start.Before(at) {
			at = start
		}
	}
	return at
}

// believe aligns or refuses the waiting readings according to the trust in the clock. The next checkpoint stores the
// result.
func (e *Engine) believe(now time.Time) {
	if wrong := e.clock.Wrong(); len(wrong) > len(e.loop.wrong) {
		e.log.Error("this machine's clock was wrong and was corrected: readings taken meanwhile are in the audit trail and in no slot")
		e.loop.wrong, e.loop.withdrawal = wrong, nil
		e.takeBack(now)
	}
	if len(e.loop.wrong) > 0 {
		return
	}
	doubted := e.clock.Doubted() // this changes only once the doubted era before is confirmed or put right
	confirmed := e.clock.Trust(doubted) == clock.Confirmed
	if confirmed && !e.loop.confirmed || doubted != e.loop.era {
		e.aligner.Confirm()
		for i := range e.loop.closed {
			e.loop.closed[i].Doubt = false
		}
		e.loop.changed = true
	}
	e.loop.era, e.loop.confirmed = doubted, confirmed
	_, era := e.clock.Now()
	if trust := e.clock.Trust(era); trust == clock.Confirmed || trust == clock.Trusted {
		e.release(e.moment(), trust)
	}
	e.releaseIf(func(h held) (moment, clock.Trust, bool) {
		trust := e.clock.Trust(h.era)
		return h.moment, trust, !h.own && (trust == clock.Confirmed || trust == clock.Trusted)
	})
}

// release aligns waiting readings with source time, at a moment whose clock is trusted. A restart does this before the
// same batch, so that of two values for one time the same one comes first.
func (e *Engine) release(m moment, trust clock.Trust) {
	e.releaseIf(func(h held) (moment, clock.Trust, bool) { return m, trust, h.own })
}

func (e *Engine) releaseIf(due func(held) (moment, clock.Trust, bool)) {
	kept := e.loop.held[:0]
	for _, h := range e.loop.held {
		m, trust, ok := due(h)
		if !ok {
			kept = append(kept, h)
			continue
		}
		e.renameSamples(h.samples)
		before := e.aligner.Stats()
		e.loop.again = h.restored
		e.alignAll(m, h.samples, trust)
		e.loop.again = false
		if h.restored {
			e.countedBefore(before, e.aligner.Stats())
		}
	}
	clear(e.loop.held[len(kept):])
	e.loop.changed, e.loop.held = e.loop.changed || len(kept) < len(e.loop.held), kept
}

// countedBefore removes from the counters what a previous run has counted.
func (e *Engine) countedBefore(before, after slot.Stats) {
	e.counts.mu.Lock()
	defer e.counts.mu.Unlock()
	e.replayed.Taken += after.Taken - before.Taken
	if n := after.Refused[slot.Duplicate] - before.Refused[slot.Duplicate]; n > 0 {
		if e.replayed.Refused == nil {
			e.replayed.Refused = map[slot.Reason]uint64{}
		}
		e.replayed.Refused[slot.Duplicate] += n
	}
}

// alignAll aligns samples; live ones are in doubt if the clock is not confirmed.
func (e *Engine) alignAll(m moment, samples []sample, trust clock.Trust) {
	for i := range samples {
		samples[i].Doubt = samples[i].live && trust == clock.Trusted
	}
	e.align(m, samples)
}

// takeBack removes from windows and closed slots what a wrong clock has put there.
func (e *Engine) takeBack(now time.Time) {
	if slices.Contains(e.loop.wrong, e.loop.era) {
		for _, s := range e.aligner.Withdraw() {
			e.takeBackSlot(s, now)
		}
		e.loop.closed = slices.DeleteFunc(e.loop.closed, func(s slot.Slot) bool {
			if s.Doubt {
				e.takeBackSlot(s, now)
				e.aligner.Reopen(s.Series, s.Stamp, s.Flag)
			}
			return s.Doubt
		})
	}
	e.refuseHeld(func(h held) bool { return !h.own && slices.Contains(e.loop.wrong, h.era) }, wrongClock, now)
}

// refuseHeld refuses readings that wait.
func (e *Engine) refuseHeld(which func(held) bool, why string, now time.Time) {
	e.loop.held = slices.DeleteFunc(e.loop.held, func(h held) bool {
		if !which(h) {
			return false
		}
		e.loop.again = h.restored
		for _, x := range h.samples {
			e.refuse(x, slot.WrongClock, func() string { return why }, now)
		}
		e.loop.again = false
		return true
	})
}

func (e *Engine) takeBackSlot(s slot.Slot, now time.Time) {
	x := sampleOf(s)
	x.count = s.Samples
	e.refuse(x, slot.WrongClock, func() string { return wrongClock + "; the value is computed from all of them" }, now)
}

// save makes a checkpoint. After takeBack it also removes the wrong readings from the outbox.
func (e *Engine) save(ctx context.Context) error {
	wrong := e.loop.wrong
	if len(wrong) == 0 {
		return e.checkpoint(ctx, nil, nil)
	}
	if e.outbox != nil && e.loop.withdrawal == nil {
		found, err := e.outbox.Withdraw(ctx, wrong)
		if err != nil {
			return err
		}
		for _, x := range found.Readings {
			r := x.Reading
			e.aligner.Reopen(slot.Series{Device: x.Device, Parameter: r.Parameter, Diagnostic: r.Diagnostic}, r.Stamp, r.Flag)
		}
		e.loop.withdrawal = found
	}
	if err := e.checkpoint(ctx, wrong, e.loop.withdrawal); err != nil {
		return err
	}
	e.clock.PutRight(wrong)
	e.loop.wrong, e.loop.withdrawal = nil, nil
	return nil
}

// saveHeld returns the operation that stores the waiting readings, if there are any.
func (e *Engine) saveHeld() (key string, ops []store.Op) {
	if len(e.loop.held) == 0 {
		return "", nil
	}
	v := frame.New(formatVersion)
	for i := range e.loop.held {
		h := &e.loop.held[i]
		v.Byte(byte(clock.Untrusted))
		v.Append(new(coder).encode(h.moment, h.samples))
	}
	key = e.nextBatch()
	return key, []store.Op{{Key: key, Value: v.Seal()}}
}

func (e *Engine) nextBatch() string {
	return samplesKeys + string(binary.BigEndian.AppendUint64(nil, e.loop.next))
}

func (e *Engine) heldBytes() (n int) {
	for _, h := range e.loop.held {
		n += h.bytes
	}
	return n
}

// tellClock reports a clock that a person must check, and when it is right again, once each.
func (e *Engine) tellClock() {
	text := e.clock.Trouble()
	switch {
	case text != "" && !e.loop.contradicted:
		e.log.Error(text)
	case text == "" && e.loop.contradicted:
		e.log.Info("the server's clock no longer contradicts this machine's clock")
	}
	e.loop.contradicted = text != ""
	var err error
	if text != "" {
		err = fmt.Errorf("%s", text)
	}
	e.health.set(&e.health.clock, err)
}
