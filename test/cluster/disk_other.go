//go:build unix && !linux

package cluster

import "errors"

// Disk works only on Linux.
func (*disk) Disk(int) error { return errors.New("mounting a file system: only on Linux") }

func (*disk) unmount() error { return nil }
