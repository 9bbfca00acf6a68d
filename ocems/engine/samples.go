package engine

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// sample is a reading that has its name, or a fault for which it cannot be in any slot.
type sample struct {
	slot.Sample
	fault
}

// fault is why a reading can be in no slot: one word of few, and what it says of this reading.
type fault struct {
	reason slot.Reason
	detail string
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

// Every value of the state begins with the version of its format and ends with the CRC-32C of all before it, in this
// version and in each later one: this distinguishes damage from a newer version.
const (
	formatVersion = 1
	sumSize       = 4
)

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("a newer version of this program wrote it: use that version, or another place for the state")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// seal ends a value, whose first byte is the version, with its checksum.
func seal(value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, crc32.Checksum(value, castagnoli))
}

// unseal takes version and checksum off.
func unseal(value []byte) (body []byte, err error) {
	end := len(value) - sumSize
	switch {
	case end < 1 || crc32.Checksum(value[:end], castagnoli) != binary.BigEndian.Uint32(value[end:]):
		return nil, errDamaged
	case value[0] > formatVersion:
		return nil, errNewer
	}
	return value[1:end], nil
}

// encodeSamples writes the samples of one batch: when they arrived, what many have in common once each, and the samples.
func encodeSamples(now time.Time, samples []sample) []byte {
	index := make(map[head]uint64, 16)
	heads := make([]byte, 0, 256)
	body := make([]byte, 0, 16*len(samples))
	last := int64(0)
	for i := range samples {
		x := &samples[i]
		h := x.head()
		n, known := index[h]
		if !known {
			n = uint64(len(index))
			index[h] = n
			heads = h.append(heads)
		}
		at := x.Time.Unix() // and its nanoseconds apart: a wrong time may be too far away to count them
		body = binary.AppendUvarint(body, n)
		body = append(body, byte(x.Flag))
		body = binary.AppendVarint(body, at-last)
		body = binary.AppendUvarint(body, uint64(x.Time.Nanosecond()))
		body = binary.LittleEndian.AppendUint64(body, math.Float64bits(x.Value))
		last = at
	}
	out := binary.AppendVarint(make([]byte, 0, 16+len(heads)+len(body)), now.UnixNano())
	out = binary.AppendUvarint(out, uint64(len(index)))
	out = append(out, heads...)
	out = binary.AppendUvarint(out, uint64(len(samples)))
	return append(out, body...)
}

func (h *head) append(b []byte) []byte {
	for _, text := range []string{h.Device, h.Parameter, h.unit, string(h.reason), h.detail} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	diagnostic := byte(0)
	if h.Diagnostic {
		diagnostic = 1
	}
	b = append(b, diagnostic, byte(h.statistic))
	return binary.LittleEndian.AppendUint64(b, h.source)
}

// decodeSamples reads the next batch of b and returns what follows it.
func decodeSamples(b []byte) (now time.Time, samples []sample, rest []byte, err error) {
	d := decoder{b: b}
	now = time.Unix(0, d.int())
	heads := make([]head, d.count(1))
	for i := range heads {
		h := &heads[i]
		h.Device, h.Parameter, h.unit, h.reason, h.detail = d.text(), d.text(), d.text(), slot.Reason(d.text()), d.text()
		diagnostic := d.byte()
		h.Diagnostic, h.statistic, h.source = diagnostic == 1, slot.Statistic(d.byte()), d.fixed()
		if diagnostic > 1 || h.statistic > slot.Median {
			d.fail()
		}
	}
	last := int64(0)
	for n := d.count(12); n > 0 && !d.bad; n-- {
		place := d.uint()
		if place >= uint64(len(heads)) {
			d.fail()
			break
		}
		h := &heads[place]
		x := sample{Sample: slot.Sample{Series: h.Series, Unit: h.unit, Statistic: h.statistic, Source: h.source}, fault: h.fault}
		x.Flag = spec.Flag(d.byte())
		last += d.int()
		nanos := d.uint()
		if nanos >= uint64(time.Second) {
			d.fail()
		}
		x.Time, x.Value = time.Unix(last, int64(nanos)), math.Float64frombits(d.fixed())
		samples = append(samples, x)
	}
	if d.bad {
		return now, nil, nil, errDamaged
	}
	return now, samples, d.b, nil
}

// decoder reads a value. After a fault every further read gives zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many entries of at least the given size follow.
func (d *decoder) count(size uint64) uint64 {
	n := d.uint()
	if n > uint64(len(d.b))/size {
		d.fail()
		return 0
	}
	return n
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) fixed() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) text() string { return string(d.take(d.uint())) }
