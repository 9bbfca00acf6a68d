package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/status"
)

func TestServe(t *testing.T) {
	path := hostStatusOf(t, func(*status.Host) {})
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("correct horse\n"), 0o600))
	cert, key, pool := certificate(t)
	unit, err := os.ReadFile("../../examples/install/ocems-page.service")
	require.NoError(t, err)
	_, command, found := strings.Cut(string(unit), "\nExecStart=/usr/bin/ocems serve ")
	require.True(t, found)
	command, _, _ = strings.Cut(command, "\n")
	ofUnit := strings.Fields(strings.Replace(command, "/var/lib/ocems", filepath.Dir(path), 1))
	for _, test := range []struct {
		name, scheme string
		args         []string
		warning      string
	}{
		{"on this machine", "http", []string{filepath.Dir(path)}, ""},
		{"as a service", "http", ofUnit, ""},
		{"of a file", "http", []string{path}, ""},
		{"for others unencrypted", "http", []string{"--listen", ":0", "--password-file", password, path}, "cross the network unencrypted"},
		{"for others", "https", []string{"--listen", ":0", "--password-file", password, "--tls-cert", cert, "--tls-key", key, path}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"serve", "--listen", "127.0.0.1:0"}, test.args...)
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
			defer client.CloseIdleConnections()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			reader, writer := io.Pipe()
			var log bytes.Buffer
			done := make(chan int, 1)
			go func() {
				done <- run(ctx, std{nil, writer, &log}, args)
				writer.Close()
			}()
			lines := bufio.NewScanner(reader)
			lines.Scan()
			url, found := strings.CutPrefix(lines.Text(), "listening on ")
			require.True(t, found, "first line %q", lines.Text())
			require.True(t, strings.HasPrefix(url, test.scheme+"://"), url)
			r, err := http.NewRequest(http.MethodGet, strings.Replace(url, "[::]", "127.0.0.1", 1)+"/status.json", nil)
			require.NoError(t, err)
			r.SetBasicAuth("operator", "correct horse")
			answer, err := client.Do(r)
			require.NoError(t, err)
			var got struct{ Level, Text string }
			require.NoError(t, json.NewDecoder(answer.Body).Decode(&got))
			_ = answer.Body.Close()
			assert.Equal(t, "ok", got.Level)
			assert.Contains(t, got.Text, "Reporting 1 parameter of 1 device; the next slot")
			stop()
			assert.False(t, lines.Scan(), "another line")
			assert.Zero(t, <-done)
			assert.Contains(t, log.String(), "the page is at "+test.scheme+"://")
			assert.Equal(t, test.warning != "", strings.Contains(log.String(), "unencrypted"), log.String())
			assert.NotContains(t, log.String(), "correct horse")
		})
	}
}

func TestServeMistakes(t *testing.T) {
	path := hostStatusOf(t, func(*status.Host) {})
	short := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(short, []byte("horse\n"), 0o600))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{}, "give the state directory, or --config"},
		{[]string{t.TempDir()}, "has no *.status.json"},
		{[]string{"--listen", "0.0.0.0:8790", path}, "--listen: other machines can reach 0.0.0.0:8790, so the page needs --password-file: nearest 127.0.0.1:8790"},
		{[]string{"--listen", "plant.example:8790", path}, "--listen: other machines can reach plant.example:8790"},
		{[]string{"--listen", "8790", path}, "--listen: address 8790: missing port in address"},
		{[]string{"--password-file", "/nowhere", path}, "--password-file: open /nowhere"},
		{[]string{"--password-file", short, path}, "has 5 characters; at least 8"},
		{[]string{"--tls-cert", "x", path}, "--tls-cert and --tls-key go together"},
		{[]string{"--passwort-file", "x", path}, "unknown flag --passwort-file: nearest --password-file"},
	} {
		code, out, errs := ocems("", append([]string{"serve"}, test.args...)...)
		assert.Equal(t, 3, code, test.args)
		assert.Empty(t, out)
		assert.Contains(t, errs, test.want)
	}
}
