package ocemsexporter

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
)

var errStopped = errors.New("the exporter is not running; the readings stay with the sender")

// ConsumeMetrics returns when the readings are durable. After an error the sender may send the same batch again, and each
// reading counts once. A refused reading is not an error, because it would block the rest of the batch.
func (e *ocemsExporter) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	core := e.engine.Load()
	if core == nil {
		return errStopped
	}
	b := core.NewBatch()
	points.Add(b, md)
	return points.Commit(ctx, b)
}
