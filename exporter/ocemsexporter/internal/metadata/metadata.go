// Package metadata holds the exporter's type, stability and instruments, as metadata.yaml declares them.
package metadata

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/version"
)

const (
	ScopeName        = "github.com/ocems-io/ocems/exporter/ocemsexporter"
	MetricsStability = component.StabilityLevelAlpha

	prefix = "otelcol_exporter_ocems_"
)

// Type is the exporter's type.
var Type = component.MustNewType("ocems")

// Telemetry holds the exporter's instruments.
type Telemetry struct {
	Attempts        metric.Int64Counter
	RequestDuration metric.Float64Histogram

	// Exporter is an attribute of all instruments. Without it, two exporters of one collector overwrite each other's gauges.
	Exporter attribute.KeyValue

	// Attribute sets are made once, because making one for each request is slow.
	Own metric.MeasurementOption          // only Exporter
	Ok  map[bool]metric.MeasurementOption // Exporter and ok, for an attempt

	meter                  metric.Meter
	readings, sent, failed metric.Int64Counter
	finished               metric.Int64ObservableCounter
	outbox, held, silent   metric.Int64ObservableGauge
	oldest, skew           metric.Float64ObservableGauge
	intake, rest           metric.Registration
}

// NewTelemetry makes the instruments.
func NewTelemetry(set component.TelemetrySettings, id component.ID) (*Telemetry, error) {
	t := &Telemetry{meter: set.MeterProvider.Meter(ScopeName, metric.WithInstrumentationVersion(version.Read().Version)), Exporter: attribute.String("exporter", id.String())}
	var errs [11]error
	t.readings, errs[0] = t.meter.Int64Counter(prefix+"readings", metric.WithUnit("{reading}"),
		metric.WithDescription("Readings that reached their final outcome. [Alpha]"))
	t.Attempts, errs[1] = t.meter.Int64Counter(prefix+"attempts", metric.WithUnit("{request}"), metric.WithDescription("Requests sent. [Alpha]"))
	t.RequestDuration, errs[2] = t.meter.Float64Histogram(prefix+"request_duration", metric.WithUnit("s"),
		metric.WithDescription("How long requests took. [Alpha]"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 45, 60))
	t.finished, errs[3] = t.meter.Int64ObservableCounter(prefix+"finished_slots", metric.WithUnit("{slot}"),
		metric.WithDescription("Slots made upstream, including repeated ones. [Alpha]"))
	t.outbox, errs[4] = t.meter.Int64ObservableGauge(prefix+"outbox_slots", metric.WithUnit("{slot}"),
		metric.WithDescription("Slots that wait in the outbox. [Alpha]"))
	t.oldest, errs[5] = t.meter.Float64ObservableGauge(prefix+"oldest_age", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest slot in the outbox. [Alpha]"))
	t.held, errs[6] = t.meter.Int64ObservableGauge(prefix+"held_devices", metric.WithUnit("{device}"),
		metric.WithDescription("Devices whose registration or credentials the server refuses. [Alpha]"))
	t.skew, errs[7] = t.meter.Float64ObservableGauge(prefix+"clock_skew", metric.WithUnit("s"),
		metric.WithDescription("The server's clock minus this machine's. [Alpha]"))
	t.silent, errs[8] = t.meter.Int64ObservableGauge(prefix+"server_unreachable", metric.WithUnit("{server}"),
		metric.WithDescription("1 while the server does not answer. [Alpha]"))
	// All exporters of the collector have these two. Scope and description are the same, to avoid two metrics of one name.
	common := set.MeterProvider.Meter("go.opentelemetry.io/collector/exporter/exporterhelper")
	t.sent, errs[9] = common.Int64Counter("otelcol_exporter_sent_metric_points", metric.WithUnit("{datapoint}"),
		metric.WithDescription("Number of metric points successfully sent to destination. [Alpha]"))
	t.failed, errs[10] = common.Int64Counter("otelcol_exporter_send_failed_metric_points", metric.WithUnit("{datapoint}"),
		metric.WithDescription("Number of metric points in failed attempts to send to destination. At detailed telemetry level, includes attributes: error.type (semantic convention), error.permanent. [Alpha]"))
	t.Own, t.Ok = metric.WithAttributes(t.Exporter), map[bool]metric.MeasurementOption{}
	err := errors.Join(errs[:]...)
	if err == nil { // a counter starts at 0, so that its first event is visible as an increase
		ctx := context.Background()
		for _, o := range []audit.Outcome{audit.Delivered, audit.AlreadyStored, audit.Rejected, audit.Expired, audit.Refused} {
			t.Result(o, 0)
		}
		for _, ok := range []bool{false, true} {
			t.Ok[ok] = metric.WithAttributes(t.Exporter, attribute.Bool("ok", ok))
			t.Attempts.Add(ctx, 0, t.Ok[ok])
		}
	}
	return t, err
}

// Result counts readings with a final outcome: as sent if the server has them, otherwise as failed.
func (t *Telemetry) Result(o audit.Outcome, readings int) {
	ctx := context.Background()
	t.readings.Add(ctx, int64(readings), metric.WithAttributes(t.Exporter, attribute.String("outcome", string(o))))
	counter := t.failed
	if o == audit.Delivered || o == audit.AlreadyStored {
		counter = t.sent
	}
	counter.Add(ctx, int64(readings), t.Own)
}

// Observe registers the instruments that are read from e, until Close.
func (t *Telemetry) Observe(e *engine.Engine) (err error) {
	if t.intake, err = points.Observe(t.meter, prefix, t.Exporter, e); err != nil {
		return err
	}
	t.rest, err = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, own := e.Stats(), t.Own
		o.ObserveInt64(t.finished, int64(s.Finished), own)
		o.ObserveInt64(t.outbox, int64(s.Outbox.Slots), own)
		for _, reason := range delivery.HoldReasons() { // all reasons, because an alert needs the 0
			o.ObserveInt64(t.held, int64(s.Outbox.HeldFor[reason]), metric.WithAttributes(t.Exporter, attribute.String("reason", reason)))
		}
		silent := int64(0)
		if s.Unreachable {
			silent = 1
		}
		o.ObserveInt64(t.silent, silent, own)
		o.ObserveFloat64(t.oldest, s.OldestAge().Seconds(), own)
		o.ObserveFloat64(t.skew, s.Outbox.Skew.Seconds(), own)
		return nil
	}, t.finished, t.outbox, t.held, t.silent, t.oldest, t.skew)
	return err
}

// Close undoes Observe.
func (t *Telemetry) Close() error {
	var errs []error
	for _, r := range []metric.Registration{t.intake, t.rest} {
		if r != nil {
			errs = append(errs, r.Unregister())
		}
	}
	t.intake, t.rest = nil, nil
	return errors.Join(errs...)
}
