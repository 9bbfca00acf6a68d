package ocems

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/store"
)

// errNewer is state of a later version of this plugin, which must not be read as if it were of this one.
var errNewer = errors.New("it was written by a newer version of this plugin; use that version, or another state_directory")

const (
	stateFile   = "state.db"
	stateFormat = 1 // to be raised with the form of anything in it, the aligner's entries too
)

var (
	bucketName = []byte("ocems")
	formatKey  = []byte("format")
)

// state is the bbolt file of the outbox and of the checkpoints. It implements delivery.Store.
type state struct {
	db *bolt.DB
}

// openState opens the file in dir, which it makes. A damaged file is set aside under a name of its own, what can be read
// of it is copied into a new one, and damage says so.
func openState(dir string) (s *state, damage string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("making the state_directory: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	_, missing := os.Stat(path)
	if samples, _ := segments(dir); errors.Is(missing, fs.ErrNotExist) && len(samples) > 0 {
		damage = fmt.Sprintf("%s is missing beside its journal: what it held is lost", path)
	}
	db, found, err := store.OpenBucket(path)
	switch {
	case errors.Is(err, store.ErrInUse):
		return nil, "", fmt.Errorf("the state_directory %q is in use by another process or plugin; give each its own", dir)
	case errors.Is(err, store.ErrNewer):
		return nil, "", fmt.Errorf("opening the state %s: %w", path, errNewer)
	case err != nil:
		return nil, "", fmt.Errorf("opening the state: %w", err)
	}
	if s = (&state{db}); found != "" {
		damage = found
	}
	if damage != "" {
		damage = "the state " + damage
	}
	if err := s.checkFormat(path); err != nil {
		return nil, "", errors.Join(err, s.db.Close())
	}
	return s, damage, nil
}

// checkFormat marks a new state with its format, and writes nothing into another.
func (s *state) checkFormat(path string) error {
	var format []byte
	err := s.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketName); b != nil {
			format = bytes.Clone(b.Get(formatKey))
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case format == nil:
		return store.Guard(func() error {
			return s.db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(bucketName)
				if err != nil {
					return err
				}
				return b.Put(formatKey, []byte{stateFormat})
			})
		})
	case len(format) != 1 || format[0] > stateFormat:
		return fmt.Errorf("opening the state %s: %w", path, errNewer)
	}
	return nil
}

// Get implements delivery.Store.
func (s *state) Get(_ context.Context, key string) (value []byte, err error) {
	err = store.Guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			if v := tx.Bucket(bucketName).Get([]byte(key)); v != nil {
				value = append([]byte{}, v...)
			}
			return nil
		})
	})
	return value, err
}

// Batch implements delivery.Store.
func (s *state) Batch(_ context.Context, ops []delivery.Op) error {
	err := store.Guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketName)
			for _, op := range ops {
				var err error
				if op.Value == nil {
					err = b.Delete([]byte(op.Key))
				} else {
					err = b.Put([]byte(op.Key), op.Value)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

// The checkpoint's keys: the entries of the aligner, and the first journal segment that is not in them, with a CRC-32C.
const (
	slotsPrefix   = "slots/"
	journalKey    = "journal"
	damagedPrefix = "damaged/" // of what is kept of entries that cannot be read
)

var errJournalKey = errors.New("the state's key of where the journal begins is damaged")

func (s *state) loadSlots(keys []string) (entries map[string][]byte, segment uint64, err error) {
	entries = map[string][]byte{}
	for _, k := range keys {
		if entries[k], err = s.Get(context.Background(), slotsPrefix+k); err != nil {
			return nil, 0, err
		}
	}
	switch v, err := s.Get(context.Background(), journalKey); {
	case err != nil || v == nil:
		return entries, 0, err
	case len(v) != 12 || crc32.Checksum(v[:8], castagnoli) != binary.BigEndian.Uint32(v[8:]):
		return entries, 0, errJournalKey
	default:
		return entries, binary.BigEndian.Uint64(v), nil
	}
}

func (s *state) saveSlots(entries map[string][]byte, segment uint64) error {
	at := binary.BigEndian.AppendUint64(nil, segment)
	ops := []delivery.Op{{Key: journalKey, Value: binary.BigEndian.AppendUint32(at, crc32.Checksum(at, castagnoli))}}
	for k, v := range entries {
		ops = append(ops, delivery.Op{Key: slotsPrefix + k, Value: v})
	}
	return s.Batch(context.Background(), ops)
}

// setAside moves entries of the aligner to keys under which nothing overwrites them.
func (s *state) setAside(entries map[string][]byte) (kept []string, err error) {
	now := time.Now().UTC().Format("20060102T150405.000000000")
	var ops []delivery.Op
	for k, v := range entries {
		kept = append(kept, damagedPrefix+slotsPrefix+k+"/"+now)
		ops = append(ops, delivery.Op{Key: slotsPrefix + k}, delivery.Op{Key: kept[len(kept)-1], Value: v})
	}
	slices.Sort(kept)
	return kept, s.Batch(context.Background(), ops)
}

func (s *state) close() error { return s.db.Close() }
