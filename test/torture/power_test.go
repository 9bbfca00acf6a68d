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

// A power cut loses data that is written but not synced. So each step of a slot must be synced before the next step relies on
// it. The test checks this in the system calls of each host, from the first reading of one slot to its outcome.
func TestWhatIsAcknowledgedIsSynced(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN does not name the directory of the built programs")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: make strace installs Debian's")
	}
	for name, of := range map[string]files{
		"telegraf": {intake: "state.db", exit: "state.db"},
		"external": {intake: "state.db", exit: "state.db"},
		"exporter": {intake: "exporter_ocems_", exit: "exporter_ocems_"},
		"edge":     {intake: "processor_ocems_slot_", exit: "exporter_ocems_"},
	} {
		t.Run(name, func(t *testing.T) {
			text, ports := traced(t, strace, bin, name)
			seen, faults := order(text, of, ports)
			for _, f := range faults[:min(len(faults), 20)] {
				t.Error(f)
			}
			if answers := strings.Contains(hosts[name].config, "otlp"); seen.answers == 0 == answers {
				t.Errorf("%d answers to the sender were seen", seen.answers)
			}
			t.Logf("%d answers to the sender, %d requests to the board, synced: %v", seen.answers, seen.requests, seen.syncs)
		})
	}
}

// files are the names of two state files: the one for readings, and the one from which slots go to the board.
type files struct{ intake, exit string }

// ports are the ports of the host and of the board.
type ports struct{ host, board string }

// traced returns the system calls of a host's run in which one slot goes to the board.
func traced(t *testing.T, strace, bin, name string) (calls []byte, of ports) {
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
			t.Fatal("the host does not accept metrics")
		}
	}
	if err := until(time.Minute, func() bool {
		entries, _ := trail(filepath.Join(v.disk, "audit.jsonl"))
		return slices.ContainsFunc(entries, func(e entry) bool { return e.Outcome == "delivered" })
	}); err != nil {
		t.Fatal("no slot has an outcome:", err)
	}
	traced, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.command.Process.Pid)) // strace does not pass a signal on
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
	if _, of.host, err = net.SplitHostPort(v.port); err == nil {
		_, of.board, err = net.SplitHostPort(v.board.front)
	}
	if err != nil {
		t.Fatal(err)
	}
	return calls, of
}

var (
	call = regexp.MustCompile(`^(\d+) +(?:(read|write|pwrite64|fsync|fdatasync)\((\d+)<((?:->|[^>])*)>|<\.\.\. (\w+) resumed>)`)
	size = regexp.MustCompile(`", (\d+)(?:\) += -?\d+| <unfinished \.\.\.>)$`) // size of a write
	page = regexp.MustCompile(`, (\d+), (\d+)(?:\)| <unfinished)`)             // size and offset of a pwrite64
)

// file is a file to which the host writes.
type file struct {
	pages, head bool // written and not synced; writing head commits a transaction, and each line of the trail is one
	syncs       int
	holds       string // what is written of a transaction whose head is not synced
	kept        map[string]bool
	parted      bool // a slot was stored in another transaction than the aligner without it
}

func (f *file) dirty() bool { return f.pages || f.head }

// synced records a sync of all earlier writes. If the head was among these, it ends a transaction.
func (f *file) synced() {
	if f.head {
		for _, key := range slots {
			f.parted = f.parted || !f.kept[key] && strings.Contains(f.holds, key) && !strings.Contains(f.holds, "open/")
		}
		for _, key := range append(slots, "samples/", "done/", "delivered") {
			f.kept[key] = f.kept[key] || strings.Contains(f.holds, key)
		}
		f.holds = ""
	}
	f.pages, f.head = false, false
	f.syncs++
}

// slots are the prefixes of the keys for slots to be passed on, and for slots for the board. "samples/" is that of batches of
// readings, "done/" that of outcomes.
var slots = []string{"ready/", "outbox/"}

// seen counts what was checked.
type seen struct {
	answers, requests int
	syncs             map[string]int
}

