package ocemsexporter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	publicKeyFile  = "../../ocems/seal/testdata/industry_test_public.pem"
	privateKeyFile = "../../ocems/seal/testdata/industry_test_private.pem"
)

// network is a listener in memory, and an extension that makes the exporter's real HTTP client dial it. Client and server
// then run in a synctest bubble: times are exact, and an hour takes no real time.
type network struct {
	component.StartFunc
	component.ShutdownFunc
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	dialled []string
	clients []*http.Transport
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { n.once.Do(func() { close(n.closed) }); return nil }
func (n *network) Addr() net.Addr { return &net.UnixAddr{Name: "network"} }

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, address)
	n.mu.Unlock()
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialled)
}

// RoundTripper implements an authenticator, to which confighttp passes the bare transport.
func (n *network) RoundTripper(base http.RoundTripper) (http.RoundTripper, error) {
	t := base.(*http.Transport)
	t.DialContext = n.dial
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients = append(n.clients, t)
	return t, nil
}

// request is a request at the server with its decrypted body.
type request struct{ device, payload string }

// board is the board's server and the collector's host of the exporters that send to it.
type board struct {
	*testing.T
	network    *network
	server     *httptest.Server
	simulator  *simulator.Server
	tokens     map[string]string
	extensions map[component.ID]component.Component
	telemetry  *componenttest.Telemetry
	logger     *zap.Logger
	logs       *observer.ObservedLogs
	auditFile  string

	mu       sync.Mutex
	requests []request
	statuses []componentstatus.Status
	troubles []string
}

func withBoard(t *testing.T, test func(*testing.T, *board)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.server.Start()
		test(t, b)
	})
}

func newBoard(t *testing.T) *board {
	text, err := os.ReadFile(privateKeyFile)
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	registry, err := simulator.LoadRegistry("testdata/board.yaml")
	require.NoError(t, err)
	core, logs := observer.New(zapcore.DebugLevel)
	n := &network{conns: make(chan net.Conn), closed: make(chan struct{})}
	b := &board{T: t, network: n, tokens: map[string]string{}, telemetry: componenttest.NewTelemetry(), logger: zap.New(core), logs: logs,
		auditFile: filepath.Join(t.TempDir(), "audit.jsonl")}
	b.extensions = map[component.ID]component.Component{component.MustNewID("network"): n}
	for _, s := range registry.Stations {
		for _, d := range s.Devices {
			b.tokens[d.ID] = d.Token
		}
	}
	b.simulator, err = simulator.New(simulator.Config{PrivateKey: key, Registry: registry})
	require.NoError(t, err)
	b.server = &httptest.Server{Listener: n, Config: &http.Server{Handler: b, ErrorLog: zap.NewStdLog(zap.NewNop())}}
	t.Cleanup(func() {
		for _, c := range n.clients {
			c.CloseIdleConnections()
		}
		b.server.Close()
		trail, _ := os.ReadFile(b.auditFile)
		for _, secret := range []string{"token-of-dev", "hunter2"} {
			assert.NotContains(t, strings.Join(b.said(""), "\n"), secret, "the log shows a secret")
			assert.NotContains(t, string(trail), secret, "the trail shows a secret")
			assert.NotContains(t, strings.Join(b.troubles, "\n"), secret, "the status shows a secret")
		}
	})
	time.Sleep(250 * time.Millisecond) // the server's Date has whole seconds
	return b
}

// ServeHTTP decrypts the body and passes the request to the simulator.
func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet { // asks for the time
		b.simulator.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	device := r.Header.Get("X-Device-Id")
	text, err := seal.Open(b.tokens[device], body)
	if err != nil {
		text = []byte(err.Error())
	}
	b.mu.Lock()
	b.requests = append(b.requests, request{device, string(text)})
	b.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	b.simulator.ServeHTTP(w, r)
}

func (b *board) GetExtensions() map[component.ID]component.Component { return b.extensions }

// Report records the status of the components.
func (b *board) Report(e *componentstatus.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.statuses = append(b.statuses, e.Status())
	b.troubles = append(b.troubles, fmt.Sprint(e.Err()))
}

func fromYAML(t testing.TB, text string) *confmap.Conf {
	r, err := confmap.NewRetrievedFromYAML([]byte(text))
	require.NoError(t, err)
	conf, err := r.AsConf()
	require.NoError(t, err)
	return conf
}

// try starts an exporter with the configuration and defaults that point to the board.
func (b *board) try(conf *confmap.Conf) (*ocemsExporter, error) {
	all := fromYAML(b, fmt.Sprintf(`{endpoint: "http://board.test/v1.0/industry/data", http: {auth: {authenticator: network}},
		public_key_file: %s, audit_file: %q}`, publicKeyFile, b.auditFile))
	require.NoError(b, all.Merge(conf))
	cfg := createDefaultConfig()
	require.NoError(b, all.Unmarshal(cfg))
	require.NoError(b, xconfmap.Validate(cfg))
	set := exportertest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type) // the storage needs the same name
	set.TelemetrySettings = b.telemetry.NewTelemetrySettings()
	set.Logger = b.logger
	e, err := NewFactory().CreateMetrics(b.Context(), set, cfg)
	require.NoError(b, err)
	b.Cleanup(func() { assert.NoError(b, e.Shutdown(context.Background())) })
	return e.(*ocemsExporter), e.Start(b.Context(), b)
}

