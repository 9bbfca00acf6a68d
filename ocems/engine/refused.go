package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// Readings that are in no slot have one line of the trail a slot, series and reason. A line is written once its slot is
// over, soon after the first of them; what comes later is in a line of the next quarter of an hour.
const (
	refusedKey   = "refused" // of those whose line is not written yet
	mostRefusals = 10_000
	noteAfter    = 5 * time.Second
	lastSecond   = 253_402_300_799 // of the year 9999, beyond which JSON has no time
)

// refusal is what readings share a line by.
type refusal struct {
	slot.Series
	Stamp  int64 // milliseconds
	Reason slot.Reason
}

// refused are the readings of one line.
type refused struct {
	refusal
	Count       int
	First, Last time.Time // event time of the earliest and the latest
	Value       *float64  `json:",omitempty"` // the first, where JSON has it
	Unit, Flag  string
	Detail      string
	Since       time.Time // when the first was refused
}

// refusals are the lines that are not written yet.
type refusals struct {
	lines   map[refusal]*refused
	noted   map[refusal]time.Time // when the last line of the same readings was written
	changed bool
}

func newRefusals() refusals {
	return refusals{lines: map[refusal]*refused{}, noted: map[refusal]time.Time{}}
}

func (r *refusals) add(key refusal, x sample, detail string, now time.Time) {
	x.Time = time.Unix(min(max(x.Time.Unix(), 0), lastSecond), int64(x.Time.Nanosecond()))
	r.changed = true
	if r.lines[key] == nil && len(r.lines) >= mostRefusals {
		key = refusal{Reason: key.Reason}
	}
	l := r.lines[key]
	if l == nil {
		l = &refused{refusal: key, First: x.Time, Last: x.Time, Unit: x.Unit, Detail: detail, Since: now}
		if x.Flag.Valid() {
			l.Flag = x.Flag.String()
		}
		if finite(x.Value) {
			l.Value = &x.Value
		}
		r.lines[key] = l
	}
	l.Count += max(x.count, 1)
	if x.Time.Before(l.First) {
		l.First = x.Time
	}
	if x.Time.After(l.Last) {
		l.Last = x.Time
	}
}

// due are the lines whose time has come.
func (r *refusals) due(now time.Time, over func(stamp time.Time) bool) (list []*refused) {
	for key, l := range r.lines {
		if key.Reason != slot.WrongClock && !over(time.UnixMilli(key.Stamp)) || now.Sub(l.Since).Abs() < noteAfter {
			continue
		}
		if last, ok := r.noted[key]; ok && now.Sub(last).Abs() < spec.SlotLength {
			continue
		}
		list = append(list, l)
	}
	return list
}

// all are all lines.
func (r *refusals) all() []*refused { return slices.Collect(maps.Values(r.lines)) }

// written takes out lines that are in the trail.
func (r *refusals) written(list []*refused, now time.Time) {
	if len(r.noted) > mostRefusals {
		clear(r.noted)
	}
	for _, l := range list {
		delete(r.lines, l.refusal)
		r.noted[l.refusal] = now
		r.changed = true
	}
}

// save returns what must be stored with the aligner.
func (r *refusals) save() []byte {
	if len(r.lines) == 0 {
		return nil
	}
	text, _ := json.Marshal(r.all()) // of plain fields
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
		r.lines[l.refusal] = l
	}
	return nil
}

// refuse counts a reading that is in no slot and names the first of its kind in the log.
func (e *Engine) refuse(to *refusals, x sample, why fault, now time.Time) {
	e.refuseSlot(to, x, why, e.stamp(x.Time, x.Flag), now)
}

// refuseSlot is refuse where the slot's stamp is known.
func (e *Engine) refuseSlot(to *refusals, x sample, why fault, stamp, now time.Time) {
	e.counts.refused(why.reason, max(x.count, 1))
	key := refusal{x.Series, stamp.UnixMilli(), why.reason}
	to.add(key, x, why.detail, now)
	replayed := e.restoring && why.reason == slot.Conflict // whose sources have no names yet
	if !replayed && e.once.first("refused", x.Device+"\x00"+x.Parameter+"\x00"+string(why.reason)) {
		args := []any{"device", x.Device, "parameter", x.Parameter, "taken_at", spec.ISTString(x.Time), "reason", why.reason}
		if why.detail != "" {
			args = append(args, "detail", why.detail)
		}
		e.log.Warn("a reading is refused", args...)
	}
}

// entry is the line of the trail.
func (l *refused) entry(station string) audit.Entry {
	x := audit.Entry{Outcome: audit.Refused, Station: station, Device: l.Device, Stamp: l.Stamp, Parameter: l.Parameter,
		Reason: string(l.Reason), Count: l.Count}
	if l.Reason == slot.Late {
		x.Outcome = audit.Late
	}
	if l.Value != nil {
		x.Readings = []audit.Reading{{Parameter: l.Parameter, Value: *l.Value, Unit: l.Unit, Flag: l.Flag, Diagnostic: l.Diagnostic}}
	}
	x.Detail = "taken at " + l.First.UTC().Format(time.RFC3339Nano)
	if !l.Last.Equal(l.First) {
		x.Detail = fmt.Sprintf("taken from %s to %s", l.First.UTC().Format(time.RFC3339Nano), l.Last.UTC().Format(time.RFC3339Nano))
	}
	if l.Detail != "" {
		x.Detail += ": " + l.Detail
	}
	return x
}

// noteSaved writes lines that the state has too, and tries again until it can. After a kill before the next checkpoint they
// are written twice.
func (e *Engine) noteSaved(lines []*refused, now time.Time) (noted bool) {
	if len(lines) == 0 {
		return false
	}
	entries := e.entries(lines)
	if e.trail == nil {
		e.logRefused(entries)
	} else if err := e.trail.Append(entries...); err != nil {
		if !e.loop.unnoted {
			e.log.Error("cannot write what was refused to the audit_file: it is kept and tried again", "error", err, "lines", len(entries))
		}
		e.loop.unnoted = true
		return false
	}
	e.loop.unnoted = false
	e.loop.refusals.written(lines, now)
	return true
}

// note writes lines that no state has. While the trail cannot be written, they wait for it in memory.
func (e *Engine) note(lines []*refused) {
	entries := e.entries(lines)
	if e.trail == nil {
		e.logRefused(entries)
	} else if err := e.backlog.Append(entries...); err != nil {
		e.log.Error("cannot write what was refused to the audit_file: it is kept and tried again", "error", err, "lines", len(entries))
	}
}

// entries are the lines of the trail, in the order of their slots.
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
