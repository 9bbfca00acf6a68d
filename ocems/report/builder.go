package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	slotMillis  = int64(spec.SlotLength / time.Millisecond)
	pointMillis = int64(spec.CalibrationLength / time.Millisecond)
	slotsADay   = int64(24 * time.Hour / spec.SlotLength)
	istSlots    = 22 // IST is 22 slots before UTC
	allPoints   = uint32(1)<<(slotMillis/pointMillis) - 1

	// maxDays keeps a senseless stamp in an altered trail from asking for centuries of slots.
	maxDays  = 3660
	maxStamp = 253402281000000 // the last slot of the year 9999 in IST
)

// Options choose what is reported. The period is one for all devices, so that a device that fell silent is missing.
type Options struct {
	From, To time.Time // days in IST, both included; zero is the first or last slot of the trails
	Device   string    // only this one; empty is all
	Stamp    string    // the bound of its window that stamps a slot: "end" (default) or "start"
	Now      time.Time // no slot is expected after it
	Readings bool      // keep the readings too, for HTML
}

// Builder takes in trails.
type Builder struct {
	o           Options
	first, last int64 // slots of the period that the options give; the whole range where they give none
	low, high   int64 // slots that the trails name
	any         bool
	trails      []Trail
	devices     map[string]*device
	offGrid     int
	units       map[string]uint16
	unitNames   []string
}

type device struct {
	station, id string
	series      map[seriesKey]*series
	other       Samples // that name no parameter
}

type seriesKey struct {
	parameter  string
	diagnostic bool
}

type series struct {
	days                          map[int64]*day // by IST day
	unit                          string
	closed                        bool    // it had a slot, of whatever time
	samples                       Samples // in no slot
	rejectedPoints, expiredPoints int
}

type day struct {
	rank     [slotsADay]rank
	readings *[slotsADay]reading
	points   *[slotsADay]points
}

// reading is the value that a slot was delivered, or refused, with.
type reading struct {
	value float64
	unit  uint16
	flag  byte
}

// points has a bit for each of the 30-second points of a slot that were delivered.
type points struct{ all, verified uint32 }

// rank orders what several lines say of a slot: what is verified before what is not, and then what is best.
type rank uint8

const (
	missing rank = iota
	expired
	rejected
	stored
	delivered
	ranks
	verifiedRank = ranks - 1 // is added to one of the above
)

func (r rank) outcome() rank {
	if r >= ranks {
		return r - verifiedRank
	}
	return r
}

func (r rank) verified() bool { return r >= ranks }

// New prepares a report.
func New(o Options) (*Builder, error) {
	switch o.Stamp {
	case "":
		o.Stamp = "end"
	case "start", "end":
	default:
		return nil, fmt.Errorf("--stamp: %q is neither end nor start: nearest %s", o.Stamp, spec.Nearest(o.Stamp, []string{"end", "start"})[0])
	}
	b := &Builder{o: o, first: math.MinInt64, last: math.MaxInt64, devices: map[string]*device{}, units: map[string]uint16{"": 0}, unitNames: []string{""}}
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
			return nil, fmt.Errorf("--to: %s is %d days after --from, and a report has at most %d: nearest %s",
				date(b.last), days, maxDays, date(b.first+maxDays*slotsADay-1))
		}
	}
	return b, nil
}

// take counts one line.
func (b *Builder) take(t *Trail, e *audit.Entry, verified bool) {
	var r rank
	switch e.Outcome {
	case audit.Delivered:
		r = delivered
	case audit.AlreadyStored:
		r = stored
	case audit.Rejected:
		r = rejected
	case audit.Expired:
		r = expired
	case audit.Late, audit.Refused:
		b.samples(e)
		return
	case audit.Recovered:
		t.Recovered++
		return
	default:
		t.Unreadable++
		return
	}
	if e.Stamp < 0 || e.Stamp > maxStamp {
		t.Unreadable++
		return
	}
	if verified {
		r += verifiedRank
	}
	d := b.device(e)
	for i := range e.Readings {
		x := &e.Readings[i]
		s := d.of(x)
		s.closed = true
		if x.Flag == "C" || x.Flag == "Z" {
			b.point(s, e.Stamp, r)
			continue
		}
		if mod(e.Stamp, slotMillis) != 0 {
			b.offGrid++
			continue
		}
		slot := floor(e.Stamp, slotMillis)
		if !b.within(slot) || b.o.Device != "" && d.id != b.o.Device {
			continue
		}
		day, at := s.day(slot)
		if r <= day.rank[at] {
			continue
		}
		day.rank[at] = r
		if b.o.Readings {
			if day.readings == nil {
				day.readings = new([slotsADay]reading)
			}
			flag := byte(spec.FlagNormal)
			if x.Flag != "" {
				flag = x.Flag[0]
			}
			day.readings[at] = reading{x.Value, b.unit(x.Unit), flag}
		}
	}
}

