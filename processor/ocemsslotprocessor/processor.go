package ocemsslotprocessor

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
)

// slotProcessor is the instance in one pipeline.
type slotProcessor struct {
	*shared
	next consumer.Metrics
	exit uint8

	host    component.Host // shared.mu guards host and running
	running bool
}

var errStopped = errors.New("the processor is not running; the readings stay with the sender")

// Capabilities implements consumer.Metrics. The processor copies data that it passes on, so other pipelines see no change.
func (p *slotProcessor) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start implements component.Component.
func (p *slotProcessor) Start(ctx context.Context, host component.Host) error {
	if err := p.start(ctx, host, p); err != nil {
		return errors.Join(err, p.stop(ctx, p))
	}
	return nil
}

// Shutdown implements component.Component.
func (p *slotProcessor) Shutdown(ctx context.Context) error { return p.stop(ctx, p) }

// ConsumeMetrics returns when the readings of devices are durable and all other data is passed on. The readings go first.
// If the next consumer refuses the rest, the sender repeats everything, and the readings still count once.
func (p *slotProcessor) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	e := p.engine.Load()
	if e == nil {
		return errStopped
	}
	b := e.NewBatch()
	rest, some := points.Split(b, md, p.exit)
	if err := points.Commit(ctx, b); err != nil {
		return err
	}
	if some {
		return p.next.ConsumeMetrics(ctx, rest)
	}
	return nil
}
