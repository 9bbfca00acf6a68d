package ocemsslotprocessor

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

// everyMetric drives a processor until each of its metrics has a value and each reason has refused something.
func everyMetric(t *testing.T, check func(metricdata.ScopeMetrics)) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		collect := func() metricdata.ScopeMetrics {
			var all metricdata.ResourceMetrics
			require.NoError(t, tel.Reader.Collect(t.Context(), &all))
			require.Len(t, all.ScopeMetrics, 1)
			return all.ScopeMetrics[0]
		}
		var up atomic.Bool
		next, err := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error {
			if !up.Load() {
				return errors.New("down")
			}
			return nil
		})
		require.NoError(t, err)
		f := NewFactory()
		cfg := f.CreateDefaultConfig().(*Config)
		cfg.MaxSeries = 2
		cfg.Statistics = []StatisticConfig{{Metric: "fast", Statistic: "median"}}
		set := processortest.NewNopSettings(f.Type())
		set.ID = component.NewID(f.Type())
		set.TelemetrySettings = tel.NewTelemetrySettings()
		p, err := f.CreateMetrics(t.Context(), set, cfg, next)
		require.NoError(t, err)
		require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
		t.Cleanup(func() { _ = p.Shutdown(context.Background()) }) // of a test that failed before its own
		send := func(n int, name string, value float64, age time.Duration, flag string) {
			md := gauge(name, value, flag)
			points := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints()
			points.At(0).SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-age)))
			for points.Len() < n {
				points.At(0).CopyTo(points.AppendEmpty())
			}
			require.NoError(t, p.ConsumeMetrics(t.Context(), md))
		}
		send(3, "cod", 1, 0, "")
		send(86400, "fast", 1, 0, "")
		send(5, "fast", 1, 0, "")
		send(1, "cod", 1, 8*24*time.Hour, "")
		send(2, "cod", 1, -2*time.Minute, "")
		send(2, "cod", math.NaN(), 0, "")
		send(1, "cod", math.Inf(-1), 0, "")
		send(4, "cod", 1, 0, "X")
		send(6, "third", 1, 0, "")
		time.Sleep(16 * time.Minute)
		send(7, "cod", 1, 16*time.Minute, "")
		check(collect())

		up.Store(true)
		time.Sleep(maxBackoff)
		synctest.Wait()
		for _, m := range collect().Metrics {
			if m.Name == "otelcol_processor_ocems_slot_pending_slots" {
				require.Zero(t, m.Data.(metricdata.Gauge[int64]).DataPoints[0].Value)
			}
		}
		require.NoError(t, p.Shutdown(t.Context()))
		for _, m := range collect().Metrics {
			require.NotContains(t, []string{"otelcol_processor_ocems_slot_pending_slots", "otelcol_processor_ocems_slot_series"}, m.Name,
				"a gauge is left behind")
		}
		require.NoError(t, tel.Shutdown(t.Context()))
	})
}

func TestTelemetry(t *testing.T) {
	everyMetric(t, func(got metricdata.ScopeMetrics) {
		const prefix = "otelcol_processor_ocems_slot_"
		counter := func(points ...metricdata.DataPoint[int64]) metricdata.Sum[int64] {
			return metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true, DataPoints: points}
		}
		value := func(v int64, attributes ...attribute.KeyValue) metricdata.DataPoint[int64] {
			return metricdata.DataPoint[int64]{Value: v, Attributes: attribute.NewSet(append(attributes, attribute.String("processor", "ocems_slot"))...)}
		}
		level := func(v int64) metricdata.Gauge[int64] {
			return metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{value(v)}}
		}
		because := func(v int64, reason string) metricdata.DataPoint[int64] {
			return value(v, attribute.String("reason", reason))
		}
		want := []metricdata.Metrics{
			{Name: prefix + "samples", Unit: "{sample}", Description: "Samples taken into a window. [Alpha]", Data: counter(value(86403))},
			{Name: prefix + "late_samples", Unit: "{sample}", Description: "Samples whose window was closed already. [Alpha]", Data: counter(value(7))},
			{Name: prefix + "refused_samples", Unit: "{sample}", Description: "Samples refused, by reason. [Alpha]", Data: counter(
				because(1, "too_old"), because(2, "future"), because(3, "not_a_number"), because(4, "bad_flag"),
				because(5, "max_samples"), because(6, "max_series"))},
			{Name: prefix + "slots_closed", Unit: "{slot}", Description: "Windows closed. [Alpha]", Data: counter(value(2))},
			{Name: prefix + "pending_slots", Unit: "{slot}", Description: "Closed windows that the next consumer has not taken yet. [Alpha]", Data: level(2)},
			{Name: prefix + "series", Unit: "{series}", Description: "Series held. [Alpha]", Data: level(2)},
		}
		metricdatatest.AssertEqual(t, metricdata.ScopeMetrics{Scope: got.Scope, Metrics: want}, got, metricdatatest.IgnoreTimestamp())
	})
}

// document is metadata.yaml; a key that is not here is an error.
type document struct {
	DisplayName string `yaml:"display_name"`
	Type        string
	Status      struct {
		Class     string
		Stability map[string][]string
		Warnings  []string
	}
	Attributes map[string]struct {
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
	require.Equal(t, doc.Type, f.Type().String())
	require.Equal(t, "processor", doc.Status.Class)
	stability := f.MetricsStability().String()
	require.Equal(t, map[string][]string{strings.ToLower(stability): {"metrics"}}, doc.Status.Stability)
	require.Equal(t, component.StabilityLevelUndefined, f.TracesStability())
	require.Equal(t, component.StabilityLevelUndefined, f.LogsStability())
	require.Contains(t, string(readme), "| Stability | "+strings.ToLower(stability)+": metrics |")
	require.Contains(t, string(readme), "| Type | `"+doc.Type+"` |")
	require.Equal(t, reflect.TypeFor[Config]().PkgPath(), metadata.ScopeName)

	everyMetric(t, func(got metricdata.ScopeMetrics) {
		require.Equal(t, metadata.ScopeName, got.Scope.Name)
		registered := map[string]bool{}
		for _, m := range got.Metrics {
			name := strings.TrimPrefix(m.Name, "otelcol_")
			registered[name] = true
			want, listed := doc.Telemetry.Metrics[name]
			require.True(t, listed, "%s is not in metadata.yaml", m.Name)
			require.True(t, want.Enabled, name)
			require.Equal(t, want.Unit, m.Unit, name)
			// The collector's generator writes the stability behind the description.
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
			for _, a := range want.Attributes {
				require.Equal(t, "string", doc.Attributes[a].Type, name)
				enum := doc.Attributes[a].Enum
				if a == "processor" { // an id, and no enumeration
					enum, values[a] = []string{"ocems_slot"}, slices.Compact(values[a])
				}
				require.ElementsMatch(t, enum, values[a], name)
			}
			short := strings.TrimPrefix(name, "processor_ocems_slot")
			require.Regexp(t, "`(otelcol_processor_ocems_slot)?"+short+"`", string(readme))
		}
		for name := range doc.Telemetry.Metrics {
			require.True(t, registered[name], "%s is in metadata.yaml only", name)
		}
	})
}
