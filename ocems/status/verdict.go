package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Level is how urgently something needs a person.
type Level int

// The levels. Warning: check it soon. Failed: slots are missing at the board, or soon will be.
const (
	OK Level = iota
	Warning
	Failed
)

func (l Level) String() string { return [...]string{"ok", "warning", "failed"}[l] }

// MarshalText is String.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Class is the state of a parameter, in one word.
type Class string

// The classes.
const (
	Reporting  Class = "reporting"   // the board has its last slot
	Begins     Class = "begins"      // its first slot is not due yet
	Waits      Class = "waiting"     // its slots wait for the board
	Refuses    Class = "refused"     // by the board
	Asks       Class = "undecided"   // its slots wait for a person to decide
	Excludes   Class = "excluded"    // all its readings are left out
	Calibrates Class = "calibration" // it is in calibration
	Silent     Class = "silent"      // readings have stopped
	Never      Class = "never"       // no reading has ever arrived
	Behind     Class = "behind"      // its readings arrive long after their time
	FlatLine   Class = "flat"        // all readings are equal
	Limit      Class = "limit"       // the last value is beyond a limit
	Partly     Class = "partly"      // some readings of the last slot were left out
)

// Verdict tells a person what is wrong and what to do.
type Verdict struct {
	Level Level  `json:"level"`
	Class Class  `json:"class"`
	Text  string `json:"text"`
	Cure  string `json:"cure,omitempty"`
}

// quietFor is how old the files of a running host may be.
const quietFor = 6 * time.Minute

// Runs reports whether the host has written recently.
func (h *Host) Runs(now time.Time) bool { return !h.Stopped && now.Sub(h.Written) < quietFor }

// window is the start of the newest window whose slot is expected at the board.
func (h *Host) window(now time.Time) time.Time {
	late := now.Add(-time.Duration(h.Within * float64(time.Second)))
	return late.Truncate(spec.SlotLength).Add(-spec.SlotLength)
}

// Expected is the stamp of the newest slot that is expected at the board.
func (h *Host) Expected(now time.Time) time.Time { return h.StampOf(h.window(now)) }

// StampOf is the stamp of the slot of a window.
func (h *Host) StampOf(start time.Time) time.Time {
	if h.Stamp == "start" {
		return start
	}
	return start.Add(spec.SlotLength)
}

// Due reports whether a slot of a parameter is expected at the board by now.
func (h *Host) Due(p *Parameter, now time.Time) bool { return !h.window(now).Before(p.Due) }

// NextSlot is the stamp of the current slot, and when it is made.
func (h *Host) NextSlot(now time.Time) (stamp, leaves time.Time) {
	start := now.Add(-time.Duration(h.Grace * float64(time.Second))).Truncate(spec.SlotLength)
	return h.StampOf(start), start.Add(spec.SlotLength + time.Duration(h.Grace*float64(time.Second)))
}

