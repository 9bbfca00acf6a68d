package clock

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

const (
	// LiveWithin is the largest difference between a live reading's time and this machine's clock when the reading
	// arrives.
	LiveWithin = 90 * time.Second

	// AskEvery is the shortest time between two requests for the server's time.
	AskEvery = 15 * time.Second

	trustAfterStart = 2 * time.Minute
	trustAfterStep  = 5 * time.Minute
	saveEvery       = time.Minute
	saveQuiet       = 15 * time.Minute // while no reading arrives
	leastSkew       = 5 * time.Second  // a Date has whole seconds, and an answer takes time

	// contradiction is the difference from which a Date contradicts. Between MaxSkew and contradiction it neither
	// confirms nor contradicts.
	contradiction = 5 * time.Minute

	// patience is how long finished slots wait for a server that contradicts. A permanently wrong Date must not stop a
	// plant; the board accepts slots for 7 days. unheard is how long slots wait after a start or a step for a server
	// that says nothing: it may not answer a GET.
	patience = 6 * time.Hour
	unheard  = 10 * time.Minute

	mostAccused = 16   // further eras are wrong as soon as they end
	mostWrong   = 1000 // ended eras that are remembered; there are more only while a full disk refuses all readings
)

// Config is the configuration of a Clock.
type Config struct {
	MaxSkew time.Duration    // a larger difference counts as a step, or as a difference from the server
	Wall    func() time.Time // nil is time.Now
	Alone   bool             // no server is ever asked: the passing of time confirms
	AtOnce  bool             // trust the clock immediately after a start, because nothing is sent
	// Boot identifies the current boot of the machine and returns the time since then, suspend included. An id of "" is
	// unknown. nil is [KernelBoot].
	Boot func() (id string, since time.Duration)
}

// era is a time without a step of the wall clock.
type era struct {
	id      uint64
	offset  time.Duration // wall clock minus start time and running time
	from    time.Duration // when it began
	wall    time.Time     // wall time when it began
	stepped bool          // it began with a step
}

// Clock is this machine's clock. It is safe for concurrent use. Durations without other comment are running time of
// this run.
type Clock struct {
	cfg   Config
	start time.Time // with the monotonic clock

	mu      sync.Mutex
	begun   time.Time // wall time at the start
	boot    string    // boot id of the machine, and time since boot at the start
	booted  time.Duration
	lives   time.Duration // running time of all previous runs
	last    time.Time     // last wall time of the previous run, or zero
	savedAt time.Duration
	witness bool // the last saved value has a boot clock that kept pace with the running time

	era       era
	newest    uint64 // id of an era
	confirmed bool
	right     *time.Duration // offset that was confirmed in this run
	accused   []era          // ended with a step and not confirmed yet
	wrong     []uint64       // wrong eras that are not put right yet
	past      []uint64       // eras of this run and of the store that were wrong
	doubted   uint64         // last era that was trusted without confirmation
	ended     era            // era that ended with the last step
	steppedAt time.Duration  // when that step was

	heard    word
	against  time.Duration // since when a Date differs and none agrees
	odd      time.Duration // skew of a Date that has differed by the same amount for longer than patience, or 0
	asked    time.Duration
	known    bool          // the server's time is known
	server   time.Time     // at serverAt
	serverAt time.Duration // when server was received
}

// word is the last answer about the clock since the era began.
type word int

const (
	nothing     word = iota
	neutral          // an answer without a Date
	disagrees        // a Date of an answer that may not come from the board
	contradicts      // a Date beside a status of the API
	agrees
)

// New makes a Clock that starts now.
func New(cfg Config) *Clock {
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	cfg.MaxSkew = max(cfg.MaxSkew, leastSkew)
	if cfg.Boot == nil {
		cfg.Boot = KernelBoot
	}
	c := &Clock{cfg: cfg, start: time.Now(), newest: 1, asked: -AskEvery, savedAt: -saveQuiet}
	c.boot, c.booted = cfg.Boot()
	c.begun = cfg.Wall().Round(0)
	c.era = era{id: 1, wall: c.begun}
	return c
}