// order checks the order of the system calls. A state is written in transactions. Each is synced before its head is written and
// before the next one. Readings are synced before the sender gets its answer, or before more readings are read. The slot is
// stored in one transaction with the aligner that has closed it, and synced before anything goes to the board and before the
// processor deletes it. The board's answer is synced as a line of the trail before the slot's outcome is written to the outbox,
// and before the next line. Everything is synced at the end.
func order(text []byte, of files, at ports) (found seen, faults []string) {
	const trail = "audit.jsonl"
	all := map[string]*file{}
	for _, name := range []string{of.intake, of.exit, trail} {
		all[name] = &file{kept: map[string]bool{}}
	}
	intake, exit := all[of.intake], all[of.exit]
	fault := func(short, format string, args ...any) {
		faults = append(faults, strings.TrimSuffix(fmt.Sprintf(format, args...)+": "+short, ": "))
	}
	syncing := map[string]*file{} // file by thread
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		m := call.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		thread, name, path := m[1], m[2], m[4]
		short := s.Text()[:min(len(s.Text()), 160)]
		f := all[filepath.Base(path)]
		switch {
		case m[5] == "fsync" || m[5] == "fdatasync":
			if f := syncing[thread]; f != nil {
				f.synced()
			}
			delete(syncing, thread)
		case f != nil && (name == "fsync" || name == "fdatasync"):
			if strings.Contains(s.Text(), "<unfinished") {
				syncing[thread] = f
			} else {
				f.synced()
			}
		case name == "read" && m[3] == "0" && intake.dirty():
			fault(short, "more input is read while a reading is not synced")
		case name == "write" && strings.Contains(path, ":"+at.host+"->") && strings.Contains(s.Text(), `"HTTP/1.1 200`):
			if found.answers++; intake.dirty() || !intake.kept["samples/"] {
				fault(short, "the sender gets its answer while its readings are not synced")
			}
			intake.kept["samples/"] = false // until the next batch
		case name == "write" && strings.Contains(path, "->") && strings.HasSuffix(path, ":"+at.board+"]"):
			if !carries(s.Text()) {
				break
			}
			if found.requests++; !exit.kept["outbox/"] {
				fault(short, "a request goes to the board while the slot is not synced")
			}
		case f == nil:
		case name == "write" || name == "pwrite64" && filepath.Base(path) == trail:
			if f.dirty() {
				fault(short, "the trail is written while earlier lines are not synced")
			}
			f.head = true
			f.holds += s.Text()
		case name == "pwrite64":
			if f == exit && strings.Contains(s.Text(), "done/") && !all[trail].kept["delivered"] {
				fault(short, "the outcome is written while the line of the trail is not synced")
			}
			if f == intake && f != exit && f.kept["ready/"] && !exit.kept["outbox/"] {
				fault(short, "the processor deletes a slot while the exporter's copy is not synced")
			}
			if f.head {
				fault(short, "the state is written while the previous transaction is not synced")
			}
			f.holds += s.Text()
			if p := page.FindStringSubmatch(s.Text()); p != nil && p[1] == "4096" && (p[2] == "0" || p[2] == "4096") {
				if f.pages {
					fault(short, "a transaction is committed while its pages are not synced")
				}
				f.head = true
			} else {
				f.pages = true
			}
		}
	}
	if !exit.kept["done/"] {
		fault("", "the outcome is not synced")
	}
	if intake.parted {
		fault("", "a slot leaves the aligner in more than one transaction")
	}
	found.syncs = map[string]int{}
	for name, f := range all {
		if found.syncs[name] = f.syncs; f.dirty() || f.syncs == 0 {
			fault("", "%s is not synced at the end", name)
		}
	}
	if err := s.Err(); err != nil || found.requests == 0 {
		fault("", "%d requests seen, %v", found.requests, err)
	}
	return found, faults
}

// carries reports whether a write to the board may contain readings. Then it is not a handshake, and it is long enough for a
// signature of 344 characters, unlike the request for the time.
func carries(text string) bool {
	m := size.FindStringSubmatch(text)
	if m == nil || !strings.Contains(text, `>, "\27\3`) {
		return false
	}
	n, _ := strconv.Atoi(m[1])
	return n > 344
}

