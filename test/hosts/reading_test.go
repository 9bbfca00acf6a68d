package hosts

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// reading is one value that a sender hands to a host.
type reading struct {
	name       string // "analyser.cod" is Telegraf's field cod of the metric analyser; a name without a point has the field value
	value      float64
	at         time.Time
	unit, flag string
	device     string            // ocems.device.id, where the sender sets it
	tags       map[string]string // of the point
	resource   map[string]string // tags too in Telegraf
	scope      string            // version of the instrumentation scope
	kind       kind
}

type kind int

const (
	gauge kind = iota
	cumulative
	delta
)

// split is the metric and the field that Telegraf has of a name.
func split(name string) (metric, field string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return name, "value"
}

// allTags are a reading's tags in Telegraf.
func (r reading) allTags() map[string]string {
	tags := map[string]string{}
	maps.Copy(tags, r.resource)
	maps.Copy(tags, r.tags)
	for key, value := range map[string]string{"ocems_device_id": r.device, "ocems_unit": r.unit, "ocems_flag": r.flag, "scope_version": r.scope} {
		if value != "" {
			tags[key] = value
		}
	}
	return tags
}

// metric is the reading as Telegraf has it.
func (r reading) metric() telegraf.Metric {
	name, field := split(r.name)
	kind := telegraf.Gauge
	if r.kind == cumulative {
		kind = telegraf.Counter
	}
	return metric.New(name, r.allTags(), map[string]any{field: r.value}, r.at, kind)
}

// line is the reading in line protocol, which has no NaN: a text is no number either.
func (r reading) line() string {
	name, field := split(r.name)
	b := &strings.Builder{}
	b.WriteString(name)
	tags := r.allTags()
	escape := strings.NewReplacer(" ", `\ `, ",", `\,`, "=", `\=`)
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		fmt.Fprintf(b, ",%s=%s", key, escape.Replace(tags[key]))
	}
	value := strconv.FormatFloat(r.value, 'g', -1, 64)
	if math.IsNaN(r.value) || math.IsInf(r.value, 0) {
		value = `"` + value + `"`
	}
	fmt.Fprintf(b, " %s=%s %d\n", field, value, r.at.UnixNano())
	return b.String()
}

func lines(batch []reading) string {
	b := &strings.Builder{}
	for _, r := range batch {
		b.WriteString(r.line())
	}
	return b.String()
}

func telegrafMetrics(batch []reading) []telegraf.Metric {
	list := make([]telegraf.Metric, len(batch))
	for i, r := range batch {
		list[i] = r.metric()
	}
	return list
}

// otlp is a batch as the collector has it, in the same order.
func otlp(batch []reading) pmetric.Metrics {
	md := pmetric.NewMetrics()
	var metrics pmetric.MetricSlice
	for i, r := range batch {
		if i == 0 || batch[i-1].scope != r.scope || !maps.Equal(batch[i-1].resource, r.resource) {
			rm := md.ResourceMetrics().AppendEmpty()
			put(rm.Resource().Attributes(), r.resource)
			sm := rm.ScopeMetrics().AppendEmpty()
			sm.Scope().SetName("gateway")
			sm.Scope().SetVersion(r.scope)
			metrics = sm.Metrics()
		}
		p := r.point(metrics.AppendEmpty())
		p.SetTimestamp(pcommon.NewTimestampFromTime(r.at))
		p.SetDoubleValue(r.value)
		put(p.Attributes(), r.tags)
		put(p.Attributes(), map[string]string{"ocems.flag": r.flag, "ocems.device.id": r.device})
	}
	return md
}

func put(m pcommon.Map, values map[string]string) {
	for key, value := range values {
		if value != "" {
			m.PutStr(key, value)
		}
	}
}

// point makes m the metric of the reading, with one point.
func (r reading) point(m pmetric.Metric) pmetric.NumberDataPoint {
	m.SetName(r.name)
	m.SetUnit(r.unit)
	if r.kind == gauge {
		return m.SetEmptyGauge().DataPoints().AppendEmpty()
	}
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	if r.kind == delta {
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	}
	return sum.DataPoints().AppendEmpty()
}
