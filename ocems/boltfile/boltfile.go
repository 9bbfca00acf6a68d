// Package boltfile opens bbolt files that a disk, a cut or another program may have damaged. bbolt itself panics on such
// a file, in a goroutine of its own too, or reads memory that is not there. Here the file is looked through first; a
// damaged one is kept under a name of its own, and what can be read of it goes into a new file in its place.
package boltfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The errors of Open and Mend that are no damage.
var (
	ErrInUse = errors.New("it is in use by another process or component")
	ErrNewer = errors.New("it was written by a newer version of bbolt")
)

// Open opens the file at path, or makes it, mode 0600, with one bucket. What it found damaged, where it kept that and
// how many entries it recovered is in damage; "" is a sound file. An error leaves everything as it was.
func Open(path string, bucket []byte) (db *bolt.DB, damage string, err error) {
	info, missing := os.Stat(path)
	if missing == nil && info.Size() == 0 {
		damage = fmt.Sprintf("%s is empty: what it held is lost", path)
	}
	db, err = open(path)
	if err == nil {
		if err = verify(path); err == nil {
			return db, damage, nil
		}
		_ = db.Close()
	}
	if err = known(err); isDamage(err) {
		return replace(path, bucket, err)
	}
	if missing != nil {
		_ = os.Remove(path) // what there is of it would pass for a damaged one
	}
	return nil, "", err
}

// Mend does what Open does to a damaged file, for another library that is to open it. A missing file is sound.
func Mend(path string, bucket []byte) (damage string, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.Size() == 0:
		return fmt.Sprintf("%s is empty: what it held is lost", path), nil
	}
	err = Guard(func() error { // reads no list of free pages
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return err
		}
		return errors.Join(verify(path), db.Close())
	})
	if err == nil {
		return "", nil
	}
	if err = known(err); !isDamage(err) {
		return "", err
	}
	db, damage, err := replace(path, bucket, err)
	if err == nil {
		err = db.Close()
	}
	return damage, err
}

// known gives the errors of bbolt that have nothing to do with damage their name here.
func known(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("opening %w", ErrInUse)
	case errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("opening %w", ErrNewer)
	}
	return err
}

// isDamage reports that an error says something about what is in the file. The system's own do not.
func isDamage(err error) bool {
	var refused syscall.Errno
	return !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNewer) && !errors.As(err, &refused)
}

// Guard turns what bbolt does with a damaged file, a panic or a fault in mapped memory, into an error.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

func open(path string) (db *bolt.DB, err error) {
	var file *os.File
	opener := func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	err = Guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, OpenFile: opener})
		return err
	})
	if err != nil && file != nil {
		unlock(file) // after a panic bbolt has not, and the lock would keep us from what can be read
		_ = file.Close()
	}
	return db, err
}

// replace copies what can be read of path into a new file, which takes its place. The damaged one is kept aside. After
// an error all is as it was, so that nothing is lost to a full disk either.
func replace(path string, bucket []byte, cause error) (db *bolt.DB, damage string, err error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("making a new file for the damaged %s: %w", path, err)
	}
	if db, err = open(fresh); err != nil {
		return nil, "", fmt.Errorf("making a new file for the damaged %s: %w", path, err)
	}
	copied, unread, err := salvage(path, bucket, db)
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
		err = SyncDir(filepath.Dir(path))
	}
	if err == nil {
		db, err = open(path)
	}
	if err != nil {
		return nil, "", fmt.Errorf("replacing the damaged %s: %w", path, err)
	}
	damage = fmt.Sprintf("%s is damaged (%v); it is kept as %s, and %d entries of it were recovered", path, cause, aside, copied)
	if unread != nil {
		damage += fmt.Sprintf(" (%v)", unread)
	}
	return db, damage, nil
}

// salvage copies the entries of the bucket in the damaged file at path, around the damage, which is unread. The error is
// that of writing.
func salvage(path string, bucket []byte, to *bolt.DB) (copied int, unread, err error) {
	const most = 1 << 20 // bytes of one write
	var list [][2][]byte
	size := 0
	flush := func() {
		if err == nil {
			err = to.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(bucket)
				for _, kv := range list {
					if err == nil {
						err = b.Put(kv[0], kv[1])
					}
				}
				return err
			})
		}
		copied += len(list)
		list, size = nil, 0
	}
	places := 0
	var first error
	whole := read(path, bucket, func(k, v []byte) {
		if list, size = append(list, [2][]byte{k, v}), size+len(k)+len(v); size > most {
			flush()
		}
	}, func(fault error) error {
		first = cmp.Or(first, fault)
		places++
		return nil
	})
	flush()
	if places > 0 {
		unread = fmt.Errorf("at %d places it cannot be read, first: %w", places, first)
	}
	return copied, cmp.Or(whole, unread), err
}

// SyncDir makes a new name durable. Windows does so by itself, and lets nobody sync a directory.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
