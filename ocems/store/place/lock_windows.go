package place

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

var lockFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("LockFileEx")

// Lock locks the file for this process until it is closed or the process ends. It locks one byte far behind the end,
// because others cannot read a locked byte. On a file system without locks it does nothing.
func Lock(file *os.File) (taken bool) {
	const failImmediately, exclusive = 1, 2
	const violation = syscall.Errno(33)
	at := syscall.Overlapped{OffsetHigh: 1 << 30}
	ok, _, err := lockFileEx.Call(file.Fd(), failImmediately|exclusive, 0, 1, 0, uintptr(unsafe.Pointer(&at)))
	return ok == 0 && errors.Is(err, violation)
}
