package doctor

import (
	"fmt"

	"github.com/ocems-io/ocems/ocems/store"
)

// ErrBusy is a file that changed at every attempt to copy it.
var ErrBusy = store.ErrBusy

// Snapshot copies the file at path and opens the copy of the bucket; see [store.Snapshot].
func Snapshot(path, bucket string) (*store.File, error) {
	s, err := store.SnapshotBucket(path, bucket)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	return s, nil
}