// Time formats a time for a person: in IST, with the date unless it is today.
func Time(t, now time.Time) string {
	t, now = t.In(spec.IST), now.In(spec.IST)
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// cures tell briefly what to do about a hold reason. docs/status-codes.md has more.
var cures = map[string]string{
	"10":             "compare station_id, device_id, token and key with the board's e-mail",
	"102":            "compare station_id with the board's e-mail, letter by letter",
	"109":            "copy the device's token again from the newest e-mail of the board",
	"110":            "ask the board which unit it has for this parameter, and set unit to it",
	"111":            "compare stamp and the 15-minute grid with what the board expects; if another sender reports the device, set shared_device",
	"112":            "schedule the calibration with the board, or correct the flag",
	"113":            "let the proxy pass all headers, or try signature_time = slot",
	"114":            "let the proxy pass all headers",
	"115":            "make a key on the board's page and set public_key",
	"116":            "compare device_id with the board's e-mail; without one, write to the board",
	"117":            "compare this machine's clock with the board's",
	"118":            "set this machine's clock by NTP",
	"119":            "ask the board which key of annexe 3.1 it has for this parameter, and set parameter to it",
	"120":            "ask the board at which stations the device is registered",
	"121":            "compare station_id and device_id with the board's e-mail",
	"another_sender": "stop the other sender, or set shared_device = true for the device, and delay on the second one; if there is none, ask the board",
	"off_grid":       "compare stamp and the 15-minute grid with what the board expects; if another sender reports the device, stop it, or set shared_device = true",
	"http_401":       "ask the operator of the gateway between this machine and the board",
	"http_403":       "ask the operator of the gateway between this machine and the board",
	"not_configured": "put the device back into the configuration, or name it in formerly",
}

// cureOf tells what to do about a hold reason.
func cureOf(reason string) string {
	if cure, ok := cures[reason]; ok {
		return cure
	}
	return "read the board's answer, and ask the board"
}

// meaning is a hold reason in words.
func meaning(reason string) string {
	code := 0
	if _, err := fmt.Sscanf(reason, "%d", &code); err == nil {
		return fmt.Sprintf("%s %s", reason, strings.ToLower(spec.Status(code).Description()))
	}
	switch reason {
	case "another_sender":
		return "another sender reports this device"
	case "off_grid":
		return "the board has never accepted a slot of the device, and answers 111"
	}
	return strings.ReplaceAll(reason, "_", " ")
}

// Judge returns the verdict on a parameter, including what a person must decide.
func (h *Host) Judge(d *Device, p *Parameter, now time.Time) Verdict {
	v := h.judge(d, p, now)
	u := p.Undecided
	if u == nil {
		return v
	}
	text := fmt.Sprintf("%s for a person to decide, from %s: %s", waits(u.Slots), Time(u.Oldest, now), u.Why)
	cure := fmt.Sprintf("to send them, lower min_coverage of its entry (0 sends all); to leave them out, set below_min_coverage to leave_out; then restart the host. "+
		"The first expires on %s", u.Oldest.Add(spec.MaxAge).In(spec.IST).Format("2006-01-02 at 15:04"))
	if v.Level == Failed {
		return Verdict{Failed, v.Class, v.Text + "; " + text, v.Cure + "; " + cure}
	}
	return Verdict{Failed, Asks, text, cure}
}

func waits(slots int) string {
	if slots == 1 {
		return "1 slot waits"
	}
	return fmt.Sprintf("%d slots wait", slots)
}

func (h *Host) judge(d *Device, p *Parameter, now time.Time) Verdict {
	window := h.window(now)
	expected := h.StampOf(window)
	due := h.Due(p, now)
	least := expected // stamp of the newest slot that it must have
	if p.Upstream {
		least = least.Add(-spec.SlotLength)
	}
	// A slot in the future comes from a wrong clock.
	missing := p.Slot == nil || p.Slot.Stamp.Before(least) || p.Slot.Stamp.After(now.Add(spec.SlotLength))
	switch {
	case p.Slot == nil && !due:
		first := "; its first whole slot is " + Time(h.StampOf(p.Due), now)
		if p.Reading != nil {
			return Verdict{OK, Begins, first[2:], ""}
		}
		for _, x := range p.Excluded {
			if x.lately(now) {
				return Verdict{Warning, Partly, x.text() + first, x.cure()}
			}
		}
		return Verdict{OK, Begins, "no reading yet" + first, ""}
	case p.Parameter == Any && d.Read.IsZero():
		cure := "find out why the input does not have it, or compare its device id with that of the readings"
		if d.Other.After(h.Started) { // as Never, which has the names since the start
			cure = "name its readings by the keys of the catalogue, or give it an entry for each parameter"
		}
		return Verdict{Failed, Never, "no reading of the device: " + p.Never, cure}
	case p.Parameter != Any && p.Reading == nil && p.Slot == nil && len(p.Excluded) == 0:
		return Verdict{Failed, Never, "no reading ever came: " + p.Never, "correct metric, field or tags of its entry, or find out why the input does not have it"}
	case p.Refused != nil:
		return Verdict{Failed, Refuses, fmt.Sprintf("the board has refused it since %s: %s; its slots wait", Time(p.Refused.Since, now), meaning(p.Refused.Reason)), cureOf(p.Refused.Reason)}
	case d.Held != "":
		return Verdict{Failed, Refuses, fmt.Sprintf("the board refuses the device: %s; its slots wait", meaning(d.Held)), cureOf(d.Held)}
	case due && missing && p.Calibrated != nil && !p.Calibrated.Before(window):
		return Verdict{OK, Calibrates, "in calibration, last point " + Time(*p.Calibrated, now), ""}
	case due && missing:
		for _, x := range p.Excluded {
			if x.since(expected, now) {
				return x.instead(expected, now)
			}
		}
		if behind := p.behind(now); behind != "" {
			return Verdict{Warning, Behind, behind, "set the clock of their source by NTP, or find out why they arrive late"}
		}
		if end := window.Add(spec.SlotLength); p.Reading != nil && p.Reading.At.After(end) && !p.Reading.At.After(now.Add(spec.SlotLength)) {
			return Verdict{OK, Begins, "readings arrive again: its next slot is " + Time(h.StampOf(end), now), ""}
		}
		for _, x := range p.Excluded { // readings arrive, but with a wrong time
			if x.lately(now) {
				return x.instead(expected, now)
			}
		}
		return Verdict{Failed, Silent, "no reading since " + Time(p.lastSeen(d), now), "look at the instrument, its cable and the input that reads it"}
	}
	if d.Apart != "" {
		return Verdict{Failed, Refuses, fmt.Sprintf("some slots wait apart: %s", meaning(d.Apart)), cureOf(d.Apart)}
	}
	if due && !h.DryRun && (p.Delivered == nil || p.Delivered.Before(least)) {
		if p.Rejected != nil && !p.Rejected.Since.Before(p.Slot.Stamp) {
			return Verdict{Failed, Refuses, fmt.Sprintf("the board rejects its slots: %s", meaning(p.Rejected.Reason)), cureOf(p.Rejected.Reason)}
		}
		if h.Slots {
			return Verdict{Warning, Waits, fmt.Sprintf("slots wait for the next consumer: %d", h.Waiting), "see the log, and check the components behind the processor"}
		}
		return h.waiting(d)
	}
	switch {
	case p.Flat != nil && p.Flat.Alert > 0 && now.Sub(p.Flat.Since).Seconds() >= p.Flat.Alert:
		return Verdict{Warning, FlatLine, "all readings are equal since " + Time(p.Flat.Since, now), "check that the instrument measures"}
	case p.Beyond != "":
		return Verdict{Warning, Limit, p.Beyond, "check the process"}
	}
	for _, x := range p.Excluded {
		if p.Slot != nil && x.since(p.Slot.Stamp, now) {
			return Verdict{Warning, Partly, x.text(), x.cure()}
		}
	}
	switch {
	case p.Delivered == nil && h.DryRun:
		return Verdict{OK, Begins, Time(p.Slot.Stamp, now) + " made, not sent", ""}
	case p.Delivered == nil && d.Waiting > 0 && d.Detail != "": // the board's first answers
		return h.waiting(d)
	case p.Delivered == nil:
		return Verdict{OK, Begins, Time(p.Slot.Stamp, now) + " made", ""}
	case h.Slots:
		return Verdict{OK, Reporting, Time(*p.Delivered, now) + " passed on", ""}
	}
	if p.Already {
		return Verdict{OK, Reporting, Time(*p.Delivered, now) + " was at the board already", ""}
	}
	return Verdict{OK, Reporting, Time(*p.Delivered, now) + " delivered", ""}
}

// behind says that readings arrive long after their time, the last within the last quarter of an hour.
func (p *Parameter) behind(now time.Time) string {
	r := p.Reading
	if r == nil || r.Behind == 0 {
		return ""
	}
	late := time.Duration(r.Behind * float64(time.Second))
	if now.Sub(r.At.Add(late)).Abs() > spec.SlotLength {
		return ""
	}
	return fmt.Sprintf("its readings arrive %s after their time, the last is from %s", strings.TrimSuffix(late.Round(time.Minute).String(), "0s"), Time(r.At, now))
}

// waiting is the verdict on a device whose slots wait for the board.
func (h *Host) waiting(d *Device) Verdict {
	text, cure := fmt.Sprintf("slots wait for the board: %d", d.Waiting), "check the connection to the board"
	switch {
	case h.Board.Reason != "" && !h.Board.Reachable:
		text += ": " + h.Board.Reason
	case d.Detail != "":
		text += "; its answer: " + d.Detail
		cure = "compare endpoint with the board's; if it is right, wait, or ask the board"
	}
	return Verdict{Warning, Waits, text, "nothing is lost for 7 days: " + cure}
}

// since reports whether these readings belong to the slot or a later one, but not to a future one.
func (x Excluded) since(stamp, now time.Time) bool {
	return !x.Stamp.Before(stamp) && !x.Stamp.After(now.Add(spec.SlotLength))
}

// lately reports whether such readings came within the last quarter of an hour.
func (x Excluded) lately(now time.Time) bool { return now.Sub(x.Noted) < spec.SlotLength }

// instead is the verdict on a slot that was not made because these readings were left out.
func (x Excluded) instead(slot, now time.Time) Verdict {
	return Verdict{Failed, Excludes, fmt.Sprintf("no slot %s: %s", Time(slot, now), x.text()), x.cure()}
}

func (x Excluded) text() string {
	text := fmt.Sprintf("readings left out: %d (%s)", x.Count, strings.ReplaceAll(x.Reason, "_", " "))
	if x.Detail != "" {
		text += ", " + x.Detail
	}
	return text
}

func (x Excluded) cure() string {
	switch x.Reason {
	case "future", "too_old":
		return "compare the clock and the time zone of the instrument with this machine's"
	case "late":
		return "compare the clock and the time zone of the instrument with this machine's; if they agree, raise grace"
	case "unit":
		return "set unit of its entry to the unit of the readings"
	case "bad_flag":
		return "map the status of the instrument to one of the six flags"
	}
	return "look at the instrument, or correct the limits of its entry"
}

// lastSeen is the time of the last reading, as far as known. A reading that was left out counts if no other came.
func (p *Parameter) lastSeen(d *Device) time.Time {
	switch {
	case p.Parameter == Any:
		return d.Read
	case p.Reading != nil:
		return p.Reading.At
	case p.Slot != nil:
		return p.Slot.Stamp
	}
	at := p.Due
	for _, x := range p.Excluded {
		at = spec.Later(at, x.Noted)
	}
	return at
}

// JudgeAll sets the verdict of each parameter, and returns in one sentence whether the host reports.
func (h *Host) JudgeAll(now time.Time) Verdict {
	all, wrong, look := 0, 0, 0
	for i := range h.Devices {
		d := &h.Devices[i]
		for j := range d.Parameters {
			v := h.Judge(d, &d.Parameters[j], now)
			d.Parameters[j].Verdict = &v
			all++
			switch v.Level {
			case Failed:
				wrong++
			case Warning:
				look++
			}
		}
	}
	v := h.overall(all, wrong, look, now)
	h.Verdict = &v
	return v
}

func (h *Host) overall(all, wrong, look int, now time.Time) Verdict {
	stamp, leaves := h.NextSlot(now)
	h.Next = &Next{stamp, leaves}
	next := fmt.Sprintf("the next slot, %s, is made at %s", Time(stamp, now), leaves.In(spec.IST).Format(time.TimeOnly))
	switch {
	case h.Stopped:
		return Verdict{Failed, Silent, "The host was stopped at " + Time(h.Written, now) + ".", "start it"}
	case !h.Runs(now):
		return Verdict{Failed, Silent, "The host does not run: its last status is from " + Time(h.Written, now) + ".", "start it, and see its log"}
	case h.Clock.Trouble != "":
		return Verdict{Failed, Waits, "Not reporting: " + h.Clock.Trouble + ".", "set this machine's clock by NTP"}
	case !h.Board.Reachable && h.Board.Reason != "":
		return Verdict{Failed, Waits, fmt.Sprintf("Not reporting: the board does not answer; slots waiting: %d.", h.Waiting), "check the connection to the board: " + h.Board.Reason}
	case h.DryRun:
		return Verdict{Warning, Waits, "Dry run: nothing is sent.", "remove dry_run"}
	case wrong > 0:
		return Verdict{Failed, Partly, fmt.Sprintf("%d of %s %s a person; %s.", wrong, spec.Counted(all, "parameter"), map[bool]string{true: "needs", false: "need"}[wrong == 1], next), ""}
	case h.Trouble != "":
		return Verdict{Failed, Partly, h.Trouble, ""}
	case all == 0 && len(h.Devices) > 0 && now.Sub(h.Started) > 2*spec.SlotLength:
		text := fmt.Sprintf("No reading of any of %s has come", spec.Counted(len(h.Devices), "device"))
		if slices.ContainsFunc(h.Devices, func(d Device) bool { return !d.Read.IsZero() || !d.Other.IsZero() }) {
			return Verdict{Failed, Never, text + " within the last 7 days.", "look at the inputs that read the devices"}
		}
		return Verdict{Failed, Never, text + ".", "compare the device ids of the readings with those of the configuration"}
	case look > 0:
		return Verdict{Warning, Partly, fmt.Sprintf("Reporting, with warnings for %d of %s; %s.", look, spec.Counted(all, "parameter"), next), ""}
	}
	return Verdict{OK, Reporting, fmt.Sprintf("Reporting %s of %s; %s.", spec.Counted(all, "parameter"), spec.Counted(len(h.Devices), "device"), next), ""}
}
