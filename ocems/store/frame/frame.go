// Package frame encodes and decodes the values of a state. A value begins with the version of its format and ends with
// the CRC-32C of all before it. This holds for all later versions too, so damage and a newer version can be
// distinguished.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Reasons why a value is not decoded.
var (
	ErrDamaged = errors.New("damaged")
	ErrNewer   = errors.New("a newer version of this program wrote it: use that version, or another place for the state")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

// Encoder builds a value.
type Encoder struct{ b []byte }

// New begins a value of a version.
func New(version byte) *Encoder { return Sized(version, 256) }

// Sized is New for a value of about size bytes.
func Sized(version byte, size int) *Encoder { return &Encoder{append(make([]byte, 0, size), version)} }

// Uint appends a number of one byte or more.
func (e *Encoder) Uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

// Int appends a signed number of one byte or more.
func (e *Encoder) Int(v int64) { e.b = binary.AppendVarint(e.b, v) }

// Fixed appends a number of eight bytes.
func (e *Encoder) Fixed(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

// Float appends a float.
func (e *Encoder) Float(v float64) { e.Fixed(math.Float64bits(v)) }

// Byte appends a byte.
func (e *Encoder) Byte(v byte) { e.b = append(e.b, v) }

// Bool appends a boolean.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Byte(1)
	} else {
		e.Byte(0)
	}
}

// Text appends a text and its length.
func (e *Encoder) Text(v string) {
	e.Uint(uint64(len(v)))
	e.b = append(e.b, v...)
}

// Append appends bytes unchanged.
func (e *Encoder) Append(b []byte) { e.b = append(e.b, b...) }

// Seal appends the checksum and returns the value.
func (e *Encoder) Seal() []byte {
	return binary.BigEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
}

// Body returns the content without version and checksum, for [Encoder.Append] of another value.
func (e *Encoder) Body() []byte { return e.b[1:] }

// Decoder reads a value. After a fault nothing is left, and every further read returns zero.
type Decoder struct {
	b   []byte
	err error
}

// Open checks a value of a version. The error is [ErrDamaged] or [ErrNewer].
func Open(value []byte, version byte) (*Decoder, error) {
	end := len(value) - sumSize
	switch {
	case end < 1 || crc32.Checksum(value[:end], castagnoli) != binary.BigEndian.Uint32(value[end:]):
		return nil, ErrDamaged
	case value[0] > version:
		return nil, ErrNewer
	case value[0] < version:
		return nil, ErrDamaged
	}
	return &Decoder{b: value[1:end]}, nil
}

// Fail records a fault, unless there was one before.
func (d *Decoder) Fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrDamaged, why)
	}
	d.b = nil
}

// Err wraps [ErrDamaged] after a fault.
func (d *Decoder) Err() error { return d.err }

// Rest returns all remaining bytes.
func (d *Decoder) Rest() []byte { return d.take(uint64(len(d.b))) }

// Left is the number of remaining bytes.
func (d *Decoder) Left() int { return len(d.b) }

func (d *Decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.Fail("cut off")
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

// Uint reads what Encoder.Uint wrote.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.Fail("cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Int reads what Encoder.Int wrote.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.Fail("cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Count reads the number of entries that follow, each of at least size bytes.
func (d *Decoder) Count(size uint64) uint64 {
	n := d.Uint()
	if n > uint64(len(d.b))/size {
		d.Fail("cut off")
		return 0
	}
	return n
}

// Fixed reads what Encoder.Fixed wrote.
func (d *Decoder) Fixed() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Float reads what Encoder.Float wrote.
func (d *Decoder) Float() float64 { return math.Float64frombits(d.Fixed()) }

// Byte reads a byte.
func (d *Decoder) Byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// Bool reads what Encoder.Bool wrote.
func (d *Decoder) Bool() bool {
	v := d.Byte()
	if v > 1 {
		d.Fail("an invalid boolean")
	}
	return v == 1
}

// Text reads what Encoder.Text wrote.
func (d *Decoder) Text() string { return string(d.Bytes()) }

// Bytes reads what Encoder.Text wrote, as a part of the value.
func (d *Decoder) Bytes() []byte { return d.take(d.Uint()) }
