package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/judge"
)

// Board is the simulated board in this process.
type Board struct {
	URL       string // for data
	received  string
	publicKey string
	server    *http.Server
	simulator http.Handler
	tokens    map[string]string // by device

	mu       sync.Mutex
	requests []Request
}

// Request is a request that the board has answered.
type Request struct {
	Worker, Device string
	At             time.Time // time of the answer
	Status         spec.Status
	Points         []payload.Point
}

// Device is a registered device.
type Device struct{ Station, ID, Token string }

// Devices returns n devices in n/10 stations.
func Devices(n int) (list []Device) {
	for i := range n {
		list = append(list, Device{fmt.Sprintf("station_%04d", i/10), fmt.Sprintf("dev_%06d", i), fmt.Sprintf("%032x", i+1)})
	}
	return list
}

func newBoard(cfg Config, host string) (*Board, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	registry, tokens := &simulator.Registry{}, map[string]string{}
	for _, d := range cfg.Devices {
		tokens[d.ID] = d.Token
		if n := len(registry.Stations); n == 0 || registry.Stations[n-1].ID != d.Station {
			registry.Stations = append(registry.Stations, simulator.Station{ID: d.Station})
		}
		s := &registry.Stations[len(registry.Stations)-1]
		s.Devices = append(s.Devices, simulator.Device{ID: d.ID, Token: d.Token})
	}
	handler, err := simulator.New(simulator.Config{PrivateKey: key, Registry: registry})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	at := "http://" + listener.Addr().String()
	b := &Board{URL: at + "/v1.0/industry/data", received: at + "/received", publicKey: filepath.Join(cfg.Dir, "public.pem"), simulator: handler, tokens: tokens}
	b.server = &http.Server{Handler: b}
	b.server.RegisterOnShutdown(handler.Close)
	go func() { _ = b.server.Serve(listener) }()
	return b, write(b.publicKey, "PUBLIC KEY", der)
}

// of returns the endpoint of a worker. Each worker has its own, so that its requests can be recognised.
func (b *Board) of(worker string) string {
	return strings.Replace(b.URL, "/v1.0/", "/"+worker+"/v1.0/", 1)
}

// ServeHTTP passes a request to the simulator, and records the worker's readings and the answer.
func (b *Board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	worker, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !strings.HasPrefix(worker, "worker-") {
		b.simulator.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.URL.Path, r.Body = "/"+path, io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	b.simulator.ServeHTTP(answer, r)
	one := Request{Worker: worker, Device: r.Header.Get("X-Device-Id"), At: time.Now()}
	var said struct{ Status spec.Status }
	if text, err := seal.Open(b.tokens[one.Device], body); err == nil && json.Unmarshal(answer.Body.Bytes(), &said) == nil {
		if doc, err := payload.Decode(text); err == nil && len(doc.Data) == 1 && len(doc.Data[0].Devices) == 1 {
			one.Status, one.Points = said.Status, doc.Data[0].Devices[0].Params
			b.mu.Lock()
			b.requests = append(b.requests, one)
			b.mu.Unlock()
		}
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// Requests returns all requests of workers, in the order of the answers.
func (b *Board) Requests() []Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// Received returns the data that the board has received.
func (b *Board) Received(ctx context.Context) (*judge.Received, error) {
	return judge.Fetch(ctx, b.received)
}

// writeDevices writes the devices_file of all workers.
func (b *Board) writeDevices(path string, devices []Device) error {
	var text strings.Builder
	text.WriteString("station_id,device_id,token_id,public_key_file\n")
	for _, d := range devices {
		fmt.Fprintf(&text, "%s,%s,%s,%s\n", d.Station, d.ID, d.Token, b.publicKey)
	}
	return errors.Join(os.WriteFile(path+".new", []byte(text.String()), 0o600), os.Rename(path+".new", path))
}
