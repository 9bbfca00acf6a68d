package ocemsslotprocessor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/version"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

// everyMetric drives a processor until each of its metrics has a value and each possible reason has refused a sample.
func everyMetric(t *testing.T, check func(metricdata.ScopeMetrics)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		var down error
		next := &sink{fail: func() error { return down }}
		p := h.start(stored, next)
		at := func(n int, name, unit string, v float64, age time.Duration, attributes ...string) {
			md := pmetric.NewMetrics()
			for range n {
				add(md, "D1", name, unit, v, attributes...).SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-age)))
			}
			h.consume(p, md)
		}
		at(1, "tss", "mg/L", 1, 20*time.Minute)
		pass(3 * time.Minute)
		down = errors.New("down")
		at(1, "cod", "mg/L", 1, 0)
		at(2, "cod", "mg/L", 1, 0) // again
		at(3, "cod", "mg/L", 2, 0) // conflicts
		at(1, "cod", "mg/L", 1, 8*24*time.Hour)
		at(2, "cod", "mg/L", 1, -2*time.Minute)
		at(4, "cod", "mg/L", math.NaN(), 0)
		at(5, "cod", "mg/L", 1, 0, "ocems.flag", "X")
		at(6, "cod", "ppm", 1, 0)
		at(1, "bod", "mg/L", 1, 0)
		require.Error(t, p.ConsumeMetrics(t.Context(), reading("D1", "cpu", "1", 0.5)), "it passes on")
		pass(16 * time.Minute)
		at(8, "cod", "mg/L", 1, 16*time.Minute)
		check(h.collect())

		require.NoError(t, p.Shutdown(t.Context()))
		for _, m := range h.collect().Metrics {
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
			return metricdata.DataPoint[int64]{Value: v, Attributes: attribute.NewSet(append(attributes, attribute.String("processor", "ocems_slot"))...)}
		}
		level := func(v int64) metricdata.Gauge[int64] {
			return metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{value(v)}}
		}
		refused := func(reason slot.Reason, v int64) metricdata.DataPoint[int64] {
			return value(v, attribute.String("reason", string(reason)))
		}
		each := func(v int64, of ...string) (all metricdata.Gauge[int64]) {
			for _, names := range of {
				part := strings.Split(names, "/") // device, parameter, class
				with := []attribute.KeyValue{attribute.String("station", "station_1"), attribute.String("device", part[0]), attribute.String("parameter", part[1]), attribute.Bool("diagnostic", false)}
				if len(part) > 2 {
					with = append(with, attribute.String("class", part[2]))
				}
				all.DataPoints = append(all.DataPoints, value(v, with...))
			}
			return all
		}
		var classes []metricdata.DataPoint[int64]
		for _, class := range engine.Troubles() {
			n := int64(0)
			if class == status.Never {
				n = 1
			}
			classes = append(classes, value(n, attribute.String("class", string(class))))
		}
		expected := each(0, "D1/bod", "D1/cod", "D1/tss")
		expected.DataPoints = append(expected.DataPoints, each(1, "D2/(any parameter)").DataPoints...)
		const prefix = "otelcol_processor_ocems_slot_"
		want := []metricdata.Metrics{
			{Name: prefix + "samples", Unit: "{sample}", Description: "Samples taken into a window. [Alpha]", Data: counter(value(3))},
			{Name: prefix + "duplicate_samples", Unit: "{sample}", Description: "Samples that repeat an earlier one with the same time, value and flag. [Alpha]", Data: counter(value(2))},
			{Name: prefix + "late_samples", Unit: "{sample}", Description: "Samples whose window was already closed. [Alpha]", Data: counter(value(8))},
			{Name: prefix + "refused_samples", Unit: "{sample}", Description: "Samples refused, by reason. [Alpha]", Data: counter(
				refused(slot.Conflict, 3), refused(slot.TooOld, 1), refused(slot.Future, 2), refused(slot.NotANumber, 4), refused(slot.BadFlag, 5),
				refused(slot.BadUnit, 6), refused(slot.MaxSamples, 0), refused(slot.WrongClock, 0),
				refused(slot.BelowMin, 0), refused(slot.AboveMax, 0), refused(slot.Invalid, 0), refused(slot.TooFar, 0), refused(slot.TooFew, 0), refused("off_grid", 0), refused("unknown", 0))},
			{Name: prefix + "ignored_points", Unit: "{point}", Description: "Data points that are not a parameter of a device. [Alpha]", Data: counter(value(1))},
			{Name: prefix + "slots_closed", Unit: "{slot}", Description: "Windows closed. [Alpha]", Data: counter(value(3))},
			{Name: prefix + "pending_slots", Unit: "{slot}", Description: "Closed windows that are not passed on yet. [Alpha]", Data: level(2)},
			{Name: prefix + "series", Unit: "{series}", Description: "Series held. [Alpha]", Data: level(3)},
			{Name: prefix + "troubled_parameters", Unit: "{parameter}", Description: "Parameters that need a person, at the end of the last slot. [Alpha]",
				Data: metricdata.Gauge[int64]{DataPoints: classes}},
			{Name: prefix + "parameter_expected", Unit: "{slot}", Description: "1 where slots of the parameter are due, 0 before its first one. [Alpha]",
				Data: expected},
			{Name: prefix + "parameter_last_delivered_timestamp", Unit: "s", Description: "Newest delivered stamp of the parameter, in Unix time. [Alpha]",
				Data: each(time.Date(1999, 12, 31, 23, 45, 0, 0, time.UTC).Unix(), "D1/tss")},
			{Name: prefix + "parameter_trouble", Unit: "{parameter}", Description: "1 for each trouble of the parameter. No series without trouble. [Alpha]",
				Data: each(1, "D1/cod/partly", "D2/(any parameter)/never")},
		}
		metricdatatest.AssertEqual(t, metricdata.ScopeMetrics{Scope: got.Scope, Metrics: want}, got, metricdatatest.IgnoreTimestamp())
	})
}

