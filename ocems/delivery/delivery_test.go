package delivery_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener and dialer in memory, so that a real server and client run in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	off   bool
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

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

const tokenOf = "token-for-tests-"

type sealer struct {
	key   *rsa.PublicKey
	token string
}

func (s sealer) Seal(text []byte) []byte {
	b, _ := seal.Seal(s.token, text)
	return b
}
func (s sealer) Sign(at time.Time) (string, error) { return seal.Sign(s.key, s.token, at) }

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

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// plant is a delivery, the board's server and the network between them.
type plant struct {
	t      *testing.T
	net    *pipes
	server http.Handler // the simulator, or a server of the test
	http   *http.Server
	client *http.Client
	cfg    delivery.Config
	d      *delivery.Delivery
	log    *logText
	trail  string
	mu     sync.Mutex
	tokens map[string]string
}

func newPlant(t *testing.T, registry string, change func(*delivery.Config)) *plant {
	t.Helper()
	pem, err := os.ReadFile("../seal/testdata/industry_test_private.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParsePrivateKey(string(pem))
	if err != nil {
		t.Fatal(err)
	}
	reg, err := simulator.ParseRegistry([]byte(registry), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{t: t, net: newPipes(), log: &logText{}, tokens: map[string]string{}}
	if p.server, err = simulator.New(simulator.Config{PrivateKey: key, Registry: reg, Hosts: []string{"cpcb.test"}}); err != nil {
		t.Fatal(err)
	}
	p.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		server := p.server
		p.mu.Unlock()
		server.ServeHTTP(w, r)
	})}
	go p.http.Serve(p.net)
	transport := &http.Transport{DialContext: p.net.dial, MaxIdleConnsPerHost: 8}
	p.client = &http.Client{Transport: transport, Timeout: 45 * time.Second}
	p.trail = filepath.Join(t.TempDir(), "audit.jsonl")
	trail, err := audit.Open(p.trail)
	if err != nil {
		t.Fatal(err)
	}
	p.cfg = delivery.Config{
		Delivery: options.DefaultDelivery(), Client: p.client, Store: store.NewMemory(), Trail: trail,
		Logger: slog.New(slog.NewTextHandler(p.log, nil)),
		Lookup: func(device string) (delivery.Target, bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			token := tokenOf + device
			if t, ok := p.tokens[device]; ok {
				token = t
			}
			return delivery.Target{StationID: "s-" + device, DeviceID: device, Sealer: sealer{&key.PublicKey, token}}, !strings.HasPrefix(device, "gone")
		},
	}
	p.cfg.Endpoint = "http://cpcb.test/v1.0/industry/data"
	if change != nil {
		change(&p.cfg)
	}
	p.start()
	t.Cleanup(func() {
		p.stop()
		transport.CloseIdleConnections()
		p.http.Close()
		trail.Close()
		if strings.Contains(p.log.String(), tokenOf) {
			t.Error("a token is in the log")
		}
	})
	return p
}

func (p *plant) start() {
	d, err := delivery.New(context.Background(), p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.d = d
}

func (p *plant) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p.d.Close(ctx)
}

func (p *plant) put(device string, stamp time.Time, readings ...payload.Reading) {
	p.t.Helper()
	for i := range readings {
		readings[i].Stamp = stamp
	}
	if err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-" + device, DeviceID: device, Readings: readings}}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) fault(text string) {
	p.t.Helper()
	resp, err := p.client.Post("http://cpcb.test/faults", "application/json", strings.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(resp.Body)
		p.t.Fatalf("setting a fault: %s", b)
	}
}

