package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/version"
)

// Target is where a device's records go and how they are sealed.
type Target struct {
	StationID, DeviceID string // as they are now; the readings may wait under a former id of the device
	Latitude, Longitude *float64
	Shared              bool          // another sender reports the device too
	Delay               time.Duration // slots go so long after their stamp at the soonest, since that sender comes first
	// Parameter is what a parameter is called now, and the unit that is configured for it, or ""; may be nil.
	Parameter func(key string, diagnostic bool) (now, unit string)
	// TooFew says why a value is not to be sent that has readings in so many minutes, or "", and whether it waits for a person
	// or is left out; may be nil.
	TooFew func(parameter string, minutes int) (why string, waits bool)
	Sealer interface {
		Seal(payload []byte) []byte
		Sign(at time.Time) (signature string, err error)
	}
}

// Config is what a Delivery needs of its host.
type Config struct {
	options.Delivery
	Client   *http.Client                       // the host's; redirects are never followed
	Store    store.Store                        // the outbox
	Trail    *audit.Trail                       // nil: final outcomes go to the log, with the whole record
	Lookup   func(device string) (Target, bool) // the registry
	Hide     func(text []byte) []byte           // takes the tokens out of what a server said; nil: there are none
	Logger   *slog.Logger
	Clock    *clock.Clock                      // nil: nothing waits for the server's time
	Words    Words                             // of the host
	OnTry    func(took time.Duration, ok bool) // counts attempts; may be nil
	OnHealth func(err error)                   // called when trouble begins (not nil) and ends (nil); may be nil
	// OnEntries hears of final outcomes, and OnTrouble of a device that begins or ceases to wait for a person. OnTrouble must
	// not call back. Both may be nil.
	OnEntries func(list []audit.Entry)
	OnTrouble func(device string)
}

// Delivery is an outbox with its dispatcher.
type Delivery struct {
	cfg    Config
	timing timing
	agent  string // of each request

	mu       sync.Mutex // guards all below, and every queue
	queues   map[string]*queue
	held     []*queue       // those for which a person is needed, in order of their devices
	heldFor  map[string]int // how many of them for each of HoldReasons
	schedule schedule
	inFlight int    // attempts under way
	places   int    // of them that count against limit
	retries  uint64 // counts calls of Retry
	server   reachability
	latency  latency
	outages  outages
	closing  bool
	marked   bool  // the store says that requests may be under way
	done     done  // written by the writer alone, which reads it without mu
	index    index // the writer's
	waiting  int   // slots
	oldest   int64 // stamp of the oldest of them, 0 where it is to be looked for
	inMemory int   // readings of waiting slots

	postponed map[*queue]bool // whose memories are to be stored some time

	unwritten bool // when all work ended, something was not on disk

	asks    asks // guarded by mu
	lookup  lookup
	repairs []repair        // the writer's: what is found damaged or lost in the store
	told    map[string]bool // the writer's: what is in the trail of a write that failed

	wake    signal // the dispatcher's
	changed signal // what OnHealth is told may have changed
	noted   signal // the writer's: outages has news
	work    chan *work
	idle    chan *attempt // taken by a worker that has none
	stop    chan struct{}
	writing sync.WaitGroup
	running sync.WaitGroup // the dispatcher and the attempts
	abort   context.CancelFunc
	ctx     context.Context
}

// UserAgent names this software and its version to the server.
func UserAgent() string { return "ocems/" + version.Read().Version }

// signal wakes one goroutine. Several signals before it wakes are one.
type signal chan struct{}

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// New finds what waits in the store and starts to deliver it.
func New(ctx context.Context, cfg Config) (*Delivery, error) {
	client := *cfg.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.Client = &client
	if cfg.Hide == nil {
		cfg.Hide = func(text []byte) []byte { return text }
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New(clock.Config{Alone: true})
	}
	d := &Delivery{cfg: cfg, timing: timing{cfg.InitialBackoff.Duration, cfg.MaxBackoff.Duration, cfg.HoldInterval.Duration}, queues: map[string]*queue{}, told: map[string]bool{}, heldFor: map[string]int{}, postponed: map[*queue]bool{}, agent: UserAgent(),
		wake: make(signal, 1), changed: make(signal, 1), noted: make(signal, 1), work: make(chan *work, 1024), idle: make(chan *attempt), stop: make(chan struct{})}
	if err := d.restore(ctx); err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	d.ctx, d.abort = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.commit(); err != nil {
		cfg.Logger.Error("cannot write the outbox: nothing is sent until it can be written", "error", err)
	}
	d.writing.Go(d.writeLoop)
	d.running.Go(d.dispatch)
	d.running.Go(d.askTime)
	if cfg.OnHealth != nil {
		d.running.Go(d.reportHealth)
	}
	return d, nil
}

