package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/test/loopback"
)

// secrets are in the configurations of these tests, and must be in no output.
var secrets = []string{token, "hunter2", "MIIB", "PRIVATE KEY-----\n"}

// quiet runs the tool, and fails if its output has a secret.
func quiet(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	code, out, errs = ocems("", args...)
	for _, s := range secrets {
		if strings.Contains(out+errs, s) {
			t.Errorf("%q is in the output of %q:\n%s%s", s, args, out, errs)
		}
	}
	return code, out, errs
}

type check struct{ Output, Check, Status, Text, Do string }

// diagnose returns the last check of each name, and the exit code.
func diagnose(t *testing.T, args ...string) (map[string]check, int) {
	t.Helper()
	code, out, errs := quiet(t, append([]string{"doctor", "--json"}, args...)...)
	var report struct {
		Checks           []check
		Failed, Warnings int
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
	}
	byName := map[string]check{}
	failed := 0
	for _, c := range report.Checks {
		byName[c.Check] = c
		if c.Status == "failed" {
			failed++
			if c.Do == "" {
				t.Errorf("nothing to do under %+v", c)
			}
		}
	}
	if failed != report.Failed || (code == 1) != (failed > 0) {
		t.Errorf("exit %d, failed %d of which %d are said: %s", code, failed, report.Failed, out)
	}
	return byName, code
}

func wants(t *testing.T, checks map[string]check, name, status string, texts ...string) {
	t.Helper()
	c, ok := checks[name]
	if !ok || c.Status != status {
		t.Errorf("check %q is %+v, want %s", name, c, status)
	}
	for _, text := range texts {
		if !strings.Contains(c.Text+" -> "+c.Do, text) {
			t.Errorf("check %q says %q -> %q, want %q", name, c.Text, c.Do, text)
		}
	}
}

// authority is a certificate authority for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"Board of Tests"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) file(t *testing.T) string {
	return write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
}

func (a *authority) issue(t *testing.T, name string, from, to time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		about.IPAddresses = []net.IP{ip}
	} else {
		about.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, about, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// board is a server that fails the test on any method but GET, and whose clock may be wrong.
func board(t *testing.T, skew time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); r.Method != http.MethodGet || len(body) > 0 || r.Header.Get("signature") != "" {
			t.Errorf("%s with %d bytes: a reading may have been sent", r.Method, len(body))
		}
		w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
	})
}

