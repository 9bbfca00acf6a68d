// Package metadata holds the processor's type, stability and telemetry, as metadata.yaml declares them.
package metadata

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Type is the processor's name in a configuration.
var Type = component.MustNewType("ocems_slot")

const (
	// ScopeName is the meter's.
	ScopeName = "github.com/ocems-io/ocems/processor/ocemsslotprocessor"
	// MetricsStability is the processor's.
	MetricsStability = component.StabilityLevelAlpha
)

// Telemetry are the processor's own instruments.
type Telemetry struct {
	Samples, LateSamples, RefusedSamples, SlotsClosed metric.Int64Counter

	// Processor is on all of them: without it, two processors of one collector overwrite each other's gauges.
	Processor attribute.KeyValue

	registration metric.Registration
}

// NewTelemetry makes the instruments. The gauges are read from observe until Close.
func NewTelemetry(set component.TelemetrySettings, id component.ID, observe func() (pending, series int)) (*Telemetry, error) {
	meter := set.MeterProvider.Meter(ScopeName)
	t := &Telemetry{Processor: attribute.String("processor", id.String())}
	own := metric.WithAttributes(t.Processor)
	var errs []error
	for _, c := range []struct {
		to                      *metric.Int64Counter
		name, description, unit string
	}{
		{&t.Samples, "samples", "Samples taken into a window. [Alpha]", "{sample}"},
		{&t.LateSamples, "late_samples", "Samples whose window was closed already. [Alpha]", "{sample}"},
		{&t.RefusedSamples, "refused_samples", "Samples refused, by reason. [Alpha]", "{sample}"},
		{&t.SlotsClosed, "slots_closed", "Windows closed. [Alpha]", "{slot}"},
	} {
		var err error
		*c.to, err = meter.Int64Counter("otelcol_processor_ocems_slot_"+c.name,
			metric.WithDescription(c.description), metric.WithUnit(c.unit))
		errs = append(errs, err)
	}
	pending, err := meter.Int64ObservableGauge("otelcol_processor_ocems_slot_pending_slots",
		metric.WithDescription("Closed windows that the next consumer has not taken yet. [Alpha]"), metric.WithUnit("{slot}"))
	errs = append(errs, err)
	series, err := meter.Int64ObservableGauge("otelcol_processor_ocems_slot_series",
		metric.WithDescription("Series held. [Alpha]"), metric.WithUnit("{series}"))
	errs = append(errs, err)
	t.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		p, s := observe()
		o.ObserveInt64(pending, int64(p), own)
		o.ObserveInt64(series, int64(s), own)
		return nil
	}, pending, series)
	if err = errors.Join(append(errs, err)...); err == nil { // a series that begins with its first event is no increase of anything
		ctx := context.Background()
		for _, c := range []metric.Int64Counter{t.Samples, t.LateSamples, t.SlotsClosed} {
			c.Add(ctx, 0, own)
		}
		for _, reason := range []string{"too_old", "future", "not_a_number", "bad_flag", "max_series", "max_samples"} {
			t.RefusedSamples.Add(ctx, 0, metric.WithAttributes(t.Processor, attribute.String("reason", reason)))
		}
	}
	return t, err
}

// Close lets go of the gauges.
func (t *Telemetry) Close() error { return t.registration.Unregister() }