// formatVersion is the version of the stored value, see [frame].
const formatVersion = 2

// Restore reads what an earlier run has saved, once, before any other use. It reports whether nothing of that run is in
// doubt. Within one boot of the machine, the wall clock must have moved as far as the time since boot, or it has
// stepped between the runs. After another or an unknown boot, the clock has stepped if it is behind the saved time; a
// step forward cannot be distinguished from a pause. The error wraps [frame.ErrNewer] or [frame.ErrDamaged].
func (c *Clock) Restore(value []byte) (confirmed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return false, err
	}
	last, lives, present := time.Unix(d.Int(), 0), time.Duration(d.Uint())*time.Second, d.Uint()
	next, odd, doubted := d.Bool(), seconds(d), d.Uint()
	boot, booted := d.Text(), seconds(d)
	newest := max(present, doubted)
	var wrong []uint64
	for n := d.Count(1); n > 0; n-- {
		wrong = append(wrong, d.Uint())
		newest = max(newest, wrong[len(wrong)-1])
	}
	// off is the last run's clock minus this one's.
	same, off := boot != "" && boot == c.boot, time.Duration(0)
	if same {
		off = last.Add(c.booted - booted).Sub(c.begun)
	}
	accused := make([]era, 0, mostAccused)
	for n := d.Count(2); n > 0; n-- {
		accused = append(accused, c.earlier(d.Uint(), seconds(d)+off))
		newest = max(newest, accused[len(accused)-1].id)
	}
	if d.Err() != nil {
		return false, d.Err()
	}
	confirmed = next && len(wrong) == 0 && len(accused) == 0
	c.last, c.lives, c.odd, c.doubted, c.newest = last, lives, odd, doubted, newest
	c.accused, c.wrong, c.past = accused, wrong, slices.Clone(wrong)
	switch stepped := same && off.Abs() > c.cfg.MaxSkew || !same && c.begun.Before(last.Add(-c.cfg.MaxSkew)); {
	case stepped:
		if !next {
			c.accuse(c.earlier(present, off))
		}
		if !same { // the size of the step is unknown
			c.condemn(func(era) bool { return true })
		}
		c.enter(era{wall: c.begun, stepped: true})
	case next: // not confirmed in this run yet
		c.newest++
		c.era.id = c.newest
	default:
		c.era.id = present
	}
	return confirmed, nil
}

func seconds(d *frame.Decoder) time.Duration { return time.Duration(d.Int()%(1<<33)) * time.Second }

// earlier makes an era of an earlier run.
func (c *Clock) earlier(id uint64, offset time.Duration) era {
	return era{id: id, offset: offset, wall: c.begun.Add(offset), stepped: true}
}

// accuse records that an era has ended with a step before it was confirmed.
func (c *Clock) accuse(e era) {
	if c.accused = append(c.accused, e); len(c.accused) > mostAccused {
		c.condemn(func(a era) bool { return a.id == e.id })
	}
}

// condemn turns accused eras into wrong ones.
func (c *Clock) condemn(wrong func(era) bool) {
	c.accused = slices.DeleteFunc(c.accused, func(e era) bool {
		if !wrong(e) {
			return false
		}
		if len(c.wrong) < mostWrong {
			c.wrong = append(c.wrong, e.id)
		}
		c.past = append(c.past[max(0, len(c.past)+1-mostWrong):], e.id)
		return true
	})
}

// enter begins an era, or continues an accused one with the same clock.
func (c *Clock) enter(e era) {
	i := slices.IndexFunc(c.accused, func(a era) bool { return c.near(a.offset, e.offset) })
	if i < 0 {
		c.newest++
		e.id = c.newest
	} else { // its waiting time starts again: otherwise a moment of it would condemn the clock in between
		e.id, e.wall = c.accused[i].id, c.accused[i].wall
		c.accused = slices.Delete(c.accused, i, i+1)
	}
	c.era, c.confirmed, c.heard = e, false, nothing
}

func (c *Clock) near(a, b time.Duration) bool { return (a - b).Abs() <= c.cfg.MaxSkew }

