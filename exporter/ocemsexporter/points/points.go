// Package points converts the collector's data: data points to readings for the engine, and finished slots to the metrics
// that the processor passes on.
package points

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
)

// The attributes of a finished slot. A point with Samples is a finished slot.
const (
	DeviceID   = "ocems.device.id"
	Flag       = "ocems.flag"
	Samples    = "ocems.samples"
	Statistic  = "ocems.statistic"
	Min        = "ocems.min"
	Max        = "ocems.max"
	Diagnostic = "ocems.diagnostic"
)

// Add adds all gauges and sums to a batch, including finished slots.
func Add(b *engine.Batch, md pmetric.Metrics) {
	a := adder{b: b, slots: true}
	a.all(md)
}

// Split adds all gauges and sums to a batch, and returns the points that are not a device's parameter, unchanged. Finished
// slots are among these. md is not changed. The slots of the batch leave by the given exit.
func Split(b *engine.Batch, md pmetric.Metrics, exit uint8) (rest pmetric.Metrics, some bool) {
	a := adder{b: b, exit: exit}
	a.all(md)
	switch passing := a.others || slices.Contains(a.named, false); {
	case !passing:
		return rest, false
	case !slices.Contains(a.named, true):
		return md, true
	}
	return without(md, a.named), true
}

// Commit makes a batch durable. Its error says what a person can do about it.
func Commit(ctx context.Context, b *engine.Batch) error {
	err := b.Commit(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w; the readings stay with the sender: make sure that the directory of the storage is writable and has free space", err)
}

func (a *adder) all(md pmetric.Metrics) { a.b.Fill(func() { a.fill(md) }) }

func (a *adder) fill(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		a.resource = rm.Resource().Attributes()
		a.key, _ = appendAll(a.key[:0], a.resource)
		end := len(a.key)
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				a.key = a.key[:end]
				a.metric(m)
			}
		}
	}
}

type adder struct {
	b        *engine.Batch
	exit     uint8
	slots    bool
	resource pcommon.Map
	key      []byte // identifies the metric with its resource
	point    []byte // identifies the point
	named    []bool // for each point of gauges and sums, in order
	others   bool   // there are other kinds of metrics
}

func (a *adder) metric(m pmetric.Metric) {
	points, stat, ok := numbers(m)
	if !ok {
		a.others = true
		a.b.Ignore(max(countPoints(m), 1), m.Name(), "only gauges and sums can be a device's parameter")
		return
	}
	a.key = engine.AppendText(engine.AppendText(append(a.key, byte(stat)), m.Name()), m.Unit())
	a.b.Metric(a.key)
	a.named = slices.Grow(a.named, points.Len())
	for i := range points.Len() {
		a.named = append(a.named, a.add(m, points.At(i), stat))
	}
}

func (a *adder) add(m pmetric.Metric, p pmetric.NumberDataPoint, stat slot.Statistic) (named bool) {
	if p.ValueType() == pmetric.NumberDataPointValueTypeEmpty || p.Flags().NoRecordedValue() {
		a.b.Ignore(1, m.Name(), "it has no value")
		return false
	}
	var finished bool
	a.point, finished = appendAll(a.point[:0], p.Attributes())
	value := p.DoubleValue()
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		value = float64(p.IntValue())
	}
	if !finished {
		return a.b.AddAs(a.point, p.Timestamp().AsTime(), value, "", a.exit, func() engine.Reading { return a.reading(m, p.Attributes(), stat) })
	}
	if !a.slots {
		return false
	}
	r := a.reading(m, p.Attributes(), stat)
	r.Time, r.Value, r.Finished = p.Timestamp().AsTime(), value, true
	if samples, ok := p.Attributes().Get(Samples); ok {
		r.Samples = int(samples.Int())
	}
	low, some := p.Attributes().Get(Min)
	if high, both := p.Attributes().Get(Max); some && both {
		r.Min, r.Max = low.Double(), high.Double()
	}
	if s, ok := p.Attributes().Get(Statistic); ok {
		r.Statistic, _ = slot.ParseStatistic(s.AsString()) // for the record only
	}
	return a.b.Add(r)
}

