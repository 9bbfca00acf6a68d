package delivery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Target is where a device's records go and how they are sealed.
type Target struct {
	StationID           string
	Latitude, Longitude *float64
	Sealer              interface {
		Seal(payload []byte) []byte
		Sign(at time.Time) (signature string, err error)
	}
}

// Config is what a Delivery needs of its host. Zero durations and counts take the defaults named.
type Config struct {
	Endpoint string                              // URL that takes the POST (spec 2.1)
	Client   *http.Client                        // the host's; redirects are never followed
	Store    Store                               // the outbox
	Trail    *audit.Trail                        // nil: final outcomes go to the log, with the whole record
	Lookup   func(device string) (Target, bool)  // the registry
	Devices  func() []string                     // the registry's devices, looked for in a store that lost its list; may be nil
	Logger   *slog.Logger                        // nil: slog.Default
	OnResult func(o audit.Outcome, readings int) // counts final outcomes; may be nil
	OnTry    func(took time.Duration, ok bool)   // counts attempts; may be nil
	OnHealth func(err error)                     // called when trouble begins (not nil) and ends (nil); may be nil

	Coalesce       time.Duration // how long a slot waits for its other parameters, 5 s
	Spread         time.Duration // over how long the devices' requests are spread, 10 s
	InitialBackoff time.Duration // first wait after a failed attempt, 5 s, doubled each time
	MaxBackoff     time.Duration // longest such wait, 5 min
	HoldInterval   time.Duration // between attempts of a device whose registration is refused, 10 min
	MaxConcurrency int           // requests in flight, 32
	DryRun         bool          // log the JSON, send nothing, keep everything
}

// NoWait turns Coalesce or Spread off.
const NoWait = -1 * time.Nanosecond

func (c *Config) setDefaults() error {
	if c.Endpoint == "" || c.Client == nil || c.Store == nil || c.Lookup == nil {
		return errors.New("delivery needs an endpoint, a client, a store and a registry")
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Coalesce = max(cmp.Or(c.Coalesce, 5*time.Second), 0)
	c.Spread = max(cmp.Or(c.Spread, 10*time.Second), 0)
	c.InitialBackoff = cmp.Or(c.InitialBackoff, 5*time.Second)
	c.MaxBackoff = max(cmp.Or(c.MaxBackoff, 5*time.Minute), c.InitialBackoff)
	c.HoldInterval = cmp.Or(c.HoldInterval, 10*time.Minute)
	c.MaxConcurrency = cmp.Or(c.MaxConcurrency, 32)
	if c.MaxConcurrency < 0 || c.InitialBackoff < 0 || c.HoldInterval < 0 {
		return errors.New("delivery: max_concurrency and the intervals must not be negative")
	}
	client := *c.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Client = &client
	return nil
}

// Delivery is an outbox with its dispatcher.
type Delivery struct {
	cfg Config

	mu      sync.Mutex // guards all below, and every lane
	lanes   map[string]*lane
	devices []string // in the order of the stored list
	queue   laneQueue
	active  int
	answers uint64    // counts what the server answered
	silent  time.Time // when the first attempt began that got no answer after the last one; zero when the server answers
	unheard int       // lanes that got no answer since
	why     string    // the last of them got none
	silence string    // why the server counts as silent, or ""
	skew    time.Duration
	skewAt  time.Time // of the last measurement; zero before the first
	health  string
	stale   bool // health may have changed since it was reported
	closing bool

	damaged []damage // the writer's: found in the store, and not yet kept
	mended  []Op     // the writer's: what stands in for it

	telling sync.Mutex // held while OnHealth runs
	wake    chan struct{}
	work    chan *work
	stop    chan struct{}
	writing sync.WaitGroup
	running sync.WaitGroup // the dispatcher and the attempts
	abort   context.CancelFunc
	ctx     context.Context
}

// New restores the outbox from the store and starts to deliver.
func New(ctx context.Context, cfg Config) (*Delivery, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	d := &Delivery{cfg: cfg, lanes: map[string]*lane{}, wake: make(chan struct{}, 1), work: make(chan *work, 1024), stop: make(chan struct{})}
	d.ctx, d.abort = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.restore(ctx); err != nil {
		d.abort()
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	if len(d.damaged)+len(d.mended) > 0 {
		if err := d.write(nil, nil); err != nil {
			cfg.Logger.Error("cannot keep what is damaged in the outbox: it goes with the next write", "error", err)
		}
	}
	d.writing.Add(1)
	go d.writeLoop()
	d.running.Add(1)
	go d.dispatch()
	return d, nil
}

// Close stops to send, waits for the requests in flight until ctx ends, and then aborts them. What was not delivered
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
	return nil
}

// Stats is a picture of the outbox.
type Stats struct {
	Slots   int               // waiting slots, of all devices
	Oldest  time.Time         // stamp of the oldest, zero when there is none
	Held    map[string]string // devices that wait for a person, with the reason
	HeldFor map[string]int    // how many of them for each of HoldReasons
	Skew    time.Duration     // the server's clock less ours, as last measured
}

// Stats returns the present state.
func (d *Delivery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Held: map[string]string{}, HeldFor: map[string]int{}, Skew: d.skew}
	for name, l := range d.lanes {
		s.Slots += len(l.slots)
		if len(l.slots) > 0 {
			if at := time.UnixMilli(l.slots[0].stamp); s.Oldest.IsZero() || at.Before(s.Oldest) {
				s.Oldest = at
			}
		}
		if l.held != "" {
			s.Held[name] = l.held
			s.HeldFor[l.reason]++
		}
	}
	return s
}