// SaveDue reports that the result of Save should be written, if nothing else is. quiet: no reading has arrived since.
// Quiet saves are rare only if the next run can learn from the boot clock how far the wall clock must have moved.
func (c *Clock) SaveDue(quiet bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	every := saveEvery
	if quiet && c.witness {
		every = saveQuiet
	}
	return c.running()-c.savedAt >= every
}

// Save returns the value for the store: the wall time, and the running time of all runs. The same transaction must put
// right the eras in righted.
func (c *Clock) Save(righted ...uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	c.savedAt = c.running()
	e := frame.New(formatVersion)
	e.Int(c.wall().Unix())
	e.Uint(uint64((c.lives + c.running()) / time.Second))
	e.Uint(c.era.id)
	e.Bool(c.confirmed)
	e.Int(int64(c.odd / time.Second))
	e.Uint(c.doubted)
	boot, since := c.cfg.Boot()
	if since-c.booted < c.running()-leastSkew { // a boot clock that stands still is no evidence
		boot = ""
	}
	c.witness = boot != "" && c.running() > 2*leastSkew
	e.Text(boot)
	e.Int(int64(since / time.Second))
	left := slices.DeleteFunc(slices.Clone(c.wrong), func(era uint64) bool { return slices.Contains(righted, era) })
	e.Uint(uint64(len(left)))
	for _, era := range left {
		e.Uint(era)
	}
	e.Uint(uint64(len(c.accused)))
	for _, a := range c.accused {
		e.Uint(a.id)
		e.Int(int64((a.offset - c.era.offset) / time.Second))
	}
	return e.Seal()
}

func (c *Clock) running() time.Duration { return time.Since(c.start) }

// wall is the wall time at the last tick.
func (c *Clock) wall() time.Time { return c.begun.Add(c.running() + c.era.offset) }

// tick checks whether the wall clock has stepped, and returns its time.
func (c *Clock) tick() time.Time {
	var now time.Time
	var at time.Duration
	for { // the process may be stopped between the two readings
		before := c.running()
		now = c.cfg.Wall()
		if at = c.running(); at-before < time.Second {
			break
		}
	}
	offset := now.Round(0).Sub(c.begun) - at
	if moved := offset - c.era.offset; c.near(moved, 0) { // the clock is slewed
		c.era.offset = offset
		if c.right != nil {
			*c.right += moved
		}
		for i := range c.accused {
			c.accused[i].offset += moved
		}
	} else {
		c.ended, c.steppedAt = c.era, at
		c.savedAt = at - saveQuiet // an era must be stored before its readings are
		if !c.confirmed {
			c.accuse(c.era)
		}
		c.enter(era{offset: offset, from: at, wall: now.Round(0), stepped: true})
		if c.right != nil && c.near(offset, *c.right) {
			c.confirm()
		}
	}
	switch {
	case c.confirmed || !c.waited():
	case c.cfg.Alone:
		c.confirm()
	default:
		c.condemn(func(era) bool { return true })
		if len(c.wrong) == 0 && c.doubted != c.era.id {
			c.doubted, c.savedAt = c.era.id, at-saveQuiet
		}
	}
	return now
}

// confirm also acquits accused eras with the same clock. All other accused eras are wrong.
func (c *Clock) confirm() {
	offset := c.era.offset
	if !c.confirmed {
		c.savedAt = c.running() - saveQuiet // so that a kill does not put it in doubt again
	}
	c.confirmed, c.right = true, &offset
	c.condemn(func(e era) bool { return !c.near(e.offset, offset) })
	c.accused = nil
}

// waited reports that enough time has passed to trust the clock without confirmation.
func (c *Clock) waited() bool {
	if c.era.stepped {
		return c.running()-c.era.from >= trustAfterStep
	}
	return c.cfg.AtOnce || c.running() >= trustAfterStart
}

// Now returns the wall time and its era.
func (c *Clock) Now() (now time.Time, era uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.tick()
	return now, c.era.id
}

// Running is the running time of the host over all runs.
func (c *Clock) Running() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lives + c.running()
}

// Trust is how far an era's clock is trusted.
type Trust int

