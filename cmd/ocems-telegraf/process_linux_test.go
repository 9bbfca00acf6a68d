package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
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

// runs waits until the program reads; then its state and signal handlers are ready.
func (r *program) runs() {
	r.t.Helper()
	r.feed("#\n")
	r.until("it reads", func() bool { return r.piped() == 0 })
}

// smallDisk mounts a small file system at dir.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("ocems-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("only root mounts a small disk: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// fill fills the file system of name.
func fill(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	file.Close()
}

func TestStateThatCannotBeWrittenHoldsThePipe(t *testing.T) {
	const readings = 150 * time.Millisecond // more than the state's free pages and a pipe hold
	for _, c := range []struct {
		name  string
		heals bool
		stops bool
	}{{"until it can", true, false}, {"until it must stop", false, true}, {"until it can, and must stop immediately", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			smallDisk(t, p.state)
			p.change(`settle = "1s"`, `settle = "5s"`) // the slots arrive in many reads
			r := p.start()
			r.runs()
			ballast := filepath.Join(p.state, "ballast")
			fill(t, ballast)
			start := past(3)
			first, sum, n := samples(start, start.Add(slotTime), readings)
			second, sum2, n2 := samples(start.Add(slotTime), start.Add(2*slotTime), readings)
			written := make(chan error, 1)
			go func() {
				_, err := io.WriteString(r.in, first+second)
				written <- err
			}()
			p.until("it says so", func() bool { return strings.Contains(r.err.String(), "reading has stopped") })
			p.until("the pipe is full", func() bool { return r.piped() == pipeSize })
			if !c.heals {
				r.signal(syscall.SIGTERM)
				r.end(1)
				if err := <-written; err == nil {
					t.Error("Telegraf would not know that its batch is not taken")
				}
				if got := r.err.String(); !strings.Contains(got, " metrics were read but could not be stored: ") {
					t.Errorf("standard error: %s", got)
				}
				return
			}
			if c.stops {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				r.signal(syscall.SIGTERM)
				r.end(0)
				<-written
				return
			}
			time.Sleep(2 * firstRetry)
			if r.piped() != pipeSize {
				t.Error("it reads on")
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			p.wantSlots(start, sum/float64(n), sum2/float64(n2))
			if got := r.err.String(); strings.Count(got, "reading has stopped") != 1 {
				t.Errorf("standard error: %s", got)
			}
			r.in.Close()
			r.end(0)
		})
	}
}

// TestFaultsOfTheDisk makes system calls fail at random, kills the program, and starts it again: every slot arrives with all
// samples that were read, and is sent twice only if its answer was not yet on disk.
func TestFaultsOfTheDisk(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace here")
	}
	for name, faults := range map[string][]string{
		"a sync of the state": {"fdatasync:error=EIO:when=2+7"},
		"a sync of the trail": {"fsync:error=EIO:when=2+3"},
		"all of them":         {"fdatasync:error=EIO:when=5+7", "fsync:error=EIO:when=4+3", "pwrite64:error=ENOSPC:when=7+11"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			argv := []string{strace, "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync,pwrite64", "-e", "signal=none"}
			for _, fault := range faults {
				argv = append(argv, "-e", "inject="+fault)
			}
			r := p.start() // it creates its files without disk faults
			r.runs()
			r.in.Close()
			r.end(0)
			r = p.under(argv)
			start := past(9)
			var wire []string
			var means []float64
			for i := range 8 {
				text, sum, n := samples(start.Add(time.Duration(i)*slotTime), start.Add(time.Duration(i+1)*slotTime), every)
				wire, means = append(wire, text), append(means, sum/float64(n))
			}
			for _, text := range wire[:6] {
				r.feed(text)
				time.Sleep(500 * time.Millisecond)
			}
			p.until("slots arrive", func() bool { return len(p.received()) >= 3 })
			for _, text := range wire[6:] {
				r.feed(text)
			}
			r.signal(syscall.SIGKILL)
			<-r.ended
			t.Logf("%d slots arrived before the kill, the log:\n%.2000s", len(p.received()), r.err.String())
			r = p.start()
			r.feed(strings.Join(wire, "")) // what Telegraf must send again, and more
			p.wantSlots(start, means...)
			r.in.Close()
			r.end(0)
			if n := p.account().Duplicates; n > 2*8 { // outcomes that may not be on disk yet
				t.Errorf("%d requests were answered 111", n)
			}
		})
	}
}

func TestHangUpIsNoEndAndInterruptIs(t *testing.T) {
	p := newPlant(t)
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime), every)
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

// The board gets exactly the token in the file.
func TestDollarsReachTheBoard(t *testing.T) {
	for name, spelled := range map[string]string{"in the file": "pa$$$$word$1x${TAIL}", "in a variable": "${DOLLARS}"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TAIL", `"\'y`)
			t.Setenv("DOLLARS", `pa$$word$1x"\'y`)
			p := newPlantWith(t, `pa$$word$1x"\'y`)
			p.change("${TOKEN}", spelled)
			start := past(2)
			wire, sum, n := samples(start, start.Add(slotTime), every)
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
	wire, sum, n := samples(start, start.Add(slotTime), every)
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
	p.until("it is kept", func() bool { return p.kept() > 0 })
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
