// Package telegraf_test runs the built Telegraf as a process: its commands, and what a reload does to the output.
package telegraf_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
)

const (
	token    = "8d97c71e68c2f4eee5fb254fccb49773" // the example of the spec
	testKeys = "../../ocems/seal/testdata/industry_test_"
	slot     = 15 * time.Minute
	deadline = 30 * time.Second
)

const agentConf = `
[agent]
  interval = "1s"
  round_interval = false
  flush_interval = "1s"
  omit_hostname = true
`

const cod = `
    [[outputs.ocems.device.parameter]]
      metric = "etp"
      field = "cod"
      unit = "mg/L"
`

const bod = `
    [[outputs.ocems.device.parameter]]
      metric = "etp"
      field = "bod"
      unit = "mg/L"
`

// plant is a board with one device, and a directory for all files that a Telegraf of this plant reads and writes.
type plant struct {
	*testing.T
	dir   string
	board *simulator.Server
	url   string
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	t.Parallel()
	text, err := os.ReadFile(testKeys + "private.pem")
	if err != nil {
		t.Fatal(err)
	}
	private, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{T: t, dir: t.TempDir()}
	p.board, err = simulator.New(simulator.Config{PrivateKey: private, Registry: &simulator.Registry{Stations: []simulator.Station{
		{ID: "etp", Devices: []simulator.Device{{ID: "etp-1", Token: token}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p.board)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *plant) path(name string) string { return filepath.Join(p.dir, name) }

func (p *plant) write(name, text string) string {
	p.Helper()
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o700); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	return p.path(name)
}

// add appends to a file that Telegraf reads.
func (p *plant) add(name, text string) {
	p.Helper()
	f, err := os.OpenFile(p.path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		p.Fatal(err)
	}
}

func (p *plant) read(name string) string {
	text, err := os.ReadFile(p.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.Fatal(err)
	}
	return string(text)
}

// input returns the configuration of an input that reads a file with these lines once.
func (p *plant) input(name string, lines ...string) string {
	file := p.write(name, strings.Join(lines, "\n")+"\n")
	return fmt.Sprintf("[[inputs.file]]\n  interval = \"24h\"\n  files = [%q]\n  data_format = \"influx\"\n", file)
}

// tail returns the configuration of an input that follows the file "readings".
func (p *plant) tail(from string) string {
	return fmt.Sprintf("[[inputs.tail]]\n  files = [%q]\n  initial_read_offset = %q\n  watch_method = \"poll\"\n  data_format = \"influx\"\n",
		p.path("readings"), from)
}

// output returns the configuration of outputs.ocems, and of a file output with the same metrics.
func (p *plant) output(token, parameters string) string {
	public, err := filepath.Abs(testKeys + "public.pem")
	if err != nil {
		p.Fatal(err)
	}
	return fmt.Sprintf(`
[[outputs.file]]
  files = [%q]
  data_format = "influx"

[[outputs.ocems]]
  endpoint = "%s/v1.0/industry/data"
  state_directory = %q
  public_key_file = %q
  grace = "1s"
  settle = "1s"
  coalesce = "0s"
  spread = "0s"
  initial_backoff = "200ms"
  max_backoff = "1s"
  [[outputs.ocems.device]]
    station_id = "etp"
    device_id = "etp-1"
    token_id = %q
%s`, p.path("raw.influx"), p.url, p.path("state"), public, token, parameters)
}

// ago returns the end of a slot that closed this number of slots ago.
func ago(slots int) time.Time { return time.Now().Truncate(slot).Add(time.Duration(-slots) * slot) }

// line returns a metric in the middle of the slot with this end.
func line(end time.Time, fields string) string {
	return fmt.Sprintf("etp %s %d", fields, end.Add(-slot/2).UnixNano())
}

// received returns the readings at the board with this end, each as "parameter=value".
func (p *plant) received(end time.Time) (got []string) {
	w := httptest.NewRecorder()
	p.board.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	var all struct{ Readings []simulator.Reading }
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil {
		p.Fatal(err)
	}
	for _, r := range all.Readings {
		if r.Timestamp == end.UnixMilli() {
			got = append(got, r.Parameter+"="+r.Value.String())
		}
	}
	slices.Sort(got)
	return got
}

func (p *plant) awaitReceived(end time.Time, want ...string) {
	p.Helper()
	p.await(fmt.Sprintf("the board has %v", want), func() bool { return slices.Equal(p.received(end), want) })
}

func (p *plant) await(what string, ok func() bool) {
	p.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.Fatalf("not within %s: %s", deadline, what)
		}
	}
}

// process is a running Telegraf.
type process struct {
	p    *plant
	cmd  *exec.Cmd
	done chan struct{}

	mu       sync.Mutex
	out, log bytes.Buffer
}

// stream is standard output or standard error of a process.
type stream struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (s stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(b)
}

func (s stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.String()
}

func (x *process) stdout() stream { return stream{&x.mu, &x.out} }
func (x *process) stderr() stream { return stream{&x.mu, &x.log} }

func (p *plant) start(args ...string) *process {
	p.Helper()
	x := &process{p: p, cmd: exec.Command(binary(p.T), args...), done: make(chan struct{})}
	x.cmd.Dir = p.dir
	x.cmd.Env = append(os.Environ(), "TELEGRAF_CONFIG_PATH="+p.path("default.conf"))
	x.cmd.Stdout, x.cmd.Stderr = x.stdout(), x.stderr()
	if err := x.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	go func() {
		defer close(x.done)
		_ = x.cmd.Wait() // end checks the exit code
	}()
	p.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-x.done
		if log := x.stderr().String(); strings.Contains(log, token) {
			p.Error("the token is in the log")
		}
		if p.Failed() {
			p.Logf("telegraf %s\n%s%s", strings.Join(args, " "), x.stdout(), x.stderr())
		}
	})
	return x
}

