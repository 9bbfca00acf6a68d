package ocemsexporter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/spec"
)

// store is the outbox in a storage extension.
type store struct{ client storage.Client }

func (s store) Get(ctx context.Context, key string) ([]byte, error) { return s.client.Get(ctx, key) }

func (s store) Batch(ctx context.Context, ops []delivery.Op) error {
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
