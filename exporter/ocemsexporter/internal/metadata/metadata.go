// Package metadata holds what metadata.yaml says: the type, the stability and the instruments.
package metadata

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	ScopeName        = "github.com/ocems-io/ocems/exporter/ocemsexporter"
	MetricsStability = component.StabilityLevelAlpha
)

// Type is the exporter's type.
var Type = component.MustNewType("ocems")

// Telemetry holds the exporter's instruments.
type Telemetry struct {
	Taken, Readings, Refused, Ignored, Attempts metric.Int64Counter
	RequestDuration                             metric.Float64Histogram

	// Exporter is on all of them: without it, two exporters of one collector overwrite each other's gauges.
	Exporter attribute.KeyValue

	meter        metric.Meter
	outbox, held metric.Int64ObservableGauge
	oldest, skew metric.Float64ObservableGauge
}

// Observed are the gauges' values.
type Observed struct {
	Slots        int64
	Held         map[string]int64 // by reason
	Oldest, Skew float64          // seconds
}

// NewTelemetry makes the instruments.
func NewTelemetry(set component.TelemetrySettings, id component.ID) (*Telemetry, error) {
	t := &Telemetry{meter: set.MeterProvider.Meter(ScopeName), Exporter: attribute.String("exporter", id.String())}
	var errs [10]error
	counter := func(err *error, name, unit, text string) (c metric.Int64Counter) {
		c, *err = t.meter.Int64Counter("otelcol_exporter_ocems_"+name, metric.WithUnit(unit), metric.WithDescription(text))
		return c
	}
	t.Taken = counter(&errs[9], "taken", "{reading}", "Readings taken into the outbox. [Alpha]")
	t.Readings = counter(&errs[0], "readings", "{reading}", "Readings that reached their final outcome. [Alpha]")
	t.Refused = counter(&errs[1], "refused", "{reading}", "Readings refused before the outbox. [Alpha]")
	t.Ignored = counter(&errs[2], "ignored", "{point}", "Data points that are no parameter of a device. [Alpha]")
	t.Attempts = counter(&errs[3], "attempts", "{request}", "Requests sent. [Alpha]")
	t.RequestDuration, errs[4] = t.meter.Float64Histogram("otelcol_exporter_ocems_request_duration", metric.WithUnit("s"),
		metric.WithDescription("How long requests took. [Alpha]"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 45, 60))
	t.outbox, errs[5] = t.meter.Int64ObservableGauge("otelcol_exporter_ocems_outbox_slots", metric.WithUnit("{slot}"),
		metric.WithDescription("Slots that wait in the outbox. [Alpha]"))
	t.oldest, errs[6] = t.meter.Float64ObservableGauge("otelcol_exporter_ocems_oldest_age", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest slot in the outbox. [Alpha]"))
	t.held, errs[7] = t.meter.Int64ObservableGauge("otelcol_exporter_ocems_held_devices", metric.WithUnit("{device}"),
		metric.WithDescription("Devices whose registration or credentials the server refuses. [Alpha]"))
	t.skew, errs[8] = t.meter.Float64ObservableGauge("otelcol_exporter_ocems_clock_skew", metric.WithUnit("s"),
		metric.WithDescription("The server's clock less this machine's. [Alpha]"))
	err := errors.Join(errs[:]...)
	if err == nil { // a series that begins with its first event is no increase of anything
		ctx := context.Background()
		t.Taken.Add(ctx, 0, metric.WithAttributes(t.Exporter))
		t.Refused.Add(ctx, 0, metric.WithAttributes(t.Exporter))
		t.Ignored.Add(ctx, 0, metric.WithAttributes(t.Exporter))
		for _, o := range []string{"delivered", "already_stored", "rejected", "expired", "refused"} {
			t.Readings.Add(ctx, 0, metric.WithAttributes(t.Exporter, attribute.String("outcome", o)))
		}
		for _, ok := range []bool{false, true} {
			t.Attempts.Add(ctx, 0, metric.WithAttributes(t.Exporter, attribute.Bool("ok", ok)))
		}
	}
	return t, err
}
