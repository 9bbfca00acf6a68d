package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	token       = "0123456789abcdef0123456789abcdef"
	privatePath = "../../ocems/seal/testdata/industry_test_private.pem"
	publicPath  = "../../ocems/seal/testdata/industry_test_public.pem"
)

// ocems runs the tool and returns its exit code and what it wrote.
func ocems(in string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(context.Background(), std{strings.NewReader(in), &o, &e}, args)
	return code, o.String(), e.String()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sealed(t *testing.T, unit string) string {
	t.Helper()
	start, _ := spec.Window(time.Now(), spec.SlotLength)
	text, err := payload.Record{StationID: "station_1", DeviceID: "dev_1", Readings: []payload.Reading{
		{Parameter: "cod", Value: 31.5, Unit: unit, Stamp: start, Flag: spec.FlagNormal}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	body, err := seal.Seal(token, text)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func sign(t *testing.T, token string) string {
	t.Helper()
	text, err := os.ReadFile(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParsePublicKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := seal.Sign(key, token, time.Date(2026, 2, 10, 12, 7, 30, 0, spec.IST))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func TestMistakes(t *testing.T) {
	t.Setenv("OCEMS_TOKEN", "")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "a subcommand is missing: one of simulate, keygen, decode, report, doctor, status, serve, preview"},
		{"simulat", 2, `unknown subcommand "simulat": nearest simulate`},
		{"keygen --bit 2048", 2, "unknown flag --bit: nearest --bits"},
		{"keygen", 2, "--out: missing"},
		{"keygen --out x --bits 1024", 2, "--bits: 1024 is outside 2048 to 16384: nearest 2048"},
		{"keygen --bits many", 2, `invalid value "many" for flag -bits`},
		{"simulate", 2, "--registry: missing"},
		{"simulate --registry x extra", 2, `unexpected argument "extra"`},
		{"simulate --registry x --tls-cert y", 2, "--tls-cert and --tls-key go together"},
		{"simulate --registry no-such-file", 1, "--registry: reading the registry: open no-such-file"},
		{"simulate --listen 127.0.0.1:0 --registry testdata/registry.yaml --tls-cert no-such-file --tls-key y", 1, "--tls-cert, --tls-key: open no-such-file"},
		{"simulate --listen nowhere --registry testdata/registry.yaml", 1, "--listen: listen tcp"},
		{"simulate --registry testdata/registry.yaml --duplicates slots", 1, `duplicates: "slots" is unknown: nearest slot`},
		{"decode", 2, "no token: OCEMS_TOKEN is empty"},
		{"decode --signature x", 2, "--private-key and --signature go together"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, errs := ocems("", strings.Fields(c.args)...)
			if code != c.code || out != "" || !strings.Contains(errs, c.want) {
				t.Errorf("exit %d, out %q, err %q", code, out, errs)
			}
		})
	}
	for _, help := range []string{"help", "keygen -h"} {
		if code, out, _ := ocems("", strings.Fields(help)...); code != 0 || !strings.Contains(out, "keygen") {
			t.Errorf("%s: exit %d, out %q", help, code, out)
		}
	}
}

func TestKeygen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if code, _, errs := ocems("", "keygen", "--out", dir); code != 0 {
		t.Fatal(errs)
	}
	info, err := os.Stat(filepath.Join(dir, "private.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	private, _ := os.ReadFile(filepath.Join(dir, "private.pem"))
	public, _ := os.ReadFile(filepath.Join(dir, "public.pem"))
	block, _ := pem.Decode(private)
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		t.Error(err)
	}
	block, _ = pem.Decode(public)
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Error(err)
	}
	code, _, errs := ocems("", "keygen", "--out", dir)
	if again, _ := os.ReadFile(filepath.Join(dir, "private.pem")); code != 1 || !strings.Contains(errs, "not overwritten") || !bytes.Equal(again, private) {
		t.Errorf("exit %d, err %q", code, errs)
	}
}

func TestDecode(t *testing.T) {
	t.Setenv("OCEMS_TOKEN", token)
	other := write(t, "token", "  another-token \n")
	for _, c := range []struct {
		name string
		in   string
		args []string
		code int
		want []string
	}{
		{"good", sealed(t, "mg/L"), nil, 0, []string{`"parameter": "cod"`, `"value": 31.5`}},
		{"good file", "", []string{write(t, "body", sealed(t, "mg/L"))}, 0, []string{`"parameter": "cod"`}},
		{"fault", sealed(t, "mg/l"), nil, 1, []string{`"unit": "mg/l"`, `fault: data[0].device_data[0].params[0].unit: "mg/l" must be written "mg/L" (status 110)`}},
		{"another token", sealed(t, "mg/L"), []string{"--token-file", other}, 1, []string{"opening a body"}},
		{"signature", sealed(t, "mg/L"), []string{"--private-key", privatePath, "--signature", sign(t, token)}, 0,
			[]string{"signature: made 2026-02-10 12:07:30 IST, its token is the device's: true"}},
		{"signature of another token", sealed(t, "mg/L"), []string{"--private-key", privatePath, "--signature", sign(t, "another-token")}, 1,
			[]string{"its token is the device's: false"}},
		{"signature damaged", sealed(t, "mg/L"), []string{"--private-key", privatePath, "--signature", "AAAA"}, 1,
			[]string{"not made with this industry's public key", `"parameter": "cod"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := ocems(c.in, append([]string{"decode"}, c.args...)...)
			if code != c.code {
				t.Errorf("exit %d, want %d: %s%s", code, c.code, out, errs)
			}
			for _, want := range c.want {
				if !strings.Contains(out+errs, want) {
					t.Errorf("no %q in %s%s", want, out, errs)
				}
			}
			if strings.Contains(out+errs, token) || strings.Contains(out+errs, "another-token") {
				t.Errorf("a token is in %s%s", out, errs)
			}
		})
	}
}

func TestSimulate(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			args := []string{"simulate", "--listen", "127.0.0.1:0", "--registry", "testdata/registry.yaml", "--private-key", privatePath}
			client := &http.Client{}
			if scheme == "https" {
				cert, key, pool := certificate(t)
				args = append(args, "--tls-cert", cert, "--tls-key", key)
				client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
			}
			defer client.CloseIdleConnections()
			ctx, stop := context.WithCancel(context.Background())
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
			if !found || !strings.HasPrefix(url, scheme+"://127.0.0.1:") {
				t.Fatalf("first line %q", lines.Text())
			}
			r, _ := http.NewRequest(http.MethodPost, url+"/v1.0/industry/data", strings.NewReader(sealed(t, "mg/L")))
			r.Header["signature"] = []string{sign(t, token)}
			r.Header.Set("X-Device-Id", "dev_1")
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := `{"msg":"success","status":1}`; string(body) != want {
				t.Errorf("answer %s, want %s", body, want)
			}
			stop()
			if lines.Scan() {
				t.Errorf("another line %q", lines.Text())
			}
			if code := <-done; code != 0 {
				t.Errorf("exit %d: %s", code, &log)
			}
			if strings.Contains(log.String(), token) || !strings.Contains(log.String(), "status=1") {
				t.Errorf("log %s", &log)
			}
		})
	}
}

// certificate writes the test server's certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	chain := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(chain.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(server.Certificate())
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return write(t, "cert.pem", block("CERTIFICATE", chain.Certificate[0])), write(t, "key.pem", block("PRIVATE KEY", der)), pool
}
