package ocemsexporter

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/goleak"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/ocems/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLifecycle(t *testing.T) {
	e, err := NewFactory().CreateMetrics(t.Context(), exportertest.NewNopSettings(metadata.Type), testConfig())
	require.NoError(t, err)
	assert.False(t, e.Capabilities().MutatesData)
	require.NoError(t, e.Shutdown(t.Context()), "never started")
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(oneDevice)
		require.NoError(t, e.Shutdown(t.Context()))
		require.NoError(t, e.Shutdown(t.Context()), "shut down already")
		require.EqualError(t, e.ConsumeMetrics(t.Context(), ph("dev_1", 7.25, ago(0))), "the outbox is closed")
	})
}

// What only shows at the start names its key too, and leaves nothing open.
func TestFaultsAtStart(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"no storage":      {`storage: file_storage/outbox`, `storage: there is no extension "file_storage/outbox" in service.extensions; nearest: file_storage/outbx, disk`},
		"no such storage": {`storage: network`, `storage: the extension "network" stores nothing; name a storage extension such as ocems_storage`},
		"storage fails":   {`storage: file_storage/outbx`, `storage: opening "file_storage/outbx": no space left on device`},
		"outbox fails":    {`storage: disk`, `reading the outbox: input/output error`},
		"audit_file":      {`audit_file: /dev/null/audit.jsonl`, `audit_file: opening the audit trail: mkdir /dev/null: not a directory`},
		"tls":             {`http: {tls: {ca_file: absent.pem}}`, `http: failed to load TLS config: failed to load CA CertPool File: failed to load cert absent.pem: open absent.pem: no such file or directory`},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				b.extensions[component.MustNewIDWithName("file_storage", "outbx")] = &disk{opening: errors.New("no space left on device")}
				b.extensions[component.MustNewID("disk")] = &disk{reading: errors.New("input/output error")}
				conf := fromYAML(t, c.config)
				require.NoError(t, conf.Merge(fromYAML(t, oneDevice)))
				_, err := b.try(conf)
				require.EqualError(t, err, c.want)
				trail, err := audit.Open(b.auditFile)
				require.NoError(t, err, "it is still open")
				require.NoError(t, trail.Close())
			})
		})
	}
	withBoard(t, func(t *testing.T, b *board) {
		_, err := b.try(fromYAML(t, "storage: file_storage\n"+oneDevice))
		require.EqualError(t, err, `storage: there is no extension "file_storage"; add it to service.extensions`)
	})
}

func TestWarningsAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"none":         {`storage: disk`, nil},
		"http.timeout": {`{storage: disk, http: {timeout: 29s}}`, []string{"warn: http.timeout is short: the server is slow after a boundary, and a request given up may be stored all the same; set 30s or more map[timeout:29s]"}},
		"30 s":         {`{storage: disk, http: {timeout: 30s}}`, nil},
		"memory":       {`{}`, []string{"warn: no storage is set: what waits in the outbox is lost when the collector stops; set `storage` to an extension such as ocems_storage map[]"}},
		"no trail":     {`{storage: disk, audit_file: ""}`, []string{"warn: no audit_file is set: final outcomes go to the log only map[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				b.extensions[component.MustNewID("disk")] = &disk{}
				conf := fromYAML(t, c.config)
				require.NoError(t, conf.Merge(fromYAML(t, oneDevice)))
				_, err := b.try(conf)
				require.NoError(t, err)
				require.Equal(t, c.want, b.said(""))
			})
		})
	}
}

const csvHead = "station_id,device_id,token_id\n"

