package cluster

import "syscall"

// attributes makes a process end with the harness, even if the harness is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
