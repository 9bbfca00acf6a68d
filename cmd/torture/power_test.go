package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A power cut takes what was written and not synced. So what the external plugin says it has must be synced before: the
// system calls of a life show it. A read of the standard input is where it says so.
func TestWhatIsAcknowledgedIsSynced(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN does not name the directory of the built programs")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace here")
	}
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	plain := hosts["external"]
	traced := *plain
	traced.argv = func(bin, dir string) []string {
		return append([]string{strace, "-f", "-y", "-s", "0", "-e", "trace=read,write,pwrite64,fsync,fdatasync", "-o", calls}, plain.argv(bin, dir)...)
	}
	hosts["traced"] = &traced
	v, err := newVictim(options{bin: bin, kills: 1}, "traced", filepath.Join(dir, "run"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer v.end()
	p, err := v.start(0)
	if err != nil {
		t.Fatal(err)
	}
	v.feed(p, 3*time.Second)
	if err := until(time.Minute, func() bool {
		got, err := v.board.received()
		return err == nil && len(got.Readings) > 0
	}); err != nil {
		t.Fatal("nothing came to the board:", err)
	}
	_ = p.stdin.Close()
	if err := until(20*time.Second, p.dead); err != nil {
		_ = p.command.Process.Signal(syscall.SIGKILL)
		t.Fatal("it does not end with its input")
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	syncs, faults := order(text)
	for _, f := range faults {
		t.Error(f)
	}
	for _, name := range []string{"journal", "state.db", "audit.jsonl"} {
		if syncs[name] == 0 {
			t.Errorf("%s was never synced", name)
		}
	}
	t.Logf("synced: %v", syncs)
}

var call = regexp.MustCompile(`^(\d+) +(?:(read|write|pwrite64|fsync|fdatasync)\((\d+)<([^>]*)>|<\.\.\. (\w+) resumed>)`)

// order checks the system calls: the journal is synced before the next read of the input, the trail before its next
// line, and everything before the end.
func order(text []byte) (syncs map[string]int, faults []string) {
	kind := func(path string) string {
		switch base := filepath.Base(path); {
		case strings.HasPrefix(base, "journal-"):
			return "journal"
		case base == "state.db" || base == "audit.jsonl":
			return base
		}
		return ""
	}
	syncs = map[string]int{}
	dirty := map[string]bool{}
	syncing := map[string]string{} // by thread
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		m := call.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		thread, name, what := m[1], m[2], kind(m[4])
		unfinished := strings.Contains(s.Text(), "<unfinished")
		switch {
		case m[5] == "fsync" || m[5] == "fdatasync":
			dirty[syncing[thread]] = false
			syncs[syncing[thread]]++
		case name == "read" && m[3] == "0" && dirty["journal"]:
			faults = append(faults, "the input is read on while the journal is not synced: "+s.Text())
		case (name == "write" || name == "pwrite64") && what != "":
			if what == "audit.jsonl" && dirty[what] {
				faults = append(faults, "the trail is written on while the lines before are not synced: "+s.Text())
			}
			dirty[what] = true
		case name == "fsync" || name == "fdatasync":
			if unfinished {
				syncing[thread] = what
			} else {
				dirty[what] = false
				syncs[what]++
			}
		}
	}
	for name, is := range dirty {
		if is {
			faults = append(faults, name+" is not synced in the end")
		}
	}
	return syncs, faults
}
