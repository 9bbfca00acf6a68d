package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// stopWithin is how long a process may take to end after SIGTERM.
const stopWithin = 20 * time.Second

// process is a program that can be started again and again. Its lives share one log.
type process struct {
	name    string
	dir     string // of the log
	argv    []string
	env     []string // NAME=value
	command *exec.Cmd
	ended   chan struct{}
}

func (p *process) start() error {
	if p.Alive() {
		return fmt.Errorf("starting %s: it runs", p.name)
	}
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	defer log.Close()
	command, ended := exec.Command(p.argv[0], p.argv[1:]...), make(chan struct{})
	command.Env = append(os.Environ(), p.env...)
	command.Stdout, command.Stderr = log, log
	// A group of its own: Ctrl-C reaches the harness alone, which then stops all in order, and a kill takes children along.
	command.SysProcAttr = attributes()
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	go func() { _ = command.Wait(); close(ended) }()
	p.command, p.ended = command, ended
	return nil
}

// Name is that of its log and of its directory.
func (p *process) Name() string { return p.name }

// Log is the file of all that it has written.
func (p *process) Log() string { return filepath.Join(p.dir, p.name+".log") }

// Alive reports whether it runs.
func (p *process) Alive() bool {
	if p.command == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Kill is kill -9.
func (p *process) Kill() {
	if p.Alive() {
		_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
		<-p.ended
	}
}

// Stop is SIGTERM, and kill -9 where that is not enough.
func (p *process) Stop() error {
	if !p.Alive() {
		return nil
	}
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopWithin):
		p.Kill()
		return fmt.Errorf("%s has not ended within %s of SIGTERM", p.name, stopWithin)
	}
}

// tail is the end of its log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.Log())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
