// Package board gives the test of an example the environment of the program under test: the board's simulated server, and
// the program as a process.
package board

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/wallclock"
)

// Path is the URL path for data.
const Path = "/v1.0/industry/data"

// Client keeps no connections: the end of any test server closes those of the default client, which can break a request.
var Client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Board is the board's server for one industry.
type Board struct {
	http.Handler
	URL       string // for data
	PublicKey string // file of the industry's public key
	t         *testing.T
}

// New starts a server with the stations, and closes it at the end of the test.
func New(t *testing.T, stations ...simulator.Station) *Board {
	t.Helper()
	return Of(t, &simulator.Registry{Stations: stations})
}

// Of is New for a board with its own keys.
func Of(t *testing.T, registry *simulator.Registry) *Board {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	keys := filepath.Join(filepath.Dir(here), "../../ocems/seal/testdata/industry_test_")
	text, err := os.ReadFile(keys + "private.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	server, err := simulator.New(simulator.Config{PrivateKey: key, Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	t.Cleanup(server.Close)
	return &Board{server, listening.URL + Path, keys + "public.pem", t}
}

// Received returns the data that the server has received.
func (b *Board) Received() simulator.Received {
	b.t.Helper()
	return Received(b.t, b)
}

// Received returns the data that a simulator has received.
func Received(t *testing.T, server http.Handler) (got simulator.Received) {
	t.Helper()
	w := httptest.NewRecorder()
	server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/received", nil))
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// Arrive waits until the server has n readings.
func (b *Board) Arrive(n int) []simulator.Reading {
	b.t.Helper()
	Until(b.t, fmt.Sprintf("%d readings arrive", n), func() bool { return len(b.Received().Readings) >= n })
	return b.Received().Readings
}

// Values returns the readings by parameter, stamp and flag, such as "cod 1795521600000 U". A reading that occurs twice fails
// the test.
func (b *Board) Values() map[string]float64 {
	b.t.Helper()
	values := map[string]float64{}
	for _, r := range b.Received().Readings {
		key := Key(r.Parameter, time.UnixMilli(r.Timestamp), r.Flag)
		if _, twice := values[key]; twice {
			b.t.Errorf("%s occurs twice", key)
		}
		v, err := r.Value.Float64()
		if err != nil {
			b.t.Fatal(err)
		}
		values[key] = v
	}
	return values
}

// Key returns a key of Values.
func Key(parameter string, stamp time.Time, flag string) string {
	return fmt.Sprintf("%s %d %s", parameter, stamp.UnixMilli(), flag)
}

// Program is a running program.
type Program struct {
	t       *testing.T
	command *exec.Cmd
	clock   *wallclock.Clock
	log     string
	ended   chan struct{}
}

// Built returns the path in an environment variable. If it is not set, the test is skipped.
func Built(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s is not set: make test builds the program and sets it", variable)
	}
	return path
}

// Start starts a program in dir with environment variables, such as NAME=value, and stops it at the end of the test.
func Start(t *testing.T, dir string, variables []string, argv ...string) *Program {
	t.Helper()
	return StartAt(t, 0, dir, variables, argv...)
}

// StartAt is Start for a program whose wall clock is wrong by off.
func StartAt(t *testing.T, off time.Duration, dir string, variables []string, argv ...string) *Program {
	t.Helper()
	log, err := os.CreateTemp(dir, "*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &Program{t: t, command: exec.Command(argv[0], argv[1:]...), log: log.Name(), ended: make(chan struct{})}
	p.command.Dir, p.command.Env = dir, append(os.Environ(), variables...)
	p.command.Stdout, p.command.Stderr = log, log
	if off == 0 {
		err = p.command.Start()
	} else {
		p.clock, err = wallclock.Start(p.command, off)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.command.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		p.Stop()
		if p.clock != nil {
			p.clock.Close()
		}
		if t.Failed() {
			text := p.Log()
			t.Logf("the end of the log of %s:\n%s", filepath.Base(argv[0]), text[max(0, len(text)-8000):])
		}
	})
	return p
}

// Log returns the program's output until now.
func (p *Program) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// Says waits for a text in the log.
func (p *Program) Says(text string) {
	p.t.Helper()
	Until(p.t, fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(p.Log(), text) })
}

// Ended waits until the program ends, and returns its exit code.
func (p *Program) Ended() int {
	p.t.Helper()
	Until(p.t, filepath.Base(p.command.Path)+" ends", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	return p.command.ProcessState.ExitCode()
}

// Signal sends a signal.
func (p *Program) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Kill sends kill -9.
func (p *Program) Kill() {
	_ = p.command.Process.Kill()
	<-p.ended
}

// Stop sends SIGTERM. The test fails if the program takes more than 20 s to end. Stop does nothing if it has already ended.
func (p *Program) Stop() {
	p.t.Helper()
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s has not ended within 20 s", filepath.Base(p.command.Path))
		p.Kill()
	}
}

// Until waits for a condition, for at most 50 s.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(50 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 50 s: %s", what)
		}
	}
}

// Listens waits until a program listens at an address.
func Listens(t *testing.T, address string) {
	t.Helper()
	Until(t, "a program listens at "+address, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Write writes a file atomically, so that no program reads an incomplete file.
func Write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Config copies an example's configuration into dir and replaces pairs of old and new text. It must contain each old text.
func Config(t *testing.T, file, dir string, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(string(text), pairs[i]) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
	}
	path := filepath.Join(dir, filepath.Base(file))
	Write(t, path, strings.NewReplacer(pairs...).Replace(string(text)))
	return path
}
