package ocems

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/influxdata/telegraf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// asKilled copies the state directory of a plugin that runs: what kill -9 leaves, because whatever was written is in the
// page cache. Writers wait meanwhile, so that the copy is of one moment.
func asKilled(t testing.TB, o *OCEMS) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return asKilledLocked(t, o)
}

func asKilledLocked(t testing.TB, o *OCEMS) string {
	tx, err := o.state.db.Begin(true)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	to := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.CopyFS(to, os.DirFS(o.StateDirectory)))
	return to
}

// settleRoots rewrites an entry until the pages that lead to the others are before the one of leaf, so that a cut there
// leaves a way to what is before it. Where a commit puts its pages depends on how the writes fell into batches.
func settleRoots(t testing.TB, name, prefix string) {
	for range 10 {
		db, err := bolt.Open(name, 0o600, nil)
		require.NoError(t, err)
		var last int
		require.NoError(t, db.View(func(tx *bolt.Tx) error {
			last = int(tx.Bucket(bucketName).Root())
			return nil
		}))
		require.NoError(t, db.Close())
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		root, newest := uint64(0), uint64(0)
		for _, meta := range []int{0, os.Getpagesize()} { // bbolt's meta page: the root at 32, the transaction at 64
			if id := binary.LittleEndian.Uint64(text[meta+64:]); id >= newest {
				root, newest = binary.LittleEndian.Uint64(text[meta+32:]), id
			}
		}
		if max(last, int(root)) < leaf(t, name, prefix)/os.Getpagesize() {
			return
		}
		db, err = bolt.Open(name, 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketName).Put(formatKey, []byte{stateFormat}) }))
		require.NoError(t, db.Close())
	}
	t.Fatal("the roots stay at the end")
}

// leaf is where in the file the page with the key in the middle of those with prefix is.
func leaf(t testing.TB, name, prefix string) (offset int) {
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		var at []uintptr
		c := tx.Bucket(bucketName).Cursor()
		for k, _ := c.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
			at = append(at, uintptr(unsafe.Pointer(&k[0])))
		}
		require.NotEmpty(t, at)
		offset = int(at[len(at)/2]-db.Info().Data) / os.Getpagesize() * os.Getpagesize()
		return nil
	}))
	require.NoError(t, db.Close())
	return offset
}

// slow keeps windows open for as long as the test takes.
func slow(text string) string { return strings.Replace(text, `settle = "1s"`, `settle = "1h"`, 1) }

func newest(t testing.TB, dir string) string {
	numbers, err := segments(dir)
	require.NoError(t, err)
	require.NotEmpty(t, numbers)
	return segmentName(dir, numbers[len(numbers)-1])
}

func change(t testing.TB, name string, f func(b []byte) []byte) {
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, f(b), 0o600))
}

func files(t testing.TB, dir string) map[string]string {
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(b)
	}
	return all
}

func write(t testing.TB, o *OCEMS, at time.Time, values ...float64) {
	t.Helper()
	for i, v := range values {
		require.NoError(t, o.Write([]telegraf.Metric{modbus(at.Add(time.Duration(i)*time.Second), "cod", v)}))
	}
}

// TestKilled loses nothing that Write took, whatever the crash left of the journal.
func TestKilled(t *testing.T) {
	at := hoursAgo(2)
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
		want   string // mean of 1, 2, 6 or of what is left
		log    string
		aside  bool
	}{
		{"whole", func(b []byte) []byte { return b }, "3", "", false},
		{"torn last frame", func(b []byte) []byte { return b[:len(b)-3] }, "1.5", "", false},
		{"torn head of the last frame", func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte(frameMagic))+6] }, "1.5", "", false},
		{"zeros after the end", func(b []byte) []byte { return append(b, make([]byte, 5000)...) }, "3", "", false},
		{"corrupted frame in the middle", func(b []byte) []byte {
			first := bytes.Index(b, []byte(frameMagic))
			b[first+1+bytes.Index(b[first+1:], []byte(frameMagic))+frameHead+4] ^= 1
			return b
		}, "3.5", "journal of samples is damaged", true},
		{"corrupted length in the middle", func(b []byte) []byte {
			first := bytes.Index(b, []byte(frameMagic))
			b[first+1+bytes.Index(b[first+1:], []byte(frameMagic))+len(frameMagic)+2] ^= 0xff
			return b
		}, "3.5", "journal of samples is damaged", true},
		{"corrupted segment header", func(b []byte) []byte { b[2] ^= 1; return b }, "3", "journal of samples is damaged", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, dir := startBoard(t), t.TempDir()
			o, _ := open(t, slow(settings(b, dir))+oneDevice)
			write(t, o, at, 1, 2, 6)
			killed := asKilled(t, o)
			require.NoError(t, o.Close())
			name := newest(t, killed)
			change(t, name, tt.damage)
			before, err := os.ReadFile(name)
			require.NoError(t, err)

			o, logs := open(t, settings(b, killed)+oneDevice)
			if tt.aside {
				kept, err := os.ReadFile(name + ".damaged")
				require.NoError(t, err)
				assert.Equal(t, before, kept)
				assert.Contains(t, logs.text("E"), tt.log)
				assert.Contains(t, logs.text("E"), name+".damaged")
			} else {
				assert.Empty(t, logs.text("E"))
			}
			assert.Equal(t, []string{"cod " + tt.want + " mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
			require.NoError(t, o.Close())
		})
	}
}

