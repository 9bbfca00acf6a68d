package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	refusalsKept = 100_000         // slots and parameters whose last request was refused, over all devices
	due          = 2 * time.Minute // from the stamp until the slot must have arrived
)

// The letters of a calendar are those of ocems report.
const (
	cellDelivered   = 'D'
	cellPartly      = 'P' // some of the parameters
	cellMissing     = 'M' // nothing arrived; it can still be sent
	cellRejected    = 'R'
	cellCalibration = 'C'
	cellOutside     = '-' // not due yet, before the first slot that arrived, or older than 7 days
)

type refusalKey struct {
	device, parameter string
	diagnostic        bool
	slot              int64
}

// refusal is the last request for a slot that is not stored.
type refusal struct {
	request, at int64
	http        int
	status      *int
}

// refusals keeps the newest refusals.
type refusals struct {
	byKey    map[refusalKey]refusal
	byDevice map[string]map[refusalKey]bool
	order    []refusalOrder
}

type refusalOrder struct {
	key     refusalKey
	request int64
}

func (f *refusals) put(k refusalKey, r refusal) {
	if f.byKey == nil {
		f.byKey, f.byDevice = map[refusalKey]refusal{}, map[string]map[refusalKey]bool{}
	}
	if f.byDevice[k.device] == nil {
		f.byDevice[k.device] = map[refusalKey]bool{}
	}
	f.byKey[k] = r
	f.byDevice[k.device][k] = true
	f.order = append(f.order, refusalOrder{k, r.request})
	for len(f.byKey) > refusalsKept || len(f.order) > 2*refusalsKept {
		oldest := f.order[0]
		f.order = f.order[1:]
		if f.byKey[oldest.key].request == oldest.request {
			f.remove(oldest.key)
		}
	}
}

func (f *refusals) remove(k refusalKey) {
	delete(f.byKey, k)
	delete(f.byDevice[k.device], k)
}

// settle records the result of a request for the slot of one of its readings. The caller holds the lock.
func (s *Server) settle(d *device, p *point, r Request) {
	k := refusalKey{d.id, p.Parameter, p.diagnostic, p.slot()}
	switch {
	case r.Stored:
		s.refused.remove(k)
	case r.Status != nil && *r.Status == int(spec.StatusSuccess) && r.HTTP < 300:
		// From a fault: nothing was stored.
	case s.stored[d.key(p)]:
		// Sent again.
	case p.stamp.Before(time.UnixMilli(r.Time).Add(-spec.MaxAge-24*time.Hour)) || p.stamp.After(time.UnixMilli(r.Time).Add(24*time.Hour)):
		// In no calendar.
	default:
		k.parameter = strings.Clone(short(s.hide(k.parameter, d)))
		s.refused.put(k, refusal{r.ID, r.Time, r.HTTP, r.Status})
	}
}

// Calendar is the answer of GET /console/calendar: a device's slots at the board in the last 7 days.
type Calendar struct {
	Station    string              `json:"station"`
	Device     string              `json:"device"`
	Now        int64               `json:"now"`        // the board's clock, milliseconds since the Unix epoch
	Parameters []CalendarParameter `json:"parameters"` // of the registry, and those that were sent
	Days       []CalendarDay       `json:"days"`       // newest first
	Readings   [][6]any            `json:"readings"`   // slot, index of the parameter, value, flag, stamp, time of arrival
	Refused    [][6]any            `json:"refused"`    // slot, index of the parameter, time, HTTP status, status or null, request
	Cells      map[string]int      `json:"cells"`      // number of cells by letter
}

// CalendarParameter is one parameter that a device sends.
type CalendarParameter struct {
	Parameter  string `json:"parameter"`
	Unit       string `json:"unit"` // of its newest reading
	Diagnostic bool   `json:"diagnostic"`

	expected bool // a complete slot has it
}

// CalendarDay is one row: a letter for each of the 96 slots, by their stamps in IST.
type CalendarDay struct {
	Date  string `json:"date"`
	First int64  `json:"first"` // stamp of the first slot, milliseconds since the Unix epoch
	Slots string `json:"slots"`
}

// calendar answers for ?device=, and for one parameter with &parameter= and &diagnostic=true.
func (s *Server) calendar(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	d := s.devices[query.Get("device")]
	if d == nil {
		ids := slices.Sorted(maps.Keys(s.devices))
		http.Error(w, fmt.Sprintf("device: %q is not in the registry: nearest %s", short(s.hide(query.Get("device"), nil)),
			strings.Join(spec.Nearest(short(query.Get("device")), ids), ", ")), http.StatusNotFound)
		return
	}
	var only *CalendarParameter
	if key := query.Get("parameter"); key != "" {
		only = &CalendarParameter{Parameter: key, Diagnostic: query.Get("diagnostic") == "true"}
	}
	writeJSON(w, s.calendarOf(d, only, s.config.Now()))
}

// cell is what arrived for a slot, by index of the parameter.
type cell struct{ averages, points, refused map[int]bool }

