package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/ocems-io/ocems/ocems/store/place"
)

// On a damaged file bbolt panics, also in its own goroutine, or reads unmapped memory. So a file is checked completely
// before bbolt may write to it. A damaged file is kept under another name, and its readable part goes into a new file
// in its place.

// contents describes the content of a file.
type contents struct {
	buckets map[string]bool
	format  []byte // nil if there is none
	damage  error
}

// look reads a file completely. bbolt's read-only lock keeps writers away meanwhile.
func look(path string) (*contents, error) {
	h, err := open(path, true)
	if err = known(err); err != nil && !isDamage(err) {
		return nil, err
	}
	if err == nil {
		defer h.db.Close()
	}
	found := &contents{buckets: map[string]bool{}, damage: err}
	err = read(path, func(bucket, k, v []byte) {
		if k == nil {
			found.buckets[string(bucket)] = true
		} else if isFormat(bucket, k) {
			found.format = bytes.Clone(v)
		}
	}, func(fault error) { found.damage = cmp.Or(found.damage, fault) })
	found.damage = cmp.Or(found.damage, err)
	if found.damage != nil && !isDamage(found.damage) {
		return nil, found.damage // a read error of the disk
	}
	return found, nil
}

func isFormat(bucket, key []byte) bool {
	return bytes.Equal(bucket, formatBucket) && bytes.Equal(key, formatKey)
}

// refusal returns why [Open] does not accept a file, damaged or not, or nil.
func (c *contents) refusal() error {
	switch {
	case c.format != nil && (len(c.format) != 1 || c.format[0] > format):
		return ErrNewer
	case c.format != nil && c.format[0] < format:
		return ErrOlder
	case c.buckets[string(entriesBucket)]:
		return nil
	case c.format != nil:
		c.damage = cmp.Or(c.damage, errors.New("its entries are missing"))
		return nil
	case c.buckets[string(formatBucket)] || c.buckets[olderBucket]:
		return ErrOlder
	}
	return nil
}

// known replaces those errors of bbolt that do not mean damage by errors of this package.
func known(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, berrors.ErrVersionMismatch):
		return ErrNewer
	}
	return err
}

// isDamage reports that an error is about the content of the file. System errors are not.
func isDamage(err error) bool {
	var refused syscall.Errno
	return !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNewer) && !errors.As(err, &refused)
}

// guard turns bbolt's reactions to a damaged file, a panic or a fault in mapped memory, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

// handle is an open file; bbolt closes it.
type handle struct {
	db   *bolt.DB
	file *os.File
}

func open(path string, readOnly bool) (h handle, err error) {
	options := &bolt.Options{
		Timeout: time.Second, ReadOnly: readOnly, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			h.file, err = os.OpenFile(name, flag, mode)
			return h.file, err
		},
	}
	err = guard(func() (err error) {
		h.db, err = bolt.Open(path, 0o600, options)
		return err
	})
	if err != nil && h.file != nil {
		unlock(h.file) // after a panic bbolt has not released it, and the lock would prevent the recovery
		_ = h.file.Close()
	}
	return h, err
}

// replace copies the readable part of path into a new file in its place. The damaged file is kept under another name.
// It stays locked meanwhile, so that only one of two processes repairs it. After an error nothing has changed, so that
// a full disk loses nothing either.
func replace(path string, cause error) (damage string, err error) {
	fresh := path + ".new"
	damaged, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer damaged.Close()
	info, err := damaged.Stat()
	if err == nil && (place.Lock(damaged) || place.Lost(info, path) != nil) {
		err = ErrInUse
	}
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(fresh)
			err = fmt.Errorf("replacing it because it is damaged (%v): %w", cause, err)
		}
	}()
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	h, err := open(fresh, false)
	if err != nil {
		return "", err
	}
	copied, unread, err := salvage(path, h.db)
	err = errors.Join(err, h.db.Close())
	if runtime.GOOS == "windows" {
		damaged.Close() // on Windows an open file keeps its name
	}
	kept := place.Aside(path, "damaged")
	if err == nil {
		err = place.Put(fresh, path, kept)
	}
	if err != nil {
		return "", err
	}
	damage = fmt.Sprintf("%s is damaged (%v); it is kept as %s; entries recovered: %d", path, cause, kept, copied)
	if unread != nil {
		damage += fmt.Sprintf(" (%v)", unread)
	}
	return damage, nil
}

// salvage copies the readable entries of the damaged file at path. unread describes the rest. err is an error of
// writing.
func salvage(path string, to *bolt.DB) (copied int, unread, err error) {
	const most = 1 << 20 // bytes in one write
	var list [][3][]byte
	size := 0
	flush := func() {
		if err == nil {
			err = to.Update(func(tx *bolt.Tx) error {
				for _, e := range list {
					b, err := tx.CreateBucketIfNotExists(e[0])
					if err == nil && e[1] != nil {
						err = b.Put(e[1], e[2])
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		list, size = nil, 0
	}
	places := 0
	var first error
	whole := read(path, func(bucket, k, v []byte) {
		if bytes.HasPrefix(k, []byte(Derived)) {
			return
		}
		if k != nil && !isFormat(bucket, k) {
			copied++
		}
		if list, size = append(list, [3][]byte{bucket, bytes.Clone(k), bytes.Clone(v)}), size+len(k)+len(v); size > most {
			flush()
		}
	}, func(fault error) {
		first = cmp.Or(first, fault)
		places++
	})
	flush()
	if places > 0 {
		unread = fmt.Errorf("unreadable at %d places, first: %w", places, first)
	}
	return copied, cmp.Or(whole, unread), err
}
