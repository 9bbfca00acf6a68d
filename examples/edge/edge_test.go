// Package edge_test runs the two collectors of the example, breaks the link between them and kills both.
package edge_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const token = "test-token-edge-000000000000000000000000001"

func TestSlotsOverAThinLink(t *testing.T) {
	t.Parallel()
	binary := board.Built(t, "OCEMS_COLLECTOR")
	b := board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: token}}})
	plantDir, vendorDir := t.TempDir(), t.TempDir()
	ca := board.NewCA(t, vendorDir)
	_, cert, key := ca.Issue("vendor")
	tokenFile := filepath.Join(vendorDir, "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plantAddr, vendorAddr := loopback.Addr(t), loopback.Addr(t)
	plantFile := board.Config(t, "plant.yaml", plantDir, "127.0.0.1:4318", plantAddr, "vendor.example:4318", vendorAddr,
		"/etc/ocems/vendor-ca.pem", ca.File, "/var/lib/ocems", plantDir)
	vendorFile := board.Config(t, "vendor.yaml", vendorDir, "0.0.0.0:4318", vendorAddr, "/etc/ocems/vendor.pem", cert, "/etc/ocems/vendor-key.pem", key,
		"/etc/ocems/public.pem", b.PublicKey, "/etc/ocems/tokens/device_5678", tokenFile, "/var/lib/ocems", vendorDir)
	startPlant := func() *board.Program {
		p := board.Start(t, plantDir, nil, binary, "--config", plantFile, "--config", "yaml:processors::ocems_slot::settle: 1s",
			"--config", "yaml:processors::ocems_slot::grace: 1s")
		board.Listens(t, plantAddr)
		return p
	}
	startVendor := func() *board.Program {
		p := board.Start(t, vendorDir, nil, binary, "--config", vendorFile, "--config", "yaml:exporters::ocems::endpoint: "+b.URL,
			"--config", "yaml:exporters::ocems::spread: 0s", "--config", "yaml:exporters::ocems::coalesce: 0s")
		board.Listens(t, vendorAddr)
		return p
	}

	plant, vendor := startPlant(), startVendor()
	at, _ := spec.Window(time.Now().Add(-3*time.Hour), spec.SlotLength)
	send(t, plantAddr, at, 100, 200, 300)
	b.Arrive(2)

	// The link is down: the plant's slots wait there, also after a kill.
	vendor.Kill()
	send(t, plantAddr, at.Add(spec.SlotLength), 1, 3)
	send(t, plantAddr, at.Add(spec.SlotLength), 1, 3) // again
	plant.Kill()
	startPlant()
	send(t, plantAddr, at.Add(2*spec.SlotLength), 10)
	startVendor()
	b.Arrive(6)
	want := map[string]float64{}
	for i, v := range [][2]float64{{200, 1300}, {2, 1003}, {10, 1010}} {
		stamp := at.Add(time.Duration(i+1) * spec.SlotLength)
		want[board.Key("cod", stamp, "U")], want[board.Key("flow_totalizer", stamp, "U")] = v[0], v[1]
	}
	got := b.Values()
	for key, v := range want {
		if got[key] != v {
			t.Errorf("%s is %v, want %v", key, got[key], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the board has %v, want %v", got, want)
	}
}

// send gives the plant's collector a reading every minute of both instruments.
func send(t *testing.T, address string, at time.Time, values ...float64) {
	t.Helper()
	md := pmetric.NewMetrics()
	metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	add := func(name string, i int, v float64) {
		m := metrics.AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at.Add(time.Duration(i) * time.Minute)))
		p.SetDoubleValue(v)
		p.Attributes().PutStr("line", "etp-outlet")
	}
	for i, v := range values {
		add("analyser.cod", i, v)
		add("meter.volume", i, 1000+v)
	}
	text, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := board.Client.Post("http://"+address+"/v1/metrics", "application/x-protobuf", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}
