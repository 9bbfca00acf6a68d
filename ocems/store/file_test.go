package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/store"
)

func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "here", "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	for at, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700, filepath.Dir(filepath.Dir(path)): 0o700} {
		info, err := os.Stat(at)
		require.NoError(t, err)
		assert.Equal(t, mode, info.Mode().Perm(), at)
	}
}

func TestClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	require.EqualError(t, f.Batch(t.Context(), set("a", "1")), "writing the state "+path+": it is closed")
	_, err = f.Get(t.Context(), "a")
	require.EqualError(t, err, "reading the state "+path+": it is closed")
	require.Error(t, f.Range(t.Context(), "", func(string, []byte) error { return nil }))
}

// TestReadsDoNotWrite: a read that writes would change the file.
func TestReadsDoNotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Batch(t.Context(), set("a", "1")))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = f.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Len(t, entries(t, f), 1)
	require.NoError(t, f.Close())
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

// bucket makes a file like another program does.
func bucket(t *testing.T, path, name string, entries map[string]string) {
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		require.NoError(t, err)
		for k, v := range entries {
			require.NoError(t, b.Put([]byte(k), []byte(v)))
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

func TestRefusedFileIsLeftAlone(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		want error
		text string
	}{
		{"telegraf's of an earlier version", func(t *testing.T, path string) {
			bucket(t, path, "ocems", map[string]string{"format": "\x01", "slots/1": "x"})
		}, store.ErrOlder, "it was written by an earlier version; let that version deliver what waits in it, then move the file away"},
		{"the collector's of an earlier version", func(t *testing.T, path string) {
			bucket(t, path, "default", map[string]string{"slots/1": "x"})
		}, store.ErrOlder, ""},
		{"an earlier version's, and damaged", func(t *testing.T, path string) {
			bucket(t, path, "default", map[string]string{"a": "x", "big": strings.Repeat("v", 100_000)})
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			at := bytes.Index(text, []byte("axbig")) / os.Getpagesize() * os.Getpagesize()
			copy(text[at+8:], "\xff\xff") // its kind
			require.NoError(t, os.WriteFile(path, text, 0o600))
		}, store.ErrOlder, ""},
		{"a newer version's", func(t *testing.T, path string) {
			bucket(t, path, "ocems", map[string]string{"format": "\x09"})
		}, store.ErrNewer, "it was written by a newer version; use that version, or another directory"},
		{"a newer version's with a format of its own", func(t *testing.T, path string) {
			bucket(t, path, "ocems", map[string]string{"format": "2.1"})
		}, store.ErrNewer, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			test.make(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			_, err = store.Open(path)
			require.ErrorIs(t, err, test.want)
			assert.ErrorContains(t, err, "opening the state "+path+": "+test.text)
			_, err = store.Snapshot(path)
			require.ErrorIs(t, err, test.want)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, before, after)
			left, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			assert.Len(t, left, 1)
		})
	}
}

// Earlier versions start an empty state in a file without a format, and refuse a format above 1.
func TestEarlierVersionRefusesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		assert.Equal(t, []byte{8}, tx.Bucket([]byte("ocems")).Get([]byte("format")))
		return nil
	}))
	require.NoError(t, db.Close())
}

// A file with a format but without entries has lost them to damage: starting with an empty state would hide that.
func TestLostEntriesAreDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	bucket(t, path, "ocems", map[string]string{"format": "\x08"})
	f, err := store.Open(path)
	require.NoError(t, err)
	assert.Contains(t, f.Damage(), "its entries are missing")
	require.NoError(t, f.Batch(t.Context(), set("a", "1")))
	require.NoError(t, f.Close())
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	_, err = store.Open(path)
	require.ErrorIs(t, err, store.ErrInUse)
	assert.EqualError(t, err, "opening the state "+path+": it is in use by another process or component; stop that one, or give each a directory of its own")
	require.NoError(t, f.Batch(t.Context(), set("a", "1")))
	require.NoError(t, f.Close())
	f, err = store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestDirectoryIsNoFile(t *testing.T) {
	dir := t.TempDir()
	_, err := store.Open(dir)
	require.ErrorContains(t, err, "opening the state "+dir)
	assert.DirExists(t, dir)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = store.Open(filepath.Join(file, "state.db"))
	require.Error(t, err)
}

// Damage to an open file causes errors, and the host continues.
func TestDamageInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Batch(t.Context(), set("a", strings.Repeat("v", 100_000)), set("b", "1")))
	require.NoError(t, os.Truncate(path, int64(2*os.Getpagesize())))
	for range 2 {
		_, err = f.Get(t.Context(), "a")
		require.ErrorContains(t, err, "reading the state "+path+": damaged: ")
		require.ErrorContains(t, f.Range(t.Context(), "", func(string, []byte) error { return nil }), "damaged: ")
		require.ErrorContains(t, f.Batch(t.Context(), set("a", "1")), "writing the state "+path+": damaged: ")
	}
	require.NoError(t, f.Close())
	f, err = store.Open(path)
	require.NoError(t, err)
	assert.NotEmpty(t, f.Damage())
	require.NoError(t, f.Batch(t.Context(), set("a", "1")))
	require.NoError(t, f.Close())
}

// A file in use is not set aside, and a file that was cut does not count as intact.
func TestCheckRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := store.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Check())
	require.NoError(t, os.Rename(path, path+".away"))
	other, err := store.Open(path)
	require.NoError(t, err)
	require.ErrorContains(t, f.Check(), "another file was put in its place while the host ran, and it cannot be written there again: a process has the other file open")
	require.Error(t, f.Batch(t.Context(), set("a", "1")))
	require.NoError(t, other.Batch(t.Context(), set("b", "1")), "the other is not disturbed")
	require.NoError(t, other.Close())
	require.NoError(t, os.Rename(path+".away", path))
	require.NoError(t, f.Check(), "it is back")
	require.NoError(t, f.Batch(t.Context(), set("a", "1")))
	require.NoError(t, f.Check())
	require.NoError(t, os.Truncate(path, 4096))
	for range 2 {
		require.ErrorContains(t, f.Check(), "it was cut while the host ran: restart the host")
		require.ErrorContains(t, f.Batch(t.Context(), set("a", "2")), "restart the host")
	}
	require.NoError(t, f.Close())
}
