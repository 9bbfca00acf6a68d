package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/store"
)

// Config is what an Engine needs of its host.
type Config struct {
	Slots options.Slots
	Names registry.Config
	Store store.Store // the host closes it after the Engine; beside one that has a Path is the status
	// Patience is how long a sender may take to send again what was refused for want of a disk: no window closes meanwhile.
	Patience time.Duration
	Logger   *slog.Logger
	Status   string          // file that tells the tools of each parameter, see [status.Path]; "" for none
	OnHealth func(err error) // called when trouble begins (not nil) and ends (nil); may be nil
	// Wall is the wall clock, which may step; nil is time.Now.
	Wall func() time.Time
	// Boot tells one boot of the machine from others, and its age; nil is [clock.KernelBoot].
	Boot func() (id string, since time.Duration)

	// Board is where slots go; nil in a processor, which has Next.
	Board *Board
	// Next hands slots on, all of one exit. They are kept until it returns nil.
	Next func(ctx context.Context, exit uint8, slots []slot.Slot) error
}

// Board is the way to the board's server.
type Board struct {
	options.Delivery
	Client   *http.Client
	OnResult func(o audit.Outcome, readings int) // counts final outcomes; may be nil
	OnTry    func(took time.Duration, ok bool)   // counts attempts; may be nil
}

// Engine takes readings and makes slots of them.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	names   *registry.Registry
	clock   *clock.Clock
	aligner *slot.Aligner
	aligns  bool // else the aligner closes what an earlier configuration has left in it
	rules   slot.Options
	trail   *audit.Trail
	started *audit.Later // in the trail, once the host has run for a while, or has an outcome
	outbox  *delivery.Delivery
	ready   *ready // in a processor, in place of the outbox

	counts   counts
	replayed slot.Stats // what a life before has counted; guarded by counts.mu
	once     once

	lived      lived
	sourcesMu  sync.RWMutex
	sources    map[uint64]string
	sourcesEra atomic.Uint64 // counts when they were forgotten
	restoring  bool          // in Open
	looks      bool          // only, and takes nothing

	patience atomic.Int64 // running time before which no window closes
	refusing atomic.Bool  // readings, for want of a disk
	takes    chan *take
	room     sync.Pool // of takes that are done
	known    known
	stop     context.CancelFunc
	stopped  chan struct{} // closed when no take is carried out any more
	running  sync.WaitGroup
	closing  sync.Once
	loop     loop
	health   health
	account  *account
}

// counts are what a host shows.
type counts struct {
	ignored, finished atomic.Uint64
	mu                sync.Mutex
	reasons           map[slot.Reason]uint64
}

func (c *counts) refused(r slot.Reason, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reasons == nil {
		c.reasons = map[slot.Reason]uint64{}
	}
	c.reasons[r] += uint64(n)
}

// Stats are an Engine's gauges and counters since it was opened.
type Stats struct {
	slot.Stats                       // Refused: by reason, with Duplicate, which is no loss
	Finished    uint64               // slots made upstream that went to the outbox
	Ignored     uint64               // readings that are no parameter of any device
	Pending     int                  // slots that are closed and not handed on
	Outbox      delivery.Stats       // where there is one
	Unreachable bool                 // the board's server
	Troubled    map[status.Class]int // parameters in trouble, as of the end of the last slot
}

// OldestAge is how old the oldest slot in the outbox is, by its stamp.
func (s Stats) OldestAge() time.Duration {
	if s.Outbox.Oldest.IsZero() {
		return 0
	}
	return time.Since(s.Outbox.Oldest)
}

// Reasons lists why readings are in no slot.
func Reasons() []slot.Reason { return append(slot.Reasons(), offGrid, unknown) }

