package intake

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/plugins/outputs/influxdb_v2"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/intervalprocessor"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
	"golang.org/x/sys/unix"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

const (
	publicKeyFile = "../../ocems/seal/testdata/industry_test_public.pem"
	batch         = 1000 // points or metrics per batch
	batches       = 100  // for each side in turn
	interval      = 10 * time.Second
)

// serverOf is set in the server's own process, so that the server's work does not count.
const serverOf = "OCEMS_INTAKE_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverOf) != "" {
		serve()
	}
	os.Exit(m.Run())
}

// serve answers 204 to everything until its standard input ends, and prints its address first.
func serve() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	fmt.Println(server.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func startServer(b *testing.B) (url string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverOf+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	_, err = fmt.Fscanln(out, &url)
	require.NoError(b, err)
	return url
}

// cpu returns the CPU time of this process on all processors, user and system.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// compare lets ours and theirs process the same data in turns, and reports the CPU time of ours divided by that of theirs. The
// first turns, in which each series is new, do not count. make makes the data of a turn, for one side.
func compare[T any](b *testing.B, name string, each int, make func(turn, batch int) T, ours, theirs func(T) error) {
	var spent [2]time.Duration
	var allocated [2]uint64
	var before, after runtime.MemStats
	turn := 0
	round := func(count bool) {
		for side, take := range []func(T) error{ours, theirs} {
			list := [batches]T{}
			for i := range list {
				list[i] = make(turn, i)
			}
			runtime.GC()
			runtime.ReadMemStats(&before)
			began := cpu(b)
			for _, x := range list {
				if err := take(x); err != nil {
					b.Fatal(err)
				}
			}
			if used := cpu(b) - began; count {
				runtime.ReadMemStats(&after)
				spent[side] += used
				allocated[side] += after.TotalAlloc - before.TotalAlloc
			}
		}
		turn++
	}
	for range 2 {
		round(false)
	}
	b.ResetTimer()
	for range b.N {
		round(true)
	}
	b.StopTimer()
	n := float64(b.N * batches * batch * each)
	b.ReportMetric(0, "ns/op") // it would include both sides and making the data
	b.ReportMetric(float64(spent[0])/n, "ns/reading")
	b.ReportMetric(float64(spent[1])/n, "ns/reading_"+name)
	b.ReportMetric(float64(allocated[0])/n, "B/reading")
	b.ReportMetric(float64(allocated[1])/n, "B/reading_"+name)
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "x_"+name)
}

// day is in the past, so that readings are accepted immediately. grace is so long that nothing is sent during the test.
var (
	day   = time.Now().UTC().Truncate(24 * time.Hour).Add(-48 * time.Hour)
	grace = options.Duration{Duration: 6 * 24 * time.Hour}
)

var storageID = component.MustNewID("ocems_storage")

// host is a collector's host with a real ocems_storage.
type host struct{ storage component.Component }

func (h host) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{storageID: h.storage}
}

