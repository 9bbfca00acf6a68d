// Package hub_test runs the hub's two hosts with hundreds of devices of many industries. It adds an industry while they run, and
// checks the slots at each industry's server.
package hub_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	industries = 30
	perPlant   = 10 // devices of an industry
)

// device is a device of the hub, with the public key of its industry.
type device struct {
	industry int
	id       string
	token    string
}

func (d device) value() float64 {
	return float64(d.industry*1000) + float64(len(d.id)) + float64(d.id[len(d.id)-1])
}

// hub is the board for many industries: one address, with a server for each industry behind it, each with its own key.
type hub struct {
	t       *testing.T
	dir     string
	servers []*simulator.Server
	byID    map[string]*simulator.Server
	url     string
	devices []device
	client  *http.Client
	hubCert []string
	ca      *board.CA
}

func newHub(t *testing.T) *hub {
	h := &hub{t: t, dir: t.TempDir(), byID: map[string]*simulator.Server{}, servers: make([]*simulator.Server, industries+1)}
	keys := make([]*rsa.PrivateKey, len(h.servers))
	var making sync.WaitGroup
	for i := range keys {
		making.Go(func() { keys[i], _ = rsa.GenerateKey(rand.Reader, 2048) })
	}
	making.Wait()
	for i, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		board.Write(t, h.keyFile(i), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
		station := simulator.Station{ID: fmt.Sprintf("station_%d", i)}
		for j := range perPlant {
			d := device{i, fmt.Sprintf("dev_%d_%d", i, j), fmt.Sprintf("%032d", i*perPlant+j+1)}
			h.devices = append(h.devices, d)
			station.Devices = append(station.Devices, simulator.Device{ID: d.id, Token: d.token})
		}
		server, err := simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: []simulator.Station{station}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		h.servers[i] = server
		for _, d := range station.Devices {
			h.byID[d.ID] = server
		}
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server := h.byID[r.Header.Get("X-Device-Id")]
		if server == nil {
			http.Error(w, "no such device", http.StatusBadRequest)
			return
		}
		server.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	h.url = front.URL + board.Path
	h.ca = board.NewCA(t, h.dir)
	_, cert, key := h.ca.Issue("hub")
	h.hubCert = []string{cert, key}
	logger, _, _ := h.ca.Issue("logger-1")
	h.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.ca.Pool, Certificates: []tls.Certificate{logger}}}}
	return h
}

func (h *hub) keyFile(industry int) string {
	return filepath.Join(h.dir, fmt.Sprintf("industry-%02d.pem", industry))
}

func (h *hub) devicesFile() string { return filepath.Join(h.dir, "devices.csv") }

// register writes the devices_file in the format of this folder's devices.csv.
func (h *hub) register(devices []device) {
	var text strings.Builder
	w := csv.NewWriter(&text)
	_ = w.Write([]string{"station_id", "device_id", "token_id", "latitude", "longitude", "public_key_file"})
	for _, d := range devices {
		_ = w.Write([]string{fmt.Sprintf("station_%d", d.industry), d.id, d.token, "", "", h.keyFile(d.industry)})
	}
	w.Flush()
	board.Write(h.t, h.devicesFile(), text.String())
}

func (h *hub) post(url, kind string, body []byte) {
	h.t.Helper()
	resp, err := h.client.Post(url, kind, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		h.t.Fatalf("%s answers %s", url, resp.Status)
	}
}

// sent is the time of the loggers' only reading.
func sent(n int) time.Time {
	return time.Now().Truncate(15 * time.Minute).Add(-time.Duration(n)*15*time.Minute - time.Minute)
}

// check waits until the one reading of each device is at its own industry's server, and at no other.
func (h *hub) check(devices []device) {
	h.t.Helper()
	count := func() (accepted, rejected int) {
		for _, s := range h.servers {
			got := board.Received(h.t, s)
			accepted, rejected = accepted+got.Accepted, rejected+got.Rejected
		}
		return accepted, rejected
	}
	board.Until(h.t, fmt.Sprintf("%d devices have a slot", len(devices)), func() bool { n, _ := count(); return n >= len(devices) })
	if accepted, rejected := count(); accepted != len(devices) || rejected != 0 {
		h.t.Errorf("%d requests were accepted and %d rejected, want %d and 0", accepted, rejected, len(devices))
	}
	values := map[string]float64{}
	for i, s := range h.servers {
		for _, r := range board.Received(h.t, s).Readings {
			v, _ := r.Value.Float64()
			values[fmt.Sprint(i, r.Device, r.Parameter, r.Unit)] = v
		}
	}
	for _, d := range devices {
		if got := values[fmt.Sprint(d.industry, d.id, "cod", "mg/L")]; got != d.value() {
			h.t.Errorf("%s has %v, want %v", d.id, got, d.value())
		}
	}
}

