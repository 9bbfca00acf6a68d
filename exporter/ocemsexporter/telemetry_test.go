package ocemsexporter

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/version"
)

// everyMetric drives an exporter until each of its metrics has a value for each attribute.
func everyMetric(t *testing.T, check func(metricdata.ScopeMetrics)) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(`
coalesce: 0s
spread: 0s
devices:
  - {station_id: station_1, device_id: dev_1, token_id: token-of-dev-1}
  - {station_id: station_1, device_id: dev_2, token_id: token-of-dev-2}
  - {station_id: station_2, device_id: dev_3, token_id: token-of-dev-2}`)
		b.fault(`{"count": 1, "latency": "2s"}`)
		md := pmetric.NewMetrics()
		finished(md, "dev_1", "ph", "pH", 7.25, ago(0))
		finished(md, "dev_1", "cod", "mg/L", 41, ago(0))
		finished(md, "dev_1", "cod", "mg/L", 42, ago(0)) // the first stays
		finished(md, "dev_1", "cpu", "1", 0.5, ago(0))   // unknown
		finished(md, "dev_1", "ph", "pH", 7.25, ago(0).Add(time.Second))
		raw(md, "", "ph", "pH", 7.25, ago(0))
		raw(md, "dev_9", "ph", "pH", 7.25, ago(0))
		md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
		now := time.Now()
		raw(md, "dev_2", "so2", "mg/Nm3", 1, now)
		raw(md, "dev_2", "so2", "mg/Nm3", 1, now)
		raw(md, "dev_2", "so2", "mg/Nm3", 2, now) // conflict
		raw(md, "dev_2", "so2", "ppm", 2, now.Add(time.Second))
		for i := range 2 {
			raw(md, "dev_2", "so2", "mg/Nm3", 1, now.Add(-8*24*time.Hour-time.Duration(i)*time.Hour))
		}
		for range 3 {
			raw(md, "dev_2", "so2", "mg/Nm3", 1, now.Add(time.Hour))
		}
		for range 4 {
			raw(md, "dev_2", "so2", "mg/Nm3", math.NaN(), now)
		}
		for range 5 {
			raw(md, "dev_2", "so2", "mg/Nm3", 1, now, "ocems.flag", "X")
		}
		raw(md, "dev_2", "co", "mg/Nm3", 1, now)
		raw(md, "dev_3", "co", "mg/Nm3", 1, now)
		b.consume(e, md)
		pass(16 * time.Minute)
		md = pmetric.NewMetrics()
		raw(md, "dev_2", "so2", "mg/Nm3", 1, now.Add(time.Minute)) // late
		raw(md, "dev_2", "so2", "mg/Nm3", 1, time.Now())
		b.consume(e, md)
		b.fault(`{"count": 1, "clock_offset": "-50s"}`)
		b.consume(e, ph("dev_1", 7.25, ago(1)))
		pass(time.Minute)
		check(b.collect())

		require.NoError(t, e.Shutdown(context.Background()))
		for _, m := range b.collect().Metrics {
			require.NotContains(t, fmt.Sprintf("%T", m.Data), "Gauge", m.Name+" is left behind")
		}
	})
}