// received returns what the server has, as device/parameter/minutes-since-start, in the order of arrival.
func (p *plant) received() []string {
	p.t.Helper()
	p.net.unplug(false)
	resp, err := p.client.Get("http://cpcb.test/received")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Readings []struct {
			Device, Parameter string
			Value             float64
			Timestamp         int64
			Flag              string
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, r := range got.Readings {
		out = append(out, fmt.Sprintf("%s/%s@%s=%v%s", r.Device, r.Parameter, time.UnixMilli(r.Timestamp).UTC().Format("15:04:05"), r.Value, r.Flag))
	}
	return out
}

// outcomes counts the lines of the verified audit trail.
func (p *plant) outcomes() map[audit.Outcome]int {
	p.t.Helper()
	f, err := os.Open(p.trail)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	got := map[audit.Outcome]int{}
	if err := audit.Verify(f, func(e audit.Entry) {
		if len(e.Readings) > 0 || e.Outcome == audit.Recovered {
			got[e.Outcome] += len(e.Readings)
		}
	}); err != nil {
		p.t.Fatal(err)
	}
	return got
}

func (p *plant) want(what string, got, want any) {
	p.t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		p.t.Errorf("%s:\n got %s\nwant %s\nlog:\n%s", what, g, w, p.log)
	}
}

func cod(v float64) payload.Reading {
	return payload.Reading{Parameter: "cod", Value: v, Unit: "mg/L", Flag: spec.FlagNormal}
}
func bod(v float64) payload.Reading {
	return payload.Reading{Parameter: "bod", Value: v, Unit: "mg/L", Flag: spec.FlagNormal}
}
func so2(v float64) payload.Reading {
	return payload.Reading{Parameter: "so2", Value: v, Unit: "mg/Nm³", Flag: spec.FlagNormal}
}

const registry = `
stations:
  - id: s-a
    devices: [{id: a, token: token-for-tests-a, parameters: {cod: [mg/L], bod: [mg/L]}}]
  - id: s-b
    devices: [{id: b, token: token-for-tests-b, calibrations: [{from: -24h, to: 24h}]}]
`

// The bubble's clock starts at 2000-01-01 00:00 UTC. Tests begin an hour later.
func at(minutes int) time.Time {
	return time.Date(2000, 1, 1, 0, minutes, 0, 0, time.UTC)
}

func noWait(c *delivery.Config) { c.Coalesce, c.Spread = options.Duration{}, options.Duration{} }

func run(t *testing.T, name string, registry string, change func(*delivery.Config), f func(*plant)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Hour)
			f(newPlant(t, registry, change))
		})
	})
}

