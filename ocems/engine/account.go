package engine

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
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

const (
	writeAtOnce  = 5 * time.Second // after a change that matters to a person
	writeLater   = time.Minute     // after any change
	writeSettled = 20 * time.Second
	writeAlways  = 5 * time.Minute  // so that a reader knows that the host runs
	begins       = 10 * time.Minute // after the start; a person waits for the first slots, so changes are written soon
	forgetSilent = spec.MaxAge      // for a series without an entry
	excludedFor  = 24 * time.Hour
	reachWithin  = time.Minute // from the close of a window to the board
	failsFor     = time.Minute // before a failed write of the status is logged
)

// account records the state of each parameter that a device has to report.
type account struct {
	e       *Engine
	path    string // of the status file; "" for none
	started time.Time
	begun   time.Time // the same with the monotonic clock
	came    came

	mu      sync.Mutex
	names   registry.Version // version that the devices are from
	devices map[string]*deviceAccount
	ids     []string      // sorted
	delay   time.Duration // longest delay of the devices: slots are expected later by this time
	files   []statusFile
	moved   bool // the number of files has changed
	host    statusFile
	health  string // at the last step
	taken   uint64 // readings taken until the last step
	slots   slotLines
	classes map[status.Class]int // parameters in trouble at the end of the last slot

	troubledMu sync.Mutex // separate from mu, because the outbox calls trouble while it holds its own mutex
	troubled   map[string]bool

	failing time.Time // since when the status cannot be written; used by run only
	failed  bool      // and it was logged
	ran     time.Time // when the previous run was last known to run
}

// deviceAccount records the state of a device's parameters.
type deviceAccount struct {
	*registry.Device
	file       int
	parameters []*parameterAccount // sorted by key
	named      int                 // number of parameters that the configuration names
	held       string
	heldSince  time.Time

	// Of a device without entries, when a reading last came: of a parameter, even if it was left out; and one with another
	// name, to the hour.
	read, other time.Time
}

type parameterAccount struct {
	status.Parameter
	mapped registry.Mapped
	told   status.Class // class of trouble that the log has named, or ""
	former bool         // renamed since; used by refresh only
}

// statusFile decides when a file has to be written.
type statusFile struct {
	written time.Time
	changed bool      // anything
	matters bool      // the change matters to a person
	since   time.Time // nothing was changed before this time
}

func (f *statusFile) due(now time.Time, always bool) bool {
	ago := now.Sub(f.written).Abs()
	if !f.changed {
		f.since = now
	}
	// A change that each slot makes waits, because a hub's devices report one after the other.
	return f.matters && ago >= writeAtOnce || f.changed && ago >= writeLater && now.Sub(f.since).Abs() >= writeSettled || always && ago >= writeAlways
}

