package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Report is the content of the trails in a period.
type Report struct {
	Verdict  string      `json:"verdict"`
	Made     time.Time   `json:"made"` // in IST
	Software string      `json:"software"`
	Verified bool        `json:"verified"` // every trail
	Trails   []Trail     `json:"trails"`
	Stamp    string      `json:"stamp"` // the bound of its window that stamps a slot: start or end
	Period   *Period     `json:"period"`
	OffGrid  int         `json:"readings_off_the_grid"` // in no slot
	Unnamed  Samples     `json:"samples_of_no_device"`
	Off      []Off       `json:"host_off"` // in the period
	Outages  []Outage    `json:"server_did_not_answer"`
	Devices  []Device    `json:"devices"`
	Board    *Comparison `json:"board,omitempty"`

	Readings  bool `json:"-"` // readings were kept
	unitNames []string
}

// Period has the stamps of its first and last slot, in IST.
type Period struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Slots int       `json:"slots"`
}

// Samples counts samples that are in no slot.
type Samples struct {
	Late    int `json:"late"`
	Refused int `json:"refused"`
}

// Device is one device with its parameters and its calendar.
type Device struct {
	Station    string      `json:"station"`
	ID         string      `json:"device"`
	Parameters []Parameter `json:"parameters"`
	Other      Samples     `json:"samples_of_no_parameter"`
	Held       []Outage    `json:"held"` // the board refused it
	Days       []Day       `json:"days"`

	series []*series // of the parameters
}

