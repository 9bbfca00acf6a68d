package delivery

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Store is what the outbox needs of a key-value store. It needs no listing of keys.
type Store interface {
	// Get returns the value of a key, or nil when there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Batch carries out all operations or none, durably before it returns.
	Batch(ctx context.Context, ops []Op) error
}

// Op sets a key, or deletes it when Value is nil.
type Op struct {
	Key   string
	Value []byte
}

// NewMemoryStore returns a Store that forgets everything when the process ends.
func NewMemoryStore() Store { return &memoryStore{m: map[string][]byte{}} }

type memoryStore struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memoryStore) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key], nil
}

func (s *memoryStore) Batch(_ context.Context, ops []Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		if op.Value == nil {
			delete(s.m, op.Key)
		} else {
			s.m[op.Key] = op.Value
		}
	}
	return nil
}

// The keys: one list of devices, one index of waiting stamps a device, one value a waiting slot.
const devicesKey = "outbox/devices"

func indexKey(device string) string { return "outbox/index/" + device }

func slotKey(device string, stamp int64) string {
	return "outbox/slot/" + device + "/" + strconv.FormatInt(stamp, 36)
}

// damagedKey is where a damaged value is kept, so that nothing of it is ever deleted.
func damagedKey(key string, at time.Time) string {
	return "damaged/" + key + "/" + at.UTC().Format("20060102T150405.000000000")
}

// Every value begins with the version of its format and ends with the CRC-32C of all before it, in this version and in
// each later one: only so are damage and a newer version told apart. Version 1 had no checksum and a bare list of devices;
// it is read, and written no more.
const (
	formatVersion = 2
	withoutSum    = 1
	sumSize       = 4
)

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("the state was written by a newer version of this program: use that version, or another place for the state")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// frame ends a value, whose first byte is the version, with its checksum.
func frame(body []byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

// unframe takes version and checksum off. It returns the body of a damaged value too, which can at most give a hint.
func unframe(b []byte) (body []byte, err error) {
	if len(b) > 0 && b[0] == withoutSum {
		return b[1:], nil
	}
	end := len(b) - sumSize
	switch {
	case end < 1:
		return nil, errDamaged
	case crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]):
		return b[1:end], errDamaged
	case b[0] > formatVersion:
		return nil, errNewer
	case b[0] < formatVersion:
		return nil, errDamaged
	}
	return b[1:end], nil
}

func encodeDevices(devices []string) []byte {
	list, _ := json.Marshal(devices)
	return frame(append([]byte{formatVersion}, list...))
}

// decodeDevices returns what it can read of a damaged list too: a device of it that has an index is one.
func decodeDevices(b []byte) (devices []string, err error) {
	body := b
	if len(b) == 0 || b[0] != '[' {
		body, err = unframe(b)
	}
	if wrong := json.Unmarshal(body, &devices); wrong != nil && err == nil {
		err = errDamaged
	}
	return devices, err
}

func encodeIndex(stamps []int64) []byte {
	out := []byte{formatVersion}
	last := int64(0)
	for _, s := range stamps {
		out = binary.AppendVarint(out, s-last)
		last = s
	}
	return frame(out)
}

// decodeIndex returns what it can read of a damaged index too: a stamp of it that has a slot is one.
func decodeIndex(b []byte) (stamps []int64, err error) {
	body, err := unframe(b)
	for last := int64(0); len(body) > 0; {
		d, n := binary.Varint(body)
		if n <= 0 || len(stamps) > 0 && (d <= 0 || d > math.MaxInt64-max(last, 0)) {
			return stamps, cmp.Or(err, errDamaged)
		}
		last += d
		stamps, body = append(stamps, last), body[n:]
	}
	return stamps, err
}

func encodeReadings(rs []payload.Reading) []byte {
	out := []byte{formatVersion}
	for _, r := range rs {
		out = binary.AppendUvarint(out, uint64(len(r.Parameter)))
		out = append(out, r.Parameter...)
		out = binary.AppendUvarint(out, uint64(len(r.Unit)))
		out = append(out, r.Unit...)
		out = binary.BigEndian.AppendUint64(out, math.Float64bits(r.Value))
		diagnostic := byte(0)
		if r.Diagnostic {
			diagnostic = 1
		}
		out = append(out, byte(r.Flag), diagnostic)
	}
	return frame(out)
}

func decodeReadings(b []byte, stamp int64) (rs []payload.Reading, err error) {
	b, err = unframe(b)
	if err != nil {
		return nil, err
	}
	text := func() string {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			err, b = errDamaged, nil
			return ""
		}
		s := string(b[size : size+int(n)])
		b = b[size+int(n):]
		return s
	}
	for len(b) > 0 {
		r := payload.Reading{Stamp: time.UnixMilli(stamp)}
		r.Parameter = text()
		r.Unit = text()
		if err != nil || len(b) < 10 {
			return nil, errDamaged
		}
		r.Value = math.Float64frombits(binary.BigEndian.Uint64(b))
		r.Flag, r.Diagnostic = spec.Flag(b[8]), b[9] == 1
		if err := r.Check(); err != nil || b[9] > 1 { // nothing was stored that could not be sent
			return nil, errDamaged
		}
		rs, b = append(rs, r), b[10:]
	}
	if len(rs) == 0 {
		return nil, errDamaged
	}
	return rs, nil
}
