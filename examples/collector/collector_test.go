// Package collector_test runs the built collector as a process. It kills the collector, stops its server or gives it a wrong
// token, and then checks the slots at the server.
package collector_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	goodToken  = "8d97c71e68c2f4eee5fb254fccb49773" // the specification's example
	wrongToken = "00000000000000000000000000000000"
	keys       = "../../ocems/seal/testdata/"
	slot       = 15 * time.Minute
)

const registry = `
stations:
  - id: etp
    devices: [{id: etp-1, token: 8d97c71e68c2f4eee5fb254fccb49773}]
  - id: stack
    devices: [{id: stack-1, token: 8d97c71e68c2f4eee5fb254fccb49773}]
`

const config = `
receivers:
  otlp: {protocols: {http: {endpoint: %[1]q}}}
exporters:
  ocems:
    endpoint: http://%[2]s/v1.0/industry/data
    public_key_file: %[3]s/industry_test_public.pem
    storage: ocems_storage
    settle: 4s
    grace: 1s
    audit_file: %[4]s/audit.jsonl
    coalesce: 200ms
    spread: 100ms
    initial_backoff: 200ms
    max_backoff: 1s
    hold_interval: 1s
    devices_file: %[4]s/devices.csv
    devices_file_interval: 500ms
extensions:
  ocems_storage: {directory: %[4]s/state}
service:
  telemetry: {metrics: {level: none}}
  extensions: [ocems_storage]
  pipelines:
    metrics: {receivers: [otlp], exporters: [ocems]}
`

// plant is a collector process and the board's server.
type plant struct {
	t      *testing.T
	binary string
	dir    string
	input  string
	addr   string
	server *simulator.Server
	http   *httptest.Server
	proc   *exec.Cmd
	log    bytes.Buffer
}

