package slot

import (
	"cmp"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Series is one parameter of one device. Nothing else distinguishes two series.
type Series struct {
	Device, Parameter string
	Diagnostic        bool
}

func (s Series) compare(t Series) int {
	if c := cmp.Or(cmp.Compare(s.Device, t.Device), cmp.Compare(s.Parameter, t.Parameter)); c != 0 || s.Diagnostic == t.Diagnostic {
		return c
	}
	if s.Diagnostic {
		return 1
	}
	return -1
}

// Head is what samples of one series from one sender have in common. A new Head has no place; it must be used with one
// Aligner only.
type Head struct {
	Series
	Unit      string
	Statistic Statistic
	Source    uint64  // distinguishes senders of the same series
	MaxStep   float64 // largest change of the value in a minute, see [series.leaps]; 0: no limit

	place *series
	era   uint64 // Aligner.era for which place is valid
}

// Reading is what differs from sample to sample.
type Reading struct {
	Time  time.Time
	Value float64
	Skew  time.Duration // another clock minus the machine's: a sample is too old or in the future only if it is by both clocks
	Flag  spec.Flag
	Exit  uint8 // exit of the slot, if this is its window's first sample since the start; 0: any
	Doubt bool  // the clock was not confirmed when it was taken
}

// Slot is the value of a closed window.
type Slot struct {
	Series
	Unit       string
	Start, End time.Time // of the window
	Stamp      time.Time // Start or End, as Options.Stamp selects
	Flag       spec.Flag
	Value      float64
	Min, Max   float64
	Samples    int // number of samples in the value
	Minutes    int `json:"-"` // minutes of a 15-minute window with a sample of any flag; for time_weighted, minutes in which a sample holds
	Statistic  Statistic
	Exit       uint8
	Doubt      bool `json:",omitempty"` // one of its samples was in doubt

	Last      time.Time `json:"-"` // event time of its last sample; zero after a restart
	LastValue float64   `json:"-"`
}

// Compare orders slots by stamp, device and parameter.
func (s Slot) Compare(t Slot) int {
	return cmp.Or(s.Stamp.Compare(t.Stamp), s.Series.compare(t.Series), cmp.Compare(s.Flag, t.Flag), s.Start.Compare(t.Start))
}

// Result says what happened to a sample.
type Result struct {
	Reason Reason
	// Other is, after a Conflict, the source of the first sample. After Taken it is a source that alternates with the
	// sample's own, or 0.
	Other uint64
}

// Stats are an Aligner's gauges and counters.
type Stats struct {
	Series, Open  int    // series in memory, and their open windows
	Taken, Closed uint64 // samples taken and slots made since New
	Refused       map[Reason]uint64
}

// Aligner makes slots from samples. It is safe for concurrent use.
type Aligner struct {
	opt  Options
	idle time.Duration

	mu       sync.Mutex
	base     time.Time // arrivals are counted from here with the monotonic clock
	restored bool      // has saved state or samples from before the start: nothing closes for one grace
	devices  map[string]*device
	shards   [shardCount]shard
	series   int
	era      uint64 // counts removals of series
	open     int    // cells
	newest   int64  // latest event time of a sample since New, Unix ns
	next     int64  // no window is due before this time, Unix ns
	settle   bool   // a window is due and waits to settle
	evictAt  int64  // no series can be evicted before this time, ns since base
	came     int64  // last arrival, ns since base
	resumed  int64  // the first arrival after the last pause, ns since base
	taken    uint64
	closed   uint64
	refused  map[Reason]uint64
}

type shard struct {
	devices []*device
	mark    mark
	bytes   int // of its last saved entry
}

// parameter identifies a series within its device.
type parameter struct {
	name       string
	diagnostic bool
}

type device struct {
	id         string
	shard, pos int32
	series     map[parameter]*series
	sorted     []*series // cache of series in order
	windows    []*window // by start and kind
}

func (d *device) inOrder() []*series {
	if len(d.sorted) != len(d.series) {
		d.sorted = slices.SortedFunc(maps.Values(d.series), func(s, o *series) int { return s.compare(o.Series) })
	}
	return d.sorted
}

type series struct {
	Series
	device      *device
	shard       int32 // same as the device's
	seen        int64 // last arrival, ns since Aligner.base
	pace        pace
	open        []*cell // by start and kind of their windows
	closed      ring
	calibration *[2]ring // C and Z; nil until one has closed
	source      uint64   // of the latest sample
	before      uint64   // the source that sent before source did
	memory      *memory  // nil if not needed
}

func (s *series) ring(k kind) *ring {
	if k == normal {
		return &s.closed
	}
	if s.calibration == nil {
		s.calibration = new([2]ring)
	}
	return &s.calibration[k-calibration]
}

func (s *series) isClosed(start int64, k kind) bool {
	if k != normal && s.calibration == nil {
		return false
	}
	return s.ring(k).has(start/k.seconds(), k)
}

// startOf returns the start of the window that contains a time. It first tries the latest open window, which usually
// matches.
func (s *series) startOf(at int64, k kind) int64 {
	if n := len(s.open); n > 0 {
		if w := s.open[n-1].window; w.kind == k && at >= w.start && at-w.start < k.seconds() {
			return w.start
		}
	}
	return at - (at%k.seconds()+k.seconds())%k.seconds()
}

// returns reports that a source sends again after another one did. A source that changes only once is a restarted
// sender.
func (s *series) returns(source uint64, c *cell) bool {
	return source != s.source && (source == s.before || slices.Contains(c.sources, source))
}

// from records the source of a sample.
func (s *series) from(source uint64) {
	if source != s.source {
		s.before, s.source = s.source, source
	}
}

// New makes an Aligner.
func New(o Options) *Aligner {
	return &Aligner{
		opt: o,
		// A sample may be ahead by MaxSkew, and its window's end by one slot more. Only after that and 7 days more no
		// sample can be accepted for any closed window of a series.
		idle:    spec.MaxAge + spec.SlotLength + o.MaxSkew,
		devices: map[string]*device{},
		next:    math.MaxInt64,
		evictAt: math.MinInt64,
		refused: map[Reason]uint64{},
	}
}

// since counts from base, which is the time of the first call.
func (a *Aligner) since(now time.Time) int64 {
	if a.base.IsZero() {
		a.base = now
	}
	return int64(now.Sub(a.base))
}

// StampOf returns the stamp of the slot to which a sample belongs.
func (o Options) StampOf(at time.Time, flag spec.Flag) time.Time {
	start, end := spec.Window(at, flag.Length())
	if o.Stamp == "start" {
		return start
	}
	return end
}

// AddAll takes n samples that arrived together, in order. The first sample of a window fixes its unit and statistic. It calls
// result for each sample that was not taken, or whose source alternates with another. Both functions are called under the
// Aligner's lock.
func (a *Aligner) AddAll(now time.Time, n int, sample func(i int) (*Head, Reading), result func(i int, r Result)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	arrival := a.since(now)
	a.arrive(arrival)
	now = now.Round(0)
	for i := range n {
		h, x := sample(i)
		if r := a.count(h, &x, now, arrival); r != (Result{}) {
			result(i, r)
		}
	}
}

// flowing is the time with which windows settle. With WaitForNewer it stops in a pause: no source may be there, and when it
// is back it sends again what newer samples have overtaken.
func (a *Aligner) flowing(elapsed int64) int64 {
	if !a.opt.WaitForNewer {
		return elapsed
	}
	return min(elapsed, a.came+a.pause())
}

// pause is how long no sample arrives before it is a pause, and how long after a pause no window closes.
func (a *Aligner) pause() int64 { return int64(a.opt.Settle / 4) }

// arrive records an arrival of samples.
func (a *Aligner) arrive(elapsed int64) {
	if a.opt.WaitForNewer && elapsed-a.came > a.pause() {
		a.resumed = elapsed
	}
	a.came = max(a.came, elapsed)
}

// count adds a sample. Event time is compared with the wall clock; arrivals use the monotonic clock.
func (a *Aligner) count(h *Head, x *Reading, now time.Time, arrival int64) Result {
	x.Time = x.Time.Round(0)
	r := a.add(h, x, now, arrival)
	if r.Reason == Taken {
		a.taken++
	} else {
		a.refused[r.Reason]++
	}
	return r
}

func (a *Aligner) add(h *Head, x *Reading, now time.Time, arrival int64) Result {
	if reason := a.check(x, now); reason != Taken {
		return Result{Reason: reason}
	}
	k := kindOf(x.Flag)
	a.newest = max(a.newest, x.Time.UnixNano())
	s := a.find(h, arrival)
	start := s.startOf(x.Time.Unix(), k)
	if s.isClosed(start, k) {
		s.arrive(x, now, arrival, true, &a.opt)
		a.shards[s.shard].mark.dirty = true
		return Result{Reason: Late}
	}
	leaps := h.MaxStep > 0 && k == normal && s.leaps(h.MaxStep, x)
	if leaps && s.at(bounds{start, k}) == nil { // a leap opens no window
		return Result{Reason: TooFar}
	}
	c := a.cell(s, start, k, h, x.Exit)
	returns := s.returns(h.Source, c)
	r := c.take(h, x, leaps)
	if r.Reason != Taken {
		return r
	}
	if returns {
		r.Other = s.source
	}
	s.from(h.Source)
	if h.MaxStep > 0 && k == normal {
		s.remember().step = point{x.Time.UnixNano(), x.Value, x.Flag}
	}
	c.doubt = c.doubt || x.Doubt
	c.window.arrival = arrival
	s.arrive(x, now, arrival, now.UnixNano() >= a.due(c.window), &a.opt)
	a.restored = a.restored || arrival < 0 // taken before the start
	a.shards[s.shard].mark.dirty = true
	return r
}

func (a *Aligner) check(x *Reading, now time.Time) Reason {
	switch {
	case !(math.Abs(x.Value) <= maxValue):
		return NotANumber
	case !x.Flag.Valid():
		return BadFlag
	}
	if age := now.Sub(x.Time); age >= 0 && age < spec.MaxAge-spec.SlotLength { // accepted for any skew and stamp
		return Taken
	}
	late, early := now.Add(max(x.Skew, 0)), now.Add(min(x.Skew, 0))
	switch {
	case x.Time.Sub(late) > a.opt.MaxSkew:
		return Future
	case early.Sub(x.Time) > spec.MaxAge+spec.SlotLength, early.Sub(a.opt.StampOf(x.Time, x.Flag)) > spec.MaxAge:
		return TooOld
	}
	return Taken
}

// Untimely reports that a sample would be refused for its time alone.
func (a *Aligner) Untimely(x Reading, now time.Time) bool {
	x.Time = x.Time.Round(0)
	r := a.check(&x, now.Round(0))
	return r == Future || r == TooOld
}

// find returns a series, and creates it if needed. The configuration bounds their number: a sender cannot invent one.
func (a *Aligner) find(h *Head, arrival int64) (s *series) {
	if h.place != nil && h.era == a.era {
		return h.place
	}
	if d := a.devices[h.Device]; d != nil {
		s = d.series[parameter{h.Parameter, h.Diagnostic}]
	}
	if s == nil {
		s = a.install(&series{Series: h.Series, seen: arrival})
	}
	h.place, h.era = s, a.era
	return s
}

// cell returns a series' open window, and opens it if needed.
func (a *Aligner) cell(s *series, start int64, k kind, h *Head, exit uint8) *cell {
	if n := len(s.open); n > 0 && s.open[n-1].window.start == start && s.open[n-1].window.kind == k {
		return s.open[n-1]
	}
	i, found := slices.BinarySearchFunc(s.open, bounds{start, k}, func(c *cell, b bounds) int { return c.window.bounds.compare(b) })
	if found {
		return s.open[i]
	}
	c := &cell{window: a.window(s.device, bounds{start, k}), series: s, unit: h.Unit, stat: h.Statistic, exit: exit}
	c.flags, c.sources = c.flag[:0], c.source[:0]
	a.attach(c, i)
	return c
}

// attach makes a cell the i-th open cell of its series.
func (a *Aligner) attach(c *cell, i int) {
	c.window.cells = append(c.window.cells, c)
	c.series.open = slices.Insert(c.series.open, i, c)
	a.open++
}

// window returns an open window of a device, and opens it if needed.
func (a *Aligner) window(d *device, b bounds) *window {
	i, found := slices.BinarySearchFunc(d.windows, b, func(w *window, b bounds) int { return w.bounds.compare(b) })
	if !found {
		w := &window{bounds: b}
		d.windows = slices.Insert(d.windows, i, w)
		a.next = min(a.next, a.due(w))
	}
	return d.windows[i]
}

// due returns the end of the window's grace, Unix ns.
func (a *Aligner) due(w *window) int64 {
	grace := a.opt.Grace
	if w.kind != normal {
		grace = a.opt.CalibrationGrace
	}
	return (w.start+w.kind.seconds())*int64(time.Second) + int64(grace)
}

func shardOf(device string) int32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(device))
	return int32(h.Sum64() % shardCount)
}

