package delivery

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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

const formatVersion = 1

var errFormat = errors.New("damaged or written by another version")

func encodeDevices(devices []string) []byte {
	out, _ := json.Marshal(devices)
	return out
}

func decodeDevices(b []byte) (devices []string, err error) {
	if b == nil {
		return nil, nil
	}
	if err := json.Unmarshal(b, &devices); err != nil {
		return nil, fmt.Errorf("reading the outbox's list of devices: %w", errFormat)
	}
	return devices, nil
}

func encodeIndex(stamps []int64) []byte {
	out := []byte{formatVersion}
	last := int64(0)
	for _, s := range stamps {
		out = binary.AppendVarint(out, s-last)
		last = s
	}
	return out
}

func decodeIndex(b []byte) (stamps []int64, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != formatVersion {
		return nil, errFormat
	}
	last := int64(0)
	for b = b[1:]; len(b) > 0; {
		d, n := binary.Varint(b)
		if n <= 0 || (last != 0 && d <= 0) {
			return nil, errFormat
		}
		last += d
		stamps, b = append(stamps, last), b[n:]
	}
	return stamps, nil
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
	return out
}

func decodeReadings(b []byte, stamp int64) (rs []payload.Reading, err error) {
	if len(b) == 0 || b[0] != formatVersion {
		return nil, errFormat
	}
	text := func() string {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			err, b = errFormat, nil
			return ""
		}
		s := string(b[size : size+int(n)])
		b = b[size+int(n):]
		return s
	}
	for b = b[1:]; len(b) > 0; {
		r := payload.Reading{Stamp: time.UnixMilli(stamp)}
		r.Parameter = text()
		r.Unit = text()
		if err != nil || len(b) < 10 {
			return nil, errFormat
		}
		r.Value = math.Float64frombits(binary.BigEndian.Uint64(b))
		r.Flag, r.Diagnostic = spec.Flag(b[8]), b[9] == 1
		if !r.Flag.Valid() {
			return nil, errFormat
		}
		rs, b = append(rs, r), b[10:]
	}
	return rs, nil
}
