package doctor_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/cmd/ocems/internal/doctor"
)

// A writer never stops, and each of its commits changes all values to one number: no copy may have two.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state.db")
			db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			const keys = 1000
			put := func(n uint64) error {
				return db.Update(func(tx *bolt.Tx) error {
					b, err := tx.CreateBucketIfNotExists([]byte("ocems"))
					for i := range keys {
						if err == nil {
							err = b.Put(fmt.Appendf(nil, "key-%d", i), bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 10+i))
						}
					}
					return err
				})
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
				s, err := doctor.Snapshot(path, "ocems")
				if errors.Is(err, doctor.ErrBusy) {
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
		if s, err := doctor.Snapshot(path, "ocems"); err == nil || s != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := doctor.Snapshot(filepath.Join(dir, "absent"), "ocems"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := doctor.Snapshot(path, "ocems")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(t.Context(), "x"); v != nil || err != nil {
		t.Error(v, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}