// A hub mends a token in its devices_file: the device held for it goes on at once, not after hold_interval.
func TestDevicesFile(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		path := filepath.Join(t.TempDir(), "devices.csv")
		write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(csvHead+text), 0o600)) }
		write("station_1,dev_1,token-of-dev-2\n")
		e := b.start("hold_interval: 24h\ndevices_file: " + path)
		b.consume(e, ph("dev_1", 7.1, ago(1)))
		b.consume(e, ph("dev_1", 7.2, ago(0)))
		b.consume(e, ph("dev_2", 7.3, ago(0)))
		pass(2 * time.Hour)
		require.Len(t, b.asked(), 1, "hold_interval is not over")
		require.EqualValues(t, 1, b.number("held_devices"))
		require.Len(t, b.said("the server refuses the device: its readings wait"), 1)
		require.Len(t, b.said(`ignored: the device is not configured map[error:naming metric "ph": unknown device "dev_2"; nearest: dev_1]`), 1)

		write("station_1,dev_1,token-of-dev-1\nstation_1,dev_2,token-of-dev-2\n")
		pass(11 * time.Second)
		require.Len(t, b.said("the devices_file was read again map[devices:2]"), 1)
		require.Equal(t, []string{"dev_1 ph 7.1 pH U -15", "dev_1 ph 7.2 pH U -0"}, b.received())
		require.Zero(t, b.number("held_devices"))
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, b.reported())

		b.consume(e, ph("dev_2", 7.3, ago(0)))
		pass(time.Minute)
		require.Contains(t, b.received(), "dev_2 ph 7.3 pH U -0")

		// What waits for a device that was taken out waits until it is back.
		b.fault(`{"http_status": 503}`)
		b.consume(e, ph("dev_2", 7.4, ago(1)))
		write("station_1,dev_1,token-of-dev-1\n")
		pass(time.Hour)
		b.fault("")
		pass(time.Hour)
		require.Len(t, b.said("the configuration has no such device any more: its readings wait until they expire"), 1)
		require.NotContains(t, b.received(), "dev_2 ph 7.4 pH U -15")
		write("station_1,dev_1,token-of-dev-1\nstation_1,dev_2,token-of-dev-2\n")
		pass(11 * time.Second)
		require.Contains(t, b.received(), "dev_2 ph 7.4 pH U -15")
	})
}

// A statistic belongs to the processor. In the devices_file it must not be ignored in silence, neither at the start nor later.
func TestStatisticInDevicesFile(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		const (
			good = "devices:\n- station_id: station_1\n  device_id: dev_1\n  token_id: token-of-dev-1\n  parameters:\n  - metric: ph\n    unit: pH\n"
			bad  = good + "    statistic: max\n"
		)
		path := filepath.Join(t.TempDir(), "devices.yaml")
		write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
		want := path + ":8: devices[0].parameters[0].statistic: \"max\" does nothing here; set it in the ocems_slot processor's `statistics`"
		write(bad)
		cfg := testConfig()
		cfg.Devices, cfg.DevicesFile = nil, path
		require.EqualError(t, cfg.Validate(), want)

		write(good)
		e := b.start("devices_file: " + path)
		write(strings.Replace(bad, "dev_1", "dev_2", 1))
		pass(time.Minute)
		require.Equal(t, []string{"error: the devices of before stay in force map[error:reading the devices_file again: " + want + "]"},
			b.said("the devices of before stay in force"))
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 ph 7.25 pH U -0"}, b.received())
	})
}

func TestRequireSlots(t *testing.T) {
	for _, require_ := range []bool{true, false} {
		t.Run(fmt.Sprint(require_), func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				e := b.start(fmt.Sprintf("require_slots: %v\n%s", require_, oneDevice))
				md := pmetric.NewMetrics()
				raw(md, "dev_1", "ph", "pH", 7.25, ago(0))
				raw(md, "dev_1", "ph", "pH", 7.5, ago(0).Add(-time.Millisecond))
				b.consume(e, md)
				pass(time.Minute)
				if require_ {
					require.Empty(t, b.received())
					require.Len(t, b.trail(audit.Refused), 2)
					return
				}
				require.Equal(t, []string{"dev_1 ph 7.25 pH U -0"}, b.received())
				refused := b.trail(audit.Refused)
				require.Len(t, refused, 1)
				require.Equal(t, "the timestamp is not on the grid of slots of 15m0s: put the ocems_slot processor before this exporter", refused[0].Detail)
			})
		})
	}
}

// disk is a storage extension that can fail.
type disk struct {
	component.StartFunc
	component.ShutdownFunc
	storage.Client
	mu                        sync.Mutex
	values                    map[string][]byte
	opening, reading, writing error
}

func (d *disk) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return d, d.opening
}

func (d *disk) Get(_ context.Context, key string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.values[key], d.reading
}

func (d *disk) Batch(_ context.Context, ops ...*storage.Operation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writing != nil {
		return d.writing
	}
	if d.values == nil {
		d.values = map[string][]byte{}
	}
	for _, op := range ops {
		if d.values[op.Key] = op.Value; op.Type == storage.Delete {
			delete(d.values, op.Key)
		}
	}
	return nil
}

func (d *disk) Close(context.Context) error { return nil }

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writing = err
}