func serve(t *testing.T, h http.Handler, cert tls.Certificate, change func(*tls.Config)) string {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	if change != nil {
		change(server.TLS)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL + "/v1.0/industry/data"
}

// telegrafFile is a valid configuration of Telegraf, with more keys for the output.
func telegrafFile(t *testing.T, keys ...string) string {
	t.Helper()
	return write(t, "telegraf.conf", telegrafText(t, keys...))
}

func telegrafText(t *testing.T, keys ...string) string {
	t.Helper()
	return fmt.Sprintf(`[agent]
[[outputs.ocems]]
  state_directory = %q
  public_key_file = %q
  %s
  [[outputs.ocems.device]]
    station_id = "station_1"
    device_id = "dev_1"
    token_id = %q
    [[outputs.ocems.device.parameter]]
      metric = "m"
      field = "cod"
      unit = "mg/L"
`, filepath.Join(t.TempDir(), "state"), publicPath, strings.Join(keys, "\n  "), token)
}

func collectorText(t *testing.T, endpoint, more string) string {
	t.Helper()
	dir := t.TempDir()
	return fmt.Sprintf(`
exporters:
  ocems:
    endpoint: %s
    public_key_file: %s
    storage: ocems_storage
    audit_file: %s/audit.jsonl
    devices: [{station_id: station_1, device_id: dev_1, token_id: %q, parameters: [{metric: m, parameter: cod, unit: mg/L}]}]
    %s
processors: {ocems_slot: {storage: ocems_storage, audit_file: %[3]s/audit.jsonl, devices: [{station_id: station_1, device_id: dev_1}]}}
extensions: {ocems_storage: {directory: %[3]s/storage, create_directory: true}}
service:
  extensions: [ocems_storage]
  pipelines: {metrics: {receivers: [otlp], processors: [ocems_slot], exporters: [ocems]}}
`, endpoint, publicPath, dir, token, more)
}

func TestDoctorCertificates(t *testing.T) {
	good, other := newAuthority(t, "Root of Tests"), newAuthority(t, "Stranger")
	now := time.Now()
	year := now.Add(365 * 24 * time.Hour)
	valid := good.issue(t, "127.0.0.1", now.Add(-time.Hour), year)
	for _, c := range []struct {
		name   string
		cert   tls.Certificate
		keys   []string
		yaml   string // the same keys in the collector
		status string
		texts  []string
		server func(*tls.Config)
	}{
		{"good", valid, []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "ok", []string{"TLS 1.3", "127.0.0.1", "Root of Tests", "until"}, nil},
		{"soon", good.issue(t, "127.0.0.1", now.Add(-time.Hour), now.Add(20*24*time.Hour+time.Hour)), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "warning", []string{"in 20 days"}, nil},
		{"not soon", good.issue(t, "127.0.0.1", now.Add(-time.Hour), now.Add(21*24*time.Hour+time.Hour)), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "ok", nil, nil},
		{"stranger", other.issue(t, "127.0.0.1", now.Add(-time.Hour), year), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "failed", []string{"file of CAKEY", "CN=Stranger,O=Board of Tests", "do not turn verification off"}, nil},
		{"no authority", valid, nil, "", "failed", []string{"is not trusted here", "CN=Root of Tests", "as CAKEY"}, nil},
		{"expired", good.issue(t, "127.0.0.1", now.Add(-48*time.Hour), now.Add(-24*time.Hour)), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "failed",
			[]string{"expired " + spec.ISTString(now.Add(-24*time.Hour).Truncate(time.Second)), "check this machine's clock"}, nil},
		{"not yet valid", good.issue(t, "127.0.0.1", now.Add(24*time.Hour), year), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "failed", []string{"not valid before", "check this machine's clock"}, nil},
		{"another name", good.issue(t, "cems.example.org", now.Add(-time.Hour), year), []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "failed",
			[]string{"is for cems.example.org, not for 127.0.0.1", "NAMEKEY"}, nil},
		{"another name given", good.issue(t, "cems.example.org", now.Add(-time.Hour), year), []string{"tls_ca = CA", `tls_server_name = "cems.example.org"`},
			"tls: {ca_file: CA, server_name_override: cems.example.org}", "ok", []string{"cems.example.org"}, nil},
		{"not verified", other.issue(t, "127.0.0.1", now.Add(-time.Hour), year), []string{"insecure_skip_verify = true"}, "tls: {insecure_skip_verify: true}", "warning",
			[]string{"insecure_skip_verify is set", "CN=Stranger"}, nil},
		{"not verified and good", valid, []string{"insecure_skip_verify = true", "tls_ca = CA"}, "tls: {insecure_skip_verify: true, ca_file: CA}", "warning", []string{"remove insecure_skip_verify"}, nil},
		{"old TLS", valid, []string{"tls_ca = CA"}, "tls: {ca_file: CA}", "failed", []string{"protocol version"}, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint := serve(t, board(t, 0), c.cert, c.server)
			ca := good.file(t)
			texts := func(caKey, nameKey string) (out []string) {
				for _, text := range c.texts {
					out = append(out, strings.NewReplacer("CAKEY", caKey, "NAMEKEY", nameKey).Replace(text))
				}
				return out
			}
			keys := strings.ReplaceAll(strings.Join(c.keys, "\n"), "CA\n", fmt.Sprintf("%q\n", ca))
			if before, ok := strings.CutSuffix(keys, "= CA"); ok {
				keys = before + fmt.Sprintf("= %q", ca)
			}
			checks, _ := diagnose(t, "--config", telegrafFile(t, fmt.Sprintf("endpoint = %q", endpoint), keys))
			wants(t, checks, "tls", c.status, texts("tls_ca", "tls_server_name")...)
			if answered := c.status != "failed"; answered != (checks["clock"].Status == "ok") {
				t.Errorf("clock: %+v", checks["clock"])
			}
			checks, _ = diagnose(t, "--config", write(t, "c.yaml", collectorText(t, endpoint, "http: {"+regexp.MustCompile(`\bCA\b`).ReplaceAllString(c.yaml, ca)+"}")))
			wants(t, checks, "tls", c.status, texts("http.tls.ca_file", "http.tls.server_name_override")...)
		})
	}
	t.Run("files that the host cannot read", func(t *testing.T) {
		for path, text := range map[string]string{"no-such-file": "no such file", privatePath: "parse"} {
			refuses(t, telegrafFile(t, fmt.Sprintf("tls_ca = %q", path)), []string{text})
			checks, _ := diagnose(t, "--offline", "--config", write(t, "c.yaml", collectorText(t, "https://cems.example.org/", "http: {tls: {ca_file: "+path+"}}")))
			wants(t, checks, "tls", "failed", text)
		}
	})
	t.Run("client certificate", func(t *testing.T) {
		endpoint := serve(t, board(t, 0), valid, func(c *tls.Config) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			c.ClientCAs.AddCert(good.cert)
		})
		ours := good.issue(t, "plant", now.Add(-time.Hour), year)
		der, err := x509.MarshalPKCS8PrivateKey(ours.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		cert := write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ours.Certificate[0]})))
		key := write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		with := []string{fmt.Sprintf("endpoint = %q", endpoint), fmt.Sprintf("tls_ca = %q", good.file(t))}
		checks, _ := diagnose(t, "--config", telegrafFile(t, with...))
		wants(t, checks, "http", "failed", "certificate required")
		checks, _ = diagnose(t, "--config", telegrafFile(t, append(with, fmt.Sprintf("tls_cert = %q", cert), fmt.Sprintf("tls_key = %q", key))...))
		wants(t, checks, "http", "ok", "HTTP 405")
		refuses(t, telegrafFile(t, append(with, fmt.Sprintf("tls_cert = %q", cert), fmt.Sprintf("tls_key = %q", privatePath))...), []string{"failed to load cert/key pair"})
	})
}

