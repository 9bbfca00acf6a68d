//go:build unix

package registry

import "syscall"

// noCore keeps the tokens of a process that ends badly from a file of its memory. Where it is not permitted, the process
// has the limit that its service gives it.
func noCore() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit)
	}
}
