package ocemsslotprocessor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var storageID = component.MustNewID("ocems_storage")

// host is a collector's host with a log and the real ocems_storage. Its disk can be made full.
type host struct {
	*testing.T
	storage.Extension
	full      atomic.Bool
	factory   processor.Factory
	telemetry *componenttest.Telemetry
	logs      *observer.ObservedLogs
	log       *zap.Logger
	trail     string

	mu     sync.Mutex
	events []*componentstatus.Event
}

func newHost(t *testing.T, dir string) *host {
	f := ocemsstorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*ocemsstorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(t.Context(), extension.Settings{ID: storageID, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	core, logs := observer.New(zapcore.DebugLevel)
	return &host{T: t, Extension: ext.(storage.Extension), factory: NewFactory(), telemetry: componenttest.NewTelemetry(), logs: logs, log: zap.New(core),
		trail: filepath.Join(t.TempDir(), "audit.jsonl")}
}

func (h *host) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{storageID: h}
}

// ranger is the client of an ocems_storage.
type ranger interface {
	storage.Client
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	Check() error
}

type client struct {
	ranger
	host *host
}

func (h *host) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	c, err := h.Extension.GetClient(ctx, kind, id, name)
	if err != nil {
		return nil, err
	}
	return &client{c.(ranger), h}, nil
}

func (c *client) Batch(ctx context.Context, ops ...*storage.Operation) error {
	if c.host.full.Load() {
		return errors.New("no space left on device")
	}
	return c.ranger.Batch(ctx, ops...)
}

// Report records the status of the components.
func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// reported returns the statuses since the last call.
func (h *host) reported() (out []componentstatus.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		out = append(out, e.Status())
	}
	h.events = nil
	return out
}

// said returns the log lines that contain the text.
func (h *host) said(text string) (lines []string) {
	for _, e := range h.logs.All() {
		if line := fmt.Sprint(e.Level, ": ", e.Message, " ", e.ContextMap()); strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// entries verifies the trail and returns its entries.
func (h *host) entries() (out []audit.Entry) {
	f, err := os.Open(h.trail)
	require.NoError(h, err)
	defer f.Close()
	require.NoError(h, audit.Verify(f, func(e audit.Entry) {
		if e.Outcome != audit.Started && e.Outcome != audit.Stopped {
			out = append(out, e)
		}
	}))
	return out
}

const (
	twoDevices = "devices: [{station_id: station_1, device_id: D1}, {station_id: station_1, device_id: D2}]\n"
	stored     = "storage: ocems_storage\n" + twoDevices
)

func (h *host) config(text string) *Config {
	if !strings.Contains(text, "audit_file") {
		text = fmt.Sprintf("audit_file: %q\n", h.trail) + text
	}
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(text))
	require.NoError(h, err)
	conf, err := retrieved.AsConf()
	require.NoError(h, err)
	cfg, err := load(conf)
	require.NoError(h, err)
	return cfg
}

func (h *host) create(cfg *Config, next consumer.Metrics) processor.Metrics {
	set := processortest.NewNopSettings(h.factory.Type())
	set.ID = component.NewID(h.factory.Type()) // NewNopSettings gives each a new name, but the storage needs the same name
	set.TelemetrySettings = h.telemetry.NewTelemetrySettings()
	set.Logger = h.log
	p, err := h.factory.CreateMetrics(h.Context(), set, cfg, next)
	require.NoError(h, err)
	h.Cleanup(func() { _ = p.Shutdown(context.Background()) }) // for a test that fails before its own Shutdown
	return p
}

func (h *host) start(text string, next consumer.Metrics) processor.Metrics {
	p := h.create(h.config(text), next)
	require.NoError(h, p.Start(h.Context(), h))
	return p
}

func (h *host) consume(p processor.Metrics, md pmetric.Metrics) {
	md.MarkReadOnly()
	require.NoError(h, p.ConsumeMetrics(h.Context(), md))
}

// pass lets the time pass and waits until all due work is done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// add adds a gauge with one point of the current time.
func add(md pmetric.Metrics, device, name, unit string, v float64, attributes ...string) pmetric.NumberDataPoint {
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("ocems.device.id", device)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	p.SetDoubleValue(v)
	for i := 0; i < len(attributes); i += 2 {
		p.Attributes().PutStr(attributes[i], attributes[i+1])
	}
	return p
}

func reading(device, name, unit string, v float64, attributes ...string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	add(md, device, name, unit, v, attributes...)
	return md
}

func cod(v float64, attributes ...string) pmetric.Metrics {
	return reading("D1", "cod", "mg/L", v, attributes...)
}

// sink is the next consumer. It accepts or refuses data.
type sink struct {
	fail func() error // nil accepts all

	mu    sync.Mutex
	calls []pmetric.Metrics
}

func (s *sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, md)
	return nil
}

// took returns the points since the last call, one line per point.
func (s *sink) took() (out []string) {
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	for _, md := range calls {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Type() != pmetric.MetricTypeGauge {
						out = append(out, m.Name()+" "+m.Type().String())
						continue
					}
					for _, p := range m.Gauge().DataPoints().All() {
						out = append(out, line(rm, m, p))
					}
				}
			}
		}
	}
	return out
}

func line(rm pmetric.ResourceMetrics, m pmetric.Metric, p pmetric.NumberDataPoint) string {
	attr := func(key string) string {
		for _, m := range []pcommon.Map{p.Attributes(), rm.Resource().Attributes()} {
			if v, ok := m.Get(key); ok {
				return v.AsString()
			}
		}
		return ""
	}
	words := []string{attr("ocems.device.id"), m.Name(), fmt.Sprint(p.DoubleValue()), m.Unit(), attr("ocems.flag"), attr("ocems.samples"),
		p.Timestamp().AsTime().Format("15:04:05")}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

// write sets a key in the processor's state.
func (h *host) write(key string, value []byte) {
	c, err := h.GetClient(h.Context(), component.KindProcessor, component.NewID(h.factory.Type()), "")
	require.NoError(h, err)
	require.NoError(h, c.Set(h.Context(), key, value))
	require.NoError(h, c.Close(h.Context()))
}

// newer is a value of a future version: format 255, no data, and the checksum.
func newer() []byte {
	return binary.BigEndian.AppendUint32([]byte{255}, crc32.Checksum([]byte{255}, crc32.MakeTable(crc32.Castagnoli)))
}

// collect returns the processor's own metrics.
func (h *host) collect() (out metricdata.ScopeMetrics) {
	var all metricdata.ResourceMetrics
	require.NoError(h, h.telemetry.Reader.Collect(context.Background(), &all))
	for _, s := range all.ScopeMetrics {
		if s.Scope.Name == metadata.ScopeName {
			out = s
		}
	}
	return out
}

// number returns the sum of a counter or gauge over its attributes.
func (h *host) number(name string) (n int64) {
	for _, m := range h.collect().Metrics {
		if m.Name != metadata.Prefix+name {
			continue
		}
		points := m.Data
		if gauge, ok := points.(metricdata.Gauge[int64]); ok {
			points = metricdata.Sum[int64]{DataPoints: gauge.DataPoints}
		}
		for _, p := range points.(metricdata.Sum[int64]).DataPoints {
			n += p.Value
		}
	}
	return n
}
