package delivery

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// slotID identifies a slot in the outbox: a device and a stamp in milliseconds since the Unix epoch.
type slotID struct {
	device string
	stamp  int64
}

func (id slotID) time() time.Time { return time.UnixMilli(id.stamp) }

// prefix begins the keys of the outbox. One value has the waiting readings of one slot.
const prefix = "outbox/"

const (
	stampSize = 8
	signBit   = 1 << 63 // flipped, so that byte order is stamp order
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

// damagedKey is the key under which a damaged value is kept, so that it is never deleted.
func damagedKey(key string, at time.Time) string {
	name := strconv.Quote(key)
	if id, ok := parseKey(key); ok {
		name = prefix + id.time().UTC().Format("20060102T150405.000") + "/" + id.device
	}
	return "damaged/" + name + "/" + at.UTC().Format("20060102T150405.000000000")
}

// formatVersion is the version of a slot's value, see [frame].
const formatVersion = 4

// encodeReadings encodes a slot's value. made is the running time at which the slot was made.
func encodeReadings(made time.Duration, rs []payload.Reading) []byte {
	e := frame.Sized(formatVersion, 16+64*len(rs))
	e.Uint(uint64(max(made, 0) / time.Second))
	for _, r := range rs {
		e.Text(r.Parameter)
		e.Text(r.Unit)
		e.Text(r.Statistic)
		e.Uint(uint64(min(max(r.Samples, 0), math.MaxInt32)))
		e.Float(r.Value)
		e.Byte(byte(r.Flag))
		e.Bool(r.Diagnostic)
		e.Uint(r.Era)
		e.Uint(uint64(min(max(r.Minutes, 0), math.MaxInt32)))
		e.Bool(r.Min != r.Max)
		if r.Min != r.Max {
			e.Float(r.Min)
			e.Float(r.Max)
		}
	}
	return e.Seal()
}

// decodeReadings decodes a slot's value. Without an error there is at least one reading, and each can be sent.
func decodeReadings(value []byte, stamp int64) (rs []payload.Reading, made time.Duration, err error) {
	d, err := frame.Open(value, formatVersion)
	if err != nil {
		return nil, 0, err
	}
	made = time.Duration(d.Uint()&math.MaxInt32) * time.Second
	for d.Left() > 0 {
		r := payload.Reading{Stamp: time.UnixMilli(stamp), Parameter: d.Text(), Unit: d.Text(), Statistic: d.Text(),
			Samples: int(d.Uint() & math.MaxInt32), Value: d.Float(), Flag: spec.Flag(d.Byte()), Diagnostic: d.Bool(), Era: d.Uint(), Minutes: int(d.Uint() & math.MaxInt32)}
		if d.Bool() {
			r.Min, r.Max = d.Float(), d.Float()
		}
		if d.Err() != nil || r.Check() != nil || !(r.Max-r.Min >= 0 && r.Max-r.Min <= math.MaxFloat64) { // only readings that can be sent are ever stored
			return nil, 0, frame.ErrDamaged
		}
		rs = append(rs, r)
	}
	if len(rs) == 0 {
		return nil, 0, frame.ErrDamaged
	}
	return rs, made, nil
}