// TestRestarts goes on with an open window through ordinary restarts, crashes and failed starts.
func TestRestarts(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	at := hoursAgo(2)
	config := slow(settings(b, dir)) + oneDevice
	o, _ := open(t, config)
	write(t, o, at, 1, 2)
	require.NoError(t, o.Close())

	o, _ = open(t, config)
	write(t, o, at, 3)
	dir = asKilled(t, o)
	require.NoError(t, o.Close())

	config = slow(settings(b, dir)) + oneDevice
	o, _ = open(t, config)
	write(t, o, at, 4)
	dir = asKilled(t, o)
	require.NoError(t, o.Close())

	// Telegraf connects the same plugin again after a failure.
	in, _ := load(t, settings(b, dir)+oneDevice)
	require.NoError(t, in.Init())
	trail, err := audit.Open(filepath.Join(dir, "audit.jsonl"))
	require.NoError(t, err)
	require.ErrorContains(t, in.Connect(), "audit_file")
	require.NoError(t, trail.Close())
	require.NoError(t, in.Connect())
	assert.Equal(t, []string{"cod 2.5 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	require.NoError(t, in.Close())
	require.NoError(t, in.Close())
}

// A kill between the journal and the trail does not hide a sample that was refused.
func TestRefusedIsNotedAfterAKill(t *testing.T) {
	t.Parallel()
	b := startBoard(t)
	o, _ := open(t, settings(b, t.TempDir())+oneDevice)
	at := hoursAgo(2)
	write(t, o, at, 1, 3)
	b.await(t, 1)
	before := trail(t, o.StateDirectory)
	text, err := os.ReadFile(filepath.Join(o.StateDirectory, "audit.jsonl"))
	require.NoError(t, err)
	write(t, o, at, 5)
	require.Len(t, trail(t, o.StateDirectory), len(before)+1)
	killed := asKilled(t, o)
	require.NoError(t, o.Close())
	require.NoError(t, os.WriteFile(filepath.Join(killed, "audit.jsonl"), text, 0o600)) // as it was before the second Write's line

	o, _ = open(t, settings(b, killed)+oneDevice)
	late := outcomes(trail(t, killed), audit.Late)
	require.Len(t, late, 1)
	assert.Equal(t, []audit.Reading{{Parameter: "cod", Value: 5, Unit: "mg/L", Flag: "U"}}, late[0].Readings)
	assert.Contains(t, late[0].Detail, "found in the journal at a start, and perhaps noted before: samples of cod: late; taken at ")
	require.NoError(t, o.Close())
	o, _ = open(t, settings(b, killed)+oneDevice)
	assert.Len(t, outcomes(trail(t, killed), audit.Late), 1, "after a stop the journal is empty")
	require.NoError(t, o.Close())
}

func TestTwoOnOneDirectory(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	open(t, settings(b, dir)+oneDevice)
	second, _ := load(t, settings(b, dir)+oneDevice)
	require.NoError(t, second.Init())
	require.ErrorContains(t, second.Connect(), "is in use by another process or plugin; give each its own")
}

func TestNewerFormatIsLeftAlone(t *testing.T) {
	b := startBoard(t)
	for _, tt := range []struct {
		name  string
		newer func(t *testing.T, dir string)
	}{
		{"state.db", func(t *testing.T, dir string) {
			db, err := bolt.Open(filepath.Join(dir, stateFile), 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketName).Put(formatKey, []byte{stateFormat + 1}) }))
			require.NoError(t, db.Close())
		}},
		{"bbolt", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, stateFile), func(b []byte) []byte {
				for _, page := range []int{0, os.Getpagesize()} {
					binary.LittleEndian.PutUint32(b[page+16+4:], 3)
				}
				return b
			})
		}},
		{"journal", func(t *testing.T, dir string) {
			change(t, newest(t, dir), func(b []byte) []byte { b[len(segmentMagic)] = journalFormat + 1; return b })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			o, _ := open(t, slow(settings(b, dir))+oneDevice)
			write(t, o, hoursAgo(2), 1)
			killed := asKilled(t, o)
			require.NoError(t, o.Close())
			tt.newer(t, killed)
			before := files(t, killed)
			o, _ = load(t, settings(b, killed)+oneDevice)
			require.NoError(t, o.Init())
			require.ErrorContains(t, o.Connect(), "written by a newer version of this plugin; use that version, or another state_directory")
			assert.Equal(t, before, files(t, killed))
		})
	}
}