// openAccount continues with the status of the previous run, if it is readable.
func openAccount(e *Engine, path string) *account {
	a := &account{e: e, path: path, started: time.Now().UTC().Round(0), begun: time.Now(), devices: map[string]*deviceAccount{}}
	a.slots.by = map[int64]*slotLine{}
	a.host.matters = true
	var before []status.Device
	if path != "" {
		h, err := status.Read(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.log.Warn("cannot read the parameter status of the last run: starting with an empty one", "error", err)
		}
		if err == nil {
			a.ran, before, a.files = h.RanUntil(), h.Devices, make([]statusFile, max(h.Files, 1))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh(before)
	return a
}

func statusPath(s store.Store) string {
	if f, ok := s.(interface{ Path() string }); ok && f.Path() != "" {
		return status.Path(f.Path())
	}
	return ""
}

// refresh adopts the devices of the configuration. It keeps what is known of them, also under former names.
func (a *account) refresh(before []status.Device) {
	version := a.e.names.Version()
	if version == a.names {
		return
	}
	a.names = version
	for _, d := range before {
		old := &deviceAccount{Device: &registry.Device{DeviceID: d.ID}, read: d.Read, other: d.Other}
		for _, p := range d.Parameters {
			old.parameters = append(old.parameters, &parameterAccount{Parameter: p})
		}
		a.devices[d.ID] = old
	}
	list := a.e.names.Devices()
	files := max(status.Files(len(list)), 1)
	devices := make(map[string]*deviceAccount, len(list))
	a.ids = make([]string, len(list))
	for i, d := range list {
		a.ids[i], devices[d.DeviceID] = d.DeviceID, &deviceAccount{Device: d, file: status.FileOf(d.DeviceID, files)}
	}
	known := map[slot.Series]*parameterAccount{}
	for _, old := range a.devices {
		id, _ := a.e.names.Current(slot.Series{Device: old.DeviceID}, "")
		if x := devices[id.Device]; x != nil {
			if x.held == "" || id.Device == old.DeviceID {
				x.held, x.heldSince = old.held, old.heldSince
			}
			x.read, x.other = spec.Later(x.read, old.read), spec.Later(x.other, old.other)
		}
		for _, p := range old.parameters {
			was := slot.Series{Device: old.DeviceID, Parameter: p.Parameter.Parameter, Diagnostic: p.Diagnostic}
			now, _ := a.e.names.Current(was, "")
			p.former = now != was
			if other := known[now]; other == nil || p.goesOnBefore(other) {
				known[now] = p
			}
			p.Parameter.Parameter = now.Parameter
		}
	}
	for _, x := range devices {
		for _, m := range x.Mapped() {
			key := slot.Series{Device: x.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic}
			p := known[key]
			if p == nil {
				p = &parameterAccount{Parameter: status.Parameter{Parameter: m.Parameter, Diagnostic: m.Diagnostic, Due: firstWindow(a.now())}}
			}
			p.mapped, p.Unit = m, cmp.Or(m.Unit, p.Unit)
			x.parameters = append(x.parameters, p)
		}
		x.named = len(x.parameters)
	}
	for key, p := range known {
		if x := devices[key.Device]; x != nil && x.named == 0 {
			x.parameters = append(x.parameters, p)
		}
	}
	a.devices, a.delay = devices, 0
	for _, d := range list {
		a.delay = max(a.delay, a.e.delay(d))
	}
	a.moved = a.moved || a.files != nil && len(a.files) != files
	a.files = make([]statusFile, files)
	for i := range a.files {
		a.files[i].matters = true
	}
	a.host.matters = true
	var free []string // devices without entries
	now := a.now()
	for id, x := range devices {
		x.sort()
		if a.expect(x, now); x.named == 0 {
			free = append(free, id)
		}
	}
	a.came.keepOthers(free)
}

func (d *deviceAccount) sort() {
	slices.SortFunc(d.parameters, func(x, y *parameterAccount) int { return cmp.Compare(x.Parameter.Parameter, y.Parameter.Parameter) })
}

// expect decides which parameters a device without entries must report: those that came within the 7 days before the newest
// of them, or status.Any if none is known; and none if no reading of the device is expected.
func (a *account) expect(d *deviceAccount, now time.Time) {
	if d.named > 0 {
		return
	}
	before, newest := len(d.parameters), time.Time{}
	for _, p := range d.parameters {
		newest = spec.Later(newest, p.seen())
	}
	for _, at := range []*time.Time{&d.read, &d.other} {
		if at.After(now.Add(spec.SlotLength)) { // from a clock that was ahead
			*at = now
		}
	}
	if !newest.IsZero() && newer(newest, &d.read, now) {
		d.read = newest
	}
	newest = spec.Later(newest, d.read)
	reports := a.reports(d, now)
	if !reports || newest.IsZero() || newest.After(now) { // a later time comes from a clock that was ahead
		newest = now
	}
	d.parameters = slices.DeleteFunc(d.parameters, func(p *parameterAccount) bool {
		if p.any() {
			return before > 1 || !reports
		}
		return newest.Sub(p.lastSeen()) > forgetSilent
	})
	if len(d.parameters) == 0 && reports {
		since := now
		if !d.read.IsZero() {
			since = d.read
		}
		d.parameters = append(d.parameters, &parameterAccount{Parameter: status.Parameter{Parameter: status.Any, Due: firstWindow(since)}})
	}
	if len(d.parameters) != before {
		a.change(d, true)
	}
}

// reports tells whether a reading of a device without entries is expected. A hub may list devices that do not report.
func (a *account) reports(d *deviceAccount, now time.Time) bool {
	return a.perDevice() || now.Sub(spec.Later(d.read, d.other)) <= forgetSilent
}

func (p *parameterAccount) any() bool { return p.Parameter.Parameter == status.Any }

// goesOnBefore reports that p is kept of two accounts of one parameter: the one that has had a reading; if both have,
// the one with the current name, or else the one with the latest reading.
func (p *parameterAccount) goesOnBefore(o *parameterAccount) bool {
	switch had, other := p.Reading != nil || p.Slot != nil, o.Reading != nil || o.Slot != nil; {
	case had != other:
		return had
	case p.former != o.former:
		return o.former
	}
	return p.lastSeen().After(o.lastSeen())
}

// firstWindow returns the start of the first whole window from now on.
func firstWindow(now time.Time) time.Time {
	start, end := spec.Window(now, spec.SlotLength)
	if start.Equal(now) {
		return start.UTC()
	}
	return end.UTC()
}

func (a *account) now() time.Time {
	now, _ := a.e.clock.Now()
	return now.UTC().Round(0)
}

func (d *deviceAccount) find(parameter string, diagnostic bool) *parameterAccount {
	for _, p := range d.parameters {
		if p.Parameter.Parameter == parameter && p.Diagnostic == diagnostic {
			return p
		}
	}
	return nil
}

// of returns a parameter's account. If the device has no entries, a missing account is created.
func (a *account) of(device, parameter string, diagnostic bool) (*deviceAccount, *parameterAccount) {
	d := a.devices[device]
	if d == nil {
		return nil, nil
	}
	p := d.find(parameter, diagnostic)
	if p == nil && d.named == 0 && parameter != "" {
		p = &parameterAccount{Parameter: status.Parameter{Parameter: parameter, Diagnostic: diagnostic, Due: firstWindow(a.now())}}
		d.parameters = append(d.parameters, p)
		d.sort()
		a.expect(d, a.now())
	}
	return d, p
}

// other records a reading whose name is no parameter. It is cheap if nothing is new, because there may be thousands a second.
func (a *account) other(device, name string, now time.Time) {
	if !a.came.other(device, name, now) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.devices[device]; d != nil {
		d.other = a.now()
		a.change(d, false)
		a.expect(d, d.other)
	}
}

func (a *account) change(d *deviceAccount, matters bool) {
	f := &a.files[d.file]
	f.changed, f.matters = true, f.matters || matters
}

// made records slots that were closed here or made upstream.
func (a *account) made(slots []slot.Slot, upstream bool) {
	if len(slots) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for i := range slots {
		s := &slots[i]
		d, p := a.of(s.Device, s.Parameter, s.Diagnostic)
		if p == nil {
			continue
		}
		if stamp := s.Stamp.UTC(); s.Flag.Calibration() {
			if newer(stamp, p.Calibrated, now) {
				p.Calibrated = &stamp
			}
			continue
		}
		if p.Slot != nil && !newer(s.Stamp, &p.Slot.Stamp, now) && (upstream || !s.Stamp.Equal(p.Slot.Stamp)) {
			continue // of two slots made upstream the first stays; one made here again replaces one that was withdrawn
		}
		p.Upstream = upstream
		rules := d.Rules(s.Parameter)
		p.noteFlat(s, rules.FlatLineAfter)
		p.Beyond = beyond(s, rules)
		p.Slot = &status.Slot{Stamp: s.Stamp.UTC(), Value: s.Value, Flag: s.Flag.String(), Samples: s.Samples}
		p.Unit = s.Unit
		if !s.Last.IsZero() {
			p.read(s.Last, s.LastValue, notKnown, now)
		}
		a.change(d, false)
	}
}

// newer reports that a time is after the known one, or that the known one is in the future because the clock was ahead.
func newer(at time.Time, known *time.Time, now time.Time) bool {
	return known == nil || at.After(*known) || known.After(now.Add(spec.SlotLength))
}

// notKnown is how long after its time a reading arrived if nobody knows: as the one before.
const notKnown = -1

// read records the latest reading. behind: see [slot.Aligner.Latest], or notKnown.
func (p *parameterAccount) read(at time.Time, value float64, behind time.Duration, now time.Time) {
	at = sent(at)
	seconds := behind.Round(time.Second).Seconds()
	if behind == notKnown && p.Reading != nil {
		seconds = p.Reading.Behind
	}
	if p.Reading == nil || at.Equal(p.Reading.At) || newer(at, &p.Reading.At, now) {
		p.Reading = &status.Reading{At: at.UTC(), Value: value, Behind: seconds}
	}
}

// beyond returns which limit of its entry a slot's value exceeds, or "".
func beyond(s *slot.Slot, r *registry.Rules) string {
	what, limit := "", 0.0
	switch {
	case s.Value > r.LimitHigh:
		what, limit = "above limit_high", r.LimitHigh
	case s.Value < r.LimitLow:
		what, limit = "below limit_low", r.LimitLow
	default:
		return ""
	}
	return fmt.Sprintf("%s: %v %s, %s %v", spec.ISTString(s.Stamp), registry.Round(s.Value, -1), s.Unit, what, limit)
}

// noteFlat records since when all readings are equal, and after how long this is reported.
func (p *parameterAccount) noteFlat(s *slot.Slot, alert time.Duration) {
	even := s.Samples == 0 || s.Min == s.Max // a slot made upstream may not describe its readings; it then counts as even
	start := s.Stamp.UTC()
	if !s.Start.IsZero() {
		start = s.Start.UTC()
	}
	switch {
	case !even:
		p.Flat = nil
	case p.Flat != nil && p.Slot != nil && p.Slot.Value == s.Value:
		slots := p.Flat.Slots
		if !s.Stamp.Equal(p.Slot.Stamp) { // else the slot came again
			slots++
		}
		p.Flat = &status.Flat{Since: p.Flat.Since, Slots: slots, Alert: alert.Seconds()}
	default:
		p.Flat = &status.Flat{Since: start, Slots: 1, Alert: alert.Seconds()}
	}
}

// note records entries of the trail.
func (a *account) note(entries []audit.Entry) {
	if len(entries) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for i := range entries {
		x := &entries[i]
		stamp := time.UnixMilli(x.Stamp).UTC()
		switch x.Outcome {
		case audit.Delivered, audit.AlreadyStored:
			n := 0
			for _, r := range x.Readings {
				if flag, err := spec.ParseFlag(r.Flag); err != nil || flag.Calibration() {
					continue
				}
				n++
				if d, p := a.of(x.Device, r.Parameter, r.Diagnostic); p != nil {
					if newer(stamp, p.Delivered, now) {
						p.Delivered, p.Already = &stamp, x.Outcome == audit.AlreadyStored
					}
					p.Refused = nil
					if p.Rejected != nil && p.Rejected.Since.Before(stamp) {
						p.Rejected = nil
					}
					a.change(d, false)
				}
			}
			a.delivered(x.Device, x.Stamp, n, x.Outcome == audit.AlreadyStored)
		case audit.Rejected:
			for _, r := range x.Readings {
				if d, p := a.of(x.Device, r.Parameter, r.Diagnostic); p != nil {
					p.Rejected = &status.Refusal{Reason: reasonOf(x), Detail: x.Detail, Since: stamp}
					a.change(d, true)
				}
			}
		case audit.Refused, audit.Late:
			s := slot.Series{Device: x.Device, Parameter: x.Parameter, Diagnostic: len(x.Readings) > 0 && x.Readings[0].Diagnostic}
			a.exclude(s, status.Excluded{Reason: cmp.Or(x.Reason, string(x.Outcome)), Count: x.Count, Stamp: stamp, Noted: now}, func() string { return x.Detail })
		}
	}
}

func reasonOf(x *audit.Entry) string {
	if x.Status != nil {
		return fmt.Sprint(*x.Status)
	}
	return "other"
}

// excluded records a reading that is in no slot.
func (a *account) excluded(s slot.Series, x status.Excluded, detail func() string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x.Noted = a.now()
	a.exclude(s, x, detail)
}

// exclude adds no parameter to a device without entries, but then a reading is expected of the device.
func (a *account) exclude(s slot.Series, x status.Excluded, detail func() string) {
	d := a.devices[s.Device]
	if d == nil {
		return
	}
	p, of := d.find(s.Parameter, s.Diagnostic), ""
	if p == nil {
		d.read = x.Noted
		a.expect(d, x.Noted)
		if p = d.find(status.Any, false); p == nil {
			return
		}
		of = registry.Short(s.Parameter) + ": "
	}
	x.Detail = of + detail()
	p.exclude(x)
	a.change(d, false)
}

// exclude keeps the newest entry for each reason.
func (p *parameterAccount) exclude(x status.Excluded) {
	p.Excluded = slices.Clone(p.Excluded) // a status that is being written uses the old list
	i := slices.IndexFunc(p.Excluded, func(o status.Excluded) bool { return o.Reason == x.Reason })
	switch {
	case i < 0:
		p.Excluded = append(p.Excluded, x)
	case p.Excluded[i].Stamp.Equal(x.Stamp):
		x.Count += p.Excluded[i].Count
		p.Excluded[i] = x
	case newer(x.Stamp, &p.Excluded[i].Stamp, x.Noted):
		p.Excluded[i] = x
	}
}

// run writes the status and log lines until done is closed; Close makes the last step.
func (a *account) run(done <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			a.step(false)
		}
	}
}

