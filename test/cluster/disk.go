package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// disk is a directory that can be lost and, once Disk was called, be full.
type disk struct {
	path    string
	mounted bool // on it is a disk of its own
}

// Wipe takes what is on it. Nobody may use it.
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

// Fill leaves no room on its disk, which must be one of its own.
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

// Free makes room again.
func (d *disk) Free() error { return os.Remove(d.ballast()) }
