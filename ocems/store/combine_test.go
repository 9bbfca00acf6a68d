package store

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// transactions is the number of writes to the file.
func transactions(t *testing.T, f *File) (n int) {
	require.NoError(t, f.db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil }))
	return n
}

// together makes all batches wait before the first of them is written.
func together(t *testing.T, f *File, batches [][]Op) []error {
	f.write.Lock()
	errs := make([]error, len(batches))
	var wg sync.WaitGroup
	for i, ops := range batches {
		wg.Go(func() { errs[i] = f.Batch(t.Context(), ops...) })
	}
	for waiting := 0; waiting < len(batches); runtime.Gosched() {
		f.mu.Lock()
		waiting = len(f.waiting)
		f.mu.Unlock()
	}
	f.write.Unlock()
	wg.Wait()
	return errs
}

func TestConcurrentBatchesShareASync(t *testing.T) {
	f, err := Open(filepath.Join(t.TempDir(), "state.db"))
	require.NoError(t, err)
	defer f.Close()
	before := transactions(t, f)
	var batches [][]Op
	for i := range 64 {
		batches = append(batches, []Op{{Key: fmt.Sprint(i), Value: []byte{byte(i)}}})
	}
	for _, err := range together(t, f, batches) {
		require.NoError(t, err)
	}
	assert.Equal(t, 1, transactions(t, f)-before)
	for i := range 64 {
		got, err := f.Get(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		assert.Equal(t, []byte{byte(i)}, got)
	}
}

// A batch that cannot be written does not affect others: here bbolt refuses it, because its key is a bucket.
func TestFailedBatchFailsAlone(t *testing.T) {
	f, err := Open(filepath.Join(t.TempDir(), "state.db"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.Bucket(entriesBucket).CreateBucket([]byte("spoilt"))
		return err
	}))
	errs := together(t, f, [][]Op{
		{{Key: "a", Value: []byte("1")}},
		{{Key: "b", Value: make([]byte, 100)}, {Key: "spoilt", Value: make([]byte, 100)}},
		{{Key: "c", Value: []byte("1")}},
	})
	require.NoError(t, errs[0])
	require.ErrorContains(t, errs[1], "writing the state ")
	require.NoError(t, errs[2])
	for key, want := range map[string][]byte{"a": []byte("1"), "b": nil, "c": []byte("1")} {
		got, err := f.Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, want, got, key)
	}
}
