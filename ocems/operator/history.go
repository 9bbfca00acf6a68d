package operator

import (
	"cmp"
	"errors"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

const (
	slotMillis  = int64(spec.SlotLength / time.Millisecond)
	pointMillis = int64(spec.CalibrationLength / time.Millisecond)
	allPoints   = uint32(1)<<(slotMillis/pointMillis) - 1
	days        = 8                           // today and the last 7
	lookBack    = (days + 1) * 24 * time.Hour // for lines: a reading may be refused before its slot ends
	forget      = 10 * time.Minute            // a device that no page shows
)

// trails are read for one device at a time, when a page shows it.
type trails struct {
	mu    sync.Mutex
	known map[trailKey]*history
}

type trailKey struct{ path, device string }

// history is the content of a trail for one device.
type history struct {
	mu     sync.Mutex
	at     audit.Position
	series map[seriesKey]map[int64]*outcome
	points map[seriesKey]map[int64]uint32 // a bit for each delivered point, by slot
	first  map[seriesKey]int64            // stamp
	some   map[int64]bool                 // slots of which a parameter has reached the board; their waiting parameters were refused
	used   time.Time                      // guarded by trails.mu
}

type seriesKey struct {
	parameter  string
	diagnostic bool
}

// outcome is the outcome of a slot with the highest class.
type outcome struct {
	class  calendar.Class
	value  *float64
	unit   string
	flag   string
	when   time.Time
	detail string
}

var errNoTrail = errors.New("audit_file is not set, so there is no record of past slots")

// of returns the history of a device up to now. It is never nil.
func (t *trails) of(d *known, now time.Time) (*history, error) {
	key := trailKey{d.host.Trail, d.ID}
	t.mu.Lock()
	for k, h := range t.known {
		if now.Sub(h.used).Abs() > forget {
			delete(t.known, k)
		}
	}
	h := t.known[key]
	if h == nil {
		h = &history{}
		h.clear()
		t.known[key] = h
	}
	h.used = now
	t.mu.Unlock()
	if key.path == "" {
		return h, errNoTrail
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	h.at, err = audit.Recent(key.path, d.ID, now.Add(-lookBack), h.at, h.clear, func(e *audit.Entry) { h.take(e, d.host.Stamp) })
	return h, err
}

func (h *history) clear() {
	h.series, h.points, h.first = map[seriesKey]map[int64]*outcome{}, map[seriesKey]map[int64]uint32{}, map[seriesKey]int64{}
	h.some = map[int64]bool{}
}

func (h *history) take(e *audit.Entry, bound string) {
	var c calendar.Class
	switch e.Outcome {
	case audit.Delivered:
		if c = calendar.Delivered; e.Time.Sub(time.UnixMilli(e.Stamp)) > audit.LateAfter {
			c = calendar.Late
		}
	case audit.AlreadyStored:
		c = calendar.Stored
	case audit.Rejected:
		c = calendar.Rejected
	case audit.Expired:
		c = calendar.Expired
	case audit.Late, audit.Refused:
		if e.Stamp == 0 || e.Stamp%slotMillis != 0 {
			return
		}
		x := audit.Reading{Parameter: e.Parameter}
		o := &outcome{class: calendar.Excluded, when: e.Time, detail: strings.ReplaceAll(cmp.Or(e.Reason, string(e.Outcome)), "_", " ")}
		if len(e.Readings) > 0 {
			x = e.Readings[0]
			o.value, o.unit, o.flag = &x.Value, x.Unit, x.Flag
		}
		h.put(seriesKey{x.Parameter, x.Diagnostic}, e.Stamp, o)
		return
	default:
		return
	}
	for i := range e.Readings {
		x := &e.Readings[i]
		key := seriesKey{x.Parameter, x.Diagnostic}
		if flag := x.Flag; (flag == spec.FlagCalibration.String() || flag == spec.FlagZeroCalibration.String()) && c >= calendar.Stored {
			slot, bit := pointOf(e.Stamp, bound)
			if h.points[key] == nil {
				h.points[key] = map[int64]uint32{}
			}
			h.points[key][slot] |= bit
			h.begin(key, slot)
			continue
		}
		if e.Stamp%slotMillis == 0 {
			h.put(key, e.Stamp, &outcome{c, &x.Value, x.Unit, x.Flag, e.Time, e.Detail})
			h.begin(key, e.Stamp)
			h.some[e.Stamp] = h.some[e.Stamp] || c >= calendar.Stored
		}
	}
}

func (h *history) put(key seriesKey, stamp int64, o *outcome) {
	s := h.series[key]
	if s == nil {
		s = map[int64]*outcome{}
		h.series[key] = s
	}
	if known := s[stamp]; known == nil || o.class > known.class {
		s[stamp] = o
	}
}

func (h *history) begin(key seriesKey, stamp int64) {
	if first, ok := h.first[key]; !ok || stamp < first {
		h.first[key] = stamp
	}
}

// pointOf is the slot of a 30-second point of a calibration, and the point's bit in it.
func pointOf(stamp int64, bound string) (slot int64, bit uint32) {
	if bound == "start" {
		slot = stamp - stamp%slotMillis
		return slot, 1 << ((stamp - slot) / pointMillis)
	}
	start := (stamp - pointMillis) - (stamp-pointMillis)%slotMillis // the point that is stamped with the slot's end is its last one
	return start + slotMillis, 1 << ((stamp - pointMillis - start) / pointMillis)
}

// state is the outcome of a slot of a parameter.
func (h *history) state(d *known, p *status.Parameter, stamp int64, expected int64) (calendar.Class, *outcome) {
	key := seriesKey{p.Parameter, p.Diagnostic}
	o := h.series[key][stamp]
	if o != nil && o.class > calendar.Excluded {
		return o.class, o
	}
	if bits.OnesCount32(h.points[key][stamp]&allPoints) == bits.OnesCount32(allPoints) {
		return calendar.Calibration, nil
	}
	if made := p.Slot != nil && stamp <= p.Slot.Stamp.UnixMilli(); made && d.waits(stamp) && o == nil {
		switch {
		case p.Refused != nil || d.Held != "":
			return calendar.Refused, nil
		case !h.some[stamp]:
			return calendar.Waiting, nil
		}
	}
	first := dueSince(d.host, p)
	if begun, ok := h.first[key]; ok {
		first = min(first, begun)
	}
	switch {
	case stamp < first || stamp > expected:
		return calendar.Outside, o
	case o != nil:
		return calendar.Excluded, o
	}
	return calendar.Missing, nil
}

// dueSince is the stamp of the first slot that is due.
func dueSince(h *status.Host, p *status.Parameter) int64 {
	if h.Stamp == "start" {
		return p.Due.UnixMilli()
	}
	return p.Due.Add(spec.SlotLength).UnixMilli()
}

// waits reports whether a slot of the device waits.
func (d *known) waits(stamp int64) bool {
	for _, run := range d.Runs {
		if run[0] <= stamp && stamp <= run[1] {
			return true
		}
	}
	return false
}

// letter is the letter for all shown parameters.
func (h *history) letter(d *known, shown []status.Parameter, stamp, expected int64) (letter byte, wasLate bool) {
	var counts calendar.Counts
	for i := range shown {
		c, _ := h.state(d, &shown[i], stamp, expected)
		counts[c]++
	}
	letter = counts.Letter()
	return letter, letter == calendar.LetterDelivered && counts[calendar.Late] > 0
}

// History is the answer of GET /history.json.
type History struct {
	Fault  string  `json:"fault,omitempty"` // why there are no days
	Days   []Day   `json:"days"`            // newest first
	Late   int     `json:"late"`            // delivered slots with a late parameter
	Trends []Trend `json:"trends"`          // of the parameters, in order
}

// Day is one row of a calendar.
type Day struct {
	First int64  `json:"first"` // stamp of 00:00 IST, milliseconds since the Unix epoch
	Slots string `json:"slots"` // 96 letters
}

// Trend has the values of the last 24 hours.
type Trend struct {
	Stamps []int64   `json:"stamps"`
	Values []float64 `json:"values"`
}

// days makes the calendar of the shown parameters, and the trends of all.
func (h *history) days(d *known, shown []status.Parameter, now time.Time, err error) History {
	out := History{Days: []Day{}, Trends: []Trend{}}
	if d.host.Slots { // the exporter behind it has the outcomes
		out.Fault = "This host passes slots on: the exporter behind it has their outcomes."
		return out
	}
	if err != nil {
		out.Fault = err.Error()
		return out
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	expected := d.host.Expected(now).UnixMilli()
	today, _ := audit.DateOf(now.UnixMilli())
	for n := range int64(days) {
		first := (today - audit.Date(n)).Millis()
		row := make([]byte, audit.SlotsADay)
		for i := range row {
			var wasLate bool
			if row[i], wasLate = h.letter(d, shown, first+int64(i)*slotMillis, expected); wasLate {
				out.Late++
			}
		}
		out.Days = append(out.Days, Day{first, string(row)})
	}
	for i := range d.Parameters {
		t := Trend{Stamps: []int64{}, Values: []float64{}}
		series := h.series[seriesKey{d.Parameters[i].Parameter, d.Parameters[i].Diagnostic}]
		end := now.UnixMilli() - now.UnixMilli()%slotMillis
		for stamp := end - 95*slotMillis; stamp <= end; stamp += slotMillis {
			if o := series[stamp]; o != nil && o.class > calendar.Excluded && o.value != nil {
				t.Stamps, t.Values = append(t.Stamps, stamp), append(t.Values, *o.value)
			}
		}
		out.Trends = append(out.Trends, t)
	}
	return out
}

// SlotPart is the outcome of one parameter in a slot: an element of the answer of GET /slot.json.
type SlotPart struct {
	Parameter  string     `json:"parameter"`
	Diagnostic bool       `json:"diagnostic,omitempty"`
	Outcome    string     `json:"outcome"`
	Value      *float64   `json:"value,omitempty"`
	Unit       string     `json:"unit,omitempty"`
	Flag       string     `json:"flag,omitempty"`
	Time       *time.Time `json:"time,omitempty"` // of the line in the trail
	Detail     string     `json:"detail,omitempty"`
}

func (h *history) slotOf(d *known, stamp int64, now time.Time) []SlotPart {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]SlotPart, 0, len(d.Parameters))
	for i := range d.Parameters {
		p := &d.Parameters[i]
		c, o := h.state(d, p, stamp, d.host.Expected(now).UnixMilli())
		x := SlotPart{Parameter: p.Parameter, Diagnostic: p.Diagnostic, Outcome: c.String()}
		if o != nil {
			x.Value, x.Unit, x.Flag, x.Detail = o.value, o.unit, o.flag, o.detail
			when := o.when
			x.Time = &when
		}
		if c == calendar.Refused {
			if x.Detail = d.Held; p.Refused != nil {
				x.Detail = p.Refused.Reason
			}
			if code, err := strconv.Atoi(x.Detail); err == nil {
				x.Detail += " " + spec.Status(code).Description()
			}
		}
		list = append(list, x)
	}
	return list
}
