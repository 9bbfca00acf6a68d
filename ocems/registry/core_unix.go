//go:build unix

package registry

import "syscall"

// noCore switches core dumps off, because a core dump would contain the tokens. If this is not permitted, the limit of the
// service stays.
func noCore() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit)
	}
}