// step does what is due. At the end it writes everything.
func (a *account) step(end bool) {
	a.came.hurry()
	w := a.take(end)
	err := a.write(w)
	switch {
	case err != nil:
		a.again(w)
		if a.failing.IsZero() {
			a.failing = time.Now()
		}
		if !a.failed && (end || time.Since(a.failing) >= failsFor) {
			a.failed = true
			a.e.log.Warn("cannot write the parameter status: trying again; nothing else depends on it", "error", err)
		}
	case w.host != nil || len(w.files) > 0:
		a.failing, a.failed = time.Time{}, false
	}
}

// again schedules a failed write again soon.
func (a *account) again(w written) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.host.matters, a.moved = a.host.matters || w.host != nil, a.moved || w.moved
	for i := range w.files {
		if i < len(a.files) {
			a.files[i].matters = true
		}
	}
}

// written has what a step writes.
type written struct {
	host  *status.Host
	files map[int][]status.Device
	moved bool // files has all of them
}

func (a *account) write(w written) error {
	for i, devices := range w.files {
		if err := status.WriteDevices(a.path, i, devices); err != nil {
			return err
		}
	}
	if w.host == nil {
		return nil
	}
	return w.host.Write(a.path)
}

// take returns what to write now. It returns one device file at a time, because a hub has many. If the number of files
// changes, it returns all of them, because nearly every device moves to another file and a kill in between would lose its
// account.
func (a *account) take(end bool) (w written) {
	health := fmt.Sprint(a.e.health.text(), a.e.reachable())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh(nil)
	now := a.now()
	a.tell(now)
	if a.path == "" {
		return w
	}
	a.host.matters = a.host.matters || health != a.health
	a.health = health
	a.troubledMu.Lock()
	for device := range a.troubled {
		if d := a.devices[device]; d != nil {
			a.change(d, true)
		}
	}
	clear(a.troubled)
	a.troubledMu.Unlock()

	files, wall, all := status.Files(len(a.ids)), time.Now(), end || a.moved
	w.moved, a.moved = a.moved, false
	if files == 0 {
		if taken := a.e.aligner.Stats().Taken; taken != a.taken { // a hub updates its status with new slots only
			a.taken, a.host.changed = taken, true
		}
		a.host.changed = a.host.changed || a.files[0].changed
		a.host.matters = a.host.matters || a.files[0].matters || a.host.changed && time.Since(a.begun) < begins
	}
	if a.host.due(wall, true) || all {
		w.host = a.describe(end)
		if w.host.Files = files; files == 0 {
			w.host.Devices, a.files[0] = a.describeAll(0, now), statusFile{}
		}
		a.host = statusFile{written: wall}
	}
	for i := range files {
		f := &a.files[i]
		if f.due(wall, false) || all && (f.changed || f.matters) {
			if w.files == nil {
				w.files = map[int][]status.Device{}
			}
			w.files[i], *f = a.describeAll(i, now), statusFile{written: wall}
			if !all {
				break
			}
		}
	}
	return w
}

