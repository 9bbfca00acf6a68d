package audit

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// The grids of a day in IST. The day begins 22 slots before the UTC day.
const (
	SlotsADay  = int(24 * time.Hour / spec.SlotLength)
	pointsADay = int(24 * time.Hour / spec.CalibrationLength)

	slotMillis  = int64(spec.SlotLength / time.Millisecond)
	pointMillis = int64(spec.CalibrationLength / time.Millisecond)
	dayMillis   = int64(24 * time.Hour / time.Millisecond)
	istMillis   = 22 * slotMillis
	maxStamp    = 253402281000000 // the last slot of the year 9999 in IST
)

// Rank is the outcome of a slot, in rising order: of several lines about a slot the best counts.
type Rank uint8

// The ranks. A slot without any line is missing. A slot is excluded if its readings were refused and no other readings
// made a slot. Waiting slots are not in a trail; a report adds them. Late is delivered more than LateAfter after the
// stamp.
const (
	RankMissing Rank = iota
	RankExcluded
	RankWaiting
	RankExpired
	RankRejected
	RankStored
	RankLate
	RankDelivered
)

// LateAfter is the time after the stamp from which a slot counts as delivered late.
const LateAfter = 30 * time.Minute

const rankLetters = "MXWERSLD"

// Day is what the lines of a file say of one device and day in IST. Beside the values it is all that a report needs.
type Day struct {
	Station string          `json:"-"` // the line has it
	Device  string          `json:"-"`
	Date    Date            `json:"date"`
	Lines   map[Outcome]int `json:"lines"`
	Late    int             `json:"late,omitempty"` // samples without a parameter
	Refused int             `json:"refused,omitempty"`
	Series  []*Series       `json:"series,omitempty"`
	Held    []*Outage       `json:"held,omitempty"` // outages that began on this day
}

// Slots reports that the day has outcomes of slots, and not only of samples and outages.
func (d *Day) Slots() bool { return len(d.Lines)-d.count(Late)-d.count(Refused) > 0 }

func (d *Day) count(o Outcome) int { return min(d.Lines[o], 1) }

// Series is one parameter of a device on one day.
type Series struct {
	Parameter  string `json:"parameter"`
	Diagnostic bool   `json:"diagnostic,omitempty"`
	Unit       string `json:"unit,omitempty"`
	Slots      Slots  `json:"slots,omitzero"`
	Points     Points `json:"points,omitempty"`
	OffGrid    int    `json:"off_grid,omitempty"` // readings that are in no slot
	Late       int    `json:"late,omitempty"`     // samples
	Refused    int    `json:"refused,omitempty"`

	Reasons      map[string]int `json:"reasons,omitempty"` // number of late or refused samples by reason
	Calibrations []Calibration  `json:"calibrations,omitempty"`

	points map[int]calibrated
	Values *[SlotsADay]Reading `json:"-"` // values of the slots as delivered or refused, if the Tally keeps them
}

// Closed reports that readings of the series left for the board, and not only samples are recorded.
func (s *Series) Closed() bool {
	return len(s.Points) > 0 || s.OffGrid > 0 || slices.Max(s.Slots[:]) > RankExcluded
}

// Calibration is a run of points of one flag, whatever their outcome.
type Calibration struct {
	Flag   string  `json:"flag"`  // C or Z
	First  int     `json:"first"` // number of the point in the day
	Last   int     `json:"last"`
	Points int     `json:"points"`
	Mean   float64 `json:"mean"`
}

type calibrated struct {
	flag  string
	value float64
}

// apart is how many points may be missing within a run.
const apart = int(spec.SlotLength / spec.CalibrationLength)

// calibrations returns the runs of a day.
func (s *Series) calibrations() (list []Calibration) {
	for _, at := range slices.Sorted(maps.Keys(s.points)) {
		p := s.points[at]
		if n := len(list) - 1; n >= 0 && list[n].Flag == p.flag && at-list[n].Last <= apart {
			c := &list[n]
			c.Last = at
			c.Points++
			c.Mean += (p.value - c.Mean) / float64(c.Points)
			continue
		}
		list = append(list, Calibration{p.flag, at, at, 1, p.value})
	}
	return list
}