func (s *Server) calendarOf(d *device, only *CalendarParameter, now time.Time) Calendar {
	const slot = spec.SlotLength
	oldest := now.Add(-spec.MaxAge)
	first, end := midnight(oldest), midnight(now).Add(24*time.Hour)
	c := Calendar{Station: d.station, Device: d.id, Now: now.UnixMilli(), Parameters: []CalendarParameter{}, Readings: [][6]any{}, Refused: [][6]any{}, Cells: map[string]int{}}
	cells := make([]cell, end.Sub(first)/slot)
	for i := range cells {
		cells[i] = cell{map[int]bool{}, map[int]bool{}, map[int]bool{}}
	}
	at := func(ms int64) *cell {
		if i := (ms - first.UnixMilli()) / slot.Milliseconds(); ms >= first.UnixMilli() && i < int64(len(cells)) {
			return &cells[i]
		}
		return nil
	}

	s.mu.Lock()
	var readings []Reading
	begin := now.UnixMilli() // nothing is missing before the first slot that arrived
	for _, i := range d.readings {
		begin = min(begin, slotOf(s.readings[i].Timestamp))
		if r := s.readings[i]; at(slotOf(r.Timestamp)) != nil {
			readings = append(readings, r)
		}
	}
	refused := map[refusalKey]refusal{}
	for k := range s.refused.byDevice[d.id] {
		begin = min(begin, k.slot)
		if at(k.slot) != nil {
			refused[k] = s.refused.byKey[k]
		}
	}
	s.mu.Unlock()

	type key struct {
		parameter  string
		diagnostic bool
	}
	known := map[key]*CalendarParameter{}
	parameter := func(k key) *CalendarParameter {
		if known[k] == nil {
			known[k] = &CalendarParameter{Parameter: k.parameter, Diagnostic: k.diagnostic}
		}
		return known[k]
	}
	for name, units := range d.parameters {
		p := parameter(key{name, false})
		p.expected = true
		if len(units) == 1 {
			p.Unit = units[0]
		}
	}
	for i := range readings {
		p := parameter(key{readings[i].Parameter, readings[i].Diagnostic})
		p.Unit, p.expected = readings[i].Unit, true
	}
	for k := range refused {
		parameter(key{k.parameter, k.diagnostic})
	}
	// A parameter that was always refused does not make a slot incomplete, unless it is the only one.
	if !slices.ContainsFunc(slices.Collect(maps.Values(known)), func(p *CalendarParameter) bool { return p.expected }) {
		for _, p := range known {
			p.expected = true
		}
	}
	for _, p := range known {
		c.Parameters = append(c.Parameters, *p)
	}
	slices.SortFunc(c.Parameters, func(a, b CalendarParameter) int {
		return cmp.Or(cmp.Compare(fmt.Sprint(a.Diagnostic), fmt.Sprint(b.Diagnostic)), cmp.Compare(a.Parameter, b.Parameter))
	})
	number, expected := map[key]int{}, 0
	for i := range c.Parameters {
		p := &c.Parameters[i]
		number[key{p.Parameter, p.Diagnostic}] = i
		if only != nil {
			p.expected = p.Parameter == only.Parameter && p.Diagnostic == only.Diagnostic
		}
		if p.expected {
			expected++
		}
	}

	for _, r := range readings {
		n := number[key{r.Parameter, r.Diagnostic}]
		if only != nil && !c.Parameters[n].expected {
			continue
		}
		of := slotOf(r.Timestamp)
		if r.calibration() {
			at(of).points[n] = true
		} else {
			at(of).averages[n] = true
		}
		c.Readings = append(c.Readings, [6]any{of, n, r.Value, r.Flag, r.Timestamp, r.ReceivedAt})
	}
	for k, f := range refused {
		n := number[key{k.parameter, k.diagnostic}]
		if only != nil && !c.Parameters[n].expected {
			continue
		}
		at(k.slot).refused[n] = true
		c.Refused = append(c.Refused, [6]any{k.slot, n, f.at, f.http, f.status, f.request})
	}
	slices.SortFunc(c.Refused, func(a, b [6]any) int {
		return cmp.Or(cmp.Compare(a[0].(int64), b[0].(int64)), cmp.Compare(a[1].(int), b[1].(int)))
	})
	for day := midnight(now); !day.Before(first); day = day.Add(-24 * time.Hour) {
		row := CalendarDay{Date: day.Format(time.DateOnly), First: day.UnixMilli()}
		var letters strings.Builder
		for i := range 96 {
			stamp := day.Add(time.Duration(i) * slot)
			letter := at(stamp.UnixMilli()).letter(c.Parameters, expected, !stamp.Before(oldest) && stamp.UnixMilli() >= begin && !stamp.Add(due).After(now))
			letters.WriteRune(letter)
			c.Cells[string(letter)]++
		}
		row.Slots = letters.String()
		c.Days = append(c.Days, row)
	}
	return c
}

func midnight(t time.Time) time.Time {
	t = t.In(spec.IST)
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, spec.IST)
}

// letter is the letter for all expected parameters. If the slot is due, parameters that have not arrived are missing.
func (c *cell) letter(parameters []CalendarParameter, expected int, due bool) rune {
	var came, calibrated int
	for i := range c.averages {
		if parameters[i].expected {
			came++
		}
	}
	for i := range c.points {
		if parameters[i].expected && !c.averages[i] {
			calibrated++
		}
	}
	refused := false
	for i := range c.refused { // a parameter that arrived later is no longer refused
		refused = refused || !c.averages[i] && !c.points[i]
	}
	switch {
	case expected > 0 && calibrated == expected && !refused:
		return cellCalibration
	case expected > 0 && came+calibrated == expected && !refused:
		return cellDelivered
	case came+calibrated > 0:
		return cellPartly
	case refused:
		return cellRejected
	case due:
		return cellMissing
	}
	return cellOutside
}
