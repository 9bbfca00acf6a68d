package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Readings that are in no slot have one line of the trail a slot, series and reason. A line is written once its slot is
// over, soon after the first of them; what comes later is in a line of the next quarter of an hour.
const (
	refusedKey   = "refused" // of those whose line is not written yet
	mostRefusals = 10_000
	noteAfter    = 5 * time.Second
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
	// unwritten: the last try to write some of them failed.
	unwritten bool
}

func (r *refusals) add(key refusal, x sample, detail string, now time.Time) {
	if r.lines == nil {
		r.lines, r.noted = map[refusal]*refused{}, map[refusal]time.Time{}
	}
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
	l.Count++
	if x.Time.Before(l.First) {
		l.First = x.Time
	}
	if x.Time.After(l.Last) {
		l.Last = x.Time
	}
}

// due takes out the lines whose time has come.
func (r *refusals) due(now time.Time, over func(stamp time.Time) bool) (list []*refused) {
	for key, l := range r.lines {
		if !over(time.UnixMilli(key.Stamp)) || now.Sub(l.Since).Abs() < noteAfter {
			continue
		}
		if last, ok := r.noted[key]; ok && now.Sub(last).Abs() < spec.SlotLength {
			continue
		}
		list = append(list, l)
		delete(r.lines, key)
		r.noted[key] = now
		r.changed = true
	}
	if len(r.noted) > mostRefusals {
		clear(r.noted)
	}
	return list
}

// back puts lines that could not be written to where they were.
func (r *refusals) back(lines []*refused) {
	for _, l := range lines {
		delete(r.noted, l.refusal)
		r.lines[l.refusal] = l
	}
}

// all takes out every line.
func (r *refusals) all() (list []*refused) {
	for _, l := range r.lines {
		list = append(list, l)
	}
	clear(r.lines)
	r.changed = true
	return list
}

// save returns what must be stored with the aligner.
func (r *refusals) save() []byte {
	if len(r.lines) == 0 {
		return nil
	}
	list := make([]*refused, 0, len(r.lines))
	for _, l := range r.lines {
		list = append(list, l)
	}
	text, _ := json.Marshal(list) // of plain fields
	return seal(append([]byte{formatVersion}, text...))
}

func (r *refusals) restore(value []byte) error {
	body, err := unseal(value)
	if err != nil {
		return err
	}
	var list []*refused
	if err := json.Unmarshal(body, &list); err != nil {
		return errDamaged
	}
	r.lines, r.noted = map[refusal]*refused{}, map[refusal]time.Time{}
	for _, l := range list {
		r.lines[l.refusal] = l
	}
	return nil
}

// refuse counts a reading that is in no slot and names the first of its kind in the log. What is restored was named when
// it came.
func (e *Engine) refuse(to *refusals, x sample, why fault, now time.Time) {
	e.refuseSlot(to, x, why, e.stamp(x.Time, x.Flag), now)
}

// refuseSlot is refuse where the slot's stamp is known.
func (e *Engine) refuseSlot(to *refusals, x sample, why fault, stamp, now time.Time) {
	e.counts.refused(why.reason)
	key := refusal{x.Series, stamp.UnixMilli(), why.reason}
	to.add(key, x, why.detail, now)
	if !e.restoring && e.once.first("refused", x.Device+"\x00"+x.Parameter+"\x00"+string(why.reason)) {
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

// noteRefusals writes lines that were taken out of the refusals. While the trail cannot be written, it puts them back, where
// they are saved with the aligner: a kill does not cost them.
func (e *Engine) noteRefusals(lines []*refused) error {
	r := &e.loop.refusals
	entries := e.entries(lines)
	if e.trail == nil || len(entries) == 0 {
		return nil
	}
	err := e.trail.Append(entries...)
	if err != nil {
		r.back(lines)
	}
	switch {
	case err != nil && !r.unwritten:
		e.log.Error("cannot write what was refused to the audit_file: it is kept and tried again", "error", err, "lines", len(lines))
	case err == nil && r.unwritten:
		e.log.Info("what was refused is in the audit_file")
	}
	r.unwritten = err != nil
	return err
}

// note writes lines of readings that are not aligned here. While the trail cannot be written, they wait in memory.
func (e *Engine) note(lines []*refused) {
	entries := e.entries(lines)
	if e.trail == nil || len(entries) == 0 {
		return
	}
	if err := e.backlog.Append(entries...); err != nil {
		e.log.Error("cannot write what was refused to the audit_file: it is kept and tried again", "error", err, "lines", len(entries))
	}
}

// entries are the lines as the trail has them. Where there is none they go to the log.
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
		x := l.entry(station)
		if entries[i] = x; e.trail == nil {
			e.log.Warn("readings are in no slot", "outcome", x.Outcome, "device", x.Device, "parameter", x.Parameter,
				"slot", spec.ISTString(time.UnixMilli(x.Stamp)), "readings", x.Count, "reason", x.Reason, "detail", x.Detail)
		}
	}
	return entries
}
