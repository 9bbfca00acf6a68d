package main

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
)

// shutdownTime is how long requests in flight may take at shutdown.
const shutdownTime = 5 * time.Second

func simulateCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "simulate", Short: "run a CPCB server of the OCEMS API for tests",
		Long: `ocems simulate is a test server in place of the board's. It decrypts what hosts send, answers as the specification says, and
keeps the readings in memory. It prints the address of its console; there a browser can switch faults of the board on.`,
		Example: `  ocems simulate --registry registry.yaml --private-key keys/private.pem
  ocems simulate --registry registry.yaml --private-key keys/private.pem --listen 0.0.0.0:8750 --hosts board.plant.example`,
		Args: cli.AtMost(0, ""),
	}
	flags := c.Flags()
	listen := flags.String("listen", "127.0.0.1:8750", "`address` to listen on; it has the console, with each device's slots, requests and faults")
	registryFile := flags.String("registry", "", "YAML `file` of stations and devices (required)")
	keyFile := flags.String("private-key", "", "PEM `file` of the industry's private key; without it every request is answered 115")
	duplicates := cli.Word(c, "duplicates", simulator.DuplicatesByParameter, "what is stored once per device and stamp; a second one is answered 111", simulator.DuplicatesByParameter, "slot")
	keep := flags.Duration("keep", 8*24*time.Hour, "`duration` for which readings are kept after their stamp, at least 168h; 0 keeps all")
	hosts := flags.String("hosts", "", "`names` of this machine, comma-separated, under which a browser may open the console; addresses and names without a dot are always allowed")
	cert := flags.String("tls-cert", "", "PEM `file` of the server's certificate")
	tlsKey := flags.String("tls-key", "", "PEM `file` of the certificate's key")
	c.RunE = func(*cobra.Command, []string) error {
		if *registryFile == "" {
			return errors.New("--registry: missing")
		}
		if (*cert == "") != (*tlsKey == "") {
			return errors.New("--tls-cert and --tls-key go together")
		}
		registry, err := simulator.LoadRegistry(*registryFile)
		if err != nil {
			return fmt.Errorf("--registry: %w", err)
		}
		config := simulator.Config{Registry: registry, Duplicates: *duplicates, Keep: *keep, Logger: slog.New(slog.NewTextHandler(s.err, nil)),
			Hosts: strings.FieldsFunc(strings.ToLower(*hosts), func(r rune) bool { return r == ',' || r == ' ' })}
		if *keyFile != "" {
			if config.PrivateKey, err = readPrivateKey(*keyFile); err != nil {
				return err
			}
		}
		handler, err := simulator.New(config)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(config.Logger.Handler(), slog.LevelWarn)}
		server.RegisterOnShutdown(handler.Close)
		return listenAndServe(c.Context(), s, server, *listen, *cert, *tlsKey, "console")
	}
	return c
}

// listenAndServe serves until the context is done. With a certificate it speaks TLS.
func listenAndServe(ctx context.Context, s std, server *http.Server, listen, cert, key, what string) error {
	listener, err := net.Listen("tcp", listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--listen: another program listens on %s: stop it, or give another port", listen)
	case err != nil:
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	scheme := "http"
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		scheme = "https"
	}
	server.ReadHeaderTimeout = 30 * time.Second
	stopped := make(chan error, 1)
	fmt.Fprintf(s.err, "the %s is at %s://%s/\n", what, scheme, browsable(listener.Addr()))
	fmt.Fprintf(s.out, "listening on %s://%s\n", scheme, listener.Addr())
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := server.Shutdown(limited); err != nil {
		_ = server.Close() // such as a long latency fault; nothing is lost
	}
	<-stopped
	return nil
}

// browsable is an address that a browser on this machine can open, even if the server listens on all addresses.
func browsable(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return a.String()
}

func readPrivateKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--private-key: %w", err)
	}
	key, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("--private-key: %s: %w", path, err)
	}
	return key, nil
}
