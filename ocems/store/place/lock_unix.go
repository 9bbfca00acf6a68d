//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package place

import (
	"errors"
	"os"
	"syscall"
)

// Lock locks the file for this process until it is closed or the process ends. On a file system without locks it does
// nothing.
func Lock(file *os.File) (taken bool) {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return errors.Is(err, syscall.EWOULDBLOCK)
		}
	}
}
