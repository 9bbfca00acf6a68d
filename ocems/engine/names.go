package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Reading is one value of one metric of the host.
type Reading struct {
	registry.Metric
	Time     time.Time
	Value    float64 // NaN where Fault says why there is none
	Fault    string
	Source   Source
	Finished bool    // a slot that the processor has made
	Samples  int     // that a finished slot was made of; Statistic says how
	Min, Max float64 // of these
	Exit     uint8   // of Config.Next
}

// Source is what sent a reading: all that its metric says besides its name. It is no part of a series.
type Source struct {
	ID   uint64
	Text func() string // for a person, as key=value pairs parted by blanks
}

// some is the source with an ID that is not 0, which is none.
func (s Source) some() Source {
	s.ID = max(s.ID, 1)
	return s
}

// SourcePart is what one attribute adds to a Source's ID, in any order, the same in every process.
func SourcePart(key, value string) uint64 {
	return xxhash.Sum64String(key)*0x9E3779B97F4A7C15 ^ xxhash.Sum64String(value)
}

// SourceWord is one attribute in a Source's Text.
func SourceWord(key, value string) string { return registry.Short(key) + "=" + registry.Short(value) }

const (
	mostSources   = 10_000  // texts that are remembered at least
	longestSource = 1 << 10 // bytes of one
)

// Batch is what a host hands over at once: all of it is taken, or none. It is of no use after Commit.
type Batch struct {
	e *Engine
	*take
	before  *clock.Before
	kept    []sample             // which that clock has taken
	records []payload.Record     // slots that were made upstream
	index   map[string]int       // of records, by device
	foreign map[slot.Series]bool // of refused slots that no device or parameter is known for
	ignored uint64

	of     registry.Version // of known, within Fill
	known  map[string]points
	points points // of metric
	metric []byte
	last   *entry // of a reading of this metric
	fresh  []fresh
}

// NewBatch begins a batch.
func (e *Engine) NewBatch() *Batch {
	return &Batch{e: e, before: e.clock.Before(), take: e.newTake(e.moment())}
}

const mostExpected = 10_000 // readings of a batch whose room is kept for the next

// Add names a reading and reports whether it is any device's parameter. A finished slot is none where slots are made.
func (b *Batch) Add(r Reading) (named bool) {
	if r.Finished {
		if b.e.outbox == nil {
			return false
		}
		b.finished(r)
		return true
	}
	_, named = b.name(r, nil)
	return named
}

// name names a reading and adds it. It returns what a later reading with the same name is too, in room if that is enough.
func (b *Batch) name(r Reading, room []match) (matches []match, named bool) {
	r.Source = r.Source.some()
	found, err := b.e.names.Resolve(r.Metric)
	for _, err := range flatten(err) {
		named = b.unresolved(r, err) || named
	}
	if len(found) > 0 {
		b.e.know(r.Source)
		b.e.account.came.ours(r)
	}
	matches = slices.Grow(room, len(found)) // now: samples point into it
	for _, m := range found {
		matches = append(matches, matchOf(m, r.Source.ID))
		b.addMatch(&matches[len(matches)-1], r.Time, r.Value, r.Fault, r.Exit)
		named = true
	}
	if !named && err == nil {
		b.ignored++
		if name := r.Name + "\x00" + r.Field; b.e.once.first(foreignName, name) {
			b.e.account.came.foreign(r)
			b.e.log.Debug("ignored: it is no parameter of any device", "metric", registry.Short(r.Name), "field", registry.Short(r.Field))
		}
	}
	if err != nil {
		return nil, named
	}
	return matches, named
}

func (b *Batch) addMatch(m *match, at time.Time, value float64, wrong string, exit uint8) {
	x := sample{head: &m.head, Reading: slot.Reading{Time: at, Value: value, Flag: m.flag, Exit: exit}}
	if m.rules != nil {
		b.judge(&x, m.rules)
	}
	if wrong != "" {
		x.fault = fault{reason: slot.NotANumber, detail: wrong}
	}
	if b.e.aligns && b.timed(&x, m.device) {
		b.kept = append(b.kept, x)
	} else {
		b.add(&x)
	}
}

