package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	slotMillis  = int64(spec.SlotLength / time.Millisecond)
	pointMillis = int64(spec.CalibrationLength / time.Millisecond)
	slotsADay   = int64(audit.SlotsADay)
	istSlots    = 22 // IST is 22 slots before UTC
	allPoints   = uint32(1)<<(slotMillis/pointMillis) - 1

	// maxDays limits the period: an altered trail may have a stamp that is centuries away.
	maxDays = 3660
)

// Options select the content of a report. All devices have the same period, so that a silent device has missing slots.
type Options struct {
	From, To time.Time // days in IST, inclusive; zero is the first or last slot of the trails
	Device   string    // only this device; "" is all
	Host     *Host     // from its configuration and state; nil: only the trails are known
	Software string    // name and version of the program that makes the report
	Stamp    string    // the bound of its window that stamps a slot: "end" (default) or "start"
	Now      time.Time // time of the report; no later slot is expected
	Readings bool      // keep the readings of files whose lines are read, for HTML
	Verify   bool      // read every line of closed files, not only their summary lines
}

// Host has what is known of a host beside its trails.
type Host struct {
	Due   []Due
	Until time.Time // stamp of the newest slot that is expected at the board
}

// Due is a parameter with a slot due every 15 minutes.
type Due struct {
	Station, Device, Parameter, Unit string
	Diagnostic                       bool
	Since                            time.Time // stamp of the first slot; zero is the start of the period
	Refused                          string    // why the board refuses it now: a status code or another hold reason, or ""
	Trouble, Cure                    string    // what is wrong with it now, and what to do; "" if nothing is known to be wrong
	Asked                            bool      // Trouble names the slots on which a person must decide
}

// Builder collects the content of trails.
type Builder struct {
	o           Options
	first, last int64 // slots of the period in the options; the whole range without one
	low, high   int64 // slots in the trails
	any         bool
	begun       time.Time // time of the first line of the trails
	trails      []Trail
	marked      bool        // the trails show when a host ran
	hosts       []hostTimes // by trail
	files       []string    // the newest file of each trail
	devices     map[string]*device
	offGrid     int
	units       map[string]uint16
	unitNames   []string
	shapes      map[ranksOfDay]*ranksOfDay
}

// hostTimes are the times of a trail's host, in order.
type hostTimes struct {
	off     []audit.Off
	stopped time.Time // not started again since
	outages map[outageKey]*audit.Outage
}

type device struct {
	station, id string
	trail       int        // that has it; -1 none, -2 several
	named       audit.Date // day of the line with the station
	series      map[seriesKey]*series
	other       Samples // without a parameter
}

type seriesKey struct {
	parameter  string
	diagnostic bool
}

type series struct {
	days                          []day            // in order
	points                        map[int64]points // by slot
	unit                          string
	named                         audit.Date // day of the line with the unit
	closed                        bool       // it had a slot at any time, or is due
	low, high                     int64      // its first and last slot at any time; low is after high without a slot
	due                           *Due
	first, last                   int64 // in the period, when that is known
	hostOff                       map[int64]bool
	samples                       Samples // in no slot
	reasons                       map[string]int
	calibrations                  []run
	rejectedPoints, expiredPoints int
	undecided                     map[int64]bool // slots that wait for a person to decide
}

// day is one IST day. Equal days share their ranks.
type day struct {
	n        int64
	ranks    *ranksOfDay
	readings *[slotsADay]reading
}

type ranksOfDay [slotsADay]rank

// reading is the value of a delivered or refused slot.
type reading struct {
	value float64
	unit  uint16
	flag  byte
}

// points has a bit for each delivered 30-second point of a slot.
type points struct{ all, verified uint32 }

// rank orders the outcomes of a slot in several lines: verified ones first, then the best one.
type rank uint8

const (
	missing   = rank(audit.RankMissing)
	excluded  = rank(audit.RankExcluded)
	waiting   = rank(audit.RankWaiting)
	expired   = rank(audit.RankExpired)
	rejected  = rank(audit.RankRejected)
	stored    = rank(audit.RankStored)
	late      = rank(audit.RankLate)
	delivered = rank(audit.RankDelivered)

	verifiedRank = delivered // added to one of the above
)

func (r rank) outcome() rank {
	if r > delivered {
		return r - verifiedRank
	}
	return r
}

