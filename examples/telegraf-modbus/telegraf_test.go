// Package telegraf_test runs the built Telegraf as a process. It kills or reloads Telegraf, stops its server or gives it a wrong
// token, and then checks the slots at the server.
package telegraf_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
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

// Telegraf reads the fed samples once at each start or reload, because the input's interval is a day.
const feeding = `
[agent]
  interval = "100ms"
  flush_interval = "200ms"
  round_interval = false
  precision = "1ns"
  omit_hostname = true
  skip_processors_after_aggregators = true
[[inputs.file]]
  interval = "24h"
  files = ["%[1]s/feed.influx"]
  data_format = "influx"
[[inputs.internal]]
[[outputs.file]]
  files = ["%[1]s/stats.json"]
  data_format = "json"
  namepass = ["internal_ocems"]
[[outputs.file]]
  files = ["%[1]s/raw.influx"]
  data_format = "influx"
  namepass = ["plant"]
`

// Past windows stay open for settle after their last sample. The tests kill and reload in this time.
const reporting = `
[[outputs.ocems]]
  namepass = ["plant"]
  endpoint = "http://%[2]s/v1.0/industry/data"
  state_directory = "%[1]s/state"
  public_key_file = "%[3]s/industry_test_public.pem"
  grace = "1s"
  settle = "%[4]s"
  coalesce = "0s"
  spread = "0s"
  initial_backoff = "1s"
  max_backoff = "2s"
  devices_file_interval = "200ms"
`

const devicesFile = `
  devices_file = "%[1]s/devices.csv"
`

const deviceTable = `
  [[outputs.ocems.device]]
    station_id = "etp"
    device_id = "etp-1"
    token_id_file = "%[1]s/secrets/etp"
    [[outputs.ocems.device.parameter]]
      metric = "plant"
      field = "cod"
      unit = "mg/L"
`

const secretStore = `
[[secretstores.docker]]
  id = "store"
  path = "%[1]s/secrets"
`

const external = `
[[outputs.execd]]
  command = ["%[5]s", "--config", "%[1]s/ocems.conf"]
  restart_delay = "100ms"
  data_format = "influx"
  use_batch_format = true
  namepass = ["plant"]
`

// plant is a Telegraf process and the board's server.
type plant struct {
	t      *testing.T
	binary string
	dir    string
	addr   string
	settle string
	server *simulator.Server
	http   *httptest.Server
	proc   *exec.Cmd
	ended  chan error
}

func newPlant(t *testing.T) *plant {
	return newPlantOf(t, program(t, "OCEMS_TELEGRAF", "telegraf-small"))
}

// program is the path in an environment variable.
func program(t *testing.T, variable, target string) string {
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s names no program: make %s builds it", variable, target)
	}
	return path
}

func newPlantOf(t *testing.T, binary string) *plant {
	t.Parallel()
	p := &plant{t: t, binary: binary, dir: t.TempDir(), addr: loopback.Addr(t), settle: "1s"}
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
	p.setTokens(goodToken, goodToken)
	p.write("secrets/etp", goodToken)
	p.configure(feeding + reporting + devicesFile)
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		p.unplug()
		p.checkSecrecy()
		if t.Failed() {
			lines := slices.Collect(strings.Lines(p.read("log")))
			lines = slices.DeleteFunc(lines, func(l string) bool {
				return strings.Contains(l, " Buffer fullness: ") || strings.Contains(l, " Wrote batch ")
			})
			t.Logf("Telegraf's log:\n%s", strings.Join(lines, ""))
		}
	})
	return p
}

// write writes a file into the plant's directory atomically, so that Telegraf never reads half of it.
func (p *plant) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(p.dir, name))
	return string(b)
}

func (p *plant) text(config string) string {
	testKeys, err := filepath.Abs(keys)
	if err != nil {
		p.t.Fatal(err)
	}
	for i, v := range []string{p.dir, p.addr, testKeys, p.settle, os.Getenv("OCEMS_TELEGRAF_EXTERNAL")} {
		config = strings.ReplaceAll(config, fmt.Sprintf("%%[%d]s", i+1), v)
	}
	return config
}

func (p *plant) configure(config string) { p.write("telegraf.conf", p.text(config)) }

func (p *plant) setTokens(etp, stack string) {
	p.write("devices.csv", fmt.Sprintf("station_id,device_id,token_id\netp,etp-1,%s\nstack,stack-1,%s\n", etp, stack))
}

