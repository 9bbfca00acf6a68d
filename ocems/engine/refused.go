package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// Readings that are in no slot share one line of the trail for each slot, series and reason. A line is written once its
// slot is over and no such reading has come for a while. Later ones share a line of the next quarter of an hour.
const (
	refusedKey = "refused" // refusals whose line is not written yet
	// mostRefusals is how many lines may wait. Beyond it, a series that has a line shares one for each reason, so that
	// the configuration limits the number.
	mostRefusals = 10_000
	// mostForeign is how many lines a quarter of an hour may have for unknown devices and parameters. Beyond it they
	// share one line without a name, because a sender can invent any number.
	mostForeign = 1_000
	noteAfter   = 5 * time.Second // without such a reading, or twice the time between two readings of the series
	slowest     = 5 * time.Minute // longest time between two readings of a source that still sends
	lastSecond  = 253_402_300_799 // of the year 9999, the last that JSON times support
)

// refusal is the key of a line.
type refusal struct {
	slot.Series
	Stamp  int64 // milliseconds; 0: several slots
	Reason slot.Reason
}

// refused has the readings of one line.
type refused struct {
	refusal
	Count       int
	First, Last time.Time // event time of the earliest and the latest reading
	Value       *float64  `json:",omitempty"` // the first value, if JSON can represent it
	Unit, Flag  string
	Detail      string
	Since, Till time.Time // when the first and the last reading was refused
	Quiet       time.Duration
}

// refusals has the lines that are not written yet.
type refusals struct {
	lines   map[refusal]*refused
	series  map[refusal]int       // number of lines of a series, by refusal without stamp
	last    map[refusal]time.Time // time of a series' last reading, by the same key
	noted   map[refusal]time.Time // when the last line with the same key was written
	foreign int                   // lines since foreignAt
	changed bool

	foreignAt time.Time
}

func newRefusals() refusals {
	return refusals{lines: map[refusal]*refused{}, series: map[refusal]int{}, last: map[refusal]time.Time{}, noted: map[refusal]time.Time{}}
}

// withoutStamp is the key by which readings of several slots share a line.
func (k refusal) withoutStamp() refusal { return refusal{Series: k.Series, Reason: k.Reason} }

// place returns the line for a reading.
func (r *refusals) place(key refusal, now time.Time) refusal {
	if r.lines[key] != nil {
		return key
	}
	if key.Reason == unknown {
		if now.Sub(r.foreignAt).Abs() >= spec.SlotLength {
			r.foreign, r.foreignAt = 0, now
		}
		if r.foreign >= mostForeign || key.Series == (slot.Series{}) {
			return refusal{Reason: unknown}
		}
		r.foreign++
		return key
	}
	if len(r.lines) >= mostRefusals && r.series[key.withoutStamp()] > 0 {
		return key.withoutStamp()
	}
	return key
}

// add counts a reading. It calls detail only for the first reading of a line.
func (r *refusals) add(key refusal, x sample, detail func() string, now time.Time) {
	x.Time = time.Unix(min(max(x.Time.Unix(), 0), lastSecond), int64(x.Time.Nanosecond()))
	r.changed = true
	key = r.place(key, now)
	l := r.lines[key]
	if l == nil {
		l = &refused{refusal: key, First: x.Time, Last: x.Time, Unit: x.Unit, Since: now, Quiet: noteAfter}
		if key.Series != (slot.Series{}) {
			l.Detail = detail()
		}
		if x.Flag.Valid() {
			l.Flag = x.Flag.String()
		}
		if finite(x.Value) {
			l.Value = &x.Value
		}
		r.put(l)
	}
	l.Count += max(x.count, 1)
	l.Till = now
	if gap := now.Sub(r.last[key.withoutStamp()]); gap < slowest {
		l.Quiet = max(l.Quiet, 2*gap)
	}
	if key.Reason != unknown {
		r.last[key.withoutStamp()] = now
	}
	if x.Time.Before(l.First) {
		l.First = x.Time
	}
	if x.Time.After(l.Last) {
		l.Last = x.Time
	}
}

func (r *refusals) put(l *refused) {
	if r.lines[l.refusal] == nil {
		r.series[l.withoutStamp()]++
	}
	r.lines[l.refusal] = l
}

// due returns the lines that are due.
func (r *refusals) due(now time.Time, over func(stamp time.Time) bool) (list []*refused) {
	for key, l := range r.lines {
		ended := now.Sub(l.Till).Abs() >= l.Quiet || now.Sub(l.Since).Abs() >= spec.SlotLength
		if !ended || key.Reason != slot.WrongClock && !over(time.UnixMilli(key.Stamp)) {
			continue
		}
		if last, ok := r.noted[key]; ok && now.Sub(last).Abs() < spec.SlotLength {
			continue
		}
		list = append(list, l)
	}
	return list
}

// all returns all lines.
func (r *refusals) all() []*refused { return slices.Collect(maps.Values(r.lines)) }

