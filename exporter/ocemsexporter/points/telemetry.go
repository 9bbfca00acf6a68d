package points

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
)

// Observe makes the instruments for readings and windows. Their names begin with prefix. All have the attribute own; without
// it, two components of one collector overwrite each other's values. They are read from e until they are unregistered.
func Observe(meter metric.Meter, prefix string, own attribute.KeyValue, e *engine.Engine) (metric.Registration, error) {
	var errs []error
	var all []metric.Observable
	counter := func(name, unit, text string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(prefix+name, metric.WithUnit(unit), metric.WithDescription(text+" [Alpha]"))
		errs, all = append(errs, err), append(all, c)
		return c
	}
	gauge := func(name, unit, text string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(prefix+name, metric.WithUnit(unit), metric.WithDescription(text+" [Alpha]"))
		errs, all = append(errs, err), append(all, g)
		return g
	}
	samples := counter("samples", "{sample}", "Samples taken into a window.")
	duplicate := counter("duplicate_samples", "{sample}", "Samples that repeat an earlier one with the same time, value and flag.")
	late := counter("late_samples", "{sample}", "Samples whose window was already closed.")
	refused := counter("refused_samples", "{sample}", "Samples refused, by reason.")
	ignored := counter("ignored_points", "{point}", "Data points that are not a parameter of a device.")
	closed := counter("slots_closed", "{slot}", "Windows closed.")
	pending := gauge("pending_slots", "{slot}", "Closed windows that are not passed on yet.")
	series := gauge("series", "{series}", "Series held.")
	parameters := gauge("troubled_parameters", "{parameter}", "Parameters that need a person, at the end of the last slot.")
	expected := gauge("parameter_expected", "{slot}", "1 where slots of the parameter are due, 0 before its first one.")
	delivered := gauge("parameter_last_delivered_timestamp", "s", "Newest delivered stamp of the parameter, in Unix time.")
	trouble := gauge("parameter_trouble", "{parameter}", "1 for each trouble of the parameter. No series without trouble.")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	with := metric.WithAttributes(own)
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := e.Stats()
		o.ObserveInt64(samples, int64(s.Taken), with)
		o.ObserveInt64(duplicate, int64(s.Refused[slot.Duplicate]), with)
		o.ObserveInt64(late, int64(s.Refused[slot.Late]), with)
		for _, reason := range engine.Reasons() {
			if reason != slot.Late {
				o.ObserveInt64(refused, int64(s.Refused[reason]), metric.WithAttributes(own, attribute.String("reason", string(reason))))
			}
		}
		o.ObserveInt64(ignored, int64(s.Ignored), with)
		o.ObserveInt64(closed, int64(s.Closed), with)
		o.ObserveInt64(pending, int64(s.Pending), with)
		o.ObserveInt64(series, int64(s.Series), with)
		for _, class := range engine.Troubles() {
			o.ObserveInt64(parameters, int64(s.Troubled[class]), metric.WithAttributes(own, attribute.String("class", string(class))))
		}
		for _, p := range e.Parameters() {
			set := []attribute.KeyValue{own, attribute.String("station", p.Station), attribute.String("device", p.Device),
				attribute.String("parameter", p.Parameter), attribute.Bool("diagnostic", p.Diagnostic)}
			due := int64(0)
			if p.Expected {
				due = 1
			}
			with := metric.WithAttributes(set...)
			o.ObserveInt64(expected, due, with)
			if !p.Delivered.IsZero() {
				o.ObserveInt64(delivered, p.Delivered.Unix(), with)
			}
			if p.Trouble != "" {
				o.ObserveInt64(trouble, 1, metric.WithAttributes(append(set, attribute.String("class", string(p.Trouble)))...))
			}
		}
		return nil
	}, all...)
}