func TestTelemetry(t *testing.T) {
	everyMetric(t, func(got metricdata.ScopeMetrics) {
		counter := func(points ...metricdata.DataPoint[int64]) metricdata.Sum[int64] {
			return metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true, DataPoints: points}
		}
		value := func(v int64, attributes ...attribute.KeyValue) metricdata.DataPoint[int64] {
			return metricdata.DataPoint[int64]{Value: v, Attributes: attribute.NewSet(append(attributes, attribute.String("exporter", "ocems"))...)}
		}
		outcome := func(v int64, o audit.Outcome) metricdata.DataPoint[int64] {
			return value(v, attribute.String("outcome", string(o)))
		}
		refused := func(reason slot.Reason, v int64) metricdata.DataPoint[int64] {
			return value(v, attribute.String("reason", string(reason)))
		}
		level := func(v int64) metricdata.Gauge[int64] {
			return metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{value(v)}}
		}
		seconds := func(d time.Duration) metricdata.Gauge[float64] {
			return metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{Value: d.Seconds(), Attributes: attribute.NewSet(attribute.String("exporter", "ocems"))}}}
		}
		var held []metricdata.DataPoint[int64]
		for _, reason := range delivery.HoldReasons() {
			n := int64(0)
			if reason == "10" {
				n = 1
			}
			held = append(held, value(n, attribute.String("reason", reason)))
		}
		each := func(v int64, of ...string) (all metricdata.Gauge[int64]) {
			for _, names := range of {
				n := strings.Fields(names)
				with := []attribute.KeyValue{attribute.String("station", "station_1"), attribute.String("device", n[0]),
					attribute.String("parameter", n[1]), attribute.Bool("diagnostic", false)}
				if n[0] == "dev_3" {
					with[0] = attribute.String("station", "station_2")
				}
				if len(n) > 2 {
					with = append(with, attribute.String("class", n[2]))
				}
				all.DataPoints = append(all.DataPoints, value(v, with...))
			}
			return all
		}
		var classes []metricdata.DataPoint[int64]
		for _, class := range engine.Troubles() {
			n := int64(0)
			if class == status.Refuses || class == status.Partly { // for the slot that began before the first whole window
				n = 1
			}
			classes = append(classes, value(n, attribute.String("class", string(class))))
		}
		const prefix = "otelcol_exporter_ocems_"
		want := []metricdata.Metrics{
			{Name: prefix + "samples", Unit: "{sample}", Description: "Samples taken into a window. [Alpha]", Data: counter(value(4))},
			{Name: prefix + "duplicate_samples", Unit: "{sample}", Description: "Samples that repeat an earlier one with the same time, value and flag. [Alpha]", Data: counter(value(1))},
			{Name: prefix + "late_samples", Unit: "{sample}", Description: "Samples whose window was already closed. [Alpha]", Data: counter(value(1))},
			{Name: prefix + "refused_samples", Unit: "{sample}", Description: "Samples refused, by reason. [Alpha]", Data: counter(
				refused(slot.Conflict, 1), refused(slot.TooOld, 2), refused(slot.Future, 3), refused(slot.NotANumber, 4), refused(slot.BadFlag, 5),
				refused(slot.BadUnit, 1), refused(slot.MaxSamples, 0), refused(slot.WrongClock, 0),
				refused(slot.BelowMin, 0), refused(slot.AboveMax, 0), refused(slot.Invalid, 0), refused(slot.TooFar, 0), refused(slot.TooFew, 0), refused("off_grid", 1), refused("unknown", 1))},
			{Name: prefix + "ignored_points", Unit: "{point}", Description: "Data points that are not a parameter of a device. [Alpha]", Data: counter(value(3))},
			{Name: prefix + "slots_closed", Unit: "{slot}", Description: "Windows closed. [Alpha]", Data: counter(value(3))},
			{Name: prefix + "pending_slots", Unit: "{slot}", Description: "Closed windows that are not passed on yet. [Alpha]", Data: level(0)},
			{Name: prefix + "series", Unit: "{series}", Description: "Series held. [Alpha]", Data: level(3)},
			{Name: prefix + "troubled_parameters", Unit: "{parameter}", Description: "Parameters that need a person, at the end of the last slot. [Alpha]",
				Data: metricdata.Gauge[int64]{DataPoints: classes}},
			{Name: prefix + "parameter_expected", Unit: "{slot}", Description: "1 where slots of the parameter are due, 0 before its first one. [Alpha]",
				Data: each(0, "dev_1 cod", "dev_1 ph", "dev_2 co", "dev_2 so2", "dev_3 co")},
			{Name: prefix + "parameter_last_delivered_timestamp", Unit: "s", Description: "Newest delivered stamp of the parameter, in Unix time. [Alpha]",
				Data: metricdata.Gauge[int64]{DataPoints: append(each(y2k.Unix(), "dev_1 cod", "dev_1 ph").DataPoints,
					each(y2k.Add(15*time.Minute).Unix(), "dev_2 co", "dev_2 so2").DataPoints...)}},
			{Name: prefix + "parameter_trouble", Unit: "{parameter}", Description: "1 for each trouble of the parameter. No series without trouble. [Alpha]",
				Data: each(1, "dev_1 ph partly", "dev_2 so2 partly", "dev_3 co refused")},
			{Name: prefix + "finished_slots", Unit: "{slot}", Description: "Slots made upstream, including repeated ones. [Alpha]", Data: counter(value(4))},
			{Name: prefix + "readings", Unit: "{reading}", Description: "Readings that reached their final outcome. [Alpha]", Data: counter(
				outcome(5, audit.Delivered), outcome(0, audit.AlreadyStored), outcome(0, audit.Rejected), outcome(0, audit.Expired), outcome(1, audit.Refused))},
			{Name: prefix + "attempts", Unit: "{request}", Description: "Requests sent. [Alpha]", Data: counter(
				value(3, attribute.Bool("ok", true)), value(1, attribute.Bool("ok", false)))},
			{Name: prefix + "request_duration", Unit: "s", Description: "How long requests took. [Alpha]", Data: metricdata.Histogram[float64]{
				Temporality: metricdata.CumulativeTemporality,
				DataPoints: []metricdata.HistogramDataPoint[float64]{{
					Attributes:   attribute.NewSet(attribute.String("exporter", "ocems")),
					Bounds:       []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 45, 60},
					BucketCounts: []uint64{3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
					Count:        4, Sum: 2, Min: metricdata.NewExtrema(0.), Max: metricdata.NewExtrema(2.)}}}},
			{Name: prefix + "outbox_slots", Unit: "{slot}", Description: "Slots that wait in the outbox. [Alpha]", Data: level(1)},
			{Name: prefix + "oldest_age", Unit: "s", Description: "Age of the oldest slot in the outbox. [Alpha]",
				Data: seconds(time.Since(y2k.Add(15 * time.Minute)))},
			{Name: prefix + "held_devices", Unit: "{device}", Description: "Devices whose registration or credentials the server refuses. [Alpha]",
				Data: metricdata.Gauge[int64]{DataPoints: held}},
			{Name: prefix + "server_unreachable", Unit: "{server}", Description: "1 while the server does not answer. [Alpha]", Data: level(0)},
			{Name: prefix + "clock_skew", Unit: "s", Description: "The server's clock minus this machine's. [Alpha]", Data: seconds(-50 * time.Second)},
		}
		metricdatatest.AssertEqual(t, metricdata.ScopeMetrics{Scope: got.Scope, Metrics: want}, got, metricdatatest.IgnoreTimestamp())
	})
}

