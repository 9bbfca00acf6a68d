package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/test/loopback"
)

// board is a simulator in a separate process, behind a TLS front that can show a bad certificate, break connections and give
// false answers.
type board struct {
	command *exec.Cmd
	url     string // of the simulator
	front   string // host:port of the TLS front
	server  *http.Server
	mode    atomic.Int32 // the certificate
	reset   atomic.Bool  // new connections are broken
	old     atomic.Int64 // requests over TLS 1.1
	lies    *lies

	mu    sync.Mutex
	conns map[net.Conn]bool
}

const (
	good = iota
	expired
	untrusted
	old // a good one, over TLS 1.1
)

func startBoard(bin, dir, registry string) (*board, error) {
	address, err := loopback.Free()
	if err != nil {
		return nil, err
	}
	out, err := os.Create(filepath.Join(dir, "simulator.log"))
	if err != nil {
		return nil, err
	}
	b := &board{url: "http://" + address, conns: map[net.Conn]bool{}, lies: newLies()}
	b.command = exec.Command(filepath.Join(bin, "ocems"), "simulate", "--listen", address, "--registry", registry,
		"--private-key", filepath.Join(dir, "keys", "private.pem"))
	b.command.Stdout, b.command.Stderr = out, out
	if err := b.command.Start(); err != nil {
		return nil, err
	}
	if err := until(10*time.Second, func() bool { _, err := b.received(); return err == nil }); err != nil {
		return nil, fmt.Errorf("the simulator does not answer: %w", err)
	}
	return b, b.startFront(dir)
}

// startFront starts the TLS front and writes ca.pem, the authority that hosts trust.
func (b *board) startFront(dir string) error {
	now := time.Now()
	end := now.Add(4 * furthest) // also valid for a wrong clock
	ca, err := newCertificate(nil, end)
	if err != nil {
		return err
	}
	stranger, err := newCertificate(nil, end)
	if err != nil {
		return err
	}
	var shown [4]tls.Certificate
	for i, of := range []struct {
		by  *tls.Certificate
		end time.Time
	}{{ca, end}, {ca, now.Add(-time.Hour)}, {stranger, end}, {ca, end}} {
		c, err := newCertificate(of.by, of.end)
		if err != nil {
			return err
		}
		shown[i] = *c
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), text, 0o600); err != nil {
		return err
	}
	target, err := url.Parse(b.url)
	if err != nil {
		return err
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	quiet := log.New(io.Discard, "", 0)
	proxy.ErrorLog = quiet
	proxy.ModifyResponse = func(resp *http.Response) error { b.lies.date(resp.Header); return nil }
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.Version < tls.VersionTLS12 {
			b.old.Add(1)
		}
		if !b.lies.answer(w, r, proxy) {
			proxy.ServeHTTP(w, r)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if b.reset.Load() {
			return nil, fmt.Errorf("reset")
		}
		return &shown[b.mode.Load()], nil
	}}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if b.mode.Load() != old {
			return nil, nil
		}
		c := config.Clone()
		c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
		return c, nil
	}
	b.server = &http.Server{Handler: http.HandlerFunc(serve), ErrorLog: quiet, ConnState: func(c net.Conn, s http.ConnState) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if s == http.StateClosed || s == http.StateHijacked {
			delete(b.conns, c)
		} else {
			b.conns[c] = true
		}
	}, TLSConfig: config}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.front = l.Addr().String()
	go func() { _ = b.server.ServeTLS(l, "", "") }()
	return nil
}

// cut breaks all connections.
func (b *board) cut() {
	defer b.lies.cut()
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if t, ok := c.(*tls.Conn); ok {
			if raw, ok := t.NetConn().(*net.TCPConn); ok {
				_ = raw.SetLinger(0)
				_ = raw.Close()
			}
		}
	}
}

func newCertificate(by *tls.Certificate, end time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := crand.Int(crand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "torture"}, NotBefore: end.Add(-8 * furthest), NotAfter: end,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	parent, signer := template, any(key)
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		if parent, err = x509.ParseCertificate(by.Certificate[0]); err != nil {
			return nil, err
		}
		signer = by.PrivateKey
	}
	der, err := x509.CreateCertificate(crand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

type received struct {
	Accepted   int `json:"accepted"`
	Rejected   int `json:"rejected"`
	Duplicates int `json:"duplicates"`
	Requests   int `json:"requests"`
	Readings   []struct {
		Station   string  `json:"station"`
		Device    string  `json:"device"`
		Parameter string  `json:"parameter"`
		Value     float64 `json:"value"`
		Unit      string  `json:"unit"`
		Timestamp int64   `json:"timestamp"`
		Flag      string  `json:"flag"`
	} `json:"readings"`
}

func (b *board) received() (*received, error) {
	resp, err := http.Get(b.url + "/received")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &received{}
	return r, json.NewDecoder(resp.Body).Decode(r)
}

// faults sets the simulator's faults; nil clears them.
func (b *board) faults(list []map[string]any) error {
	ctx := context.Background()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, b.url+"/faults", nil)
	if list != nil {
		text, _ := json.Marshal(list)
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/faults", bytes.NewReader(text))
	}
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("setting faults: %s: %s", resp.Status, text)
	}
	return nil
}

// unmet returns the number of requests left for each fault.
func (b *board) unmet() (left []int) {
	resp, err := http.Get(b.url + "/faults")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var list []struct {
		Count int `json:"count"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&list)
	for _, f := range list {
		left = append(left, f.Count)
	}
	return left
}

func (b *board) stop() {
	_ = b.server.Close()
	_ = b.command.Process.Kill()
	_ = b.command.Wait()
}

func until(limit time.Duration, done func() bool) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if done() {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s", limit)
		}
	}
}