// judge finds out by its parameter's rules whether a reading is left out. It does so before the reading is taken, so that a
// restart with other rules finds the same. Where slots are made, a time that ends the reading's period is before the boundary.
func (b *Batch) judge(x *sample, rules *registry.Rules) {
	x.reason, x.detail = rules.LeftOut(x.Value)
	if rules.EndStamped && b.e.aligns {
		x.Time = x.Time.Add(-1)
	}
}

// Bare is a metric that has no reading at all, and perhaps a flag or a unit that was meant for others.
func (b *Batch) Bare(r Reading) { b.e.account.came.bare(r) }

// Ignore counts what can be no parameter at all, for which a word is enough.
func (b *Batch) Ignore(n int, metric, why string) {
	b.ignored += uint64(n)
	if b.e.once.first(foreignName, metric) {
		b.e.log.Debug("ignored: "+why, "metric", registry.Short(metric))
	}
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// unresolved takes what has a name but no device, unit or flag. What names a device that is not configured is not ours.
func (b *Batch) unresolved(r Reading, err error) (named bool) {
	if unknown := (*registry.UnknownDeviceError)(nil); errors.As(err, &unknown) {
		b.ignored++
		if b.e.once.first(foreignDevice, unknown.Device+"\x00"+unknown.Metric) {
			b.e.log.Warn("ignored: the device is not configured", "error", b.e.unknownDevice(unknown))
		}
		return false
	}
	x := sample{Reading: slot.Reading{Time: r.Time, Value: r.Value, Exit: r.Exit}, fault: b.e.fault(err)}
	x.Flag, _ = r.Flag()
	f := (*registry.ResolveError)(nil)
	if !errors.As(err, &f) {
		f = &registry.ResolveError{}
	}
	x.head = &head{Series: slot.Series{Device: f.Device, Parameter: f.Parameter}, Unit: f.Unit, Source: r.Source.ID}
	b.add(&x)
	return true
}

// unknownDevice is the error as it is told. The nearest devices are looked for a few times an hour only.
func (e *Engine) unknownDevice(err *registry.UnknownDeviceError) error {
	if e.once.first(nearestDevice, err.Device) {
		return err
	}
	return fmt.Errorf("naming metric %q: %w %q", err.Metric, registry.ErrUnknownDevice, err.Device)
}

// fault is what a name's error says of a reading. What can be found out again takes no room in the state.
func (e *Engine) fault(err error) fault {
	key, device := (*spec.UnknownError)(nil), (*registry.UnknownDeviceError)(nil)
	switch {
	case errors.As(err, &device):
		return fault{reason: unknown, detail: e.unknownDevice(device).Error()}
	case !errors.As(err, &key):
		return fault{reason: slot.BadUnit, detail: err.Error()}
	case key.Kind == "flag":
		return fault{reason: slot.BadFlag, detail: err.Error()}
	case key.Kind == "parameter":
		return fault{reason: unknown}
	}
	return fault{reason: slot.BadUnit}
}

// add puts a named reading where it belongs: into a window, or, where nothing is aligned here, into the outbox.
func (b *Batch) add(x *sample) {
	if b.e.aligns {
		b.samples = append(b.samples, *x)
		return
	}
	x.Value = registry.Round(x.Value, b.e.decimals(x.Series))
	b.put(*x, Reading{}, ": set align to true, or make the slots upstream")
}

// offGrid is why a slot that was made upstream is refused, besides the aligner's reasons; unknown is that it names no
// device or no parameter that the board has.
const (
	offGrid slot.Reason = "off_grid"
	unknown slot.Reason = "unknown"
)

// finished takes a slot of the processor.
func (b *Batch) finished(r Reading) {
	m, err := b.e.names.Finished(r.Metric)
	s := slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic}
	x := sample{head: &head{Series: s, Unit: m.Unit, Statistic: r.Statistic, Source: r.Source.some().ID},
		Reading: slot.Reading{Time: r.Time, Value: r.Value, Flag: m.Flag}}
	if n := b.e.decimals(s); n >= 0 { // the processor has rounded
		x.Value = registry.Round(x.Value, n)
	}
	if err != nil {
		x.fault = b.e.fault(err)
	}
	b.put(x, r, "")
}

