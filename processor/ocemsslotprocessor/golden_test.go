package ocemsslotprocessor

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// emitted is one call of the next consumer. The time is a part of it: a slot that comes late is as wrong as its value.
type emitted struct {
	At      time.Time       `json:"at"`
	Metrics json.RawMessage `json:"metrics"`
}

func scopeIn(t *testing.T, md pmetric.Metrics, resource map[string]any, name string) pmetric.ScopeMetrics {
	rm := md.ResourceMetrics().AppendEmpty()
	require.NoError(t, rm.Resource().Attributes().FromRaw(resource))
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(name)
	return sm
}

func metricIn(sm pmetric.ScopeMetrics, name, unit string) pmetric.Metric {
	m := sm.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	return m
}

func pointIn(t *testing.T, points pmetric.NumberDataPointSlice, at time.Time, value float64, attributes map[string]any) {
	dp := points.AppendEmpty()
	dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
	dp.SetDoubleValue(value)
	require.NoError(t, dp.Attributes().FromRaw(attributes))
}

// every calls do once in each interval of the given time, half a second off the processor's own clock.
func every(interval, during time.Duration, do func(i int)) {
	time.Sleep(500 * time.Millisecond)
	for i := range int(during / interval) {
		do(i)
		time.Sleep(interval)
	}
	time.Sleep(500 * time.Millisecond)
}

func calibration(t *testing.T, p processor.Metrics) {
	every(10*time.Second, 15*time.Minute, func(i int) {
		flag := "U"
		switch {
		case 30 <= i && i < 36:
			flag = "Z"
		case 36 <= i && i < 40: // the second window of the span is not full
			flag = "C"
		case i == 41:
			flag = "M"
		}
		md := pmetric.NewMetrics()
		// The flag of the resource holds unless the point has its own.
		own := metricIn(scopeIn(t, md, map[string]any{"ocems.device.id": "D1", "ocems.flag": "F"}, ""), "so2", "mg/Nm3")
		pointIn(t, own.SetEmptyGauge().DataPoints(), time.Now(), float64(i), map[string]any{"ocems.flag": flag})
		shared := metricIn(scopeIn(t, md, map[string]any{"ocems.device.id": "D2", "ocems_flag": flag}, ""), "so2", "mg/Nm3")
		pointIn(t, shared.SetEmptyGauge().DataPoints(), time.Now(), float64(-i), nil)
		require.NoError(t, p.ConsumeMetrics(t.Context(), md))
	})
}