// life feeds the registered devices, then also registers the devices of the last industry.
func (h *hub) life(program *board.Program, feed func([]device)) {
	known, added := h.devices[:industries*perPlant], h.devices[industries*perPlant:]
	feed(known)
	h.check(known)
	h.register(h.devices)
	board.Until(h.t, "the new devices are known", func() bool {
		return strings.Contains(program.Log(), fmt.Sprintf("read again devices=%d", len(h.devices))) || strings.Contains(program.Log(), fmt.Sprintf(`"devices": %d`, len(h.devices)))
	})
	feed(added)
	h.check(h.devices)
}

func TestCollector(t *testing.T) {
	binary := board.Built(t, "OCEMS_COLLECTOR")
	t.Parallel()
	h := newHub(t)
	h.register(h.devices[:industries*perPlant])
	address := loopback.Addr(t)
	config := board.Config(t, "collector.yaml", h.dir, "0.0.0.0:4318", address, "/etc/ocems/hub.pem", h.hubCert[0], "/etc/ocems/hub-key.pem", h.hubCert[1],
		"/etc/ocems/loggers-ca.pem", h.ca.File, "/etc/ocems/devices.csv", h.devicesFile(), "/var/lib/ocems", h.dir, "127.0.0.1:13133", loopback.Addr(t))
	// Shorter waits for the test, and the address of its board.
	program := board.Start(t, h.dir, nil, binary, "--config", config, "--config", "yaml:exporters::ocems::settle: 1s",
		"--config", "yaml:exporters::ocems::spread: 1s", "--config", "yaml:exporters::ocems::coalesce: 1s",
		"--config", "yaml:exporters::ocems::devices_file_interval: 500ms", "--config", "yaml:exporters::ocems::endpoint: "+h.url)
	board.Listens(t, address)
	h.life(program, func(devices []device) {
		metrics := pmetric.NewMetrics()
		for _, d := range devices {
			resource := metrics.ResourceMetrics().AppendEmpty()
			resource.Resource().Attributes().PutStr("ocems.device.id", d.id)
			m := resource.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("cod")
			m.SetUnit("mg/l")
			point := m.SetEmptyGauge().DataPoints().AppendEmpty()
			point.SetTimestamp(pcommon.NewTimestampFromTime(sent(2)))
			point.SetDoubleValue(d.value())
		}
		body, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
		if err != nil {
			t.Fatal(err)
		}
		h.post("https://"+address+"/v1/metrics", "application/x-protobuf", body)
	})
}

func TestTelegraf(t *testing.T) {
	binary := board.Built(t, "OCEMS_TELEGRAF")
	t.Parallel()
	h := newHub(t)
	h.register(h.devices[:industries*perPlant])
	address := loopback.Addr(t)
	config := board.Config(t, "telegraf.conf", h.dir, ":8186", address, "/etc/ocems/hub.pem", h.hubCert[0], "/etc/ocems/hub-key.pem", h.hubCert[1],
		"/etc/ocems/loggers-ca.pem", h.ca.File, "/etc/ocems/devices.csv", h.devicesFile(), "/var/lib/ocems", h.dir,
		// Shorter waits for the test, and the address of its board.
		`spread = "60s"`, `spread = "1s"`, `flush_interval = "5s"`, `flush_interval = "1s"`, `devices_file_interval = "10s"`, `devices_file_interval = "500ms"`,
		"[[outputs.ocems]]", "[[outputs.ocems]]\n  settle = \"1s\"\n  coalesce = \"1s\"\n  endpoint = \""+h.url+`"`)
	program := board.Start(t, h.dir, nil, binary, "--config", config)
	board.Listens(t, address)
	h.life(program, func(devices []device) {
		var lines strings.Builder
		for _, d := range devices {
			fmt.Fprintf(&lines, "plant,ocems_device_id=%s,ocems_unit=mg/L cod=%v %d\n", d.id, d.value(), sent(2).UnixNano())
		}
		h.post("https://"+address+"/write", "text/plain", []byte(lines.String()))
	})
}