// TestDamagedState keeps state.db aside and goes on with what can be read.
func TestDamagedState(t *testing.T) {
	page := os.Getpagesize()
	for _, tt := range []struct {
		name      string
		damage    func(b []byte, middle int) []byte
		aside     bool
		log       string
		recovered string // of what waited: all, some, none
	}{
		{"empty", func([]byte, int) []byte { return nil }, false, "is empty: what it held is lost", "none"},
		{"cut to one byte", func(b []byte, middle int) []byte { return b[:1] }, true, "is damaged", "none"},
		{"cut in a leaf page", func(b []byte, middle int) []byte { return b[:middle+100] }, true, "is damaged", "some"},
		{"text", func([]byte, int) []byte { return bytes.Repeat([]byte("no state "), 10_000) }, true, "is damaged", "none"},
		{"both meta pages", func(b []byte, middle int) []byte { clear(b[:2*page]); return b }, true, "is damaged", "none"},
		{"one meta page", func(b []byte, middle int) []byte { clear(b[:page]); return b }, true, "is damaged", "all"},
		{"a leaf page's elements", func(b []byte, middle int) []byte {
			for i := range 4 * 16 {
				b[middle+16+i] = 0xff
			}
			return b
		}, true, "is damaged", "some"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, dir := startBoard(t), t.TempDir()
			b.down.Store(true)
			o, _ := open(t, settings(b, dir)+oneDevice)
			first := hoursAgo(100)
			var list []telegraf.Metric
			for i := range 200 {
				list = append(list, modbus(first.Add(time.Duration(i)*spec.SlotLength), "cod", float64(i)))
			}
			require.NoError(t, o.Write(list))
			require.Eventually(t, func() bool { return o.delivery.Stats().Slots == 200 }, 15*time.Second, 20*time.Millisecond)
			killed := asKilled(t, o)
			require.NoError(t, o.Close())
			name := filepath.Join(killed, stateFile)
			settleRoots(t, name, "outbox/")
			middle := leaf(t, name, "outbox/")
			change(t, name, func(b []byte) []byte { return tt.damage(b, middle) })
			before, err := os.ReadFile(name)
			require.NoError(t, err)

			b.down.Store(false)
			o, logs := open(t, settings(b, killed)+oneDevice)
			assert.Contains(t, logs.text("E"), tt.log)
			aside, err := filepath.Glob(name + ".damaged-*")
			require.NoError(t, err)
			if tt.aside {
				require.Len(t, aside, 1)
				kept, err := os.ReadFile(aside[0])
				require.NoError(t, err)
				assert.Equal(t, before, kept)
				assert.Contains(t, logs.text("E"), aside[0])
			} else {
				assert.Empty(t, aside)
			}
			require.Eventually(t, func() bool { return o.delivery.Stats().Slots == 0 }, 15*time.Second, 20*time.Millisecond)
			recovered := b.received(t).Accepted
			t.Logf("%d of 200 slots: %s", recovered, logs.text("E"))
			switch tt.recovered {
			case "all":
				assert.Equal(t, 200, recovered)
			case "some":
				assert.Positive(t, recovered)
			}
			write(t, o, hoursAgo(1), 500) // it works on
			b.await(t, recovered+1)
			got := b.received(t).Readings
			for _, r := range got[:len(got)-1] { // nothing is invented
				assert.Equal(t, fmt.Sprint(int(time.UnixMilli(r.Timestamp).Sub(first)/spec.SlotLength)-1), r.Value.String())
			}
			require.NoError(t, o.Close())
		})
	}
}