func TestOutcomes(t *testing.T) {
	run(t, "one request a slot, oldest first", registry, nil, func(p *plant) {
		p.put("a", at(45), cod(3))
		p.put("a", at(30), cod(2))
		p.put("a", at(15), cod(1))
		p.put("a", at(15), bod(4)) // another parameter that came later joins the slot
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:15:00=4U", "a/cod@00:15:00=1U", "a/cod@00:30:00=2U", "a/cod@00:45:00=3U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 4})
		p.want("waiting", p.d.Stats().Slots, 0)
	})
	run(t, "an outage is delivered oldest first", registry, nil, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 4; i++ {
			p.put("a", at(15*i), cod(float64(i)))
		}
		time.Sleep(3 * time.Hour)
		p.want("waiting", p.d.Stats().Slots, 4)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/cod@00:30:00=2U", "a/cod@00:45:00=3U", "a/cod@01:00:00=4U"})
	})
	for _, c := range []struct{ name, fault string }{
		{"HTTP 500", `{"count":3,"http_status":500}`},
		{"429 with Retry-After", `{"count":1,"http_status":429,"retry_after":120}`},
		{"HTML page", `{"count":2,"html":true}`},
		{"closed connection", `{"count":2,"close":true}`},
		{"half an answer", `{"count":2,"half":true}`},
		{"status 0", `{"count":2,"status":0}`},
		{"unknown status", `{"count":2,"status":108}`},
		{"server's clock behind", `{"count":1,"clock_offset":"-50m"}`},
	} {
		run(t, "kept and sent again after "+c.name, registry, nil, func(p *plant) {
			p.fault(c.fault)
			p.put("a", at(15), cod(1), bod(2))
			p.put("a", at(30), cod(3))
			time.Sleep(30 * time.Minute)
			p.want("received", p.received(), []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U", "a/cod@00:30:00=3U"})
			want := map[audit.Outcome]int{audit.Delivered: 3}
			if strings.Contains(c.fault, "half") { // the server has stored the slot although its answer was cut off
				want = map[audit.Outcome]int{audit.Delivered: 1, audit.AlreadyStored: 2}
			}
			p.want("outcomes", p.outcomes(), want)
		})
	}
	run(t, "a lost reply is already stored", registry, nil, func(p *plant) {
		p.fault(`{"count":1,"close":true,"after_store":true}`)
		p.put("a", at(15), cod(1), bod(2))
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 2})
	})
	run(t, "111 for a slot that is stored in part loses nothing", registry, nil, func(p *plant) {
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.put("a", at(15), cod(1), bod(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/bod@00:15:00=2U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2, audit.AlreadyStored: 1})
	})
	run(t, "one refused parameter does not hold up the others", registry, nil, func(p *plant) {
		p.put("a", at(15), cod(1), bod(2), so2(3))
		p.put("a", at(30), cod(4), bod(5), so2(6))
		time.Sleep(5 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/bod@00:15:00=2U", "a/bod@00:30:00=5U", "a/cod@00:30:00=4U"})
		p.want("waiting", p.d.Stats().Slots, 2)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{"119": 1})
		time.Sleep(9 * 24 * time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 4, audit.Expired: 2})
	})
	run(t, "two refused parameters", registry, nil, func(p *plant) {
		ph := payload.Reading{Parameter: "ph", Value: 7, Unit: "pH", Flag: spec.FlagNormal}
		p.put("a", at(15), cod(1), bod(2), so2(3), ph)
		time.Sleep(5 * time.Minute)
		p.want("received", len(p.received()), 2)
		p.want("waiting", p.d.Stats().Slots, 1)
	})
	run(t, "one of two refused parameters is taken again", registry, nil, func(p *plant) {
		ph := payload.Reading{Parameter: "ph", Value: 7, Unit: "pH", Flag: spec.FlagNormal}
		p.answers(refuses("so2", "ph"))
		p.put("a", at(15), cod(1), so2(3), ph)
		p.put("a", at(30), cod(2), so2(4), ph)
		time.Sleep(5 * time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2})
		p.answers(refuses("so2"))
		time.Sleep(30 * time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 4})
		p.want("waiting", p.d.Stats().Slots, 2)
	})
	run(t, "an unscheduled calibration point waits, its slot does not", registry, nil, func(p *plant) {
		z := bod(0)
		z.Flag = spec.FlagZeroCalibration
		var asked atomic.Int32
		board := p.serve(nil)
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				asked.Add(1)
			}
			board.ServeHTTP(w, r)
		}))
		p.put("a", at(15), cod(1), z)
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
		p.want("requests of both, and of the average", asked.Load(), int32(2))
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
		p.answers(success)
		time.Sleep(10 * time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2})
	})
	const calibrating = "stations: [{id: s-a, devices: [{id: a, token: token-for-tests-a, calibrations: [{from: -24h, to: 24h}]}]}]"
	run(t, "a calibration point that ends with the slot goes beside it", calibrating, nil, func(p *plant) {
		z := cod(0.5)
		z.Flag = spec.FlagZeroCalibration
		p.put("a", at(15), cod(1), z, bod(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U", "a/cod@00:15:00=0.5Z"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 3})
	})
	run(t, "a parameter twice in one Put goes once", registry, nil, func(p *plant) {
		spaced := cod(1)
		spaced.Parameter, spaced.Unit = " cod", "mg/L "
		p.put("a", at(15), cod(1), spaced, cod(3), bod(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2, audit.Refused: 1})
	})
	run(t, "too large is split", registry, nil, func(p *plant) {
		p.fault(`{"count":1,"http_status":413}`)
		p.put("a", at(15), cod(1), bod(2))
		time.Sleep(time.Minute)
		p.want("received", len(p.received()), 2)
	})
	run(t, "the second value for a slot is refused and kept in the trail", registry, nil, func(p *plant) {
		p.put("a", at(15), cod(1))
		p.put("a", at(15), cod(1))
		p.put("a", at(15), cod(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1, audit.Refused: 1})
	})
}

// refuses is a server that accepts everything of device a except these parameters.
func refuses(parameters ...string) func(w http.ResponseWriter, r *http.Request, n int) {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		body, _ := io.ReadAll(r.Body)
		text, _ := seal.Open(tokenOf+"a", body)
		for _, name := range parameters {
			if strings.Contains(string(text), `"`+name+`"`) {
				fmt.Fprint(w, `{"status":119,"msg":"Invalid Parameter"}`)
				return
			}
		}
		success(w, r, n)
	}
}

