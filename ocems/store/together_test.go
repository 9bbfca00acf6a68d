package store_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/store"
)

// holder is set in further processes of this test to the file that they open.
const holder = "OCEMS_TEST_OPENS_STATE"

func TestMain(m *testing.M) {
	path := os.Getenv(holder)
	if path == "" {
		os.Exit(m.Run())
	}
	f, err := store.Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := f.Close(); err != nil {
		os.Exit(1)
	}
}

// If several processes find the same damage at one time, one repairs and opens the file, and the others are refused.
func TestDamageThatManyFind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	want, _ := write(t, path, false)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	text[0] ^= 1 // the id of the first page: no entry is lost
	for range 5 {
		require.NoError(t, os.WriteFile(path, text, 0o600))
		var others []*exec.Cmd
		var says []*bufio.Reader
		var ins []io.Closer
		for range 4 {
			other := exec.Command(os.Args[0])
			other.Env = append(os.Environ(), holder+"="+path)
			in, err := other.StdinPipe()
			require.NoError(t, err)
			out, err := other.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, other.Start())
			others, says, ins = append(others, other), append(says, bufio.NewReader(out)), append(ins, in)
		}
		opened := 0
		for i := range others {
			line, err := says[i].ReadString('\n')
			require.NoError(t, err)
			if line == "open\n" {
				opened++
			} else {
				assert.Contains(t, line, "in use by another process")
			}
		}
		assert.Equal(t, 1, opened)
		for i := range others {
			ins[i].Close()
			_ = others[i].Wait()
		}
		left, err := filepath.Glob(path + ".*")
		require.NoError(t, err)
		if assert.Len(t, left, 1) {
			assert.True(t, strings.HasPrefix(left[0], path+".damaged-"))
			kept, err := os.ReadFile(left[0])
			require.NoError(t, err)
			assert.True(t, bytes.Equal(text, kept))
		}
		f, err := store.Open(path)
		require.NoError(t, err)
		assert.Equal(t, want, entries(t, f))
		require.NoError(t, f.Close())
		for _, file := range append(left, path) {
			require.NoError(t, os.Remove(file))
		}
	}
}
