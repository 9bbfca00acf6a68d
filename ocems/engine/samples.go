package engine

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// sample is a reading with its name, or with a fault that keeps it out of every slot.
type sample struct {
	*head // shared by several samples
	fault
	slot.Reading
	count int  // readings that it stands for in the trail; 0 counts as 1
	live  bool // its time comes from this machine's clock
}

// head is what many samples have in common. Only the aligner changes it.
type head = slot.Head

// sampleOf makes a sample from a slot that is refused.
func sampleOf(s slot.Slot) sample {
	return sample{head: &head{Series: s.Series, Unit: s.Unit, Statistic: s.Statistic}, Reading: slot.Reading{Time: s.Start, Value: s.Value, Flag: s.Flag}}
}

// seenFrom adds the server's skew to the reading. It is 0 for a reading with this machine's time.
func (x *sample) seenFrom(skew time.Duration) slot.Reading {
	r := x.Reading
	if r.Skew = skew; x.live {
		r.Skew = 0
	}
	return r
}

// fault is why a reading can be in no slot: a reason, and what reason and reading do not say.
type fault struct {
	reason  slot.Reason
	detail  string
	stamped bool // the reading's time is its slot's stamp already
}

// formatVersion is the version of the engine's values, see [frame].
const formatVersion = 4

// Bits of a sample's first byte: its head, whether its manner differs from the sample before, the form of its time, and
// the form of its value: 8 bytes, or an integer in units of the last decimal place.
const (
	headSame  = iota // same head as the sample before
	headNext         // next head in the order of first use
	headNamed        // the head's number follows
	headNew

	mannerNew = 1 << 2 // flag, liveness and fault follow

	timeSame   = 0 << 3
	timeSecond = 1 << 3 // difference in seconds from the sample before follows
	timeFull   = 2 << 3 // and then the fraction of a second

	valueRaw = 0 << 5
	decimals = 7 // decimal places + 1 beside valueRaw: 1 is an integer, 2 has one place
)

var powers = [decimals]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6}

// liveBit is combined with a flag, which is a letter.
const liveBit = 0x80

// coder encodes samples. It can be reused.
type coder struct {
	b      []byte
	heads  map[*head]uint64
	faults map[fault]uint64
}

// manner is what differs in few samples of a batch.
type manner struct {
	fault
	flag byte
}

func (x *sample) manner() manner {
	m := manner{x.fault, byte(x.Flag)}
	if x.live {
		m.flag |= liveBit
	}
	return m
}

// encode returns the samples of one batch: the time of arrival, and each sample as its difference from the one before.
func (c *coder) encode(m moment, samples []sample) []byte {
	if c.heads == nil {
		c.heads = map[*head]uint64{}
	}
	clear(c.heads)
	clear(c.faults)
	b := binary.AppendVarint(c.b[:0], m.now.UnixNano())
	b = binary.AppendUvarint(b, m.era)
	b = binary.AppendVarint(b, int64(m.skew/time.Second))
	b = binary.AppendUvarint(b, uint64(len(samples)))
	var (
		last   *head
		newest = &head{} // last new head
		number uint64
		how    = manner{flag: byte(spec.FlagNormal)}
		at     = m.now.Unix()
		nanos  int
	)
	for i := range samples {
		x := &samples[i]
		first := len(b)
		b = append(b, 0)
		control := byte(headSame)
		if x.head != last {
			n, known := c.heads[x.head]
			switch {
			case !known:
				control, n = headNew, uint64(len(c.heads))
				c.heads[x.head] = n
				b = appendHead(b, x.head, newest)
				newest = x.head
			case n == number+1:
				control = headNext
			default:
				control = headNamed
				b = binary.AppendUvarint(b, n)
			}
			last, number = x.head, n
		}
		if m := x.manner(); m != how {
			control |= mannerNew
			b, how = c.manner(b, m), m
		}
		second, beyond := x.Time.Unix(), x.Time.Nanosecond()
		switch {
		case beyond != nanos:
			control |= timeFull
			b = binary.AppendVarint(b, second-at) // may wrap, because a wrong time may be far away
			if beyond%int(time.Millisecond) == 0 {
				b = binary.AppendUvarint(b, uint64(beyond)/uint64(time.Millisecond)<<1)
			} else {
				b = binary.AppendUvarint(b, uint64(beyond)<<1|1)
			}
		case second != at:
			control |= timeSecond
			b = binary.AppendVarint(b, second-at)
		}
		at, nanos = second, beyond
		if units, places, ok := decimal(x.Value); ok {
			control |= byte(places+1) << 5
			b = binary.AppendVarint(b, units)
		} else {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x.Value))
		}
		b[first] = control
	}
	c.b = b
	return b
}

// decimal returns a value as an integer in units of its last decimal place, if that is exact and shorter.
func decimal(v float64) (units int64, places int, ok bool) {
	for places, power := range powers {
		x := v * power
		if !(math.Abs(x) < 1<<40) {
			break
		}
		if units := int64(x); float64(units) == x && x/power == v && (units != 0 || !math.Signbit(v)) {
			return units, places, true
		}
	}
	return 0, 0, false
}

func (c *coder) manner(b []byte, m manner) []byte {
	b = append(b, m.flag)
	if m.fault == (fault{}) {
		return append(b, 0)
	}
	n, known := c.faults[m.fault]
	if known {
		return binary.AppendUvarint(b, n+2)
	}
	if c.faults == nil {
		c.faults = map[fault]uint64{}
	}
	c.faults[m.fault] = uint64(len(c.faults))
	e := frame.New(formatVersion)
	e.Byte(1)
	e.Text(string(m.reason))
	e.Text(m.detail)
	e.Bool(m.stamped)
	return append(b, e.Body()...)
}

