package hosts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/influxdata/telegraf"
	telegrafconfig "github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/processor/processortest"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// host is a running host.
type host interface {
	send(batch []reading)
	flush() // returns when all sent readings are on disk
	kill()  // and start again
	stop()
	log() string // of all runs
	// duplicates returns the number of readings that this run has counted as duplicates, or -1 if the host does not show it.
	duplicates() int
}

// adapter is a host inside this process.
type adapter struct {
	t     testing.TB
	at    place
	start func(a *adapter) life
	life  life
	said  *record
}

// life is one run of an adapter between two kills.
type life struct {
	send       func([]reading) error
	stop       func() error
	duplicates func() int
}

func newAdapter(t testing.TB, at place, start func(a *adapter) life) *adapter {
	a := &adapter{t: t, at: at, start: start, said: &record{}}
	a.life = start(a)
	t.Cleanup(a.stop)
	return a
}

func (a *adapter) send(batch []reading) { require.NoError(a.t, a.life.send(batch)) }
func (a *adapter) flush()               {}
func (a *adapter) duplicates() int      { return a.life.duplicates() }
func (a *adapter) log() string          { return a.said.String() }

func (a *adapter) stop() {
	if a.life.stop != nil {
		require.NoError(a.t, a.life.stop())
	}
	a.life = life{}
}

// kill stops the host and then restores the files from before the stop. These are the files that a kill leaves.
func (a *adapter) kill() {
	before := filepath.Join(a.at.dir, "before")
	require.NoError(a.t, os.CopyFS(before, os.DirFS(a.at.state())))
	a.stop()
	require.NoError(a.t, os.RemoveAll(a.at.state()))
	require.NoError(a.t, os.Rename(before, a.at.state()))
	a.life = a.start(a)
}

// record keeps a log in memory.
type record struct {
	mu   sync.Mutex
	text []byte
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, p...)
	return len(p), nil
}

func (r *record) Sync() error { return nil }

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// telegrafLog is a Telegraf logger that writes to a record.
type telegrafLog struct{ *record }

func (l telegrafLog) printf(format string, args ...any) { _, _ = fmt.Fprintf(l, format+"\n", args...) }

func (l telegrafLog) Level() telegraf.LogLevel          { return telegraf.Info }
func (l telegrafLog) AddAttribute(string, any)          {}
func (l telegrafLog) Errorf(format string, args ...any) { l.printf("E! "+format, args...) }
func (l telegrafLog) Warnf(format string, args ...any)  { l.printf("W! "+format, args...) }
func (l telegrafLog) Infof(format string, args ...any)  { l.printf("I! "+format, args...) }
func (l telegrafLog) Debugf(string, ...any)             {}
func (l telegrafLog) Tracef(string, ...any)             {}
func (l telegrafLog) Error(args ...any)                 { l.Errorf("%s", fmt.Sprint(args...)) }
func (l telegrafLog) Warn(args ...any)                  { l.Warnf("%s", fmt.Sprint(args...)) }
func (l telegrafLog) Info(args ...any)                  { l.Infof("%s", fmt.Sprint(args...)) }
func (l telegrafLog) Debug(...any)                      {}
func (l telegrafLog) Trace(...any)                      {}

// output starts Telegraf's output with a configuration.
func output(toml string) func(*adapter) life {
	return func(a *adapter) life {
		c := telegrafconfig.NewConfig()
		require.NoError(a.t, c.LoadConfigData([]byte(toml), "test.conf"))
		o := c.Outputs[0].Output.(*ocems.OCEMS)
		o.Log = telegrafLog{a.said}
		require.NoError(a.t, o.Init())
		require.NoError(a.t, o.Connect())
		return life{func(batch []reading) error { return o.Write(telegrafMetrics(batch)) }, o.Close, func() int {
			for _, m := range selfstat.Metrics() {
				if v, ok := m.GetField("samples_duplicate"); ok && m.HasTag("state_directory") && m.Tags()["state_directory"] == a.at.state() {
					return int(v.(int64))
				}
			}
			return -1
		}}
	}
}

