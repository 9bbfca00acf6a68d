package simulator_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

const registryYAML = `
stations:
  - id: station_1
    devices:
      - id: dev_1
        token: token-of-dev-1
        calibrations:
          - {from: -2h, to: -1h}
          - {from: 2026-02-10T05:00:00+05:30, to: 2026-02-10T05:30:00+05:30}
      - id: dev_2
        token: token-of-dev-2
        parameters: {ph: [pH], cod: [mg/L]}
  - id: station_2
    devices:
      - {id: dev_3, token: token-of-dev-3}
`

// now is 10-02-2026 12:07:30 IST, in the middle of a slot.
var now = time.Date(2026, 2, 10, 12, 7, 30, 0, spec.IST)

// slot is the last one before now.
var slot = time.Date(2026, 2, 10, 12, 0, 0, 0, spec.IST)

var privateKey = func() *rsa.PrivateKey {
	text, err := os.ReadFile("../seal/testdata/industry_test_private.pem")
	if err != nil {
		panic(err)
	}
	key, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		panic(err)
	}
	return key
}()

func start(t *testing.T, change func(*simulator.Config)) *httptest.Server {
	t.Helper()
	registry, err := simulator.ParseRegistry([]byte(registryYAML), now)
	if err != nil {
		t.Fatal(err)
	}
	config := simulator.Config{PrivateKey: privateKey, Registry: registry, Now: func() time.Time { return now }}
	if change != nil {
		change(&config)
	}
	s, err := simulator.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

// request is one POST to the API; that of good() is accepted.
type request struct {
	station, device, header, token, signToken string
	signature, body, json                     string // replace the generated ones; "-" omits the header
	parameter, unit, value, flag              string
	stamp                                     time.Time
}

func good() request {
	return request{station: "station_1", device: "dev_1", header: "dev_1", token: "token-of-dev-1", signToken: "token-of-dev-1",
		parameter: "ph", unit: "pH", value: "7.20", flag: "U", stamp: slot}
}

func (q request) entry() string {
	return fmt.Sprintf(`{"parameter":%q,"value":%s,"unit":%q,"timestamp":%d,"flag":%q}`, q.parameter, q.value, q.unit, q.stamp.UnixMilli(), q.flag)
}

func (q request) send(server *httptest.Server) (*http.Response, []byte, error) {
	text := q.json
	if text == "" {
		text = fmt.Sprintf(`{"data":[{"stationId":%q,"device_data":[{"deviceId":%q,"params":[%s]}]}]}`, q.station, q.device, q.entry())
	}
	body := []byte(q.body)
	if q.body == "" {
		body, _ = seal.Seal(q.token, []byte(text))
	}
	r, _ := http.NewRequest(http.MethodPost, server.URL+"/v1.0/industry/data", bytes.NewReader(body))
	signature := q.signature
	if signature == "" {
		signature, _ = seal.Sign(&privateKey.PublicKey, q.signToken, now)
	}
	if signature != "-" {
		r.Header["signature"] = []string{signature}
	}
	if q.header != "-" {
		r.Header.Set("X-Device-Id", q.header)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return resp, out, err
}

// want sends the request and compares the whole answer.
func (q request) want(t *testing.T, server *httptest.Server, status spec.Status) {
	t.Helper()
	resp, body, err := q.send(server)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("HTTP %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	if text := fmt.Sprintf(`{"msg":%q,"status":%d}`, status.Message(), int(status)); string(body) != text {
		t.Errorf("answer %s, want %s", body, text)
	}
}

func fault(t *testing.T, server *httptest.Server, text string) {
	t.Helper()
	if code, body := post(t, server, text); code != 200 {
		t.Fatalf("POST /faults: %d %s", code, body)
	}
}

func post(t *testing.T, server *httptest.Server, text string) (int, string) {
	t.Helper()
	resp, err := server.Client().Post(server.URL+"/faults", "application/json", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func received(t *testing.T, server *httptest.Server, query string) simulator.Received {
	t.Helper()
	resp, err := server.Client().Get(server.URL + "/received?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out simulator.Received
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func signed(t *testing.T, text string) string {
	t.Helper()
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &privateKey.PublicKey, []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sealed)
}

func TestStatuses(t *testing.T) {
	covered := map[spec.Status]bool{}
	for _, c := range []struct {
		name   string
		status spec.Status
		change func(*request)
		fault  string
		noKey  bool
	}{
		{name: "good", status: 1},
		{name: "identifiers with spaces", status: 1, change: func(q *request) {
			q.station, q.device, q.header, q.parameter, q.unit, q.flag = " station_1 ", " dev_1 ", " dev_1 ", " ph ", " pH ", " U "
		}},
		{name: "failed", status: 0, fault: `{"status":0}`},
		{name: "wrong token", status: 10, change: func(q *request) { q.signToken = "token-of-dev-2" }},
		{name: "signature is no base64", status: 10, change: func(q *request) { q.signature = "%%%" }},
		{name: "signature time malformed", status: 10, change: func(q *request) { q.signature = signed(t, "token-of-dev-1$*10-02-2026") }},
		{name: "flag", status: 10, change: func(q *request) { q.flag = "X" }},
		{name: "lower-case flag", status: 10, change: func(q *request) { q.flag = "u" }},
		{name: "value is a string", status: 10, change: func(q *request) { q.value = `"7.2"` }},
		{name: "value has an exponent", status: 10, change: func(q *request) { q.value = `7e0` }},
		{name: "value is null", status: 10, change: func(q *request) { q.value = `null` }},
		{name: "no readings", status: 10, change: func(q *request) {
			q.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[]}]}]}`
		}},
		{name: "no station", status: 10, change: func(q *request) { q.json = `{"data":[]}` }},
		{name: "unknown station", status: 102, change: func(q *request) { q.station = "station_9" }},
		{name: "sealed under another token", status: 109, change: func(q *request) { q.token = "token-of-dev-2" }},
		{name: "plain JSON", status: 109, change: func(q *request) { q.body = `{"data":[]}` }},
		{name: "not JSON", status: 109, change: func(q *request) { q.json = `nonsense` }},
		{name: "unit of another spelling", status: 110, change: func(q *request) { q.parameter, q.unit = "cod", "mg/l" }},
		{name: "parameter before unit", status: 119, change: func(q *request) {
			bad := *q
			q.unit, bad.parameter = "PH", "PH"
			q.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` + q.entry() + `,` + bad.entry() + `]}]}]}`
		}},
		{name: "off the grid", status: 111, change: func(q *request) { q.stamp = slot.Add(-time.Minute) }},
		{name: "twice in one request", status: 111, change: func(q *request) {
			q.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` + q.entry() + `,` + q.entry() + `]}]}]}`
		}},
		{name: "timestamp is a string", status: 111, change: func(q *request) {
			q.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[{"parameter":"ph","value":1,"unit":"pH","timestamp":"x","flag":"U"}]}]}]}`
		}},
		{name: "no calibration", status: 112, change: func(q *request) { q.flag = "C" }},
		{name: "no signature", status: 113, change: func(q *request) { q.signature, q.header = "-", "-" }},
		{name: "no device header", status: 114, change: func(q *request) { q.header = "-" }},
		{name: "no key", status: 115, noKey: true},
		{name: "unknown device", status: 116, change: func(q *request) { q.header = "dev_9" }},
		{name: "too old", status: 117, change: func(q *request) { q.stamp = slot.Add(-spec.MaxAge) }},
		{name: "oldest", status: 1, change: func(q *request) { q.stamp = slot.Add(-spec.MaxAge + spec.SlotLength) }},
		{name: "too old before off the grid", status: 117, change: func(q *request) { q.stamp = slot.Add(-spec.MaxAge - time.Minute) }},
		{name: "future", status: 118, change: func(q *request) { q.stamp = slot.Add(spec.SlotLength) }},
		{name: "parameter of other case", status: 119, change: func(q *request) { q.parameter = "PH" }},
		{name: "two stations", status: 120, change: func(q *request) { q.json = `{"data":[{"stationId":"station_1"},{"stationId":"station_2"}]}` }},
		{name: "device of the body", status: 121, change: func(q *request) { q.device = "dev_2" }},
		{name: "device of another station", status: 121, change: func(q *request) { q.station = "station_2" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := start(t, func(config *simulator.Config) {
				if c.noKey {
					config.PrivateKey = nil
				}
			})
			if c.fault != "" {
				fault(t, server, c.fault)
			}
			q := good()
			if c.change != nil {
				c.change(&q)
			}
			q.want(t, server, c.status)
			got := received(t, server, "")
			want := simulator.Received{Requests: 1}
			switch c.status {
			case 1:
				want.Accepted = 1
			case 111:
				want.Duplicates = 1
			default:
				want.Rejected = 1
			}
			if len(got.Readings) != want.Accepted {
				t.Errorf("%d readings stored", len(got.Readings))
			}
			got.Readings = nil
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("received %+v, want %+v", got, want)
			}
		})
		covered[c.status] = true
	}
	for _, s := range spec.Statuses() {
		if !covered[s] {
			t.Errorf("no case for status %s", s)
		}
	}
}

