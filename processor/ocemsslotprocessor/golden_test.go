package ocemsslotprocessor

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// emitted is one call of the next consumer. It includes the time, because a slot that comes late is wrong too.
type emitted struct {
	At      time.Time       `json:"at"`
	Metrics json.RawMessage `json:"metrics"`
}

// every calls do once in each interval, half a second after the processor's own ticks.
func every(interval, during time.Duration, do func(i int)) {
	time.Sleep(500 * time.Millisecond)
	for i := range int(during / interval) {
		do(i)
		time.Sleep(interval)
	}
	time.Sleep(500 * time.Millisecond)
}

const entries = `
devices:
  - station_id: station_1
    device_id: D1
    parameters:
      - {metric: effluent.cod, parameter: cod, unit: mg/L}
      - {metric: flow.total, parameter: flow_totalizer, unit: m3}
      - {metric: flow.pulses, parameter: flow_inlet_totalizer, unit: m3}
      - {metric: peak, parameter: tss, unit: mg/L, statistic: max, decimals: 1}
      - {metric: middle, parameter: bod, unit: mg/L, statistic: median}
      - {metric: few, parameter: toc, unit: mg/L}
      - {metric: cabinet, parameter: temperature, unit: Cel, diagnostic: true}
  - {station_id: station_1, device_id: D2}
`

func calibration(h *host, feed func(pmetric.Metrics)) {
	every(10*time.Second, 15*time.Minute, func(i int) {
		flag := "U"
		switch {
		case 30 <= i && i < 36:
			flag = "Z"
		case 36 <= i && i < 40: // the second 30-second window is only partly filled
			flag = "C"
		case i == 41:
			flag = "M"
		}
		md := pmetric.NewMetrics()
		// The flag of the resource applies to points without their own flag.
		add(md, "D1", "so2", "mg/Nm3", float64(i), "ocems.flag", flag)
		md.ResourceMetrics().At(0).Resource().Attributes().PutStr("ocems.flag", "F")
		add(md, "D2", "so2", "mg/Nm3", float64(-i))
		md.ResourceMetrics().At(1).Resource().Attributes().PutStr("ocems_flag", flag)
		feed(md)
	})
}

// TestGolden compares the output with the golden files: the form of each finished slot, and its time.
func TestGolden(t *testing.T) {
	sum := func(md pmetric.Metrics, name string, v int64, temporality pmetric.AggregationTemporality) {
		m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName(name)
		s := m.SetEmptySum()
		s.SetAggregationTemporality(temporality)
		s.SetIsMonotonic(true)
		p := s.DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		p.SetIntValue(v)
	}
	for name, c := range map[string]struct {
		config string
		feed   func(*host, func(pmetric.Metrics))
	}{
		// 75 minutes of an analyser, with 15 minutes without readings and 15 minutes of maintenance.
		"gauge": {feed: func(_ *host, feed func(pmetric.Metrics)) {
			every(10*time.Second, 75*time.Minute, func(i int) {
				switch {
				case 180 <= i && i < 270:
				case 270 <= i && i < 360:
					feed(reading("D1", "effluent.cod", "", float64(i), "ocems.flag", "M"))
				default:
					feed(reading("D1", "effluent.cod", "", float64(i)))
				}
			})
		}},
		// Three hours of the previous day in one batch, newest first.
		"history": {feed: func(_ *host, feed func(pmetric.Metrics)) {
			md := pmetric.NewMetrics()
			for i := range 3 * 60 {
				add(md, "D1", "effluent.cod", "", float64(i)).SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-24*time.Hour - time.Duration(i)*time.Minute)))
			}
			feed(md)
		}},
		"sums": {feed: func(_ *host, feed func(pmetric.Metrics)) {
			every(time.Minute, 30*time.Minute, func(i int) {
				md := pmetric.NewMetrics()
				sum(md, "flow.total", int64(1000+i), pmetric.AggregationTemporalityCumulative)
				sum(md, "flow.pulses", 2, pmetric.AggregationTemporalityDelta)
				feed(md)
			})
		}},
		"statistics": {config: "min_samples: 3\n", feed: func(_ *host, feed func(pmetric.Metrics)) {
			for i, v := range []float64{3, 10.25, 4} {
				md := pmetric.NewMetrics()
				add(md, "D1", "peak", "", v)
				add(md, "D1", "middle", "", v)
				add(md, "D1", "cabinet", "", v)
				add(md, "D1", "few", "", v, "ocems.flag", "UDD"[i:i+1]) // one U is less than min_samples
				feed(md)
				time.Sleep(time.Minute)
			}
		}},
		"calibration": {feed: calibration},
		"stamp_start": {config: "stamp: start\n", feed: calibration},
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
				h := newHost(t, t.TempDir())
				p := h.start("storage: ocems_storage\n"+c.config+entries, next)
				c.feed(h, func(md pmetric.Metrics) { h.consume(p, md) })
				pass(16 * time.Minute)
				require.NoError(t, p.Shutdown(t.Context()))
				require.Empty(t, h.entries())

				var lines []string // one line per call
				for _, x := range got {
					text, err := json.Marshal(x)
					require.NoError(t, err)
					lines = append(lines, string(text))
				}
				requireGolden(t, filepath.Join("testdata", "golden", name+".json"), "[\n"+strings.Join(lines, ",\n")+"\n]\n")
			})
		})
	}
}
