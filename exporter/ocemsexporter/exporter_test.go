package ocemsexporter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "token-of-dev-1"

var slotNow = time.Now().Truncate(spec.SlotLength)

type board struct {
	*httptest.Server
	down atomic.Bool
}

func startBoard(t testing.TB) *board {
	text, err := os.ReadFile("../../ocems/seal/testdata/industry_test_private.pem")
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	sim, err := simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: []simulator.Station{
		{ID: "station_1", Devices: []simulator.Device{{ID: "dev_1", Token: token}}}}}})
	require.NoError(t, err)
	b := &board{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.down.Load() && r.Method == http.MethodPost {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		sim.ServeHTTP(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *board) received(t testing.TB) (got simulator.Received) {
	resp, err := b.Client().Get(b.URL + "/received")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	return got
}

type host struct {
	extensions map[component.ID]component.Component
	mu         sync.Mutex
	events     []componentstatus.Status
}

func (h *host) GetExtensions() map[component.ID]component.Component { return h.extensions }
func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e.Status())
}
func (h *host) seen() []componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]componentstatus.Status(nil), h.events...)
}

func fast(b *board, devices ...registry.DeviceConfig) *Config {
	cfg := testConfig(devices...)
	cfg.Endpoint = b.URL + "/v1.0/industry/data"
	cfg.Coalesce, cfg.Spread = 0, 0
	cfg.InitialBackoff, cfg.MaxBackoff = 10*time.Millisecond, 50*time.Millisecond
	return cfg
}

func start(t testing.TB, cfg *Config, h component.Host, change func(*exporter.Settings)) exporter.Metrics {
	require.NoError(t, cfg.Validate())
	set := exportertest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type) // NewNopSettings names each anew, and the storage goes by the name
	if change != nil {
		change(&set)
	}
	e, err := NewFactory().CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), h))
	return e
}

func stop(t testing.TB, e component.Component) { require.NoError(t, e.Shutdown(context.Background())) }

// add puts a gauge point of dev_1 into md; attributes come in pairs.
func add(md pmetric.Metrics, name, unit string, v float64, at time.Time, attrs ...string) pmetric.NumberDataPoint {
	if md.ResourceMetrics().Len() == 0 {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("ocems.device.id", "dev_1")
		rm.ScopeMetrics().AppendEmpty()
	}
	m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(at))
	p.SetDoubleValue(v)
	for i := 0; i < len(attrs); i += 2 {
		p.Attributes().PutStr(attrs[i], attrs[i+1])
	}
	return p
}

func TestLifecycle(t *testing.T) {
	e, err := NewFactory().CreateMetrics(t.Context(), exportertest.NewNopSettings(metadata.Type), testConfig())
	require.NoError(t, err)
	assert.False(t, e.Capabilities().MutatesData)
	stop(t, e) // never started
	e = start(t, testConfig(), componenttest.NewNopHost(), nil)
	stop(t, e)
	stop(t, e)

	cfg := testConfig()
	id := component.MustNewID("file_storage")
	cfg.Storage = &id
	e, err = NewFactory().CreateMetrics(t.Context(), exportertest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, err)
	require.ErrorContains(t, e.Start(t.Context(), componenttest.NewNopHost()), `storage: there is no extension "file_storage"`)
}

