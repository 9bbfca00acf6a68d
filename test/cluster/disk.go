package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// disk is a directory that can be deleted and, after a call of Disk, be filled.
type disk struct {
	path    string
	mounted bool // it has its own file system
}

// Wipe deletes the content. No process may use it.
func (d *disk) Wipe() error {
	list, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.path, e.Name())))
	}
	return err
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// Fill uses all space on its file system, which must be its own.
func (d *disk) Fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// Free undoes Fill.
func (d *disk) Free() error { return os.Remove(d.ballast()) }
