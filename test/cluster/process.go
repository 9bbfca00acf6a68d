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

// stopWithin is the time limit for the end of a process after SIGTERM.
const stopWithin = 20 * time.Second

// process is a program that can be started several times. All runs share one log. If it ends by itself, it is started again,
// as by systemd.
type process struct {
	name string
	dir  string // directory of the log
	argv []string
	env  []string // NAME=value
	in   []string // the command that runs it in its network namespace

	mu      sync.Mutex
	command *exec.Cmd     // of the current or last run
	ended   chan struct{} // closed when this run ends; nil before the first
	meant   bool          // it is meant to run
}

// restartAfter is the time between the end of a process and its restart.
const restartAfter = time.Second

// Start starts the process.
func (p *process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meant {
		return fmt.Errorf("starting %s: it runs", p.name)
	}
	p.meant = true
	return p.live()
}

// live begins a run. The caller holds the lock.
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
	// With its own process group, Ctrl-C reaches only the harness, which stops all processes in order, and a kill includes
	// children.
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

// end makes the current run the last one, and returns it.
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

// Name returns the name of its log and of its directory.
func (p *process) Name() string { return p.name }

// Log returns the path of the file with its output.
func (p *process) Log() string { return filepath.Join(p.dir, p.name+".log") }

// Kill sends kill -9.
func (p *process) Kill() {
	if pid, ended, runs := p.end(); runs {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-ended
	}
}

// Stop sends SIGTERM, and kill -9 if the process does not end.
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

// Pause suspends the process, like a machine that hangs, until Resume.
func (p *process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *process) Resume() { p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command != nil {
		_ = syscall.Kill(-p.command.Process.Pid, s)
	}
}

// tail returns the end of its log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.Log())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