// extensions is a collector's host with these extensions.
type extensions map[component.ID]component.Component

func (e extensions) GetExtensions() map[component.ID]component.Component { return e }

func decode(t testing.TB, conf map[string]any, cfg component.Config) component.Config {
	require.NoError(t, confmap.NewFromStringMap(conf).Unmarshal(cfg))
	require.NoError(t, xconfmap.Validate(cfg))
	return cfg
}

// collector starts the exporter. With a configuration of the processor, it also starts the processor in front of it. More
// extensions may be given.
func collector(exporterConf, processorConf map[string]any, more extensions) func(*adapter) life {
	ef, pf := ocemsexporter.NewFactory(), ocemsslotprocessor.NewFactory()
	var exporterCfg, processorCfg component.Config
	return func(a *adapter) life {
		if exporterCfg == nil {
			exporterCfg = decode(a.t, exporterConf, ef.CreateDefaultConfig())
		}
		if processorCfg == nil && processorConf != nil {
			processorCfg = decode(a.t, processorConf, pf.CreateDefaultConfig())
		}
		logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), a.said, zapcore.InfoLevel))
		ctx, all := context.Background(), extensions{}
		var parts []component.Component
		for id, c := range more {
			all[id] = c
		}
		telemetry := componenttest.NewNopTelemetrySettings()
		reader := sdkmetric.NewManualReader()
		telemetry.Logger, telemetry.MeterProvider = logger, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
		if exporterConf["storage"] != nil {
			f := ocemsstorage.NewFactory()
			id := component.NewID(f.Type())
			cfg := decode(a.t, map[string]any{"directory": a.at.state()}, f.CreateDefaultConfig())
			x, err := f.Create(ctx, extension.Settings{ID: id, TelemetrySettings: telemetry}, cfg)
			require.NoError(a.t, err)
			all[id], parts = x, append(parts, x)
		}
		es := exportertest.NewNopSettings(ef.Type())
		es.ID, es.TelemetrySettings = component.NewID(ef.Type()), telemetry
		exp, err := ef.CreateMetrics(ctx, es, exporterCfg)
		require.NoError(a.t, err)
		parts = append(parts, exp)
		var first consumer.Metrics = exp
		if processorConf != nil {
			pf := ocemsslotprocessor.NewFactory() // the factory keeps the shared state of the instances
			ps := processortest.NewNopSettings(pf.Type())
			ps.ID, ps.TelemetrySettings = component.NewID(pf.Type()), telemetry
			p, err := pf.CreateMetrics(ctx, ps, processorCfg, exp)
			require.NoError(a.t, err)
			parts, first = append(parts, p), p
		}
		for _, c := range parts {
			require.NoError(a.t, c.Start(ctx, all))
		}
		return life{func(batch []reading) error { return first.ConsumeMetrics(ctx, otlp(batch)) }, func() (err error) {
			for i := len(parts) - 1; i >= 0 && err == nil; i-- {
				err = parts[i].Shutdown(ctx)
			}
			return err
		}, func() int { return duplicates(a.t, reader) }}
	}
}

// duplicates returns the sum of the counters of duplicates.
func duplicates(t testing.TB, reader sdkmetric.Reader) (n int) {
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || !strings.HasSuffix(m.Name, "_duplicate_samples") {
				continue
			}
			for _, p := range sum.DataPoints {
				n += int(p.Value)
			}
		}
	}
	return n
}

// adapters are the hosts inside this process, by name. Each has its own board.
var adapters = map[string]func(p plant, at place) func(*adapter) life{
	"output":             func(p plant, at place) func(*adapter) life { return output(p.toml(at)) },
	"exporter":           func(p plant, at place) func(*adapter) life { return collector(p.exporter(at), nil, nil) },
	"processor-exporter": func(p plant, at place) func(*adapter) life { return collector(p.exporter(at), p.processor(at), nil) },
}