// refuse lets a slot that was made upstream into the state, for its line in the trail. What a batch has of many devices or
// parameters that nobody has loses its name.
func (b *Batch) refuse(x sample) {
	if x.reason == unknown && !b.foreign[x.Series] {
		if b.foreign == nil {
			b.foreign = map[slot.Series]bool{}
		}
		if len(b.foreign) < mostForeign {
			b.foreign[x.Series] = true
		} else {
			x.head, x.detail = &head{Statistic: x.Statistic}, ""
		}
	}
	b.samples = append(b.samples, x)
}

// put adds a slot that was made upstream to the records for the outbox, if it can be one. of is what is known of its samples,
// cure what to do about a time off the grid.
func (b *Batch) put(x sample, of Reading, cure string) {
	length := x.Flag.Length()
	aligned := spec.Aligned(x.Time, length)
	switch {
	case x.reason != slot.Taken:
	case !finite(x.Value):
		x.reason = slot.NotANumber
	case !aligned:
		x.fault = fault{reason: offGrid, detail: fmt.Sprintf("the timestamp is %v of %s%s", spec.ErrNotAligned, length, cure)}
	case x.Time.Sub(b.now)-max(b.skew, 0) > spec.MaxAge && b.e.clock.Trust(b.era) <= clock.Trusted:
		x.reason = slot.Future
	}
	if x.stamped = aligned; x.reason != slot.Taken {
		b.refuse(x)
		return
	}
	if b.index == nil {
		b.index = map[string]int{}
	}
	b.records = b.e.appendReading(b.records, b.index, slot.Slot{Series: x.Series, Unit: x.Unit, Stamp: x.Time, Flag: x.Flag, Value: x.Value,
		Samples: of.Samples, Min: of.Min, Max: of.Max, Statistic: x.Statistic})
}

