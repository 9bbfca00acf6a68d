//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package place

import "os"

// Lock does nothing here: this system has no lock of files.
func Lock(*os.File) (taken bool) { return false }
