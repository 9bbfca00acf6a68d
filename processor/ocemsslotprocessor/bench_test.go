package ocemsslotprocessor

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/intervalprocessor"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

// BenchmarkProcessor takes samples of 1 and of 100,000 series in batches of 1,000. The baseline of the same run is the
// interval processor on the same points, batch by batch in turn.
func BenchmarkProcessor(b *testing.B) {
	const batch = 1000
	for _, series := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("series=%d", series), func(b *testing.B) {
			batches := make([]pmetric.Metrics, max(series/batch, 1))
			for i := range batches {
				batches[i] = pmetric.NewMetrics()
				m := batches[i].ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
				m.SetName("cod")
				m.SetUnit("mg/L")
				points := m.SetEmptyGauge().DataPoints()
				for n := range batch {
					p := points.AppendEmpty()
					p.SetDoubleValue(1)
					p.Attributes().PutStr("ocems.device.id", fmt.Sprint("D", (i*batch+n)%series))
				}
			}
			cfg := createDefaultConfig().(*Config)
			for i := range series {
				cfg.Devices = append(cfg.Devices, registry.DeviceConfig{StationID: "station_1", DeviceID: fmt.Sprint("D", i)})
			}
			ours, err := NewFactory().CreateMetrics(b.Context(), processortest.NewNopSettings(metadata.Type), cfg, consumertest.NewNop())
			require.NoError(b, err)
			require.NoError(b, ours.Start(b.Context(), componenttest.NewNopHost()))
			defer func() { require.NoError(b, ours.Shutdown(context.Background())) }()
			f := intervalprocessor.NewFactory()
			theirs, err := f.CreateMetrics(b.Context(), processortest.NewNopSettings(f.Type()), f.CreateDefaultConfig(), consumertest.NewNop())
			require.NoError(b, err)
			processors := []consumer.Metrics{ours, theirs}
			var spent [2]time.Duration
			var allocated [2]uint64
			var before, after runtime.MemStats
			at := time.Now().Add(-6 * 24 * time.Hour) // each time of a series is new: the same again would be a duplicate
			round := func(md pmetric.Metrics, count bool) {
				at = at.Add(10 * time.Second)
				for n, p := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().All() {
					p.SetTimestamp(pcommon.NewTimestampFromTime(at.Add(time.Duration(n) * time.Microsecond)))
				}
				for i, p := range processors {
					in := pmetric.NewMetrics()
					md.CopyTo(in) // the interval processor empties it
					runtime.ReadMemStats(&before)
					began := time.Now()
					if err := p.ConsumeMetrics(b.Context(), in); err != nil {
						b.Fatal(err)
					}
					if took := time.Since(began); count {
						runtime.ReadMemStats(&after)
						spent[i] += took
						allocated[i] += after.TotalAlloc - before.TotalAlloc
					}
				}
			}
			for _, md := range batches { // every series is known
				round(md, false)
			}
			n := 0
			for b.Loop() {
				round(batches[n%len(batches)], true)
				n++
			}
			samples := float64(n * batch)
			b.ReportMetric(0, "ns/op") // of both and of the copies: says nothing
			b.ReportMetric(float64(spent[0])/samples, "ns/sample")
			b.ReportMetric(float64(allocated[0])/samples, "B/sample")
			b.ReportMetric(float64(spent[0])/float64(spent[1]), "x_intervalprocessor")
			b.ReportMetric(float64(allocated[0])/float64(max(allocated[1], 1)), "x_intervalprocessor_B")
		})
	}
}
