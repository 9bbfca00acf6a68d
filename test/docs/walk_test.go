package docs_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/loopback"
)

const patience = 40 * time.Second // limit for the output of a background program or a repeated command

// The test follows the page block by block, in a directory that looks like a clone with built programs. Only the ports differ.
func TestGettingStarted(t *testing.T) {
	t.Parallel()
	const collector = "The same with a collector"
	all := blocks(t, "docs/getting-started.md")
	t.Run("Telegraf", func(t *testing.T) {
		t.Parallel()
		w := newWalk(t, "ocems", "telegraf-ocems-small")
		w.plant()
		for _, b := range all {
			if b.section != collector {
				w.step(b)
			}
		}
		w.first("device_5678", 288) // three parameters, 96 slots each
	})
	t.Run("collector", func(t *testing.T) {
		t.Parallel()
		w := newWalk(t, "ocems", "otelcol-ocems")
		for _, b := range all {
			if b.section == collector || strings.HasPrefix(b.section, "2.") && !strings.HasPrefix(b.about, "background plant") {
				w.step(b)
			}
		}
		w.first("device_5679", 1)
	})
}

// walk is one reader of a page, with a clone.
type walk struct {
	t       *testing.T
	dir     string // has the working directory and the environment for the next terminal
	ports   *strings.Replacer
	board   string
	running map[string]*terminal
	said    string // output of the last command
	machine string // root directory of the simulated machine with a service, or ""
}

// terminal is a program that runs in the background.
type terminal struct {
	command *exec.Cmd
	log     string
	done    chan error
}

