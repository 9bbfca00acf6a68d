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

// Config is what an Engine needs from its host.
type Config struct {
	Slots options.Slots
	Names registry.Config
	Store store.Store // the host closes it after the Engine; if it has a Path, the status file is beside it
	// Patience is how long a sender may take to resend a reading that was refused because the disk failed. No window
	// closes meanwhile.
	Patience time.Duration
	// Rest is how long a sender may take after the first of these readings is taken again; 0: Patience. If the host has
	// several senders, it is the time of the slowest.
	Rest     time.Duration
	Logger   *slog.Logger
	OnHealth func(err error) // called when trouble begins (not nil) and ends (nil); may be nil
	// Wall is the wall clock, which may step; nil is time.Now.
	Wall func() time.Time
	// Boot identifies the current boot of the machine and returns its age; nil is [clock.KernelBoot].
	Boot func() (id string, since time.Duration)

	// Board is the destination of slots; nil in a processor, which has Next.
	Board *Board
	// Next hands on slots that all have one exit. They are kept until it returns nil.
	Next func(ctx context.Context, exit uint8, slots []slot.Slot) error
}

// Board is the way to the board's server.
type Board struct {
	options.Delivery
	Client   *http.Client
	OnResult func(o audit.Outcome, readings int) // counts final outcomes; may be nil
	OnTry    func(took time.Duration, ok bool)   // counts attempts; may be nil
}

// Engine takes readings and makes slots from them.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	names   *registry.Registry
	clock   *clock.Clock
	aligner *slot.Aligner
	aligns  bool // if false, the aligner only closes what an earlier configuration has left in it
	rules   slot.Options
	trail   *audit.Trail
	started *audit.Later // Started entry, written to the trail after the host has run for a while or has an outcome
	outbox  *delivery.Delivery
	ready   *ready // in a processor instead of the outbox

	counts   counts
	replayed slot.Stats // counted by previous runs; guarded by counts.mu
	once     once

	lived      lived
	sourcesMu  sync.RWMutex
	sources    map[uint64]string
	sourcesEra atomic.Uint64 // counts how often sources was cleared
	restoring  bool          // true during restore
	looks      bool          // only reads a stored state, takes nothing

	patience atomic.Int64 // running time before which no window closes
	refusing atomic.Bool  // readings are refused because the state cannot be written
	takes    chan *take
	room     sync.Pool // reusable takes
	known    known
	stop     context.CancelFunc
	stopped  chan struct{} // closed when no more takes are carried out
	running  sync.WaitGroup
	closing  sync.Once
	loop     loop
	health   health
	account  *account
}

// counts are the counters of a host.
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
	slot.Stats                       // Refused: by reason; Duplicate is not a loss
	Finished    uint64               // slots made upstream that went to the outbox
	Ignored     uint64               // readings that belong to no parameter of any device
	Pending     int                  // closed slots that are not handed on yet
	Outbox      delivery.Stats       // if there is one
	Unreachable bool                 // the board's server does not answer
	Troubled    map[status.Class]int // parameters in trouble at the end of the last slot
}

// OldestAge is the age of the oldest slot in the outbox, by its stamp.
func (s Stats) OldestAge() time.Duration {
	if s.Outbox.Oldest.IsZero() {
		return 0
	}
	return time.Since(s.Outbox.Oldest)
}

// Reasons lists the reasons why readings are in no slot.
func Reasons() []slot.Reason { return append(slot.Reasons(), offGrid, unknown) }

// Open reads the state and starts to take readings. The server does not have to be reachable.
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
	if err := e.restore(ctx); err != nil { // before the exit opens, so that nothing is sent from a state that is refused
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
			e.log.Error("cannot save open slots under their current names: trying again when slots are saved", "error", err)
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
		e.log.Error("cannot rotate or compress the audit_file: it continues as it is, and this is tried again; free space or repair its directory", "error", err)
	}))
	return nil
}

// entry makes a trail entry about the host's run. A Started entry also has the time when the previous run was last
// known to run.
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

// settled receives final outcomes.
func (e *Engine) settled(entries []audit.Entry) {
	e.account.note(entries)
	for i := range entries {
		x := &entries[i]
		switch {
		case x.Outcome == audit.Refused && x.Reason == string(slot.TooFew): // its readings are in no slot, as if they had never waited
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

// delay returns the shortest time from the end of a window to the sending of a device's slot.
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

// Stats returns the current numbers.
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

// Close stops taking readings and sending slots. Waiting slots and open windows stay in the store. Requests in flight
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
			e.log.Warn("cannot write to the audit_file that the host has stopped", "error", err)
		}
	}
	if e.trail != nil {
		errs = append(errs, e.trail.Close())
	}
	return errors.Join(errs...)
}

// stamp returns the stamp of the slot to which a reading belongs, or would belong with a valid flag.
func (e *Engine) stamp(at time.Time, flag spec.Flag) time.Time {
	if !flag.Valid() {
		flag = spec.FlagNormal
	}
	return e.rules.StampOf(at, flag)
}

// over reports that the slot of a stamp and its grace are over. A stamp hours ahead comes from a wrong clock and counts
// as over.
func (e *Engine) over(stamp, now time.Time) bool {
	end := stamp
	if e.rules.Stamp == "start" {
		end = stamp.Add(spec.SlotLength)
	}
	return !now.Before(end.Add(e.rules.Grace)) || stamp.Sub(now) > 2*time.Hour
}

// health combines the possible faults, and tells the host when trouble begins and ends.
type health struct {
	mu                                       sync.Mutex
	tell                                     func(error)
	intake, files, state, board, next, clock error
	told                                     bool
}

// text returns the faults for a person, or "".
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
