package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// ErrBusy means that a file changed during every attempt to copy it.
var ErrBusy = errors.New("the host writes too often for a copy; try again, or stop the host")

// A host with a few devices writes in bursts of some milliseconds.
const (
	snapshotTries = 40
	snapshotPause = 50 * time.Millisecond
)

// metaBytes covers both meta pages of bbolt, which lead to the newest state, for page sizes up to 64 KiB, the largest
// in use.
const metaBytes = 2 * 64 << 10

// Snapshot copies the file at path and opens the copy for reading; Close removes the copy. The host may run: its lock
// is not touched. bbolt never overwrites pages to which its meta pages lead, so a copy is complete if the meta pages
// are the same before and after. The copy is also read completely. The error wraps fs.ErrNotExist, fs.ErrPermission,
// [ErrBusy], [ErrNewer] or [ErrOlder], or describes damage.
func Snapshot(path string) (f *File, err error) {
	for i := range snapshotTries {
		if i > 0 {
			time.Sleep(snapshotPause)
		}
		if f, err = tryCopy(path); !errors.Is(err, ErrBusy) {
			return f, err
		}
	}
	return nil, err
}

func tryCopy(path string) (f *File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copying the state %s: %w", path, err)
		}
	}()
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	dir, err := os.MkdirTemp("", "ocems-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	copied := filepath.Join(dir, "copy.db")
	to, err := os.OpenFile(copied, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	before, err := metas(from)
	size := int64(0)
	if err == nil {
		size, err = io.Copy(to, io.NewSectionReader(from, 0, 1<<62))
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, err
	}
	after, err := metas(from)
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(before, after):
		return nil, ErrBusy
	case size == 0:
		return nil, errors.New("it is empty")
	}
	found, err := look(copied)
	if err == nil {
		err = cmp.Or(found.refusal(), found.damage)
	}
	if err != nil {
		return nil, err
	}
	h, err := open(copied, true)
	if err != nil {
		return nil, err
	}
	return &File{path: path, handle: h, copied: dir}, nil
}

// metas returns the beginnings of the meta pages for any page size. A commit changes one of them.
func metas(f *os.File) ([]byte, error) {
	const head = pageHeader + 64 // of a page, and of a meta
	var all []byte
	for at := int64(0); at < metaBytes; at += 4096 { // pages are multiples of 4 KiB
		b := make([]byte, head)
		n, err := f.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if b = b[:n]; n == head && order.Uint32(b[pageHeader:]) == magic {
			all = append(all, b...)
		}
	}
	return all, nil
}
