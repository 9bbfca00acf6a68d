package cluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/judge"
)

// Board is the simulated board, in this process.
type Board struct {
	URL       string // that takes data
	received  string
	publicKey string
	server    *http.Server
}

// Device is one that the board knows.
type Device struct{ Station, ID, Token string }

// Devices are n devices of n/10 stations.
func Devices(n int) (list []Device) {
	for i := range n {
		list = append(list, Device{fmt.Sprintf("station_%04d", i/10), fmt.Sprintf("dev_%06d", i), fmt.Sprintf("%032x", i+1)})
	}
	return list
}

func newBoard(dir string, devices []Device) (*Board, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	registry := &simulator.Registry{}
	for _, d := range devices {
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
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	at := "http://" + listener.Addr().String()
	b := &Board{URL: at + "/v1.0/industry/data", received: at + "/received", publicKey: filepath.Join(dir, "public.pem"), server: &http.Server{Handler: handler}}
	b.server.RegisterOnShutdown(handler.Close)
	go func() { _ = b.server.Serve(listener) }()
	return b, write(b.publicKey, "PUBLIC KEY", der)
}

// Received is the board's account.
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
