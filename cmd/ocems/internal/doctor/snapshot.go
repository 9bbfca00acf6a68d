package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/boltfile"
)

// ErrBusy is a file that changed at every attempt to copy it.
var ErrBusy = errors.New("the host writes too often for a copy; try again, or stop the host")

// Stored is a copy of a host's bbolt file as it was at one moment.
type Stored struct {
	db     *bolt.DB
	bucket []byte
	dir    string
}

// snapshotTries and snapshotPause: a host with a few devices writes in bursts of some milliseconds.
const (
	snapshotTries = 40
	snapshotPause = 50 * time.Millisecond
)

// metaBytes covers both of bbolt's meta pages, each of which names the newest state: on a page of up to 64 KiB, as large
// as the systems have.
const metaBytes = 2 * 64 << 10

// Snapshot copies the file at path and opens the copy. The host may be running: its lock is not touched. bbolt never
// overwrites what its meta pages lead to, so a copy is whole when they are the same before and after it; it is read
// through besides. The error wraps fs.ErrNotExist, fs.ErrPermission or ErrBusy, or tells of damage.
func Snapshot(path, bucket string) (*Stored, error) {
	var err error
	for i := range snapshotTries {
		if i > 0 {
			time.Sleep(snapshotPause)
		}
		var s *Stored
		var whole bool
		if s, whole, err = snapshot(path, bucket); err == nil {
			return s, nil
		}
		if whole { // and damaged nevertheless, or not to be read: another copy would be the same
			return nil, err
		}
	}
	return nil, err
}

func snapshot(path, bucket string) (s *Stored, whole bool, err error) {
	from, err := os.Open(path)
	if err != nil {
		return nil, true, fmt.Errorf("reading the outbox: %w", err)
	}
	defer from.Close()
	dir, err := os.MkdirTemp("", "ocems-")
	if err != nil {
		return nil, true, fmt.Errorf("copying the outbox: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	copied := filepath.Join(dir, "copy.db")
	to, err := os.OpenFile(copied, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, true, fmt.Errorf("copying the outbox: %w", err)
	}
	before, err := metas(from)
	if err == nil {
		_, err = io.Copy(to, io.NewSectionReader(from, 0, 1<<62))
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, true, fmt.Errorf("copying the outbox: %w", err)
	}
	after, err := metas(from)
	if err != nil {
		return nil, true, fmt.Errorf("copying the outbox: %w", err)
	}
	if !bytes.Equal(before, after) {
		return nil, false, fmt.Errorf("copying %s: %w", path, ErrBusy)
	}
	s = &Stored{bucket: []byte(bucket), dir: dir}
	if err := boltfile.Guard(func() (err error) {
		s.db, err = bolt.Open(copied, 0o600, &bolt.Options{ReadOnly: true})
		return err
	}); err != nil {
		return nil, true, fmt.Errorf("reading the outbox %s: %w", path, err)
	}
	if err := s.check(); err != nil {
		_ = s.db.Close()
		return nil, true, fmt.Errorf("reading the outbox %s: %w", path, err)
	}
	return s, true, nil
}

// metas are the beginnings of the meta pages, whatever the size of a page is: a commit changes one of them.
func metas(f *os.File) ([]byte, error) {
	const head = 16 + 64 // of a page, and of a meta
	var all []byte
	for at := int64(0); at < metaBytes; at += 4096 { // pages are multiples of 4 KiB
		b := make([]byte, head)
		n, err := f.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		const magic = "\xed\xda\x0c\xed" // of a meta, little endian
		if b = b[:n]; n == head && string(b[16:20]) == magic {
			all = append(all, b...)
		}
	}
	return all, nil
}

// check reads every page in use. Not tx.Check: that works in a goroutine of its own, where a fault in the mapped memory
// of a damaged file cannot be caught.
func (s *Stored) check() error {
	return boltfile.Guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				var last []byte
				return b.ForEach(func(k, v []byte) error {
					if last != nil && bytes.Compare(k, last) <= 0 {
						return errors.New("damaged: the keys are not in order")
					}
					last = bytes.Clone(k)
					for i := 0; i < len(v); i += 4096 {
						_ = v[i]
					}
					return nil
				})
			})
		})
	})
}

// Get implements delivery.Reader.
func (s *Stored) Get(_ context.Context, key string) (value []byte, err error) {
	err = boltfile.Guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			if b := tx.Bucket(s.bucket); b != nil {
				value = bytes.Clone(b.Get([]byte(key)))
			}
			return nil
		})
	})
	return value, err
}

// Close removes the copy.
func (s *Stored) Close() error { return errors.Join(s.db.Close(), os.RemoveAll(s.dir)) }
