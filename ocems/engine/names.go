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
	Finished bool  // a slot that the processor has made
	Samples  int   // that a finished slot was made of; Statistic says how
	Exit     uint8 // of Config.Next
}

// Source is what sent a reading: all that its metric says besides its name. It is no part of a series.
type Source struct {
	ID   uint64
	Text func() string // for a person, as key=value pairs parted by blanks
}

// SourcePart is what one attribute adds to a Source's ID, in any order, the same in every process.
func SourcePart(key, value string) uint64 {
	return xxhash.Sum64String(key)*0x9E3779B97F4A7C15 ^ xxhash.Sum64String(value)
}

// Batch is what a host hands over at once: all of it is taken, or none.
type Batch struct {
	e       *Engine
	now     time.Time
	samples []sample
	records []payload.Record // slots that were made upstream
	index   map[string]int   // of records, by device
	refused []sample
	ignored uint64
}

// NewBatch begins a batch.
func (e *Engine) NewBatch() *Batch { return &Batch{e: e, now: time.Now()} }

// Add names a reading and reports whether it is any device's parameter. A finished slot is none where slots are made.
func (b *Batch) Add(r Reading) (named bool) {
	r.Source.ID = max(r.Source.ID, 1) // 0 is none
	if r.Finished {
		if b.e.outbox == nil {
			return false
		}
		b.finished(r)
		return true
	}
	matches, err := b.e.names.Resolve(r.Metric)
	for _, err := range flatten(err) {
		named = b.unresolved(r, err) || named
	}
	if len(matches) > 0 {
		b.e.know(r.Source)
	}
	for _, m := range matches {
		x := sample{Sample: slot.Sample{
			Series: slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic},
			Unit:   m.Unit, Statistic: m.Statistic, Time: r.Time, Value: r.Value, Flag: m.Flag, Source: r.Source.ID, Exit: r.Exit}}
		if r.Fault != "" {
			x.fault = fault{slot.NotANumber, r.Fault}
		}
		b.take(x)
		named = true
	}
	if !named && err == nil {
		b.ignored++
		if name := r.Name + "\x00" + r.Field; b.e.once.first("ignored", name) {
			b.e.log.Debug("ignored: it is no parameter of any device", "metric", r.Name, "field", r.Field)
		}
	}
	return named
}

// Ignore counts what can be no parameter at all, for which a word is enough.
func (b *Batch) Ignore(n int, metric, why string) {
	b.ignored += uint64(n)
	if b.e.once.first("ignored", metric) {
		b.e.log.Debug("ignored: "+why, "metric", metric)
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
		if b.e.once.first("device", unknown.Device+"\x00"+unknown.Metric) {
			b.e.log.Warn("ignored: the device is not configured", "error", err)
		}
		return false
	}
	x := sample{Sample: slot.Sample{Time: r.Time, Value: r.Value, Source: r.Source.ID, Exit: r.Exit}, fault: fault{slot.BadUnit, err.Error()}}
	if x.Flag, _ = r.Flag(); x.Flag == 0 {
		x.reason = slot.BadFlag
	}
	if f := (*registry.ResolveError)(nil); errors.As(err, &f) {
		x.Device, x.Parameter, x.Unit = f.Device, f.Parameter, f.Unit
	}
	b.take(x)
	return true
}

// take puts a named reading where it belongs: into a window, or, where nothing is aligned here, into the outbox.
func (b *Batch) take(x sample) {
	if b.e.aligns {
		b.samples = append(b.samples, x)
		return
	}
	b.put(x, 0, ": set align to true, or make the slots upstream")
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
	x := sample{Sample: slot.Sample{
		Series: slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic},
		Unit:   m.Unit, Statistic: r.Statistic, Time: r.Time, Value: r.Value, Flag: m.Flag, Source: r.Source.ID}}
	if err != nil {
		x.fault = fault{unknown, err.Error()}
	}
	b.put(x, r.Samples, "")
}

// put adds a slot that was made upstream to the records for the outbox, if it can be one. cure is what to do about a time
// off the grid.
func (b *Batch) put(x sample, samples int, cure string) {
	switch length := x.Flag.Length(); {
	case x.reason != slot.Taken:
	case !finite(x.Value):
		x.fault = fault{slot.NotANumber, fmt.Sprintf("the value is %v", x.Value)}
	case !spec.Aligned(x.Time, length):
		x.fault = fault{offGrid, fmt.Sprintf("the timestamp is %v of %s%s", spec.ErrNotAligned, length, cure)}
	case x.Time.Sub(b.now) > spec.MaxAge:
		x.reason = slot.Future
	}
	if x.reason != slot.Taken {
		b.refused = append(b.refused, x)
		return
	}
	if b.index == nil {
		b.index = map[string]int{}
	}
	b.records = b.e.appendReading(b.records, b.index, slot.Slot{Series: x.Series, Unit: x.Unit, Stamp: x.Time, Flag: x.Flag, Value: x.Value,
		Samples: samples, Statistic: x.Statistic})
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
		if e.names != nil {
			x.Series, x.Unit = e.names.Current(x.Series, x.Unit)
		}
	}
}

// appendReading adds a slot to the record of its device.
func (e *Engine) appendReading(records []payload.Record, index map[string]int, s slot.Slot) []payload.Record {
	value, station := s.Value, "unknown"       // of a device that is configured no more: its slots wait in the outbox
	if d, ok := e.names.Device(s.Device); ok { // where it is goes in when it is sent
		value, station = d.Round(s.Parameter, value), d.StationID
	}
	i, ok := index[s.Device]
	if !ok {
		i = len(records)
		index[s.Device] = i
		records = append(records, payload.Record{StationID: station, DeviceID: s.Device})
	}
	records[i].Readings = append(records[i].Readings, payload.Reading{
		Parameter: s.Parameter, Value: value, Unit: s.Unit, Stamp: s.Stamp, Flag: s.Flag, Diagnostic: s.Diagnostic,
		Statistic: s.Statistic.String(), Samples: s.Samples})
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
	if len(b.samples) > 0 {
		if err := e.take(ctx, b.now, b.samples); err != nil {
			return err
		}
	}
	if len(b.records) > 0 {
		if err := e.outbox.Put(ctx, b.records); err != nil {
			if ctx.Err() == nil {
				err = e.full(err)
			}
			return err
		}
		e.rested(b.now)
		n := 0
		for _, r := range b.records {
			n += len(r.Readings)
		}
		e.counts.finished.Add(uint64(n))
	}
	if len(b.refused) > 0 {
		if err := e.refuseMade(b.refused, b.now); err != nil {
			return fmt.Errorf("audit_file: %w", err)
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
	const longest = 1 << 10
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "..."
	}
	e.sourcesMu.Lock()
	defer e.sourcesMu.Unlock()
	if len(e.sources) >= mostKinds {
		clear(e.sources)
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