// Open reads the state and begins to take readings. The server need not be there.
func Open(ctx context.Context, cfg Config) (e *Engine, err error) {
	e = &Engine{cfg: cfg, log: cfg.Logger, rules: cfg.Slots.Rules(), sources: map[uint64]string{}, takes: make(chan *take, 1024), stopped: make(chan struct{})}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close(ctx))
			e = nil
		}
	}()
	e.health.tell, e.loop.refusals = cfg.OnHealth, newRefusals()
	if e.names, err = registry.New(cfg.Names); err != nil {
		return e, err
	}
	if err := e.openTrail(); err != nil {
		return e, err
	}
	e.clock = clock.New(clock.Config{MaxSkew: e.rules.MaxSkew, Wall: cfg.Wall, Boot: cfg.Boot, Alone: cfg.Board == nil || cfg.Board.DryRun, AtOnce: cfg.Board != nil && cfg.Board.DryRun})
	e.aligns, e.aligner = cfg.Board == nil || cfg.Board.Align, slot.New(e.rules)
	if err := e.restore(ctx); err != nil { // before the exit, so that nothing is sent from a state that is refused
		return e, err
	}
	e.replayed, e.counts.reasons = e.aligner.Stats(), nil
	e.account = openAccount(e, statusPath(cfg.Store))
	if e.trail != nil {
		started := e.entry(audit.Started)
		if ran := e.account.ran; !ran.IsZero() {
			started.Stamp = ran.UnixMilli()
		}
		e.started = e.trail.Later(started, status.Settled)
	}
	if err := e.openExit(run); err != nil {
		return e, err
	}
	e.loop.restored, e.loop.saved = true, time.Now()
	e.keepDamaged(ctx)
	if e.loop.renamed {
		if err := e.save(ctx); err != nil {
			e.log.Error("cannot save open slots under their present names: it is tried again when slots are saved", "error", err)
		}
	}
	e.running.Go(func() { defer close(e.stopped); e.run(run) })
	e.running.Go(func() { e.watch(run) })
	e.running.Go(func() { e.account.run(run.Done()) })
	e.begin()
	return e, nil
}

func (e *Engine) openTrail() (err error) {
	if e.cfg.Slots.AuditFile == "" {
		e.log.Warn("no audit_file is set: final outcomes go to the log only")
		return nil
	}
	if e.trail, err = audit.Open(e.cfg.Slots.AuditFile); err != nil {
		return fmt.Errorf("audit_file: %w", err)
	}
	if damage := e.trail.Damage(); damage != "" {
		e.log.Error(damage)
	}
	e.trail.Rotate(e.cfg.Slots.Rotation(func(err error) {
		e.log.Error("the audit_file goes on as it is, and this is tried again: free space or mend its directory", "error", err)
	}))
	return nil
}

// entry lets the trail tell when the host ran, and of Started until when the life before is known to have run.
func (e *Engine) entry(o audit.Outcome) audit.Entry {
	devices, parameters := e.names.Devices(), 0
	for _, d := range devices {
		parameters += len(d.Mapped())
	}
	return audit.Entry{Outcome: o, Detail: fmt.Sprintf("%s: devices %d, parameters %d", delivery.UserAgent(), len(devices), parameters)}
}

func (e *Engine) openExit(ctx context.Context) (err error) {
	if e.cfg.Board == nil {
		e.ready, err = openReady(ctx, e)
		return err
	}
	b := e.cfg.Board
	e.outbox, err = delivery.New(ctx, delivery.Config{
		Delivery: b.Delivery, Client: b.Client, Store: e.cfg.Store, Trail: e.trail, Lookup: e.lookup, Hide: e.names.Hide, Logger: e.log, Clock: e.clock,
		Words:     delivery.Words{CAFile: e.cfg.Names.Words.CAFile, ProxyURL: e.cfg.Names.Words.ProxyURL},
		OnEntries: e.settled, OnTrouble: e.account.trouble,
		OnTry: b.OnTry, OnHealth: func(err error) { e.health.set(&e.health.board, err) },
	})
	return err
}

// settled hears of final outcomes.
func (e *Engine) settled(entries []audit.Entry) {
	e.account.note(entries)
	for i := range entries {
		x := &entries[i]
		switch {
		case x.Outcome == audit.Refused && x.Reason == string(slot.TooFew): // its readings are in no slot, as where none waited
			e.counts.refused(slot.TooFew, x.Count)
		case e.cfg.Board.OnResult != nil:
			e.cfg.Board.OnResult(x.Outcome, len(x.Readings))
		}
	}
}

func (e *Engine) lookup(id string) (delivery.Target, bool) {
	d, ok := e.names.Device(id)
	if !ok {
		return delivery.Target{}, false
	}
	shared := e.cfg.Board.SharedDevice
	if d.Shared != nil {
		shared = *d.Shared
	}
	delay := e.delay(d)
	if delay > 0 && e.rules.Stamp == "start" {
		delay += spec.SlotLength
	}
	return delivery.Target{StationID: d.StationID, DeviceID: d.DeviceID, Latitude: d.Latitude, Longitude: d.Longitude, Shared: shared, Delay: delay, Parameter: d.Parameter, TooFew: d.TooFew, Sealer: d}, true
}

