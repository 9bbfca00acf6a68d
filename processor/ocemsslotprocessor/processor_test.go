package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/intervalprocessor"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host has the real file_storage, whose clients also honour their context and fail while the disk is full.
type host struct {
	storage.Extension
	full atomic.Bool

	mu     sync.Mutex
	events []*componentstatus.Event
}

var storeID = component.MustNewID("file_storage")

func openHost(t *testing.T, dir string) *host {
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(t.Context(), extension.Settings{ID: storeID, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	return &host{Extension: ext.(storage.Extension)}
}

func (h *host) close(t *testing.T) { require.NoError(t, h.Shutdown(t.Context())) }

func (h *host) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{storeID: h}
}

func (h *host) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	c, err := h.Extension.GetClient(ctx, kind, id, name)
	return &client{c, h}, err
}

func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *host) statuses() (out []componentstatus.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		out = append(out, e.Status())
	}
	return out
}

type client struct {
	storage.Client
	host *host
}

func (c *client) Batch(ctx context.Context, ops ...*storage.Operation) error {
	if c.host.full.Load() {
		return errors.New("no space left on device")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.Client.Batch(ctx, ops...)
}

func start(t *testing.T, host component.Host, next consumer.Metrics, change func(*Config)) *slotProcessor {
	return startLogged(t, host, next, change, zap.NewNop())
}

func startLogged(t *testing.T, host component.Host, next consumer.Metrics, change func(*Config), log *zap.Logger) *slotProcessor {
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	p, err := newProcessor(settings(log), cfg, next)
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), host))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) }) // of a test that failed before its own
	return p
}

func settings(log *zap.Logger) processor.Settings {
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type) // NewNopSettings names each anew, and the storage goes by the name
	set.Logger = log
	return set
}

func stored(c *Config) { c.Storage = &storeID }

func gauge(metric string, value float64, flag string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("ocems.device.id", "D1")
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName("modbus")
	m := sm.Metrics().AppendEmpty()
	m.SetName(metric)
	m.SetUnit("mg/l")
	dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
	dp.SetDoubleValue(value)
	dp.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	dp.Attributes().PutStr("b", "2")
	dp.Attributes().PutStr("a", "1")
	if flag != "" {
		dp.Attributes().PutStr("ocems_flag", flag)
	}
	return md
}

// lines writes what was emitted, one line a point.
func lines(all []pmetric.Metrics) (out []string) {
	for _, md := range all {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Type() != pmetric.MetricTypeGauge {
						out = append(out, m.Name()+" "+m.Type().String())
						continue
					}
					dp := m.Gauge().DataPoints().At(0)
					out = append(out, fmt.Sprintf("%v %s %s %s %s-%s %v=%v", rm.Resource().Attributes().AsRaw(), sm.Scope().Name(), m.Name(), m.Unit(),
						dp.StartTimestamp().AsTime().Format("15:04:05"), dp.Timestamp().AsTime().Format("15:04:05"),
						dp.Attributes().AsRaw(), dp.DoubleValue()))
				}
			}
		}
	}
	return out
}

const point = "map[ocems.device.id:D1] modbus %s mg/l %s map[a:1 b:2 ocems.flag:%s ocems.samples:%d]=%v"

func TestEmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(consumertest.MetricsSink)
		trail := filepath.Join(t.TempDir(), "audit.jsonl")
		p := start(t, componenttest.NewNopHost(), sink, func(c *Config) {
			c.AuditFile = trail
			c.Statistics = []StatisticConfig{{Metric: "peak", Statistic: "max"}}
		})
		for i := range 3 {
			for _, name := range []string{"cod", "peak", "flow_totalizer"} {
				require.NoError(t, p.ConsumeMetrics(t.Context(), gauge(name, float64(10-3*i), "")))
			}
			delta := gauge("delta", 0, "")
			sum := delta.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).SetEmptySum()
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
			gauge("", 2, "").ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().CopyTo(sum.DataPoints())
			sum.DataPoints().At(0).SetIntValue(2)
			require.NoError(t, p.ConsumeMetrics(t.Context(), delta))
			time.Sleep(time.Second)
		}
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 99, "C")))
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 99, "X")))
		none := gauge("cod", 99, "")
		dp := none.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0)
		dp.SetFlags(dp.Flags().WithNoRecordedValue(true))
		require.NoError(t, p.ConsumeMetrics(t.Context(), none))
		late := gauge("cod", 5, "")
		mixed := gauge("cod", 7, "")
		h := mixed.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
		h.SetName("h")
		h.SetEmptyHistogram().DataPoints().AppendEmpty().SetCount(1)
		require.NoError(t, p.ConsumeMetrics(t.Context(), mixed))
		require.Equal(t, []string{"h Histogram"}, lines(sink.AllMetrics()))
		sink.Reset()

		time.Sleep(16 * time.Minute)
		require.Equal(t, []string{
			fmt.Sprintf(point, "cod", "00:00:00-00:00:30", "C", 1, 99),
			fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 4, 7),
			fmt.Sprintf(point, "peak", "00:00:00-00:15:00", "U", 3, 10),
			fmt.Sprintf(point, "delta", "00:00:00-00:15:00", "U", 3, 6),
			fmt.Sprintf(point, "flow_totalizer", "00:00:00-00:15:00", "U", 3, 4),
		}, lines(sink.AllMetrics()))
		require.NoError(t, p.ConsumeMetrics(t.Context(), late))
		require.NoError(t, p.Shutdown(t.Context()))
		var got []audit.Outcome
		for _, e := range entriesOf(t, trail) {
			require.Equal(t, "D1", e.Device)
			got = append(got, e.Outcome)
		}
		require.Equal(t, []audit.Outcome{audit.Refused, audit.Late}, got)
	})
}

func TestNextFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(consumertest.MetricsSink)
		var up atomic.Bool
		next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
			if !up.Load() {
				return errors.New("down")
			}
			return sink.ConsumeMetrics(ctx, md)
		})
		require.NoError(t, err)
		p := start(t, componenttest.NewNopHost(), next, nil)
		for i := range 3 {
			require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", float64(i), "")))
			time.Sleep(15 * time.Minute)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 3, p.aligner.Stats().Pending)
		up.Store(true)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{
			fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 1, 0),
			fmt.Sprintf(point, "cod", "00:15:00-00:30:00", "U", 1, 1),
			fmt.Sprintf(point, "cod", "00:30:00-00:45:00", "U", 1, 2),
		}, lines(sink.AllMetrics()))
		require.Zero(t, p.aligner.Stats().Pending)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func TestRestart(t *testing.T) {
	for name, kill := range map[string]bool{"shutdown": false, "kill": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				h := openHost(t, dir)
				sink := new(consumertest.MetricsSink)
				p := start(t, h, sink, stored)
				require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
				time.Sleep(11 * time.Second) // a checkpoint
				synctest.Wait()
				require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 3, "")))
				want := fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 2, 2)
				if kill {
					p.cancel()
					<-p.done
					require.NoError(t, p.client.Close(t.Context())) // the lock of a killed process is gone, too
					want = fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 1, 1)
				} else {
					require.NoError(t, p.Shutdown(t.Context()))
				}
				h.close(t)
				require.Empty(t, sink.AllMetrics(), "a partial window")

				h = openHost(t, dir)
				c, err := h.GetClient(t.Context(), component.KindProcessor, p.id, "")
				require.NoError(t, err)
				require.NoError(t, c.Set(t.Context(), p.aligner.Keys()[0], []byte("damaged")))
				require.NoError(t, c.Close(t.Context()))
				p = start(t, h, sink, stored)
				time.Sleep(16 * time.Minute)
				require.NoError(t, p.Shutdown(t.Context()))
				require.Equal(t, []string{want}, lines(sink.AllMetrics()))
				h.close(t)
			})
		})
	}
}