// trouble records that a device begins or ceases to wait for a person.
func (a *account) trouble(device string) {
	a.troubledMu.Lock()
	defer a.troubledMu.Unlock()
	if a.troubled == nil {
		a.troubled = map[string]bool{}
	}
	a.troubled[device] = true
}

// describe returns the host's status without its devices.
func (a *account) describe(end bool) *status.Host {
	e := a.e
	h := &status.Host{
		Written: time.Now().UTC().Round(0), Started: a.started, Before: a.ran, Stopped: end, Software: delivery.UserAgent(), Process: os.Getpid(),
		Slots: e.cfg.Board == nil, Stamp: e.rules.Stamp, Grace: (e.rules.Grace + e.rules.Settle).Seconds(), Within: a.within().Seconds(),
		Trouble: e.health.text(), Clock: status.Clock{Trouble: e.clock.Trouble(), Skew: e.clock.Skew().Seconds()},
	}
	h.Clock.Trusted = e.trustsClock()
	if e.trail != nil {
		h.Trail = e.trail.Path()
	}
	if b := e.cfg.Board; b != nil {
		h.Endpoint, _, _ = strings.Cut(options.Shown(b.Endpoint), "?")
		h.DryRun = b.DryRun
		s := e.outbox.Server()
		h.Board = status.Board{Reachable: s.Reachable, Reason: s.Reason, Answered: timeOf(s.Answered), Latency: s.Latency.Seconds()}
		h.Waiting = e.outbox.Stats().Slots
	} else {
		h.Waiting = e.ready.waiting()
	}
	return h
}

