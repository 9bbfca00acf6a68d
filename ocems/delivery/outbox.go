package delivery

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// slotID names one slot in the outbox: a device and a stamp in milliseconds since the Unix epoch.
type slotID struct {
	device string
	stamp  int64
}

func (id slotID) time() time.Time { return time.UnixMilli(id.stamp) }

// prefix begins the keys of the outbox. One value holds the waiting readings of one slot.
const prefix = "outbox/"

const (
	stampSize = 8
	signBit   = 1 << 63 // flipped, so that the order of the bytes is the order of the stamps
)

func (id slotID) key() string {
	stamp := binary.BigEndian.AppendUint64(nil, uint64(id.stamp)^signBit)
	return prefix + string(stamp) + "/" + id.device
}

// parseKey reads a key of the outbox.
func parseKey(key string) (id slotID, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || len(rest) <= stampSize+1 || rest[stampSize] != '/' {
		return slotID{}, false
	}
	stamp := binary.BigEndian.Uint64([]byte(rest[:stampSize])) ^ signBit
	return slotID{rest[stampSize+1:], int64(stamp)}, true
}

// damagedKey is where the damaged value of a key is kept, so that nothing of it is ever deleted.
func damagedKey(key string, at time.Time) string {
	name := strconv.Quote(key)
	if id, ok := parseKey(key); ok {
		name = prefix + id.time().UTC().Format("20060102T150405.000") + "/" + id.device
	}
	return "damaged/" + name + "/" + at.UTC().Format("20060102T150405.000000000")
}

// Every value begins with the version of its format and ends with the CRC-32C of all before it, in this version and in
// each later one. This distinguishes damage from a newer version.
const (
	formatVersion = 3
	sumSize       = 4
)

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("the state was written by a newer version of this program: use that version, or another place for the state")
	errIndex   = errors.New("an index of an older version, which holds no reading")
	errOlder   = errors.New("the state was written by an older version of this program: let that version deliver it, or use another place for the state")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Formats 1 and 2 had other keys: the readings were under olderSlots, beside a list of devices and an index a device.
const olderSlots = prefix + "slot/"

func isOlderIndex(key string) bool {
	return key == prefix+"devices" || strings.HasPrefix(key, prefix+"index/")
}

// frame ends a value, whose first byte is the version, with its checksum.
func frame(body []byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

// unframe takes version and checksum off.
func unframe(b []byte) (body []byte, err error) {
	end := len(b) - sumSize
	switch {
	case end < 1 || crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]):
		return nil, errDamaged
	case b[0] > formatVersion:
		return nil, errNewer
	case b[0] < formatVersion:
		return nil, errDamaged
	}
	return b[1:end], nil
}

func encodeReadings(rs []payload.Reading) []byte {
	out := []byte{formatVersion}
	for _, r := range rs {
		out = appendText(out, r.Parameter)
		out = appendText(out, r.Unit)
		out = appendText(out, r.Statistic)
		out = binary.AppendUvarint(out, uint64(min(max(r.Samples, 0), math.MaxInt32)))
		out = binary.BigEndian.AppendUint64(out, math.Float64bits(r.Value))
		diagnostic := byte(0)
		if r.Diagnostic {
			diagnostic = 1
		}
		out = append(out, byte(r.Flag), diagnostic)
	}
	return frame(out)
}

func appendText(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// decodeReadings reads a slot's value. Without an error there is at least one reading, and each of them can be sent.
func decodeReadings(value []byte, stamp int64) (rs []payload.Reading, err error) {
	body, err := unframe(value)
	if err != nil {
		return nil, err
	}
	d := decoder{body}
	for len(d.rest) > 0 {
		r := payload.Reading{Stamp: time.UnixMilli(stamp), Parameter: d.text(), Unit: d.text(), Statistic: d.text(), Samples: d.count()}
		last := d.bytes(10)
		if last == nil || last[9] > 1 {
			return nil, errDamaged
		}
		r.Value = math.Float64frombits(binary.BigEndian.Uint64(last))
		r.Flag, r.Diagnostic = spec.Flag(last[8]), last[9] == 1
		if r.Check() != nil { // nothing was stored that could not be sent
			return nil, errDamaged
		}
		rs = append(rs, r)
	}
	if len(rs) == 0 {
		return nil, errDamaged
	}
	return rs, nil
}

// decoder reads from the front of a value. After a fault nothing is left to read.
type decoder struct{ rest []byte }

func (d *decoder) count() int {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n > math.MaxInt32 {
		d.rest = nil
		return 0
	}
	d.rest = d.rest[size:]
	return int(n)
}

// bytes returns the next n bytes, or nil.
func (d *decoder) bytes(n int) (b []byte) {
	if n > len(d.rest) {
		d.rest = nil
		return nil
	}
	b, d.rest = d.rest[:n:n], d.rest[n:]
	return b
}

func (d *decoder) text() string { return string(d.bytes(d.count())) }
