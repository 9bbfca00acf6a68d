//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package boltfile

import "os"

// unlock is left to the closing of the file.
func unlock(*os.File) {}
