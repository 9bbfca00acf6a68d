package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tokenA = "token-of-device-a"
	tokenB = "token-of-device-b"
)

const stations = `
stations:
  - id: s-a
    devices: [{id: a, token: ` + tokenA + `}]
  - id: s-b
    devices: [{id: b, token: ` + tokenB + `}]
  - id: s-seven
    devices: [{id: seven, token: token-of-device-seven, parameters: {cod: [], bod: [], tss: [], toc: [], do: [], no3-n: []}}]
`

// pipes is a listener and dialer in memory, so that a real server and client run in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	off   bool
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
func (p *pipes) unplug(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
}
func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	off := p.off
	p.mu.Unlock()
	if off {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// logText is a log that can be read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) lines(part string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

// faulty is a store whose writes a test can watch, delay or fail.
type faulty struct {
	store.Store
	mu      sync.Mutex
	batches int
	before  func(n int, ops []store.Op) error // if it fails, the n-th write is not written
	after   func(n int) error                 // if it fails, the write is written but its writer gets the error
}

var errDisk = errors.New("no space left on device")

func (f *faulty) Batch(ctx context.Context, ops ...store.Op) error {
	f.mu.Lock()
	n, before, after := f.batches, f.before, f.after
	f.batches++
	f.mu.Unlock()
	if before != nil {
		if err := before(n, ops); err != nil {
			return err
		}
	}
	err := f.Store.Batch(ctx, ops...)
	if err == nil && after != nil {
		err = after(n)
	}
	return err
}

func (f *faulty) Path() string { return f.Store.(*store.File).Path() }

func (f *faulty) set(before func(n int, ops []store.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches, f.before = 0, before
}

func (f *faulty) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.batches
}

// plant is an engine with its disk, the board and the network between them.
type plant struct {
	t     *testing.T
	dir   string
	net   *pipes
	log   *logText
	disk  *faulty
	file  *store.File
	cfg   engine.Config
	e     *engine.Engine
	board *http.Client
}

// run opens a plant at 01:00 of the bubble's first day.
func run(t *testing.T, name string, change func(*engine.Config), f func(p *plant)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Hour)
			f(newPlant(t, change))
		})
	})
}

func newPlant(t *testing.T, change func(*engine.Config)) *plant {
	t.Helper()
	text, err := os.ReadFile("../seal/testdata/industry_test_private.pem")
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	reg, err := simulator.ParseRegistry([]byte(stations), time.Now())
	require.NoError(t, err)
	sim, err := simulator.New(simulator.Config{PrivateKey: key, Registry: reg})
	require.NoError(t, err)
	p := &plant{t: t, dir: t.TempDir(), net: &pipes{conns: make(chan net.Conn), done: make(chan struct{})}, log: &logText{}, disk: &faulty{}}
	server := &http.Server{Handler: sim}
	go server.Serve(p.net)
	transport := &http.Transport{DialContext: p.net.dial, MaxIdleConnsPerHost: 8}
	p.board = &http.Client{Transport: transport, Timeout: 45 * time.Second}
	names := registry.Config{PublicKeyFile: "../seal/testdata/industry_test_public.pem", Words: registry.Telegraf, Devices: []registry.DeviceConfig{
		{StationID: "s-a", DeviceID: "a", TokenID: tokenA}, {StationID: "s-b", DeviceID: "b", TokenID: tokenB}}}
	p.cfg = engine.Config{Slots: options.DefaultSlots(), Names: names, Store: p.disk,
		Boot:   func() (string, time.Duration) { return "", 0 }, // the bubble's time differs from the kernel's
		Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Board:  &engine.Board{Delivery: options.DefaultDelivery(), Client: p.board}}
	p.cfg.Slots.AuditFile = filepath.Join(p.dir, "audit.jsonl")
	p.cfg.Board.Endpoint = "http://cpcb.test/v1.0/industry/data"
	if change != nil {
		change(&p.cfg)
	}
	p.openFile()
	p.open()
	t.Cleanup(func() {
		p.close()
		require.NoError(t, p.file.Close())
		transport.CloseIdleConnections()
		require.NoError(t, server.Close())
		assert.Empty(t, p.log.lines("token-of-device"))
	})
	return p
}

func (p *plant) openFile() {
	p.t.Helper()
	var err error
	p.file, err = store.Open(filepath.Join(p.dir, "state.db"))
	require.NoError(p.t, err)
	p.disk.Store = p.file
}

func (p *plant) open() {
	p.t.Helper()
	var err error
	p.e, err = engine.Open(context.Background(), p.cfg)
	require.NoError(p.t, err)
	synctest.Wait() // so that the server's time is known
	p.board.CloseIdleConnections()
}