func TestDoctorClock(t *testing.T) {
	for _, c := range []struct {
		skew         time.Duration
		status, text string
	}{
		{0, "ok", "to the second"}, {20 * time.Second, "ok", "s behind the server's"}, {-20 * time.Second, "ok", "s ahead of the server's"},
		{40 * time.Second, "warning", "s behind the server's"}, {-40 * time.Second, "warning", "s ahead of the server's"},
		{4 * time.Minute, "warning", "s behind the server's"}, {-6 * time.Minute, "failed", "s ahead of the server's"},
		{5*time.Hour + 30*time.Minute, "failed", "5h"},
	} {
		server := httptest.NewServer(board(t, c.skew))
		checks, _ := diagnose(t, "--config", telegrafFile(t, fmt.Sprintf("endpoint = %q", server.URL)))
		server.Close()
		if c.skew == 0 && strings.Contains(checks["clock"].Text, "1s") {
			c.text = "1s" // the header has whole seconds
		}
		wants(t, checks, "clock", c.status, c.text)
		wants(t, checks, "tls", "warning", "the endpoint is http")
	}
}

func TestDoctorRoute(t *testing.T) {
	closed := "http://" + loopback.Addr(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	redirecting := httptest.NewServer(http.RedirectHandler("https://user:hunter2@elsewhere.example.org/", http.StatusFound))
	defer redirecting.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[31m", http.StatusBadGateway) }))
	defer broken.Close()
	plain := httptest.NewServer(board(t, 0))
	defer plain.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	locked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "hunter2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer locked.Close()
	forbidden := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer forbidden.Close()
	for _, c := range []struct {
		name, endpoint, check, status string
		texts                         []string
	}{
		{"no such name", "https://user:hunter2@cems.invalid/", "dns", "failed", []string{"cems.invalid does not resolve", "spelling of the host"}},
		{"nobody there", closed, "tcp", "failed", []string{"connection refused", "nothing listens at"}},
		{"wrong path", missing.URL + "/v1.0/industry/dat", "http", "warning", []string{`nothing at "/v1.0/industry/dat"`, "/v1.0/industry/data"}},
		{"no path", missing.URL, "http", "warning", []string{`nothing at ""`}},
		{"the board's path, which is not asked by GET", missing.URL + "/v1.0/industry/data", "http", "ok", nil},
		{"a password, which the host sends too", strings.Replace(locked.URL, "://", "://plant:hunter2@", 1), "http", "ok", nil},
		{"a wrong password", strings.Replace(locked.URL, "://", "://plant:hunter2hunter2@", 1), "http", "warning", []string{"HTTP 401"}},
		{"forbidden", forbidden.URL, "http", "warning", []string{"HTTP 403", "Indian addresses only"}},
		{"silence", "https://" + silent.Addr().String(), "tls", "failed", []string{"no TLS"}},
		{"silence without TLS", "http://" + silent.Addr().String(), "http", "failed", []string{"no answer", "Indian addresses only"}},
		{"redirect", redirecting.URL, "http", "warning", []string{"redirects to", "elsewhere.example.org"}},
		{"trouble", broken.URL, "http", "warning", []string{"HTTP 502"}},
		{"http at the port of https", strings.Replace(plain.URL, "http:", "https:", 1), "tls", "failed", []string{"does not speak TLS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			checks, _ := diagnose(t, "--timeout", "1s", "--config", telegrafFile(t, fmt.Sprintf("endpoint = %q", c.endpoint)))
			wants(t, checks, c.check, c.status, c.texts...)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s with --timeout 1s", took)
			}
		})
	}
}

// proxy forwards a connection to its target, as plants' proxies do.
func proxy(t *testing.T, to string, asked *[]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.Host)
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Host = to }}).ServeHTTP(w, r)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		fmt.Fprint(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(server, client) }()
		_, _ = io.Copy(client, server)
	})
}

func TestDoctorProxy(t *testing.T) {
	ca := newAuthority(t, "Root of Tests")
	endpoint := serve(t, board(t, 0), ca.issue(t, "cems.invalid", time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour)), nil)
	target, _ := url.Parse(endpoint)
	var asked []string
	server := httptest.NewServer(proxy(t, target.Host, &asked))
	defer server.Close()
	secret := strings.Replace(server.URL, "http://", "http://plant:hunter2@", 1)
	telegraf := func(keys ...string) string {
		return telegrafFile(t, append(keys, `endpoint = "https://cems.invalid/v1.0/industry/data"`, fmt.Sprintf("tls_ca = %q", ca.file(t)))...)
	}
	collector := write(t, "c.yaml", collectorText(t, "https://cems.invalid/v1.0/industry/data", "http: {tls: {ca_file: "+ca.file(t)+"}}"))
	environment := write(t, "env", "# of the service\nexport HTTPS_PROXY=\""+secret+"\"\nNO_PROXY=localhost\n")

	for name, args := range map[string][]string{
		"http_proxy_url":                  {"--config", telegraf(fmt.Sprintf("http_proxy_url = %q", secret))},
		"use_system_proxy":                {"--config", telegraf("use_system_proxy = true"), "--env-file", environment},
		"the collector's environment":     {"--config", collector, "--env-file", environment},
		"the collector's http.proxy_url ": {"--config", write(t, "c.yaml", strings.Replace(collectorText(t, "https://cems.invalid/", "http: {proxy_url: \""+secret+"\", tls: {ca_file: "+ca.file(t)+"}}"), "\t", " ", -1))},
	} {
		asked = nil
		checks, _ := diagnose(t, args...)
		wants(t, checks, "proxy", "ok", "the proxy resolves cems.invalid")
		wants(t, checks, "tls", "ok", "cems.invalid")
		wants(t, checks, "clock", "ok")
		if len(asked) != 1 || asked[0] != "CONNECT cems.invalid:443" {
			t.Errorf("%s: the proxy was asked %q", name, asked)
		}
	}
	checks, _ := diagnose(t, "--config", telegraf(), "--env-file", environment) // Telegraf uses the environment only with use_system_proxy
	wants(t, checks, "dns", "failed")
	if _, ok := checks["proxy"]; ok {
		t.Errorf("a proxy: %+v", checks["proxy"])
	}
	checks, _ = diagnose(t, "--config", telegraf(fmt.Sprintf("http_proxy_url = %q", server.URL)))
	wants(t, checks, "proxy", "failed", "Proxy Authentication Required", "password")
	checks, _ = diagnose(t, "--config", telegrafFile(t, `endpoint = "http://cems.invalid/"`, fmt.Sprintf("http_proxy_url = %q", server.URL)))
	wants(t, checks, "http", "failed", "HTTP 407")
}