func TestLifecycle(t *testing.T) {
	f := NewFactory()
	p, err := f.CreateMetrics(t.Context(), processortest.NewNopSettings(f.Type()), f.CreateDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, p.Shutdown(t.Context())) // without a start
	cfg := f.CreateDefaultConfig().(*Config)
	stored(cfg)
	tel := componenttest.NewTelemetry()
	set := processortest.NewNopSettings(f.Type())
	set.TelemetrySettings = tel.NewTelemetrySettings()
	p, err = f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, p.Start(t.Context(), componenttest.NewNopHost()), `storage = "file_storage": no such extension`)
	require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
	for _, name := range []string{"samples", "series", "pending_slots"} {
		_, err = tel.GetMetric("otelcol_processor_ocems_slot_" + name)
		require.NoError(t, err)
	}
	require.NoError(t, p.Shutdown(t.Context()))
	require.NoError(t, tel.Shutdown(t.Context()))
}

func TestKnownSeriesAllocatesNothing(t *testing.T) {
	p, err := newProcessor(processortest.NewNopSettings(metadata.Type), createDefaultConfig().(*Config), consumertest.NewNop())
	require.NoError(t, err)
	dp := gauge("cod", 1, "U").ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0)
	prefix := newKeyEncoder()
	prefix.attributes(pcommon.NewMap(), 0)
	for range 4 {
		prefix.string("x")
	}
	now := time.Now()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p.enc.b = append(p.enc.b[:0], prefix.b...)
		if !p.take(context.Background(), dp, 0, "", now) {
			t.Fatal("refused")
		}
	}))
}

func FuzzDecodeKey(f *testing.F) {
	e := newKeyEncoder()
	m := pcommon.NewMap()
	_ = m.FromRaw(map[string]any{"s": "x", "i": 1, "d": 1.5, "b": true, "y": []byte{1}, "l": []any{"a", nil}, "m": map[string]any{"k": "v"}})
	e.attributes(m, 0)
	e.string("scope")
	e.string("v1")
	e.attributes(m, 0)
	e.string("metric")
	e.string("unit")
	e.attributes(m, 0)
	f.Add(string(e.b))
	f.Fuzz(func(t *testing.T, key string) {
		id, err := decodeKey(key)
		if err != nil {
			if key == string(e.b) {
				t.Fatal(err)
			}
			return
		}
		again := newKeyEncoder()
		again.attributes(id.resource, 0)
		again.string(id.scope)
		again.string(id.scopeVersion)
		again.attributes(id.scopeAttributes, 0)
		again.string(id.metric)
		again.string(id.unit)
		again.attributes(id.attributes, 0)
		if string(again.b) != key {
			t.Fatalf("%q came back as %q", key, again.b)
		}
	})
}

// BenchmarkProcessor takes samples of 1 and of 100,000 series in batches of 1,000. The baseline of the same run is the
// interval processor on the same points, batch by batch in turn.
func BenchmarkProcessor(b *testing.B) {
	const batch = 1000
	for _, series := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("series=%d", series), func(b *testing.B) {
			batches := make([]pmetric.Metrics, max(series/batch, 1))
			for i := range batches {
				batches[i] = gauge("cod", 1, "U")
				points := batches[i].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints()
				for points.Len() < batch {
					points.At(0).CopyTo(points.AppendEmpty())
				}
				for n := range batch {
					points.At(n).Attributes().PutInt("n", int64((i*batch+n)%series))
				}
			}
			ours, err := newProcessor(processortest.NewNopSettings(metadata.Type), createDefaultConfig().(*Config), consumertest.NewNop())
			require.NoError(b, err)
			f := intervalprocessor.NewFactory()
			theirs, err := f.CreateMetrics(b.Context(), processortest.NewNopSettings(f.Type()), f.CreateDefaultConfig(), consumertest.NewNop())
			require.NoError(b, err)
			processors := []consumer.Metrics{ours, theirs}
			var spent [2]time.Duration
			var allocated [2]uint64
			var before, after runtime.MemStats
			round := func(md pmetric.Metrics, count bool) {
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
