package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

// What came while the disk was full is in the trail once there is room, in its order and with the time it came at.
func TestBacklogOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("only root mounts a small disk: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	path := filepath.Join(dir, "audit.jsonl")
	trail, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	backlog := audit.Backlog{Trail: trail}
	filler := filepath.Join(dir, "filler")
	big := strings.Repeat("x", 3000)
	began := time.Now()
	for i := range 4 {
		for size := 64 << 10; i == 1 && os.WriteFile(filler, make([]byte, size), 0o600) != nil; size -= 4096 {
		}
		if err := backlog.Append(audit.Entry{Outcome: audit.Late, Device: fmt.Sprint(i), Detail: big}); (err == nil) != (i < 1) {
			t.Fatalf("line %d: %v", i, err)
		}
	}
	waited := time.Now()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := backlog.Append(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	var devices []string
	if err := audit.Verify(bytes.NewReader(text), func(e audit.Entry) {
		devices = append(devices, e.Device)
		if e.Time.Before(began.Truncate(time.Millisecond)) || e.Time.After(waited) {
			t.Errorf("line %d has the time %s", e.Number, e.Time)
		}
	}); err != nil || !slices.Equal(devices, []string{"0", "1", "2", "3"}) {
		t.Errorf("%v, %v", devices, err)
	}
}