func (a *Aligner) install(s *series) *series {
	d := a.devices[s.Device]
	if d == nil {
		d = &device{id: s.Device, shard: shardOf(s.Device), series: map[parameter]*series{}}
		sh := &a.shards[d.shard]
		d.pos = int32(len(sh.devices))
		sh.devices = append(sh.devices, d)
		a.devices[d.id] = d
	}
	d.series[parameter{s.Parameter, s.Diagnostic}], d.sorted, s.device, s.shard = s, nil, d, d.shard
	a.series++
	return s
}

// evict drops the series for which no sample can be accepted any more.
func (a *Aligner) evict(elapsed int64) {
	if elapsed < a.evictAt {
		return
	}
	oldest := elapsed
	for i := range a.shards {
		sh := &a.shards[i]
		for _, d := range slices.Clone(sh.devices) {
			before := len(d.series)
			maps.DeleteFunc(d.series, func(_ parameter, s *series) bool {
				kept := len(s.open) > 0 || time.Duration(elapsed-s.seen) <= a.idle
				if kept {
					oldest = min(oldest, s.seen)
				}
				return !kept
			})
			if len(d.series) == before {
				continue
			}
			d.sorted = nil
			a.era++
			a.series -= before - len(d.series)
			sh.mark.dirty = true
			if len(d.series) == 0 {
				a.remove(d)
			}
		}
	}
	a.evictAt = oldest + int64(a.idle)
}