func (r rank) verified() bool { return r > delivered }

// New prepares a report.
func New(o Options) (*Builder, error) {
	switch o.Stamp {
	case "":
		o.Stamp = "end"
	case "start", "end":
	default:
		return nil, fmt.Errorf("--stamp: %q is neither end nor start: nearest %s", o.Stamp, spec.Nearest(o.Stamp, []string{"end", "start"})[0])
	}
	b := &Builder{o: o, first: math.MinInt64, last: math.MaxInt64, devices: map[string]*device{}, units: map[string]uint16{"": 0}, unitNames: []string{""},
		shapes: map[ranksOfDay]*ranksOfDay{}}
	if !o.From.IsZero() {
		b.first = floor(o.From.UnixMilli(), slotMillis)
	}
	if !o.To.IsZero() {
		b.last = floor(o.To.UnixMilli(), slotMillis) + slotsADay - 1
	}
	if !o.From.IsZero() && !o.To.IsZero() {
		if o.To.Before(o.From) {
			return nil, fmt.Errorf("--from: %s is after --to %s: nearest %[2]s", date(b.first), date(floor(o.To.UnixMilli(), slotMillis)))
		}
		if days := (b.last - b.first + 1) / slotsADay; days > maxDays {
			return nil, fmt.Errorf("--to: %s is %d days after --from, but a report covers at most %d: nearest %s",
				date(b.last), days, maxDays, date(b.first+maxDays*slotsADay-1))
		}
	}
	if o.Host != nil {
		b.expect(o.Host)
	}
	return b, nil
}

// expect adds the due parameters.
func (b *Builder) expect(h *Host) {
	for i := range h.Due {
		x := &h.Due[i]
		d := b.named(x.Device)
		d.station, d.named = x.Station, math.MaxInt64
		if x.Parameter == "" { // a device without configured parameters
			continue
		}
		s := d.series[seriesKey{x.Parameter, x.Diagnostic}]
		if s == nil {
			s = newSeries()
			d.series[seriesKey{x.Parameter, x.Diagnostic}] = s
		}
		s.due, s.closed = x, true
		if x.Unit != "" {
			s.unit, s.named = x.Unit, math.MaxInt64
		}
	}
}

// Wait adds a waiting reading of the outbox; a point of a calibration counts as its slot. Call it after Add.
func (b *Builder) Wait(device string, r *payload.Reading) {
	stamp := r.Stamp.UnixMilli()
	if date, rest := audit.DateOf(stamp); r.Flag.Calibration() {
		slot, _ := b.slotOf(date, int(rest/pointMillis))
		stamp = slot * slotMillis
	}
	date, rest := audit.DateOf(stamp)
	slot := floor(stamp, slotMillis)
	if rest%slotMillis != 0 || b.o.Device != "" && b.o.Device != device || slot < b.first || slot > b.last {
		return
	}
	x := &audit.Series{Parameter: r.Parameter, Diagnostic: r.Diagnostic, Unit: r.Unit}
	x.Slots[rest/slotMillis] = audit.RankWaiting
	if b.o.Readings && !r.Flag.Calibration() {
		x.Values = new([audit.SlotsADay]audit.Reading)
		x.Values[rest/slotMillis] = audit.Readings([]payload.Reading{*r})[0]
	}
	s := b.device(&audit.Day{Device: device, Date: date}).of(date, x)
	s.closed = true
	if r.Minutes > 0 {
		if s.undecided == nil {
			s.undecided = map[int64]bool{}
		}
		s.undecided[slot] = true
	}
	b.slots(s, int64(date), x, true)
}

// Off adds a time when the host of a trail was off, known from another source.
func (b *Builder) Off(trail int, off audit.Off) { b.hosts[trail].off = append(b.hosts[trail].off, off) }