// within tells whether a slot is in the period, and widens by it what the trails name. All devices widen it, also for
// a report of one: it may be the one that fell silent.
func (b *Builder) within(slot int64) bool {
	if !b.any {
		b.low, b.high, b.any = slot, slot, true
	}
	b.low, b.high = min(b.low, slot), max(b.high, slot)
	return b.first <= slot && slot <= b.last
}

// point takes a 30-second point of a calibration.
func (b *Builder) point(s *series, stamp int64, r rank) {
	if mod(stamp, pointMillis) != 0 {
		b.offGrid++
		return
	}
	slot, start := floor(stamp, slotMillis), int64(0)
	if b.o.Stamp == "end" { // the point stamped with the slot's end is its last one
		slot, start = floor(stamp-1, slotMillis)+1, pointMillis-slotMillis
	}
	bit := uint32(1) << ((stamp - slot*slotMillis - start) / pointMillis)
	if !b.within(slot) {
		return
	}
	switch r.outcome() {
	case rejected:
		s.rejectedPoints++
		return
	case expired:
		s.expiredPoints++
		return
	}
	day, at := s.day(slot)
	if day.points == nil {
		day.points = new([slotsADay]points)
	}
	p := &day.points[at]
	p.all |= bit
	if r.verified() {
		p.verified |= bit
	}
}

// samples counts those that came too late or were refused.
func (b *Builder) samples(e *audit.Entry) {
	if slot := floor(cmp.Or(e.Stamp, e.Time.UnixMilli()), slotMillis); slot < b.first || slot > b.last {
		return
	}
	d := b.device(e)
	r := audit.Reading{Parameter: e.Parameter}
	if len(e.Readings) > 0 {
		r = e.Readings[0]
	}
	to := &d.other
	if r.Parameter != "" {
		to = &d.of(&r).samples
	}
	if n := max(e.Count, 1); e.Outcome == audit.Late {
		to.Late += n
	} else {
		to.Refused += n
	}
}

func (b *Builder) device(e *audit.Entry) *device {
	d := b.devices[e.Device]
	if d == nil {
		d = &device{id: e.Device, series: map[seriesKey]*series{}}
		b.devices[e.Device] = d
	}
	if e.Station != "" {
		d.station = e.Station
	}
	return d
}

func (d *device) of(r *audit.Reading) *series {
	key := seriesKey{r.Parameter, r.Diagnostic}
	s := d.series[key]
	if s == nil {
		s = &series{days: map[int64]*day{}}
		d.series[key] = s
	}
	if r.Unit != "" {
		s.unit = r.Unit
	}
	return s
}

func (s *series) day(slot int64) (*day, int) {
	n, at := split(slot)
	d := s.days[n]
	if d == nil {
		d = &day{}
		s.days[n] = d
	}
	return d, at
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

// split gives the IST day of a slot and its place in it.
func split(slot int64) (day int64, at int) {
	return floor(slot+istSlots, slotsADay), int(mod(slot+istSlots, slotsADay))
}

func floor(a, n int64) int64 { return (a - mod(a, n)) / n }
func mod(a, n int64) int64   { return ((a % n) + n) % n }

// period is the first and the last slot that are expected. It is empty where last is before first.
func (b *Builder) period() (first, last int64, err error) {
	first, last = b.first, b.last
	if !b.any && (b.o.From.IsZero() || b.o.To.IsZero()) {
		return 0, -1, nil
	}
	if b.o.From.IsZero() {
		first = b.low
	}
	if b.o.To.IsZero() {
		last = b.high
	} else if !b.o.Now.IsZero() {
		due := floor(b.o.Now.UnixMilli(), slotMillis)
		if b.o.Stamp == "start" {
			due--
		}
		if b.any {
			due = max(due, b.high)
		}
		last = min(last, due)
	}
	if days := (last - first) / slotsADay; days > maxDays {
		return 0, 0, fmt.Errorf("--from, --to: the trails name slots from %s to %s, and a report has at most %d days: give both", clock(first), clock(last), maxDays)
	}
	return first, last, nil
}

// named lists the devices of the trails.
func (b *Builder) named() []string {
	var names []string
	for name := range b.devices {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func at(slot int64) time.Time { return time.UnixMilli(slot * slotMillis).In(spec.IST) }
func date(slot int64) string  { return at(slot).Format(time.DateOnly) }
func clock(slot int64) string { return at(slot).Format("2006-01-02 15:04") }