func (a *Aligner) remove(d *device) {
	sh := &a.shards[d.shard]
	n := len(sh.devices) - 1
	sh.devices[d.pos] = sh.devices[n]
	sh.devices[d.pos].pos = d.pos
	sh.devices[n] = nil
	sh.devices = sh.devices[:n]
	delete(a.devices, d.id)
}

// Close closes the windows that are due and returns their slots in the order of [Slot.Compare]. After a restart every
// window waits one grace from the start, so that senders can resend what was refused.
func (a *Aligner) Close(now time.Time) []Slot { return a.CloseBy(now, now) }

// CloseBy is Close with a separate time that decides which windows are over.
func (a *Aligner) CloseBy(now, over time.Time) []Slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	elapsed, wall := a.since(now), over.UnixNano()
	if a.next == math.MinInt64 { // restored
		a.came, a.resumed = min(a.came, max(elapsed, 0)), min(a.resumed, elapsed) // a replayed sample may have arrived by a clock that was ahead
	}
	flow, resumes := a.flowing(elapsed), false
	if a.opt.WaitForNewer {
		wall, resumes = min(wall, a.newest), flow-a.resumed < a.pause()
	}
	a.evict(elapsed)
	if resumes || !a.settle && wall < a.next || a.restored && elapsed < int64(a.opt.Grace) {
		return nil
	}
	var due []*window
	a.settle, a.next, a.restored = false, math.MaxInt64, false
	for i := range a.shards {
		sh := &a.shards[i]
		for _, d := range sh.devices {
			n := len(due)
			if due = a.takeDue(d, flow, wall, due); len(due) > n {
				sh.mark.dirty = true
			}
		}
	}
	out := a.close(due)
	a.open -= len(out)
	a.closed += uint64(len(out))
	return out
}

