package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A power cut takes what was written and not synced. So each step of a slot's way must be synced before the next one
// says that it is done: the system calls of one slot's whole life show it, for each host.
func TestWhatIsAcknowledgedIsSynced(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN does not name the directory of the built programs")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace here: make strace installs Debian's")
	}
	for name, files := range map[string][]string{
		"external":  {"journal", "state.db", "audit.jsonl"},
		"telegraf":  {"journal", "state.db", "audit.jsonl"},
		"collector": {"processor_ocems_slot_", "exporter_ocems_", "audit.jsonl"},
	} {
		t.Run(name, func(t *testing.T) {
			text, board := traced(t, strace, bin, name)
			syncs, faults := order(text, board)
			for _, f := range faults {
				t.Error(f)
			}
			for _, name := range files {
				if syncs[name] == 0 {
					t.Errorf("%s was never synced", name)
				}
			}
			t.Logf("synced: %v", syncs)
		})
	}
}

// traced is the system calls of a host's life in which one slot goes to the board, and the board's port.
func traced(t *testing.T, strace, bin, name string) (calls []byte, board string) {
	dir := t.TempDir()
	file := filepath.Join(dir, "calls")
	plain := hosts[name]
	h := *plain
	h.argv = func(bin, dir string) []string {
		return append([]string{strace, "-f", "-yy", "-s", "70000", "-e", "trace=read,write,pwrite64,fsync,fdatasync", "-o", file}, plain.argv(bin, dir)...)
	}
	hosts["traced"] = &h
	v, err := newVictim(options{bin: bin, kills: 1}, "traced", filepath.Join(dir, "run"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer v.end()
	p, err := v.start(0)
	if err != nil {
		t.Fatal(err)
	}
	for range 15 { // minutes
		ms := slices.DeleteFunc(v.next(), func(m metric) bool { return m.device != devices[0].id })
		if p.fed += len(ms); h.feed(p, ms) != took {
			t.Fatal("the host does not take what it is fed")
		}
	}
	if err := until(time.Minute, func() bool {
		entries, _ := trail(filepath.Join(v.disk, "audit.jsonl"))
		return len(entries) > 0
	}); err != nil {
		t.Fatal("no slot has an outcome:", err)
	}
	traced, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.command.Process.Pid)) // strace keeps a signal to itself
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(traced)))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := until(20*time.Second, p.dead); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Fatal("it does not end")
	}
	p.stop(syscall.SIGKILL)
	if calls, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	_, board, err = net.SplitHostPort(v.board.front)
	if err != nil {
		t.Fatal(err)
	}
	return calls, board
}

var call = regexp.MustCompile(`^(\d+) +(?:(read|write|pwrite64|fsync|fdatasync)\((\d+)<((?:->|[^>])*)>|<\.\.\. (\w+) resumed>)`)

// order checks the system calls: the journal is synced before its next frame and before the next read of the input, the
// slot before anything goes to the board, the board's answer, as a line of the trail, before the slot leaves the outbox
// and before the next line, and everything before the end.
func order(text []byte, board string) (syncs map[string]int, faults []string) {
	kind := func(path string) string {
		switch base := filepath.Base(path); {
		case strings.HasPrefix(base, "journal-"):
			return "journal"
		case base == "state.db" || base == "audit.jsonl" || base == "exporter_ocems_" || base == "processor_ocems_slot_":
			return base
		}
		return ""
	}
	syncs = map[string]int{}
	dirty := map[string]bool{}
	syncing := map[string]string{} // by thread
	stored, kept, requests := false, false, 0
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	synced := func(what string) {
		dirty[what] = false
		syncs[what]++
		kept = kept || stored && (what == "state.db" || what == "exporter_ocems_")
	}
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		m := call.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		thread, name, what := m[1], m[2], kind(m[4])
		short := s.Text()[:min(len(s.Text()), 160)]
		switch {
		case m[5] == "fsync" || m[5] == "fdatasync":
			synced(syncing[thread])
		case name == "read" && m[3] == "0" && dirty["journal"]:
			fault("the input is read on while the journal is not synced: %s", short)
		case name == "write" && strings.Contains(m[4], "->") && strings.HasSuffix(m[4], ":"+board+"]"):
			if requests++; !kept {
				fault("the board is spoken to while the slot is not synced: %s", short)
			}
		case (name == "write" || name == "pwrite64") && what != "":
			if what == "audit.jsonl" && dirty[what] {
				fault("the trail is written on while the lines before are not synced: %s", short)
			}
			if what == "journal" && dirty[what] {
				fault("the journal is written on while the frame before is not synced: %s", short)
			}
			if (what == "state.db" || what == "exporter_ocems_") && dirty["audit.jsonl"] {
				fault("the outbox is written while the line of the trail is not synced: %s", short)
			}
			dirty[what] = true
			stored = stored || strings.Contains(s.Text(), "outbox/")
		case name == "fsync" || name == "fdatasync":
			if strings.Contains(s.Text(), "<unfinished") {
				syncing[thread] = what
			} else {
				synced(what)
			}
		}
	}
	for name, is := range dirty {
		if is {
			fault("%s is not synced in the end", name)
		}
	}
	if err := s.Err(); err != nil || requests == 0 {
		fault("%d requests seen, %v", requests, err)
	}
	return syncs, faults
}
