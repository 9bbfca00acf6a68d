package cluster

import (
	"fmt"
	"os"
	"syscall"
)

// Disk gives the worker a small disk of its own, so that it can be filled. It needs root, and a worker that was never started.
func (w *Worker) Disk(bytes int) error {
	if err := os.MkdirAll(w.State, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", w.State, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		return fmt.Errorf("giving %s a disk of its own: %w", w.name, err)
	}
	w.mounted = true
	return nil
}

func (w *Worker) unmount() error {
	if !w.mounted {
		return nil
	}
	w.mounted = false
	return syscall.Unmount(w.State, 0)
}
