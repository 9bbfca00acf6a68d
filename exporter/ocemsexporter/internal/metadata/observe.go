package metadata

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observe reads the gauges through see until the registration is undone.
func (t *Telemetry) Observe(see func() Observed) (metric.Registration, error) {
	return t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		v := see()
		own := metric.WithAttributes(t.Exporter)
		o.ObserveInt64(t.outbox, v.Slots, own)
		for reason, devices := range v.Held {
			o.ObserveInt64(t.held, devices, metric.WithAttributes(t.Exporter, attribute.String("reason", reason)))
		}
		o.ObserveFloat64(t.oldest, v.Oldest, own)
		o.ObserveFloat64(t.skew, v.Skew, own)
		return nil
	}, t.outbox, t.held, t.oldest, t.skew)
}