func TestGolden(t *testing.T) {
	for name, c := range map[string]struct {
		config map[string]any
		feed   func(*testing.T, processor.Metrics)
	}{
		// An hour and a quarter as an analyser sends it, with 15 minutes of silence and 15 of maintenance.
		"gauge": {feed: func(t *testing.T, p processor.Metrics) {
			every(10*time.Second, 75*time.Minute, func(i int) {
				if 180 <= i && i < 270 {
					return
				}
				var attributes map[string]any
				if 270 <= i && i < 360 {
					attributes = map[string]any{"ocems.flag": "M"}
				}
				md := pmetric.NewMetrics()
				m := metricIn(scopeIn(t, md, map[string]any{"ocems.device.id": "D1"}, "modbus"), "cod", "mg/l")
				pointIn(t, m.SetEmptyGauge().DataPoints(), time.Now(), float64(i), attributes)
				require.NoError(t, p.ConsumeMetrics(t.Context(), md))
			})
		}},
		// Three hours of the day before in one batch, the newest first.
		"history": {feed: func(t *testing.T, p processor.Metrics) {
			md := pmetric.NewMetrics()
			points := metricIn(scopeIn(t, md, map[string]any{"ocems.device.id": "D1"}, "file"), "cod", "mg/l").SetEmptyGauge().DataPoints()
			last := time.Now().Add(-24 * time.Hour)
			for i := range 3 * 60 {
				pointIn(t, points, last.Add(-time.Duration(i)*time.Minute), float64(i), nil)
			}
			require.NoError(t, p.ConsumeMetrics(t.Context(), md))
		}},
		"cumulative_sum": {feed: func(t *testing.T, p processor.Metrics) {
			every(time.Minute, 30*time.Minute, func(i int) {
				md := pmetric.NewMetrics()
				sm := scopeIn(t, md, map[string]any{"ocems.device.id": "D1"}, "modbus")
				for _, monotonic := range []bool{true, false} { // the other goes up and down: its mean is asked for
					m := metricIn(sm, map[bool]string{true: "flow.total", false: "tank.level"}[monotonic], "m3").SetEmptySum()
					m.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
					m.SetIsMonotonic(monotonic)
					dp := m.DataPoints().AppendEmpty()
					dp.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
					dp.SetIntValue(int64(1000 + i))
				}
				require.NoError(t, p.ConsumeMetrics(t.Context(), md))
			})
		}},
		"delta_sum": {feed: func(t *testing.T, p processor.Metrics) {
			every(time.Minute, 30*time.Minute, func(i int) {
				md := pmetric.NewMetrics()
				m := metricIn(scopeIn(t, md, map[string]any{"ocems.device.id": "D1"}, "pulse"), "flow.pulses", "m3").SetEmptySum()
				m.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
				m.SetIsMonotonic(true)
				pointIn(t, m.DataPoints(), time.Now(), 0.5, nil)
				dp := m.DataPoints().AppendEmpty()
				dp.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
				dp.SetIntValue(2)
				require.NoError(t, p.ConsumeMetrics(t.Context(), md))
			})
		}},
		"statistics": {
			config: map[string]any{"min_samples": 3, "statistics": []any{
				map[string]any{"metric": "peak", "statistic": "max"},
				map[string]any{"metric": "middle", "statistic": "median"},
				map[string]any{"metric": "inlet_totalizer", "statistic": "min"},
			}},
			feed: func(t *testing.T, p processor.Metrics) {
				md := pmetric.NewMetrics()
				sm := scopeIn(t, md, map[string]any{"ocems.device.id": "D1"}, "")
				for _, name := range []string{"peak", "middle", "inlet_totalizer", "outlet_totalizer", "few"} {
					points := metricIn(sm, name, "").SetEmptyGauge().DataPoints()
					for i, v := range []float64{3, 10, 4} {
						var attributes map[string]any
						if name == "few" && i > 0 { // one U is less than min_samples
							attributes = map[string]any{"ocems.flag": "D"}
						}
						pointIn(t, points, time.Now().Add(time.Duration(i-3)*time.Minute), v, attributes)
					}
				}
				require.NoError(t, p.ConsumeMetrics(t.Context(), md))
			},
		},
		"calibration": {feed: calibration},
		"stamp_start": {config: map[string]any{"stamp": "start"}, feed: calibration},
		// What belongs to a series' identity keeps two apart, and what does not keeps none apart.
		"identity": {feed: func(t *testing.T, p processor.Metrics) {
			all := map[string]any{"s": "x", "i": 1, "d": 1.5, "b": true, "y": []byte{1, 2}, "l": []any{"a", 1, nil}, "m": map[string]any{"k": "v"}}
			md := pmetric.NewMetrics()
			value := 0.0
			series := func(resource map[string]any, scope, version string, scopeAttributes map[string]any, name, unit string, attributes ...map[string]any) {
				sm := scopeIn(t, md, resource, scope)
				sm.Scope().SetVersion(version)
				require.NoError(t, sm.Scope().Attributes().FromRaw(scopeAttributes))
				points := metricIn(sm, name, unit).SetEmptyGauge().DataPoints()
				for _, a := range attributes {
					value++
					pointIn(t, points, time.Now().Add(-time.Minute), value, a)
				}
			}
			series(all, "", "", nil, "cod", "mg/l", all, map[string]any{"ocems.samples": 7}, nil)
			series(map[string]any{"station": "1"}, "modbus", "", nil, "cod", "mg/l", map[string]any{"line": "1"}, map[string]any{"line": 1})
			series(map[string]any{"station": "2"}, "modbus", "", nil, "cod", "mg/l", map[string]any{"line": "1"})
			series(map[string]any{"station": "2"}, "modbus", "v2", nil, "cod", "mg/l", map[string]any{"line": "1"})
			series(map[string]any{"station": "2"}, "modbus", "v2", map[string]any{"bus": 1}, "cod", "mg/l", map[string]any{"line": "1"})
			series(map[string]any{"station": "2"}, "modbus", "v2", map[string]any{"bus": 1}, "cod", "g/l", map[string]any{"line": "1"})
			series(map[string]any{"station": "2"}, "modbus", "v2", map[string]any{"bus": 1}, "bod", "g/l", map[string]any{"line": "1"})
			require.NoError(t, p.ConsumeMetrics(t.Context(), md))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []emitted
				next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
					text, err := new(pmetric.JSONMarshaler).MarshalMetrics(md)
					got = append(got, emitted{time.Now().UTC(), text})
					return err
				})
				require.NoError(t, err)
				f := NewFactory()
				cfg := f.CreateDefaultConfig()
				require.NoError(t, confmap.NewFromStringMap(c.config).Unmarshal(cfg))
				require.NoError(t, xconfmap.Validate(cfg))
				p, err := f.CreateMetrics(t.Context(), processortest.NewNopSettings(f.Type()), cfg, next)
				require.NoError(t, err)
				require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
				c.feed(t, p)
				time.Sleep(16 * time.Minute)
				require.NoError(t, p.Shutdown(t.Context()))

				path := filepath.Join("testdata", "golden", name+".json")
				text, err := json.MarshalIndent(got, "", "  ")
				require.NoError(t, err)
				if *update {
					require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
					require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o644))
				}
				golden, err := os.ReadFile(path)
				require.NoError(t, err)
				var want []emitted
				require.NoError(t, json.Unmarshal(golden, &want))
				for i := range want { // another version of pdata may write the same in other words
					md, err := new(pmetric.JSONUnmarshaler).UnmarshalMetrics(want[i].Metrics)
					require.NoError(t, err)
					want[i].Metrics, err = new(pmetric.JSONMarshaler).MarshalMetrics(md)
					require.NoError(t, err)
				}
				wantText, err := json.MarshalIndent(want, "", "  ")
				require.NoError(t, err)
				require.Equal(t, string(wantText), string(text))
			})
		})
	}
}