func TestEndToEnd(t *testing.T) {
	b := startBoard(t)
	two := 2
	cfg := fast(b, registry.DeviceConfig{StationID: "station_1", DeviceID: "dev_1", TokenID: token, Parameters: []registry.ParameterConfig{
		{Metric: "effluent.cod", Parameter: "cod", Unit: "mg/L", Decimals: &two},
		{Metric: "cabinet.temp", Parameter: "temperature", Unit: "°C", Diagnostic: true, AllowUnlisted: true},
	}})
	cfg.AuditFile = filepath.Join(t.TempDir(), "audit.jsonl")
	tel := componenttest.NewTelemetry()
	core, logs := observer.New(zapcore.DebugLevel)
	e := start(t, cfg, componenttest.NewNopHost(), func(s *exporter.Settings) {
		s.TelemetrySettings = tel.NewTelemetrySettings()
		s.Logger = zap.New(core)
	})

	md := pmetric.NewMetrics()
	add(md, "ph", "pH", 7.25, slotNow, "ocems.samples", "90", "ocems.flag", "M")
	add(md, "effluent.cod", "", 41.23456, slotNow, "ocems.samples", "90")
	add(md, "cabinet.temp", "", 31, slotNow, "ocems.samples", "90")
	add(md, "ph", "pH", 7.3, slotNow)                                              // raw
	add(md, "ph", "pH", 7.3, slotNow)                                              // raw again, logged once
	add(md, "ph", "pH", 7.3, slotNow.Add(-time.Second), "ocems.samples", "90")     // unaligned
	add(md, "ph", "pH", math.NaN(), slotNow, "ocems.samples", "90")                // no number
	add(md, "ph", "furlong", 7, slotNow, "ocems.samples", "90")                    // no such unit
	add(md, "system.cpu", "1", 0.5, slotNow)                                       // ignored
	add(md, "ph", "pH", 7, slotNow, "ocems.samples", "90", "ocems.device.id", "x") // unknown device
	md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
	md.MarkReadOnly()
	require.NoError(t, e.ConsumeMetrics(t.Context(), md))

	require.Eventually(t, func() bool { return b.received(t).Accepted == 3 }, 5*time.Second, 10*time.Millisecond, "%v", logs.All())
	var got []string
	for _, r := range b.received(t).Readings {
		assert.Equal(t, slotNow.UnixMilli(), r.Timestamp)
		got = append(got, fmt.Sprint(r.Station, " ", r.Device, " ", r.Parameter, " ", r.Value, " ", r.Unit, " ", r.Flag, " ", r.Diagnostic))
	}
	assert.ElementsMatch(t, []string{
		"station_1 dev_1 ph 7.25 pH M false", "station_1 dev_1 cod 41.23 mg/L U false", "station_1 dev_1 temperature 31 °C U true"}, got)

	sum := func(name string) (n int64) {
		m, err := tel.GetMetric("otelcol_exporter_ocems_" + name)
		require.NoError(t, err)
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			n += p.Value
		}
		return n
	}
	require.Eventually(t, func() bool {
		m, err := tel.GetMetric("otelcol_exporter_ocems_readings")
		return err == nil && m.Name != ""
	}, 5*time.Second, 10*time.Millisecond)
	assert.EqualValues(t, 3, sum("readings"))
	assert.EqualValues(t, 5, sum("refused"))
	assert.EqualValues(t, 3, sum("ignored"))
	assert.GreaterOrEqual(t, sum("attempts"), int64(1))
	for _, name := range []string{"request_duration", "outbox_slots", "oldest_age", "held_devices", "clock_skew"} {
		_, err := tel.GetMetric("otelcol_exporter_ocems_" + name)
		assert.NoError(t, err, name)
	}
	stop(t, e)
	require.NoError(t, tel.Shutdown(context.Background()))

	trail, err := os.ReadFile(cfg.AuditFile)
	require.NoError(t, err)
	outcomes := map[audit.Outcome]int{}
	require.NoError(t, audit.Verify(bytes.NewReader(trail), func(e audit.Entry) { outcomes[e.Outcome]++ }))
	assert.Equal(t, 5, outcomes[audit.Refused])
	assert.Positive(t, outcomes[audit.Delivered])

	assert.Equal(t, 1, logs.FilterLevelExact(zapcore.WarnLevel).FilterMessageSnippet("device is not configured").Len())
	assert.Equal(t, 1, logs.FilterField(zap.String("reason", "not a finished slot: put the ocems_slot processor before this exporter or set require_slots: false")).Len())
	assert.NotContains(t, fmt.Sprintf("%+v", logs.All())+string(trail), token)
}

func TestDryRun(t *testing.T) {
	b := startBoard(t)
	cfg := fast(b)
	cfg.DryRun = true
	core, logs := observer.New(zapcore.DebugLevel)
	e := start(t, cfg, componenttest.NewNopHost(), func(s *exporter.Settings) { s.Logger = zap.New(core) })
	md := pmetric.NewMetrics()
	add(md, "ph", "pH", 7.25, slotNow, "ocems.samples", "90")
	require.NoError(t, e.ConsumeMetrics(t.Context(), md))
	time.Sleep(200 * time.Millisecond)
	stop(t, e)
	assert.Zero(t, b.received(t).Requests)
	assert.Contains(t, fmt.Sprintf("%+v", logs.All()), "7.25")
	assert.NotContains(t, fmt.Sprintf("%+v", logs.All()), token)
}

func TestRestartAndStatus(t *testing.T) {
	b := startBoard(t)
	b.down.Store(true)
	dir := t.TempDir()
	id := component.MustNewID("file_storage")
	open := func() (*host, extension.Extension) {
		f := filestorage.NewFactory()
		c := f.CreateDefaultConfig().(*filestorage.Config)
		c.Directory, c.FSync = dir, true
		ext, err := f.Create(t.Context(), extension.Settings{ID: id, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, c)
		require.NoError(t, err)
		require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
		return &host{extensions: map[component.ID]component.Component{id: ext}}, ext
	}
	cfg := fast(b)
	cfg.Storage = &id
	h, ext := open()
	e := start(t, cfg, h, nil)
	for _, i := range []int{2, 0, 3, 1} {
		md := pmetric.NewMetrics()
		add(md, "ph", "pH", 7+float64(i)/10, slotNow.Add(-time.Duration(i)*spec.SlotLength), "ocems.samples", "90")
		require.NoError(t, e.ConsumeMetrics(t.Context(), md))
	}
	require.Eventually(t, func() bool { return len(h.seen()) > 0 }, 5*time.Second, 10*time.Millisecond)
	stop(t, e)
	assert.Equal(t, componentstatus.StatusRecoverableError, h.seen()[0])
	stop(t, ext)

	h, ext = open()
	e = start(t, cfg, h, nil)
	require.Eventually(t, func() bool { return len(h.seen()) > 0 }, 5*time.Second, 10*time.Millisecond)
	b.down.Store(false)
	require.Eventually(t, func() bool { return b.received(t).Accepted == 4 && len(h.seen()) > 1 }, 10*time.Second, 10*time.Millisecond)
	stop(t, e)
	stop(t, ext)
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, h.seen())
	for i, r := range b.received(t).Readings {
		assert.Equal(t, slotNow.Add(-time.Duration(3-i)*spec.SlotLength).UnixMilli(), r.Timestamp, "oldest first")
	}
}