func binary(t *testing.T) string {
	t.Helper()
	name := os.Getenv("OCEMS_TELEGRAF")
	if name == "" {
		t.Skip("OCEMS_TELEGRAF is not set: make telegraf-small builds the program")
	}
	name, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (x *process) signal(s syscall.Signal) {
	x.p.Helper()
	if err := x.cmd.Process.Signal(s); err != nil {
		x.p.Fatal(err)
	}
}

// says waits until the log has a text this number of times.
func (x *process) says(text string, times int) {
	x.p.Helper()
	x.p.await(fmt.Sprintf("the log says %q", text), func() bool { return strings.Count(x.stderr().String(), text) >= times })
}

// end waits until the process ends, and checks the exit code.
func (x *process) end(code int) {
	x.p.Helper()
	select {
	case <-x.done:
	case <-time.After(deadline):
		x.p.Fatalf("it still runs after %s", deadline)
	}
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		x.p.Fatalf("%s, want exit code %d", x.cmd.ProcessState, code)
	}
}

const started = "Starting Telegraf 1.38.3"

// Every command of Telegraf works and knows the output.
func TestCommands(t *testing.T) {
	p := newPlant(t)
	p.write("secrets/etp", token)
	p.write("telegraf.conf", agentConf+fmt.Sprintf("[[secretstores.docker]]\n  id = \"store\"\n  path = %q\n", p.path("secrets"))+
		"[[inputs.mqtt_consumer]]\n  servers = [\"tcp://127.0.0.1:1\"]\n  topics = [\"a\"]\n  metric_buffer = 7\n"+p.output(token, cod))
	for args, want := range map[string]string{
		"--version":       "Telegraf 1.38.3 (git: ocems-",
		"version":         "Telegraf 1.38.3 (git: ocems-",
		"plugins outputs": "outputs.ocems\n",
		"--usage ocems":   "[[outputs.ocems]]",
		"config create --section-filter outputs --output-filter ocems": "[[outputs.ocems]]",
		"--config telegraf.conf secrets list":                          "store",
		"--help":                                                       "--watch-config",
	} {
		x := p.start(strings.Fields(args)...)
		x.end(0)
		if out := x.stdout().String(); !strings.Contains(out, want) {
			t.Errorf("%s does not print %q:\n%s", args, want, out)
		}
	}
	p.start("config", "migrate", "--config", "telegraf.conf").end(0)
	if migrated := p.read("telegraf.conf.migrated"); strings.Contains(migrated, "metric_buffer") || !strings.Contains(migrated, "[[outputs.ocems]]") {
		t.Errorf("the migrated configuration is\n%s", migrated)
	}
}

func TestReload(t *testing.T) {
	p := newPlant(t)
	first, second := ago(4), ago(2)
	conf := p.write("telegraf.conf", agentConf+p.input("first", line(first, "cod=42.5"))+p.output(token, cod))
	x := p.start("--config", conf, "--pidfile", p.path("pid"))
	p.awaitReceived(first, "cod=42.5")
	p.write("telegraf.conf", agentConf+p.input("second", line(second, "cod=43.5,bod=7"))+p.output(token, cod+bod))
	x.signal(syscall.SIGHUP)
	p.awaitReceived(second, "bod=7", "cod=43.5")
	if got, want := p.read("pid"), fmt.Sprintln(x.cmd.Process.Pid); got != want {
		t.Errorf("the pidfile has %q, want %q", got, want)
	}
	x.signal(syscall.SIGTERM)
	x.end(0)
}

func TestReloadKeepsThePlaceInATailedFile(t *testing.T) {
	p := newPlant(t)
	first, second := ago(4), ago(2)
	p.write("readings", line(first, "cod=42.5")+"\n")
	conf := strings.Replace(agentConf, "[agent]", "[agent]\n  statefile = \""+p.path("places")+"\"", 1)
	x := p.start("--config", p.write("telegraf.conf", conf+p.tail("saved-or-beginning")+p.output(token, cod)))
	p.awaitReceived(first, "cod=42.5")
	x.signal(syscall.SIGHUP)
	x.says(started, 2)
	p.add("readings", line(second, "cod=43.5")+"\n")
	p.awaitReceived(second, "cod=43.5")
	x.signal(syscall.SIGTERM)
	x.end(0)
	if raw := p.read("raw.influx"); strings.Count(raw, "cod=42.5") != 1 {
		t.Errorf("the first line was read again:\n%s", raw)
	}
}

