package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopWithin is how long a process may take to end after SIGTERM.
const stopWithin = 20 * time.Second

// process is a program that can be started again and again. Its lives share one log. One that ends by itself is started
// again, as systemd does.
type process struct {
	name string
	dir  string // of the log
	argv []string
	env  []string // NAME=value
	in   []string // the command that starts it in its network

	mu      sync.Mutex
	command *exec.Cmd     // of the present life, or the last
	ended   chan struct{} // closed when it is over; nil before the first
	meant   bool          // to run
}

// restartAfter is between the end of a process and its next life.
const restartAfter = time.Second

// Start starts it.
func (p *process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meant {
		return fmt.Errorf("starting %s: it runs", p.name)
	}
	p.meant = true
	return p.live()
}

// live begins a life. The caller holds the lock.
func (p *process) live() error {
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	defer log.Close()
	argv := slices.Concat(p.in, p.argv)
	command, ended := exec.Command(argv[0], argv[1:]...), make(chan struct{})
	command.Env = append(os.Environ(), p.env...)
	command.Stdout, command.Stderr = log, log
	// A group of its own: Ctrl-C reaches the harness alone, which then stops all in order, and a kill takes children along.
	command.SysProcAttr = attributes()
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	p.command, p.ended = command, ended
	go func() {
		_ = command.Wait()
		close(ended)
		time.Sleep(restartAfter)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.meant && p.ended == ended {
			_ = p.live()
		}
	}()
	return nil
}

// end lets the present life be the last, and returns it.
func (p *process) end() (pid int, ended chan struct{}, runs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meant = false
	if p.ended == nil {
		return 0, nil, false
	}
	select {
	case <-p.ended:
		return 0, nil, false
	default:
		return p.command.Process.Pid, p.ended, true
	}
}

// Name is that of its log and of its directory.
func (p *process) Name() string { return p.name }

// Log is the file of all that it has written.
func (p *process) Log() string { return filepath.Join(p.dir, p.name+".log") }

// Kill is kill -9.
func (p *process) Kill() {
	if pid, ended, runs := p.end(); runs {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-ended
	}
}

// Stop is SIGTERM, and kill -9 where that is not enough.
func (p *process) Stop() error {
	pid, ended, runs := p.end()
	if !runs {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	select {
	case <-ended:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // a child of a script
		return nil
	case <-time.After(stopWithin):
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-ended
		return fmt.Errorf("%s has not ended within %s of SIGTERM", p.name, stopWithin)
	}
}

// Pause stops it as a machine that hangs does, until Resume.
func (p *process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume goes on.
func (p *process) Resume() { p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command != nil {
		_ = syscall.Kill(-p.command.Process.Pid, s)
	}
}

// tail is the end of its log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.Log())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
