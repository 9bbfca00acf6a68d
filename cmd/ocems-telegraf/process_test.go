package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
)

const (
	token    = "8d97c71e68c2f4eee5fb254fccb49773" // the document's example
	slotTime = 15 * time.Minute
	every    = 10 * time.Second // interval of the readings
	stopsIn  = 5 * time.Second  // after it outputs.execd sends a signal, then kills
)

const board = `
stations:
  - id: etp
    devices: [{id: etp-1, token: ` + token + `}]
`

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "ocems-telegraf")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "ocems-telegraf")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			panic(fmt.Sprintf("%v: %s", err, out))
		}
		return m.Run()
	}())
}

// plant is a state directory, a configuration and the board's server.
type plant struct {
	t      *testing.T
	dir    string
	state  string
	config string
	server *simulator.Server
	url    string
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	return newPlantWith(t, token)
}

// newPlantWith is a plant whose device has this token at the board.
func newPlantWith(t *testing.T, known string) *plant {
	t.Helper()
	p := &plant{t: t, dir: t.TempDir()}
	p.state, p.config = filepath.Join(p.dir, "state"), filepath.Join(p.dir, "ocems.conf")
	key, err := os.ReadFile("../../ocems/seal/testdata/industry_test_private.pem")
	if err != nil {
		t.Fatal(err)
	}
	private, err := seal.ParsePrivateKey(string(key))
	if err != nil {
		t.Fatal(err)
	}
	reg, err := simulator.ParseRegistry([]byte(strings.Replace(board, token, strconv.Quote(known), 1)), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.server, err = simulator.New(simulator.Config{PrivateKey: private, Registry: reg}); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(p.server)
	t.Cleanup(listener.Close)
	p.url = listener.URL + "/v1.0/industry/data"
	public, err := filepath.Abs(testKey)
	if err != nil {
		t.Fatal(err)
	}
	p.write(`[[outputs.ocems]]
  alias = "board"
  endpoint = "` + p.url + `"
  state_directory = "` + p.state + `"
  public_key_file = "` + public + `"
  grace = "1s"
  settle = "1s"
  coalesce = "0s"
  spread = "0s"
  [[outputs.ocems.device]]
    station_id = "etp"
    device_id = "etp-1"
    token_id = "${TOKEN}"
    [[outputs.ocems.device.parameter]]
      metric = "etp_analyser"
      field = "cod"
      unit = "mg/L"
`)
	t.Cleanup(func() {
		err := filepath.WalkDir(p.state, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(token)) {
				t.Errorf("a token is in %s", path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	return p
}

func (p *plant) write(config string) {
	p.t.Helper()
	if err := os.WriteFile(p.config, []byte(config), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) change(old, new string) {
	p.t.Helper()
	b, err := os.ReadFile(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(strings.Replace(string(b), old, new, 1))
}

// program is the plugin as outputs.execd starts it.
type program struct {
	*plant
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err buffer
	ended    chan struct{}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (p *plant) start(args ...string) *program {
	p.t.Helper()
	return p.under(nil, args...)
}

// under starts it under another program.
func (p *plant) under(other []string, args ...string) *program {
	p.t.Helper()
	r := &program{plant: p, ended: make(chan struct{})}
	argv := slices.Concat(other, []string{binary, "--config", p.config}, args)
	r.cmd = exec.Command(argv[0], argv[1:]...)
	r.cmd.Env = append(os.Environ(), "TOKEN="+token)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.err
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.ended)
	}()
	p.t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		said := r.out.String() + r.err.String()
		if strings.Contains(said, token) {
			p.t.Error("a token is in the log")
		}
		if p.t.Failed() {
			p.t.Logf("the program's log:\n%.5000s", said)
		}
	})
	return r
}

func (r *program) feed(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, text); err != nil {
		r.t.Fatal(err)
	}
}

// end waits for the process and checks its exit code.
func (r *program) end(code int) {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(stopsIn):
		r.t.Fatalf("it has not ended within %s", stopsIn)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Errorf("exit code %d, want %d", got, code)
	}
}

func (r *program) signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

func (p *plant) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// kept is the number of durable readings in open windows.
func (p *plant) kept() (n int) {
	p.t.Helper()
	state, err := store.Snapshot(filepath.Join(p.state, "state.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		p.t.Fatal(err)
	}
	defer state.Close()
	slots, err := engine.OpenWindows(p.t.Context(), state, slot.Defaults())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, s := range slots {
		n += s.Samples
	}
	return n
}

type reading struct {
	Parameter, Unit, Flag string
	Value                 float64
	Timestamp             int64
}

func (p *plant) received() []reading {
	p.t.Helper()
	return p.account().Readings
}

// account has the counts of the server.
func (p *plant) account() (got struct {
	Duplicates int // requests that were answered 111
	Readings   []reading
}) {
	p.t.Helper()
	w := httptest.NewRecorder()
	p.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		p.t.Fatal(err)
	}
	return got
}

// samples returns a sample every ten seconds of [from, to), as line protocol, and their mean.
func samples(from, to time.Time, every time.Duration) (wire string, sum float64, n int) {
	var b strings.Builder
	for at := from; at.Before(to); at = at.Add(every) {
		v := 100 + 10*math.Sin(float64(at.Unix()))
		fmt.Fprintf(&b, "etp_analyser,host=a cod=%v,other=1i %d\n", v, at.UnixNano())
		sum, n = sum+v, n+1
	}
	return b.String(), sum, n
}

// wantSlots waits for the slots from start on and compares their values.
func (p *plant) wantSlots(start time.Time, means ...float64) {
	p.t.Helper()
	p.until(fmt.Sprintf("%d slots arrive", len(means)), func() bool { return len(p.received()) >= len(means) })
	for i, r := range p.received() {
		end := start.Add(time.Duration(i+1) * slotTime)
		if i >= len(means) || r.Timestamp != end.UnixMilli() || r.Parameter != "cod" || r.Flag != "U" || math.Abs(r.Value-means[i]) > 5e-7*means[i] {
			p.t.Errorf("received %+v, want %v", r, means)
		}
	}
}

func past(slots int) time.Time {
	return time.Now().Truncate(slotTime).Add(-time.Duration(slots) * slotTime)
}

func TestHistoryArrives(t *testing.T) {
	p := newPlant(t)
	r := p.start()
	start := past(5)
	var means []float64
	for i := range 4 {
		wire, sum, n := samples(start.Add(time.Duration(i)*slotTime), start.Add(time.Duration(i+1)*slotTime), every)
		means = append(means, sum/float64(n))
		r.feed(wire)
	}
	p.wantSlots(start, means...)
	r.in.Close()
	r.end(0)
	if r.err.String() != "" {
		t.Errorf("standard error: %s", r.err.String())
	}
}

func TestEndOfInputKeepsWhatWasRead(t *testing.T) {
	p := newPlant(t)
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime), every)
	r := p.start()
	r.feed(wire)
	r.in.Close() // before the window settles, so nothing is sent
	r.end(0)
	if got := len(p.received()); got != 0 {
		t.Fatalf("%d slots arrived before", got)
	}
	r = p.start()
	p.wantSlots(start, sum/float64(n))
	r.in.Close()
	r.end(0)
}

