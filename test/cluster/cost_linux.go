package cluster

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Cost is the resource use of a process since its start, as the kernel counts it.
type Cost struct {
	CPU                time.Duration // user and system, in steps of 10 ms
	Read               int64         // bytes that system calls have read from files and connections
	Resident, MostEver int64         // bytes
}

// Less returns the use since then.
func (c Cost) Less(then Cost) Cost {
	return Cost{c.CPU - then.CPU, c.Read - then.Read, c.Resident, c.MostEver}
}

// Cost reads the use from the kernel.
func (p *process) Cost() (c Cost, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command == nil {
		return c, fmt.Errorf("reading the cost of %s: it was never started", p.name)
	}
	of := func(file string) (text string) {
		if err == nil {
			var b []byte
			b, err = os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.command.Process.Pid, file))
			text = string(b)
		}
		return text
	}
	if stat := strings.Fields(of("stat")); len(stat) > 15 {
		var user, system int64
		_, _ = fmt.Sscan(stat[13], &user)
		_, _ = fmt.Sscan(stat[14], &system)
		c.CPU = time.Duration(user+system) * 10 * time.Millisecond
	}
	for _, line := range strings.Split(of("io")+of("status"), "\n") {
		name, rest, _ := strings.Cut(line, ":")
		var n int64
		_, _ = fmt.Sscan(rest, &n)
		switch name {
		case "rchar":
			c.Read = n
		case "VmRSS":
			c.Resident = n << 10
		case "VmHWM":
			c.MostEver = n << 10
		}
	}
	return c, err
}

// Stored returns the bytes on a broker's disk.
func (b *Broker) Stored() (n int64, err error) {
	err = filepath.WalkDir(b.path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
