package ocemsexporter

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
)

var errStopped = errors.New("the exporter is not running; the readings stay with the sender")

// ConsumeMetrics returns once the readings are durable. An error means that the same batch may come again, and is taken
// once all the same; a refused reading is none, because it would block the rest.
func (e *ocemsExporter) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	core := e.engine.Load()
	if core == nil {
		return errStopped
	}
	b := core.NewBatch()
	points.Add(b, md)
	return points.Commit(ctx, b)
}