// reading returns the description of a point: everything except time and value.
func (a *adder) reading(m pmetric.Metric, attributes pcommon.Map, stat slot.Statistic) engine.Reading {
	resource := a.resource
	r := engine.Reading{
		Metric: registry.Metric{Name: m.Name(), Unit: m.Unit(), Statistic: stat, Attr: func(key string) (string, bool) {
			v, ok := attributes.Get(key)
			if !ok {
				if v, ok = resource.Get(key); !ok {
					return "", false
				}
			}
			return v.AsString(), true
		}},
		Source: engine.Source{Text: func() string { return text(resource, attributes) }},
	}
	for _, all := range []pcommon.Map{resource, attributes} {
		for k, v := range all.All() {
			r.Source.ID += part(k, v)
		}
	}
	return r
}

// appendAll appends attributes to a key, and reports whether they are those of a finished slot.
func appendAll(key []byte, attributes pcommon.Map) (_ []byte, finished bool) {
	key = binary.AppendUvarint(key, uint64(attributes.Len()))
	for k, v := range attributes.All() {
		finished = finished || k == Samples
		key = engine.AppendText(engine.AppendText(key, k), v.AsString())
	}
	return key, finished
}

// numbers returns the points of a gauge or a sum, and the default statistic for this kind of metric.
func numbers(m pmetric.Metric) (points pmetric.NumberDataPointSlice, stat slot.Statistic, ok bool) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints(), slot.Mean, true
	case pmetric.MetricTypeSum:
		switch s := m.Sum(); {
		case s.AggregationTemporality() == pmetric.AggregationTemporalityDelta:
			stat = slot.Sum
		case s.IsMonotonic():
			stat = slot.Last
		}
		return m.Sum().DataPoints(), stat, true
	}
	return points, stat, false
}

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

// part returns the contribution of an attribute to the source of a reading. Our own attributes describe the reading itself.
func part(key string, v pcommon.Value) uint64 {
	if strings.HasPrefix(key, "ocems") {
		return 0
	}
	return engine.SourcePart(key, v.AsString())
}

func text(maps ...pcommon.Map) string {
	var words []string
	for _, m := range maps {
		for k, v := range m.All() {
			if !strings.HasPrefix(k, "ocems") {
				words = append(words, engine.SourceWord(k, v.AsString()))
			}
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// without copies md without the named points.
func without(md pmetric.Metrics, named []bool) pmetric.Metrics {
	rest := pmetric.NewMetrics()
	md.CopyTo(rest)
	rest.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool {
				points, _, ok := numbers(m)
				if !ok {
					return false
				}
				empty := points.Len() == 0
				points.RemoveIf(func(pmetric.NumberDataPoint) bool {
					taken := named[0]
					named = named[1:]
					return taken
				})
				return points.Len() == 0 && !empty
			})
			return sm.Metrics().Len() == 0
		})
		return rm.ScopeMetrics().Len() == 0
	})
	return rest
}

// FromSlots converts slots to their canonical form: a gauge of doubles with the parameter key as metric name, the unit key
// as unit, the window's start as start time, and the slot's stamp as time.
func FromSlots(slots []slot.Slot) pmetric.Metrics {
	md := pmetric.NewMetrics()
	metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	for _, s := range slots {
		m := metrics.AppendEmpty()
		m.SetName(s.Parameter)
		m.SetUnit(s.Unit)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetStartTimestamp(pcommon.NewTimestampFromTime(s.Start))
		p.SetTimestamp(pcommon.NewTimestampFromTime(s.Stamp))
		p.SetDoubleValue(s.Value)
		a := p.Attributes()
		a.PutStr(DeviceID, s.Device)
		a.PutStr(Flag, s.Flag.String())
		a.PutInt(Samples, int64(s.Samples))
		a.PutStr(Statistic, s.Statistic.String())
		a.PutDouble(Min, s.Min)
		a.PutDouble(Max, s.Max)
		if s.Diagnostic {
			a.PutBool(Diagnostic, true)
		}
	}
	return md
}
