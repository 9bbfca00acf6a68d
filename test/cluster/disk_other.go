//go:build unix && !linux

package cluster

import "errors"

// Disk is for Linux.
func (*disk) Disk(int) error { return errors.New("giving a part a disk of its own: only on Linux") }

func (*disk) unmount() error { return nil }