func TestDoctorDisk(t *testing.T) {
	dir := t.TempDir()
	state := func(dir string) string {
		return write(t, "t.conf", regexp.MustCompile(`state_directory = .*`).ReplaceAllString(telegrafText(t), fmt.Sprintf("state_directory = %q", dir)))
	}
	checks, _ := diagnose(t, "--offline", "--config", state(filepath.Join(dir, "a/b/c")))
	wants(t, checks, "disk", "ok", "does not exist yet, and can be created in "+dir, "7 days without the board take about")
	wants(t, checks, "audit trail", "ok", "does not exist yet")
	wants(t, checks, "state", "ok", "does not exist yet")
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("it left %v", entries)
	}
	checks, _ = diagnose(t, "--offline", "--config", state(write(t, "file", "")))
	wants(t, checks, "disk", "failed", "is not a directory")
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	_, out, _ := quiet(t, "doctor", "--offline", "--config", state(open))
	if !strings.Contains(out, "mode 0755: other users can read") || !strings.Contains(out, "chmod 700 "+open) {
		t.Error(out)
	}
	if _, err := os.Stat("/dev/shm"); err == nil {
		_, out, _ = quiet(t, "doctor", "--offline", "--config", state("/dev/shm/ocems-of-a-test"))
		if !strings.Contains(out, "on tmpfs: it is in memory") {
			t.Error(out)
		}
	}
	if os.Geteuid() != 0 {
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		checks, _ = diagnose(t, "--offline", "--config", state(locked))
		wants(t, checks, "disk", "failed", "cannot be written")
	}
	if _, err := os.Stat("/proc/self"); err == nil { // not even root can write there
		checks, _ = diagnose(t, "--offline", "--config", state("/proc/ocems"))
		wants(t, checks, "disk", "failed", "cannot be written", "create it, and chown it")
	}
}

func TestDoctorTrail(t *testing.T) {
	file := telegrafText(t)
	dir := regexp.MustCompile(`state_directory = "(.*)"`).FindStringSubmatch(file)[1]
	config := write(t, "telegraf.conf", file)
	path := filepath.Join(dir, "audit.jsonl")
	trail, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close() // open and locked, as with a running host
	checks, _ := diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "ok", "empty")
	at := time.Date(2026, 11, 23, 6, 15, 0, 0, time.UTC)
	for range 2000 {
		if err := trail.Append(audit.Entry{Time: at, Outcome: audit.Expired, Detail: strings.Repeat("x", 10)}); err != nil {
			t.Fatal(err)
		}
	}
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "ok", "2000 lines, the last of 2026-11-23 11:45:00 IST: expired")
	trail.Rotate(audit.Rotation{Size: 1})
	packed := path + ".000000000001.zst"
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := trail.Check(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(packed); err == nil {
			break
		}
	}
	trail.Rotate(audit.Rotation{})
	if err := trail.Append(audit.Entry{Time: at, Outcome: audit.Expired}); err != nil {
		t.Fatal(err)
	}
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "ok", "with 1 closed file: 2004 lines, the last of 2026-11-23 11:45:00 IST: expired")
	whole, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packed, whole[:len(whole)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "warning", packed, "are damaged: restore the file from a copy")
	if err := os.WriteFile(packed, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	fmt.Fprint(f, `{"half a line`)
	f.Close()
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "ok", "2004 lines")
	f, _ = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	fmt.Fprint(f, "\nhunter2 is no line\n")
	f.Close()
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "failed", "the last line is not a line of an audit trail: the host sets a damaged trail aside")
	if after, _ := os.ReadFile(path); !bytes.HasPrefix(after, before) {
		t.Error("the trail was changed")
	}
	f, _ = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	fmt.Fprint(f, strings.Repeat("x", 2<<20))
	f.Close()
	checks, _ = diagnose(t, "--offline", "--config", config)
	wants(t, checks, "audit trail", "failed", "longer than 1 MiB")
}