// Close stops sending, waits for the requests in flight until ctx ends, and then aborts them. What was not delivered
// stays in the outbox.
func (d *Delivery) Close(ctx context.Context) error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return nil
	}
	d.closing = true
	d.mu.Unlock()
	close(d.stop)
	done := make(chan struct{})
	go func() { d.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	d.abort()
	<-done
	close(d.work)
	d.writing.Wait()
	return d.unmark(context.WithoutCancel(ctx))
}

// Stats is a picture of the outbox.
type Stats struct {
	Slots   int            // waiting slots, of all devices
	Oldest  time.Time      // stamp of the oldest, zero when there is none
	Held    int            // devices that wait for a person
	HeldFor map[string]int // how many of them for each of HoldReasons
	Skew    time.Duration  // the server's clock less ours, as last measured
}

// Stats returns the present state.
func (d *Delivery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Slots: d.waiting, Held: len(d.held), HeldFor: maps.Clone(d.heldFor), Skew: d.cfg.Clock.Skew()}
	if d.waiting > 0 {
		s.Oldest = time.UnixMilli(d.findOldest())
	}
	return s
}

// Retry makes every waiting queue try at once: for a registry that was corrected. A request in flight was made with what
// was before, so its queue tries again too.
func (d *Delivery) Retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retries++
	d.forget(time.Now())
	for _, q := range d.queues {
		q.delay = d.delay(q.device)
		q.retryAt(time.Now())
		q.decide()
		d.schedule.set(q)
	}
	d.wake.send()
}

// Put stores readings durably, and writes the operations of with in the same transaction. After an error neither is
// written. A reading whose parameter already waits for the same stamp with another value is refused, into the audit
// trail: the first stays. The same reading again changes nothing.
func (d *Delivery) Put(ctx context.Context, records []payload.Record, with ...store.Op) error {
	return d.put(ctx, &work{records: records, with: with})
}

// PutWhole is Put of slots that have all their parameters: they do not wait for further ones. Readings that are withdrawn
// leave the outbox before, into the trail with the reason clock.
func (d *Delivery) PutWhole(ctx context.Context, records []payload.Record, withdrawn *Withdrawal, with ...store.Op) error {
	return d.put(ctx, &work{records: records, withdrawn: withdrawn, with: with, whole: true})
}

func (d *Delivery) put(ctx context.Context, w *work) error {
	for _, r := range w.records {
		if err := check(r); err != nil {
			return err
		}
	}
	if !d.begin() {
		return errors.New("the outbox is closed")
	}
	defer d.running.Done()
	w.done, w.urgent = make(chan error, 1), true
	select {
	case d.work <- w:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		if w.taken.Swap(true) { // too late: it is being written
			return <-w.done
		}
		return ctx.Err()
	}
}

// begin reports whether the outbox is open, and then keeps it so until running.Done.
func (d *Delivery) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return false
	}
	d.running.Add(1)
	return true
}

// check refuses what could never be sent. The station is not looked at: it is that of the configuration at the time of
// sending, and a device may have left the configuration.
func check(r payload.Record) error {
	if r.DeviceID == "" || len(r.Readings) == 0 {
		return fmt.Errorf("a record of device %q needs a device id and readings", r.DeviceID)
	}
	for _, x := range r.Readings {
		if err := x.Check(); err != nil {
			return fmt.Errorf("device %q: %w", r.DeviceID, err)
		}
		if !spec.Aligned(x.Stamp, x.Flag.Length()) {
			return fmt.Errorf("parameter %q of device %q: timestamp %s is %w of %s", x.Parameter, r.DeviceID,
				spec.ISTString(x.Stamp), spec.ErrNotAligned, x.Flag.Length())
		}
	}
	return nil
}
