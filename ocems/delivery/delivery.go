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

// Target is the destination of a device's records, and how they are sealed.
type Target struct {
	StationID, DeviceID string // current ids; the readings may wait under a former id of the device
	Latitude, Longitude *float64
	Shared              bool          // another sender reports the device too
	Delay               time.Duration // earliest sending after a slot's stamp, so that the other sender goes first
	// Parameter returns the current name of a parameter and its configured unit or ""; may be nil.
	Parameter func(key string, diagnostic bool) (now, unit string)
	// TooFew returns why a value with readings in so many minutes must not be sent, or "", and whether it waits for a
	// person or is left out; may be nil.
	TooFew func(parameter string, minutes int) (why string, waits bool)
	Sealer interface {
		Seal(payload []byte) []byte
		Sign(at time.Time) (signature string, err error)
	}
}

// Config is what a Delivery needs from its host.
type Config struct {
	options.Delivery
	Client   *http.Client                       // the host's; redirects are never followed
	Store    store.Store                        // the outbox
	Trail    *audit.Trail                       // nil: final outcomes go to the log, with the whole record
	Lookup   func(device string) (Target, bool) // the registry
	Hide     func(text []byte) []byte           // removes tokens from a server's text; nil: there are none
	Logger   *slog.Logger
	Clock    *clock.Clock                      // nil: nothing waits for the server's time
	Words    Words                             // the host's configuration keys
	OnTry    func(took time.Duration, ok bool) // counts attempts; may be nil
	OnHealth func(err error)                   // called when trouble begins or changes (not nil) and ends (nil); may be nil
	// OnEntries receives final outcomes. OnTrouble is called when a device begins or ceases to wait for a person; it
	// must not call back. Both may be nil.
	OnEntries func(list []audit.Entry)
	OnTrouble func(device string)
}

// Delivery is an outbox with its dispatcher.
type Delivery struct {
	cfg    Config
	timing timing
	agent  string // User-Agent of each request

	mu       sync.Mutex // guards all fields below, and every queue
	queues   map[string]*queue
	held     []*queue       // queues for which a person is needed, ordered by device
	heldFor  map[string]int // number of held queues for each of HoldReasons
	schedule schedule
	inFlight int    // attempts under way
	places   int    // attempts that count against limit
	retries  uint64 // counts calls of Retry
	server   reachability
	latency  latency
	outages  outages
	closing  bool
	marked   bool  // the store has sendingKey
	done     done  // only the writer changes it, and reads it without mu
	index    index // used by the writer only
	waiting  int   // waiting slots
	oldest   int64 // stamp of the oldest waiting slot, 0 if unknown
	inMemory int   // readings of waiting slots

	postponed map[*queue]bool // queues whose memory is still to be stored

	unwritten bool // something was not on disk when all work had ended

	asks    asks // guarded by mu
	lookup  lookup
	repairs []repair        // for the writer: damaged or missing values in the store
	told    map[string]bool // for the writer: trail entries whose write of the store failed

	wake    signal // wakes the dispatcher
	changed signal // the trouble for OnHealth may have changed
	noted   signal // wakes the writer: outages may have lines for the trail
	work    chan *work
	idle    chan *attempt // received by an idle worker
	stop    chan struct{}
	writing sync.WaitGroup
	running sync.WaitGroup // the dispatcher and the attempts
	abort   context.CancelFunc
	ctx     context.Context
}

// UserAgent names this software and its version to the server.
func UserAgent() string { return "ocems/" + version.Read().Version }

// signal wakes one goroutine. Several signals before it wakes count as one.
type signal chan struct{}

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// New reads the outbox from the store and starts to deliver it.
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

// Close stops sending, waits for the requests in flight until ctx ends, and then aborts them. Undelivered readings stay
// in the outbox.
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
	d.unmark(context.WithoutCancel(ctx))
	return nil
}

// Stats describes the outbox.
type Stats struct {
	Slots   int            // waiting slots, of all devices
	Oldest  time.Time      // stamp of the oldest waiting slot, zero if there is none
	Held    int            // devices that wait for a person
	HeldFor map[string]int // number of held devices for each of HoldReasons
	Skew    time.Duration  // the server's clock minus ours, as last measured
}

// Stats returns the current numbers.
func (d *Delivery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Slots: d.waiting, Held: len(d.held), HeldFor: maps.Clone(d.heldFor), Skew: d.cfg.Clock.Skew()}
	if d.waiting > 0 {
		s.Oldest = time.UnixMilli(d.findOldest())
	}
	return s
}

// Retry makes every waiting queue try again immediately, for example after a configuration change. A queue with a
// request in flight tries again too, because that request used the previous configuration.
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
// written. If another value of the same parameter and stamp waits already, the first stays and the new one is refused
// in the audit trail. Putting the same reading again changes nothing.
func (d *Delivery) Put(ctx context.Context, records []payload.Record, with ...store.Op) error {
	return d.put(ctx, &work{records: records, with: with})
}

// PutWhole is Put for slots that have all their parameters: they do not wait for more. Withdrawn readings leave the
// outbox first, into the trail with the reason clock.
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
		if w.taken.Swap(true) { // too late to give up: the writer has it
			return <-w.done
		}
		return ctx.Err()
	}
}

// begin reports whether the outbox is open. If so, it stays open until running.Done.
func (d *Delivery) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return false
	}
	d.running.Add(1)
	return true
}

// check refuses records that could never be sent. It does not check the station: the configuration at the time of
// sending decides that, and it may no longer have the device.
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
