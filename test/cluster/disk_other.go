//go:build unix && !linux

package cluster

import "errors"

// Disk is for Linux.
func (*Worker) Disk(int) error { return errors.New("giving a worker a disk of its own: only on Linux") }

func (*Worker) unmount() error { return nil }
