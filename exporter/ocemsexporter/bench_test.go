package ocemsexporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

// BenchmarkExporter delivers one slot of each of 1,000 devices. It compares this with a bare loop that posts the same
// bodies, each with a new signature.
func BenchmarkExporter(b *testing.B) {
	const devices = 1000
	var taken atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		taken.Add(1)
		_, _ = io.WriteString(w, `{"status":1,"msg":"success"}`)
	}))
	defer server.Close()
	text, err := os.ReadFile(publicKeyFile)
	require.NoError(b, err)
	key, err := seal.ParsePublicKey(string(text))
	require.NoError(b, err)

	list := make([]registry.DeviceConfig, devices)
	for i := range list {
		list[i] = registry.DeviceConfig{StationID: "station_1", DeviceID: fmt.Sprintf("dev_%d", i), TokenID: registry.Secret(fmt.Sprintf("token-of-dev-%d", i))}
	}
	cfg := testConfig(list...)
	cfg.Endpoint = server.URL
	cfg.Coalesce, cfg.Spread = options.Duration{}, options.Duration{}
	e, err := NewFactory().CreateMetrics(b.Context(), exportertest.NewNopSettings(metadata.Type), cfg)
	require.NoError(b, err)
	require.NoError(b, e.Start(b.Context(), componenttest.NewNopHost()))
	defer func() { require.NoError(b, e.Shutdown(context.Background())) }()
	first := time.Now().Truncate(spec.SlotLength).Add(-6 * 24 * time.Hour)

	post := func(body []byte, device, token string) {
		signature, err := seal.Sign(key, token, time.Now())
		if err != nil {
			b.Error(err)
			return
		}
		req, _ := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(body))
		req.Header.Set("signature", signature)
		req.Header.Set("X-Device-Id", device)
		resp, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	var exporter, bare time.Duration
	for n := 0; b.Loop(); n++ {
		stamp := first.Add(time.Duration(n%500) * spec.SlotLength)
		md := pmetric.NewMetrics()
		bodies := make([][]byte, devices)
		for i, d := range list {
			rm := md.ResourceMetrics().AppendEmpty()
			rm.Resource().Attributes().PutStr("ocems.device.id", d.DeviceID)
			m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("ph")
			m.SetUnit("pH")
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(stamp))
			p.SetDoubleValue(7.25)
			p.Attributes().PutInt(points.Samples, 90)
			text, err := payload.Record{StationID: d.StationID, DeviceID: d.DeviceID, Readings: []payload.Reading{
				{Parameter: "ph", Value: 7.25, Unit: "pH", Stamp: stamp, Flag: spec.FlagNormal}}}.Marshal()
			require.NoError(b, err)
			bodies[i], err = seal.Seal(d.TokenID.Reveal(), text)
			require.NoError(b, err)
		}
		taken.Store(0)
		at := time.Now()
		require.NoError(b, e.ConsumeMetrics(b.Context(), md))
		for taken.Load() < devices {
			time.Sleep(time.Millisecond)
		}
		exporter += time.Since(at)

		at = time.Now()
		var wg sync.WaitGroup
		for w := range cfg.MaxConcurrency {
			wg.Go(func() {
				for i := w; i < devices; i += cfg.MaxConcurrency {
					post(bodies[i], list[i].DeviceID, list[i].TokenID.Reveal())
				}
			})
		}
		wg.Wait()
		bare += time.Since(at)
	}
	client.CloseIdleConnections()
	b.ReportMetric(float64(exporter)/float64(bare), "x_bare_loop")
	b.ReportMetric(devices*float64(b.N)/exporter.Seconds(), "devices/s")
}

// client keeps as many connections as the exporter's client.
var client = &http.Client{Transport: &http.Transport{MaxIdleConns: 100, MaxIdleConnsPerHost: 32}}