// The degrees of trust.
const (
	Confirmed Trust = iota
	Trusted         // enough time has passed without confirmation
	Untrusted       // not trusted yet
	Wrong           // ended with a step, and another clock was confirmed or trusted
)

// Trust returns the trust of an era. While eras are accused, or wrong and not put right, no newer era is trusted.
func (c *Clock) Trust(id uint64) Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	switch {
	case slices.Contains(c.past, id):
		return Wrong
	case slices.ContainsFunc(c.accused, func(e era) bool { return e.id == id }):
		return Untrusted
	case id != c.era.id:
		return Confirmed
	case len(c.wrong)+len(c.accused) > 0:
		return Untrusted
	case c.confirmed:
		return Confirmed
	case c.waited():
		return Trusted
	}
	return Untrusted
}

// Wrong lists the eras whose readings have to be taken back, until PutRight.
func (c *Clock) Wrong() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return slices.Clone(c.wrong)
}

// Doubted is the last era that was trusted without confirmation, or 0. It does not change while that era is accused, or
// wrong and not put right.
func (c *Clock) Doubted() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.doubted
}

// PutRight records that all readings of these eras were taken back.
func (c *Clock) PutRight(eras []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = slices.DeleteFunc(c.wrong, func(era uint64) bool { return slices.Contains(eras, era) })
}

// Before is the clock before a step, shortly after the step: readings that senders had kept arrive now.
type Before struct {
	Now time.Time // by that clock
	Era uint64

	from, to       time.Time // time range of that clock
	since, present time.Time // time range of the clock after the step
}

// Before returns the clock before the last step, or nil if the step was not in the last minutes.
func (c *Clock) Before() *Before {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.tick()
	ago := c.running() - c.steppedAt
	if c.ended.id == 0 || ago >= trustAfterStep {
		return nil
	}
	then := now.Round(0).Add(c.ended.offset - c.era.offset)
	return &Before{Now: then, Era: c.ended.id, from: c.ended.wall, to: then.Add(-ago), since: now.Add(-ago), present: now}
}

// Took reports that a reading's time comes from the clock before the step, and not from the present one.
func (b *Before) Took(at time.Time) bool {
	if b == nil || !at.Before(b.since.Add(-leastSkew)) && !at.After(b.present.Add(leastSkew)) {
		return false
	}
	return !at.Before(b.from.Add(-LiveWithin)) && !at.After(b.to.Add(leastSkew))
}

// Observe processes the header of an answer that arrived now after the time took. sure says that the body had a status
// of the API; accepted is the stamp of a slot that the answer called delivered, or zero. It reports a change of the
// difference between the clocks that needs a warning.
func (c *Clock) Observe(h http.Header, took time.Duration, sure bool, accepted time.Time) (warn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		if c.heard == nothing {
			c.heard = neutral
		}
		return false
	}
	// The Date has whole seconds: half a second is the mean error.
	at, now := at.Add(500*time.Millisecond+took/2), c.running()
	skew, within := at.Sub(c.wall()), c.cfg.MaxSkew+time.Second+took/2
	agreed := skew.Abs() <= within
	// With this Date the server could not have accepted the slot, so the Date is wrong.
	refuted := !accepted.IsZero() && (at.Before(accepted.Add(-within)) || at.Sub(accepted) > spec.MaxAge+within)
	if agreed || sure {
		before := time.Duration(0)
		if c.known {
			before = c.skew()
		}
		c.known, c.server, c.serverAt = true, at, now
		warn = (skew - before).Abs() > 30*time.Second
	}
	if !agreed && !refuted {
		c.acquit(c.era.offset+skew, within)
	}
	switch {
	case agreed:
		c.heard = agrees
		c.confirm()
	case refuted:
		c.heard = neutral
	case skew.Abs() <= max(contradiction, within), c.odd != 0 && (skew-c.odd).Abs() <= within:
		if c.heard != agrees {
			c.heard = neutral
		}
	case sure:
		c.differs(contradicts, skew)
	case c.heard != contradicts && !c.confirmed:
		c.differs(disagrees, skew)
	}
	return warn
}