// checkSecrecy searches everything that Telegraf has written for the tokens.
func (p *plant) checkSecrecy() {
	files := 0
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "devices.csv" || strings.Contains(path, "/secrets/") {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		if bytes.Contains(b, []byte(goodToken)) || bytes.Contains(b, []byte(wrongToken)) {
			p.t.Errorf("a token is in %s", d.Name())
		}
		return err
	})
	if err != nil || files == 0 {
		p.t.Errorf("looking for tokens in %d files: %v", files, err)
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

func (p *plant) command(args ...string) *exec.Cmd {
	if len(args) == 0 {
		args = []string{"--debug", "--config", filepath.Join(p.dir, "telegraf.conf")}
	}
	return exec.Command(p.binary, args...)
}

func (p *plant) start() {
	p.t.Helper()
	if err := os.RemoveAll(filepath.Join(p.dir, "stats.json")); err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.proc = p.command()
	p.proc.Stdout, p.proc.Stderr = log, log
	if err := p.proc.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.proc.Wait() }()
}

func (p *plant) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.proc.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) stop(with syscall.Signal) {
	if p.proc == nil {
		return
	}
	_ = p.proc.Process.Signal(with)
	if err := p.exit(); with == syscall.SIGTERM && err != nil {
		p.t.Errorf("Telegraf ended with %v", err)
	}
}

func (p *plant) exit() (err error) {
	p.t.Helper()
	select {
	case err = <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.proc.Process.Kill()
		p.t.Error("Telegraf has not ended within 20 s")
		<-p.ended
	}
	p.proc = nil
	return err
}

func (p *plant) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.ended:
			p.proc = nil
			p.t.Fatalf("Telegraf ended with %v before: %s", err, what)
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// child is the process id of Telegraf's child process, or 0.
func (p *plant) child() (pid int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.proc.Process.Pid))
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			pid = n
		}
	}
	return pid
}

// stat is a field of internal_ocems, with the last value that the running process has shown.
func (p *plant) stat(field string) (value int) {
	for line := range strings.Lines(p.read("stats.json")) {
		var m struct{ Fields map[string]float64 }
		if json.Unmarshal([]byte(line), &m) == nil {
			value = int(m.Fields[field])
		}
	}
	return value
}

// feed writes a sample every ten seconds in [from, to) for the next start or reload, and returns their values.
func (p *plant) feed(from, to time.Time, devices ...string) (values []float64, lines []string) {
	p.t.Helper()
	for at := from; at.Before(to); at = at.Add(10 * time.Second) {
		v := 100 + 10*math.Sin(float64(at.Unix()))
		values = append(values, v)
		for _, d := range devices {
			lines = append(lines, fmt.Sprintf("plant,ocems_device_id=%s,ocems_unit=mg/L cod=%s %d\n", d,
				strconv.FormatFloat(v, 'f', -1, 64), at.Add(123*time.Millisecond).UnixNano()))
		}
	}
	p.write("feed.influx", strings.Join(lines, ""))
	return values, lines
}

func (p *plant) received() simulator.Received {
	p.t.Helper()
	w := httptest.NewRecorder()
	p.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	var got simulator.Received
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		p.t.Fatal(err)
	}
	return got
}

func (p *plant) arrive(n int) []simulator.Reading {
	p.t.Helper()
	p.until(fmt.Sprintf("%d slots arrive", n), func() bool { return len(p.received().Readings) >= n })
	return p.received().Readings
}

func (p *plant) check(got simulator.Reading, device string, end time.Time, values []float64) {
	p.t.Helper()
	want := 0.0
	for _, v := range values {
		want += v / float64(len(values))
	}
	if value, err := got.Value.Float64(); err != nil || got.Device != device || got.Timestamp != end.UnixMilli() || math.Abs(value-want) > 5e-7*want {
		p.t.Errorf("received %+v, want %s at %d with %v", got, device, end.UnixMilli(), want)
	}
}

// past is the start of a window that ended between n and n+1 windows ago.
func past(n int) time.Time { return time.Now().Truncate(slot).Add(-time.Duration(n+1) * slot) }

