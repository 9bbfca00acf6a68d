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

	"github.com/ocems-io/ocems/ocems/spec"
)

// Report is what the trails say of the period.
type Report struct {
	Verified bool     `json:"verified"` // every trail
	Trails   []Trail  `json:"trails"`
	Stamp    string   `json:"stamp"` // which bound of its window stamps a slot
	Period   *Period  `json:"period"`
	OffGrid  int      `json:"readings_off_the_grid"` // in no slot
	Unnamed  Samples  `json:"samples_of_no_device"`
	Devices  []Device `json:"devices"`

	Readings  bool `json:"-"` // are kept
	unitNames []string
}

// Period has the stamps of its first and last slot, in IST.
type Period struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Slots int       `json:"slots"`
}

// Samples were taken from an instrument and not averaged.
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
	Days       []Day       `json:"days"`

	series []*series // of the parameters
}

// Parameter counts slots. Expected is the sum of Delivered, AlreadyStored, Rejected, Expired, Missing and Calibration;
// it is 0 where the trails name no slot of the parameter at all, but only samples.
type Parameter struct {
	Parameter     string   `json:"parameter"`
	Unit          string   `json:"unit"`
	Diagnostic    bool     `json:"diagnostic"`
	Expected      int      `json:"expected"`
	Delivered     int      `json:"delivered"`
	AlreadyStored int      `json:"already_stored"`
	Rejected      int      `json:"rejected"`
	Expired       int      `json:"expired"`
	Missing       int      `json:"missing"`
	Calibration   int      `json:"calibration"`       // slots with all points of a calibration and no value
	Share         *float64 `json:"delivered_percent"` // of the slots that are no calibration; rounded down
	Unverified    int      `json:"unverified"`        // slots of the above that lines without a whole chain speak for
	LongestGap    *Gap     `json:"longest_gap"`
	Samples       Samples  `json:"samples"`
	Points        Points   `json:"calibration_points"`
}

// Points are 30-second values of calibrations.
type Points struct {
	Delivered int `json:"delivered"`
	Rejected  int `json:"rejected"`
	Expired   int `json:"expired"`
}

// Gap is a run of slots that did not reach the board. Both ends are stamps of such slots.
type Gap struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Slots int       `json:"slots"`
}

func (g *Gap) String() string {
	if g == nil {
		return "none"
	}
	last := g.Last.Format("2006-01-02 15:04")
	if last[:10] == g.First.Format(time.DateOnly) {
		last = last[11:]
	}
	return fmt.Sprintf("%s – %s, %s", g.First.Format("2006-01-02 15:04"), last, count(g.Slots, "slot"))
}

// Day is one row of a calendar: a letter for each of the 96 slots, from 00:00 on.
type Day struct {
	Date  string `json:"date"`
	Slots string `json:"slots"`

	day int64
}

// The letters of a calendar. A cell speaks for all parameters of the device.
const (
	cellDelivered   = 'D'
	cellPartly      = 'P'
	cellMissing     = 'M'
	cellRejected    = 'R'
	cellExpired     = 'E'
	cellCalibration = 'C'
	cellUnverified  = '?'
	cellOutside     = '-'
)

// cells explains the letters, in the order of the legend.
var cells = []struct {
	Letter      rune
	Block, Name string
}{
	{cellDelivered, "█", "delivered"},
	{cellPartly, "▒", "some parameters delivered"},
	{cellMissing, "·", "missing"},
	{cellRejected, "R", "rejected"},
	{cellExpired, "E", "expired"},
	{cellCalibration, "C", "calibration"},
	{cellUnverified, "?", "not verified"},
}

// Report counts.
func (b *Builder) Report() (*Report, error) {
	if b.o.Device != "" && b.devices[b.o.Device] == nil {
		names := b.named()
		if len(names) == 0 {
			return nil, fmt.Errorf("--device: %q is not in the trails, which name no device", b.o.Device)
		}
		return nil, fmt.Errorf("--device: %q is not in the trails: nearest %s", b.o.Device, strings.Join(spec.Nearest(b.o.Device, names), ", "))
	}
	first, last, err := b.period()
	if err != nil {
		return nil, err
	}
	r := &Report{Verified: true, Trails: b.trails, Stamp: b.o.Stamp, OffGrid: b.offGrid, unitNames: b.unitNames, Readings: b.o.Readings, Devices: []Device{}}
	for _, t := range b.trails {
		r.Verified = r.Verified && t.Fault == ""
	}
	if first <= last {
		r.Period = &Period{at(first), at(last), int(last - first + 1)}
	}
	if d := b.devices[""]; d != nil {
		r.Unnamed = d.other
		for _, s := range d.series {
			r.Unnamed.Late += s.samples.Late
			r.Unnamed.Refused += s.samples.Refused
		}
	}
	names := b.named()
	if b.o.Device != "" {
		names = []string{b.o.Device}
	}
	r.Devices = make([]Device, len(names))
	inParallel(len(names), func(i int) { r.Devices[i] = b.devices[names[i]].report(first, last) })
	slices.SortStableFunc(r.Devices, func(a, b Device) int { return cmp.Compare(a.Station, b.Station) })
	return r, nil
}

