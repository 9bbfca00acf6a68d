package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A call that is interrupted by another thread has two lines in strace's file, and counts once.
func TestTraced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	text := `7 99.900000 fdatasync(5) = 0
7 100.000000 pwrite64(5, ""..., 4096, 0) = 4096
8 100.100000 pwrite64(6, ""..., 743, 0 <unfinished ...>
7 100.200000 fdatasync(5 <unfinished ...>
8 100.300000 <... pwrite64 resumed>) = 743
7 100.400000 <... fdatasync resumed>) = 0 (DELAYED)
8 100.500000 fsync(6) = 0 (DELAYED)
8 100.600000 pwrite64(6, ""..., 743, 0) = -1 ENOSPC (No space left on device)
8 101.000000 fsync(6) = 0
8 101.100000 +++ exited with 0 +++
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := process{trace: file}
	syncs, bytes, err := h.traced(time.Unix(100, 0), time.Unix(101, 0))
	if err != nil || syncs != 2 || bytes != 4096+743 {
		t.Errorf("%d syncs, %d bytes, %v", syncs, bytes, err)
	}
}