func (p *plant) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = p.e.Close(ctx)
}

func (p *plant) restart() {
	p.t.Helper()
	p.close()
	p.open()
}

// kill ends the engine so that it writes nothing more. Disk and trail stay as they were.
func (p *plant) kill() {
	p.t.Helper()
	trail, err := os.ReadFile(p.cfg.Slots.AuditFile)
	require.NoError(p.t, err)
	p.disk.set(func(int, []store.Op) error { return errDisk })
	p.close()
	p.disk.set(nil)
	require.NoError(p.t, os.WriteFile(p.cfg.Slots.AuditFile, trail, 0o600))
}

func (p *plant) take(readings ...engine.Reading) error {
	b := p.e.NewBatch()
	for _, r := range readings {
		b.Add(r)
	}
	return b.Commit(context.Background())
}

func (p *plant) mustTake(readings ...engine.Reading) {
	p.t.Helper()
	require.NoError(p.t, p.take(readings...))
}

// put changes values of the state while no engine uses it.
func (p *plant) put(ops ...store.Op) {
	p.t.Helper()
	require.NoError(p.t, p.file.Batch(context.Background(), ops...))
}

// keys returns the keys of the state with a prefix, and their values.
func (p *plant) keys(prefix string) (keys []string, values [][]byte) {
	p.t.Helper()
	require.NoError(p.t, p.file.Range(context.Background(), prefix, func(key string, value []byte) error {
		keys, values = append(keys, key), append(values, slices.Clone(value))
		return nil
	}))
	return keys, values
}

// received returns what the board has, sorted.
func (p *plant) received() (out []string) {
	p.t.Helper()
	p.net.unplug(false)
	resp, err := p.board.Get("http://localhost/received")
	require.NoError(p.t, err)
	defer resp.Body.Close()
	var got simulator.Received
	require.NoError(p.t, json.NewDecoder(resp.Body).Decode(&got))
	for _, r := range got.Readings {
		out = append(out, fmt.Sprintf("%s/%s@%s=%v%s", r.Device, r.Parameter, time.UnixMilli(r.Timestamp).UTC().Format("15:04"), r.Value, r.Flag))
	}
	slices.Sort(out)
	return out
}

// trail returns the lines of the verified trail without the board's outcomes.
func (p *plant) trail() (lines []string) {
	p.t.Helper()
	for _, e := range p.entries() {
		if e.Outcome != audit.Refused && e.Outcome != audit.Late {
			continue
		}
		text := fmt.Sprintf("%s %s %s/%s@%s %dx", e.Outcome, e.Reason, e.Device, e.Parameter, time.UnixMilli(e.Stamp).UTC().Format("15:04"), e.Count)
		for _, r := range e.Readings {
			text += fmt.Sprintf(" %v%s", r.Value, r.Flag)
		}
		lines = append(lines, text)
	}
	return lines
}

func (p *plant) entries() (list []audit.Entry) {
	p.t.Helper()
	f, err := os.Open(p.cfg.Slots.AuditFile)
	require.NoError(p.t, err)
	defer f.Close()
	require.NoError(p.t, audit.Verify(f, func(e audit.Entry) { list = append(list, e) }))
	return list
}

// clock returns a time of the bubble's first day.
func clock(hour, minute, second int) time.Time {
	return time.Date(2000, 1, 1, hour, minute, second, 0, time.UTC)
}

func until(t time.Time) { time.Sleep(time.Until(t)) }

// reading makes a reading of a device whose metrics need no mapping.
func reading(device, parameter string, at time.Time, value float64, attributes ...string) engine.Reading {
	attr := map[string]string{"ocems.device.id": device, "ocems.unit": "mg/L"}
	for i := 0; i < len(attributes); i += 2 {
		attr[attributes[i]] = attributes[i+1]
	}
	r := engine.Reading{Metric: registry.Metric{Name: parameter, Attr: func(key string) (string, bool) { v, ok := attr[key]; return v, ok }},
		Time: at, Value: value}
	if plc, ok := attr["plc"]; ok {
		r.Source = engine.Source{ID: engine.SourcePart("plc", plc) + engine.SourcePart("site", "x"), Text: func() string { return "site=x plc=" + plc }}
	}
	return r
}

func finished(device, parameter string, stamp time.Time, value float64, attributes ...string) engine.Reading {
	r := reading(device, parameter, stamp, value, attributes...)
	r.Unit, r.Finished = "mg/L", true
	return r
}