func TestKillLosesNothingThatWasTaken(t *testing.T) {
	p := newPlant(t)
	p.change(`settle = "1s"`, `settle = "10s"`) // the slot must not close before the kill
	start := past(2)
	first, sum, n := samples(start, start.Add(slotTime/2), every)
	r := p.start()
	before := p.kept()
	for line := range strings.Lines(first) {
		r.feed(line)
		p.until("the line is durable", func() bool { return p.kept() > before })
		before = p.kept()
	}
	r.signal(syscall.SIGKILL)
	r.end(-1)
	if len(p.received()) > 0 {
		t.Fatal("the slot closed before the kill")
	}
	p.change(`settle = "10s"`, `settle = "1s"`)
	rest, more, m := samples(start.Add(slotTime/2), start.Add(slotTime), every)
	r = p.start()
	r.feed(rest)
	p.wantSlots(start, (sum+more)/float64(n+m))
	r.in.Close()
	r.end(0)
}

func TestLongAndBadLinesOverThePipe(t *testing.T) {
	p := newPlant(t)
	p.change(`settle = "1s"`, `settle = "6s"`) // the long line takes long
	start := past(2)
	r := p.start()
	at := func(i int) int64 { return start.Add(time.Duration(i) * time.Second).UnixNano() }
	r.feed(fmt.Sprintf("etp_analyser cod=1 %d\n", at(1)))
	r.feed(fmt.Sprintf("etp_analyser text=\"%s\",cod=2 %d\n", strings.Repeat("x", 15<<20), at(2)))
	r.feed("bad \x1b[31m\r line\n")
	r.feed(fmt.Sprintf("etp_analyser text=\"%s\",cod=1000 %d\n", strings.Repeat("x", longest), at(3)))
	r.feed(fmt.Sprintf("other text=\"a\netp_analyser cod=1000 %d\n\" %d\n", at(4), at(4)))
	r.feed(fmt.Sprintf("etp_analyser cod=6 %d\n", at(5)))
	p.wantSlots(start, 3)
	r.in.Close()
	r.end(0)
	if got := r.err.String(); strings.Count(got, "\n") != 2 || len(got) > 1000 || !strings.Contains(got, `\x1b[31m`) || !strings.Contains(got, "longer than") {
		t.Errorf("standard error: %q", got)
	}
}

