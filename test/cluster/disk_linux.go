package cluster

import (
	"fmt"
	"os"
	"syscall"
)

// Disk mounts a file system of this size, so that it can be filled. It needs root, and the directory must not be in use.
func (d *disk) Disk(bytes int) error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		return fmt.Errorf("mounting a file system at %s: %w", d.path, err)
	}
	d.mounted = true
	return nil
}

func (d *disk) unmount() error {
	if !d.mounted {
		return nil
	}
	d.mounted = false
	return syscall.Unmount(d.path, 0)
}
