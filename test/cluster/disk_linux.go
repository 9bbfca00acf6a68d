package cluster

import (
	"fmt"
	"os"
	"syscall"
)

// Disk gives it bytes of its own, so that it can be filled. It needs root, and that nobody has used it yet.
func (d *disk) Disk(bytes int) error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		return fmt.Errorf("giving %s a disk of its own: %w", d.path, err)
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