func TestOneBadSlotDoesNotHoldUpTheRest(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.fault(`{"count":5,"status":0}`)
		for i := 1; i <= 3; i++ {
			p.put("a", at(15*i), cod(float64(i)))
		}
		time.Sleep(5 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:30:00=2U", "a/cod@00:45:00=3U"})
		time.Sleep(20 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:30:00=2U", "a/cod@00:45:00=3U", "a/cod@00:15:00=1U"})
	})
}

// TestSlotThatFailsForItself has a slot for which the server always answers with an error instead of a status.
func TestSlotThatFailsForItself(t *testing.T) {
	for _, c := range []struct {
		code int
		body string
	}{{500, "oops"}, {400, `{"status":112}`}, {400, `{"status":111}`}, {422, `bad`}, {200, "<html>"}} {
		run(t, fmt.Sprint(c), registry, noWait, func(p *plant) {
			var taken atomic.Int64
			p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				switch text, _ := seal.Open(tokenOf+"a", body); {
				case r.Method != http.MethodPost:
				case strings.Contains(string(text), "1313"):
					w.WriteHeader(c.code)
					fmt.Fprint(w, c.body)
				default:
					taken.Add(1)
					fmt.Fprint(w, `{"status":1}`)
				}
			}))
			p.put("a", at(15), cod(1313))
			for i := range 8 {
				p.put("a", at(15*(i+2)), cod(1))
				time.Sleep(15 * time.Minute)
			}
			p.want("taken", taken.Load(), int64(8))
			p.want("waiting", p.d.Stats().Slots, 1)
			p.want("in trouble", p.d.Stats().HeldFor, map[string]int{"other": 1})
		})
	}
	run(t, "the server fails for all slots, for long", registry, noWait, func(p *plant) {
		honest := p.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
		for i := range 8 {
			p.put("a", at(15*(i+1)), cod(1))
			time.Sleep(15 * time.Minute)
		}
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
		p.client.CloseIdleConnections()
		p.serve(honest)
		time.Sleep(6 * time.Minute)
		p.want("received", len(p.received()), 8)
	})
}

func TestWrongTokenHoldsOneDevice(t *testing.T) {
	var mu sync.Mutex
	var health []bool
	run(t, "", registry, func(c *delivery.Config) {
		c.OnHealth = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			health = append(health, err != nil)
		}
	}, func(p *plant) {
		p.tokens["a"] = "wrong"
		p.put("a", at(15), cod(1))
		p.put("b", at(15), so2(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"b/so2@00:15:00=2U"})
		p.want("held", p.d.Stats().Held, 1)
		p.mu.Lock()
		delete(p.tokens, "a")
		p.mu.Unlock()
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"b/so2@00:15:00=2U", "a/cod@00:15:00=1U"})
		mu.Lock()
		defer mu.Unlock()
		p.want("trouble", health, []bool{true, false})
	})
}

// The token is corrected while a request with the wrong token waits for its answer.
func TestRetryDuringARequest(t *testing.T) {
	run(t, "", registry, func(c *delivery.Config) { c.HoldInterval.Duration = 24 * time.Hour }, func(p *plant) {
		p.tokens["a"] = "wrong"
		p.fault(`{"device":"a","count":1,"latency":"20s"}`)
		p.put("a", at(15), cod(1))
		time.Sleep(25 * time.Second)
		p.mu.Lock()
		delete(p.tokens, "a")
		p.mu.Unlock()
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
	})
}

func TestRestartKeepsWhatWaits(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 3; i++ {
			p.put("a", at(15*i), cod(float64(i)), bod(0))
		}
		time.Sleep(time.Minute)
		p.stop()
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("received", len(p.received()), 6)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 6})
	})
}