// document is the schema of metadata.yaml; any other key is an error.
type document struct {
	DisplayName   string `yaml:"display_name"`
	Type          string
	GitHubProject string    `yaml:"github_project"`
	Status        yaml.Node // test/docs compares it, and the keys, with page and factory
	Config        yaml.Node
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
			Sum                          *struct {
				ValueType string `yaml:"value_type"`
				Monotonic bool
			}
			Gauge *struct {
				ValueType string `yaml:"value_type"`
				Async     bool
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	text, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	var doc document
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	require.NoError(t, d.Decode(&doc))
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)

	f := NewFactory()
	require.Equal(t, component.StabilityLevelUndefined, f.TracesStability())
	require.Equal(t, component.StabilityLevelUndefined, f.LogsStability())
	require.Equal(t, reflect.TypeFor[Config]().PkgPath(), metadata.ScopeName)

	everyMetric(t, func(got metricdata.ScopeMetrics) {
		require.Equal(t, instrumentation.Scope{Name: metadata.ScopeName, Version: version.Read().Version}, got.Scope)
		registered := map[string]bool{}
		for _, m := range got.Metrics {
			name := strings.TrimPrefix(m.Name, "otelcol_")
			registered[name] = true
			want, listed := doc.Telemetry.Metrics[name]
			require.True(t, listed, "%s is not in metadata.yaml", m.Name)
			require.True(t, want.Enabled, name)
			require.Equal(t, want.Unit, m.Unit, name)
			// The collector's generator appends the stability to the description.
			require.Equal(t, want.Description+" ["+strings.ToUpper(want.Stability[:1])+want.Stability[1:]+"]", m.Description, name)
			var points []metricdata.DataPoint[int64]
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				require.NotNil(t, want.Sum, name)
				require.Nil(t, want.Gauge, name)
				require.Equal(t, "int", want.Sum.ValueType, name)
				require.Equal(t, want.Sum.Monotonic, data.IsMonotonic, name)
				points = data.DataPoints
			case metricdata.Gauge[int64]:
				require.NotNil(t, want.Gauge, name)
				require.Nil(t, want.Sum, name)
				require.Equal(t, "int", want.Gauge.ValueType, name)
				points = data.DataPoints
			default:
				t.Fatalf("%s is a %T", name, data)
			}
			values := map[string][]string{}
			for _, dp := range points {
				require.Equal(t, len(want.Attributes), dp.Attributes.Len(), name)
				for _, a := range dp.Attributes.ToSlice() {
					values[string(a.Key)] = append(values[string(a.Key)], a.Value.AsString())
				}
			}
			for _, id := range want.Attributes {
				if slices.Contains([]string{"station", "device", "parameter", "diagnostic", "trouble"}, id) { // values come from the configuration
					continue
				}
				require.Equal(t, "string", doc.Attributes[id].Type, name)
				key, enum := cmp.Or(doc.Attributes[id].Name, id), doc.Attributes[id].Enum
				if id == "processor" { // an id, not an enumeration
					enum, values[key] = []string{"ocems_slot"}, slices.Compact(values[key])
				}
				require.ElementsMatch(t, enum, values[key], name)
			}
			short := strings.TrimPrefix(name, "processor_ocems_slot")
			require.Regexp(t, "`(otelcol_processor_ocems_slot)?"+short+"`", string(readme))
		}
		for name := range doc.Telemetry.Metrics {
			require.True(t, registered[name], "%s is in metadata.yaml only", name)
		}
	})
}

// TestReadme compares the README's list of keys with those of Config, in both directions, except the keys of secrets.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(text), "The processor has these keys:\n\n")
	require.True(t, ok)
	list, _, _ = strings.Cut(list, "\n\n")
	var documented, keys []string
	for _, key := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(list, -1) {
		documented = append(documented, key[1])
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if key := f.Tag.Get("mapstructure"); !slices.Contains([]string{",squash", "-", "public_key", "public_key_file"}, key) {
			keys = append(keys, key)
		}
	}
	require.ElementsMatch(t, keys, documented)
}
