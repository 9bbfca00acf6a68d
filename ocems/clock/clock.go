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
	// LiveWithin is how near to this machine's clock a reading's time is, at its arrival, that was taken by it.
	LiveWithin = 90 * time.Second

	// AskEvery is how often the server is asked at most.
	AskEvery = 15 * time.Second

	trustAfterStart = 2 * time.Minute
	trustAfterStep  = 5 * time.Minute
	saveEvery       = time.Minute
	leastSkew       = 5 * time.Second // a Date has whole seconds, and an answer takes its time

	// contradiction is by how much a Date contradicts. Between MaxSkew and this it neither confirms nor contradicts.
	contradiction = 5 * time.Minute

	// patience is how long finished slots wait for a server that contradicts. A Date that is wrong for ever must not stop a
	// plant for ever; the board takes slots for 7 days. unheard is how long they wait after a start or a step for a server
	// that says nothing: it may not answer a GET at all.
	patience = 6 * time.Hour
	unheard  = 10 * time.Minute
)

// Config is what a Clock needs to know.
type Config struct {
	MaxSkew time.Duration    // a larger step, or difference from the server, is one
	Wall    func() time.Time // nil is time.Now
	Alone   bool             // no server is ever asked: what is trusted by the time that has passed is confirmed
	AtOnce  bool             // after a start no time has to pass, since nothing is sent
}

// Clock is this machine's clock. It is safe for concurrent use. Times without a date are running time of this life.
type Clock struct {
	cfg   Config
	start time.Time // by the monotonic clock

	mu      sync.Mutex
	begun   time.Time     // wall time at the start
	offset  time.Duration // of the wall clock from begun and the running time
	lives   time.Duration // running time of all lives before
	last    time.Time     // last wall time of the life before, or zero
	savedAt time.Duration

	era       uint64
	confirmed bool
	from      time.Duration  // when the era began
	fromWall  time.Time      // and its wall time then
	stepped   bool           // it began with a step
	right     *time.Duration // offset that was confirmed, in this life
	wrong     []uint64       // eras of which something may be left to be put right
	past      []uint64       // eras of this life, and of the store, that were wrong
	before    *span          // wall time of the last era that was wrong

	heard    word
	against  time.Duration // since when there was a Date that differs, and none that agrees
	odd      time.Duration // skew of a Date that has differed so for as long as the patience, or 0
	asked    time.Duration
	known    bool          // the server's time
	server   time.Time     // at serverAt
	serverAt time.Duration // when it was heard
}

// word is the last that was heard of the clock since the era began.
type word int

const (
	nothing     word = iota
	neutral          // an answer without a Date
	disagrees        // a Date of an answer that need not be the board's own
	contradicts      // a Date beside a status of the document
	agrees
)

type span struct{ from, to time.Time }

// New makes a Clock that starts now.
func New(cfg Config) *Clock {
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	cfg.MaxSkew = max(cfg.MaxSkew, leastSkew)
	c := &Clock{cfg: cfg, start: time.Now(), era: 1, asked: -AskEvery, savedAt: -saveEvery}
	c.begun = cfg.Wall().Round(0)
	c.fromWall = c.begun
	return c
}

// formatVersion is that of the stored value, see [frame].
const formatVersion = 1

// Restore reads what an earlier life has saved, once and before any other use. It reports whether nothing of that life is
// in doubt. The error wraps [frame.ErrNewer] or [frame.ErrDamaged].
func (c *Clock) Restore(value []byte) (confirmed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return false, err
	}
	last, lives, era := time.Unix(d.Int(), 0), time.Duration(d.Uint())*time.Second, d.Uint()
	next, odd := d.Bool(), time.Duration(d.Int()%(1<<33))*time.Second
	var wrong []uint64
	for n := d.Count(1); n > 0; n-- {
		wrong = append(wrong, d.Uint())
	}
	if d.Err() != nil {
		return false, d.Err()
	}
	confirmed = next && len(wrong) == 0
	c.last, c.lives, c.era, c.wrong, c.past, c.odd = last, lives, era, wrong, slices.Clone(wrong), odd
	if c.begun.Before(last.Add(-c.cfg.MaxSkew)) {
		c.stepped = true
		if !next {
			c.condemn()
		}
		next = true
	}
	if next { // nobody has confirmed it in this life
		c.era++
	}
	return confirmed, nil
}

