package ocems

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// writeJournal makes a segment of each list of contents.
func writeJournal(t *testing.T, dir string, lists ...[]string) {
	j, _, err := openJournal(dir, 0, func([]byte) {})
	require.NoError(t, err)
	for i, list := range lists {
		if i > 0 {
			require.NoError(t, j.rotate())
		}
		for _, c := range list {
			require.NoError(t, j.append([]byte(c)))
		}
	}
	require.NoError(t, j.close())
}

func readJournal(t *testing.T, dir string) (contents, damage []string) {
	_, damage, err := openJournal(dir, 0, func(c []byte) { contents = append(contents, string(c)) })
	require.NoError(t, err)
	return contents, damage
}

func TestDamagedJournal(t *testing.T) {
	lists := [][]string{{"a1", "a2"}, {"b1", "b2"}}
	for _, tt := range []struct {
		name    string
		segment uint64
		damage  func(b []byte) []byte
		want    []string
		aside   bool
	}{
		{"whole", 2, func(b []byte) []byte { return b }, []string{"a1", "a2", "b1", "b2"}, false},
		{"cut in the last frame", 2, func(b []byte) []byte { return b[:len(b)-1] }, []string{"a1", "a2", "b1"}, false},
		{"last frame altered", 2, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, []string{"a1", "a2", "b1"}, true},
		{"last frame's mark altered", 2, func(b []byte) []byte { b[bytes.LastIndex(b, []byte(frameMagic))] ^= 1; return b }, []string{"a1", "a2", "b1"}, true},
		{"zeros at the end", 2, func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, []string{"a1", "a2", "b1", "b2"}, false},
		{"text at the end", 2, func(b []byte) []byte { return append(b, "no frame"...) }, []string{"a1", "a2", "b1", "b2"}, true},
		{"older segment cut after a frame", 1, func(b []byte) []byte { return b[:len(b)-frameHead-2] }, []string{"a1", "b1", "b2"}, true},
		{"older segment cut in a frame", 1, func(b []byte) []byte { return b[:len(b)-1] }, []string{"a1", "b1", "b2"}, true},
		{"older segment has what was never taken", 1, func(b []byte) []byte { return append(b, b[len(b)-frameHead-2:]...) }, []string{"a1", "a2", "b1", "b2"}, false},
		{"older segment empty", 1, func([]byte) []byte { return nil }, []string{"b1", "b2"}, true},
		{"newest segment only begun", 2, func(b []byte) []byte { return b[:headerSize-1] }, []string{"a1", "a2"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeJournal(t, dir, lists...)
			name := segmentName(dir, tt.segment)
			change(t, name, tt.damage)
			before, err := os.ReadFile(name)
			require.NoError(t, err)
			contents, damage := readJournal(t, dir)
			assert.Equal(t, tt.want, contents)
			if !tt.aside {
				assert.Empty(t, damage)
			} else if assert.Equal(t, []string{name + ".damaged"}, damage) {
				kept, err := os.ReadFile(damage[0])
				require.NoError(t, err)
				assert.Equal(t, before, kept)
			}
			writeJournal(t, dir, []string{"next"}) // goes on behind it
			contents, _ = readJournal(t, dir)
			assert.Equal(t, append(slices.Clone(tt.want), "next"), contents)
		})
	}
}

// Any bit of a header may flip: no frame is lost by it, and none is read that was never taken.
func TestDamagedSegmentHeader(t *testing.T) {
	dir := t.TempDir()
	writeJournal(t, dir, []string{"a1", "a2"}, []string{"b1"})
	name := segmentName(dir, 2)
	whole, err := os.ReadFile(name)
	require.NoError(t, err)
	for bit := range 8 * headerSize {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(name, b, 0o600))
		var contents []string
		_, damage, err := openJournal(dir, 0, func(c []byte) { contents = append(contents, string(c)) })
		if bit/8 == len(segmentMagic) && b[bit/8] > journalFormat {
			assert.ErrorIs(t, err, errNewer)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, []string{"a1", "a2", "b1"}, contents, "bit %d", bit)
		assert.Equal(t, []string{name + ".damaged"}, damage, "bit %d", bit)
	}
}

// After a sync that failed, the frame may be on the disk or not: the next segment says that it does not count.
func TestJournalAfterAFailedSync(t *testing.T) {
	dir := t.TempDir()
	writeJournal(t, dir, []string{"taken"})
	j, _, err := openJournal(dir, 0, func([]byte) {})
	require.NoError(t, err)
	require.NoError(t, j.append([]byte("taken too")))
	file := j.file
	change(t, file.Name(), func(b []byte) []byte { return append(b, b[len(b)-frameHead-len("taken too"):]...) })
	require.NoError(t, j.file.Close()) // so that the next append fails, without a change of what is on the disk
	require.ErrorIs(t, j.append([]byte("taken too")), os.ErrClosed)
	require.NoError(t, j.append([]byte("once more")))
	require.NoError(t, j.close())
	contents, damage := readJournal(t, dir)
	assert.Equal(t, []string{"taken", "taken too", "once more"}, contents)
	assert.Empty(t, damage)
	require.False(t, errors.Is(j.close(), os.ErrClosed))
}