// outbox makes the state of a host without a server, and leaves it open and locked, as a running host does.
func outbox(t *testing.T, config string, records ...payload.Record) string {
	t.Helper()
	path := filepath.Join(stateOf(config), "state.db")
	file, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	keys := options.DefaultDelivery()
	keys.DryRun = true
	d, err := delivery.New(t.Context(), delivery.Config{Delivery: keys, Client: &http.Client{}, Store: file, Logger: slog.New(slog.DiscardHandler),
		Lookup: func(id string) (delivery.Target, bool) { return delivery.Target{DeviceID: id}, true }})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return path
}

func stateOf(config string) string {
	return regexp.MustCompile(`state_directory = "(.*)"`).FindStringSubmatch(config)[1]
}

func reading(parameter string, value float64, unit string, stamp time.Time) payload.Reading {
	return payload.Reading{Parameter: parameter, Value: value, Unit: unit, Stamp: stamp, Flag: spec.FlagNormal}
}

func TestDoctorOutbox(t *testing.T) {
	text := telegrafText(t)
	start, _ := spec.Window(time.Now(), spec.SlotLength)
	path := outbox(t, text,
		payload.Record{StationID: "station_1", DeviceID: "dev_1", Readings: []payload.Reading{reading("cod", 1, "mg/L", start), reading("cod", 2, "mg/L", start.Add(-3*time.Hour))}},
		payload.Record{StationID: "station_1", DeviceID: "gone", Readings: []payload.Reading{reading("cod", 1, "mg/L", start)}})
	config := write(t, "telegraf.conf", text)
	_, out, _ := quiet(t, "doctor", "--offline", "--config", config)
	for _, want := range []string{
		"warning  outbox        device dev_1: slots waiting 2, the oldest " + spec.ISTString(start.Add(-3*time.Hour)),
		"-> see ocems status for the reason: the board refuses the device or does not answer, or a person must decide",
		"warning  outbox        device gone: slots waiting 1, the oldest " + spec.ISTString(start) + ": the configuration does not have this device",
		"devices with waiting slots 2, slots 3",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	dry := write(t, "telegraf.conf", strings.Replace(text, "state_directory", "dry_run = true\n  state_directory", 1))
	if _, out, _ := quiet(t, "doctor", "--offline", "--config", dry); !strings.Contains(out, "ok       outbox        device dev_1: slots waiting 2") || strings.Contains(out, "board refuses") {
		t.Errorf("a dry run sends nothing, so nothing is refused:\n%s", out)
	}
	hub := telegrafText(t)
	var records []payload.Record
	records = append(records, payload.Record{StationID: "station_1", DeviceID: "a\x1b[31m", Readings: []payload.Reading{reading("cod", 1, "mg/L", start)}})
	for i := range 49 {
		records = append(records, payload.Record{StationID: "station_1", DeviceID: fmt.Sprintf("gone_%02d", i), Readings: []payload.Reading{reading("cod", 1, "mg/L", start)}})
	}
	outbox(t, hub, records...)
	if _, out, _ := quiet(t, "doctor", "--offline", "--config", write(t, "telegraf.conf", hub)); strings.Count(out, "the configuration does not have this device") != 20 || !strings.Contains(out, "30 more") || strings.Contains(out, "\x1b") || !strings.Contains(out, "device a [31m:") {
		t.Errorf("not 20 of 50 warnings, or one that the terminal obeys:\n%s", out)
	}
	for name, damage := range map[string]func([]byte){"cut": nil, "overwritten": func(b []byte) { clear(b[4096*2:]) }, "not one": func(b []byte) { clear(b) }} {
		t.Run(name, func(t *testing.T) {
			text := telegrafText(t)
			if err := os.MkdirAll(stateOf(text), 0o700); err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(path)
			if damage == nil {
				b = b[:len(b)/2]
			} else {
				damage(b)
			}
			if err := os.WriteFile(filepath.Join(stateOf(text), "state.db"), b, 0o600); err != nil {
				t.Fatal(err)
			}
			config := write(t, "telegraf.conf", text)
			checks, _ := diagnose(t, "--offline", "--config", config)
			wants(t, checks, "state", "failed", "sets a damaged file aside")
			if code, out, errs := quiet(t, "preview", "--config", config); code != 3 || !strings.Contains(errs, "copying the state") {
				t.Errorf("exit %d: %s%s", code, out, errs)
			}
		})
	}
}

func TestDoctorMistakes(t *testing.T) {
	dir := t.TempDir()
	config := telegrafFile(t)
	for _, c := range []struct {
		args string
		want string
	}{
		{"doctor", "--config: missing"},
		{"doctor --config no-such-file", "no such file"},
		{"doctor --config " + dir, "has no *.conf"},
		{"doctor --config ../../README.md", "unknown ending: Telegraf's files end in .conf"},
		{"doctor --offline --config " + config + " --host telegaf", `--host: "telegaf" is unknown: nearest telegraf`},
		{"doctor --offline --config " + config + " --host collector", "is not a configuration of"},
		{"doctor --offline --config " + config + " --config " + write(t, "c.yaml", ""), "give the files of one host"},
		{"doctor --config " + config + " --timeout 0s", "--timeout: 0s must be more than 0"},
		{"doctor --config " + config + " --env-file " + write(t, "env", "hunter2 hunter2"), "line 1 is not NAME=value"},
		{"doctor --config " + config + " --ofline", "unknown flag --ofline: nearest --offline"},
		{"preview", "--config: missing"},
		{"preview --config " + config + " --device dev_2", `there is no device "dev_2": nearest dev_1`},
	} {
		code, out, errs := quiet(t, strings.Fields(c.args)...)
		if code != 3 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, out %q, err %q", c.args, code, out, errs)
		}
	}
	for _, name := range []string{"doctor", "preview"} {
		if code, out, _ := ocems("", name, "--help"); code != 0 || !strings.Contains(out, "sudo -u telegraf ocems "+name) || !strings.Contains(out, "-env-file") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
}

// A token that is a variable's name is refused, whether it is written $NAME or ${NAME}.
func TestDoctorTokens(t *testing.T) {
	for _, c := range []struct{ text, check, status, want string }{
		{"$OCEMS_NOT_SET", "configuration", "failed", "not set in the environment"},
		{"${" + token, "configuration", "failed", "it is not shown"},
		{"${OCEMS_NOT_SET}", "configuration", "failed", "not set in the environment"},
		{"", "configuration", "failed", "give it in "},
		{token[:len(token)-1] + "?", "tokens", "warning", "compare"},
		{token[1:], "tokens", "warning", "dev_1 (a character is missing)"},
		{"0123456789", "tokens", "warning", "too short"},
		{token + token, "tokens", "warning", "too long"},
		{"token=" + token, "configuration", "failed", "begins with a name"},
		{"1.23E+31", "configuration", "failed", "a spreadsheet has changed it into a number"},
		{token[:7] + "\u200b" + token[7:], "configuration", "failed", "an invisible character"},
	} {
		text := strings.Replace(telegrafText(t), token, c.text, 1)
		checks, _ := diagnose(t, "--offline", "--host", "telegraf", "--config", write(t, "telegraf.conf", text))
		wants(t, checks, c.check, c.status, c.want)
	}
}

func TestDoctorSmallKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	small := write(t, "small.pem", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})))
	checks, _ := diagnose(t, "--offline", "--config", write(t, "telegraf.conf", strings.Replace(telegrafText(t), publicPath, small, 1)))
	wants(t, checks, "public key", "warning", "1024 bits", "2048")
}

