package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/store"
)

// write makes a file of many small and some large values, with or without a list of free pages. It returns the entries,
// and those before the last batch.
func write(t testing.TB, path string, freelist bool) (entries, before map[string]string) {
	f, err := store.Open(path)
	require.NoError(t, err)
	entries = map[string]string{}
	for batch := range 4 {
		before = maps.Clone(entries)
		var ops []store.Op
		for i := range 60 {
			k := fmt.Sprintf("slot/%03d", (i*7+batch*31)%400)
			v := string(bytes.Repeat([]byte{byte(i)}, 20+i*batch%100))
			if i == 30 {
				v = string(bytes.Repeat([]byte{byte(batch)}, 9_000))
			}
			entries[k] = v
			ops = append(ops, store.Op{Key: k, Value: []byte(v)})
		}
		for i := range 20 {
			k := fmt.Sprintf("slot/%03d", (i*11+batch*5)%400)
			delete(entries, k)
			ops = append(ops, store.Op{Key: k})
		}
		require.NoError(t, f.Batch(context.Background(), ops...))
	}
	require.NoError(t, f.Close())
	if freelist { // bbolt adds the list when it opens a file without this option
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
		require.NoError(t, err)
		require.NoError(t, db.Close())
	}
	return entries, before
}

// entries returns all entries of a store.
func entries(t testing.TB, s store.Store) map[string]string {
	got := map[string]string{}
	require.NoError(t, s.Range(context.Background(), "", func(key string, value []byte) error {
		got[key] = string(value)
		return nil
	}))
	return got
}

// trusted makes bbolt itself write into each free page of a file, and checks the file.
func trusted(t testing.TB, path string) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	require.NoError(t, err)
	for i := range 12 {
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("trusted"))
			require.NoError(t, err)
			return b.Put([]byte{'~', byte(i)}, bytes.Repeat([]byte{1}, 9_000))
		}))
	}
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		for fault := range tx.Check() {
			if !strings.HasSuffix(fault.Error(), "unreachable unfreed") { // one page less to use
				t.Errorf("bbolt's check after a write: %v", fault)
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

func TestSoundFileIsLeftAlone(t *testing.T) {
	for _, freelist := range []bool{false, true} {
		t.Run(fmt.Sprintf("freelist %v", freelist), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			want, _ := write(t, path, freelist)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			f, err := store.Open(path)
			require.NoError(t, err)
			assert.Empty(t, f.Damage())
			assert.Equal(t, want, entries(t, f))
			require.NoError(t, f.Close())
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, before, after)
			trusted(t, path)
		})
	}
}

func TestEmptyFileIsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	f, err := store.Open(path)
	require.NoError(t, err)
	assert.Equal(t, path+" is empty: what it held is lost", f.Damage())
	require.NoError(t, f.Close())
}

// TestDamage damages a file at every place that refers to another, and at many others. The opened file then has no
// value that was not there before, and nearly all undamaged ones; and a write does no harm.
func TestDamage(t *testing.T) {
	for _, freelist := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a.db")
		want, before := write(t, path, freelist)
		sound, err := os.ReadFile(path)
		require.NoError(t, err)
		page := os.Getpagesize()
		found := 0
		for _, c := range []struct {
			name               string
			from, step, length int
			most               int // largest number of missing entries
		}{
			{"some bytes", 0, 1021, 64, 5},
			{"a bit", 0, 307, 1, 2},
			{"a page", 2 * page, page, page, 60},
		} {
			for at := c.from; at < len(sound); at += c.step {
				text := bytes.Clone(sound)
				for i := at; i < min(at+c.length, len(text)); i++ {
					text[i] ^= byte(1 + at%251)
				}
				got, damage := mended(t, text)
				if damage != "" {
					found++
				}
				if damage == "refused" { // the change may have hit the format itself
					continue
				}
				missing := assertPart(t, want, before, got, fmt.Sprintf("%s at %d", c.name, at))
				if at >= 2*page && missing > c.most {
					t.Errorf("%s at %d: %d of %d are missing: %s", c.name, at, missing, len(want), damage)
				}
			}
		}
		for cut := 1; cut < len(sound); cut += 3001 {
			if got, damage := mended(t, sound[:cut]); damage == "" { // the cut removed nothing
				assert.Equal(t, want, got, "cut at %d", cut)
			} else {
				found++
				assertPart(t, want, before, got, fmt.Sprintf("cut at %d", cut))
			}
		}
		assert.Positive(t, found)
	}
}