func TestRegistryUnits(t *testing.T) {
	server := start(t, nil)
	q := good()
	q.device, q.header, q.token, q.signToken = "dev_2", "dev_2", "token-of-dev-2", "token-of-dev-2"
	q.unit = "mg/L"
	q.want(t, server, spec.StatusInvalidUnit)
	q.parameter = "bod"
	q.want(t, server, spec.StatusInvalidParameter)
	q.parameter = "cod"
	q.want(t, server, spec.StatusSuccess)
}

func TestCalibration(t *testing.T) {
	server := start(t, nil)
	for _, c := range []struct {
		name   string
		stamp  time.Time
		flag   string
		status spec.Status
	}{
		{"scheduled by duration", now.Add(-90 * time.Minute), "C", 1},
		{"zero calibration at its end", now.Add(-time.Hour), "Z", 1},
		{"after its end", now.Add(-time.Hour + 30*time.Second), "Z", 112},
		{"scheduled by time", time.Date(2026, 2, 10, 5, 0, 30, 0, spec.IST), "C", 1},
		{"off the 30-second grid", now.Add(-90*time.Minute + 10*time.Second), "C", 111},
		{"normal reading on the 30-second grid", now.Add(-90*time.Minute + 30*time.Second), "U", 111},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := good()
			q.stamp, q.flag = c.stamp, c.flag
			q.want(t, server, c.status)
		})
	}
}

