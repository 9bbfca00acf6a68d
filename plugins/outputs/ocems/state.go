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
	if info, err := os.Stat(path); err == nil && info.Size() == 0 {
		damage = fmt.Sprintf("the state %s is empty: what it held is lost", path)
	}
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
	case errors.Is(err, berrors.ErrVersionMismatch):
		return nil, "", fmt.Errorf("opening the state %s: %w", path, errNewer)
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
	var file *os.File
	open := func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, OpenFile: open})
		return err
	})
	if err != nil && file != nil {
		unlock(file) // after a panic bbolt has not, and the lock would keep us from what can be read
		_ = file.Close()
	}
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
	var sum uint32
	return guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			// Not tx.Check: it works in a goroutine of its own, where a fault cannot be caught.
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				return b.ForEach(func(_, v []byte) error {
					sum = crc32.Update(sum, castagnoli, v) // a value may go on over pages that are not there
					return nil
				})
			})
		})
	})
}

// recoverState copies what can be read of path into a new file, which takes its place. The damaged one is kept aside.
// After an error all is as it was, so that nothing is lost to a full disk either.
func recoverState(path string, cause error) (s *state, damage string, err error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("making a new state: %w", err)
	}
	db, err := openBolt(fresh)
	if err != nil {
		return nil, "", fmt.Errorf("making a new state: %w", err)
	}
	copied, unread, err := salvage(path, db)
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err == nil {
		if err = os.Link(path, aside); err != nil { // not every file system has links
			err = os.Rename(path, aside)
		}
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("replacing the damaged state %s: %w", path, err), db.Close(), os.Remove(fresh))
	}
	damage = fmt.Sprintf("the state %s is damaged (%v); it is kept as %s, and %d entries of it were recovered", path, cause, aside, copied)
	if unread != nil {
		damage += fmt.Sprintf(" (%v)", unread)
	}
	return &state{db}, damage, nil
}

// salvage copies the entries of the damaged file at path, from both ends to the damage, which is unread. The error is
// that of writing.
func salvage(path string, to *bolt.DB) (copied int, unread, err error) {
	const most = 10_000 // entries of one write
	var list [][2][]byte
	flush := func() {
		if err == nil {
			err = to.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(bucketName)
				for _, kv := range list {
					if err == nil {
						err = b.Put(kv[0], kv[1])
					}
				}
				return err
			})
		}
		copied += len(list)
		list = nil
	}
	keep := func(k, v []byte) {
		list = append(list, [2][]byte{bytes.Clone(k), append([]byte{}, v...)})
		if len(list) == most {
			flush()
		}
	}
	unread = guard(func() error {
		old, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return err
		}
		defer old.Close()
		return old.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketName)
			if b == nil {
				return errors.New("it holds no data")
			}
			// The keys go up or down all the way: damaged pages may lead in a circle.
			var last []byte
			forward := guard(func() error {
				c := b.Cursor()
				for k, v := c.First(); k != nil && (last == nil || bytes.Compare(k, last) > 0); k, v = c.Next() {
					keep(k, v)
					last = bytes.Clone(k)
				}
				return nil
			})
			var first []byte
			backward := guard(func() error {
				c := b.Cursor()
				for k, v := c.Last(); k != nil && bytes.Compare(k, last) > 0 && (first == nil || bytes.Compare(k, first) < 0); k, v = c.Prev() {
					keep(k, v)
					first = bytes.Clone(k)
				}
				return nil
			})
			return errors.Join(forward, backward)
		})
	})
	flush()
	return copied, unread, err
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
		return s.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucketName)
			if err != nil {
				return err
			}
			return b.Put(formatKey, []byte{stateFormat})
		})
	case len(format) != 1 || format[0] > stateFormat:
		return fmt.Errorf("opening the state %s: %w", path, errNewer)
	}
	return nil
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