// If a file cannot be read, nothing is reported as missing.
func TestDoctorUnreadFile(t *testing.T) {
	for name, text := range map[string]string{"telegraf.conf": "[[outputs.ocems", "collector.yaml": "exporters:\n\t- x"} {
		_, out, _ := quiet(t, "doctor", "--offline", "--config", write(t, name, text), "--config", write(t, "other"+filepath.Ext(name), map[string]string{".conf": "[agent]", ".yaml": "receivers: {}"}[filepath.Ext(name)]))
		if !strings.Contains(out, "failed 1,") || strings.Contains(out, "there is no") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestDoctorNamesTheServiceUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the advice is root's")
	}
	text := collectorText(t, "https://cems.example.org/", "")
	checks, _ := diagnose(t, "--offline", "--config", write(t, "c.yaml", text))
	wants(t, checks, "user", "warning", "sudo -u ocems ocems doctor")
}

// What is valid, and cannot be meant.
func TestDoctorDoubts(t *testing.T) {
	noDevice, _, _ := strings.Cut(telegrafText(t, fmt.Sprintf("devices_file = %q", write(t, "devices.csv", "station_id,device_id,token_id\n"))), "[[outputs.ocems.device]]")
	for text, want := range map[string]string{
		strings.Replace(telegrafText(t), `unit = "mg/L"`, "", 1): `parameter "cod" has no unit: a reading without the tag ocems_unit is refused`,
		noDevice: "no device is configured, so no reading is reported",
		strings.Replace(telegrafText(t), "[[outputs.ocems.device]]", "[[outputs.ocems.device]]\nlatitude = 72.88\nlongitude = 19.07", 1): "latitude 72.88 and longitude 19.07 are not in India; they are swapped",
	} {
		if code, out, errs := quiet(t, "doctor", "--offline", "--config", write(t, "t.conf", text)); code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d: %s%s, want %s", code, out, errs, want)
		}
	}
}

// The text output for a good and a bad configuration of each host.
func TestDoctorText(t *testing.T) {
	files, err := filepath.Glob("testdata/doctor/*.[cy]*")
	if err != nil || len(files) != 6 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DIR", dir)
			t.Setenv("OCEMS_TOKEN", token)
			code, out, errs := quiet(t, "doctor", "--offline", "--config", file)
			if good := strings.Contains(file, "good"); good != (code == 0) || errs != "" {
				t.Errorf("exit %d: %s", code, errs)
			}
			// User and disk depend on the machine.
			out = regexp.MustCompile(`(?m)^\S+ +user .*\n( +-> .*\n)?`).ReplaceAllString(out, "")
			out = regexp.MustCompile(`\d[0-9.]* [KMGT]iB free`).ReplaceAllString(out, "N free")
			out = regexp.MustCompile(`warnings \d+`).ReplaceAllString(strings.ReplaceAll(out, dir, "DIR"), "warnings N")
			golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || string(want) != out {
				t.Errorf("%v: got\n%swant\n%s", err, out, want)
			}
		})
	}
}