func TestDuplicates(t *testing.T) {
	for _, mode := range []string{"", "parameter", "slot"} {
		t.Run("mode "+mode, func(t *testing.T) {
			server := start(t, func(c *simulator.Config) { c.Duplicates = mode })
			q, other := good(), good()
			other.parameter, other.unit, other.value = "cod", "mg/L", "31"
			q.want(t, server, 1)
			q.want(t, server, 111)
			both := q
			both.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` + other.entry() + `,` + q.entry() + `]}]}]}`
			both.want(t, server, 111) // and cod is not stored
			if mode == "slot" {
				other.want(t, server, 111)
			} else {
				other.want(t, server, 1)
			}
			q.stamp, other.stamp = slot.Add(-spec.SlotLength), slot.Add(-spec.SlotLength)
			both.json = `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` + q.entry() + `],"diag_params":[` + other.entry() + `]}]}]}`
			both.want(t, server, 1)
		})
	}
}

func TestReceived(t *testing.T) {
	clock, mu := now, sync.Mutex{}
	server := start(t, func(c *simulator.Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	})
	q := good()
	q.want(t, server, 1)
	mu.Lock()
	clock = clock.Add(time.Minute)
	mu.Unlock()
	q.parameter, q.unit = "cod", "mg/L"
	q.want(t, server, 1)
	third := good()
	third.station, third.device, third.header, third.token, third.signToken = "station_2", "dev_3", "dev_3", "token-of-dev-3", "token-of-dev-3"
	third.want(t, server, 1)

	first := simulator.Reading{Station: "station_1", Device: "dev_1", Parameter: "ph", Value: "7.20", Unit: "pH",
		Timestamp: slot.UnixMilli(), Flag: "U", ReceivedAt: now.UnixMilli()}
	if got := received(t, server, ""); len(got.Readings) != 3 || got.Readings[0] != first || got.Accepted != 3 {
		t.Errorf("all: %+v", got)
	}
	if got := received(t, server, "device=dev_1"); len(got.Readings) != 2 || got.Accepted != 2 || got.Requests != 2 {
		t.Errorf("device: %+v", got)
	}
	if got := received(t, server, "parameter=ph"); len(got.Readings) != 2 {
		t.Errorf("parameter: %+v", got)
	}
	if got := received(t, server, fmt.Sprintf("device=dev_1&since=%d", now.UnixMilli()+1)); len(got.Readings) != 1 || got.Readings[0].Parameter != "cod" {
		t.Errorf("since: %+v", got)
	}
	for query, text := range map[string]string{"devise=x": "nearest device", "since=" + url.QueryEscape("now"): "milliseconds"} {
		resp, err := server.Client().Get(server.URL + "/received?" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 400 || !strings.Contains(string(body), text) {
			t.Errorf("%s: %d %s", query, resp.StatusCode, body)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	server := start(t, nil)
	q := good()
	q.body = strings.Repeat("A", 1<<20+1)
	if resp, _, err := q.send(server); err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%v %v", resp, err)
	}
}

func TestConcurrentSendersOfOneReading(t *testing.T) {
	server := start(t, nil)
	fault(t, server, `{"device":"dev_1","count":5,"latency":"1ms"}`)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _, _, _ = good().send(server) })
	}
	wg.Wait()
	if got := received(t, server, ""); got.Accepted != 1 || got.Duplicates != 19 || got.Requests != 20 {
		t.Errorf("%+v", got)
	}
}

// A board may accept keys outside the specification; allow_unlisted sends them.
func TestUnlistedKeys(t *testing.T) {
	registry, err := simulator.ParseRegistry([]byte("unlisted_parameters: [nox]\nunlisted_units: [knm3/h]\n"+registryYAML+`
      - {id: dev_4, token: token-of-dev-4, parameters: {nox: [mg/Nm³, knm3/h]}}
