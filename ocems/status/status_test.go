package status_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/status"
)

// A file may be half written, or is being replaced, as on Windows.
func TestReadWhileItIsWritten(t *testing.T) {
	whole, err := json.Marshal(status.Host{Version: status.Version, Process: 7})
	require.NoError(t, err)
	for _, c := range []struct {
		name          string
		before, after []byte // nil: no file
		comes         bool   // 30 ms later
		missing       bool
		found         bool
	}{
		{"half there", whole[:10], nil, true, false, true},
		{"empty", []byte{}, nil, true, false, true},
		{"about to be replaced", nil, whole, true, false, true},
		{"damaged for good", whole[:10], nil, false, false, true},
		{"never replaced", nil, whole, false, true, false},
		{"missing", nil, nil, false, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := status.Path(filepath.Join(t.TempDir(), "state.db"))
				for name, text := range map[string][]byte{path: c.before, path + ".new": c.after} {
					if text != nil {
						require.NoError(t, os.WriteFile(name, text, 0o600))
					}
				}
				if c.comes {
					time.AfterFunc(30*time.Millisecond, func() { assert.NoError(t, os.WriteFile(path, whole, 0o600)) })
				}
				begun := time.Now()
				paths, err := status.Find(filepath.Dir(path))
				require.NoError(t, err)
				assert.Equal(t, c.found, slices.Equal(paths, []string{path}), paths)
				h, err := status.Read(path)
				switch {
				case c.comes:
					require.NoError(t, err)
					assert.Equal(t, 7, h.Process)
				default:
					require.Error(t, err)
					assert.Equal(t, c.missing, errors.Is(err, fs.ErrNotExist))
				}
				assert.Less(t, time.Since(begun), time.Second)
				if c.missing && c.after == nil {
					assert.Zero(t, time.Since(begun), "a missing file is an error immediately")
				}
			})
		})
	}
}

// The files of a hub of any size are sorted by name, are found, and are removed when it has fewer devices.
func TestFilesOfAHub(t *testing.T) {
	path := status.Path(filepath.Join(t.TempDir(), "state.db"))
	write := func(devices int) int {
		n := status.Files(devices)
		lists := make([][]status.Device, n)
		for i := range devices * min(n, 1) { // a small host has its devices in its own file
			id := fmt.Sprintf("d%06d", i)
			lists[status.FileOf(id, n)] = append(lists[status.FileOf(id, n)], status.Device{ID: id})
		}
		for i, list := range lists {
			require.NoError(t, status.WriteDevices(path, i, list))
		}
		require.NoError(t, (&status.Host{Files: n}).Write(path))
		return n
	}
	for _, devices := range []int{75_000, 1200, 501, 500} {
		n := write(devices)
		h, err := status.Read(path)
		require.NoError(t, err)
		if n > 0 {
			require.Len(t, h.Devices, devices)
		}
		paths, err := status.Find(filepath.Dir(path))
		require.NoError(t, err)
		assert.Equal(t, []string{path}, paths)
		files, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, files, n+1)
		for i := range n { // the directory is sorted
			var list []status.Device
			text, err := os.ReadFile(filepath.Join(filepath.Dir(path), files[i].Name()))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &list))
			require.Equal(t, i, status.FileOf(list[0].ID, n), files[i].Name())
		}
		later := time.Now().Add(time.Hour).Truncate(time.Second)
		last := filepath.Join(filepath.Dir(path), files[max(n-1, 0)].Name())
		require.NoError(t, os.Chtimes(last, later, later))
		assert.True(t, status.Modified(path).Equal(later))
	}
}
