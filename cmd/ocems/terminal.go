package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows on a terminal the current step and its duration, once it has taken a second.
type progress struct {
	out   io.Writer // nil without a terminal
	mu    sync.Mutex
	text  string
	begun time.Time
	shown bool
	stop  chan struct{} // nil while nothing is shown
	done  sync.WaitGroup
}

func newProgress(out io.Writer) *progress {
	if isTerminal(out) {
		return &progress{out: out}
	}
	return &progress{}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// step begins a step.
func (p *progress) step(format string, args ...any) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text = fmt.Sprintf(format, args...); p.stop == nil {
		p.stop, p.begun = make(chan struct{}), time.Now()
		stop := p.stop
		p.done.Go(func() { p.show(stop) })
	}
}

func (p *progress) show(stop <-chan struct{}) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		if spent := time.Since(p.begun).Truncate(time.Second); spent > 0 {
			fmt.Fprintf(p.out, "\r%s (%s)\x1b[K", p.text, spent)
			p.shown = true
		}
		p.mu.Unlock()
	}
}

// clear removes the line. Call it before other output.
func (p *progress) clear() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	p.done.Wait()
	if p.stop = nil; p.shown {
		p.shown = false
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

var levels = regexp.MustCompile(`(?m)^(?: *(?:ok|warning|failed) |OK|WARNING|FAILED) `)

// paint writes a text whose lines begin with a level. On a terminal the level has its colour, unless NO_COLOR is set
// (no-color.org).
func paint(out io.Writer, text []byte) error {
	if isTerminal(out) && os.Getenv("NO_COLOR") == "" {
		text = levels.ReplaceAllFunc(text, func(level []byte) []byte {
			colour := map[byte]int{'o': 32, 'w': 33, 'f': 31}[bytes.ToLower(bytes.TrimSpace(level))[0]]
			return fmt.Appendf(nil, "\x1b[%dm%s\x1b[0m", colour, level)
		})
	}
	_, err := out.Write(text)
	return err
}