// Retry makes every waiting lane try at once: for a registry that was mended.
func (d *Delivery) Retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, l := range d.lanes {
		l.next, l.probe, l.again = now, now, l.busy
		d.schedule(l)
	}
	d.poke()
}

func (d *Delivery) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Put stores the readings of one device durably. After an error none of them is in the outbox. A reading whose
// parameter already waits for the same stamp with another value is refused, into the audit trail: the first stays.
func (d *Delivery) Put(ctx context.Context, records ...payload.Record) error {
	for _, r := range records {
		if err := r.Check(); err != nil {
			return err
		}
		for _, x := range r.Readings {
			if !spec.Aligned(x.Stamp, x.Flag.Length()) {
				return fmt.Errorf("parameter %q of device %q: timestamp %s is %w of %s", x.Parameter, r.DeviceID,
					spec.ISTString(x.Stamp), spec.ErrNotAligned, x.Flag.Length())
			}
		}
	}
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return errors.New("the outbox is closed")
	}
	d.running.Add(1)
	d.mu.Unlock()
	defer d.running.Done()
	w := &work{puts: records, done: make(chan error, 1)}
	select {
	case d.work <- w:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work is what the writer carries out: readings that come, or readings that leave.
type work struct {
	puts []payload.Record
	done chan error

	left    chan struct{} // closed once they have left
	leave   []payload.Reading
	device  string
	entry   audit.Entry
	audited bool
}

// places are where its readings are.
func (w *work) places() (out []place) {
	for _, rec := range w.puts {
		for _, r := range rec.Readings {
			out = append(out, place{rec.DeviceID, r.Stamp.UnixMilli()})
		}
	}
	for _, r := range w.leave {
		out = append(out, place{w.device, r.Stamp.UnixMilli()})
	}
	return out
}

type place struct {
	device string
	stamp  int64
}

// writeLoop is the only writer of the store. It takes all work that waits and carries it out in one batch. What left
// and could not be written is owed: it is tried again with all that comes, and never makes a Put wait.
func (d *Delivery) writeLoop() {
	defer d.writing.Done()
	const most = 512
	var owed []*work
	wait := 100 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var again <-chan time.Time
		if len(owed) > 0 {
			timer.Reset(wait)
			again = timer.C
		}
		list := owed
		select {
		case w, ok := <-d.work:
			if !ok { // what is owed even then is sent again after the restart, answered 111
				if len(owed) > 0 {
					d.writeAll(owed)
				}
				return
			}
			list = append(list, w)
		case <-again:
			wait = min(2*wait, 10*time.Second)
		}
		for len(list) < most {
			select {
			case w, ok := <-d.work:
				if ok {
					list = append(list, w)
					continue
				}
			default:
			}
			break
		}
		before := len(owed)
		var err error
		switch owed, err = d.writeAll(list); {
		case len(owed) == 0:
			wait = 100 * time.Millisecond
		case before == 0:
			d.cfg.Logger.Error("cannot write the outbox or the audit trail: free disk space or mend the directory; trying again", "error", err)
		}
	}
}

// writeAll carries out a list and returns what of it is owed, with the reason. What came and cannot be written goes back
// to the host, which keeps it.
func (d *Delivery) writeAll(list []*work) (owed []*work, err error) {
	slots, list, owed, err := d.read(list)
	fault := d.write(list, slots)
	if fault == nil {
		return owed, err
	}
	err = fault
	var puts []*work
	for _, w := range list {
		if w.done != nil {
			puts = append(puts, w)
		} else {
			owed = append(owed, w)
		}
	}
	if errors.Is(err, errTrail) && len(puts) > 0 && len(puts) < len(list) { // what comes has mostly nothing for the trail
		if slots, puts, _, _ = d.read(puts); d.write(puts, slots) == nil {
			return owed, err
		}
	}
	for _, w := range puts {
		w.done <- fmt.Errorf("writing the outbox: %w", err)
	}
	return owed, err
}

var errTrail = errors.New("the audit trail")