// begin logs what the host starts to do.
func (e *Engine) begin() {
	a := e.account
	a.mu.Lock()
	parameters := 0
	for _, d := range a.devices {
		parameters += d.named
	}
	h := a.describe(false)
	devices := len(a.ids)
	a.mu.Unlock()
	stamp, leaves := h.NextSlot(a.now())
	args := []any{"devices", devices, "parameters", parameters}
	if h.Slots {
		e.log.Info("making slots", append(args, "first_slot", status.Time(stamp, a.now()))...)
		return
	}
	if h.DryRun {
		args = append(args, "dry_run", "nothing is sent")
	}
	e.log.Info("reporting", append(args, "to", h.Endpoint, "slots_waiting", h.Waiting, "first_slot", status.Time(stamp, a.now()), "goes_at", leaves.In(spec.IST).Format(time.TimeOnly))...)
}

// trustsClock reports whether windows may close by the current clock.
func (e *Engine) trustsClock() bool {
	_, era := e.clock.Now()
	trust := e.clock.Trust(era)
	return trust == clock.Confirmed || trust == clock.Trusted
}

// reachable returns why the server does not answer, or "".
func (e *Engine) reachable() string {
	if e.outbox == nil {
		return ""
	}
	return e.outbox.Server().Reason
}

// handed records slots that the next consumer has taken.
func (a *account) handed(slots []slot.Slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range slots {
		s := &slots[i]
		d, p := a.of(s.Device, s.Parameter, s.Diagnostic)
		if p == nil || s.Flag.Calibration() {
			continue
		}
		if stamp := s.Stamp.UTC(); newer(stamp, p.Delivered, a.now()) {
			p.Delivered = &stamp
		}
		a.change(d, false)
	}
}