// takeDue removes the device's windows that are due.
func (a *Aligner) takeDue(d *device, flow, wall int64, out []*window) []*window {
	kept := d.windows[:0]
	for _, w := range d.windows {
		w.arrival = min(w.arrival, flow) // replayed samples may have arrived by a clock that was ahead
		if due := a.due(w); wall < due {
			a.next = min(a.next, due)
		} else if flow < a.settled(w, flow, wall-flow) && !w.heldTooLong(flow, a.resumed) {
			a.settle = true
		} else {
			out = append(out, w)
			continue
		}
		kept = append(kept, w)
	}
	clear(d.windows[len(kept):])
	d.windows = kept
	if len(kept) == 0 && cap(kept) > 4 {
		d.windows = nil // history is over, free the memory
	}
	return out
}

// settled returns when a due window has settled. clock is the wall time at base, Unix ns. With WaitForNewer, newer samples may
// have overtaken some of its own; so it settles no earlier than from the time when it became due. The readings of a source
// that is behind, or that sends its history slowly, come when their window is due already: the window is not complete before
// the source has passed its end.
func (a *Aligner) settled(w *window, flow, clock int64) int64 {
	at, wait := w.arrival, a.opt.Settle
	switch {
	case a.opt.WaitForNewer:
		if w.held == 0 {
			w.held = max(flow, 1)
		}
		at = max(at, w.held)
	case a.opt.SettleOld > 0 && clock+w.arrival >= a.due(w):
		end := (w.start + w.kind.seconds()) * int64(time.Second)
		for _, c := range w.cells {
			if p := &c.series.pace; p.newest < end {
				wait = max(wait, a.opt.SettleOld)
				if p.slow > 0 {
					wait = max(wait, a.opt.SettleSlow, p.slow+p.slow/2)
				}
			}
		}
	}
	return at + int64(wait)
}

