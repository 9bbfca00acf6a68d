package ocems

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A full disk fails each append, leaves no segments behind, and is over when there is space again.
func TestJournalOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("only root mounts a small disk: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	j, _, err := openJournal(dir, 0, func([]byte) {})
	require.NoError(t, err)
	require.NoError(t, j.append([]byte("before")))

	filler := filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 64<<10))
	}
	require.NoError(t, file.Close())
	large := bytes.Repeat([]byte("x"), 32<<10)
	for range 300 {
		err := j.append(large)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "writing the journal: ")
	}
	numbers, err := segments(dir)
	require.NoError(t, err)
	assert.Len(t, numbers, 1)
	contents, damage := readJournal(t, dir)
	assert.Equal(t, []string{"before"}, contents)
	assert.Empty(t, damage)

	require.NoError(t, os.Remove(filler))
	require.NoError(t, j.append(large))
	require.NoError(t, j.close())
	contents, damage = readJournal(t, dir)
	assert.Equal(t, []string{"before", string(large)}, contents)
	assert.Empty(t, damage)
}
