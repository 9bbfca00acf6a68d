package store

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFullDisk: deletions succeed, even beside a batch that does not fit. No batch that was reported as failed is
// stored. Everything works again when there is space.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	path := filepath.Join(dir, "state", "state.db")
	f, err := Open(path)
	require.NoError(t, err)
	for i := range 20 {
		require.NoError(t, f.Batch(t.Context(), Op{Key: string(rune('a' + i)), Value: make([]byte, 4_000)}))
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)

	large := []Op{{Key: "large", Value: make([]byte, 300_000)}}
	for range 3 {
		require.ErrorIs(t, f.Batch(t.Context(), large...), syscall.ENOSPC)
	}
	errs := together(t, f, [][]Op{large, {{Key: "a"}}, large, {{Key: "b"}, {Key: "new", Value: []byte("1")}}})
	require.ErrorIs(t, errs[0], syscall.ENOSPC)
	require.NoError(t, errs[1])
	require.ErrorIs(t, errs[2], syscall.ENOSPC)
	require.NoError(t, errs[3])
	holds := func() {
		for key, there := range map[string]bool{"a": false, "b": false, "c": true, "new": true, "large": false} {
			got, err := f.Get(t.Context(), key)
			require.NoError(t, err)
			assert.Equal(t, there, got != nil, key)
		}
	}
	holds()
	require.NoError(t, f.Close())
	f, err = Open(path)
	require.NoError(t, err)
	assert.Empty(t, f.Damage())
	holds()

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, f.Batch(t.Context(), large...))
	require.NoError(t, f.Close())
}

// A first start on a full disk says what to do, and leaves nothing that would count as damage.
func TestFirstStartOnAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	path, ballast := filepath.Join(dir, "state", "state.db"), filepath.Join(dir, "ballast")
	fill(t, ballast)
	_, err := Open(path)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "; free space on its disk")
	require.NoError(t, os.Remove(ballast))
	f, err := Open(path)
	require.NoError(t, err)
	assert.Empty(t, f.Damage())
	require.NoError(t, f.Close())
}

// A file that cannot be written again because the disk is full refuses batches until there is space.
func TestFullDiskAtRenewal(t *testing.T) {
	dir := smallDisk(t)
	path, ballast := filepath.Join(dir, "state", "state.db"), filepath.Join(dir, "ballast")
	f, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Batch(t.Context(), Op{Key: "a", Value: []byte("1")}))
	fill(t, ballast)
	require.NoError(t, os.RemoveAll(filepath.Dir(path)))
	for range 2 {
		require.ErrorIs(t, f.Check(), syscall.ENOSPC)
		require.ErrorContains(t, f.Batch(t.Context(), Op{Key: "b", Value: []byte("1")}), "it was removed or renamed while the host ran, and it cannot be written there again")
	}
	require.NoError(t, os.Remove(ballast))
	require.ErrorContains(t, f.Check(), "the whole file is written there again, and nothing is lost")
	require.NoError(t, f.Check())
	require.NoError(t, f.Batch(t.Context(), Op{Key: "b", Value: []byte("2")}))
	require.NoError(t, f.Close())
	f, err = Open(path)
	require.NoError(t, err)
	for key, want := range map[string]string{"a": "1", "b": "2"} {
		got, err := f.Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, want, string(got))
	}
	require.NoError(t, f.Close())
}

// Replacing a damaged file needs space. Without it the damaged file stays, and the next start tries again.
func TestFullDiskAtSalvage(t *testing.T) {
	dir := smallDisk(t)
	path := filepath.Join(dir, "state.db")
	f, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Batch(t.Context(), Op{Key: "a", Value: make([]byte, 500_000)}))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	text[0] ^= 1 // the id of the first page
	require.NoError(t, os.WriteFile(path, text, 0o600))
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)

	_, err = Open(path)
	require.ErrorIs(t, err, syscall.ENOSPC)
	left, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, text, left)
	assert.NoFileExists(t, path+".new")

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=4m"))
	f, err = Open(path)
	require.NoError(t, err)
	assert.Contains(t, f.Damage(), "entries recovered: 1")
	require.NoError(t, f.Close())
}

// smallDisk makes a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("only root mounts a small disk: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

// fill uses up all space of the file system of name.
func fill(t *testing.T, name string) {
	file, err := os.Create(name)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
}