// arrive records that a sample has arrived.
func (s *series) arrive(x *Reading, now time.Time, arrival int64, late bool, o *Options) {
	s.pace.note(x.Time, now, time.Duration(arrival-s.seen), late, o)
	s.seen = arrival
}

// longestPause is the longest between two samples of one source that is behind.
const longestPause = 6 * time.Minute

// pace is how the samples of a series arrive.
type pace struct {
	newest  int64         // latest event time, Unix ns; 0: there is none
	from    int64         // the same before the last arrival
	behind  time.Duration // how long after its time the newest sample arrived
	pause   time.Duration // before the last arrival
	natural bool          // the arrival before the last one advanced at most three times as far as the pause after it
	slow    time.Duration // the longest pause of late samples that come one after the other; 0: they are not late, or come fast
}

// note records a sample that arrives at the given time after the series' last arrival. late: its window was due already.
func (p *pace) note(at, now time.Time, pause time.Duration, late bool, o *Options) {
	if pause != 0 {
		advance := time.Duration(p.newest - p.from)
		p.natural = p.from != 0 && 0 < advance && advance <= 3*pause
		p.from, p.pause = p.newest, pause
	}
	t := at.UnixNano()
	switch {
	case !late:
		p.slow = 0
	case p.newest != 0 && t > p.newest && p.pause <= longestPause && (p.natural || p.pause > o.Settle):
		p.slow = max(p.slow, p.pause)
	}
	if t > p.newest {
		p.newest, p.behind = t, now.Sub(at)
	}
}

// close makes the slots of windows in the order of Slot.Compare. It sorts the windows, which are fewer and smaller than
// slots. A slot then belongs near the end of the list.
func (a *Aligner) close(list []*window) []Slot {
	n := 0
	for _, w := range list {
		n += len(w.cells)
	}
	list = slices.DeleteFunc(list, func(w *window) bool { return len(w.cells) == 0 })
	slices.SortFunc(list, func(w, v *window) int {
		return cmp.Or(cmp.Compare(a.stampOf(w), a.stampOf(v)), cmp.Compare(w.cells[0].series.Device, v.cells[0].series.Device))
	})
	out := slices.Grow([]Slot(nil), n)
	for _, w := range list {
		for _, c := range w.cells {
			c.series.ring(w.kind).set(w.start/w.kind.seconds(), w.kind)
			x := a.take(c)
			if c.stat == TimeWeighted && w.kind == normal {
				c.series.remember().hold(held{c.latest(), c.unit})
			}
			i := len(out)
			for i > 0 && x.Compare(out[i-1]) < 0 {
				i--
			}
			out = slices.Insert(out, i, x)
		}
	}
	return out
}

