package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress is a line on a terminal that says what is being done and for how long, from a second on.
type progress struct {
	out   io.Writer // nil where there is none
	mu    sync.Mutex
	text  string
	begun time.Time
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

// step says what is done from now on.
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
		}
		p.mu.Unlock()
	}
}

// clear removes the line, before anything else is written.
func (p *progress) clear() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	p.done.Wait()
	p.stop = nil
	fmt.Fprint(p.out, "\r\x1b[K")
}