// delay is how long after its window a slot of a device is sent at the soonest.
func (e *Engine) delay(d *registry.Device) time.Duration {
	switch {
	case e.cfg.Board == nil, d.Shared != nil && !*d.Shared:
		return 0
	case d.Delay != nil:
		return d.Delay.Duration
	}
	return e.cfg.Board.Delay.Duration
}

// watch reads the devices_file again when it changes.
func (e *Engine) watch(ctx context.Context) {
	e.names.Watch(ctx, e.cfg.Slots.DevicesFileInterval.Duration, func() {
		e.log.Info("the devices_file was read again", "devices", len(e.names.Devices()))
		e.renameOpen()
		if e.outbox != nil {
			e.outbox.Retry()
		}
	}, func(err error) { e.log.Error("keeping the previous devices", "error", err) })
}

// Devices returns the devices in force, sorted by id.
func (e *Engine) Devices() []*registry.Device { return e.names.Devices() }

// Stats returns the present state.
func (e *Engine) Stats() Stats {
	s := Stats{Stats: e.aligner.Stats(), Ignored: e.counts.ignored.Load(), Finished: e.counts.finished.Load()}
	e.counts.mu.Lock()
	s.Taken -= min(s.Taken, e.replayed.Taken)
	duplicate := s.Refused[slot.Duplicate]
	s.Refused = map[slot.Reason]uint64{slot.Duplicate: duplicate - min(duplicate, e.replayed.Refused[slot.Duplicate])}
	maps.Copy(s.Refused, e.counts.reasons)
	e.counts.mu.Unlock()
	s.Troubled, s.Pending = e.account.troubledBy(), int(e.loop.waiting.Load())
	if e.ready != nil {
		s.Pending += e.ready.waiting()
	}
	if e.outbox != nil {
		s.Outbox, s.Unreachable = e.outbox.Stats(), e.reachable() != ""
	}
	return s
}

// Close takes nothing more and sends nothing more. What waits, and the open windows, stay in the store. Requests in flight
// have until ctx ends. A second Close does nothing.
func (e *Engine) Close(ctx context.Context) (err error) {
	e.closing.Do(func() { err = e.close(ctx) })
	return err
}

func (e *Engine) close(ctx context.Context) error {
	e.stop()
	var errs []error
	e.running.Wait()
	if e.loop.restored {
		e.check(time.Now())
		if _, forgets := e.cfg.Store.(interface{ Forgets() }); forgets {
			e.refuseHeld(func(held) bool { return true }, "the host was stopped before this machine's clock was trusted, and keeps no state on disk", time.Now())
		}
		e.noteSaved(e.loop.refusals.all(), time.Now())
		errs = append(errs, e.checkpoint(context.WithoutCancel(ctx), nil, nil))
	}
	if e.ready != nil {
		errs = append(errs, e.ready.close(ctx))
	}
	if e.outbox != nil {
		errs = append(errs, e.outbox.Close(ctx))
	}
	if e.account != nil && e.loop.restored {
		e.account.step(true)
	}
	if e.started != nil && e.started.Drop() {
		if err := e.trail.Append(e.entry(audit.Stopped)); err != nil {
			e.log.Warn("cannot write to the audit_file that the host is stopped", "error", err)
		}
	}
	if e.trail != nil {
		errs = append(errs, e.trail.Close())
	}
	return errors.Join(errs...)
}

// stamp is that of the slot which a reading belongs to, or would with a valid flag.
func (e *Engine) stamp(at time.Time, flag spec.Flag) time.Time {
	if !flag.Valid() {
		flag = spec.FlagNormal
	}
	return e.rules.StampOf(at, flag)
}

// over reports that the slot with a stamp, and its grace, are over. One that is hours ahead is of a wrong clock.
func (e *Engine) over(stamp, now time.Time) bool {
	end := stamp
	if e.rules.Stamp == "start" {
		end = stamp.Add(spec.SlotLength)
	}
	return !now.Before(end.Add(e.rules.Grace)) || stamp.Sub(now) > 2*time.Hour
}

// health joins what can be wrong, and tells the host of the transitions.
type health struct {
	mu                                       sync.Mutex
	tell                                     func(error)
	intake, files, state, board, next, clock error
	told                                     bool
}

// text is what is wrong for a person, or "".
func (h *health) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.all(); err != nil {
		return err.Error()
	}
	return ""
}

func (h *health) all() error {
	return errors.Join(h.intake, h.files, h.state, h.next, h.board, h.clock)
}

func (h *health) set(part *error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*part = err
	all := h.all()
	if h.tell == nil || h.told == (all != nil) {
		return
	}
	h.told = all != nil
	h.tell(all)
}
