// Package place keeps an open file under the name at which readers and the next start look for it.
package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Mended describes a fault that was found and repaired. It is an event; any other error is a state.
type Mended string

func (m Mended) Error() string { return string(m) }

// Lost returns why path does not lead to an open file, or nil. If path cannot be checked, it returns nil.
func Lost(open fs.FileInfo, path string) error {
	switch found, err := os.Stat(path); {
	case err == nil && !os.SameFile(open, found):
		return errors.New("another file was put in its place while the host ran")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return errors.New("it was removed or renamed while the host ran")
	}
	return nil
}

// cures says what to do about errors of the disk.
var cures = map[syscall.Errno]string{
	syscall.ENOSPC: "free space on its disk",
	syscall.EDQUOT: "free space, or raise the quota of the service's user",
	syscall.EROFS:  "its file system is read-only: find the reason in the system's log, and mount it for writing",
	syscall.EIO:    "the disk fails: look into the system's log, and replace the disk",
}

// Cure says what to do about an error of the disk that may pass. For any other error it is "".
func Cure(err error) string {
	for number, cure := range cures {
		if err != nil && (errors.Is(err, number) || strings.HasSuffix(err.Error(), number.Error())) { // bbolt does not wrap all errors
			return cure
		}
	}
	return ""
}

// Take gives the file fresh the name path. If another file has that name and no process has locked it, that file is
// renamed to kept.
func Take(fresh, path string) (kept string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", Put(fresh, path, "")
	}
	if err == nil && info.Mode().IsRegular() {
		var other *os.File
		if other, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
			defer other.Close()
			if Lock(other) {
				err = errors.New("a process has the other file open")
			}
		}
	}
	if err != nil {
		return "", err
	}
	kept = Aside(path, "replaced")
	return kept, Put(fresh, path, kept)
}

// Aside returns a free name for a file that has to give up its own.
func Aside(path, why string) string {
	return fmt.Sprintf("%s.%s-%s", path, why, time.Now().UTC().Format("20060102T150405.000000000"))
}

// Put gives the file fresh the name path, durably. The file with that name gets the name kept, unless kept is "". If a
// file cannot be renamed, nothing has changed.
func Put(fresh, path, kept string) error {
	undo := func() {}
	if kept != "" {
		undo = func() { _ = os.Remove(kept) }
		if os.Link(path, kept) != nil { // some file systems have no links
			if err := os.Rename(path, kept); err != nil {
				return err
			}
			undo = func() { _ = os.Rename(kept, path) }
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		undo()
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MakeDir makes a directory, mode 0700, that survives a power cut.
func MakeDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// SyncDir makes a new name in a directory durable. Windows does this itself and does not support syncing a directory.
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