func newWalk(t *testing.T, programs ...string) *walk {
	w := &walk{t: t, dir: t.TempDir(), running: map[string]*terminal{}}
	clone := filepath.Join(w.dir, "clone")
	if err := os.MkdirAll(filepath.Join(clone, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		if err := os.Symlink(program(t, name), filepath.Join(clone, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	var pairs []string
	for _, port := range []string{"8750", "1502", "4318"} {
		free := loopback.Addr(t)
		pairs = append(pairs, "127.0.0.1:"+port, free)
		if port == "8750" {
			w.board = free
		}
	}
	pairs = append(pairs, "ocems simulate --", "ocems simulate --listen "+w.board+" --", "ocems serve --", "ocems serve --listen "+loopback.Addr(t)+" --")
	w.ports = strings.NewReplacer(pairs...)
	for _, name := range []string{"telegraf.conf", "history.conf", "collector.yaml", "registry.yaml"} {
		w.copy(name)
	}
	w.sh("cd clone")
	t.Cleanup(func() {
		for name := range w.running {
			w.stop(name)
		}
	})
	return w
}

func (w *walk) copy(name string) {
	w.t.Helper()
	from := filepath.Join("examples", "getting-started", name)
	text, err := os.ReadFile(filepath.Join(root, from))
	if err != nil {
		w.t.Fatal(err)
	}
	to := filepath.Join(w.dir, "clone", from)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(w.ports.Replace(string(text))), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// plant builds the simulated analyser, as in the first step.
func (w *walk) plant() {
	w.t.Helper()
	command := exec.Command("go", "build", "-o", filepath.Join(w.dir, "clone", "bin", "plant"), root+"test/modbusplant")
	if out, err := command.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}

// script returns a shell that continues with the directory and environment of the last one.
func (w *walk) script(text string) *exec.Cmd {
	command := exec.Command("bash", "-eu", "-c", `[ ! -e "$WALK/env" ] || { . "$WALK/env"; cd "$(cat "$WALK/cwd")"; }
`+w.ports.Replace(text))
	command.Dir = w.dir
	command.Env = append(os.Environ(), "WALK="+w.dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command
}

func (w *walk) sh(text string) (string, error) {
	out, err := w.script(text + "\npwd >\"$WALK/cwd\"; export -p >\"$WALK/env\"").CombinedOutput()
	return string(out), err
}

func (w *walk) step(b block) {
	t := w.t
	t.Helper()
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Logf("%s:%d: %s", b.page, b.line, took.Round(100*time.Millisecond))
		}
	}()
	word, rest, _ := strings.Cut(b.about, " ")
	name, pattern, _ := strings.Cut(rest, ": ")
	failed := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s:%d: %s", b.page, b.line, fmt.Sprintf(format, args...))
	}
	if b.language == "sh" && !slices.Contains([]string{"", "not", "stop", "background", "retry", "service"}, word) {
		failed("%q is not a directive", b.about)
	}
	switch {
	case word == "not":
		w.said = ""
	case word == "service":
		b.about, b.text = rest, w.service(b)
		w.step(b)
	case word == "stop":
		w.stop(name)
		if b.language == "sh" {
			b.about = ""
			w.step(b)
		}
	case word == "file":
		if text, err := os.ReadFile(filepath.Join(root, rest)); err != nil || string(text) != b.text {
			failed("the block is not %s: %v", rest, err)
		}
	case word == "output":
		x := w.running[strings.TrimPrefix(rest, "of ")]
		var missing string
		if !until(patience, func() (ok bool) { missing, ok = shown(b.text, x.read()); return ok }) {
			failed("not in its output: %s\n%s", missing, x.end())
		}
	case word == "background":
		x := &terminal{command: w.script("exec " + b.text), log: filepath.Join(w.dir, name+".log"), done: make(chan error, 1)}
		log, err := os.Create(x.log)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		x.command.Stdout, x.command.Stderr = log, log
		if err := x.command.Start(); err != nil {
			failed("%v", err)
		}
		go func() { x.done <- x.command.Wait() }()
		w.running[name] = x
		if !until(patience, func() bool { return strings.Contains(x.read(), pattern) }) {
			failed("%s has not written %q:\n%s", name, pattern, x.end())
		}
	case b.language == "sh" && word == "retry":
		w.said = "retry\x00" + b.text
	case b.language == "sh":
		out, err := w.sh(b.text)
		if err != nil {
			failed("%v: %s", err, out)
		}
		w.said = out
	case b.language == "text" && w.said != "":
		var missing string
		command, again := strings.CutPrefix(w.said, "retry\x00")
		out := w.said
		if !until(patience, func() (ok bool) {
			if again {
				out, _ = w.sh(command)
			}
			// If a slot ends during the test, there is one slot more.
			missing, ok = shown(b.text, regexp.MustCompile(`\b97\b`).ReplaceAllString(out, "96"))
			return ok || !again
		}) || missing != "" {
			failed("not printed: %s\n%s", missing, out)
		}
	}
}

// clone starts a block in this repository, where make has built the programs. It may take minutes, while other blocks run.
func clone(t *testing.T, b block) <-chan ran {
	t.Helper()
	for _, name := range []string{"ocems", "otelcol-ocems", "telegraf-ocems-small", "ocems-telegraf", "tools/telegraf"} {
		if _, err := os.Stat(root + "bin/" + name); err != nil {
			t.Skipf("make test builds the programs: %v", err)
		}
	}
	command := exec.CommandContext(t.Context(), "bash", "-eu", "-c", b.text)
	command.Dir, command.Env = root, os.Environ()
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // its children end with it
	for _, name := range []string{"BOARD", "MODBUS", "OTLP"} {
		_, port, _ := strings.Cut(loopback.Addr(t), ":")
		command.Env = append(command.Env, "OCEMS_"+name+"_PORT="+port)
	}
	done := make(chan ran, 1)
	go func() {
		out, err := command.CombinedOutput()
		done <- ran{string(out), err}
	}()
	return done
}

// ran is the result of a command.
type ran struct {
	out string
	err error
}

// service returns a block for a machine where Telegraf runs as a service with the README's configuration. The machine also has
// the collector's configuration.
func (w *walk) service(b block) string {
	w.t.Helper()
	if w.machine == "" {
		w.machine = filepath.Join(w.dir, "machine")
		w.install()
	}
	return w.here(regexp.MustCompile(`(?m)\bsudo (-u \w+ )?`).ReplaceAllString(b.text, ""))
}

// here replaces the paths by directories of the simulated machine.
func (w *walk) here(text string) string {
	return strings.NewReplacer("/etc/", w.machine+"/etc/", "/var/lib/", w.machine+"/var/lib/").Replace(text)
}

func (w *walk) install() {
	t := w.t
	t.Helper()
	write := func(path, text string) {
		t.Helper()
		path = w.here(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := os.ReadFile(testKeys + "industry_test_public.pem")
	if err != nil {
		t.Fatal(err)
	}
	write("/etc/telegraf/ocems-public.pem", string(key))
	write("/etc/ocems/public.pem", string(key))
	server := httptest.NewServer(board(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: testToken}}}))
	t.Cleanup(server.Close)
	endpoint := server.URL + "/v1.0/industry/data"
	for _, c := range blocks(t, "README.md") {
		switch {
		case c.language == "toml" && strings.Contains(c.text, "[[outputs.ocems]]\n"):
			text := "[agent]\n  interval = \"1s\"\n  flush_interval = \"1s\"\n  round_interval = false\n" + strings.Replace(c.text, "192.168.0.10:502", loopback.Addr(t), 1)
			write("/etc/telegraf/telegraf.conf", w.here(strings.Replace(text, "[[outputs.ocems]]\n",
				fmt.Sprintf("[[outputs.ocems]]\n  endpoint = %q\n  settle = \"1s\"\n  coalesce = \"0s\"\n  spread = \"0s\"\n", endpoint), 1)))
		case c.language == "yaml" && strings.Contains(c.text, "receivers:\n"):
			write("/etc/ocems/collector.yaml", w.here(strings.Replace(c.text, "  ocems:\n", "  ocems:\n    endpoint: "+endpoint+"\n", 1)))
		}
	}
	history := ""
	for i := range 15 {
		history += fmt.Sprintf("modbus cod=%d %d\n", 100+i, time.Now().Truncate(spec.SlotLength).Add(time.Duration(i-30)*time.Minute).UnixNano())
	}
	write("/var/lib/telegraf/history.influx", history)
	write("/var/lib/ocems/storage/.keep", "")
	write("/etc/telegraf/telegraf.d/history.conf", w.here("[[inputs.file]]\n  interval = \"24h\"\n  files = [\"/var/lib/telegraf/history.influx\"]\n  data_format = \"influx\"\n"))
	if out, err := w.sh("export PATH=$PWD/bin:$PATH OCEMS_TOKEN=" + testToken + `
echo "device,parameter,time,value
device_5678,cod,` + time.Now().Truncate(spec.SlotLength).Add(-spec.SlotLength).In(spec.IST).Format(time.DateTime) + `,107" >export.csv`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.step(block{about: "background the service: Reporting", language: "sh", text: w.here("telegraf-ocems-small --config /etc/telegraf/telegraf.conf --config-directory /etc/telegraf/telegraf.d")})
	if !until(patience, func() bool {
		trail, _ := os.ReadFile(w.here("/var/lib/telegraf/ocems/audit.jsonl"))
		return strings.Contains(string(trail), `"delivered"`)
	}) {
		t.Fatalf("the service delivers nothing:\n%s", w.running["the service"].end())
	}
}

func (x *terminal) read() string {
	text, _ := os.ReadFile(x.log)
	return string(text)
}

// end returns the end of its output, for a failure message.
func (x *terminal) end() string {
	text := x.read()
	return text[max(0, len(text)-3000):]
}

func (w *walk) stop(name string) {
	w.t.Helper()
	x := w.running[name]
	if x == nil {
		return
	}
	delete(w.running, name)
	_ = x.command.Process.Signal(os.Interrupt)
	select {
	case <-x.done:
	case <-time.After(20 * time.Second):
		_ = x.command.Process.Kill()
		w.t.Errorf("%s has not ended 20 s after Ctrl+C:\n%s", name, x.end())
	}
}

// first asks the board itself. At the end it has these readings and has refused no request.
func (w *walk) first(device string, readings int) {
	w.t.Helper()
	resp, err := http.Get("http://" + w.board + "/received?device=" + device)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var got simulator.Received
	if err := json.Unmarshal(body, &got); err != nil {
		w.t.Fatal(err)
	}
	if len(got.Readings) < readings || got.Rejected > 0 {
		w.t.Errorf("the board has %d readings of %s and refused %d requests, want %d and none", len(got.Readings), device, got.Rejected, readings)
	}
}