// acquit confirms the accused eras with which a server's clock agrees.
func (c *Clock) acquit(offset, within time.Duration) {
	c.accused = slices.DeleteFunc(c.accused, func(e era) bool {
		agreed := (e.offset - offset).Abs() <= within
		if agreed {
			c.right = &e.offset
		}
		return agreed
	})
}

func (c *Clock) differs(w word, skew time.Duration) {
	if c.heard != disagrees && c.heard != contradicts {
		c.against = c.running()
	}
	c.heard = w
	if c.running()-c.against >= patience {
		c.odd = skew.Round(time.Second)
	}
}

func (c *Clock) serverNow() time.Time { return c.server.Add(c.running() - c.serverAt) }

func (c *Clock) skew() time.Duration {
	if !c.known {
		return 0
	}
	return c.serverNow().Sub(c.wall()).Round(time.Second)
}

// Skew is the server's clock minus this machine's, as last measured; 0 if never.
func (c *Clock) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.skew()
}

// contradicted reports that the server contradicts, but not yet for longer than patience.
func (c *Clock) contradicted() bool {
	return c.heard == contradicts && c.running()-c.against < patience
}

// Hold reports that no slot may be sent: eras are accused or not put right, the server contradicts, or the clock was
// not confirmed since the start or the last step while the server was silent or disagrees.
func (c *Clock) Hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.hold()
}

func (c *Clock) hold() bool {
	switch {
	case len(c.wrong)+len(c.accused) > 0:
		return true
	case c.cfg.Alone:
		return false
	case c.heard == contradicts:
		return c.contradicted()
	case c.heard == disagrees && !c.confirmed: // not a statement of the board itself
		return c.running()-c.against < unheard
	case c.confirmed:
		return false
	}
	return c.heard == nothing && c.running()-c.era.from < unheard
}

// Ask reports that the server has to be asked for its time now.
func (c *Clock) Ask() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	now := c.running()
	if c.cfg.Alone || now-c.asked < AskEvery || (c.confirmed || c.waited()) && !c.hold() && c.heard != nothing {
		return false
	}
	c.asked = now
	return true
}

// Trouble says what a person has to check, or "".
func (c *Clock) Trouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	if c.heard != contradicts {
		return ""
	}
	what := "finished slots wait"
	if !c.contradicted() {
		what = fmt.Sprintf("it has lasted for more than %s, so slots are sent again", patience)
	}
	return fmt.Sprintf("this machine's clock contradicts the server's, which is ahead by %s: %s; correct this machine's clock with NTP", c.skew(), what)
}

// Closing is the time up to which windows close: the wall time. While the clock is not trusted, or the server
// contradicts, it is not later than any estimate of the true time.
func (c *Clock) Closing() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.tick()
	ahead := time.Duration(0)
	switch trusted := len(c.wrong)+len(c.accused) == 0 && (c.confirmed || c.waited()); {
	case c.contradicted() || !trusted && c.known:
		ahead = -c.skew()
	case trusted:
	case c.right != nil:
		ahead = c.era.offset - *c.right
	case !c.last.IsZero():
		ahead = c.wall().Sub(c.last.Add(c.running()))
	default:
		ahead = time.Hour // a guess: readings that come with another clock are mostly history
	}
	for _, e := range c.accused {
		ahead = max(ahead, c.era.offset-e.offset)
	}
	return now.Add(-max(ahead, 0))
}

// Expired reports that a slot is older than 7 days: by this clock and the server's, or because 7 days of running time
// have passed since it was made.
func (c *Clock) Expired(stamp time.Time, made time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.known && c.wall().Sub(stamp) > spec.MaxAge && c.serverNow().Sub(stamp) > spec.MaxAge ||
		c.lives+c.running()-made > spec.MaxAge
}

// Passed reports that a stamp has passed by this clock, and by the server's if it is known.
func (c *Clock) Passed(stamp time.Time) bool { return c.Until(stamp) <= 0 }

// Until is the time until a stamp has passed by these clocks.
func (c *Clock) Until(stamp time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	left := stamp.Sub(c.wall())
	if c.known {
		left = max(left, stamp.Sub(c.serverNow()))
	}
	return left
}
