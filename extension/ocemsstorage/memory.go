package ocemsstorage

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/store"
)

// OpenOrMemory is [Open] for a component whose `storage` may not be set: it then forgets everything at a restart, and
// says so.
func OpenOrMemory(ctx context.Context, host component.Host, storageID *component.ID, kind component.Kind, id component.ID, log *zap.Logger) (Store, error) {
	if storageID == nil {
		log.Warn("no storage is set: open windows and slots that wait are lost when the collector stops; set `storage` to an ocems_storage extension")
		return memory{store.NewMemory()}, nil
	}
	return Open(ctx, host, *storageID, kind, id)
}

type memory struct{ *store.Memory }

func (memory) Close() error { return nil }
