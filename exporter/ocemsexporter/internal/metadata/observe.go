package metadata

import (
	"context"

	"go.opentelemetry.io/otel/metric"
)

// Observe reads the gauges through see until the registration is undone.
func (t *Telemetry) Observe(see func() Observed) (metric.Registration, error) {
	return t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		v := see()
		o.ObserveInt64(t.outbox, v.Slots)
		o.ObserveInt64(t.held, v.Held)
		o.ObserveFloat64(t.oldest, v.Oldest)
		o.ObserveFloat64(t.skew, v.Skew)
		return nil
	}, t.outbox, t.held, t.oldest, t.skew)
}
