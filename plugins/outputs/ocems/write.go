package ocems

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/influxdata/telegraf"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	tick            = time.Second
	comeAgain       = 10 * time.Minute // within which Telegraf hands over again what was refused
	restWithin      = 5 * time.Second  // and the rest of its buffer after the first batch
	checkpointBytes = 32 << 20         // of journal, beyond which a restart would take long
)

// batch is what one Write has found.
type batch struct {
	samples []sample
	refused map[refusal]*audit.Entry
	late    int
	bad     int
	ignored int
}

// refusal is what refused samples share a line of the audit trail by.
type refusal struct {
	series
	stamp int64
	why   string
}

// Write returns once the samples are durable. An error means that none of them was taken and that the same batch may
// come again; a refused sample is none, because it would block the rest.
func (o *OCEMS) Write(metrics []telegraf.Metric) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.delivery == nil {
		return errors.New("the output is not connected")
	}
	now := time.Now()
	b := batch{refused: map[refusal]*audit.Entry{}}
	for _, m := range metrics {
		o.metric(&b, m)
	}
	taken := len(b.samples)
	if o.Align {
		if o.unsaved {
			if err := o.checkpoint(); err != nil {
				return o.full(err)
			}
		}
		if o.journal != nil && taken > 0 {
			if err := o.journal.append(encodeSamples(now, b.samples)); err != nil {
				return o.full(err)
			}
		}
		for _, x := range b.samples {
			if refused, ok := o.aligner.Add(x.series, x.statistic, x.at, x.value, x.flag, now).(*slot.RefusedError); ok {
				taken--
				o.refuse(&b, x, string(refused.Reason))
			}
		}
	} else {
		records, refused := o.aligned(&b)
		taken -= refused
		if len(records) > 0 {
			if err := o.delivery.Put(context.Background(), records); err != nil {
				return o.full(err)
			}
		}
	}
	if rest := now.Add(restWithin); rest.Before(o.closeFrom) {
		o.closeFrom = rest
	}
	o.stats.samples.Incr(int64(taken))
	o.stats.late.Incr(int64(b.late))
	o.stats.refused.Incr(int64(b.bad))
	o.stats.ignored.Incr(int64(b.ignored))
	o.writeRefusals(b.refused)
	return nil
}

// full says what a person can do about a state that cannot be written. Until Telegraf has come again, or has given up,
// no slot closes: what is refused belongs into those that are open now.
func (o *OCEMS) full(err error) error {
	o.closeFrom = time.Now().Add(comeAgain)
	return fmt.Errorf("%w; the readings stay with Telegraf: see that the state_directory %q can be written and has free space", err, o.StateDirectory)
}

// aligned takes samples that were made slots upstream.
func (o *OCEMS) aligned(b *batch) (records []payload.Record, refused int) {
	index := map[string]int{}
	for _, x := range b.samples {
		why := ""
		switch {
		case !finite(x.value):
			why = string(slot.NotANumber)
		case !spec.Aligned(x.at, x.flag.Length()):
			why = fmt.Sprintf("the timestamp is %v of %s: set align = true, or make the slots upstream", spec.ErrNotAligned, x.flag.Length())
		}
		if why != "" {
			refused++
			o.refuse(b, x, why)
			continue
		}
		records = o.reading(records, index, x.series, x.at, x.value, x.flag)
	}
	return records, refused
}

func (o *OCEMS) reading(records []payload.Record, index map[string]int, s series, stamp time.Time, value float64, flag spec.Flag) []payload.Record {
	i, ok := index[s.device]
	if !ok {
		r := payload.Record{StationID: s.device, DeviceID: s.device}
		if d, ok := o.registry.Device(s.device); ok {
			r.StationID = d.StationID // where it is goes in when it is sent
		}
		i = len(records)
		index[s.device] = i
		records = append(records, r)
	}
	records[i].Readings = append(records[i].Readings, payload.Reading{
		Parameter: s.parameter, Value: o.registry.Round(s.device, s.parameter, value), Unit: s.unit, Stamp: stamp, Flag: flag, Diagnostic: s.diagnostic,
	})
	return records
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// run closes, saves and hands over, in this order: a slot that went out but was not saved would close a second time,
// with other samples, after a crash.
func (o *OCEMS) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			o.step(ctx)
		}
	}
}

func (o *OCEMS) step(ctx context.Context) {
	err := o.closeSlots()
	if err == nil {
		err = o.handOver(ctx)
	}
	o.observe()
	if o.backlog != nil {
		_ = o.backlog.Append() // what waits: it was told when it came
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil && o.fault != "":
		o.Log.Info("Slots are saved and handed over again")
		o.fault = ""
	case err != nil && ctx.Err() == nil && o.fault != err.Error():
		o.Log.Errorf("Closed slots are held until it works again: %v", err)
		o.fault = err.Error()
	}
}

func (o *OCEMS) closeSlots() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); !now.Before(o.closeFrom) {
		if closed := o.aligner.Close(now); len(closed) > 0 {
			o.stats.closed.Incr(int64(len(closed)))
			o.unsaved = true
		}
	}
	if o.unsaved || o.untaken || o.journal != nil && o.journal.size > checkpointBytes {
		return o.checkpoint()
	}
	return nil
}