// within is how long after the end of a window its slot is expected at the board.
func (a *account) within() time.Duration {
	d := a.e.rules.Grace + a.e.rules.Settle + reachWithin
	if b := a.e.cfg.Board; b != nil {
		d += b.Spread.Duration + a.delay
	}
	return d
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Round(0)
	return &t
}

// describeAll returns the devices of a file.
func (a *account) describeAll(file int, now time.Time) []status.Device {
	var list []status.Device
	for _, id := range a.ids {
		if d := a.devices[id]; d.file == file {
			list = append(list, a.describeDevice(d, now, true))
		}
	}
	return list
}

// describeDevice returns a device's status. For a reader it also says what came instead of a parameter that never came;
// a hub's gauges do not need that.
func (a *account) describeDevice(d *deviceAccount, now time.Time, reader bool) status.Device {
	x := status.Device{Station: d.StationID, ID: d.DeviceID, Parameters: make([]status.Parameter, 0, len(d.parameters))}
	a.e.aligner.Latest(d.DeviceID, func(s slot.Series, at time.Time, value float64, behind time.Duration) {
		if _, p := a.of(s.Device, s.Parameter, s.Diagnostic); p != nil {
			p.read(at, value, behind, now)
		}
	})
	if a.e.outbox != nil {
		q := a.e.outbox.State(d.DeviceID)
		x.Waiting, x.Oldest, x.Runs, x.Answered, x.Held, x.Apart, x.Detail = q.Slots, timeOf(q.Oldest), q.Runs, timeOf(q.Answered), q.Held, q.Apart, q.Detail
		if d.held != q.Held {
			d.held, d.heldSince = q.Held, now
		}
		if d.held != "" {
			x.Since = timeOf(d.heldSince)
		}
		for _, p := range d.parameters {
			if p.Undecided = nil; q.Undecided != nil {
				if u, waits := q.Undecided[p.Parameter.Parameter]; waits {
					p.Undecided = &status.Undecided{Slots: u.Slots, Oldest: u.Oldest.UTC(), Why: u.Why}
				}
			}
			reason, refused := q.Suspended[p.Parameter.Parameter]
			switch {
			case !refused:
				p.Refused = nil
			case p.Refused == nil || p.Refused.Reason != reason:
				p.Refused = &status.Refusal{Reason: reason, Since: now}
			}
		}
	}
	a.expect(d, now)
	x.Read, x.Other = d.read, d.other
	for _, p := range d.parameters {
		p.Excluded = slices.DeleteFunc(slices.Clone(p.Excluded), func(x status.Excluded) bool {
			return now.Sub(x.Noted).Abs() > excludedFor && (p.Reading != nil || p.Slot != nil)
		})
		if p.Never = ""; reader && p.neverCame(d) {
			p.Never = a.instead(p, d)
		}
		x.Parameters = append(x.Parameters, p.Parameter)
	}
	return x
}

// instead returns what came instead of a parameter that never came.
func (a *account) instead(p *parameterAccount, d *deviceAccount) string {
	if p.any() {
		return a.e.hide(a.came.ofDevice(d.DeviceID, a.e.cfg.Names.Words))
	}
	return a.e.hide(a.came.instead(p.mapped, d))
}

func (p *parameterAccount) neverCame(d *deviceAccount) bool {
	if p.any() {
		return d.read.IsZero()
	}
	return p.Reading == nil && p.Slot == nil && d.named > 0
}

func (p *parameterAccount) lastSeen() time.Time { return spec.Later(p.Due, p.seen()) }

// seen returns when a reading last came, even one that was left out, as far as known.
func (p *parameterAccount) seen() (at time.Time) {
	if p.Reading != nil {
		at = p.Reading.At
	}
	if p.Slot != nil {
		at = spec.Later(at, p.Slot.Stamp)
	}
	if p.Calibrated != nil {
		at = spec.Later(at, *p.Calibrated)
	}
	for _, x := range p.Excluded {
		at = spec.Later(at, x.Noted)
	}
	return at
}