// The check finds each missing step.
func TestOrder(t *testing.T) {
	const (
		host, board = `write(9<TCP:[127.0.0.1:1->127.0.0.1:7]>, "HTTP/1.1 200 OK\r\n", 17) = 17`, `write(8<TCP:[127.0.0.1:8->127.0.0.1:2]>, "\27\3\3", 900) = 900`
		hello, ask  = `write(8<TCP:[127.0.0.1:8->127.0.0.1:2]>, "\26\3\1", 1500) = 1500`, `write(8<TCP:[127.0.0.1:8->127.0.0.1:2]>, "\27\3\3", 131 <unfinished ...>`
		line, told  = `write(6</s/audit.jsonl>, "delivered\n", 10) = 10`, `fsync(6</s/audit.jsonl>) = 0`
	)
	transaction := func(file, holds string) []string {
		return []string{
			fmt.Sprintf(`pwrite64(5</s/%s>, "\0%s\0", 8192, 16384) = 8192`, file, holds), fmt.Sprintf("fdatasync(5</s/%s> <unfinished ...>", file), "<... fdatasync resumed>) = 0",
			fmt.Sprintf(`pwrite64(5</s/%s>, "head", 4096, 0) = 4096`, file), fmt.Sprintf("fdatasync(5</s/%s>) = 0", file)}
	}
	one := files{intake: "state.db", exit: "state.db"}
	two := files{intake: "in", exit: "out"}
	closed := "ready/1 open/1"
	whole := func(of files) (calls []string) {
		calls = append(transaction(of.intake, "samples/1"), host)
		if of.intake != of.exit {
			calls = append(calls, transaction(of.intake, closed)...)
		}
		calls = append(append(calls, transaction(of.exit, "outbox/1"+closed)...), board)
		if of.intake != of.exit {
			calls = append(calls, transaction(of.intake, "")...)
		}
		return append(append(calls, line, told), transaction(of.exit, "done/1")...)
	}
	for _, c := range []struct {
		name    string
		of      files
		without []int // calls
		fault   string
	}{
		{name: "all is well", of: one},
		{name: "all is well in two states", of: two},
		{"the pages of a reading", one, []int{1, 2}, "committed while its pages"},
		{"the head of a reading", one, []int{4}, "the sender gets its answer"},
		{"the reading", one, []int{0, 1, 2, 3, 4}, "the sender gets its answer"},
		{"the pages of a slot", one, []int{7, 8}, "committed while its pages"},
		{"the head of a slot", one, []int{10}, "a request goes to the board"},
		{"the slot", one, []int{6, 7, 8, 9, 10}, "a request goes to the board"},
		{"the line of the trail", one, []int{12, 13}, "the outcome is written while the line"},
		{"the sync of the trail", one, []int{13}, "the outcome is written while the line"},
		{"the sync of the outcome", one, []int{18}, "not synced at the end"},
		{"the outcome", one, []int{14, 15, 16, 17, 18}, "the outcome is not synced"},
		{"the exporter's head", two, []int{15}, "the processor deletes"},
		{"the exporter's slot", two, []int{11, 12, 13, 14, 15}, "the processor deletes"},
		{"the aligner", one, nil, "more than one transaction"},
		{"the aligner of two states", two, nil, "more than one transaction"},
	} {
		t.Run(c.name, func(t *testing.T) {
			closed = "ready/1 open/1"
			if strings.HasPrefix(c.name, "the aligner") {
				closed = "ready/1"
			}
			var text strings.Builder
			fmt.Fprintf(&text, "100 %s\n100 %s\n", hello, ask)
			for i, l := range whole(c.of) {
				if !slices.Contains(c.without, i) {
					fmt.Fprintf(&text, "%d %s\n", 100, l)
				}
			}
			seen, faults := order([]byte(text.String()), c.of, ports{"1", "2"})
			if seen.answers != 1 || seen.requests != 1 {
				t.Errorf("%d answers and %d requests", seen.answers, seen.requests)
			}
			if all := strings.Join(faults, "\n"); all == "" != (c.fault == "") || !strings.Contains(all, c.fault) {
				t.Errorf("no fault has %q:\n%s", c.fault, all)
			}
		})
	}
}
