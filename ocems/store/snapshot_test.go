package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/store"
)

// A writer never stops, and each of its commits sets all values to one number: no copy may contain two numbers.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state.db")
			f, err := store.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			const keys = 1000
			put := func(n uint64) error {
				var ops []store.Op
				for i := range keys {
					ops = append(ops, store.Op{Key: fmt.Sprintf("key-%d", i), Value: bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 10+i)})
				}
				return f.Batch(t.Context(), ops...)
			}
			if err := put(1); err != nil {
				t.Fatal(err)
			}
			stop, stopped := make(chan struct{}), make(chan error, 1)
			go func() {
				for n := uint64(2); ; n++ {
					select {
					case <-stop:
						stopped <- nil
						return
					case <-time.After(pause):
					}
					if err := put(n); err != nil {
						stopped <- err
						return
					}
				}
			}()
			taken := 0
			for end := time.Now().Add(3 * time.Second); taken < 100 && time.Now().Before(end); {
				s, err := store.Snapshot(path)
				if errors.Is(err, store.ErrBusy) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				taken++
				var first []byte
				for i := range keys {
					v, err := s.Get(t.Context(), fmt.Sprintf("key-%d", i))
					if err != nil || len(v) != 8*(10+i) {
						t.Fatalf("%v, %d bytes", err, len(v))
					}
					if first == nil {
						first = v[:8]
					}
					if !bytes.Equal(v, bytes.Repeat(first, 10+i)) {
						t.Fatalf("key %d is not of the moment of key 0", i)
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			close(stop)
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			if pause >= 20*time.Millisecond && taken == 0 {
				t.Error("no copy was taken of a file that rests between its commits")
			}
		})
	}
}

func TestSnapshotLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, path := range []string{filepath.Join(dir, "absent"), os.DevNull} {
		if s, err := store.Snapshot(path); err == nil || s != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := store.Snapshot(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := store.Snapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(t.Context(), "x"); v != nil || err != nil {
		t.Error(v, err)
	}
	if err := s.Batch(t.Context(), store.Op{Key: "x"}); err == nil || !strings.Contains(err.Error(), "this is a copy of it") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}
