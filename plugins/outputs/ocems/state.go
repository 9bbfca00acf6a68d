package ocems

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/ocems-io/ocems/ocems/delivery"
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
	info, missing := os.Stat(path)
	samples, _ := segments(dir)
	switch {
	case missing == nil && info.Size() == 0:
		damage = fmt.Sprintf("the state %s is empty: what it held is lost", path)
	case errors.Is(missing, fs.ErrNotExist) && len(samples) > 0:
		damage = fmt.Sprintf("the state %s is missing beside its journal: what it held is lost", path)
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
	var refused syscall.Errno // by the system, which says nothing about what is in the file
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, "", fmt.Errorf("the state_directory %q is in use by another process or plugin; give each its own", dir)
	case errors.Is(err, berrors.ErrVersionMismatch):
		return nil, "", fmt.Errorf("opening the state %s: %w", path, errNewer)
	case errors.As(err, &refused):
		if missing != nil {
			_ = os.Remove(path) // what there is of it would pass for a damaged one
		}
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

// check reads every page, and finds those in use that the list of free pages has too: the next write would go there.
func check(db *bolt.DB) error {
	var sum uint32
	return guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			info := db.Info()
			inUse := func(b []byte) error {
				if len(b) == 0 {
					return nil
				}
				sum = crc32.Update(sum, castagnoli, b) // a value may go on over pages that are not there
				at := int(uintptr(unsafe.Pointer(&b[0])) - info.Data)
				for id := at / info.PageSize; id <= (at+len(b)-1)/info.PageSize; id++ {
					if page, _ := tx.Page(id); page != nil && page.Type == "free" { // nil: bbolt copied a small bucket out of the file
						return fmt.Errorf("page %d is in use and free", id)
					}
				}
				return nil
			}
			// Not tx.Check: it works in a goroutine of its own, where a fault cannot be caught.
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				return b.ForEach(func(k, v []byte) error { return errors.Join(inUse(k), inUse(v)) })
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
	err = errors.Join(err, db.Close()) // an open file keeps its name on Windows
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
	if err == nil {
		db, err = openBolt(path)
	}
	if err != nil {
		return nil, "", fmt.Errorf("replacing the damaged state %s: %w", path, err)
	}
	damage = fmt.Sprintf("the state %s is damaged (%v); it is kept as %s, and %d entries of it were recovered", path, cause, aside, copied)
	if unread != nil {
		damage += fmt.Sprintf(" (%v)", unread)
	}
	return &state{db}, damage, nil
}

// salvage copies the entries of the damaged file at path, around the damage, which is unread. The error is that of
// writing.
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
			var first error
			places := 0
			keep := func(k, v []byte) {
				if list = append(list, [2][]byte{bytes.Clone(k), append([]byte{}, v...)}); len(list) == most {
					flush()
				}
			}
			for from := []byte{}; from != nil; {
				fault := guard(func() error {
					c := b.Cursor()
					for k, v := c.Seek(from); k != nil; k, v = c.Next() {
						if bytes.Compare(k, from) < 0 {
							return errors.New("the keys are not in order")
						}
						from = append(bytes.Clone(k), 0)
						keep(k, v)
					}
					from = nil
					return nil
				})
				if fault == nil {
					break
				}
				first = cmp.Or(first, fault)
				places++
				done, to := from, beyond(b, from)
				_ = guard(func() error { // and back to the damage
					c := b.Cursor()
					k, v := c.Last()
					if to != nil {
						c.Seek(to)
						k, v = c.Prev()
					}
					for before := to; bytes.Compare(k, done) >= 0 && (before == nil || bytes.Compare(k, before) < 0); k, v = c.Prev() {
						before = bytes.Clone(k)
						keep(k, v)
					}
					return nil
				})
				from = to
			}
			if places == 0 {
				return nil
			}
			return fmt.Errorf("at %d places it cannot be read: %w", places, first)
		})
	})
	flush()
	return copied, unread, err
}

// beyond is the nearest that can be reached after a damaged page, or nil for the end: one last letter further, or one
// last but one, and so on.
func beyond(b *bolt.Bucket, from []byte) []byte {
	for i := len(from) - 1; i >= 0; i-- {
		for letter := int(from[i]) + 1; letter < 128; letter++ {
			to := append(bytes.Clone(from[:i]), byte(letter))
			var k []byte
			fault := guard(func() error {
				k, _ = b.Cursor().Seek(to)
				return nil
			})
			switch {
			case fault == nil && k == nil:
				return nil
			case fault == nil && bytes.Compare(k, to) >= 0:
				return to
			}
		}
	}
	return nil
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
		return guard(func() error {
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
	err := guard(func() error {
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
