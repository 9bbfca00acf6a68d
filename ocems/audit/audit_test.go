package audit_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

func write(t *testing.T, path string, n int) {
	t.Helper()
	trail, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	for range n {
		if err := trail.Append(audit.Entry{Outcome: audit.Delivered, Device: "d", Stamp: 1726857000000}, audit.Entry{Outcome: audit.Late}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChainGoesOnAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "audit.jsonl")
	write(t, path, 3)
	write(t, path, 2)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	if err := audit.Verify(bytes.NewReader(text), func(audit.Entry) { lines++ }); err != nil || lines != 10 {
		t.Errorf("%d lines, %v; want 10", lines, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestTornLineIsRemovedAndNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 2)
	whole, _ := os.ReadFile(path)
	for _, keep := range []int{len(whole) - 1, len(whole) - 40} {
		if err := os.WriteFile(path, whole[:keep], 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, path, 1)
		text, _ := os.ReadFile(path)
		recovered := 0
		err := audit.Verify(bytes.NewReader(text), func(e audit.Entry) {
			if e.Outcome == audit.Recovered {
				recovered++
			}
		})
		if err != nil || recovered != 1 {
			t.Errorf("cut at %d of %d: %d notes, %v", keep, len(whole), recovered, err)
		}
	}
}

// A trail that cannot be continued must not stop the host.
func TestDamagedEndIsSetAside(t *testing.T) {
	for name, noise := range map[string]string{"the end": "\x00noise\n", "all of it": "\x00noise\n", "all, in one line": "\x00noise"} {
		t.Run(name, func(t *testing.T) { setAside(t, name == "the end", noise) })
	}
}

// What logrotate's copytruncate or a power cut may leave: zeros of any length.
func TestHoleIsSetAside(t *testing.T) {
	const hole = 256 << 20
	line := `{"n":70000,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":""}` + "\n"
	for name, make := range map[string]func(f *os.File){
		"before a line":   func(f *os.File) { f.WriteAt([]byte(line), hole) },
		"before lines":    func(f *os.File) { f.WriteAt([]byte(line+line), hole) },
		"after the lines": func(f *os.File) { f.WriteString(strings.Replace(line, "70000", "1", 1)); f.Truncate(hole) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.trail")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			make(f)
			f.Close()
			begun := time.Now()
			write(t, path, 1)
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("after %s", took)
			}
			if kept, _ := filepath.Glob(path + ".damaged-*"); len(kept) != 1 {
				t.Errorf("kept as %v", kept)
			}
			text, _ := os.ReadFile(path)
			if err := audit.Verify(bytes.NewReader(text), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func setAside(t *testing.T, partly bool, noise string) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 2)
	whole, _ := os.ReadFile(path)
	from := 0
	if partly {
		from = len(whole) - 300
	}
	copy(whole[from:], bytes.Repeat([]byte(noise), len(whole)))
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := trail.Append(audit.Entry{Outcome: audit.Delivered}); err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	kept, _ := filepath.Glob(path + ".damaged-*")
	if len(kept) != 1 || !strings.Contains(trail.Damage(), kept[0]) {
		t.Fatalf("kept as %v, and it says %q", kept, trail.Damage())
	}
	if text, _ := os.ReadFile(kept[0]); !bytes.Equal(text, whole) {
		t.Error("the damaged trail was changed")
	}
	text, _ := os.ReadFile(path)
	var got []audit.Entry
	if err := audit.Verify(bytes.NewReader(text), func(e audit.Entry) { got = append(got, e) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Outcome != audit.Recovered || got[0].Detail != trail.Damage() || got[1].Outcome != audit.Delivered {
		t.Errorf("%+v", got)
	}
}

// A file of another program that audit_file names by mistake is left unchanged.
func TestForeignFileIsRefused(t *testing.T) {
	for _, text := range []string{"root:x:0:0\ndaemon:x:1:1\n", "no line break", `{"key": "value"}` + "\n", `{"n":"text"}` + "\n", "\n"} {
		path := filepath.Join(t.TempDir(), "file")
		if strings.HasPrefix(text, "{") {
			path += ".jsonl"
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if trail, err := audit.Open(path); err == nil || !strings.Contains(err.Error(), "is not an audit trail: give the trail a file of its own") {
			t.Errorf("%q: %v, %v", text, trail, err)
		}
		if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(files) != 1 {
			t.Errorf("%q: %v", text, files)
		}
		if after, _ := os.ReadFile(path); string(after) != text {
			t.Errorf("%q became %q", text, after)
		}
	}
}

// Two components of one process may name the same file: they share one trail, which is open until both have closed it.
func TestOneTrailAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	first, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := audit.Open(filepath.Join(filepath.Dir(path), ".", "audit.jsonl"))
	if err != nil || second != first {
		t.Fatalf("a second one: %v", err)
	}
	first.Close()
	if err := second.Append(audit.Entry{Outcome: audit.Delivered}); err != nil {
		t.Error("the first has closed it:", err)
	}
	second.Close()
	write(t, path, 1)
	text, _ := os.ReadFile(path)
	lines := 0
	if err := audit.Verify(bytes.NewReader(text), func(audit.Entry) { lines++ }); err != nil || lines != 3 {
		t.Errorf("%d lines, %v; want 3", lines, err)
	}
}

// holder is set in a second process of this test to the trail that it holds open.
const holder = "OCEMS_TEST_HOLDS_TRAIL"

func TestMain(m *testing.M) {
	path := os.Getenv(holder)
	if path == "" {
		os.Exit(m.Run())
	}
	trail, err := audit.Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if os.Getenv(rotator) != "" {
		rotate(trail)
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin) // until it is killed
	runtime.KeepAlive(trail)
}

func TestOneProcessAFile(t *testing.T) {
	if runtime.GOOS == "plan9" || runtime.GOOS == "solaris" || runtime.GOOS == "aix" || runtime.GOOS == "js" {
		t.Skip("no lock on " + runtime.GOOS)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 1)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holder+"="+path)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	defer func() {
		if !killed {
			other.Process.Kill()
			other.Wait()
		}
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	before, _ := os.ReadFile(path)
	for range 2 { // a refusal does not release the lock
		trail, err := audit.Open(path)
		if err == nil {
			trail.Close()
		}
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "in use by another process") {
			t.Fatalf("Open = %v, want an error that names the file and says who has it", err)
		}
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the other's trail was changed")
	}
	if err := audit.Verify(bytes.NewReader(before), nil); err != nil {
		t.Errorf("a trail in use cannot be read: %v", err)
	}
	killed = true
	other.Process.Kill()
	other.Wait()
	write(t, path, 1) // the process's lock ended with it
}

// If several processes find the same damage at one time, one sets the trail aside and has the new one.
func TestDamageThatManyFind(t *testing.T) {
	for range 10 {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		write(t, path, 2)
		whole, _ := os.ReadFile(path)
		whole[len(whole)-2] = 'x'
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		opened := make(chan bool)
		for range 4 {
			other := exec.Command(os.Args[0])
			other.Env = append(os.Environ(), holder+"="+path)
			in, _ := other.StdinPipe()
			out, err := other.StdoutPipe()
			if err == nil {
				err = other.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { in.Close(); other.Wait() })
			go func() {
				line, _ := bufio.NewReader(out).ReadString('\n')
				opened <- line == "open\n"
			}()
		}
		n := 0
		for range 4 {
			if <-opened {
				n++
			}
		}
		kept, _ := filepath.Glob(path + ".*")
		text, _ := os.ReadFile(path)
		if err := audit.Verify(bytes.NewReader(text), nil); err != nil || n != 1 || len(kept) != 1 || len(text) == 0 {
			t.Fatalf("%d have it open, kept as %v: %v in\n%s", n, kept, err, text)
		}
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 2)
	text, _ := os.ReadFile(path)
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	for name, changed := range map[string]string{
		"line 1 altered":    strings.Replace(string(text), `"device":"d"`, `"device":"e"`, 1),
		"last line altered": strings.TrimSuffix(string(text), lines[3]+"\n") + strings.Replace(lines[3], `"late"`, `"lose"`, 1) + "\n",
		"last sum removed":  strings.TrimSuffix(string(text), lines[3]+"\n") + lines[3][:strings.LastIndex(lines[3], `,"sum"`)] + "}\n",
		"line 2 removed":    lines[0] + lines[2] + lines[3] + "\n",
		"line 2 doubled":    lines[0] + lines[1] + lines[1] + lines[2] + lines[3] + "\n",
		"line 1 removed":    lines[1] + lines[2] + lines[3] + "\n",
		"not JSON":          "x\n" + string(text),
		"unfinished":        strings.TrimSuffix(string(text), "\n"),
	} {
		if err := audit.Verify(strings.NewReader(changed), nil); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%s: %v, want an error that names the line", name, err)
		}
	}
}

// The first trails had no sums. They verify, and continue with sums.
func TestTrailWithoutSums(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	first := `{"n":1,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":""}`
	second := fmt.Sprintf(`{"n":2,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":"%x"}`, sha256.Sum256([]byte(first)))
	if err := os.WriteFile(path, []byte(first+"\n"+second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path, 1)
	text, _ := os.ReadFile(path)
	if err := audit.Verify(bytes.NewReader(text), nil); err != nil || bytes.Count(text, []byte(`"sum"`)) != 2 {
		t.Errorf("%v in\n%s", err, text)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"n":1,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":""}` + "\n"))
	f.Add([]byte(`{"n":1,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":"","sum":"` + strings.Repeat("0", 64) + `"}` + "\n"))
	f.Add([]byte("\x00\n\n{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		whole := audit.Verify(bytes.NewReader(text), nil) == nil
		trail, err := audit.Open(path)
		if whole && err != nil {
			t.Errorf("a trail that verifies does not open: %v", err)
		}
		if err != nil {
			return
		}
		defer trail.Close()
		if err := trail.Append(audit.Entry{Outcome: audit.Late}); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(path); whole && audit.Verify(bytes.NewReader(after), nil) != nil {
			t.Errorf("a trail that verified does no more after a line:\n%s", after)
		}
	})
}

// FuzzAlteredTrail checks that Verify detects every changed byte of a trail.
func FuzzAlteredTrail(f *testing.F) {
	for at := range 40 {
		f.Add(uint8(at%4), "device_1", "value 3 \"mg/L\"", at*37, byte(at+1))
	}
	f.Fuzz(func(t *testing.T, more uint8, device, detail string, at int, change byte) {
		path := filepath.Join(t.TempDir(), "a")
		trail, err := audit.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		status := 1
		entries := []audit.Entry{{Outcome: audit.Delivered, Device: device, Detail: detail, Status: &status, Stamp: 1726857000000,
			Readings: []audit.Reading{{Parameter: "cod", Value: 31.5, Unit: "mg/L", Flag: "U"}}}}
		for range more % 4 {
			entries = append(entries, audit.Entry{Outcome: audit.Late, Device: device})
		}
		if err := trail.Append(entries...); err != nil {
			t.Fatal(err)
		}
		trail.Close()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.Verify(bytes.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
		if change == 0 {
			return
		}
		at = int(uint(at) % uint(len(text)))
		text[at] ^= change
		if err := audit.Verify(bytes.NewReader(text), nil); err == nil {
			t.Fatalf("byte %d, changed by %02x, is not found:\n%s", at, change, text)
		}
	})
}

func TestEveryByteOfATrailCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for lines := range 2 {
		write(t, path, 1)
		text, _ := os.ReadFile(path)
		for i := range text {
			was := text[i]
			for _, b := range []byte{was ^ 1, was ^ 0x20, was ^ 0x80, ' ', '\n', '"', '\\', 0} {
				if text[i] = b; b != was && audit.Verify(bytes.NewReader(text), nil) == nil {
					t.Fatalf("after %d, byte %d changed to %q is not found:\n%s", lines, i, b, text)
				}
			}
			text[i] = was
		}
	}
}
