package main

import (
	"context"
	"crypto/aes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sealed returns the body of a request with one value of a device.
func sealed(t *testing.T, d device, stamp int64) string {
	text := fmt.Sprintf(`{"data": [{"stationId": "s", "device_data": [{"deviceId": %q, "params": [{"parameter": "cod", "value": 1, "unit": "mg/L", "timestamp": %d, "flag": "U"}]}]}]}`, d.id, stamp)
	pad := aes.BlockSize - len(text)%aes.BlockSize
	body := []byte(text + strings.Repeat(string(rune(pad)), pad))
	key := sha256.Sum256([]byte(d.token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	for rest := body; len(rest) > 0; rest = rest[aes.BlockSize:] {
		block.Encrypt(rest, rest)
	}
	return base64.StdEncoding.EncodeToString(body)
}

// The front sends a false 111 only for slots that are not in doubt.
func TestLies(t *testing.T) {
	var stored atomic.Int64
	simulator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		stored.Add(int64(min(len(body), 1)))
		_, _ = io.WriteString(w, "true")
	}))
	defer simulator.Close()
	dir := t.TempDir()
	b := &board{url: simulator.URL, conns: map[net.Conn]bool{}, lies: newLies()}
	if err := b.startFront(dir); err != nil {
		t.Fatal(err)
	}
	defer b.server.Close()
	authority, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	ask := func(method, body string) (text string, date time.Time) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "https://"+b.front+"/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Device-Id", devices[0].id)
		resp, err := client.Do(req)
		if err != nil {
			return "no answer", date
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		date, _ = http.ParseTime(resp.Header.Get("Date"))
		return string(answer), date
	}
	id := devices[0].id
	untrue := func(status int) func() {
		return func() { b.lies.set(func() { b.lies.status[id] = status }) }
	}
	for _, c := range []struct {
		name   string
		do     func()
		stamp  int64
		answer string
		stored int64 // total until now
	}{
		{"true", func() {}, 1, "true", 1},
		{"111 for a slot that was sent before", untrue(111), 1, "true", 2},
		{"117 for such a slot", untrue(117), 1, `{"msg": "untrue", "status": 117}`, 2},
		{"111 for a fresh slot", untrue(111), 2, `{"msg": "untrue", "status": 111}`, 2},
		{"111 for the same slot again", untrue(111), 2, `{"msg": "untrue", "status": 111}`, 2},
		{"111 after the connections broke", func() { b.cut(); client.CloseIdleConnections() }, 2, "true", 3},
		{"111 for a slot that waited when the host ended", func() { b.lies.lifeEnds(3) }, 3, "true", 4},
		{"111 for one after it", func() {}, 4, `{"msg": "untrue", "status": 111}`, 4},
		{"silence", func() { b.lies.set(func() { b.lies.silent[id] = true }) }, 5, "no answer", 4},
		{"silence about a stored slot", func() { b.lies.set(func() { b.lies.stores = true }) }, 6, "no answer", 5},
		{"111 after silence", b.lies.none, 6, "true", 6},
		{"no false 111 any more", func() {}, 7, "true", 7},
	} {
		c.do()
		if answer, _ := ask(http.MethodPost, sealed(t, devices[0], c.stamp)); answer != c.answer || stored.Load() != c.stored {
			t.Errorf("%s: %s, and %d requests are stored; must be %s and %d", c.name, answer, stored.Load(), c.answer, c.stored)
		}
	}
	for p, told := range map[place]bool{{id, "cod", "U", 1}: true, {id, "cod", "U", 2}: true, {id, "cod", "U", 3}: false, {id, "cod", "U", 4}: true, {id, "cod", "U", 7}: false} {
		if b.lies.told[p] != told {
			t.Errorf("%s: untrue answers: %v, must be %v", p, !told, told)
		}
	}
	off := -100 * time.Hour
	b.lies.set(func() { b.lies.off = off })
	for method, body := range map[string]string{http.MethodGet: "", http.MethodPost: sealed(t, devices[0], 8)} {
		if _, date := ask(method, body); (time.Until(date) - off).Abs() > time.Minute {
			t.Errorf("Date of an answer to %s: %s, must be %s away", method, date, off)
		}
	}
}
