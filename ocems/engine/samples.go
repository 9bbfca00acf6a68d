package engine

import (
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// sample is a reading that has its name, or a fault for which it cannot be in any slot.
type sample struct {
	slot.Sample
	fault
	live  bool // its time is of this machine's clock
	count int  // of readings that it stands for in the trail; 0 is one
}

// liveBit is set beside a flag, which is a letter.
const liveBit = 0x80

// fault is why a reading can be in no slot: one word of few, and what that and the reading do not tell.
type fault struct {
	reason  slot.Reason
	detail  string
	stamped bool // the reading's time is its slot's stamp
}

// head is what many samples of a batch have in common.
type head struct {
	slot.Series
	unit      string
	statistic slot.Statistic
	source    uint64
	fault
}

func (x *sample) head() head {
	return head{x.Series, x.Unit, x.Statistic, x.Source, x.fault}
}

// formatVersion is that of the engine's values, see [frame].
const formatVersion = 2

// encodeSamples returns the samples of one batch: when they arrived, what many have in common once each, and the samples.
func encodeSamples(m moment, samples []sample) []byte {
	index := make(map[head]uint64, 16)
	heads, body := frame.New(formatVersion), frame.Sized(formatVersion, 24*len(samples))
	last := int64(0)
	for i := range samples {
		x := &samples[i]
		h := x.head()
		n, known := index[h]
		if !known {
			n = uint64(len(index))
			index[h] = n
			h.encode(heads)
		}
		at := x.Time.Unix() // and its nanoseconds apart: a wrong time may be too far away to count them
		body.Uint(n)
		flag := byte(x.Flag)
		if x.live {
			flag |= liveBit
		}
		body.Byte(flag)
		body.Int(at - last)
		body.Uint(uint64(x.Time.Nanosecond()))
		body.Float(x.Value)
		last = at
	}
	e := frame.Sized(formatVersion, len(heads.Body())+len(body.Body())+64)
	e.Int(m.now.UnixNano())
	e.Uint(m.era)
	e.Int(int64(m.skew / time.Second))
	e.Uint(uint64(len(index)))
	e.Append(heads.Body())
	e.Uint(uint64(len(samples)))
	e.Append(body.Body())
	return e.Body()
}

func (h *head) encode(e *frame.Encoder) {
	for _, text := range []string{h.Device, h.Parameter, h.unit, string(h.reason), h.detail} {
		e.Text(text)
	}
	e.Bool(h.Diagnostic)
	e.Bool(h.stamped)
	e.Byte(byte(h.statistic))
	e.Fixed(h.source)
}

func decodeHead(d *frame.Decoder) head {
	h := head{Series: slot.Series{Device: d.Text(), Parameter: d.Text()}, unit: d.Text(), fault: fault{reason: slot.Reason(d.Text()), detail: d.Text()}}
	h.Diagnostic, h.stamped, h.statistic, h.source = d.Bool(), d.Bool(), slot.Statistic(d.Byte()), d.Fixed()
	if h.statistic > slot.Median {
		d.Fail("an unknown statistic")
	}
	return h
}

// decodeSamples reads the next batch.
func decodeSamples(d *frame.Decoder) (m moment, samples []sample, err error) {
	m = moment{time.Unix(0, d.Int()), d.Uint(), time.Duration(d.Int()%(1<<33)) * time.Second}
	heads := make([]head, d.Count(1))
	for i := range heads {
		heads[i] = decodeHead(d)
	}
	last := int64(0)
	for n := d.Count(12); n > 0 && d.Err() == nil; n-- {
		place := d.Uint()
		if place >= uint64(len(heads)) {
			d.Fail("a sample of no series")
			break
		}
		h := &heads[place]
		x := sample{Sample: slot.Sample{Series: h.Series, Unit: h.unit, Statistic: h.statistic, Source: h.source}, fault: h.fault}
		flag := d.Byte()
		x.Flag, x.live = spec.Flag(flag&^liveBit), flag&liveBit != 0
		last += d.Int()
		nanos := d.Uint()
		if nanos >= uint64(time.Second) {
			d.Fail("no time")
		}
		x.Time, x.Value = time.Unix(last, int64(nanos)), d.Float()
		samples = append(samples, x)
	}
	return m, samples, d.Err()
}