// The counters that all exporters of the collector have: readings that the board has, and readings that were given up.
func TestSentAndFailed(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(oneDevice)
		count := func() map[string]metricdata.Sum[int64] {
			var all metricdata.ResourceMetrics
			require.NoError(t, b.telemetry.Reader.Collect(context.Background(), &all))
			got := map[string]metricdata.Sum[int64]{}
			for _, s := range all.ScopeMetrics {
				if s.Scope.Name != "go.opentelemetry.io/collector/exporter/exporterhelper" {
					continue
				}
				for _, m := range s.Metrics {
					require.Equal(t, "{datapoint}", m.Unit)
					got[m.Name] = m.Data.(metricdata.Sum[int64])
				}
			}
			return got
		}
		want := func(sent, failed int64) {
			t.Helper()
			for name, v := range map[string]int64{"otelcol_exporter_sent_metric_points": sent, "otelcol_exporter_send_failed_metric_points": failed} {
				metricdatatest.AssertEqual(t, metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true, DataPoints: []metricdata.DataPoint[int64]{
					{Value: v, Attributes: attribute.NewSet(attribute.String("exporter", "ocems"))}}}, count()[name], metricdatatest.IgnoreTimestamp())
			}
		}
		want(0, 0)
		b.consume(e, ph("dev_1", 7.25, ago(1)))
		pass(time.Minute)
		want(1, 0)
		b.consume(e, ph("dev_1", 7.5, ago(1))) // the board has another value
		b.consume(e, ph("dev_1", 7.25, ago(8*96)))
		pass(time.Minute)
		want(1, 2)
	})
}

// The trail's note about itself has no readings, and its outcome is not a documented one.
func TestRecoveredIsNotCounted(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		b.start(oneDevice).onResult(audit.Recovered, 0)
		for _, m := range b.collect().Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "otelcol_exporter_ocems_readings" {
				require.Len(t, sum.DataPoints, 5, "the outcomes of metadata.yaml")
			}
		}
	})
}

// document is the schema of metadata.yaml; any other key is an error.
type document struct {
	DisplayName   string `yaml:"display_name"`
	Type          string
	GitHubProject string    `yaml:"github_project"`
	Status        yaml.Node // test/docs compares it, and the keys, with page and factory
	Config        yaml.Node
	Exported      yaml.Node `yaml:"exported_configs"`
	Attributes    map[string]struct {
		Name              string `yaml:"name_override"`
		Description, Type string
		Enum              []string
	}
	Telemetry struct {
		Metrics map[string]struct {
			Enabled                      bool
			Stability, Description, Unit string
			Attributes                   []string
			Sum, Gauge, Histogram        *instrument
		}
	}
}

type instrument struct {
	ValueType        string `yaml:"value_type"`
	Monotonic, Async bool
	Buckets          []float64 `yaml:"bucket_boundaries"`
}

func readDocument(t *testing.T) (doc document) {
	text, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	require.NoError(t, d.Decode(&doc))
	return doc
}