func (d *device) report(first, last int64) Device {
	out := Device{Station: d.station, ID: d.id, Parameters: []Parameter{}, Days: []Day{}, Other: d.other}
	keys := slices.SortedFunc(maps.Keys(d.series), func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(a.parameter, b.parameter), cmp.Compare(fmt.Sprint(a.diagnostic), fmt.Sprint(b.diagnostic)))
	})
	for _, key := range keys {
		s := d.series[key]
		p := s.count(first, last)
		p.Parameter, p.Diagnostic, p.Unit = key.parameter, key.diagnostic, s.unit
		p.Samples = s.samples
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
	for n := from; n <= to; n++ {
		for i, s := range shown {
			days[i] = s.day(n)
		}
		row := make([]byte, slotsADay)
		for i := range row {
			row[i] = cellOutside
			if slot := n*slotsADay - istSlots + int64(i); first <= slot && slot <= last {
				row[i] = letterOf(shown, days, n, i)
			}
		}
		out.Days = append(out.Days, Day{Date: date(n*slotsADay - istSlots), Slots: string(row), day: n})
	}
	return out
}

// state is what is known of one slot of one parameter, of the day n.
func (s *series) state(d *day, n int64, at int) (outcome rank, calibration, verified bool) {
	if d != nil {
		if r := d.ranks[at]; r != missing {
			return r.outcome(), false, r.verified()
		}
	}
	if s.points != nil {
		if p := s.points[n*slotsADay-istSlots+int64(at)]; p.all == allPoints {
			return missing, true, p.verified == allPoints
		}
	}
	return missing, false, true
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
	var gap, longest, longestEnd int64
	var today *day
	for slot, n := first, int64(math.MinInt64); slot <= last; slot++ {
		p.Expected++
		on, at := split(slot)
		if on != n {
			n, today = on, s.day(on)
		}
		outcome, calibration, verified := s.state(today, n, at)
		if !verified {
			p.Unverified++
		}
		gap++
		switch {
		case calibration:
			p.Calibration++
			gap = 0
		case outcome == delivered:
			p.Delivered++
			gap = 0
		case outcome == stored:
			p.AlreadyStored++
			gap = 0
		case outcome == rejected:
			p.Rejected++
		case outcome == expired:
			p.Expired++
		default:
			p.Missing++
		}
		if gap > longest {
			longest, longestEnd = gap, slot
		}
	}
	if longest > 0 {
		p.LongestGap = &Gap{at(longestEnd - longest + 1), at(longestEnd), int(longest)}
	}
	if due := p.Expected - p.Calibration; due > 0 {
		share := float64((p.Delivered+p.AlreadyStored)*10000/due) / 100 // 100 is never short of a slot
		p.Share = &share
	}
	return p
}

// letterOf speaks for all parameters that have slots.
func letterOf(all []*series, days []*day, n int64, at int) byte {
	var reached, calibrated, refused, old int
	for i, s := range all {
		outcome, calibration, verified := s.state(days[i], n, at)
		if !verified {
			return cellUnverified
		}
		switch {
		case calibration:
			calibrated++
		case outcome >= stored:
			reached++
		case outcome == rejected:
			refused++
		case outcome == expired:
			old++
		}
	}
	switch {
	case calibrated == len(all):
		return cellCalibration
	case reached+calibrated == len(all):
		return cellDelivered
	case reached+calibrated > 0:
		return cellPartly
	case refused > 0:
		return cellRejected
	case old > 0:
		return cellExpired
	}
	return cellMissing
}

// percent writes a share, or a dash where nothing was expected.
func percent(share *float64) string {
	if share == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f %%", *share)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