// A full disk is the host's matter: it keeps the batch and brings it again. Until then nothing of the batch counts.
func TestStorageFails(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		d := &disk{}
		b.extensions[component.MustNewID("disk")] = d
		e := b.start("storage: disk\n" + oneDevice)
		md := ph("dev_1", 7.25, ago(0))
		finished(md, "dev_1", "cod", "mg/L", 41, ago(1))
		raw(md, "dev_1", "tss", "mg/L", 12, ago(0))
		finished(md, "dev_1", "cpu", "1", 0.5, ago(0))

		full := errors.New("no space left on device")
		d.fail(full)
		for range 3 {
			err := e.ConsumeMetrics(t.Context(), md)
			require.ErrorIs(t, err, full)
			require.EqualError(t, err, "writing the outbox: no space left on device")
		}
		pass(time.Hour)
		require.Empty(t, b.asked())
		require.Empty(t, d.values)
		require.Empty(t, b.trail(audit.Refused))
		for _, name := range []string{"outbox_slots", "refused", "ignored", "readings"} {
			require.Zero(t, b.number(name), name)
		}

		d.fail(nil)
		b.consume(e, md)
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 cod 41 mg/L U -15", "dev_1 ph 7.25 pH U -0"}, b.received())
		require.Len(t, b.trail(audit.Refused), 1)
		require.EqualValues(t, 1, b.number("refused"))
		require.EqualValues(t, 1, b.number("ignored"))
		require.EqualValues(t, 2, b.number("readings"))
		for key, value := range d.values {
			require.NotNil(t, value, "%s is not deleted", key)
		}
	})
}

// The host hears when trouble begins and when all of it is over, not each device's.
func TestStatus(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(`
hold_interval: 1h
devices:
  - {station_id: station_1, device_id: dev_1, token_id: token-of-dev-1}
  - {station_id: station_1, device_id: dev_2, token_id: token-of-dev-2}`)
		b.fault(`[{"device": "dev_1", "count": 1, "status": 10}, {"device": "dev_2", "count": 2, "status": 10}]`)
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(time.Minute)
		require.EqualValues(t, 1, b.number("held_devices"))
		b.consume(e, ph("dev_2", 7.25, ago(0)))
		pass(time.Minute)
		require.EqualValues(t, 2, b.number("held_devices"))
		pass(time.Hour)
		require.EqualValues(t, 1, b.number("held_devices"))
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, b.reported())
		pass(time.Hour)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusOK}, b.reported())
	})
}

// Without a trail the log holds every refused reading, and with one each reason once.
func TestRefusedGoToTheLog(t *testing.T) {
	readings := func() pmetric.Metrics {
		md := pmetric.NewMetrics()
		for i := range 3 {
			raw(md, "dev_1", "ph", "pH", float64(i), ago(i))
			finished(md, "dev_1", "ph", "pH", float64(i), ago(i).Add(time.Duration(i+1)*time.Second))
			finished(md, "dev_1", "ph", "furlong", float64(i), ago(i))
		}
		return md
	}
	withBoard(t, func(t *testing.T, b *board) {
		b.consume(b.start("audit_file: ''\n"+oneDevice), readings())
		lines := b.said("warn: readings are not at the server")
		require.Len(t, lines, 9)
		require.Equal(t, "warn: readings are not at the server map[device:dev_1 outcome:refused readings:[{ph 2 pH U false}] "+
			"reason:not a finished slot: put the ocems_slot processor before this exporter or set require_slots: false slot:2000-01-01 05:00:00 IST]", lines[6])
	})
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(oneDevice)
		b.consume(e, readings())
		b.consume(e, readings())
		require.Empty(t, b.said("readings are not at the server"))
		require.Len(t, b.said("error: refused"), 3, "each reason once")

		require.NoError(t, e.trail.Close())
		b.consume(e, readings())
		lines := b.said("error: cannot write what was refused to the audit_file")
		require.Len(t, lines, 1)
		require.Equal(t, 9, strings.Count(lines[0], "refused station_1 dev_1"))
		e.trail = nil // or Shutdown closes it again
	})
}

// What one cannot trust gets no reading, and what the log says of it mends it.
func TestUntrustedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.server.StartTLS()
		const config = "endpoint: https://example.com/v1.0/industry/data\n" + oneDevice
		e := b.start(config)
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(time.Hour)
		require.Empty(t, b.asked())
		lines := b.said("an attempt failed")
		require.Len(t, lines, 1)
		require.Regexp(t, `^warn: an attempt failed: trying again map\[device:dev_1 next_try_in:[0-9.]+s reason:no answer: Post "https://example.com/v1.0/industry/data": `+
			`tls: failed to verify certificate: x509: certificate signed by unknown authority `+
			`\(the server's certificate is not trusted: give the authority's file as ca_file; do not turn verification off\)\]$`, lines[0])
		require.NoError(t, e.Shutdown(t.Context()))

		ca := filepath.Join(t.TempDir(), "ca.pem")
		require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.server.Certificate().Raw}), 0o600))
		e = b.start(config + "\nhttp: {tls: {ca_file: " + ca + "}}")
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 ph 7.25 pH U -0"}, b.received())
	})
}