// Slots are the outcomes of the 15-minute slots of a day, by stamp.
type Slots [SlotsADay]Rank

// Points are the outcomes of the 30-second calibration points of a day, by stamp. Points without a line are left out.
type Points map[int]Rank

// MarshalText encodes runs, such as "94D2M".
func (s Slots) MarshalText() ([]byte, error) {
	return runs(len(s), func(i int) Rank { return s[i] }), nil
}

// UnmarshalText decodes runs.
func (s *Slots) UnmarshalText(text []byte) error {
	return readRuns(text, len(s), func(i int, r Rank) { s[i] = r })
}

// MarshalText encodes runs.
func (p Points) MarshalText() ([]byte, error) {
	return runs(pointsADay, func(i int) Rank { return p[i] }), nil
}

// UnmarshalText decodes runs.
func (p *Points) UnmarshalText(text []byte) error {
	*p = Points{}
	return readRuns(text, pointsADay, func(i int, r Rank) { (*p)[i] = r })
}

func runs(n int, at func(int) Rank) (text []byte) {
	for i := 0; i < n; {
		from, r := i, at(i)
		for i < n && at(i) == r {
			i++
		}
		if i == n && r == RankMissing {
			break
		}
		text = append(strconv.AppendInt(text, int64(i-from), 10), rankLetters[r])
	}
	return text
}

var errRuns = errors.New("not runs of outcomes such as 94D2M")

func readRuns(text []byte, n int, set func(int, Rank)) error {
	at, length := 0, 0
	for _, c := range text {
		if '0' <= c && c <= '9' {
			if length = 10*length + int(c-'0'); length > n {
				return errRuns
			}
			continue
		}
		r := strings.IndexByte(rankLetters, c)
		if r < 0 || length == 0 || at+length > n {
			return errRuns
		}
		for range length {
			if r > 0 {
				set(at, Rank(r))
			}
			at++
		}
		length = 0
	}
	if length > 0 {
		return errRuns
	}
	return nil
}

// Date is a day in IST, counted from 1970-01-01.
type Date int64

// DateOf returns the day of a time in milliseconds since the Unix epoch, and the milliseconds since the day began.
func DateOf(millis int64) (d Date, rest int64) {
	rest = ((millis+istMillis)%dayMillis + dayMillis) % dayMillis
	return Date((millis + istMillis - rest) / dayMillis), rest
}

// Millis is the beginning of the day, in milliseconds since the Unix epoch.
func (d Date) Millis() int64 { return int64(d)*dayMillis - istMillis }

// MarshalText returns a date such as 2026-11-23.
func (d Date) MarshalText() ([]byte, error) {
	return time.UnixMilli(d.Millis()).In(spec.IST).AppendFormat(nil, time.DateOnly), nil
}

// UnmarshalText reads a date such as 2026-11-23.
func (d *Date) UnmarshalText(text []byte) error {
	t, err := time.ParseInLocation(time.DateOnly, string(text), spec.IST)
	*d, _ = DateOf(t.UnixMilli())
	return err
}

// Totals are the totals of a file.
type Totals struct {
	First      uint64 `json:"first"` // number of the file's first line
	Days       int    `json:"days"`  // number of summary lines, which come before this one
	Recovered  int    `json:"recovered,omitempty"`
	Unreadable int    `json:"unreadable,omitempty"` // lines with an unknown outcome or an invalid stamp
	Off        []Off  `json:"off,omitempty"`

	Outages []*Outage `json:"outages,omitempty"` // of the server
	// Over is when outages from earlier files had ended at the latest: the host's first start or stop in this file.
	Over time.Time `json:"outages_over,omitzero"`
}

// Off is a time of a minute or more in which the host did not run. If it was killed, From is when it was last known to
// run.
type Off struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Killed bool      `json:"killed,omitempty"`
}

const shortestOff = time.Minute