func TestKillInMidSlotKeepsTheSlot(t *testing.T) {
	p := newPlant(t)
	p.settle = "10s"
	p.configure(feeding + reporting + devicesFile)
	p.plug()
	start, sent := past(1), []float64(nil)
	for i := range time.Duration(3) {
		part, _ := p.feed(start.Add(i*slot/3), start.Add((i+1)*slot/3), "etp-1")
		sent = append(sent, part...)
		p.start()
		if i < 2 {
			p.until("the samples are taken", func() bool { return p.stat("samples") == len(part) })
			p.stop(syscall.SIGKILL)
		}
	}
	p.check(p.arrive(1)[0], "etp-1", start.Add(slot), sent)
}

func TestOutageOfFiveHoursArrivesOldestFirst(t *testing.T) {
	p := newPlant(t)
	const n = 5 * 4
	start := past(n + 6) // readings younger than an hour wait until the clock is trusted
	sent, lines := p.feed(start, start.Add(n*slot), "etp-1", "stack-1")
	p.start()
	p.until("all slots wait", func() bool { return p.stat("outbox_slots") == 2*n })
	raw := slices.Collect(strings.Lines(p.read("raw.influx")))
	slices.Sort(raw)
	slices.Sort(lines)
	if !slices.Equal(raw, lines) {
		t.Errorf("the other output has %d readings, want the %d of the instruments", len(raw), len(lines))
	}
	p.write("feed.influx", "")
	p.stop(syscall.SIGKILL)
	p.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "http://localhost/faults", strings.NewReader(`{"latency":"50ms","after_store":true}`)))
	p.plug()
	p.start()
	p.arrive(n / 2)
	p.stop(syscall.SIGKILL) // with requests that are stored but not answered
	p.start()
	next := map[string]int{}
	for _, r := range p.arrive(2 * n) {
		i := next[r.Device]
		next[r.Device]++
		p.check(r, r.Device, start.Add(time.Duration(i+1)*slot), sent[i*90:min((i+1)*90, len(sent))])
	}
	p.until("the outbox is empty", func() bool { return p.stat("requests") > 0 && p.stat("outbox_slots") == 0 })
	if got := p.received(); len(got.Readings) != 2*n || next["etp-1"] != n || got.Duplicates > 2*2*8 {
		t.Errorf("received %d readings (%v), %d of them repeated; want %d, and repeats only for the 8 slots of each device whose outcome may not be on disk, two requests each", len(got.Readings), next, got.Duplicates, 2*n)
	}
}

func TestReloadInMidSlotKeepsTheSlot(t *testing.T) {
	p := newPlant(t)
	p.settle = "10s"
	good := feeding + reporting + deviceTable
	p.configure(good)
	p.plug()
	start := past(1)
	sent, _ := p.feed(start, start.Add(slot/2), "etp-1")
	p.start()
	p.until("the samples are taken", func() bool { return p.stat("samples") == len(sent) })

	// The units check the configuration before the signal. The check does not change the slot.
	for _, mistake := range []struct{ in, out, why string }{
		{"[[outputs.ocems]]", "[[outputs.ocems", "loading config file "},
		{`unit = "mg/L"`, `unit = "mg/K"`, `device[0].parameter[0].unit: unknown unit "mg/K"`},
	} {
		p.write("telegraf.conf", strings.Replace(p.text(good), mistake.in, mistake.out, 1))
		out, err := p.command("config", "check", "--config", filepath.Join(p.dir, "telegraf.conf")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), mistake.why) {
			t.Errorf("the check of %s ended with %v: %s", mistake.out, err, out)
		}
	}

	more, _ := p.feed(start.Add(slot/2), start.Add(slot), "etp-1")
	p.configure(good)
	p.signal(syscall.SIGHUP)
	p.check(p.arrive(1)[0], "etp-1", start.Add(slot), append(sent, more...))
	if n := len(p.received().Readings); n != 1 {
		t.Errorf("received %d slots, want 1", n)
	}
}

func TestWrongTokenHoldsOnlyItsDevice(t *testing.T) {
	p := newPlant(t)
	p.setTokens(wrongToken, goodToken)
	p.plug()
	start := past(4)
	p.feed(start, start.Add(4*slot), "etp-1", "stack-1")
	p.start()
	for _, r := range p.arrive(4) {
		if r.Device != "stack-1" {
			t.Fatalf("received a slot of %s, whose token is wrong", r.Device)
		}
	}
	p.until("the device is held", func() bool { return p.stat("devices_held") == 1 })
	p.setTokens(goodToken, goodToken)
	p.arrive(8)
}