// reload does what systemd does for the unit: it runs the commands of ExecReload= in order, until one fails.
func (x *process) reload(config string) error {
	x.p.Helper()
	unit, err := os.ReadFile("../../examples/install/telegraf-ocems.service")
	if err != nil {
		x.p.Fatal(err)
	}
	here := strings.NewReplacer("/usr/bin/telegraf-ocems", binary(x.p.T), "/etc/ocems/telegraf.conf", config)
	commands := 0
	for l := range strings.Lines(string(unit)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(l), "ExecReload="); ok {
			commands++
			run := exec.Command("/bin/sh", "-c", here.Replace(command)) // it splits and expands a line of the unit as systemd does
			run.Env = append(os.Environ(), fmt.Sprint("MAINPID=", x.cmd.Process.Pid))
			if out, err := run.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	if commands < 2 {
		x.p.Fatalf("the unit has %d ExecReload=, and no check before the signal", commands)
	}
	return nil
}

func TestBrokenConfigurationDoesNotReplaceTheOneInForce(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(conf string) string
		says string
	}{
		"a typing error": {func(conf string) string { return strings.Replace(conf, "[agent]", "[agent", 1) }, "loading config file "},
		"unknown key":    {func(conf string) string { return strings.Replace(conf, "grace =", "grase =", 1) }, "loading config file "},
		"unknown unit":   {func(conf string) string { return strings.Replace(conf, `"mg/L"`, `"mg/X"`, 1) }, "could not initialize output outputs.ocems: device[0].parameter[0].unit: "},
		"unknown store":  {func(conf string) string { return strings.Replace(conf, token, "@{nowhere:etp}", 1) }, "unknown secret-store"},
		"unquoted setting": {func(conf string) string {
			return strings.Replace(conf, `grace = "1s"`, `min_samples = ${HOME_OF_NOBODY:-2}`, 1)
		}, "loading config file "},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			first, second := ago(4), ago(2)
			p.write("readings", line(first, "cod=42.5")+"\n")
			good := agentConf + p.tail("beginning") + p.output(token, cod)
			conf := p.write("telegraf.conf", good)
			x := p.start("--strict-env-handling", "--config", conf)
			p.awaitReceived(first, "cod=42.5")
			p.write("telegraf.conf", c.edit(good))
			if err := x.reload(conf); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the reload ended with %v, want %q", err, c.says)
			}
			p.add("readings", line(second, "cod=43.5")+"\n")
			p.awaitReceived(second, "cod=43.5")
			p.write("telegraf.conf", good)
			if err := x.reload(conf); err != nil {
				t.Error(err)
			}
			x.says(started, 2)
			x.signal(syscall.SIGTERM)
			x.end(0)
		})
	}
}

func TestTokenInASecretStore(t *testing.T) {
	for name, dynamic := range map[string]bool{"read once": false, "read each time": true} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			first, second := ago(4), ago(2)
			p.write("secrets/etp", token)
			store := fmt.Sprintf("[[secretstores.docker]]\n  id = \"store\"\n  path = %q\n  dynamic = %t\n", p.path("secrets"), dynamic)
			output := p.output("@{store:etp}", cod)
			x := p.start("--config", p.write("telegraf.conf", agentConf+store+p.input("first", line(first, "cod=42.5"))+output))
			p.awaitReceived(first, "cod=42.5")
			p.write("telegraf.conf", agentConf+store+p.input("second", line(second, "cod=43.5"))+output)
			x.signal(syscall.SIGHUP)
			p.awaitReceived(second, "cod=43.5")
			x.signal(syscall.SIGTERM)
			x.end(0)
		})
	}
}

func TestCheckAndExitCodes(t *testing.T) {
	p := newPlant(t)
	good := agentConf + p.input("readings", line(ago(2), "cod=42.5")) + p.output(token, cod)
	p.write("good.conf", good)
	p.write("bad.conf", strings.Replace(good, `"mg/L"`, `"mg/X"`, 1))
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"config check --config good.conf", 0, ""},
		{"config check --config bad.conf", 1, "device[0].parameter[0].unit"},
		{"--config bad.conf", 1, "device[0].parameter[0].unit"},
		{"--config missing.conf", 1, "missing.conf"},
		{"--config good.conf --output-filter influxdb", 1, "no outputs found"},
	} {
		x := p.start(strings.Fields(c.args)...)
		x.end(c.code)
		if log := x.stderr().String(); !strings.Contains(log, c.says) {
			t.Errorf("%s: the log does not say %q:\n%s", c.args, c.says, log)
		}
	}
	if _, err := os.Stat(p.path("state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a check made the state (%v)", err)
	}
}