func newPlant(t *testing.T, tokens map[string]string) *plant {
	binary := os.Getenv("OCEMS_COLLECTOR")
	if binary == "" {
		t.Skip("OCEMS_COLLECTOR names no collector: make test builds one and sets it")
	}
	p := &plant{t: t, binary: binary, dir: t.TempDir(), input: loopback.Addr(t)}
	p.setTokens(tokens)
	key, err := os.ReadFile(keys + "industry_test_private.pem")
	if err != nil {
		t.Fatal(err)
	}
	private, err := seal.ParsePrivateKey(string(key))
	if err != nil {
		t.Fatal(err)
	}
	reg, err := simulator.ParseRegistry([]byte(registry), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.server, err = simulator.New(simulator.Config{PrivateKey: private, Registry: reg}); err != nil {
		t.Fatal(err)
	}
	p.addr = loopback.Addr(t)
	testKeys, err := filepath.Abs(keys)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(config, p.input, p.addr, testKeys, p.dir)
	if err := os.WriteFile(filepath.Join(p.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill(syscall.SIGTERM)
		p.unplug()
		if log := p.log.String(); strings.Contains(log, goodToken) || strings.Contains(log, wrongToken) {
			t.Error("a token is in the collector's log")
		}
		if t.Failed() {
			t.Logf("the collector's log:\n%s", p.log.String())
		}
	})
	return p
}

func (p *plant) setTokens(tokens map[string]string) {
	p.t.Helper()
	text := "station_id,device_id,token_id\n"
	for _, d := range []string{"etp", "stack"} {
		text += fmt.Sprintf("%s,%s-1,%s\n", d, d, tokens[d+"-1"])
	}
	if err := os.WriteFile(filepath.Join(p.dir, "devices.csv"), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// plug starts the board's server, and unplug stops it. The server keeps its slots.
func (p *plant) plug() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.http = httptest.NewUnstartedServer(p.server)
	p.http.Listener.Close()
	p.http.Listener = l
	p.http.Start()
}

func (p *plant) unplug() {
	if p.http != nil {
		p.http.CloseClientConnections()
		p.http.Close()
		p.http = nil
	}
}

func (p *plant) start() {
	p.t.Helper()
	p.proc = exec.Command(p.binary, "--config", filepath.Join(p.dir, "config.yaml"))
	p.proc.Stdout, p.proc.Stderr = &p.log, &p.log
	if err := p.proc.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.until("the collector listens", func() bool {
		c, err := net.Dial("tcp", p.input)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (p *plant) kill(with syscall.Signal) {
	if p.proc != nil {
		_ = p.proc.Process.Signal(with)
		_ = p.proc.Wait()
		p.proc = nil
	}
}

func (p *plant) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// send sends a sample every ten seconds in [from, to) and returns their values.
func (p *plant) send(device, metric string, from, to time.Time) []float64 {
	p.t.Helper()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("ocems.device.id", device)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(metric)
	m.SetUnit("mg/l")
	points := m.SetEmptyGauge().DataPoints()
	var sent []float64
	for at := from; at.Before(to); at = at.Add(10 * time.Second) {
		point := points.AppendEmpty()
		point.SetTimestamp(pcommon.NewTimestampFromTime(at))
		v := 100 + 10*math.Sin(float64(at.Unix()))
		point.SetDoubleValue(v)
		sent = append(sent, v)
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := board.Client.Post("http://"+p.input+"/v1/metrics", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		p.t.Fatalf("the collector answered %d: %s", resp.StatusCode, text)
	}
	return sent
}

type reading struct {
	Device, Parameter string
	Value             float64
	Timestamp         int64
}

func (p *plant) received() []reading {
	p.t.Helper()
	w := httptest.NewRecorder()
	p.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	var got struct{ Readings []reading }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		p.t.Fatal(err)
	}
	return got.Readings
}

func mean(values ...float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

func (p *plant) check(got reading, device string, end time.Time, want float64) {
	p.t.Helper()
	if got.Device != device || got.Timestamp != end.UnixMilli() || math.Abs(got.Value-want) > 5e-7*want {
		p.t.Errorf("received %+v, want %s at %d with %v", got, device, end.UnixMilli(), want)
	}
}

var bothGood = map[string]string{"etp-1": goodToken, "stack-1": goodToken}

func TestKillInMidSlotKeepsTheSlot(t *testing.T) {
	p := newPlant(t, bothGood)
	p.plug()
	p.start()
	start := time.Now().Truncate(slot).Add(-2 * slot)
	sent := p.send("etp-1", "cod", start, start.Add(slot/2))
	// All samples are on disk, and the window is still open: settle is 4 s.
	time.Sleep(2200 * time.Millisecond)
	p.kill(syscall.SIGKILL)
	if n := len(p.received()); n != 0 {
		t.Fatalf("the window closed before the kill: %d readings", n)
	}
	p.start()
	sent = append(sent, p.send("etp-1", "cod", start.Add(slot/2), start.Add(slot))...)
	p.until("the slot arrives", func() bool { return len(p.received()) > 0 })
	p.check(p.received()[0], "etp-1", start.Add(slot), mean(sent...))
}

func TestHourWithoutServerArrivesOldestFirst(t *testing.T) {
	p := newPlant(t, bothGood)
	p.start()
	start := time.Now().Truncate(slot).Add(-5 * slot)
	sent := p.send("etp-1", "cod", start, start.Add(4*slot))
	time.Sleep(8 * time.Second) // the slots close, their requests fail, and are tried again
	p.kill(syscall.SIGKILL)     // accepted samples are on disk
	p.start()
	p.plug()
	p.until("four slots arrive", func() bool { return len(p.received()) >= 4 })
	n := len(sent) / 4
	for i, r := range p.received() {
		p.check(r, "etp-1", start.Add(time.Duration(i+1)*slot), mean(sent[i*n:(i+1)*n]...))
	}
}

func TestWrongTokenHoldsOnlyItsDevice(t *testing.T) {
	p := newPlant(t, map[string]string{"etp-1": wrongToken, "stack-1": goodToken})
	p.plug()
	p.start()
	start := time.Now().Truncate(slot).Add(-2 * slot)
	p.send("etp-1", "cod", start, start.Add(slot))
	p.send("stack-1", "cod", start, start.Add(slot))
	p.until("the other device's slot arrives", func() bool { return len(p.received()) == 1 })
	if got := p.received()[0].Device; got != "stack-1" {
		t.Fatalf("received a slot of %s, whose token is wrong", got)
	}
	p.setTokens(bothGood)
	p.until("the slot arrives once the token is right", func() bool { return len(p.received()) == 2 })
}