// The proxy's password stays out of the log, whatever the proxy answers.
func TestProxy(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint string
		proxy    http.HandlerFunc
		want     string
	}{
		"forwards": {"http://cems.example.org/v1.0/industry/data", nil, ""},
		"refuses the user": {"https://cems.example.org/v1.0/industry/data", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusProxyAuthRequired)
		}, `no answer: Post "https://cems.example.org/v1.0/industry/data": Proxy Authentication Required (the proxy wants another user or password in proxy_url)`},
		"shows a page": {"http://cems.example.org/v1.0/industry/data", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>\n<h1>no route</h1>"))
		}, `HTTP 502, "<html> <h1>no route</h1>"`},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				b.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					assert.Equal(t, "cems.example.org", r.URL.Hostname())
					assert.NotEmpty(t, r.Header.Get("Proxy-Authorization"))
					if c.proxy != nil {
						c.proxy(w, r)
						return
					}
					b.ServeHTTP(w, r)
				})
				e := b.start(fmt.Sprintf("endpoint: %s\nhttp: {proxy_url: 'http://plant:hunter2@proxy.example.org:3128'}\n%s", c.endpoint, oneDevice))
				b.consume(e, ph("dev_1", 7.25, ago(0)))
				pass(time.Minute)
				require.Equal(t, "proxy.example.org:3128", b.network.dials()[0])
				if c.want == "" {
					require.Equal(t, []string{"dev_1 ph 7.25 pH U -0"}, b.received())
					return
				}
				lines := b.said("an attempt failed: trying again")
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], "reason:"+c.want+"]")
			})
		})
	}
}

func TestDryRun(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(`
dry_run: true
devices:
  - station_id: station_1
    device_id: dev_1
    token_id: token-of-dev-1
    parameters:
      - {metric: ph, parameter: PH_new, unit: pH-units, allow_unlisted: true}`)
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(time.Hour)
		require.Empty(t, b.asked())
		require.EqualValues(t, 1, b.number("outbox_slots"))
		require.Equal(t, []string{`info: dry run: this would be sent map[device:dev_1 json:{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1",` +
			`"params":[{"parameter":"PH_new","value":7.25,"unit":"pH-units","timestamp":946684800000,"flag":"U"}]}]}]}]`}, b.said("dry run"))
	})
}

// What waits is on the disk: another exporter sends it, oldest first, when the server is back.
func TestRestart(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		id := component.MustNewID("file_storage")
		f := filestorage.NewFactory()
		cfg := f.CreateDefaultConfig().(*filestorage.Config)
		cfg.Directory, cfg.FSync = t.TempDir(), true
		open := func() extension.Extension {
			ext, err := f.Create(t.Context(), extension.Settings{ID: id, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
			require.NoError(t, err)
			require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
			b.extensions[id] = ext
			return ext
		}
		const config = "storage: file_storage\n" + oneDevice
		trouble := []componentstatus.Status{componentstatus.StatusRecoverableError}

		b.fault(`{"http_status": 503}`)
		ext := open()
		e := b.start(config)
		for _, i := range []int{2, 0, 3, 1} {
			b.consume(e, ph("dev_1", 7+float64(i)/10, ago(i)))
		}
		pass(time.Hour)
		require.Equal(t, trouble, b.reported())
		require.NoError(t, e.Shutdown(t.Context()))
		require.NoError(t, ext.Shutdown(t.Context()))

		ext = open()
		e = b.start(config)
		pass(time.Hour)
		require.EqualValues(t, 4, b.number("outbox_slots"))
		require.Equal(t, trouble, b.reported())
		b.fault("")
		pass(time.Hour)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusOK}, b.reported())
		require.Equal(t, []string{"dev_1 ph 7.3 pH U -45", "dev_1 ph 7.2 pH U -30", "dev_1 ph 7.1 pH U -15", "dev_1 ph 7 pH U -0"}, b.received())
		require.NoError(t, e.Shutdown(t.Context()))
		require.NoError(t, ext.Shutdown(t.Context()))
	})
}

// The outbox is found again where its list of devices is lost.
func TestLostList(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		d := &disk{}
		b.extensions[component.MustNewID("disk")] = d
		const config = "storage: disk\n" + oneDevice
		b.fault(`{"http_status": 503}`)
		e := b.start(config)
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		require.NoError(t, e.Shutdown(t.Context()))
		delete(d.values, "outbox/devices")
		b.fault("")
		b.start(config)
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 ph 7.25 pH U -0"}, b.received())
	})
}