func TestTokenInSecretStore(t *testing.T) {
	p := newPlant(t)
	p.configure(strings.Replace(feeding+reporting+deviceTable+secretStore, `token_id_file = "%[1]s/secrets/etp"`, `token_id = "@{store:etp}"`, 1))
	p.plug()
	start := past(2)
	sent, _ := p.feed(start, start.Add(slot), "etp-1")
	p.start()
	p.check(p.arrive(1)[0], "etp-1", start.Add(slot), sent)
	sent, _ = p.feed(start.Add(slot), start.Add(2*slot), "etp-1")
	p.signal(syscall.SIGHUP)
	p.check(p.arrive(2)[1], "etp-1", start.Add(2*slot), sent)
}

func TestVersion(t *testing.T) {
	p := newPlant(t)
	out, err := p.command("--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Telegraf 1.") {
		t.Errorf("--version: %v: %s", err, out)
	}
}

func TestTestModeStartsNoOutput(t *testing.T) {
	p := newPlant(t)
	start := past(1)
	_, lines := p.feed(start, start.Add(slot), "etp-1")
	var stdout bytes.Buffer
	c := p.command("--config", filepath.Join(p.dir, "telegraf.conf"), "--test")
	c.Stdout = &stdout
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(stdout.String(), "> "+line) {
			t.Fatalf("--test does not print %q", line)
		}
	}
	for _, name := range []string{"state", "raw.influx"} {
		if _, err := os.Stat(filepath.Join(p.dir, name)); err == nil {
			t.Errorf("--test has made %s", name)
		}
	}
}

func TestRunsOfOneGatherMakeOneSlot(t *testing.T) {
	p := newPlant(t)
	p.settle = "10s"
	p.write("inputs.conf", p.text(feeding))
	p.write("conf.d/ocems.conf", p.text(reporting+devicesFile))
	p.write("more.conf", "[global_tags]\n")
	p.plug()
	start, sent := past(1), []float64(nil)
	for i := range time.Duration(2) {
		part, _ := p.feed(start.Add(i*slot/3), start.Add((i+1)*slot/3), "etp-1")
		sent = append(sent, part...)
		out, err := p.command("--config", filepath.Join(p.dir, "inputs.conf"), "--config", filepath.Join(p.dir, "more.conf"),
			"--config-directory", filepath.Join(p.dir, "conf.d"), "--once").CombinedOutput()
		if err != nil {
			t.Fatalf("--once: %v: %s", err, out)
		}
	}
	part, _ := p.feed(start.Add(2*slot/3), start.Add(slot), "etp-1")
	p.configure(feeding + reporting + devicesFile)
	p.start()
	p.check(p.arrive(1)[0], "etp-1", start.Add(slot), append(sent, part...))
}

func TestKilledExternalPluginKeepsTheSlot(t *testing.T) {
	stock := program(t, "OCEMS_TELEGRAF_STOCK", "telegraf-stock")
	program(t, "OCEMS_TELEGRAF_EXTERNAL", "telegraf-external")
	p := newPlantOf(t, stock)
	p.settle = "10s"
	p.configure(feeding + external)
	p.write("ocems.conf", strings.Replace(p.text(reporting+devicesFile), "  namepass = [\"plant\"]\n", "", 1))
	p.plug()
	start := past(1)
	sent, lines := p.feed(start, start.Add(slot/2), "etp-1")
	// The last sample is too old. When the trail has it, all samples before it are durable.
	tooOld := fmt.Sprintf("plant,ocems_device_id=etp-1,ocems_unit=mg/L cod=1 %d\n", start.Add(-8*24*time.Hour).UnixNano())
	p.write("feed.influx", strings.Join(lines, "")+tooOld)
	p.start()
	p.until("the samples are taken", func() bool { return strings.Contains(p.read("state/audit.jsonl"), `"refused"`) })
	first := p.child()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.until("Telegraf starts the plugin again", func() bool { pid := p.child(); return pid != 0 && pid != first })

	more, _ := p.feed(start.Add(slot/2), start.Add(slot), "etp-1")
	p.signal(syscall.SIGHUP)
	p.check(p.arrive(1)[0], "etp-1", start.Add(slot), append(sent, more...))
}