// Parts of a head that are the same as in the head before.
const (
	sameDevice = 1 << iota
	sameParameter
	sameUnit
	sameSource
	isDiagnostic
	statisticBits // the bits above are the statistic, or withStep
)

// withStep means that the statistic and the greatest step follow.
const withStep = 255 / statisticBits

// appendHead writes a head as its difference from the one before. Of a text it writes the length of the common prefix
// and the rest.
func appendHead(b []byte, h, before *head) []byte {
	statistic := byte(h.Statistic)
	if h.MaxStep > 0 {
		statistic = withStep
	}
	control := statistic * statisticBits
	if h.Diagnostic {
		control |= isDiagnostic
	}
	at := len(b)
	b = append(b, 0)
	text := func(bit byte, text, before string) {
		if text == before {
			control |= bit
			return
		}
		common := 0
		for common < min(len(text), len(before)) && text[common] == before[common] {
			common++
		}
		b = binary.AppendUvarint(b, uint64(common))
		b = binary.AppendUvarint(b, uint64(len(text)-common))
		b = append(b, text[common:]...)
	}
	text(sameDevice, h.Device, before.Device)
	text(sameParameter, h.Parameter, before.Parameter)
	text(sameUnit, h.Unit, before.Unit)
	if h.Source == before.Source {
		control |= sameSource
	} else {
		b = binary.LittleEndian.AppendUint64(b, h.Source)
	}
	if b[at] = control; statistic == withStep {
		b = append(b, byte(h.Statistic))
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(h.MaxStep))
	}
	return b
}

func decodeHead(d *frame.Decoder, before *head) *head {
	control := d.Byte()
	text := func(bit byte, before string) string {
		if control&bit != 0 {
			return before
		}
		common := d.Uint()
		if common > uint64(len(before)) {
			d.Fail("an invalid common prefix")
			return ""
		}
		return before[:common] + d.Text()
	}
	h := &head{Series: slot.Series{Device: text(sameDevice, before.Device), Parameter: text(sameParameter, before.Parameter)}}
	h.Unit = text(sameUnit, before.Unit)
	if h.Source = before.Source; control&sameSource == 0 {
		h.Source = d.Fixed()
	}
	h.Diagnostic, h.Statistic = control&isDiagnostic != 0, slot.Statistic(control/statisticBits)
	if h.Statistic == withStep {
		if h.Statistic, h.MaxStep = slot.Statistic(d.Byte()), d.Float(); !(h.MaxStep > 0) {
			d.Fail("an invalid step")
		}
	}
	if !h.Statistic.Valid() {
		d.Fail("an unknown statistic")
	}
	return h
}

// decoder is the state of decodeSamples.
type decoder struct {
	*frame.Decoder
	heads  []*head
	faults []fault
}

func (d *decoder) fault() (f fault) {
	switch n := d.Uint(); {
	case n == 0:
	case n == 1:
		f = fault{slot.Reason(d.Text()), d.Text(), d.Bool()}
		d.faults = append(d.faults, f)
	case n-2 < uint64(len(d.faults)):
		f = d.faults[n-2]
	default:
		d.Fail("an unknown fault")
	}
	return f
}

// number returns the number of a sample's head.
func (d *decoder) number(control byte, last int) int {
	n := uint64(last)
	switch control & 3 {
	case headNew:
		before := &head{}
		if len(d.heads) > 0 {
			before = d.heads[len(d.heads)-1]
		}
		d.heads = append(d.heads, decodeHead(d.Decoder, before))
		return len(d.heads) - 1
	case headNext:
		n++
	case headNamed:
		n = d.Uint()
	}
	if n >= uint64(len(d.heads)) {
		d.Fail("an unknown series")
		return -1
	}
	return int(n)
}

// decodeSamples reads the next batch.
func decodeSamples(frames *frame.Decoder) (m moment, samples []sample, err error) {
	d := decoder{Decoder: frames}
	m = moment{time.Unix(0, d.Int()), d.Uint(), time.Duration(d.Int()%(1<<33)) * time.Second}
	x := sample{Reading: slot.Reading{Flag: spec.FlagNormal}}
	number, at, nanos := -1, m.now.Unix(), uint64(0)
	for n := d.Count(2); n > 0 && d.Err() == nil; n-- {
		control := d.Byte()
		if number = d.number(control, number); number < 0 {
			break
		}
		x.head = d.heads[number]
		if control&mannerNew != 0 {
			flag := d.Byte()
			x.Flag, x.live = spec.Flag(flag&^liveBit), flag&liveBit != 0
			x.fault = d.fault()
		}
		switch control & (3 << 3) {
		case timeSame:
		case timeSecond:
			at += d.Int()
		case timeFull:
			at += d.Int()
			if nanos = d.Uint(); nanos&1 == 0 {
				nanos *= uint64(time.Millisecond)
			}
			if nanos >>= 1; nanos >= uint64(time.Second) {
				d.Fail("no time")
			}
		default:
			d.Fail("an unknown form of time")
		}
		x.Time = time.Unix(at, int64(nanos))
		if places := control >> 5; places == 0 {
			x.Value = d.Float()
		} else {
			x.Value = float64(d.Int()) / powers[places-1]
		}
		samples = append(samples, x)
	}
	return m, samples, d.Err()
}
