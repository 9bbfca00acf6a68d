package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	Value    float64 // NaN if Fault says why there is no value
	Fault    string
	Source   Source
	Finished bool    // a slot made by the processor
	Samples  int     // readings in the finished slot; Statistic says how they were combined
	Min, Max float64 // smallest and largest of these readings
	Exit     uint8   // for Config.Next
}

// Source identifies the sender of a reading: everything its metric says besides its name. It is not part of a series.
type Source struct {
	ID   uint64
	Text func() string // for a person: key=value pairs with spaces between them
}

// some returns the source with a non-zero ID; 0 means no source.
func (s Source) some() Source {
	s.ID = max(s.ID, 1)
	return s
}

// SourcePart is the contribution of one attribute to a Source's ID. It does not depend on the order or the process.
func SourcePart(key, value string) uint64 {
	return xxhash.Sum64String(key)*0x9E3779B97F4A7C15 ^ xxhash.Sum64String(value)
}

// SourceWord is one attribute in a Source's Text.
func SourceWord(key, value string) string { return registry.Short(key) + "=" + registry.Short(value) }

const (
	mostSources   = 10_000  // limit of cached texts; higher for a large configuration
	longestSource = 1 << 10 // bytes of one text
)

// Batch is what a host hands over in one call: it is taken as a whole or not at all. It must not be used after Commit.
type Batch struct {
	e *Engine
	*take
	before  *clock.Before
	kept    []sample             // readings taken with the clock before
	records []payload.Record     // slots made upstream
	index   map[string]int       // index into records, by device
	foreign map[slot.Series]bool // refused slots of an unknown device or parameter
	ignored uint64

	of     registry.Version // version of known, during Fill
	known  map[string]points
	points points // of the current metric
	metric []byte
	last   *entry // last entry of this metric
	fresh  []fresh
}

// NewBatch begins a batch.
func (e *Engine) NewBatch() *Batch {
	return &Batch{e: e, before: e.clock.Before(), take: e.newTake(e.moment())}
}

const mostExpected = 10_000 // readings of a batch whose memory is kept for reuse

// Add names a reading and reports whether it belongs to any device's parameter. Where slots are made, a finished slot
// does not.
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