// stampOf returns the stamp of a window's slots, Unix seconds.
func (a *Aligner) stampOf(w *window) int64 {
	if a.opt.Stamp == "end" {
		return w.start + w.kind.seconds()
	}
	return w.start
}

// take removes a cell from its series and returns its slot.
func (a *Aligner) take(c *cell) Slot {
	s, w := c.series, c.window
	acc := c.chosen(a.opt.MinSamples)
	value, minutes := c.value(acc)
	s.open = slices.DeleteFunc(s.open, func(o *cell) bool { return o == c })
	if len(s.open) == 0 {
		s.open = nil
	}
	start := time.Unix(w.start, 0).UTC()
	x := Slot{
		Series: s.Series, Unit: c.unit, Start: start, End: start.Add(w.kind.length()), Stamp: time.Unix(a.stampOf(w), 0).UTC(), Flag: acc.flag,
		Value: value, Min: acc.min, Max: acc.max, Samples: int(acc.count), Minutes: minutes, Statistic: c.stat, Exit: c.exit, Doubt: c.doubt,
	}
	x.Last, x.LastValue = c.last()
	return x
}

// Latest calls visit with the latest sample of each series of a device that has an open window.
// behind is how long after its time it arrived, if such samples arrive slowly when their windows are due already.
func (a *Aligner) Latest(device string, visit func(s Series, at time.Time, value float64, behind time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.devices[device]
	if d == nil {
		return
	}
	for _, s := range d.series {
		if n := len(s.open); n > 0 {
			at, value := s.open[n-1].last()
			behind := time.Duration(0)
			if s.pace.slow > 0 && at.UnixNano() == s.pace.newest {
				behind = s.pace.behind
			}
			visit(s.Series, at, value, behind)
		}
	}
}

// Confirm ends the doubt of all samples.
func (a *Aligner) Confirm() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubted(func(d *device, c *cell) {
		c.doubt = false
	})
}

// Withdraw removes the open cells with samples in doubt, and returns them as slots. The windows stay open for other
// samples.
func (a *Aligner) Withdraw() (out []Slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubted(func(d *device, c *cell) {
		out = append(out, a.take(c))
		w := c.window
		w.cells = slices.DeleteFunc(w.cells, func(o *cell) bool { return o == c })
		if len(w.cells) == 0 {
			d.windows = slices.DeleteFunc(d.windows, func(o *window) bool { return o == w })
		}
		a.open--
	})
	slices.SortFunc(out, Slot.Compare)
	return out
}

// doubted calls f for each cell in doubt. f may remove the cell.
func (a *Aligner) doubted(f func(d *device, c *cell)) {
	for i := range a.shards {
		sh := &a.shards[i]
		for _, d := range sh.devices {
			for _, w := range slices.Clone(d.windows) {
				for _, c := range slices.Clone(w.cells) {
					if c.doubt {
						f(d, c)
						sh.mark.dirty = true
					}
				}
			}
		}
	}
}

// Reopen opens a window whose slot was withdrawn, so that its correct samples are not late.
func (a *Aligner) Reopen(name Series, stamp time.Time, flag spec.Flag) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.devices[name.Device]
	if d == nil {
		return
	}
	k, start := kindOf(flag), stamp.Unix()
	if a.opt.Stamp == "end" {
		start -= k.seconds()
	}
	if s := d.series[parameter{name.Parameter, name.Diagnostic}]; s != nil && s.isClosed(start, k) {
		s.ring(k).clear(start/k.seconds(), k)
		if s.memory != nil && k == normal {
			s.memory.forget(start)
		}
		a.shards[d.shard].mark.dirty = true
	}
}

// Stats returns the gauges and counters.
func (a *Aligner) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{a.series, a.open, a.taken, a.closed, maps.Clone(a.refused)}
}
