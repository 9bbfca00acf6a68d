package ocemsexporter

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/exporter/exportertest"
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
		require.EqualError(t, e.ConsumeMetrics(t.Context(), ph("dev_1", 7.25, ago(0))), "the exporter is not running; the readings stay with the sender")
	})
}

// A mistake that is found only at the start names its key too. The failed start leaves nothing open.
func TestFaultsAtStart(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"no storage":      {`storage: ocems_storage/outbox`, `storage: there is no extension "ocems_storage/outbox" in service.extensions; nearest: ocems_storage/outbx, file_storage`},
		"no such storage": {`storage: network`, `storage: the extension "network" is not a storage extension; use an ocems_storage extension`},
		"another storage": {`storage: file_storage`, `storage: "file_storage" cannot list its keys; use an ocems_storage extension`},
		"storage fails":   {`storage: ocems_storage/outbx`, `storage: opening "ocems_storage/outbx": directory: opening the state /dev/null/exporter_ocems_: mkdir /dev/null: not a directory`},
		"audit_file":      {`audit_file: /dev/null/audit.jsonl`, `audit_file: opening the audit trail: mkdir /dev/null: not a directory`},
		"tls":             {`http: {tls: {ca_file: absent.pem}}`, `http: failed to load TLS config: failed to load CA CertPool File: failed to load cert absent.pem: open absent.pem: no such file or directory`},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				b.withStorage("/dev/null")
				b.extensions[component.MustNewIDWithName("ocems_storage", "outbx")] = b.extensions[storageID]
				delete(b.extensions, storageID)
				b.extensions[component.MustNewID("file_storage")] = plain{}
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
		_, err := b.try(fromYAML(t, stored))
		require.EqualError(t, err, `storage: there is no extension "ocems_storage"; add it to service.extensions`)
	})
}

// plain is another storage extension.
type plain struct {
	component.StartFunc
	component.ShutdownFunc
}

func (plain) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return storage.NewNopClient(), nil
}

func TestWarningsAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"none":         {`storage: ocems_storage`, nil},
		"http.timeout": {`{storage: ocems_storage, http: {timeout: 29s}}`, []string{"warn: http.timeout is short: the server is slow just after a quarter of an hour, and may have stored a request that timed out; set 30s or more map[timeout:29s]"}},
		"30 s":         {`{storage: ocems_storage, http: {timeout: 30s}}`, nil},
		"memory":       {`{}`, []string{"warn: no storage is set: open windows and waiting slots are lost when the collector stops; set `storage` to an ocems_storage extension map[]"}},
		"no trail":     {`{storage: ocems_storage, audit_file: ""}`, []string{"warn: no audit_file is set: final outcomes go to the log only map[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				b.withStorage(t.TempDir())
				conf := fromYAML(t, c.config)
				require.NoError(t, conf.Merge(fromYAML(t, oneDevice)))
				_, err := b.try(conf)
				require.NoError(t, err)
				require.Equal(t, c.want, b.said("warn: "))
			})
		})
	}
}

const csvHead = "station_id,device_id,token_id\n"

// When a hub corrects a token in its devices_file, the held device continues immediately, not after hold_interval.
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
		require.Len(t, b.said(`a reading is refused map[detail:naming metric "ph": unknown device "dev_2"; nearest: dev_1 `), 1)

		write("station_1,dev_1,token-of-dev-1\nstation_1,dev_2,token-of-dev-2\n")
		pass(21 * time.Second)
		require.Len(t, b.said("the devices_file was read again map[devices:2]"), 1)
		require.Equal(t, []string{"dev_1 ph 7.1 pH U -15", "dev_1 ph 7.2 pH U -0"}, b.received())
		require.Zero(t, b.number("held_devices"))
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, b.reported())

		b.consume(e, ph("dev_2", 7.3, ago(0)))
		pass(time.Minute)
		require.Contains(t, b.received(), "dev_2 ph 7.3 pH U -0")

		// Slots of a removed device wait until the device is configured again.
		b.fault(`{"http_status": 503}`)
		b.consume(e, ph("dev_2", 7.4, ago(1)))
		write("station_1,dev_1,token-of-dev-1\n")
		pass(time.Hour)
		b.fault("")
		pass(time.Hour)
		require.Len(t, b.said("slots wait for a device that is not configured"), 1)
		require.NotContains(t, b.received(), "dev_2 ph 7.4 pH U -15")
		write("station_1,dev_1,token-of-dev-1\nstation_1,dev_2,token-of-dev-2\n")
		pass(21 * time.Second)
		require.Contains(t, b.received(), "dev_2 ph 7.4 pH U -15")
	})
}

// The host gets a status when the first trouble begins and when the last is over, not for each device.
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

// A server with an untrusted certificate gets no reading. The advice in the log solves this.
func TestUntrustedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.server.StartTLS()
		const config = "endpoint: https://example.com/v1.0/industry/data\n" + oneDevice
		e := b.start(config)
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(9 * time.Minute)
		require.Empty(t, b.asked())
		lines := b.said("an attempt failed")
		require.Len(t, lines, 1)
		require.Regexp(t, `^warn: an attempt failed: trying again map\[next_try_in:[0-9.]+s reason:no answer: Get "https://example.com/v1.0/industry/data": `+
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

// The proxy's password is never in the log, for any answer of the proxy.
func TestProxy(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint string
		proxy    http.HandlerFunc
		want     string
	}{
		"forwards": {"http://cems.example.org/v1.0/industry/data", nil, ""},
		"refuses the user": {"https://cems.example.org/v1.0/industry/data", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusProxyAuthRequired)
		}, `no answer: Get "https://cems.example.org/v1.0/industry/data": Proxy Authentication Required (the proxy wants another user or password in proxy_url)`},
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

// The password of an endpoint is never in log, status or trail, with or without an answer of the server.
func TestEndpointWithPassword(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start("endpoint: http://plant:hunter2@board.test/v1.0/industry/data\n" + oneDevice)
		require.Len(t, b.said("info: reporting map[devices:1"), 1)
		require.Contains(t, b.said("info: reporting")[0], "to:http://plant:xxxxx@board.test/v1.0/industry/data")
		b.consume(e, ph("dev_1", 7.25, ago(1)))
		pass(time.Minute)
		require.Len(t, b.received(), 1)
		require.NoError(t, b.network.Close())
		b.server.CloseClientConnections()
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		pass(2 * time.Hour)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, b.reported())
		require.NotEmpty(t, b.said("an attempt failed"))
	})
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
		md := pmetric.NewMetrics()
		finished(md, "dev_1", "PH_new", "pH-units", 7.25, ago(0))
		b.consume(e, md)
		pass(time.Hour)
		require.Empty(t, b.asked())
		require.EqualValues(t, 1, b.number("outbox_slots"))
		require.Equal(t, []string{`info: dry run: this would be sent map[device:dev_1 json:{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1",` +
			`"params":[{"parameter":"PH_new","value":7.25,"unit":"pH-units","timestamp":946684800000,"flag":"U"}]}]}]}]`}, b.said("dry run"))
	})
}