// take counts one day of a device in a file of a trail.
func (b *Builder) take(trail int, x *audit.Day, verified bool) {
	from := firstOf(int64(x.Date))
	due := from >= b.first && from <= b.last // the period begins and ends with a day
	if !due && !x.Slots() {
		return
	}
	d := b.device(x)
	switch d.trail {
	case -1:
		d.trail = trail
	case trail:
	default:
		d.trail = -2
	}
	if due {
		d.other.add(x.Late, x.Refused)
	}
	for _, y := range x.Series {
		b.offGrid += y.OffGrid
		if b.o.Device != "" && b.o.Device != d.id { // all devices set the period: the chosen one may be silent
			for at, r := range y.Slots {
				if r > audit.RankExcluded {
					b.within(from + int64(at))
				}
			}
			for at := range y.Points {
				slot, _ := b.slotOf(x.Date, at)
				b.within(slot)
			}
			continue
		}
		if !due && !y.Closed() {
			continue
		}
		s := d.of(x.Date, y)
		s.closed = s.closed || y.Closed()
		if due {
			s.samples.add(y.Late, y.Refused)
			for reason, n := range y.Reasons {
				if s.reasons == nil {
					s.reasons = map[string]int{}
				}
				s.reasons[reason] += n
			}
		}
		b.slots(s, int64(x.Date), y, verified)
		for at, r := range y.Points {
			b.point(s, x.Date, at, rank(r), verified)
		}
		s.calibrated(x.Date, y.Calibrations)
	}
}

// slots counts the slots of one day of a series.
func (b *Builder) slots(s *series, n int64, x *audit.Series, verified bool) {
	if x.Slots == (audit.Slots{}) {
		return
	}
	i, found := slices.BinarySearchFunc(s.days, n, func(d day, n int64) int { return cmp.Compare(d.n, n) })
	var ranks ranksOfDay
	var readings *[slotsADay]reading
	if found {
		ranks, readings = *s.days[i].ranks, s.days[i].readings
	}
	for at := range x.Slots {
		r := rank(x.Slots[at])
		slot := firstOf(n) + int64(at)
		if r > excluded {
			s.low, s.high = min(s.low, slot), max(s.high, slot)
		}
		if r == missing || r == excluded && (slot < b.first || slot > b.last) || r != excluded && !b.within(slot) {
			continue
		}
		if verified {
			r += verifiedRank
		}
		if r <= ranks[at] {
			continue
		}
		ranks[at] = r
		if b.o.Readings && x.Values != nil {
			if readings == nil {
				readings = new([slotsADay]reading)
			}
			v, flag := &x.Values[at], byte(spec.FlagNormal)
			if v.Flag != "" {
				flag = v.Flag[0]
			}
			readings[at] = reading{v.Value, b.unit(v.Unit), flag}
		}
	}
	if ranks == (ranksOfDay{}) {
		return
	}
	if !found {
		s.days = slices.Insert(s.days, i, day{})
	}
	shared := b.shapes[ranks]
	if shared == nil {
		shared = &ranks
		b.shapes[ranks] = shared
	}
	s.days[i] = day{n, shared, readings}
}

// within reports whether a slot is in the period, and extends the range of the trails. All devices extend it, even in a report
// of one device, which may be silent.
func (b *Builder) within(slot int64) bool {
	if !b.any {
		b.low, b.high, b.any = slot, slot, true
	}
	b.low, b.high = min(b.low, slot), max(b.high, slot)
	return b.first <= slot && slot <= b.last
}

// slotOf is the slot of a point in a day, and the point's bit in it.
func (b *Builder) slotOf(date audit.Date, at int) (slot int64, bit uint32) {
	stamp := date.Millis() + int64(at)*pointMillis
	slot, start := floor(stamp, slotMillis), int64(0)
	if b.o.Stamp == "end" { // the point stamped with the slot's end is its last one
		slot, start = floor(stamp-1, slotMillis)+1, pointMillis-slotMillis
	}
	return slot, uint32(1) << ((stamp - slot*slotMillis - start) / pointMillis)
}

// point counts a 30-second point of a calibration.
func (b *Builder) point(s *series, date audit.Date, at int, r rank, verified bool) {
	slot, bit := b.slotOf(date, at)
	if !b.within(slot) {
		return
	}
	switch r {
	case rejected:
		s.rejectedPoints++
		return
	case expired:
		s.expiredPoints++
		return
	}
	if s.points == nil {
		s.points = map[int64]points{}
	}
	p := s.points[slot]
	p.all |= bit
	if verified {
		p.verified |= bit
	}
	s.points[slot] = p
}

func (s *Samples) add(late, refused int) {
	s.Late += late
	s.Refused += refused
}

func (b *Builder) named(id string) *device {
	d := b.devices[id]
	if d == nil {
		d = &device{id: id, series: map[seriesKey]*series{}, named: math.MinInt64, trail: -1}
		b.devices[id] = d
	}
	return d
}