func TestDryRunSendsNothing(t *testing.T) {
	run(t, "", registry, func(c *delivery.Config) { c.DryRun = true }, func(p *plant) {
		p.put("a", at(15), cod(1))
		z := cod(0.5)
		z.Flag = spec.FlagZeroCalibration
		p.put("a", at(30), cod(2), z)
		time.Sleep(time.Hour)
		p.want("received", len(p.received()), 0)
		p.want("waiting", p.d.Stats().Slots, 2)
		p.want("logged", strings.Count(p.log.String(), "this would be sent"), 3)
		time.Sleep(7 * 24 * time.Hour)
		p.want("waiting after 7 days", p.d.Stats().Slots, 0)
		p.want("logged after 7 days", strings.Count(p.log.String(), "this would be sent"), 3)
	})
}

func TestUnknownDeviceWaits(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.put("gone", at(15), cod(1))
		time.Sleep(time.Minute)
		p.want("held", p.d.Stats().Held, 1)
	})
}

func TestFullStoreRefusesAndHeals(t *testing.T) {
	full := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = full }, func(p *plant) {
		full.fill(true)
		err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a",
			Readings: []payload.Reading{{Parameter: "cod", Value: 1, Unit: "mg/L", Flag: 'U', Stamp: at(15)}}}})
		if err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("a full store took readings: %v", err)
		}
		full.fill(false)
		p.net.unplug(true)
		p.put("a", at(15), cod(1))
		full.fill(true)
		for range 10 { // the host retries
			err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a",
				Readings: []payload.Reading{{Parameter: "cod", Value: 2, Unit: "mg/L", Flag: 'U', Stamp: at(15)}, {Parameter: "bod", Value: 2, Unit: "mg/L", Flag: 'U', Stamp: at(15)}}}})
			p.want("a full store takes readings", err == nil, false)
		}
		full.fill(false)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1, audit.Refused: 1})
	})
}

// TestSuspendedParameterComesBack works although the oldest parked slot never succeeds.
func TestSuspendedParameterComesBack(t *testing.T) {
	run(t, "suspended", registry, noWait, func(p *plant) {
		from, to := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			if bad := time.Now().After(from) && time.Now().Before(to); bad {
				refuses("so2", "bod")(w, r, n)
			} else {
				refuses("so2")(w, r, n)
			}
		})
		for i := range 96 {
			p.put("a", at(60+15*i), cod(1), bod(1), so2(1))
			time.Sleep(15 * time.Minute)
		}
		time.Sleep(time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 192})
	})
}

// TestTokenInAnAnswer: a token is in no log and no trail, wherever the server repeats it, even if the text is cut
// within it.
func TestTokenInAnAnswer(t *testing.T) {
	long := strings.Repeat("x", 120)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"msg": func(w http.ResponseWriter, r *http.Request, n int) {
			fmt.Fprintf(w, `{"status":117,"msg":"too old, %s, for token %sa"}`, long, tokenOf)
		},
		"page": func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "too old: %s %sa", long, tokenOf)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request, n int) {
			http.Redirect(w, r, "/too old/"+long+"?token="+tokenOf+"a", http.StatusFound)
		},
		"no HTTP": func(w http.ResponseWriter, r *http.Request, n int) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 %sa\r\n\r\n", tokenOf)
			conn.Close()
		},
	} {
		run(t, name, registry, func(cfg *delivery.Config) {
			cfg.Hide = func(text []byte) []byte { return bytes.ReplaceAll(text, []byte(tokenOf+"a"), []byte("(hidden)")) }
		}, func(p *plant) {
			p.answers(answer)
			p.put("a", at(15), cod(1))
			time.Sleep(time.Minute)
			text, err := os.ReadFile(p.trail)
			if err != nil {
				t.Fatal(err)
			}
			said := string(text) + p.log.String()
			if !strings.Contains(said, "(hidden)") || strings.Contains(said, "token-") {
				t.Error(said)
			}
		})
	}
}
