package boltfile_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/boltfile"
)

var bucket = []byte("default")

// write makes a file as another library does, with or without a list of free pages, of many small and some large values.
func write(t testing.TB, path string, noFreelist bool) map[string]string {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: noFreelist, NoSync: true})
	require.NoError(t, err)
	entries := map[string]string{}
	for batch := range 4 {
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			require.NoError(t, err)
			for i := range 60 {
				k := fmt.Sprintf("slot/%03d", (i*7+batch*31)%400)
				v := string(bytes.Repeat([]byte{byte(i)}, 20+i*batch%100))
				if i == 30 {
					v = string(bytes.Repeat([]byte{byte(batch)}, 9_000))
				}
				entries[k] = v
				require.NoError(t, b.Put([]byte(k), []byte(v)))
			}
			for i := range 20 {
				k := fmt.Sprintf("slot/%03d", (i*11+batch*5)%400)
				delete(entries, k)
				require.NoError(t, b.Delete([]byte(k)))
			}
			return nil
		}))
	}
	require.NoError(t, db.Close())
	return entries
}

// read takes every entry and writes one, as a library that trusts the file.
func opened(t testing.TB, path string) map[string]string {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	require.NoError(t, err)
	got := map[string]string{}
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucket); b != nil {
			return b.ForEach(func(k, v []byte) error { got[string(k)] = string(v); return nil })
		}
		return nil
	}))
	for i := range 12 { // so that each free page is used
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			require.NoError(t, err)
			return b.Put([]byte{'~', byte(i)}, bytes.Repeat([]byte{1}, 9_000))
		}))
	}
	for fault := range func(yield func(error) bool) {
		_ = db.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				yield(err)
			}
			return nil
		})
	} {
		t.Errorf("bbolt's check after a write: %v", fault)
	}
	require.NoError(t, db.Close())
	return got
}

func TestSoundFileIsLeftAlone(t *testing.T) {
	for _, noFreelist := range []bool{false, true} {
		t.Run(fmt.Sprintf("no freelist %v", noFreelist), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			entries := write(t, path, noFreelist)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			damage, err := boltfile.Mend(path, bucket)
			require.NoError(t, err)
			assert.Empty(t, damage)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, before, after)
			db, damage, err := boltfile.Open(path, bucket)
			require.NoError(t, err)
			assert.Empty(t, damage)
			_, err = boltfile.Mend(path, bucket)
			require.ErrorIs(t, err, boltfile.ErrInUse)
			require.NoError(t, db.Close())
			assert.Equal(t, entries, opened(t, path))
		})
	}
}

func TestMissingAndEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	damage, err := boltfile.Mend(path, bucket)
	require.NoError(t, err)
	assert.Empty(t, damage)
	assert.NoFileExists(t, path)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	damage, err = boltfile.Mend(path, bucket)
	require.NoError(t, err)
	assert.Equal(t, path+" is empty: what it held is lost", damage)
}

// TestDamage damages a file at every place that leads to others, and at many that do not: what is then opened is what
// was there, or less of it, and a write does no harm.
func TestDamage(t *testing.T) {
	for _, noFreelist := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a.db")
		entries := write(t, path, noFreelist)
		sound, err := os.ReadFile(path)
		require.NoError(t, err)
		found, recovered := 0, 0
		for at := 0; at < len(sound); at += 1021 {
			text := bytes.Clone(sound)
			for i := at; i < min(at+64, len(text)); i++ {
				text[i] ^= 0x5a
			}
			got, damage := mended(t, text)
			if damage != "" {
				found++
			}
			recovered += len(got)
			if at+64 < 2*os.Getpagesize() {
				assert.NotEmpty(t, got) // of one of the two meta pages the other is left, with the commit before
			} else {
				assertPart(t, entries, got, at)
			}
		}
		for cut := 1; cut < len(sound); cut += 3001 {
			if got, damage := mended(t, sound[:cut]); damage == "" { // there was nothing behind it
				assert.Equal(t, entries, got, "cut at %d", cut)
			} else {
				found++
				assertPart(t, entries, got, cut)
			}
		}
		assert.Positive(t, found)
		assert.Positive(t, recovered)
	}
}

// A cut that took free pages only lost nothing, but bbolt would use them where no file is mapped.
func TestCutThatTookFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	require.NoError(t, err)
	for _, value := range []int{400_000, 1, 2, 3, 4} {
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			require.NoError(t, err)
			return b.Put([]byte("key"), make([]byte, value))
		}))
	}
	require.NoError(t, db.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	got, damage := mended(t, text[:len(text)/4])
	assert.Equal(t, map[string]string{"key": "\x00\x00\x00\x00"}, got)
	assert.Contains(t, damage, "it ends before its")
}

// assertPart holds got to entries, but for the values whose bytes the damage itself changed, which bbolt has no sum of.
func assertPart(t testing.TB, entries, got map[string]string, at int) {
	changed := 0
	for k, v := range got {
		if want, ok := entries[k]; !ok || want != v {
			changed++
		}
	}
	assert.LessOrEqual(t, changed, 4, "damage at %d", at)
}

// mended is what a library finds in the file after Mend, and the damage that was told.
func mended(t testing.TB, text []byte) (map[string]string, string) {
	dir := t.TempDir()
	path := filepath.Join(dir, "exporter_ocems_")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	damage, err := boltfile.Mend(path, bucket)
	require.NoError(t, err)
	aside, err := filepath.Glob(path + ".damaged-*")
	require.NoError(t, err)
	if damage != "" {
		require.Len(t, aside, 1)
		require.Contains(t, damage, aside[0])
		kept, err := os.ReadFile(aside[0])
		require.NoError(t, err)
		require.Equal(t, text, kept)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	} else {
		require.Empty(t, aside)
	}
	return opened(t, path), damage
}

func FuzzMend(f *testing.F) {
	path := filepath.Join(f.TempDir(), "a.db")
	write(f, path, true)
	sound, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(uint32(0), []byte{0xff})
	f.Add(uint32(4096+16), []byte{0, 0, 0, 0})
	f.Add(uint32(2*4096+8), []byte{0x10, 0, 0xff, 0xff, 9})
	f.Add(uint32(5*4096+12), []byte{1, 0, 0, 0})
	f.Add(uint32(2*4096+8), []byte{1, 0, 0, 0, 0}) // a branch without elements
	f.Add(uint32(3*4096+16), []byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		text := bytes.Clone(sound)
		copy(text[int(at)%len(text):], change)
		mended(t, text)
	})
}