// Outage is a time in which the board's server did not answer, or the board refused a device. A stop of the host ends
// it, because the next run detects it again.
type Outage struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to,omitzero"` // zero: it had not ended by the last line
	Attempts int       `json:"attempts,omitempty"`
	Status   *int      `json:"status,omitempty"` // the board's
	Reason   string    `json:"reason,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

type outageKey struct {
	device string
	from   int64
}

// outage adds a line that an outage began or ended. Both lines say when it began, so the last one alone is sufficient.
func (t *Tally) outage(e *Entry) {
	key := outageKey{e.Device, e.Stamp}
	o := t.open[key]
	if o == nil {
		o = &Outage{From: time.UnixMilli(e.Stamp).UTC(), Status: e.Status, Reason: e.Reason, Detail: e.Detail}
		if e.Device == "" {
			t.Outages = append(t.Outages, o)
		} else {
			date, _ := DateOf(e.Stamp)
			d := t.day(e, date)
			d.Held = append(d.Held, o)
		}
		if t.open == nil {
			t.open = map[outageKey]*Outage{}
		}
		t.open[key] = o
	}
	if e.Outcome == Reachable || e.Outcome == Released {
		o.To, o.Attempts = e.Time, e.Count
		delete(t.open, key)
	}
}

// over ends all open outages.
func (t *Tally) over(at time.Time) {
	for _, o := range t.open {
		o.To = spec.Later(at, o.From)
	}
	t.open = nil
	if t.Over.IsZero() {
		t.Over = at
	}
}

// Tally sums up lines.
type Tally struct {
	Values     bool // keep the values of lines added from now on
	Recovered  int
	Unreadable int
	Off        []Off
	Outages    []*Outage // of the server
	Over       time.Time // first start or stop of the host
	Marked     bool      // a line says that the host was started
	days       map[dayKey]*Day
	first      time.Time // of the first line
	last       time.Time // time of the line before
	stopped    bool      // that line was Stopped
	open       map[outageKey]*Outage
}

// Stopped is when the host was stopped; zero if it was started again or may still run.
func (t *Tally) Stopped() time.Time {
	if t.stopped {
		return t.last
	}
	return time.Time{}
}

// First is when the first line was written, zero if there is none.
func (t *Tally) First() time.Time { return t.first }

// host records when the host did not run.
func (t *Tally) host(e *Entry) {
	t.Marked = t.Marked || e.Outcome == Started
	from := t.last
	if ran := time.UnixMilli(e.Stamp).UTC(); e.Outcome == Started && !t.stopped && ran.After(from) && ran.Before(e.Time) {
		from = ran
	}
	switch {
	case e.Outcome == Stopped:
		t.over(e.Time)
	case e.Outcome == Started && from.IsZero():
		t.over(e.Time)
	case e.Outcome == Started:
		t.over(from)
		if e.Time.Sub(from) >= shortestOff && !t.last.IsZero() {
			t.Off = append(t.Off, Off{from, e.Time, !t.stopped})
		}
	}
	if t.first.IsZero() {
		t.first = e.Time
	}
	if e.Outcome != Recovered { // a start writes Recovered before Started
		t.last, t.stopped = e.Time, e.Outcome == Stopped
	}
}

type dayKey struct {
	device string
	date   Date
}

// Add adds one line. It keeps references to its readings' texts.
func (t *Tally) Add(e *Entry) {
	t.host(e)
	var r Rank
	at := e.Stamp
	switch e.Outcome {
	case Delivered:
		if r = RankDelivered; e.Time.Sub(time.UnixMilli(e.Stamp)) > LateAfter {
			r = RankLate
		}
	case AlreadyStored:
		r = RankStored
	case Rejected:
		r = RankRejected
	case Expired:
		r = RankExpired
	case Late, Refused:
		at = cmp.Or(e.Stamp, e.Time.UnixMilli())
	case Recovered:
		t.Recovered++
		return
	case Started, Stopped, Continued, Summary, Closed:
		return
	case Unreachable, Reachable, Held, Released:
		if e.Stamp <= 0 || e.Stamp > maxStamp {
			t.Unreadable++
			return
		}
		t.outage(e)
		return
	default:
		t.Unreadable++
		return
	}
	if at < 0 || at > maxStamp {
		t.Unreadable++
		return
	}
	date, rest := DateOf(at)
	d := t.day(e, date)
	d.Lines[e.Outcome]++
	if r == RankMissing {
		d.samples(e, rest, t.Values)
		return
	}
	for i := range e.Readings {
		x := &e.Readings[i]
		s := d.of(x)
		switch calibration := x.Calibration(); {
		case calibration && rest%pointMillis == 0:
			if s.Points == nil {
				s.Points = Points{}
			}
			point := int(rest / pointMillis)
			if r > s.Points[point] {
				s.Points[point] = r
				if s.points == nil {
					s.points = map[int]calibrated{}
				}
				s.points[point] = calibrated{x.Flag, x.Value}
			}
		case calibration || rest%slotMillis != 0:
			s.OffGrid++
		default:
			slot := rest / slotMillis
			s.set(slot, r, x, t.Values)
		}
	}
}

func (t *Tally) day(e *Entry, date Date) *Day {
	key := dayKey{e.Device, date}
	d := t.days[key]
	if d == nil {
		if t.days == nil {
			t.days = map[dayKey]*Day{}
		}
		d = &Day{Device: e.Device, Date: date, Lines: map[Outcome]int{}}
		t.days[key] = d
	}
	d.Station = cmp.Or(e.Station, d.Station)
	return d
}

func (d *Day) of(x *Reading) *Series {
	for _, s := range d.Series {
		if s.Parameter == x.Parameter && s.Diagnostic == x.Diagnostic {
			s.Unit = cmp.Or(x.Unit, s.Unit)
			return s
		}
	}
	s := &Series{Parameter: x.Parameter, Diagnostic: x.Diagnostic, Unit: x.Unit}
	d.Series = append(d.Series, s)
	return s
}

// set gives a slot a rank if it is better than the current one.
func (s *Series) set(slot int64, r Rank, x *Reading, values bool) {
	if r <= s.Slots[slot] {
		return
	}
	s.Slots[slot] = r
	if values {
		if s.Values == nil {
			s.Values = new([SlotsADay]Reading)
		}
		s.Values[slot] = *x
	}
}

// samples counts late and refused samples.
func (d *Day) samples(e *Entry, rest int64, values bool) {
	x := Reading{Parameter: e.Parameter}
	if len(e.Readings) > 0 {
		x = e.Readings[0]
	}
	late, refused := &d.Late, &d.Refused
	if x.Parameter != "" {
		s := d.of(&x)
		late, refused = &s.Late, &s.Refused
		if s.Reasons == nil {
			s.Reasons = map[string]int{}
		}
		s.Reasons[cmp.Or(e.Reason, string(e.Outcome))] += max(e.Count, 1)
		if e.Stamp != 0 && rest%slotMillis == 0 {
			s.set(rest/slotMillis, RankExcluded, &x, values)
		}
	}
	if n := max(e.Count, 1); e.Outcome == Late {
		*late += n
	} else {
		*refused += n
	}
}

// Days returns the days ordered by date and device.
func (t *Tally) Days() []*Day {
	days := make([]*Day, 0, len(t.days))
	for _, d := range t.days {
		for _, s := range d.Series {
			s.Calibrations = s.calibrations()
		}
		days = append(days, d)
	}
	slices.SortFunc(days, func(a, b *Day) int { return cmp.Or(cmp.Compare(a.Date, b.Date), cmp.Compare(a.Device, b.Device)) })
	return days
}

// summary returns the summary lines of a file.
func (t *Tally) summary(first uint64) []Entry {
	days := t.Days()
	entries := make([]Entry, 0, len(days)+1)
	for _, d := range days {
		entries = append(entries, Entry{Outcome: Summary, Station: d.Station, Device: d.Device, Day: d})
	}
	return append(entries, Entry{Outcome: Closed, Detail: fmt.Sprintf("the next line is in another file; %d lines before this one sum up the file", len(days)),
		Totals: &Totals{First: first, Days: len(days), Recovered: t.Recovered, Unreadable: t.Unreadable, Off: t.Off, Outages: t.Outages, Over: t.Over}})
}
