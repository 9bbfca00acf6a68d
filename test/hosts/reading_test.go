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

// reading is one value that a sender sends to a host.
type reading struct {
	name       string // "analyser.cod" is the field cod of the metric analyser in Telegraf; a name without a point has the field value
	value      float64
	at         time.Time
	unit, flag string
	device     string            // ocems.device.id, if the sender sets it
	tags       map[string]string // attributes of the point
	resource   map[string]string // attributes of the resource; tags in Telegraf
	scope      string            // version of the instrumentation scope
	kind       kind
}

type kind int

const (
	gauge kind = iota
	cumulative
	delta
)

// split returns Telegraf's metric and field of a name.
func split(name string) (metric, field string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return name, "value"
}

// allTags returns the tags of a reading in Telegraf.
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

// metric returns the reading as a Telegraf metric.
func (r reading) metric() telegraf.Metric {
	name, field := split(r.name)
	kind := telegraf.Gauge
	if r.kind == cumulative {
		kind = telegraf.Counter
	}
	return metric.New(name, r.allTags(), map[string]any{field: r.value}, r.at, kind)
}

// line returns the reading in line protocol. This has no NaN, so the line has a text, which is not a number either.
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

// otlp returns a batch as the collector's metrics, in the same order.
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

// point fills m with the reading as its only point.
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
