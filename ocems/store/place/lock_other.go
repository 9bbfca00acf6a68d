//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package place

import "os"

// Lock does nothing, because this system has no file locks.
func Lock(*os.File) (taken bool) { return false }