// Components behind an ocems_slot must neither hold nor change its slots.
func TestDoctorBehindTheSlots(t *testing.T) {
	for _, c := range []struct{ name, old, changed, want string }{
		{"nothing", "", "", ""},
		{"batch", "[ocems_slot]", "[ocems_slot, batch/small]", "batch/small behind ocems_slot holds finished slots in memory"},
		{"batch before", "[ocems_slot]", "[batch/small, ocems_slot]", ""},
		{"filter", "[ocems_slot]", "[ocems_slot, filter]", "filter behind ocems_slot may change or drop"},
		{"queue", "exporters: [ocems]", "exporters: [ocems, otlphttp]", "otlphttp behind ocems_slot has a sending_queue"},
		{"queue on a storage", "exporters: [ocems]", "exporters: [ocems, otlphttp/stored]", ""},
		{"queue that is off", "exporters: [ocems]", "exporters: [ocems, otlphttp/off]", ""},
		{"queue that makes the sender wait", "exporters: [ocems]", "exporters: [ocems, otlphttp/waits]", ""},
		{"no queue", "exporters: [ocems]", "exporters: [ocems, debug]", ""},
		{"queue behind a connector", "exporters: [ocems]}", "exporters: [ocems, forward]}, metrics/out: {receivers: [forward], exporters: [otlphttp]}", "service.pipelines.metrics/out: otlphttp behind ocems_slot"},
		{"queue of another pipeline", "pipelines: {", "pipelines: {metrics/other: {receivers: [otlp], exporters: [otlphttp]}, ", ""},
	} {
		text := collectorText(t, "https://cems.example.org/v1.0/industry/data", "")
		text = strings.Replace(text, "\nexporters:\n", `
receivers: {otlp: {}}
connectors: {forward: {}}
exporters:
  debug:
  otlphttp: {endpoint: http://vendor}
  otlphttp/stored: {endpoint: http://vendor, sending_queue: {storage: ocems_storage}}
  otlphttp/off: {endpoint: http://vendor, sending_queue: {enabled: false}}
  otlphttp/waits: {endpoint: http://vendor, sending_queue: {wait_for_result: true}}
`, 1)
		text = strings.Replace(text, "processors: {ocems_slot:", "processors: {batch/small: {}, filter: {}, ocems_slot:", 1)
		if !strings.Contains(text, c.old) {
			t.Fatalf("%s: no %q in %s", c.name, c.old, text)
		}
		code, out, errs := quiet(t, "doctor", "--offline", "--config", write(t, "c.yaml", strings.Replace(text, c.old, c.changed, 1)))
		if want := c.want != ""; code != 0 || strings.Contains(out, "behind ocems_slot") != want || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, want %q: %s%s", c.name, code, c.want, out, errs)
		}
	}
}

// With its defaults the Kafka receiver may lose messages that the exporter has not stored.
func TestDoctorKafka(t *testing.T) {
	const marked, waits = "message_marking: {after: true}", "error_backoff: {enabled: true}"
	for _, c := range []struct {
		name, keys, pipeline string
		marking, backoff     bool // a warning is expected
	}{
		{"defaults", "", "kafka", true, true},
		{"marked after", marked, "kafka", false, true},
		{"marked after, and waits", marked + ", " + waits, "kafka", false, false},
		{"marked before", "message_marking: {after: false}, " + waits, "kafka", true, false},
		{"not used", "", "otlp", false, false},
	} {
		text := collectorText(t, "https://cems.example.org/v1.0/industry/data", "")
		text = strings.Replace(text, "\nexporters:\n", "\nreceivers: {otlp: {}, kafka: {"+c.keys+"}}\nexporters:\n", 1)
		text = strings.Replace(text, "receivers: [otlp]", "receivers: ["+c.pipeline+"]", 1)
		code, out, errs := quiet(t, "doctor", "--offline", "--config", write(t, "c.yaml", text))
		if code != 0 || strings.Contains(out, "receivers.kafka: message_marking.after is not true") != c.marking || strings.Contains(out, "receivers.kafka: error_backoff.enabled is not true") != c.backoff {
			t.Errorf("%s: exit %d: %s%s", c.name, code, out, errs)
		}
	}
}