const oneDevice = `devices: [{station_id: station_1, device_id: dev_1, token_id: token-of-dev-1}]`

func (b *board) start(text string) *ocemsExporter {
	e, err := b.try(fromYAML(b, text))
	require.NoError(b, err)
	synctest.Wait() // the exporter asks for the server's time
	return e
}

func (b *board) consume(e *ocemsExporter, md pmetric.Metrics) {
	md.MarkReadOnly()
	require.NoError(b, e.ConsumeMetrics(b.Context(), md))
}

// fault sets faults of the server (simulator.Fault). An empty text ends them.
func (b *board) fault(text string) {
	method, answer := http.MethodPost, httptest.NewRecorder()
	if text == "" {
		method = http.MethodDelete
	}
	b.simulator.ServeHTTP(answer, httptest.NewRequest(method, "http://localhost/faults", strings.NewReader(text)))
	require.Less(b, answer.Code, 300, answer.Body)
}

var storageID = component.MustNewID("ocems_storage")

// withStorage gives the host the real extension, with its files in dir.
func (b *board) withStorage(dir string) {
	f := ocemsstorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*ocemsstorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(b.Context(), extension.Settings{ID: storageID, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(b, err)
	require.NoError(b, ext.Start(b.Context(), componenttest.NewNopHost()))
	b.extensions[storageID] = ext
}

// received returns the readings at the server: device, parameter, value, unit, flag, and minutes before the year 2000.
func (b *board) received() (list []string) {
	answer := httptest.NewRecorder()
	b.simulator.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	var all simulator.Received
	require.NoError(b, json.NewDecoder(answer.Body).Decode(&all))
	for _, r := range all.Readings {
		list = append(list, fmt.Sprintf("%s %s %s %s %s -%v", r.Device, r.Parameter, r.Value, r.Unit, r.Flag, y2k.Sub(time.UnixMilli(r.Timestamp)).Minutes()))
	}
	return list
}

// asked returns the requests in their order.
func (b *board) asked() []request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// reported returns the statuses since the last call.
func (b *board) reported() []componentstatus.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.statuses
	b.statuses = nil
	return list
}

// said returns the log lines that contain the text.
func (b *board) said(text string) (lines []string) {
	for _, e := range b.logs.All() {
		if line := fmt.Sprint(e.Level, ": ", e.Message, " ", e.ContextMap()); strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// trail verifies the audit trail and returns the entries with one of the outcomes.
func (b *board) trail(outcomes ...audit.Outcome) (list []audit.Entry) {
	f, err := os.Open(b.auditFile)
	require.NoError(b, err)
	defer f.Close()
	require.NoError(b, audit.Verify(f, func(e audit.Entry) {
		for _, o := range outcomes {
			if e.Outcome == o {
				list = append(list, e)
			}
		}
	}))
	return list
}

// collect returns the exporter's own metrics, without those of its HTTP client.
func (b *board) collect() metricdata.ScopeMetrics {
	var all metricdata.ResourceMetrics
	require.NoError(b, b.telemetry.Reader.Collect(context.Background(), &all))
	for _, s := range all.ScopeMetrics {
		if s.Scope.Name == metadata.ScopeName {
			return s
		}
	}
	return metricdata.ScopeMetrics{}
}

// number returns the sum of a counter or gauge over its attributes.
func (b *board) number(name string) (n int64) {
	for _, m := range b.collect().Metrics {
		if m.Name != "otelcol_exporter_ocems_"+name {
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

// pass lets the time pass and waits until all due work is done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// y2k is the start of a bubble and the end of a slot.
var y2k = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// ago returns the end of the slot that is the given number of slots before y2k.
func ago(slots int) time.Time { return y2k.Add(-time.Duration(slots) * spec.SlotLength) }

// raw adds a point without the mark of a finished slot. Attributes are pairs of key and value.
func raw(md pmetric.Metrics, device, name, unit string, v float64, at time.Time, attributes ...string) {
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("ocems.device.id", device)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(at))
	p.SetDoubleValue(v)
	for i := 0; i < len(attributes); i += 2 {
		p.Attributes().PutStr(attributes[i], attributes[i+1])
	}
}

// finished adds a slot as the ocems_slot processor makes it.
func finished(md pmetric.Metrics, device, name, unit string, v float64, at time.Time, attributes ...string) {
	raw(md, device, name, unit, v, at, append([]string{points.Samples, "90"}, attributes...)...)
}

// ph returns one finished slot.
func ph(device string, v float64, at time.Time) pmetric.Metrics {
	md := pmetric.NewMetrics()
	finished(md, device, "ph", "pH", v, at)
	return md
}