// written removes lines that are in the trail.
func (r *refusals) written(list []*refused, now time.Time) {
	if len(r.noted) > mostRefusals {
		maps.DeleteFunc(r.noted, func(_ refusal, last time.Time) bool { return now.Sub(last).Abs() >= spec.SlotLength })
	}
	maps.DeleteFunc(r.last, func(_ refusal, last time.Time) bool { return now.Sub(last).Abs() >= slowest })
	for _, l := range list {
		delete(r.lines, l.refusal)
		if all := l.withoutStamp(); r.series[all] > 1 {
			r.series[all]--
		} else {
			delete(r.series, all)
		}
		r.noted[l.refusal] = now
		r.changed = true
	}
}

// save returns the value to store with the aligner.
func (r *refusals) save() []byte {
	if len(r.lines) == 0 {
		return nil
	}
	text, _ := json.Marshal(r.all()) // cannot fail: plain fields
	e := frame.New(formatVersion)
	e.Append(text)
	return e.Seal()
}

func (r *refusals) restore(value []byte) error {
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return err
	}
	var list []*refused
	if err := json.Unmarshal(d.Rest(), &list); err != nil || slices.Contains(list, nil) {
		return frame.ErrDamaged
	}
	for _, l := range list {
		r.put(l)
	}
	return nil
}

// refuse counts a reading that is in no slot, and logs the first of its kind.
func (e *Engine) refuse(x sample, reason slot.Reason, detail func() string, now time.Time) {
	if !e.loop.again {
		e.counts.refused(reason, max(x.count, 1))
	}
	stamp := x.Time
	if !x.stamped {
		stamp = e.stamp(x.Time, x.Flag)
	}
	e.loop.refusals.add(refusal{x.Series, stamp.UnixMilli(), reason}, x, detail, now)
	switch {
	case e.account == nil || reason == slot.Duplicate:
	case reason == unknown:
		e.account.other(x.Device, registry.Short(x.Parameter), now)
	default:
		e.account.excluded(x.Series, status.Excluded{Reason: string(reason), Count: max(x.count, 1), Stamp: stamp.UTC()}, detail)
	}
	kind := refusedOwn
	if reason == unknown {
		kind = refusedForeign
	}
	replayed := e.restoring && reason == slot.Conflict // the names of its sources are not known yet
	if !replayed && e.once.first(kind, x.Device+"\x00"+x.Parameter+"\x00"+string(reason)) {
		args := []any{"device", x.Device, "parameter", x.Parameter, "taken_at", spec.ISTString(sent(x.Time)), "reason", reason}
		if text := detail(); text != "" {
			args = append(args, "detail", text)
		}
		e.log.Warn("a reading is refused", args...)
	}
}

// sent returns the time that the sender gave, undoing [Batch.judge].
func sent(t time.Time) time.Time {
	if t.Nanosecond()%1000 == 999 {
		return t.Add(1)
	}
	return t
}

// entry returns the line of the trail.
func (l *refused) entry(station string) audit.Entry {
	x := audit.Entry{Outcome: audit.Refused, Station: station, Device: l.Device, Stamp: l.Stamp, Parameter: l.Parameter,
		Reason: string(l.Reason), Count: l.Count}
	if l.Reason == slot.Late {
		x.Outcome = audit.Late
	}
	if l.Value != nil {
		x.Readings = []audit.Reading{{Parameter: l.Parameter, Value: *l.Value, Unit: l.Unit, Flag: l.Flag, Diagnostic: l.Diagnostic}}
	}
	at := func(t time.Time) string { return sent(t).UTC().Format(time.RFC3339Nano) }
	x.Detail = "taken at " + at(l.First)
	if !l.Last.Equal(l.First) {
		x.Detail = fmt.Sprintf("taken from %s to %s", at(l.First), at(l.Last))
	}
	if l.Detail != "" {
		x.Detail += ": " + l.Detail
	}
	return x
}

// noteSaved writes lines that are also in the state, and tries again until it succeeds. After a kill before the next
// checkpoint they are written twice.
func (e *Engine) noteSaved(lines []*refused, now time.Time) (noted bool) {
	if len(lines) == 0 {
		return false
	}
	entries := e.entries(lines)
	if e.trail == nil {
		e.logRefused(entries)
	} else if err := e.trail.Append(entries...); err != nil {
		if !e.loop.unnoted {
			e.log.Error("cannot write refused readings to the audit_file: they are kept and tried again", "error", err, "lines", len(entries))
		}
		e.loop.unnoted = true
		return false
	}
	e.loop.unnoted = false
	e.loop.refusals.written(lines, now)
	return true
}

// entries returns the lines of the trail, ordered by slot.
func (e *Engine) entries(lines []*refused) []audit.Entry {
	slices.SortFunc(lines, func(a, b *refused) int {
		return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Parameter, b.Parameter), cmp.Compare(a.Reason, b.Reason))
	})
	entries := make([]audit.Entry, len(lines))
	for i, l := range lines {
		station := ""
		if d, ok := e.names.Device(l.Device); ok {
			station = d.StationID
		}
		entries[i] = l.entry(station)
	}
	return entries
}

func (e *Engine) logRefused(entries []audit.Entry) {
	for _, x := range entries {
		e.log.Warn("readings are in no slot", "outcome", x.Outcome, "device", x.Device, "parameter", x.Parameter,
			"slot", spec.ISTString(time.UnixMilli(x.Stamp)), "readings", x.Count, "reason", x.Reason, "detail", x.Detail)
	}
}