// registered returns a metric as metadata.yaml describes it, with the attributes of its points.
func registered(t *testing.T, m metricdata.Metrics) (kind string, as instrument, sets []attribute.Set) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		kind, as = "sum", instrument{ValueType: "int", Monotonic: data.IsMonotonic}
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Gauge[int64]:
		kind, as = "gauge", instrument{ValueType: "int", Async: true}
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Gauge[float64]:
		kind, as = "gauge", instrument{ValueType: "double", Async: true}
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Histogram[float64]:
		kind, as = "histogram", instrument{ValueType: "double"}
		for _, p := range data.DataPoints {
			sets, as.Buckets = append(sets, p.Attributes), p.Bounds
		}
	default:
		t.Fatalf("%s is a %T", m.Name, data)
	}
	return kind, as, sets
}

func TestMetadata(t *testing.T) {
	doc := readDocument(t)
	f := NewFactory()
	require.Equal(t, component.StabilityLevelUndefined, f.TracesStability())
	require.Equal(t, component.StabilityLevelUndefined, f.LogsStability())
	require.Equal(t, reflect.TypeFor[Config]().PkgPath(), metadata.ScopeName)

	everyMetric(t, func(got metricdata.ScopeMetrics) {
		require.Equal(t, instrumentation.Scope{Name: metadata.ScopeName, Version: version.Read().Version}, got.Scope)
		seen := map[string]bool{}
		for _, m := range got.Metrics {
			name := strings.TrimPrefix(m.Name, "otelcol_")
			seen[name] = true
			want, listed := doc.Telemetry.Metrics[name]
			require.True(t, listed, "%s is not in metadata.yaml", m.Name)
			require.True(t, want.Enabled, name)
			require.Equal(t, want.Unit, m.Unit, name)
			// The collector's generator appends the stability to the description.
			require.Equal(t, want.Description+" ["+strings.ToUpper(want.Stability[:1])+want.Stability[1:]+"]", m.Description, name)

			kind, as, sets := registered(t, m)
			for k, documented := range map[string]*instrument{"sum": want.Sum, "gauge": want.Gauge, "histogram": want.Histogram} {
				if k == kind {
					require.Equal(t, &as, documented, name)
				} else {
					require.Nil(t, documented, name)
				}
			}
			values := map[string][]string{}
			for _, set := range sets {
				require.Equal(t, len(want.Attributes), set.Len(), name)
				for _, a := range set.ToSlice() {
					values[string(a.Key)] = append(values[string(a.Key)], a.Value.Emit())
				}
				for _, id := range want.Attributes {
					a := doc.Attributes[id]
					v, ok := set.Value(attribute.Key(cmp.Or(a.Name, id)))
					require.True(t, ok, "%s has no %s", name, id)
					require.Equal(t, a.Type, strings.ToLower(v.Type().String()), name)
				}
			}
			for _, id := range want.Attributes {
				key, enum := cmp.Or(doc.Attributes[id].Name, id), doc.Attributes[id].Enum
				if slices.Contains([]string{"station", "device", "parameter", "diagnostic", "trouble"}, id) { // values come from the configuration
					continue
				}
				if doc.Attributes[id].Type == "bool" {
					enum = []string{"true", "false"}
				}
				if id == "exporter" { // an id, not an enumeration
					enum, values[key] = []string{"ocems"}, slices.Compact(values[key])
				}
				require.ElementsMatch(t, enum, values[key], name)
			}
		}
		used := map[string]bool{}
		for name, m := range doc.Telemetry.Metrics {
			require.True(t, seen[name], "%s is in metadata.yaml only", name)
			for _, a := range m.Attributes {
				used[a] = true
			}
		}
		for a := range doc.Attributes {
			require.True(t, used[a], "attribute %s is in metadata.yaml only", a)
		}
	})
}

// TestReadme compares the README's tables of keys with Config, its devices and their parameters, in both directions. The
// tables are the reference for Telegraf's output too. Its README has the key that only Telegraf has.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	tables := strings.Split(string(text), "| Key | Default | |\n|---|---|---|\n")[1:]
	levels := []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[registry.DeviceConfig](), reflect.TypeFor[registry.ParameterConfig]()}
	require.Len(t, tables, len(levels))
	for i, table := range tables {
		table, _, _ = strings.Cut(table, "\n\n")
		var documented, keys []string
		for row := range strings.Lines(table) {
			for _, key := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
				documented = append(documented, key[1])
			}
		}
		for _, f := range reflect.VisibleFields(levels[i]) {
			if key := f.Tag.Get("mapstructure"); key != ",squash" && key != "-" && key != "field" {
				keys = append(keys, key)
			}
		}
		require.ElementsMatch(t, keys, documented)
	}
}