// Off is a time when a host was off, in IST.
type Off struct {
	Trail string    `json:"trail"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	// It did not stop cleanly: From is the last time at which it is known to have run.
	Killed bool `json:"killed"`
}

// Parameter counts slots. Expected is the sum of Delivered, AlreadyStored, Waiting, Refused, Rejected, Expired, Excluded,
// Missing and Calibration. It is 0 if the parameter is not configured and the trails have only samples of it, no slot.
type Parameter struct {
	Parameter     string   `json:"parameter"`
	Unit          string   `json:"unit"`
	Diagnostic    bool     `json:"diagnostic"`
	Configured    bool     `json:"configured"` // false if no configuration was given
	Expected      int      `json:"expected"`
	Delivered     int      `json:"delivered"`
	Late          int      `json:"delivered_late"` // of these, more than [audit.LateAfter] after their stamp
	AlreadyStored int      `json:"already_stored"`
	Waiting       int      `json:"waiting"`
	Refused       int      `json:"refused"` // they wait because the board refuses them
	Code          string   `json:"refused_code,omitempty"`
	Trouble       string   `json:"trouble,omitempty"` // at the end of a period that ends now
	Cure          string   `json:"cure,omitempty"`
	Undecided     int      `json:"undecided,omitempty"` // waiting slots on which a person must decide
	asked         bool     // Trouble names them
	Rejected      int      `json:"rejected"`
	Expired       int      `json:"expired"`
	Excluded      int      `json:"excluded"` // no slot was made because its readings were left out
	Missing       int      `json:"missing"`
	HostOff       int      `json:"missing_host_off"`  // of the missing, those in whose window the host was off
	Calibration   int      `json:"calibration"`       // slots with all points of a calibration and no value
	Share         *float64 `json:"delivered_percent"` // of the slots without calibrations; rounded down
	Unverified    int      `json:"unverified"`        // of the above, slots whose lines are not verified
	LongestGap    *Gap     `json:"longest_gap"`
	Samples       Samples  `json:"samples"`
	// LeftOut counts readings that are in no slot, by reason.
	LeftOut      map[string]int `json:"left_out,omitempty"`
	Points       Points         `json:"calibration_points"`
	Calibrations []Calibration  `json:"calibrations,omitempty"`     // in the period, newest first
	Calibrated   *time.Time     `json:"last_calibration,omitempty"` // its last point, which may be before the period
}

// lost counts slots that have not reached the board.
func (p *Parameter) lost() int { return p.Expected - p.Delivered - p.AlreadyStored - p.Calibration }

// Points are 30-second values of calibrations.
type Points struct {
	Delivered int `json:"delivered"`
	Rejected  int `json:"rejected"`
	Expired   int `json:"expired"`
}

// Gap is a run of slots that did not reach the board, with the stamps of its first and last slot.
type Gap struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Slots int       `json:"slots"`
}

func (g *Gap) String() string {
	if g == nil {
		return "none"
	}
	return span(g.First, g.Last) + ", " + spec.Counted(g.Slots, "slot")
}

// Day is one row of a calendar: a letter for each of the 96 slots, from 00:00 on.
type Day struct {
	Date  string `json:"date"`
	Slots string `json:"slots"`

	day int64
}

var classOf = [...]calendar.Class{missing: calendar.Missing, excluded: calendar.Excluded, waiting: calendar.Waiting, expired: calendar.Expired, rejected: calendar.Rejected,
	stored: calendar.Stored, late: calendar.Late, delivered: calendar.Delivered}

// cells explains the letters, in the order of the legend.
var cells = []struct {
	Letter      rune
	Block, Name string
}{
	{calendar.LetterDelivered, "█", "delivered"},
	{calendar.LetterPartly, "▒", "some parameters delivered"},
	{calendar.LetterMissing, "·", "missing"},
	{calendar.LetterExcluded, "X", "excluded"},
	{calendar.LetterWaiting, "W", "waiting"},
	{calendar.LetterRefused, "B", "refused by the board"},
	{calendar.LetterRejected, "R", "rejected"},
	{calendar.LetterExpired, "E", "expired"},
	{calendar.LetterCalibration, "C", "calibration"},
	{calendar.LetterUnverified, "?", "not verified"},
}

// Report makes the report.
func (b *Builder) Report() (*Report, error) {
	if b.o.Device != "" && b.devices[b.o.Device] == nil {
		names := b.names()
		if len(names) == 0 {
			return nil, fmt.Errorf("--device: %q is not in the trails, which name no device", b.o.Device)
		}
		return nil, fmt.Errorf("--device: %q is not in the trails: nearest %s", b.o.Device, strings.Join(spec.Nearest(b.o.Device, names), ", "))
	}
	first, last, err := b.period()
	if err != nil {
		return nil, err
	}
	r := &Report{Made: b.o.Now.In(spec.IST), Software: b.o.Software, Verified: true, Off: []Off{}, Outages: []Outage{}, Trails: b.trails, Stamp: b.o.Stamp, OffGrid: b.offGrid, unitNames: b.unitNames, Readings: b.o.Readings, Devices: []Device{}}
	for _, t := range b.trails {
		r.Verified = r.Verified && t.Fault == ""
	}
	if first <= last {
		r.Period = &Period{at(first), at(last), int(last - first + 1)}
	}
	off := b.off(r, first, last)
	var held map[string][]Outage
	r.Outages, held = b.outages(first, last)
	if d := b.devices[""]; d != nil {
		r.Unnamed = d.other
		for _, s := range d.series {
			r.Unnamed.Late += s.samples.Late
			r.Unnamed.Refused += s.samples.Refused
		}
	}
	names := b.names()
	if b.o.Device != "" {
		names = []string{b.o.Device}
	}
	r.Devices = make([]Device, len(names))
	inParallel(len(names), func(i int) {
		r.Devices[i] = b.devices[names[i]].report(b, first, last, off)
		r.Devices[i].Held = append(r.Devices[i].Held, held[names[i]]...)
	})
	slices.SortStableFunc(r.Devices, func(a, b Device) int { return cmp.Compare(a.Station, b.Station) })
	r.Verdict = r.verdict(b.o.Host == nil)
	return r, nil
}

// off returns for each trail the slots of the period in which its host was off.
func (b *Builder) off(r *Report, first, last int64) (slots []map[int64]bool) {
	for i, h := range b.hosts {
		if !h.stopped.IsZero() && !b.o.Now.IsZero() {
			h.off = append(h.off, audit.Off{From: h.stopped, To: b.o.Now})
		}
		slots = append(slots, map[int64]bool{})
		for _, x := range h.off {
			from, to := floor(x.From.UnixMilli(), slotMillis)+b.shift(), floor(x.To.UnixMilli()-1, slotMillis)+b.shift()
			if to < first || from > last {
				continue
			}
			r.Off = append(r.Off, Off{b.files[i], x.From.In(spec.IST).Truncate(time.Second), x.To.In(spec.IST).Truncate(time.Second), x.Killed})
			for slot := max(from, first); slot <= min(to, last); slot++ {
				slots[i][slot] = true
			}
		}
	}
	return slots
}

func (d *device) report(b *Builder, first, last int64, off []map[int64]bool) Device {
	out := Device{Station: d.station, ID: d.id, Parameters: []Parameter{}, Days: []Day{}, Other: d.other, Held: []Outage{}}
	keys := slices.SortedFunc(maps.Keys(d.series), func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(a.parameter, b.parameter), cmp.Compare(fmt.Sprint(a.diagnostic), fmt.Sprint(b.diagnostic)))
	})
	for _, key := range keys {
		s := d.series[key]
		s.first, s.last = s.span(b, first, last)
		if d.trail >= 0 {
			s.hostOff = off[d.trail]
		} else if d.trail == -1 && len(off) == 1 { // the trail does not have the device
			s.hostOff = off[0]
		}
		p := s.count(first, last)
		p.Parameter, p.Diagnostic, p.Unit, p.Configured = key.parameter, key.diagnostic, s.unit, s.due != nil
		p.Samples, p.LeftOut = s.samples, s.reasons
		if s.due != nil && last == floor(b.o.Host.Until.UnixMilli(), slotMillis) {
			p.Trouble, p.Cure, p.asked = s.due.Trouble, s.due.Cure, s.due.Asked
		}
		p.Calibrations, p.Calibrated = s.compare(first, last)
		out.Parameters = append(out.Parameters, p)
		out.series = append(out.series, s)
	}
	if first > last || !slices.ContainsFunc(out.series, func(s *series) bool { return s.closed }) {
		return out
	}
	from, _ := split(first)
	to, _ := split(last)
	shown := slices.DeleteFunc(slices.Clone(out.series), func(s *series) bool { return !s.closed })
	days := make([]*day, len(shown))
	for n := to; n >= from; n-- { // newest first, as on the board's page
		for i, s := range shown {
			days[i] = s.day(n)
		}
		row := make([]byte, slotsADay)
		for i := range row {
			row[i] = calendar.LetterOutside
			if slot := firstOf(n) + int64(i); first <= slot && slot <= last {
				row[i] = letterOf(shown, days, n, i)
			}
		}
		out.Days = append(out.Days, Day{Date: date(firstOf(n)), Slots: string(row), day: n})
	}
	return out
}

// state is the outcome of a slot of a parameter, at index at of day n.
func (s *series) state(d *day, n int64, at int) (c calendar.Class, verified bool) {
	slot := firstOf(n) + int64(at)
	r, verified := missing, true
	if d != nil && d.ranks[at] != missing {
		r, verified = d.ranks[at].outcome(), d.ranks[at].verified()
	}
	if p := s.points[slot]; r <= excluded && p.all == allPoints {
		return calendar.Calibration, p.verified == allPoints
	}
	switch {
	case slot < s.first || slot > s.last:
		return calendar.Outside, true
	case r == waiting && s.due != nil && s.due.Refused != "":
		return calendar.Refused, true
	}
	return classOf[r], verified
}

func (s *series) count(first, last int64) (p Parameter) {
	p.Points = Points{Rejected: s.rejectedPoints, Expired: s.expiredPoints}
	for slot, x := range s.points {
		if first <= slot && slot <= last {
			p.Points.Delivered += bits.OnesCount32(x.all)
		}
	}
	if !s.closed {
		return p
	}
	if s.due != nil {
		p.Code = s.due.Refused
	}
	var gap, longest, longestEnd int64
	var today *day
	for slot, n := s.first, int64(math.MinInt64); slot <= s.last; slot++ {
		p.Expected++
		on, at := split(slot)
		if on != n {
			n, today = on, s.day(on)
		}
		class, verified := s.state(today, n, at)
		if !verified {
			p.Unverified++
		}
		gap++
		if (class == calendar.Waiting || class == calendar.Refused) && s.undecided[slot] {
			p.Undecided++
		}
		switch class {
		case calendar.Late:
			p.Late++
			p.Delivered++
		case calendar.Delivered:
			p.Delivered++
		case calendar.Missing:
			p.Missing++
			if s.hostOff[slot] {
				p.HostOff++
			}
		default:
			*[...]*int{calendar.Excluded: &p.Excluded, calendar.Waiting: &p.Waiting, calendar.Refused: &p.Refused, calendar.Expired: &p.Expired, calendar.Rejected: &p.Rejected,
				calendar.Stored: &p.AlreadyStored, calendar.Calibration: &p.Calibration}[class]++
		}
		if class >= calendar.Stored {
			gap = 0
		}
		if gap > longest {
			longest, longestEnd = gap, slot
		}
	}
	if longest > 0 {
		p.LongestGap = &Gap{at(longestEnd - longest + 1), at(longestEnd), int(longest)}
	}
	p.Share = shareOf(p.Delivered+p.AlreadyStored, p.Expected-p.Calibration)
	return p
}

// letterOf is the letter for all parameters that have slots.
func letterOf(all []*series, days []*day, n int64, at int) byte {
	var counts calendar.Counts
	for i, s := range all {
		class, verified := s.state(days[i], n, at)
		if !verified {
			return calendar.LetterUnverified
		}
		counts[class]++
	}
	return counts.Letter()
}

// shareOf is a share in percent, nil if nothing was due. It is rounded down, so that 100 means all.
func shareOf(reached, due int) *float64 {
	if due == 0 {
		return nil
	}
	share := float64(int64(reached)*10000/int64(due)) / 100
	return &share
}

// percent formats a share, as a dash if nothing was expected.
func percent(share *float64) string {
	if share == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f %%", *share)
}