// read reads the slots that a list is about. What is about a slot that the store cannot read now is parted from the
// rest: what came goes back to the host, what left is owed.
func (d *Delivery) read(list []*work) (slots map[place][]payload.Reading, readable, owed []*work, err error) {
	ctx := context.WithoutCancel(d.ctx)
	slots = map[place][]payload.Reading{}
	one := func(p place) error {
		if _, ok := slots[p]; ok {
			return nil
		}
		if err := d.adopt(ctx, p.device); err != nil {
			return err
		}
		rs, value, err := d.load(ctx, p)
		if errors.Is(err, errDamaged) {
			d.setAside(slotKey(p.device, p.stamp), value, p.device, p.stamp)
			rs, err = nil, nil
		}
		if err == nil {
			slots[p] = rs
		}
		return err
	}
	for _, w := range list {
		var fault error
		for _, p := range w.places() {
			if fault = one(p); fault != nil {
				break
			}
		}
		switch {
		case fault == nil:
			readable = append(readable, w)
		case w.done != nil:
			w.done <- fmt.Errorf("writing the outbox: %w", fault)
		default:
			owed, err = append(owed, w), fault
		}
	}
	return slots, readable, owed, err
}

// write carries out a list in one batch: audit trail, store, memory, in this order.
func (d *Delivery) write(list []*work, slots map[place][]payload.Reading) error {
	var refused []audit.Entry
	for _, w := range list {
		for _, rec := range w.puts {
			for _, r := range rec.Readings {
				r.Parameter, r.Unit = strings.TrimSpace(r.Parameter), strings.TrimSpace(r.Unit)
				p := place{rec.DeviceID, r.Stamp.UnixMilli()}
				rs := slots[p]
				i := slices.IndexFunc(rs, func(x payload.Reading) bool { return sameParameter(x, r) })
				switch {
				case i < 0:
					slots[p] = append(slices.Clone(rs), r)
				case rs[i].Value != r.Value || rs[i].Unit != r.Unit || rs[i].Flag != r.Flag:
					refused = append(refused, audit.Entry{Outcome: audit.Refused, Station: rec.StationID, Device: p.device, Stamp: p.stamp,
						Readings: audit.Readings([]payload.Reading{r}),
						Detail:   fmt.Sprintf("value %v %s flag %s for the same parameter and stamp waits already", rs[i].Value, rs[i].Unit, rs[i].Flag)})
				}
			}
		}
		for _, gone := range w.leave {
			p := place{w.device, gone.Stamp.UnixMilli()}
			slots[p] = slices.DeleteFunc(slices.Clone(slots[p]), func(x payload.Reading) bool { return sameParameter(x, gone) })
		}
	}
	entries := refused
	for _, x := range d.damaged {
		if !x.audited {
			entries = append(entries, x.entry)
		}
	}
	for _, w := range list {
		if w.leave != nil && !w.audited {
			entries = append(entries, w.entry)
		}
	}
	if err := d.audit(entries); err != nil {
		return fmt.Errorf("%w: %w", errTrail, err)
	}
	for _, w := range list {
		w.audited = true
	}
	var ops []Op
	for i := range d.damaged {
		d.damaged[i].audited = true
		ops = append(ops, Op{d.damaged[i].to, d.damaged[i].value})
	}
	more, names := d.operations(slots)
	if err := d.cfg.Store.Batch(context.WithoutCancel(d.ctx), slices.Concat(ops, d.mended, more)); err != nil {
		return err
	}
	d.damaged, d.mended = nil, nil
	d.apply(slots, names)
	for _, w := range list {
		if w.done != nil {
			w.done <- nil
		} else {
			close(w.left)
		}
	}
	return nil
}

// sameParameter reports whether two readings of one stamp are of one parameter. A calibration point is apart from the
// 15-minute average that ends with it.
func sameParameter(a, b payload.Reading) bool {
	return a.Parameter == b.Parameter && a.Diagnostic == b.Diagnostic && a.Flag.Calibration() == b.Flag.Calibration()
}

// load reads a slot's readings, and their value for the case that it is damaged.
func (d *Delivery) load(ctx context.Context, p place) (rs []payload.Reading, value []byte, err error) {
	value, err = d.cfg.Store.Get(ctx, slotKey(p.device, p.stamp))
	if err == nil && value != nil {
		rs, err = decodeReadings(value, p.stamp)
	}
	if err != nil {
		return nil, value, fmt.Errorf("reading slot %s of device %q: %w", spec.ISTString(time.UnixMilli(p.stamp)), p.device, err)
	}
	return rs, value, nil
}