func (c *Clock) condemn() {
	c.wrong, c.past = append(c.wrong, c.era), append(c.past, c.era)
}

// SaveDue reports that it is time to write what Save returns, if nothing else is written.
func (c *Clock) SaveDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running()-c.savedAt >= saveEvery
}

// Save returns what belongs into the store: the wall time, and the running time of all lives. What is wrong in the eras of
// righted is put right in the same transaction.
func (c *Clock) Save(righted ...uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	c.savedAt = c.running()
	e := frame.New(formatVersion)
	e.Int(c.wall().Unix())
	e.Uint(uint64((c.lives + c.running()) / time.Second))
	e.Uint(c.era)
	e.Bool(c.confirmed)
	e.Int(int64(c.odd / time.Second))
	left := slices.DeleteFunc(slices.Clone(c.wrong), func(era uint64) bool { return slices.Contains(righted, era) })
	e.Uint(uint64(len(left)))
	for _, era := range left {
		e.Uint(era)
	}
	return e.Seal()
}

func (c *Clock) running() time.Duration { return time.Since(c.start) }

// wall is the wall time as of the last tick.
func (c *Clock) wall() time.Time { return c.begun.Add(c.running() + c.offset) }

// tick looks whether the wall clock has stepped, and returns its time.
func (c *Clock) tick() time.Time {
	var now time.Time
	var at time.Duration
	for { // a process may be stopped between the two
		before := c.running()
		now = c.cfg.Wall()
		if at = c.running(); at-before < time.Second {
			break
		}
	}
	offset := now.Round(0).Sub(c.begun) - at
	moved := offset - c.offset
	was := c.wall()
	c.offset = offset
	switch {
	case moved.Abs() <= c.cfg.MaxSkew: // it is slewed
		if c.right != nil {
			*c.right += moved
		}
	default:
		if !c.confirmed {
			c.condemn()
			c.before = &span{c.fromWall, was}
		}
		c.era++
		c.stepped, c.from, c.fromWall, c.heard, c.confirmed = true, at, now.Round(0), nothing, false
		if c.right != nil && (offset-*c.right).Abs() <= c.cfg.MaxSkew {
			c.confirm()
		}
	}
	if c.cfg.Alone && !c.confirmed && c.waited() {
		c.confirm()
	}
	return now
}

func (c *Clock) confirm() {
	offset := c.offset
	c.confirmed, c.right = true, &offset
}

// waited reports that the time has passed after which the clock is trusted though nobody has confirmed it.
func (c *Clock) waited() bool {
	if c.stepped {
		return c.running()-c.from >= trustAfterStep
	}
	return c.cfg.AtOnce || c.running() >= trustAfterStart
}

// Now is the wall time and the era that it belongs to.
func (c *Clock) Now() (now time.Time, era uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.tick()
	return now, c.era
}

// Running is for how long the host has run, all its lives together.
func (c *Clock) Running() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lives + c.running()
}

// Trust is how far an era's clock is believed.
type Trust int

// The degrees of trust.
const (
	Confirmed Trust = iota
	Trusted         // by the time that has passed, and nobody has confirmed it
	Untrusted       // yet
	Wrong           // it ended with a step, and nobody had confirmed it
)

// Trust returns that of an era. While eras are wrong and not put right, nothing newer is trusted.
func (c *Clock) Trust(era uint64) Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	switch {
	case slices.Contains(c.past, era):
		return Wrong
	case era != c.era:
		return Confirmed
	case len(c.wrong) > 0:
		return Untrusted
	case c.confirmed:
		return Confirmed
	case c.waited():
		return Trusted
	}
	return Untrusted
}

// Wrong lists the eras of which all that was taken by this clock is to be taken back, until PutRight.
func (c *Clock) Wrong() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return slices.Clone(c.wrong)
}

// PutRight notes that nothing of these eras is left.
func (c *Clock) PutRight(eras []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = slices.DeleteFunc(c.wrong, func(era uint64) bool { return slices.Contains(eras, era) })
}

