package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/version"
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
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "ocems: the verb is missing: one of doctor, status, serve, preview, report, simulate, keygen, decode, completion, version"},
		{"simulat --registry x", `ocems: unknown verb "simulat": nearest simulate`},
		{"help staus", `ocems: help: unknown verb "staus": nearest status`},
		{"xylophone", `unknown verb "xylophone": one of doctor, `},
		{"report --frobnicate-file x", "ocems: report: unknown flag --frobnicate-file: ocems report --help lists them"},
		{"report -format json", "unknown flag -format: nearest --format"},
		{"report --format", "--format: the value is missing"},
		{"completion bas", `unknown shell "bas": nearest bash`},
		{"keygen --bit 2048", "unknown flag --bit: nearest --bits"},
		{"keygen", "--out: missing"},
		{"keygen --out x --bits 1024", "--bits: 1024 is outside 2048 to 16384: nearest 2048"},
		{"keygen --bits many", `--bits: "many" is not a whole number; example: 2048`},
		{"simulate", "--registry: missing"},
		{"simulate --registry x extra", `unexpected argument "extra"`},
		{"simulate --registry x --tls-cert y", "--tls-cert and --tls-key go together"},
		{"simulate --registry no-such-file", "--registry: reading the registry: open no-such-file"},
		{"simulate --listen 127.0.0.1:0 --registry testdata/registry.yaml --tls-cert no-such-file --tls-key y", "--tls-cert, --tls-key: open no-such-file"},
		{"simulate --listen nowhere --registry testdata/registry.yaml", "--listen: listen tcp"},
		{"simulate --listen " + busy.Addr().String() + " --registry testdata/registry.yaml", "--listen: another program listens on 127.0.0.1:"},
		{"simulate --registry testdata/registry.yaml --duplicates slots", `duplicates: "slots" is unknown: nearest slot`},
		{"decode", "no token: OCEMS_TOKEN is empty"},
		{"decode --signature x", "--private-key and --signature go together"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, errs := ocems("", strings.Fields(c.args)...)
			if code != 3 || out != "" || !strings.Contains(errs, c.want) {
				t.Errorf("exit %d, out %q, err %q", code, out, errs)
			}
		})
	}
}

// Flags stand before the verb, after it and between its arguments.
func TestFlagsAnywhere(t *testing.T) {
	file := write(t, "token", token)
	body := write(t, "body", sealed(t, "mg/L"))
	for _, args := range []string{"decode --token-file " + file + " " + body, "decode " + body + " --token-file=" + file,
		"--token-file " + file + " decode " + body, "--token-file=" + file + " decode " + body} {
		if code, out, errs := ocems("", strings.Fields(args)...); code != 0 || !strings.Contains(out, `"parameter": "cod"`) {
			t.Errorf("%s: exit %d: %s%s", args, code, out, errs)
		}
	}
	if code, _, errs := ocems("", "--json", "status", "/nowhere"); code != 3 || !strings.Contains(errs, "ocems: status: stat /nowhere") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// A flag means the same in every verb; otherwise verbFirst could take a value for the verb. Every verb has an example.
func TestVerbs(t *testing.T) {
	takes := map[string]bool{}
	for _, c := range newRoot(std{}).Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if value, known := takes[f.Name]; known && value != takesValue(f) {
				t.Errorf("%s: --%s takes a value in one verb and none in another", c.Name(), f.Name)
			}
			takes[f.Name] = takesValue(f)
		})
		if c.Hidden {
			continue
		}
		for _, help := range [][]string{{c.Name(), "--help"}, {c.Name(), "x", "-h"}, {"--help", c.Name()}, {"help", c.Name()}} {
			if code, out, errs := ocems("", help...); code != 0 || errs != "" || !strings.Contains(out, "Examples:\n  ") || !strings.Contains(out, "ocems "+c.Name()) {
				t.Errorf("%s: exit %d, %s%s", help, code, out, errs)
			}
		}
	}
}

// The table of the exit codes is the same in the help and in docs/tool.md.
func TestExitCodes(t *testing.T) {
	page, err := os.ReadFile("../../docs/tool.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, out, _ := ocems("", "--help"); !strings.Contains(out, exitCodes) || !strings.Contains(string(page), exitCodes) {
		t.Errorf("not in the help, or not in docs/tool.md: %s", exitCodes)
	}
}

func TestCompletionAndManual(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, errs := ocems("", "completion", shell); code != 0 || errs != "" || !strings.Contains(out, shell+" completion") {
			t.Errorf("%s: exit %d, %.200s%s", shell, code, out, errs)
		}
	}
	for args, want := range map[string]string{"rep": "report\tshow", "report --format ": "html\n", "doctor --off": "--offline\t"} {
		words := append([]string{"__complete"}, strings.Split(args, " ")...)
		if _, out, _ := ocems("", words...); !strings.HasPrefix(out, want) && !strings.Contains(out, "\n"+want) {
			t.Errorf("%s is completed by %s, want %q", args, out, want)
		}
	}
	dir := t.TempDir()
	if code, _, errs := ocems("", "man", dir); code != 0 {
		t.Fatal(errs)
	}
	for page, want := range map[string]string{"ocems.1": "Exit codes", "ocems-report.1": "--flat-slots"} {
		if text, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !strings.Contains(strings.ReplaceAll(string(text), `\-`, "-"), want) {
			t.Errorf("%s: %v, %.300s", page, err, text)
		}
	}
}

func TestVersion(t *testing.T) {
	want := "ocems " + version.Read().String() + "\n"
	for _, arg := range []string{"version", "--version"} {
		if code, out, errs := ocems("", arg); code != 0 || out != want {
			t.Errorf("%s: exit %d, %s%s", arg, code, out, errs)
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
	if again, _ := os.ReadFile(filepath.Join(dir, "private.pem")); code != 3 || !strings.Contains(errs, "not overwritten") || !bytes.Equal(again, private) {
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
		{"another token", sealed(t, "mg/L"), []string{"--token-file", other}, 3, []string{"opening a body"}},
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