// slotsOf are the slots of a record.
func slotsOf(r payload.Record) []slot.Slot {
	slots := make([]slot.Slot, len(r.Readings))
	for i, x := range r.Readings {
		slots[i] = slot.Slot{Series: slot.Series{Device: r.DeviceID, Parameter: x.Parameter, Diagnostic: x.Diagnostic},
			Unit: x.Unit, Stamp: x.Stamp, Flag: x.Flag, Value: x.Value, Min: x.Min, Max: x.Max, Samples: x.Samples}
	}
	return slots
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// rename gives slots their present names, and reports whether that has changed any.
func (e *Engine) rename(slots []slot.Slot) (changed bool) {
	for i := range slots {
		s := &slots[i]
		series, unit := e.names.Current(s.Series, s.Unit)
		changed = changed || series != s.Series || unit != s.Unit
		s.Series, s.Unit = series, unit
	}
	return changed
}

// renameOpen gives open windows their present names: what came for them under a former one is in the same slot.
func (e *Engine) renameOpen() {
	if e.names == nil { // nothing is to be made of the state
		return
	}
	if n := e.aligner.Rename(e.names.Current); n > 0 {
		e.log.Info("open slots of former names go on under the present ones", "open_slots", n)
		if e.restoring {
			e.loop.renamed = true
		}
	}
}

// renameSamples gives samples that were taken before the restart their present names.
func (e *Engine) renameSamples(samples []sample) {
	for i := range samples {
		x := &samples[i]
		if e.names == nil {
			continue
		}
		if series, unit := e.names.Current(x.Series, x.Unit); series != x.Series || unit != x.Unit {
			x.head = &head{Series: series, Unit: unit, Statistic: x.Statistic, Source: x.Source, MaxStep: x.MaxStep}
		}
	}
}

// appendReading adds a slot to the record of its device.
func (e *Engine) appendReading(records []payload.Record, index map[string]int, s slot.Slot) []payload.Record {
	station := "unknown"                       // of a device that is configured no more: its slots wait in the outbox
	if d, ok := e.names.Device(s.Device); ok { // where it is goes in when it is sent
		station = d.StationID
	}
	if !(s.Min < s.Max) || !finite(s.Max-s.Min) { // one value, or nobody knows
		s.Min, s.Max = 0, 0
	}
	i, ok := index[s.Device]
	if !ok {
		i = len(records)
		index[s.Device] = i
		room := 0 // most devices have as many as the one before
		if i > 0 {
			room = len(records[i-1].Readings)
		}
		records = append(records, payload.Record{StationID: station, DeviceID: s.Device, Readings: make([]payload.Reading, 0, room)})
	}
	records[i].Readings = append(records[i].Readings, payload.Reading{
		Parameter: s.Parameter, Value: s.Value, Unit: s.Unit, Stamp: s.Stamp, Flag: s.Flag, Diagnostic: s.Diagnostic,
		Statistic: s.Statistic.String(), Samples: s.Samples, Min: s.Min, Max: s.Max, Minutes: s.Minutes})
	if s.Doubt {
		readings := records[i].Readings
		readings[len(readings)-1].Era = e.loop.era
	}
	return records
}

// Commit returns once the readings are durable. An error means that the same batch may come again, and that it is taken
// once all the same. A refused reading is no error, because it would block the rest.
func (b *Batch) Commit(ctx context.Context) error {
	e := b.e
	select {
	case <-e.stopped:
		return errClosed
	default:
	}
	if len(b.records) > 0 {
		if err := e.outbox.Put(ctx, b.records); err != nil {
			if ctx.Err() == nil {
				err = e.full(err)
			}
			return err
		}
		e.rested()
		n := 0
		for _, r := range b.records {
			n += len(r.Readings)
			e.account.made(slotsOf(r), true)
		}
		e.counts.finished.Add(uint64(n))
	}
	// After the records, which may come again and still count once.
	if len(b.kept) > 0 {
		t := e.newTake(moment{now: b.before.Now, era: b.before.Era})
		t.samples = append(t.samples, b.kept...)
		if err := e.take(ctx, t); err != nil {
			return err
		}
	}
	if len(b.samples) > 0 {
		if err := e.take(ctx, b.take); err != nil {
			return err
		}
	}
	e.counts.ignored.Add(b.ignored)
	return nil
}

// know remembers the text of a source, so that a log can name it later.
func (e *Engine) know(s Source) {
	if s.Text == nil {
		return
	}
	if e.knows(s.ID) {
		return
	}
	text := s.Text()
	if len(text) > longestSource {
		text = strings.ToValidUTF8(text[:longestSource], "") + "..."
	}
	e.sourcesMu.Lock()
	defer e.sourcesMu.Unlock()
	if len(e.sources) >= max(mostSources, most(e.names)) {
		clear(e.sources)
		e.sourcesEra.Add(1)
	}
	e.sources[s.ID] = text
}

func (e *Engine) knows(id uint64) bool {
	e.sourcesMu.RLock()
	defer e.sourcesMu.RUnlock()
	_, known := e.sources[id]
	return known
}

func (e *Engine) source(id uint64) string {
	e.sourcesMu.RLock()
	defer e.sourcesMu.RUnlock()
	if text, ok := e.sources[id]; ok {
		if text == "" {
			return "a source with no name"
		}
		return text
	}
	return fmt.Sprintf("a sender of before the restart (%016x)", id)
}

// parting are the keys of the words that only one of two sources has: what would tell them apart.
func parting(a, b string) string {
	all := [2][]string{strings.Fields(a), strings.Fields(b)}
	var keys []string
	for i, words := range all {
		for _, word := range words {
			key, _, ok := strings.Cut(word, "=")
			if ok && !slices.Contains(all[1-i], word) && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return strings.Join(keys, ", ")
}
