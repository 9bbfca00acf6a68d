// Package proxy_test runs both hosts in a network where a proxy is the only way to the board.
package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	name     = "cems.cpcb.invalid" // only the proxy knows its address
	password = "pa55word-of-the-plant"
)

// proxy is a CONNECT proxy with basic authentication. It connects to the board, for any port.
type proxy struct {
	board string
	mu    sync.Mutex
	user  string // user and password that are accepted now
	open  int    // accepted connections
	shut  int    // refused connections
}

func (p *proxy) takes(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user = user
}

func (p *proxy) count() (open, shut int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.shut
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	user, pass, _ := r.BasicAuth()
	p.mu.Lock()
	welcome := r.Method == http.MethodConnect && strings.HasPrefix(r.Host, name+":") && user+":"+pass == p.user
	if welcome {
		p.open++
	} else {
		p.shut++
	}
	p.mu.Unlock()
	if !welcome {
		w.Header().Set("Proxy-Authenticate", `Basic realm="plant"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	out, err := net.Dial("tcp", p.board)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	fmt.Fprint(in, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(out, buffered); out.Close() }()
	_, _ = io.Copy(in, out)
}

// plant is a network with one way out.
type plant struct {
	*board.Board
	*proxy
	t    *testing.T
	dir  string
	url  string // of the board
	env  []string
	pair []string // for board.Config
}

func newPlant(t *testing.T) *plant {
	p := &plant{t: t, dir: t.TempDir(), proxy: &proxy{user: "ocems:another"}}
	p.Board = board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: "8d97c71e68c2f4eee5fb254fccb49773"}}})
	ca := board.NewCA(t, p.dir)
	certificate, _, _ := ca.Issue(name)
	server := httptest.NewUnstartedServer(p.Board)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	p.board = server.Listener.Addr().String()
	gate := httptest.NewServer(p.proxy)
	t.Cleanup(gate.Close)
	p.url = "https://" + name + board.Path
	p.env = []string{"OCEMS_PROXY_URL=http://ocems:" + password + "@" + gate.Listener.Addr().String(), "NO_PROXY=", "no_proxy="}
	board.Write(t, filepath.Join(p.dir, "token"), "8d97c71e68c2f4eee5fb254fccb49773")
	p.pair = []string{"/etc/ocems/plant-ca.pem", ca.File, "/var/lib/ocems", p.dir, "/etc/ocems/public.pem", p.PublicKey,
		"/etc/ocems/tokens/device_5678", filepath.Join(p.dir, "token")}
	return p
}

// live checks that the log reports a wrong password with its key, and that the slot is delivered after the proxy accepts the password.
func (p *plant) live(program *board.Program, slot time.Time, key string) {
	p.t.Helper()
	board.Until(p.t, "the proxy refuses the password", func() bool { _, shut := p.count(); return shut > 1 })
	program.Says("the proxy wants another user or password in " + key)
	if n := len(p.Received().Readings); n != 0 {
		p.t.Fatalf("the board has %d readings that did not go through the proxy", n)
	}
	p.takes("ocems:" + password)
	if got := p.Arrive(1)[0]; got.Value != "81.5" || got.Timestamp != slot.UnixMilli() {
		p.t.Errorf("the board has %+v", got)
	}
	if open, _ := p.count(); open == 0 {
		p.t.Error("nothing went through the proxy")
	}
	program.Stop()
	if strings.Contains(program.Log(), password) {
		p.t.Error("the proxy's password is in the log")
	}
}

func reading() (at, slot time.Time) {
	slot = time.Now().Truncate(15 * time.Minute).Add(-15 * time.Minute)
	return slot.Add(-time.Minute), slot
}

func TestCollector(t *testing.T) {
	binary := board.Built(t, "OCEMS_COLLECTOR")
	t.Parallel()
	p := newPlant(t)
	address := loopback.Addr(t)
	config := board.Config(t, "collector.yaml", p.dir, append(p.pair, "127.0.0.1:4318", address)...)
	args := []string{binary, "--config", config, "--config", "yaml:exporters::ocems::settle: 500ms"}
	for _, key := range []string{"endpoint: " + p.url, "spread: 0s", "coalesce: 500ms", "initial_backoff: 500ms", "max_backoff: 1s"} {
		args = append(args, "--config", "yaml:exporters::ocems::"+key)
	}
	program := board.Start(t, p.dir, p.env, args...)
	board.Listens(t, address)
	at, slot := reading()
	body := fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"analyser.cod","gauge":{"dataPoints":[{"timeUnixNano":"%d","asDouble":81.5}]}}]}]}]}`, at.UnixNano())
	resp, err := board.Client.Post("http://"+address+"/v1/metrics", "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	p.live(program, slot, "proxy_url")
}

func TestTelegraf(t *testing.T) {
	binary := board.Built(t, "OCEMS_TELEGRAF")
	t.Parallel()
	p := newPlant(t)
	at, slot := reading()
	board.Write(t, filepath.Join(p.dir, "reading"), fmt.Sprintf("etp_analyser cod=81.5 %d\n", at.UnixNano()))
	config := board.Config(t, "telegraf.conf", p.dir, append(p.pair, "192.168.0.10:502", loopback.Addr(t),
		"[[inputs.modbus]]", "[[inputs.file]]\n  interval = \"24h\"\n  files = [\""+filepath.Join(p.dir, "reading")+"\"]\n  data_format = \"influx\"\n[[inputs.modbus]]",
		"[agent]", "[agent]\n  round_interval = false", `flush_interval = "5s"`, `flush_interval = "500ms"`,
		"[[outputs.ocems]]", "[[outputs.ocems]]\n  settle = \"500ms\"\n  spread = \"0s\"\n  coalesce = \"500ms\"\n  initial_backoff = \"500ms\"\n  max_backoff = \"1s\"\n  endpoint = \""+p.url+`"`)...)
	p.live(board.Start(t, p.dir, p.env, binary, "--config", config), slot, "http_proxy_url")
}
