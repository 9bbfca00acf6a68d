package ocems

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/ocems-io/ocems/ocems/delivery"
)

// errNewer is state of a later version of this plugin, which must not be read as if it were of this one.
var errNewer = errors.New("it was written by a newer version of this plugin; use that version, or another state_directory")

const (
	stateFile   = "state.db"
	stateFormat = 1
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
	db, err := openBolt(path)
	if err == nil {
		if fault := check(db); fault == nil {
			s = &state{db}
		} else {
			_ = db.Close()
			err = fault
		}
	}
	var refused *os.PathError
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, "", fmt.Errorf("the state_directory %q is in use by another process or plugin; give each its own", dir)
	case errors.As(err, &refused), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EROFS):
		return nil, "", fmt.Errorf("opening the state: %w", err)
	case err != nil:
		if s, damage, err = recoverState(path, err); err != nil {
			return nil, "", err
		}
	}
	if err := s.checkFormat(path); err != nil {
		return nil, "", errors.Join(err, s.db.Close())
	}
	return s, damage, nil
}

func openBolt(path string) (db *bolt.DB, err error) {
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
		return err
	})
	return db, err
}

// guard turns what bbolt does with a damaged file, a panic or a fault in mapped memory, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

// check reads every page.
func check(db *bolt.DB) error {
	return guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			// Not tx.Check: it works in a goroutine of its own, where a fault cannot be caught.
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				return b.ForEach(func(_, _ []byte) error { return nil })
			})
		})
	})
}

// recoverState sets path aside and copies what can be read of it.
func recoverState(path string, cause error) (*state, string, error) {
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, aside); err != nil {
		return nil, "", fmt.Errorf("setting the damaged state aside: %w", err)
	}
	fresh, err := openBolt(path)
	if err != nil {
		return nil, "", fmt.Errorf("making a new state: %w", err)
	}
	s, copied := &state{fresh}, 0
	err = guard(func() error {
		old, err := bolt.Open(aside, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return err
		}
		defer old.Close()
		return old.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketName)
			if b == nil {
				return errors.New("it holds no data")
			}
			seen := map[string]bool{}
			keep := func(k, v []byte) error {
				if k == nil || seen[string(k)] {
					return nil
				}
				seen[string(k)] = true
				copied++
				return fresh.Update(func(tx *bolt.Tx) error {
					b, err := tx.CreateBucketIfNotExists(bucketName)
					if err != nil {
						return err
					}
					return b.Put(k, v)
				})
			}
			// From both ends to the damage.
			forward := guard(func() error {
				c := b.Cursor()
				for k, v := c.First(); k != nil; k, v = c.Next() {
					if err := keep(k, v); err != nil {
						return err
					}
				}
				return nil
			})
			backward := guard(func() error {
				c := b.Cursor()
				for k, v := c.Last(); k != nil && !seen[string(k)]; k, v = c.Prev() {
					if err := keep(k, v); err != nil {
						return err
					}
				}
				return nil
			})
			return errors.Join(forward, backward)
		})
	})
	damage := fmt.Sprintf("the state %s is damaged (%v); it is kept as %s, and %d entries of it were recovered", path, cause, aside, copied)
	if err != nil {
		damage += fmt.Sprintf(" (%v)", err)
	}
	return s, damage, nil
}

func (s *state) checkFormat(path string) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketName)
		if err != nil {
			return err
		}
		switch v := b.Get(formatKey); {
		case v == nil:
			return b.Put(formatKey, []byte{stateFormat})
		case len(v) != 1 || v[0] > stateFormat:
			return fmt.Errorf("opening the state %s: %w", path, errNewer)
		}
		return nil
	})
}

// Get implements delivery.Store.
func (s *state) Get(_ context.Context, key string) (value []byte, err error) {
	err = guard(func() error {
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
	err := s.db.Update(func(tx *bolt.Tx) error {
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
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

// The checkpoint's keys: the entries of the aligner, and the first journal segment that is not in them.
const (
	slotsPrefix = "slots/"
	journalKey  = "journal"
)

func (s *state) loadSlots(keys []string) (entries map[string][]byte, segment uint64, err error) {
	entries = map[string][]byte{}
	for _, k := range keys {
		if entries[k], err = s.Get(context.Background(), slotsPrefix+k); err != nil {
			return nil, 0, err
		}
	}
	v, err := s.Get(context.Background(), journalKey)
	if err != nil || len(v) != 8 {
		return entries, 0, err
	}
	return entries, binary.BigEndian.Uint64(v), nil
}

func (s *state) saveSlots(entries map[string][]byte, segment uint64) error {
	ops := []delivery.Op{{Key: journalKey, Value: binary.BigEndian.AppendUint64(nil, segment)}}
	for k, v := range entries {
		ops = append(ops, delivery.Op{Key: slotsPrefix + k, Value: v})
	}
	return s.Batch(context.Background(), ops)
}

func (s *state) close() error { return s.db.Close() }
