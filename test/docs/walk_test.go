package docs_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
)

const patience = 40 * time.Second // for what a background program or a retried command must show

// The walk is gone as it is written, block by block, in a directory that looks like a clone with its programs built. Only
// the ports are others.
func TestGettingStarted(t *testing.T) {
	t.Parallel()
	const collector = "The same with a collector"
	all := blocks(t, "getting-started.md")
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

// walk is one reader with a clone.
type walk struct {
	t       *testing.T
	dir     string // has what one terminal leaves to the next: the directory and the environment
	ports   *strings.Replacer
	board   string
	running map[string]*terminal
	said    string // by the last command
}

// terminal is a program that runs on.
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
		free := freeAddress(t)
		pairs = append(pairs, "127.0.0.1:"+port, free)
		if port == "8750" {
			w.board = free
		}
	}
	pairs = append(pairs, "ocems simulate --", "ocems simulate --listen "+w.board+" --")
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

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
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

// plant builds the simulated analyser, as the first step says.
func (w *walk) plant() {
	w.t.Helper()
	command := exec.Command("go", "build", "-o", filepath.Join(w.dir, "clone", "bin", "plant"), root+"test/modbusplant")
	if out, err := command.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}

// script is a shell that goes on where the last one stopped.
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
	switch {
	case word == "not":
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
			failed("not said: %s\n%s", missing, x.end())
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
			failed("%s has not said %q:\n%s", name, pattern, x.end())
		}
	case b.language == "sh" && word == "retry":
		w.said = "retry\x00" + b.text
	case b.language == "sh":
		out, err := w.sh(b.text)
		if err != nil {
			failed("%v: %s", err, out)
		}
		w.said = out
	case b.language == "text":
		var missing string
		command, again := strings.CutPrefix(w.said, "retry\x00")
		out := w.said
		if !until(patience, func() (ok bool) {
			if again {
				out, _ = w.sh(command)
			}
			// A quarter of an hour that ends while we walk gives one slot more.
			missing, ok = shown(b.text, regexp.MustCompile(`\b97\b`).ReplaceAllString(out, "96"))
			return ok || !again
		}) || missing != "" {
			failed("not printed: %s\n%s", missing, out)
		}
	}
}

func (x *terminal) read() string {
	text, _ := os.ReadFile(x.log)
	return string(text)
}

// end is what to show of it after a failure.
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

// first asks the board itself: the walk ends with readings that it has, and with no request that it refused.
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
