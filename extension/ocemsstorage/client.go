package ocemsstorage

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/ocems-io/ocems/ocems/store"
)

// client adapts a component's file to the collector's interface.
type client struct{ file *store.File }

var _ ranger = (*client)(nil)

// Get implements storage.Client. It never syncs.
func (c *client) Get(ctx context.Context, key string) ([]byte, error) { return c.file.Get(ctx, key) }

// Set implements storage.Client.
func (c *client) Set(ctx context.Context, key string, value []byte) error {
	return c.Batch(ctx, storage.SetOperation(key, value))
}

// Delete implements storage.Client.
func (c *client) Delete(ctx context.Context, key string) error {
	return c.Batch(ctx, storage.DeleteOperation(key))
}

// Batch implements storage.Client. A get sees the writes of the operations before it. Without a set or a delete nothing is
// synced.
func (c *client) Batch(ctx context.Context, ops ...*storage.Operation) error {
	writes := make([]store.Op, 0, len(ops))
	var written map[string][]byte // only if there is a get
	if slices.ContainsFunc(ops, func(op *storage.Operation) bool { return op.Type == storage.Get }) {
		written = map[string][]byte{}
	}
	write := func(key string, value []byte) {
		if written != nil {
			written[key] = slices.Clone(value)
		}
		writes = append(writes, store.Op{Key: key, Value: value})
	}
	for _, op := range ops {
		switch op.Type {
		case storage.Get:
			value, ok := written[op.Key]
			if !ok {
				var err error
				if value, err = c.file.Get(ctx, op.Key); err != nil {
					return err
				}
			}
			op.Value = value
		case storage.Set:
			value := op.Value
			if value == nil { // nil would mean delete
				value = []byte{}
			}
			write(op.Key, value)
		case storage.Delete:
			write(op.Key, nil)
		default:
			return fmt.Errorf("key %q: there is no operation type %d", op.Key, op.Type)
		}
	}
	return c.file.Batch(ctx, writes...)
}

// Range calls visit for each key that begins with prefix, in order; see [store.Store].
func (c *client) Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error {
	return c.file.Range(ctx, prefix, visit)
}

// Check checks the file and repairs it; see [store.Store].
func (c *client) Check() error { return c.file.Check() }

// Path returns the path of the file.
func (c *client) Path() string { return c.file.Path() }

// Close implements storage.Client.
func (c *client) Close(context.Context) error { return c.file.Close() }
