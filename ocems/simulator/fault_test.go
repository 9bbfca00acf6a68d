package simulator_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

func TestFaultAnswers(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		code        int
		kind, body  string
		retryAfter  string
		stored      int
	}{
		{"HTTP status", `{"count":1,"http_status":503}`, 503, "text/plain; charset=utf-8", "Service Unavailable\n", "", 0},
		{"retry after", `{"count":1,"http_status":429,"retry_after":7}`, 429, "text/plain; charset=utf-8", "Too Many Requests\n", "7", 0},
		{"status", `{"count":1,"status":117}`, 200, "application/json", `{"msg":"Data cannot be pushed beyond 7 days","status":117}`, "", 0},
		{"unknown status", `{"count":1,"status":108}`, 200, "application/json", `{"msg":"status outside v1.5","status":108}`, "", 0},
		{"html", `{"count":1,"html":true,"http_status":502}`, 502, "text/html; charset=utf-8", "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>\n", "", 0},
		{"no content", `{"count":1,"http_status":204}`, 204, "text/plain; charset=utf-8", "", "", 0},
		{"lost reply", `{"count":1,"http_status":500,"after_store":true}`, 500, "text/plain; charset=utf-8", "Internal Server Error\n", "", 1},
		{"for its device only", `{"device":"dev_2","count":1,"http_status":503}`, 200, "application/json", `{"msg":"success","status":1}`, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := start(t, nil)
			fault(t, server, c.fault)
			resp, body, err := good().send(server)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.code || string(body) != c.body || resp.Header.Get("Content-Type") != c.kind || resp.Header.Get("Retry-After") != c.retryAfter {
				t.Errorf("HTTP %d %v %q", resp.StatusCode, resp.Header, body)
			}
			if got := received(t, server, "device=dev_1"); got.Accepted != c.stored || got.Rejected != 1-c.stored {
				t.Errorf("received %+v", got)
			}
			if c.stored == 0 { // the fault was for one request
				good().want(t, server, spec.StatusSuccess)
			} else {
				good().want(t, server, spec.StatusNotSlot)
			}
		})
	}
}

func TestFaultClose(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		stored      int
	}{
		{"before", `{"count":2,"close":true}`, 0}, // 2: the client may retry on a new connection
		{"after", `{"count":2,"close":true,"after_store":true}`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := start(t, nil)
			fault(t, server, c.fault)
			if _, _, err := good().send(server); err == nil {
				t.Error("an answer came")
			}
			if got := received(t, server, ""); got.Accepted != c.stored {
				t.Errorf("received %+v", got)
			}
		})
	}
}

func TestFaultHalf(t *testing.T) {
	server := start(t, nil)
	fault(t, server, `{"count":1,"half":true}`)
	_, body, err := good().send(server)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != `{"msg":"succes` {
		t.Errorf("%q %v", body, err)
	}
	good().want(t, server, spec.StatusNotSlot)
}

func TestFaultLatency(t *testing.T) {
	server := start(t, nil)
	fault(t, server, `[{"count":1,"latency":"50ms"},{"latency":"1h"}]`)
	begin := time.Now()
	good().want(t, server, spec.StatusSuccess)
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("took %s", took)
	}
	// The server stops with the client; otherwise Close would wait for an hour.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/v1.0/industry/data", strings.NewReader("x"))
	if _, err := server.Client().Do(r); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestFaultClockOffset(t *testing.T) {
	server := start(t, nil)
	date := func() string {
		resp, _, err := good().send(server)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Get("Date")
	}
	fault(t, server, `{"count":2,"clock_offset":"-1h"}`)
	good().want(t, server, spec.StatusFuture)
	if got, want := date(), now.Add(-time.Hour).UTC().Format(http.TimeFormat); got != want {
		t.Errorf("Date %s, want %s", got, want)
	}
	if got, want := date(), now.UTC().Format(http.TimeFormat); got != want {
		t.Errorf("Date %s, want %s", got, want)
	}
}

func TestFaultList(t *testing.T) {
	server := start(t, nil)
	fault(t, server, `[{"device":"dev_1","count":2,"latency":"0s","status":10},{"http_status":500}]`)
	good().want(t, server, spec.StatusInvalidDetails)
	list := func() string {
		resp, err := server.Client().Get(server.URL + "/faults")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(body))
	}
	if got := list(); got != `[{"device":"dev_1","count":1,"status":10},{"count":0,"http_status":500}]` {
		t.Errorf("list %s", got)
	}
	r, _ := http.NewRequest(http.MethodDelete, server.URL+"/faults", nil)
	resp, err := server.Client().Do(r)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if got := list(); got != `[]` {
		t.Errorf("list %s", got)
	}
	good().want(t, server, spec.StatusSuccess)
}

func TestFaultMistakes(t *testing.T) {
	server := start(t, nil)
	for text, want := range map[string]string{
		`{"http_staus":503}`:             `unknown key "http_staus": nearest http_status`,
		`[{"count":1},{"Latency":"1s"}]`: `fault 2: unknown key "Latency": nearest latency`,
		`{"latency":"2 seconds"}`:        `latency: value "2 seconds" is not valid`,
		`{"latency":2}`:                  `latency: value 2 is not valid`,
		`{"count":-1}`:                   `count: -1 is negative`,
		`{"http_status":99}`:             `http_status: 99`,
		`{"status":"10"}`:                `status: value "10" is not valid`,
		`nonsense`:                       `not a JSON object`,
		``:                               `not a JSON object`,
	} {
		if code, body := post(t, server, text); code != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", text, code, body)
		}
	}
}