// operations are the store's writes for the new content of the slots.
func (d *Delivery) operations(slots map[place][]payload.Reading) (ops []Op, names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stamps := map[string][]int64{}
	names = d.devices
	for p, rs := range slots {
		list, seen := stamps[p.device]
		if l := d.lanes[p.device]; !seen && l != nil {
			list = l.stamps()
		} else if !seen && l == nil && !slices.Contains(names, p.device) {
			names = append(slices.Clone(names), p.device)
		}
		i, found := slices.BinarySearch(list, p.stamp)
		switch {
		case len(rs) == 0:
			ops = append(ops, Op{Key: slotKey(p.device, p.stamp)})
			if found {
				list = slices.Delete(list, i, i+1)
			}
		default:
			ops = append(ops, Op{slotKey(p.device, p.stamp), encodeReadings(rs)})
			if !found {
				list = slices.Insert(list, i, p.stamp)
			}
		}
		stamps[p.device] = list
	}
	for device, list := range stamps {
		ops = append(ops, Op{indexKey(device), encodeIndex(list)})
	}
	if len(names) != len(d.devices) {
		ops = append(ops, Op{devicesKey, encodeDevices(names)})
	}
	return ops, names
}

// apply brings the lanes in memory to what the store now holds.
func (d *Delivery) apply(slots map[place][]payload.Reading, names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.devices = names
	for p, rs := range slots {
		l := d.lane(p.device)
		i, found := l.find(p.stamp)
		switch {
		case len(rs) == 0 && found:
			l.slots = slices.Delete(l.slots, i, i+1)
		case len(rs) > 0 && !found:
			l.slots = slices.Insert(l.slots, i, &slot{stamp: p.stamp, ready: now.Add(d.cfg.Coalesce + d.offset(p.device))})
		case len(rs) > 0:
			l.slots[i].aside = false
		}
		d.schedule(l)
	}
	d.poke()
}

// offset spreads the devices' requests after a boundary. Device ids differ by a digit: only a strong hash scatters them.
func (d *Delivery) offset(device string) time.Duration {
	sum := sha256.Sum256([]byte(device))
	return time.Duration(float64(d.cfg.Spread) * (float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)))
}

// audit writes to the trail, or to the log where there is none.
func (d *Delivery) audit(entries []audit.Entry) error {
	if d.cfg.Trail != nil {
		if err := d.cfg.Trail.Append(entries...); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if d.cfg.OnResult != nil {
			d.cfg.OnResult(e.Outcome, len(e.Readings))
		}
		if d.cfg.Trail == nil && (e.Outcome == audit.Delivered || e.Outcome == audit.AlreadyStored) {
			d.cfg.Logger.Info("readings are at the server", "outcome", e.Outcome, "device", e.Device,
				"slot", spec.ISTString(time.UnixMilli(e.Stamp)), "readings", e.Readings, "detail", e.Detail)
		}
		if lost := e.Outcome == audit.Rejected || e.Outcome == audit.Expired || e.Outcome == audit.Refused; lost {
			d.cfg.Logger.Warn("readings are not at the server", "outcome", e.Outcome, "device", e.Device,
				"slot", spec.ISTString(time.UnixMilli(e.Stamp)), "readings", e.Readings, "reason", e.Detail)
		}
	}
	return nil
}

// finish takes readings out of the outbox with their outcome, and returns when that is on disk: until then the lane
// must not look at the slot again. Many lanes share one write.
func (d *Delivery) finish(device, station string, rs []payload.Reading, o audit.Outcome, status *int, detail string) {
	d.remove(&work{device: device, leave: rs, entry: audit.Entry{Outcome: o, Station: station, Device: device,
		Stamp: rs[0].Stamp.UnixMilli(), Readings: audit.Readings(rs), Status: status, Detail: detail}})
}

func (d *Delivery) remove(w *work) {
	w.left = make(chan struct{})
	d.work <- w
	select {
	case <-w.left:
	case <-d.ctx.Done():
	}
}

// clock is the time by which readings expire: the server's as far as it is known. Where the server was not heard of
// for a while, our own clock may be the one that is wrong, and a day is allowed for that.
func (d *Delivery) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !d.skewAt.IsZero() && now.Sub(d.skewAt) < 15*time.Minute {
		return now.Add(d.skew)
	}
	return now.Add(-24 * time.Hour)
}

func (d *Delivery) measureSkew(resp *http.Response, sent time.Time) {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return
	}
	now := time.Now()
	// The header has whole seconds: half a second is its mean error.
	skew := at.Add(500 * time.Millisecond).Sub(sent.Add(now.Sub(sent) / 2)).Round(time.Second)
	d.mu.Lock()
	before := d.skew
	d.skew, d.skewAt = skew, now
	d.mu.Unlock()
	if math.Abs(float64(skew-before)) > float64(30*time.Second) {
		d.cfg.Logger.Warn("this machine's clock differs from the server's: mend it with NTP", "server_ahead_by", skew.String())
	}
}