// A cut that removed only free pages lost nothing, but bbolt would use these pages where no file is mapped.
func TestCutThatTookFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	for _, value := range []int{400_000, 1, 2, 3, 4} {
		require.NoError(t, f.Batch(t.Context(), store.Op{Key: "key", Value: make([]byte, value)}))
	}
	require.NoError(t, f.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	got, damage := mended(t, text[:len(text)/4])
	assert.Equal(t, map[string]string{"key": "\x00\x00\x00\x00"}, got)
	assert.Contains(t, damage, "it is too short for its")
	assert.Contains(t, damage, "entries recovered: 1")
}

// A list of free pages that contains a page in use is detected as damage before anything is overwritten.
func TestFreePageInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	want, _ := write(t, path, true)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	size := os.Getpagesize()
	order := binary.NativeEndian
	meta := text[16:]
	if other := text[size+16:]; order.Uint64(other[48:]) > order.Uint64(meta[48:]) {
		meta = other
	}
	root := order.Uint64(meta[16:])
	list := text[int(order.Uint64(meta[32:]))*size:]
	require.Positive(t, order.Uint16(list[10:]))
	order.PutUint64(list[16:], root)
	got, damage := mended(t, text)
	assert.Equal(t, want, got)
	assert.Contains(t, damage, fmt.Sprintf("page %d is in use and free", root))
}

// refused reports that a file was left unchanged.
func refused(err error) bool { return errors.Is(err, store.ErrNewer) || errors.Is(err, store.ErrOlder) }

// assertPart compares got with entries, or with those before the last batch, and returns the number of missing ones.
func assertPart(t testing.TB, entries, before, got map[string]string, what string) (missing int) {
	for k, v := range got {
		if entries[k] != v && before[k] != v {
			t.Errorf("%s: %q has become %.40q", what, k, v)
		}
	}
	for k := range entries {
		if _, ok := got[k]; !ok {
			missing++
		}
	}
	return missing
}

// mended returns what Open finds in a file, and the damage that it reports.
func mended(t testing.TB, text []byte) (got map[string]string, damage string) {
	path := filepath.Join(t.TempDir(), "exporter_ocems_")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	f, err := store.Open(path)
	if refused(err) { // the change may have hit the format
		left, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, left)
		return nil, "refused"
	}
	require.NoError(t, err)
	got, damage = entries(t, f), f.Damage()
	require.NoError(t, f.Close())
	aside, err := filepath.Glob(path + ".*")
	require.NoError(t, err)
	if damage == "" {
		require.Empty(t, aside)
	} else {
		require.Len(t, aside, 1)
		require.Contains(t, damage, aside[0])
		kept, err := os.ReadFile(aside[0])
		require.NoError(t, err)
		require.Equal(t, text, kept)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	trusted(t, path)
	return got, damage
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "a.db")
	write(f, path, false)
	sound, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(uint32(0), []byte{0xff})
	f.Add(uint32(4096+16), []byte{0, 0, 0, 0})
	f.Add(uint32(2*4096+8), []byte{0x10, 0, 0xff, 0xff, 9})
	f.Add(uint32(5*4096+12), []byte{1, 0, 0, 0})
	f.Add(uint32(2*4096+8), []byte{1, 0, 0, 0, 0}) // a branch without elements
	f.Add(uint32(3*4096+16), []byte{0xff, 0xff, 0xff, 0x7f})
	f.Add(uint32(bytes.Index(sound, []byte("slot/"))), []byte("slot/\x00"))
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		text := bytes.Clone(sound)
		copy(text[int(at)%len(text):], change)
		mended(t, text)
	})
}
