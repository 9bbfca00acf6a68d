package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pipeSize = 64 << 10

// piped is how many bytes are in the pipe.
func (r *program) piped() (n int) {
	r.t.Helper()
	raw, err := r.in.(syscall.Conn).SyscallConn()
	if err != nil {
		r.t.Fatal(err)
	}
	var fault error
	if err := raw.Control(func(fd uintptr) { n, fault = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil || fault != nil {
		r.t.Fatal(err, fault)
	}
	return n
}

// runs waits until the program reads, and so has its state and its signals.
func (r *program) runs() {
	r.t.Helper()
	r.feed("#\n")
	r.until("it reads", func() bool { return r.piped() == 0 })
}

func TestStateThatCannotBeWrittenHoldsThePipe(t *testing.T) {
	for _, c := range []struct {
		name  string
		heals bool
	}{{"until it can", true}, {"until it is told to stop", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.change(`settle = "1s"`, `settle = "5s"`) // the second slot comes in many reads
			r := p.start()
			r.runs()
			away := p.state + ".away"
			if err := os.Rename(p.state, away); err != nil {
				t.Fatal(err)
			}
			start := past(3)
			first, sum, n := samples(start, start.Add(slotTime))
			r.feed(first)
			p.until("it says so", func() bool { return strings.Contains(r.err.String(), "nothing more is read") })
			second, sum2, n2 := samples(start.Add(slotTime), start.Add(2*slotTime))
			second = strings.Repeat(second, 20) // more than the pipe has room for; the mean stays
			written := make(chan error, 1)
			go func() {
				_, err := io.WriteString(r.in, second)
				written <- err
			}()
			p.until("the pipe is full", func() bool { return r.piped() == pipeSize })
			if !c.heals {
				r.signal(syscall.SIGTERM)
				r.end(1)
				if err := <-written; err == nil {
					t.Error("Telegraf would not know that its batch is not taken")
				}
				want := fmt.Sprintf("%d metrics were read and could not be kept", n)
				if got := r.err.String(); !strings.Contains(got, want) {
					t.Errorf("standard error: %s", got)
				}
				return
			}
			time.Sleep(2 * firstRetry)
			if r.piped() != pipeSize {
				t.Error("it reads on")
			}
			if err := os.Rename(away, p.state); err != nil {
				t.Fatal(err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			p.wantSlots(start, sum/float64(n), sum2/float64(n2))
			if got := r.err.String(); strings.Count(got, "\n") != 1 {
				t.Errorf("standard error: %s", got)
			}
			r.in.Close()
			r.end(0)
		})
	}
}

func TestHangUpIsNoEndAndInterruptIs(t *testing.T) {
	p := newPlant(t)
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime))
	r := p.start()
	r.runs()
	r.signal(syscall.SIGHUP)
	r.feed(wire)
	r.signal(syscall.SIGINT)
	r.end(0)
	r = p.start()
	p.wantSlots(start, sum/float64(n))
	r.in.Close()
	r.end(0)
}

// The token that the file spells is the one that the board gets.
func TestDollarsReachTheBoard(t *testing.T) {
	for name, spelled := range map[string]string{"in the file": "pa$$$$word$1x${TAIL}", "in a variable": "${DOLLARS}"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TAIL", `"\'y`)
			t.Setenv("DOLLARS", `pa$$word$1x"\'y`)
			p := newPlantWith(t, `pa$$word$1x"\'y`)
			p.change("${TOKEN}", spelled)
			start := past(2)
			wire, sum, n := samples(start, start.Add(slotTime))
			r := p.start()
			r.feed(wire)
			p.wantSlots(start, sum/float64(n))
			r.in.Close()
			r.end(0)
			if said := r.out.String() + r.err.String(); strings.Contains(said, "pa$$word") {
				t.Errorf("the token is in the log: %s", said)
			}
		})
	}
}

func TestEachBlockGetsEveryMetric(t *testing.T) {
	one, two := newPlant(t), newPlant(t)
	both := ""
	for _, p := range []*plant{one, two} {
		text, err := os.ReadFile(p.config)
		if err != nil {
			t.Fatal(err)
		}
		both += string(text)
	}
	one.write(both)
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime))
	r := one.start()
	r.feed(wire)
	one.wantSlots(start, sum/float64(n))
	two.wantSlots(start, sum/float64(n))
	r.in.Close()
	r.end(0)
}

func TestStateIsForItsOwnerOnly(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	p := newPlant(t)
	r := p.start()
	r.feed("etp_analyser cod=1\n")
	p.until("it is journalled", func() bool { return p.journalled() > 0 })
	err := filepath.WalkDir(p.state, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	r.in.Close()
	r.end(0)
}