`), now)
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, func(c *simulator.Config) { c.Registry = registry })
	for i, c := range []struct {
		device, parameter, unit string
		want                    spec.Status
	}{
		{"dev_1", "nox", "mg/Nm³", spec.StatusSuccess},
		{"dev_1", "flow_emission", "knm3/h", spec.StatusSuccess},
		{"dev_1", "nox", "furlong", spec.StatusInvalidUnit},
		{"dev_1", "NOX", "mg/Nm³", spec.StatusInvalidParameter},
		{"dev_1", "knm3/h", "mg/Nm³", spec.StatusInvalidParameter},
		{"dev_1", "pm", "nox", spec.StatusInvalidUnit},
		{"dev_2", "nox", "mg/Nm³", spec.StatusInvalidParameter},
		{"dev_4", "nox", "knm3/h", spec.StatusSuccess},
		{"dev_4", "cod", "mg/L", spec.StatusInvalidParameter},
	} {
		q := good()
		q.device, q.header, q.parameter, q.unit, q.stamp = c.device, c.device, c.parameter, c.unit, slot.Add(time.Duration(-i)*spec.SlotLength)
		q.token = "token-of-" + strings.ReplaceAll(c.device, "_", "-")
		q.signToken = q.token
		if c.device == "dev_4" {
			q.station = "station_2"
		}
		t.Run(c.device+" "+c.parameter+" "+c.unit, func(t *testing.T) { q.want(t, server, c.want) })
	}
	q := good()
	q.parameter, q.unit = "nox", "mg/Nm³"
	q.want(t, start(t, nil), spec.StatusInvalidParameter)
}