// checkpoint saves the aligner, so that the journal begins anew.
func (o *OCEMS) checkpoint() error {
	if o.journal == nil {
		o.unsaved, o.untaken = false, false
		return nil
	}
	entries := o.aligner.Save()
	if len(entries) == 0 && !o.unsaved && o.journal.size <= int64(headerSize) {
		o.unsaved, o.untaken = false, false
		return nil
	}
	if err := o.journal.rotate(); err != nil {
		return err
	}
	if err := o.state.saveSlots(entries, o.journal.number); err != nil {
		return err
	}
	o.aligner.Saved()
	o.unsaved, o.untaken = false, false
	if err := o.journal.forget(o.journal.number); err != nil && o.once("forget\x00"+err.Error()) { // the next checkpoint tries again
		o.Log.Warnf("What is in the checkpoint stays in the journal too: %v", err)
	}
	return nil
}

// handOver puts the closed slots into the outbox.
func (o *OCEMS) handOver(ctx context.Context) error {
	pending := o.aligner.Pending()
	if len(pending) == 0 {
		return nil
	}
	slices.SortFunc(pending, func(a, b slot.Closed[series]) int { return cmp.Or(a.Stamp.Compare(b.Stamp), cmp.Compare(a.Seq, b.Seq)) })
	var records []payload.Record
	index := map[string]int{}
	seqs := make([]uint64, len(pending))
	for i, c := range pending {
		records = o.reading(records, index, c.Key, c.Stamp, c.Value, c.Flag)
		seqs[i] = c.Seq
	}
	if err := o.delivery.Put(ctx, records); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aligner.Taken(seqs...)
	o.untaken = true
	return o.checkpoint()
}

// observe brings the gauges up to date.
func (o *OCEMS) observe() {
	s, a := o.delivery.Stats(), o.aligner.Stats()
	age := time.Duration(0)
	if !s.Oldest.IsZero() {
		age = time.Since(s.Oldest)
	}
	o.stats.observe(s, a, age)
}

// unresolved takes what has a name but no device, unit or flag.
func (o *OCEMS) unresolved(b *batch, m telegraf.Metric, f *telegraf.Field, err error) {
	if unknown := (*registry.UnknownDeviceError)(nil); errors.As(err, &unknown) {
		b.ignored++
		if o.once("device\x00" + unknown.Device + "\x00" + m.Name()) {
			o.Log.Warnf("Ignored: the device is not configured: %s", tomlWords.Replace(err.Error()))
		}
		return
	}
	list := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	for _, err := range list {
		x := sample{at: m.Time()}
		if r := (*registry.ResolveError)(nil); errors.As(err, &r) {
			x.series = series{device: r.Device, parameter: r.Parameter, unit: r.Unit}
		}
		x.value, _ = o.number(f.Value)
		o.refuse(b, x, tomlWords.Replace(err.Error()))
	}
}

// refuse notes a sample that was not taken, for the audit trail and the log.
func (o *OCEMS) refuse(b *batch, x sample, why string) {
	outcome := audit.Refused
	if why == string(slot.Late) {
		outcome = audit.Late
		b.late++
	} else {
		b.bad++
	}
	length := spec.FlagNormal.Length()
	if x.flag.Valid() {
		length = x.flag.Length()
	}
	start, end := spec.Window(x.at, length)
	stamp := end
	if o.Stamp == "start" {
		stamp = start
	}
	key := refusal{x.series, stamp.UnixMilli(), why}
	e := b.refused[key]
	if e == nil {
		e = &audit.Entry{Outcome: outcome, Device: x.device, Stamp: key.stamp}
		if d, ok := o.registry.Device(x.device); ok {
			e.Station = d.StationID
		}
		e.Detail = fmt.Sprintf("samples of %s: %s; taken at", x.parameter, why)
		b.refused[key] = e
	}
	e.Detail += " " + x.at.UTC().Format(time.RFC3339Nano)
	if finite(x.value) { // JSON has no other
		flag := ""
		if x.flag.Valid() {
			flag = x.flag.String()
		}
		e.Readings = append(e.Readings, audit.Reading{Parameter: x.parameter, Value: x.value, Unit: x.unit, Flag: flag, Diagnostic: x.diagnostic})
	}
	if o.once("refused\x00" + x.device + "\x00" + x.parameter + "\x00" + quoted.ReplaceAllString(why, "")) {
		o.Log.Warnf("Refused a sample of parameter %q of device %q, taken at %s: %s", x.parameter, x.device, spec.ISTString(x.at), why)
	}
}

// writeRefusals writes what was refused to the trail, or to the log where there is none. While the trail cannot be written
// the log has it too.
func (o *OCEMS) writeRefusals(refused map[refusal]*audit.Entry) {
	if len(refused) == 0 {
		return
	}
	entries := make([]audit.Entry, 0, len(refused))
	for _, e := range refused {
		entries = append(entries, *e)
	}
	slices.SortFunc(entries, func(a, b audit.Entry) int {
		return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), strings.Compare(a.Device, b.Device), strings.Compare(a.Detail, b.Detail))
	})
	if o.trail == nil {
		for _, e := range entries {
			o.Log.Warnf("Readings are not at the server: outcome=%s device=%q slot=%q readings=%v reason=%q",
				e.Outcome, e.Device, spec.ISTString(time.UnixMilli(e.Stamp)), e.Readings, e.Detail)
		}
		return
	}
	if err := o.backlog.Append(entries...); err != nil {
		o.Log.Errorf("Cannot write what was refused to the audit_file; it is kept and tried again: %v: %+v", err, entries)
	}
}

const mostSaid = 10_000 // of one kind, so that a flood of names takes no memory, and does not silence the other kinds

var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`) // what differs from sample to sample

// once reports whether key is new. Its kind stands before the first NUL.
func (o *OCEMS) once(key string) bool {
	kind, _, _ := strings.Cut(key, "\x00")
	if o.said[key] > 0 || o.said[kind] >= mostSaid {
		return false
	}
	o.said[key] = 1
	o.said[kind]++
	return true
}
