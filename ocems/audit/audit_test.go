package audit_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestOneWriterAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	first, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(path); err == nil || !strings.Contains(err.Error(), "in use by another component") {
		t.Errorf("a second writer: %v", err)
	}
	first.Close()
	write(t, path, 1)
}

func TestVerifyFindsEveryChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 2)
	text, _ := os.ReadFile(path)
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	for name, changed := range map[string]string{
		"line 1 altered": strings.Replace(string(text), `"device":"d"`, `"device":"e"`, 1),
		"line 2 removed": lines[0] + lines[2] + lines[3] + "\n",
		"line 2 doubled": lines[0] + lines[1] + lines[1] + lines[2] + lines[3] + "\n",
		"line 1 removed": lines[1] + lines[2] + lines[3] + "\n",
		"not JSON":       "x\n" + string(text),
		"unfinished":     strings.TrimSuffix(string(text), "\n"),
	} {
		if err := audit.Verify(strings.NewReader(changed), nil); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%s: %v, want an error that names the line", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"n":1,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":""}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		trail, err := audit.Open(path)
		if err == nil {
			trail.Close()
		}
		_ = audit.Verify(bytes.NewReader(text), nil)
	})
}