func TestTermDrainsThePipe(t *testing.T) {
	p := newPlant(t)
	p.change(`settle = "1s"`, `settle = "1h"`) // the slot must not close before all of it is fed
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime), every)
	r := p.start()
	before := p.kept()
	first, rest, _ := strings.Cut(wire, "\n")
	r.feed(first + "\n") // when it runs, its signal handler is ready
	p.until("it runs", func() bool { return p.kept() > before })
	r.feed(rest)
	r.signal(syscall.SIGTERM)
	r.end(0)
	p.change(`settle = "1h"`, `settle = "1s"`)
	p.start()
	p.wantSlots(start, sum/float64(n))
}

func TestSlowBoardDelaysNoStop(t *testing.T) {
	p := newPlant(t)
	fault := httptest.NewRequest(http.MethodPost, "http://localhost/faults", strings.NewReader(`{"count":0,"latency":"8s"}`))
	p.server.ServeHTTP(httptest.NewRecorder(), fault)
	one, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.write(string(one) + strings.Replace(string(one), p.state, p.state+"2", 1))
	r := p.start()
	wire, _, _ := samples(past(2), past(1), every)
	r.feed(wire)
	waiting := func(state string) bool { // the outbox has the slot, so a request is in flight
		b, _ := os.ReadFile(filepath.Join(state, "state.db"))
		return bytes.Contains(b, []byte("etp-1"))
	}
	p.until("both send", func() bool { return waiting(p.state) && waiting(p.state+"2") })
	time.Sleep(2 * tickOfOutput)
	r.in.Close()
	r.end(0)
}

const tickOfOutput = time.Second

func TestStateDirectoryHasOneProcess(t *testing.T) {
	p := newPlant(t)
	first := p.start()
	first.feed("x y=1 1\n")
	p.until("the first has its state", func() bool {
		_, err := os.Stat(filepath.Join(p.state, "audit.jsonl"))
		return err == nil
	})
	second := p.start()
	second.end(1)
	if got := second.err.String(); !strings.Contains(got, "is in use by another process or plugin") || !strings.Contains(got, "line 1: ") || strings.Count(got, "\n") != 1 {
		t.Errorf("standard error: %q", got)
	}
	first.in.Close()
	first.end(0)
}

func TestLogLinesOfTheProcess(t *testing.T) {
	p := newPlant(t)
	p.change(`grace = "1s"`, `timeout = "5s"`)
	for _, c := range []struct {
		name         string
		args         []string
		warns, debug bool
	}{
		{"by default", nil, true, false},
		{"debug", []string{"--debug"}, true, true},
		{"quiet", []string{"--quiet"}, false, false},
	} {
		r := p.start(c.args...)
		r.feed("etp_analyser nothing=1 1\n")
		r.in.Close()
		r.end(0)
		out, err := r.out.String(), r.err.String()
		if strings.Contains(err, "W! board: timeout") != c.warns || strings.Contains(out, "W!") {
			t.Errorf("%s: standard error %q", c.name, err)
		}
		if strings.Contains(out, "D! board: Ignored") != c.debug || strings.Contains(err, "D!") {
			t.Errorf("%s: standard output %q", c.name, out)
		}
	}
	p.change("[[outputs.ocems.device]]", "log_level = \"error\"\n[[outputs.ocems.device]]")
	r := p.start("--debug")
	r.in.Close()
	r.end(0)
	if got := r.out.String() + r.err.String(); got != "" {
		t.Errorf("with log_level = error: %q", got)
	}
}

func TestConfigurationErrorEndsTheProcess(t *testing.T) {
	p := newPlant(t)
	p.change("spread", "sprad")
	r := p.start()
	r.end(1)
	if got := r.err.String(); !strings.Contains(got, `line 9: unknown key "sprad"; nearest: spread`) {
		t.Errorf("standard error: %q", got)
	}
}
