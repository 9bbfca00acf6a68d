package ocemsexporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// slotAttribute marks a finished slot of the ocems_slot processor.
const slotAttribute = "ocems.samples"

// batch is what one ConsumeMetrics has found.
type batch struct {
	records []payload.Record
	index   map[*registry.Device]int
	refused []audit.Entry
	ignored int
}

// ConsumeMetrics returns once the readings are in the outbox. An error is that of the outbox alone and is worth another
// try; a refused reading is none, because it would block the rest.
func (e *ocemsExporter) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	b := batch{index: map[*registry.Device]int{}}
	for _, rm := range md.ResourceMetrics().All() {
		resource := rm.Resource().Attributes()
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				e.metric(&b, resource, m)
			}
		}
	}
	if len(b.records) > 0 {
		if err := e.delivery.Put(ctx, b.records); err != nil {
			return err // the same batch comes again, with what is ignored and refused in it
		}
		taken := 0
		for _, r := range b.records {
			taken += len(r.Readings)
		}
		e.telemetry.Taken.Add(ctx, int64(taken), metric.WithAttributes(e.telemetry.Exporter))
	}
	if b.ignored > 0 {
		e.telemetry.Ignored.Add(ctx, int64(b.ignored), metric.WithAttributes(e.telemetry.Exporter))
	}
	if len(b.refused) > 0 {
		e.telemetry.Refused.Add(ctx, int64(len(b.refused)), metric.WithAttributes(e.telemetry.Exporter))
	}
	e.auditRefused(b.refused)
	return nil
}

// auditRefused writes to the audit_file, or to the log where there is none. While the file cannot be written the log has
// it too.
func (e *ocemsExporter) auditRefused(entries []audit.Entry) {
	if e.trail == nil {
		for _, r := range entries {
			e.set.Logger.Warn("readings are not at the server", zap.String("outcome", string(r.Outcome)), zap.String("device", r.Device),
				zap.String("slot", spec.ISTString(time.UnixMilli(r.Stamp))), zap.Any("readings", r.Readings), zap.String("reason", r.Detail))
		}
		return
	}
	if err := e.backlog.Append(entries...); err != nil && len(entries) > 0 { // what waits was told when it came
		e.set.Logger.Error("cannot write what was refused to the audit_file: it is kept and tried again", zap.Error(err), zap.Any("entries", entries))
	}
}

func (e *ocemsExporter) metric(b *batch, resource pcommon.Map, m pmetric.Metric) {
	var points pmetric.NumberDataPointSlice
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		points = m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		points = m.Sum().DataPoints()
	default:
		b.ignored += max(countPoints(m), 1)
		e.once(zapcore.DebugLevel, "ignored\x00"+m.Name(), "ignored: only gauges and sums can be a device's parameter", zap.String("metric", m.Name()))
		return
	}
	for _, p := range points.All() {
		if p.ValueType() == pmetric.NumberDataPointValueTypeEmpty || p.Flags().NoRecordedValue() {
			b.ignored++
			continue
		}
		attr := func(key string) (string, bool) {
			v, ok := p.Attributes().Get(key)
			if !ok {
				if v, ok = resource.Get(key); !ok {
					return "", false
				}
			}
			return v.AsString(), true
		}
		matches, err := e.registry.Resolve(registry.Metric{Name: m.Name(), Unit: m.Unit(), Attr: attr})
		if err != nil {
			e.unresolved(b, m, p, attr, err)
		} else if len(matches) == 0 {
			b.ignored++
			e.once(zapcore.DebugLevel, "ignored\x00"+m.Name(), "ignored: the metric is no parameter of any device", zap.String("metric", m.Name()))
		}
		_, slot := attr(slotAttribute)
		for _, match := range matches {
			e.reading(b, match, p, slot)
		}
	}
}

// unresolved takes what has a name but no device, unit or flag.
func (e *ocemsExporter) unresolved(b *batch, m pmetric.Metric, p pmetric.NumberDataPoint, attr func(string) (string, bool), err error) {
	if unknown := (*registry.UnknownDeviceError)(nil); errors.As(err, &unknown) {
		b.ignored++
		e.once(zapcore.WarnLevel, "device\x00"+unknown.Device+"\x00"+m.Name(), "ignored: the device is not configured", zap.Error(err))
		return
	}
	for _, err := range flatten(err) {
		entry := audit.Entry{Outcome: audit.Refused, Stamp: p.Timestamp().AsTime().UnixMilli(), Detail: err.Error()}
		if r := (*registry.ResolveError)(nil); errors.As(err, &r) {
			entry.Device = r.Device
			if d, ok := e.registry.Device(r.Device); ok {
				entry.Station = d.StationID
			}
			if v := value(p, -1); finite(v) {
				entry.Readings = []audit.Reading{{Parameter: r.Parameter, Value: v, Unit: cmp.Or(r.Unit, m.Unit()), Flag: flagAttribute(attr)}}
			}
		}
		b.refused = append(b.refused, entry)
		e.once(zapcore.ErrorLevel, "refused\x00"+err.Error(), "refused", zap.Error(err))
	}
}

// flagAttribute is the flag as it stands, valid or not.
func flagAttribute(attr func(string) (string, bool)) string {
	v, ok := attr("ocems.flag")
	if !ok {
		v, _ = attr("ocems_flag")
	}
	return v
}

func flatten(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

func (e *ocemsExporter) reading(b *batch, match registry.Match, p pmetric.NumberDataPoint, slot bool) {
	d := match.Device
	r := payload.Reading{Parameter: match.Parameter, Value: value(p, match.Decimals), Unit: match.Unit,
		Stamp: p.Timestamp().AsTime(), Flag: match.Flag, Diagnostic: match.Diagnostic}
	var why string
	switch {
	case !finite(r.Value):
		why = fmt.Sprintf("the value is %v", r.Value)
	case e.cfg.RequireSlots && !slot:
		why = "not a finished slot: put the ocems_slot processor before this exporter or set require_slots: false"
	case !spec.Aligned(r.Stamp, r.Flag.Length()):
		why = fmt.Sprintf("the timestamp is %v of %s: put the ocems_slot processor before this exporter", spec.ErrNotAligned, r.Flag.Length())
	}
	if why != "" {
		entry := audit.Entry{Outcome: audit.Refused, Station: d.StationID, Device: d.DeviceID, Stamp: r.Stamp.UnixMilli(), Detail: why}
		if finite(r.Value) { // JSON has no other
			entry.Readings = audit.Readings([]payload.Reading{r})
		}
		b.refused = append(b.refused, entry)
		e.once(zapcore.ErrorLevel, "refused\x00"+d.DeviceID+"\x00"+r.Parameter+"\x00"+why, "refused", zap.String("device", d.DeviceID),
			zap.String("parameter", r.Parameter), zap.String("timestamp", spec.ISTString(r.Stamp)), zap.String("reason", why))
		return
	}
	i, ok := b.index[d]
	if !ok {
		i = len(b.records)
		b.index[d] = i
		b.records = append(b.records, payload.Record{StationID: d.StationID, DeviceID: d.DeviceID})
	}
	b.records[i].Readings = append(b.records[i].Readings, r)
}

func value(p pmetric.NumberDataPoint, decimals int) float64 {
	v := p.DoubleValue()
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		v = float64(p.IntValue())
	}
	return registry.Round(v, decimals)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func countPoints(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	}
	return 0
}
