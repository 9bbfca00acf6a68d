package ocemsstorage

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// Store is a component's state. The component closes it.
type Store interface {
	store.Store
	io.Closer
}

// ranger is a client that can list its keys and check its file. The collector's interface has no such methods.
type ranger interface {
	storage.Client
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	Check() error
}

// Open opens the state of a component in the extension that is named by the key `storage`.
func Open(ctx context.Context, host component.Host, storageID component.ID, kind component.Kind, id component.ID) (Store, error) {
	ext, err := find(host, storageID)
	if err != nil {
		return nil, err
	}
	c, err := ext.GetClient(ctx, kind, id, "")
	if err != nil {
		return nil, fmt.Errorf("storage: opening %q: %w", storageID, err)
	}
	r, ok := c.(ranger)
	if !ok {
		_ = c.Close(ctx)
		return nil, fmt.Errorf("storage: %q cannot list its keys; use an ocems_storage extension", storageID)
	}
	return adapter{r}, nil
}

func find(host component.Host, storageID component.ID) (storage.Extension, error) {
	ext, ok := host.GetExtensions()[storageID]
	if !ok {
		var others []string
		for id, other := range host.GetExtensions() {
			if _, stores := other.(storage.Extension); stores {
				others = append(others, id.String())
			}
		}
		if slices.Sort(others); len(others) > 0 {
			return nil, fmt.Errorf("storage: there is no extension %q in service.extensions; nearest: %s", storageID,
				strings.Join(spec.Nearest(storageID.String(), others), ", "))
		}
		return nil, fmt.Errorf("storage: there is no extension %q; add it to service.extensions", storageID)
	}
	s, ok := ext.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("storage: the extension %q is not a storage extension; use an ocems_storage extension", storageID)
	}
	return s, nil
}

// adapter adapts a client to the core's interface.
type adapter struct{ ranger }

// Batch implements [store.Store].
func (a adapter) Batch(ctx context.Context, ops ...store.Op) error {
	list := make([]*storage.Operation, len(ops))
	for i, op := range ops {
		if op.Value == nil {
			list[i] = storage.DeleteOperation(op.Key)
		} else {
			list[i] = storage.SetOperation(op.Key, op.Value)
		}
	}
	return a.ranger.Batch(ctx, list...)
}

// Path returns the path of the state, or "".
func (a adapter) Path() string {
	if p, ok := a.ranger.(interface{ Path() string }); ok {
		return p.Path()
	}
	return ""
}

// Close implements io.Closer.
func (a adapter) Close() error { return a.ranger.Close(context.Background()) }

// OpenOrMemory is [Open] for a component with an optional `storage`. Without storage it keeps the state in memory, logs a
// warning, and loses everything at a restart.
func OpenOrMemory(ctx context.Context, host component.Host, storageID *component.ID, kind component.Kind, id component.ID, log *zap.Logger) (Store, error) {
	if storageID == nil {
		log.Warn("no storage is set: open windows and waiting slots are lost when the collector stops; set `storage` to an ocems_storage extension")
		return memory{store.NewMemory()}, nil
	}
	return Open(ctx, host, *storageID, kind, id)
}

type memory struct{ *store.Memory }

func (memory) Close() error { return nil }