func newHost(b *testing.B) host {
	f := ocemsstorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*ocemsstorage.Config)
	cfg.Directory = b.TempDir()
	ext, err := f.Create(b.Context(), extension.Settings{ID: storageID, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(b, err)
	start(b, ext, componenttest.NewNopHost())
	return host{ext}
}

func start(b *testing.B, c component.Component, h component.Host) {
	require.NoError(b, c.Start(b.Context(), h))
	b.Cleanup(func() { require.NoError(b, c.Shutdown(context.Background())) })
}

// BenchmarkCollector compares processor and exporter with the interval processor, which keeps the last point of each series in
// memory. Each point has its device as an attribute.
func BenchmarkCollector(b *testing.B) {
	type consumer interface {
		component.Component
		ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error
	}
	makers := []struct {
		name string
		make func(b *testing.B, devices []registry.DeviceConfig) consumer
	}{
		{"processor", func(b *testing.B, devices []registry.DeviceConfig) consumer {
			f := ocemsslotprocessor.NewFactory()
			cfg := f.CreateDefaultConfig().(*ocemsslotprocessor.Config)
			cfg.Devices, cfg.Storage, cfg.Grace = devices, &storageID, grace
			c, err := f.CreateMetrics(b.Context(), processortest.NewNopSettings(f.Type()), cfg, consumertest.NewNop())
			require.NoError(b, err)
			return c
		}},
		{"exporter", func(b *testing.B, devices []registry.DeviceConfig) consumer {
			f := ocemsexporter.NewFactory()
			cfg := f.CreateDefaultConfig().(*ocemsexporter.Config)
			cfg.Devices, cfg.Storage, cfg.Grace, cfg.PublicKeyFile = devices, &storageID, grace, publicKeyFile
			cfg.Endpoint = "https://127.0.0.1:1/v1.0/industry/data"
			c, err := f.CreateMetrics(b.Context(), exportertest.NewNopSettings(f.Type()), cfg)
			require.NoError(b, err)
			return c
		}},
	}
	for _, m := range makers {
		for _, series := range []int{1, 100_000} {
			b.Run(fmt.Sprintf("%s/series=%d", m.name, series), func(b *testing.B) {
				devices := make([]registry.DeviceConfig, series)
				for i := range devices {
					devices[i] = registry.DeviceConfig{StationID: "station_1", DeviceID: fmt.Sprint("device_", i), TokenID: registry.Secret(fmt.Sprint("token-of-device-", i))}
				}
				ours := m.make(b, devices)
				start(b, ours, newHost(b))
				f := intervalprocessor.NewFactory()
				theirs, err := f.CreateMetrics(b.Context(), processortest.NewNopSettings(f.Type()), f.CreateDefaultConfig(), consumertest.NewNop())
				require.NoError(b, err)
				start(b, theirs, componenttest.NewNopHost())
				compare(b, "intervalprocessor", 1, func(turn, n int) pmetric.Metrics {
					md := pmetric.NewMetrics()
					rm := md.ResourceMetrics().AppendEmpty()
					rm.Resource().Attributes().PutStr("service.name", "plant")
					m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
					m.SetName("cod")
					m.SetUnit("mg/L")
					points := m.SetEmptyGauge().DataPoints()
					for i := range batch {
						p := points.AppendEmpty()
						at := day.Add(time.Duration(turn) * interval)
						if series == 1 {
							at = day.Add(time.Duration((turn*batches+n)*batch+i) * 10 * time.Millisecond)
						}
						p.SetTimestamp(pcommon.NewTimestampFromTime(at))
						p.SetDoubleValue(float64(i) + 0.5)
						p.Attributes().PutStr("ocems.device.id", devices[(n*batch+i)%series].DeviceID)
					}
					return md
				}, func(md pmetric.Metrics) error { return ours.ConsumeMetrics(b.Context(), md) },
					func(md pmetric.Metrics) error { return theirs.ConsumeMetrics(b.Context(), md) })
			})
		}
	}
}

var quiet = logger.New("outputs", "intake", "")

var fields = []struct{ name, parameter, unit string }{
	{"cod_mg", "cod", "mg/L"}, {"bod_mg", "bod", "mg/L"}, {"tss_mg", "tss", "mg/L"}, {"ph", "ph", "pH"}, {"flow", "flow_inlet", "m3/hr"},
}

// BenchmarkTelegraf compares Write with Write of Telegraf's influxdb_v2, on metrics of 100 devices with 5 fields each.
func BenchmarkTelegraf(b *testing.B) {
	url := startServer(b)
	for _, encoding := range []string{"gzip", "identity"} { // the first is the default
		b.Run(encoding, func(b *testing.B) {
			var text strings.Builder
			fmt.Fprintf(&text, "[[outputs.ocems]]\nendpoint = 'https://127.0.0.1:1/v1.0/industry/data'\nstate_directory = '%s'\npublic_key_file = '%s'\ngrace = '%s'\n",
				filepath.Join(b.TempDir(), "state"), publicKeyFile, grace)
			const devices = 100
			for i := range devices {
				fmt.Fprintf(&text, "[[outputs.ocems.device]]\nstation_id = 'station_1'\ndevice_id = 'device_%d'\ntoken_id = 'token-of-device-%[1]d'\n", i)
				for _, f := range fields {
					fmt.Fprintf(&text, "[[outputs.ocems.device.parameter]]\nmetric = 'modbus'\nfield = '%s'\nparameter = '%s'\nunit = '%s'\ntags = { slave = 'stack_%d' }\n", f.name, f.parameter, f.unit, i)
				}
			}
			c := config.NewConfig()
			require.NoError(b, c.LoadConfigData([]byte(text.String()), "test.conf"))
			ours := c.Outputs[0].Output.(*ocems.OCEMS)
			ours.Log = quiet
			theirs := &influxdb_v2.InfluxDB{URLs: []string{url}, Organization: "plant", Bucket: "plant", ContentEncoding: encoding,
				Timeout: config.Duration(5 * time.Second), Log: quiet}
			for _, o := range []interface {
				telegraf.Output
				telegraf.Initializer
			}{ours, theirs} {
				require.NoError(b, o.Init())
				require.NoError(b, o.Connect())
				b.Cleanup(func() { require.NoError(b, o.Close()) })
			}
			compare(b, "influxdb_v2", len(fields), func(turn, n int) []telegraf.Metric {
				list := make([]telegraf.Metric, batch)
				for i := range list {
					at := day.Add(time.Duration((turn*batches+n)*batch/devices+i/devices) * time.Second)
					values := map[string]any{}
					for j, f := range fields {
						values[f.name] = float64(n*i%1000)/8 + float64(j)
					}
					list[i] = metric.New("modbus", map[string]string{"host": "gateway", "name": "analyser", "slave": fmt.Sprint("stack_", i%devices)}, values, at)
				}
				return list
			}, ours.Write, theirs.Write)
		})
	}
}
