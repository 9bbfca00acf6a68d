package ocemsexporter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// ranger is a storage client that can list its keys.
type ranger interface {
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
}

// outboxOf is the outbox in a storage extension. Temporary: a client that cannot list its keys gets an outbox in memory,
// until the exporter's state is one file.
func outboxOf(client storage.Client) store.Store {
	if r, ok := client.(ranger); ok {
		return stored{client, r}
	}
	return store.NewMemory()
}

// stored implements store.Store on a storage client.
type stored struct {
	client storage.Client
	ranger
}

func (s stored) Get(ctx context.Context, key string) ([]byte, error) { return s.client.Get(ctx, key) }

func (s stored) Batch(ctx context.Context, ops ...store.Op) error {
	list := make([]*storage.Operation, len(ops))
	for i, op := range ops {
		if op.Value == nil {
			list[i] = storage.DeleteOperation(op.Key)
		} else {
			list[i] = storage.SetOperation(op.Key, op.Value)
		}
	}
	return s.client.Batch(ctx, list...)
}

func storageClient(ctx context.Context, host component.Host, storageID, id component.ID) (storage.Client, error) {
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
		return nil, fmt.Errorf("storage: the extension %q stores nothing; name a storage extension such as ocems_storage", storageID)
	}
	client, err := s.GetClient(ctx, component.KindExporter, id, "")
	if err != nil {
		return nil, fmt.Errorf("storage: opening %q: %w", storageID, err)
	}
	return client, nil
}