// name names a reading and adds it. It returns what later readings with the same name mean; the result uses room if it
// is large enough.
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
	matches = slices.Grow(room, len(found)) // grow now, because samples point into the slice
	for _, m := range found {
		matches = append(matches, matchOf(m, r.Source.ID))
		b.addMatch(&matches[len(matches)-1], r.Time, r.Value, r.Fault, r.Exit)
		named = true
	}
	if !named && err == nil {
		b.ignored++
		if name := r.Name + "\x00" + r.Field; b.e.once.first(foreignName, name) {
			b.e.account.came.foreign(r)
			b.e.log.Debug("ignored: not a parameter of any device", "metric", registry.Short(r.Name), "field", registry.Short(r.Field))
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

// judge applies the parameter's rules to leave out a reading. It does so before the reading is taken, so that a restart
// with other rules gives the same result. Where slots are made, a reading stamped at the end of its period is moved
// just before the boundary.
func (b *Batch) judge(x *sample, rules *registry.Rules) {
	x.reason, x.detail = rules.LeftOut(x.Value)
	if rules.EndStamped && b.e.aligns {
		x.Time = x.Time.Add(-1)
	}
}

// Bare records a metric without any reading, but perhaps with a flag or unit that was meant for others.
func (b *Batch) Bare(r Reading) { b.e.account.came.bare(r) }

// Ignore counts readings that cannot belong to any parameter.
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

// unresolved takes a reading whose device, unit or flag cannot be resolved. If it names a device that is not configured, or
// no parameter, it is ignored.
func (b *Batch) unresolved(r Reading, err error) (named bool) {
	if unknown := (*registry.UnknownDeviceError)(nil); errors.As(err, &unknown) {
		b.ignored++
		if b.e.once.first(foreignDevice, unknown.Device+"\x00"+unknown.Metric) {
			b.e.log.Warn("ignored: the device is not configured", "error", b.e.unknownDevice(unknown))
		}
		return false
	}
	if other := (*registry.NotListedError)(nil); errors.As(err, &other) {
		b.ignored++
		b.e.account.other(other.Device, other.Key, b.now)
		if b.e.once.first(foreignName, r.Name+"\x00"+r.Field) {
			b.e.account.came.foreign(r)
			level, of := slog.LevelInfo, []any{"metric", registry.Short(r.Name), "field", registry.Short(r.Field), "device", other.Device}
			if near := other.Nearest(); near != "" {
				level, of = slog.LevelWarn, append(of, "nearest", near)
			}
			b.e.log.Log(context.Background(), level, "ignored: its device is configured, but its name is not a parameter key and has no entry", of...)
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

// unknownDevice returns the error to report. The search for the nearest device is made only a few times an hour.
func (e *Engine) unknownDevice(err *registry.UnknownDeviceError) error {
	if e.once.first(nearestDevice, err.Device) {
		return err
	}
	return fmt.Errorf("naming metric %q: %w %q", err.Metric, registry.ErrUnknownDevice, err.Device)
}

// fault turns an error of naming into a fault. A detail that can be computed again is not stored in the state.
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

// add puts a named reading into a window, or into the outbox if nothing is aligned here.
func (b *Batch) add(x *sample) {
	if b.e.aligns {
		b.samples = append(b.samples, *x)
		return
	}
	x.Value = registry.Round(x.Value, b.e.decimals(x.Series))
	b.put(*x, Reading{}, ": set align to true, or make the slots upstream")
}

// offGrid and unknown are reasons, besides the aligner's, to refuse a slot made upstream; unknown: its device is not
// configured or the board has no such parameter.
const (
	offGrid slot.Reason = "off_grid"
	unknown slot.Reason = "unknown"
)

// finished takes a slot made by the processor.
func (b *Batch) finished(r Reading) {
	m, err := b.e.names.Finished(r.Metric)
	s := slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic}
	x := sample{head: &head{Series: s, Unit: m.Unit, Statistic: r.Statistic, Source: r.Source.some().ID},
		Reading: slot.Reading{Time: r.Time, Value: r.Value, Flag: m.Flag}}
	if n := b.e.decimals(s); n >= 0 { // the processor has rounded already
		x.Value = registry.Round(x.Value, n)
	}
	if err != nil {
		x.fault = b.e.fault(err)
	}
	b.put(x, r, "")
}

// refuse keeps a refused upstream slot in the state, for its line in the trail. If a batch has slots of too many
// unknown devices or parameters, the later ones lose their names.
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

// put adds a slot made upstream to the records for the outbox if it is valid. of describes its samples, cure is advice
// about a time off the grid.
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

// slotsOf returns the slots of a record.
func slotsOf(r payload.Record) []slot.Slot {
	slots := make([]slot.Slot, len(r.Readings))
	for i, x := range r.Readings {
		slots[i] = slot.Slot{Series: slot.Series{Device: r.DeviceID, Parameter: x.Parameter, Diagnostic: x.Diagnostic},
			Unit: x.Unit, Stamp: x.Stamp, Flag: x.Flag, Value: x.Value, Min: x.Min, Max: x.Max, Samples: x.Samples}
	}
	return slots
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// rename gives slots their current names, and reports whether any name has changed.
func (e *Engine) rename(slots []slot.Slot) (changed bool) {
	for i := range slots {
		s := &slots[i]
		series, unit := e.names.Current(s.Series, s.Unit)
		changed = changed || series != s.Series || unit != s.Unit
		s.Series, s.Unit = series, unit
	}
	return changed
}

// renameOpen gives open windows their current names. Readings under former and current names then share one slot.
func (e *Engine) renameOpen() {
	if e.names == nil { // the state is only read
		return
	}
	if n := e.aligner.Rename(e.names.Current); n > 0 {
		e.log.Info("open slots continue under their current names", "open_slots", n)
		if e.restoring {
			e.loop.renamed = true
		}
	}
}

// renameSamples gives samples taken before the restart their current names.
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
	station := "unknown"                       // for a device that is no longer configured; its slots wait in the outbox
	if d, ok := e.names.Device(s.Device); ok { // latitude and longitude are added when it is sent
		station = d.StationID
	}
	if !(s.Min < s.Max) || !finite(s.Max-s.Min) { // one value, or unknown
		s.Min, s.Max = 0, 0
	}
	i, ok := index[s.Device]
	if !ok {
		i = len(records)
		index[s.Device] = i
		room := 0 // most devices have as many readings as the one before
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

// Commit returns when the readings are durable. After an error the host may send the same batch again; its readings
// still count once. A refused reading is no error, because an error would block the rest.
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
	// After the records: if this fails, they are sent again and still count once.
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

// hide removes tokens, which a sender may have put into an attribute.
func (e *Engine) hide(text string) string { return string(e.names.Hide([]byte(text))) }

// know stores the text of a source, so that a log line can name it later.
func (e *Engine) know(s Source) {
	if s.Text == nil {
		return
	}
	if e.knows(s.ID) {
		return
	}
	text := s.Text()
	if len(text) > longestSource {
		text = e.hide(text) // a token that is cut would not be found later
		text = strings.ToValidUTF8(text[:min(len(text), longestSource)], "") + "..."
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
		return e.hide(text)
	}
	return fmt.Sprintf("a sender from before the restart (%016x)", id)
}

// parting returns the keys of words that only one of two sources has: they distinguish the sources.
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