// BeforeStep reports that a reading was taken by the clock of before a step, which nobody had confirmed, and comes shortly
// after it.
func (c *Clock) BeforeStep(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.before
	return b != nil && c.running()-c.from < trustAfterStep && !at.Before(b.from.Add(-LiveWithin)) && !at.After(b.to.Add(LiveWithin))
}

// Observe takes the header of an answer that came just now and took so long. sure says that the body had a status of the
// document; accepted is the stamp of a slot that the answer called delivered, or zero. It reports whether the server's
// clock differs otherwise than before by enough for a warning.
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
	// Of the whole seconds, half a second is the mean error.
	at, now := at.Add(500*time.Millisecond+took/2), c.running()
	skew, within := at.Sub(c.wall()), c.cfg.MaxSkew+time.Second+took/2
	agreed := skew.Abs() <= within
	if agreed || sure {
		before := time.Duration(0)
		if c.known {
			before = c.skew()
		}
		c.known, c.server, c.serverAt = true, at, now
		warn = (skew - before).Abs() > 30*time.Second
	}
	switch {
	case agreed:
		c.heard = agrees
		c.confirm()
	case !accepted.IsZero() && (at.Before(accepted.Add(-within)) || at.Sub(accepted) > spec.MaxAge+within):
		c.heard = neutral // by its Date the server could not have taken the slot: the Date is wrong
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

// Skew is the server's clock less this machine's, as it was measured last; 0 before.
func (c *Clock) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.skew()
}

// contradicted reports that the server contradicts, for not so long that it must be wrong itself.
func (c *Clock) contradicted() bool {
	return c.heard == contradicts && c.running()-c.against < patience
}

// Hold reports that no slot may be sent: eras are to be put right, the server contradicts, or nobody has confirmed the
// clock since the start or the last step and the server was not heard or disagrees.
func (c *Clock) Hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.hold()
}

func (c *Clock) hold() bool {
	switch {
	case len(c.wrong) > 0:
		return true
	case c.cfg.Alone:
		return false
	case c.heard == contradicts:
		return c.running()-c.against < patience
	case c.heard == disagrees && !c.confirmed: // not the board's own word
		return c.running()-c.against < unheard
	case c.confirmed:
		return false
	}
	return c.heard == nothing && c.running()-c.from < unheard
}

// Ask reports that the server is to be asked for its time now.
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

// Trouble says what a person has to see to, or "".
func (c *Clock) Trouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	if c.heard != contradicts {
		return ""
	}
	what := "finished slots wait"
	if !c.contradicted() {
		what = fmt.Sprintf("after %s slots are sent all the same", patience)
	}
	return fmt.Sprintf("this machine's clock contradicts the server's, which is ahead by %s: %s; correct this machine's clock with NTP", c.skew(), what)
}

// Closing is the time by which windows close: the wall time, but no later than all that is known of the true time while the
// clock is not trusted, or the server contradicts.
func (c *Clock) Closing() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.tick()
	ahead := time.Duration(0)
	switch trusted := len(c.wrong) == 0 && (c.confirmed || c.waited()); {
	case c.contradicted() || !trusted && c.known:
		ahead = -c.skew()
	case trusted:
	case c.right != nil:
		ahead = c.offset - *c.right
	case !c.last.IsZero():
		ahead = c.wall().Sub(c.last.Add(c.running()))
	default:
		ahead = time.Hour // of readings that come by another clock, most are history
	}
	return now.Add(-max(ahead, 0))
}

// Expired reports that a slot with a stamp, made at a running time, is older than 7 days: by this clock and by the
// server's, or since 7 days of running time.
func (c *Clock) Expired(stamp time.Time, made time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick()
	return c.known && c.wall().Sub(stamp) > spec.MaxAge && c.serverNow().Sub(stamp) > spec.MaxAge ||
		c.lives+c.running()-made > spec.MaxAge
}

// Passed reports that a stamp has passed by this clock, and by the server's where that is known.
func (c *Clock) Passed(stamp time.Time) bool { return c.Until(stamp) <= 0 }

// Until is how long it is until a stamp has passed so.
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