// Every configuration of the README and the examples passes, except the Telegraf that reports through a collector.
func TestDoctorExamples(t *testing.T) {
	dir := t.TempDir()
	key, err := filepath.Abs(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../../examples/telegraf-execd") // its command is relative to this directory
	t.Setenv("OCEMS_STATE", dir)
	t.Setenv("OCEMS_PUBLIC_KEY_FILE", key)
	t.Setenv("OCEMS_DEVICES_FILE", write(t, "devices.csv", "station_id,device_id,token_id,public_key_file\nstation_1,dev_1,"+token+","+key+"\n"))
	t.Setenv("OCEMS_EXAMPLE", ".")
	for _, name := range []string{"OCEMS_TOKEN", "OCEMS_TOKEN_ETP", "OCEMS_TOKEN_FLOW", "OCEMS_TOKEN_STACK", "OCEMS_TOKEN_STACK_1", "OCEMS_TOKEN_STACK_2"} {
		t.Setenv(name, token)
	}
	t.Setenv("OCEMS_PROXY_URL", "http://proxy.plant:3128")
	authority := httptest.NewTLSServer(nil)
	authority.Close()
	ca := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})))
	tokens, devices := write(t, "token", token), write(t, "devices.csv", "station_id,device_id,token_id,public_key_file\nstation_1,dev_1,"+token+","+key+"\n")
	var files []string
	for _, pattern := range []string{"../*/*.conf", "../*/*.yaml", "../*/etc/*.conf", "../*/etc/*.yaml", "../../README.md", "../../*/*/README.md", "../../plugins/outputs/ocems/sample.conf"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range found {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			kind := map[string]string{".conf": "toml", ".yaml": "yaml"}[filepath.Ext(page)]
			if kind != "" {
				text = fmt.Appendf(nil, "```%s\n%s```", kind, text)
			}
			for k, m := range regexp.MustCompile("(?s)```(toml|yaml)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
				text := m[2]
				for name, path := range map[string]string{"public_key_file": key, "token_id_file": tokens, "devices_file": devices, "tls_ca": ca, "ca_file": ca} { // the files of this test
					text = regexp.MustCompile(`(?m)^(\s*`+name+`\s*[=:]\s*)("[^"]+"|[^"\s]\S*)`).ReplaceAllString(text, `${1}"`+path+`"`)
				}
				text = regexp.MustCompile(`/var/lib/[a-z0-9_/-]*`).ReplaceAllStringFunc(text, func(path string) string { return filepath.Join(dir, path) })
				path := filepath.Join(dir, fmt.Sprintf("%s-%d%s", strings.NewReplacer("../", "", "/", "-").Replace(page), k, map[string]string{"toml": ".conf", "yaml": ".yaml"}[m[1]]))
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				files = append(files, path)
			}
		}
	}
	passed := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole := strings.Contains(string(text), "[[outputs.ocems]]") && strings.Contains(string(text), "public_key") || strings.Contains(string(text), "[[outputs.execd]]") && strings.Contains(string(text), "${OCEMS_EXAMPLE") ||
			regexp.MustCompile(`(?m)^  ocems(_slot)?:\n(    .*\n)*    devices`).Match(text) && strings.Contains(string(text), "pipelines:")
		if !whole {
			continue
		}
		code, out, errs := quiet(t, "doctor", "--offline", "--config", file)
		if code != 0 || strings.Contains(out, "behind ocems_slot") {
			t.Errorf("%s: exit %d: %s%s", file, code, out, errs)
		}
		for _, spoilt := range []string{"count as U", "makes an integer", "reaches no reading", "csv_skip_errors", "retained", "are late", "another instrument", "is not true"} {
			if strings.Contains(out, spoilt) {
				t.Errorf("%s: %q in %s", file, spoilt, out)
			}
		}
		if strings.HasSuffix(file, "edge-plant.yaml-0.yaml") && !strings.Contains(out, "it does not deliver to the board, it passes its slots to otlp_http") {
			t.Errorf("%s: %s", file, out)
		}
		passed++
	}
	if passed < 12 {
		t.Errorf("only %d configurations were looked at: %q", passed, files)
	}
}

// No typing error shows a token: each character of a configuration is removed in turn, or replaced by a line break.
func TestDoctorShowsNoSecretOfABrokenFile(t *testing.T) {
	public, err := os.ReadFile(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Join(strings.Split(strings.TrimSpace(string(public)), "\n")[1:8], "")
	block := strings.NewReplacer("public_key_file: "+publicPath, "public_key: "+key, "[{station_id", "\n      - station_id", ", device_id", "\n        device_id", ", token_id", "\n        token_id", ", parameters: [{metric: m, parameter: cod, unit: mg/L}]}]", "").
		Replace(collectorText(t, "https://cems.example.org/", ""))
	for name, text := range map[string]string{
		"telegraf.conf": strings.Replace(telegrafText(t, `tls_key_pwd = "hunter2"`), `public_key_file = "`+publicPath, `public_key = "`+key, 1),
		"flow.yaml":     collectorText(t, "https://cems.example.org/", `http: {proxy_url: "http://plant:hunter2@proxy:3128"}`),
		"block.yaml":    block,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			broken := 0
			text, rest, _ := strings.Cut(text, "processors:") // no secret follows it
			if rest != "" {
				rest = "processors:" + rest
			}
			for i := range text {
				for _, instead := range []string{"", "\n"} {
					path := filepath.Join(dir, name)
					if err := os.WriteFile(path, []byte(text[:i]+instead+text[i+1:]+rest), 0o600); err != nil {
						t.Fatal(err)
					}
					if code, _, _ := quiet(t, "doctor", "--offline", "--config", path); code != 0 {
						broken++
					}
					if t.Failed() {
						t.Fatalf("at %d, %q for %q", i, instead, text[i])
					}
				}
			}
			if broken < len(text)/4 {
				t.Errorf("only %d of the files were wrong", broken)
			}
		})
	}
}