func newSeries() *series {
	return &series{named: math.MinInt64, low: math.MaxInt64, high: math.MinInt64}
}

func (b *Builder) device(x *audit.Day) *device {
	d := b.named(x.Device)
	if x.Station != "" && x.Date >= d.named {
		d.station, d.named = x.Station, x.Date
	}
	return d
}

func (d *device) of(date audit.Date, x *audit.Series) *series {
	key := seriesKey{x.Parameter, x.Diagnostic}
	s := d.series[key]
	if s == nil {
		s = newSeries()
		d.series[key] = s
	}
	if x.Unit != "" && date >= s.named {
		s.unit, s.named = x.Unit, date
	}
	return s
}

// day is nil if no line has it.
func (s *series) day(n int64) *day {
	i, found := slices.BinarySearchFunc(s.days, n, func(d day, n int64) int { return cmp.Compare(d.n, n) })
	if !found {
		return nil
	}
	return &s.days[i]
}

func (b *Builder) unit(name string) uint16 {
	n, ok := b.units[name]
	if !ok && len(b.unitNames) < math.MaxUint16 {
		n = uint16(len(b.unitNames))
		b.unitNames = append(b.unitNames, name)
		b.units[name] = n
	}
	return n
}

// firstOf is the first slot of an IST day.
func firstOf(day int64) int64 { return day*slotsADay - istSlots }

// split gives the IST day of a slot and its index in the day.
func split(slot int64) (day int64, at int) {
	return floor(slot+istSlots, slotsADay), int(mod(slot+istSlots, slotsADay))
}

func floor(a, n int64) int64 { return (a - mod(a, n)) / n }
func mod(a, n int64) int64   { return ((a % n) + n) % n }

// period is the first and the last expected slot. It is empty if last is before first.
func (b *Builder) period() (first, last int64, err error) {
	first, last = b.first, b.last
	if h := b.o.Host; h != nil {
		b.extend(h)
		last = min(last, floor(h.Until.UnixMilli(), slotMillis))
	}
	if !b.any && (b.o.From.IsZero() || b.o.To.IsZero()) {
		return 0, -1, nil
	}
	if b.o.From.IsZero() {
		first = b.low
	}
	if b.o.Host != nil {
	} else if b.o.To.IsZero() {
		last = b.high
	} else if !b.o.Now.IsZero() {
		due := floor(b.o.Now.UnixMilli(), slotMillis) - 1 + b.shift()
		if b.any {
			due = max(due, b.high)
		}
		last = min(last, due)
	}
	if days := (last - first) / slotsADay; days > maxDays {
		return 0, 0, fmt.Errorf("--from, --to: the trails have slots from %s to %s, but a report covers at most %d days: give both", clock(at(first)), clock(at(last)), maxDays)
	}
	return first, last, nil
}

// extend starts the period with the first due slot, or with the first line of the trails.
func (b *Builder) extend(h *Host) {
	for _, x := range h.Due {
		slot := floor(x.Since.UnixMilli(), slotMillis)
		if !x.Since.IsZero() && (!b.any || slot < b.low) {
			b.low, b.any = slot, true
		}
	}
	if !b.any && !b.begun.IsZero() {
		b.low, b.any = b.firstWindow()+1, true
	}
}

// span is the range in which slots of a series are expected.
func (s *series) span(b *Builder, first, last int64) (int64, int64) {
	switch {
	case b.o.Host == nil:
	case s.due == nil: // no longer in the configuration
		last = min(last, s.high)
	case !s.due.Since.IsZero():
		first = max(first, min(s.low, floor(s.due.Since.UnixMilli(), slotMillis)))
	}
	return first, last
}

// shift is the number of a window's stamp minus that of its start, in slots.
func (b *Builder) shift() int64 {
	if b.o.Stamp == "end" {
		return 1
	}
	return 0
}

// names lists the devices of the trails.
func (b *Builder) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(b.devices)), func(name string) bool { return name == "" })
}

func at(slot int64) time.Time { return time.UnixMilli(slot * slotMillis).In(spec.IST) }
func date(slot int64) string  { return at(slot).Format(time.DateOnly) }

// clock is a time for a person, to the minute.
func clock(t time.Time) string { return t.Format("2006-01-02 15:04") }
