package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"

	"github.com/ocems-io/ocems/test/loopback"
)

func TestMetricsAreServed(t *testing.T) {
	address := loopback.Addr(t)
	taken, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlant(t)
	r := p.start("--metrics-listen", address)
	start := past(2)
	wire, sum, n := samples(start, start.Add(slotTime), every)
	r.feed(wire)
	p.wantSlots(start, sum/float64(n)) // with or without an address for metrics
	p.until("the log says it", func() bool {
		return strings.Contains(r.err.String(), "--metrics-listen: metrics are not available until the address is free")
	})
	taken.Close()
	get := func(path string) (text string, status int) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return "", 0
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return "", 0
		}
		return string(b), resp.StatusCode
	}
	stamp := start.Add(slotTime).Unix()
	delivered := fmt.Sprintf(`device="etp-1",diagnostic="false",endpoint=%q,parameter="cod",state_directory=%q,station="etp"} %d`, p.url, p.state, stamp)
	text := ""
	p.until("the metrics say that the slot was delivered", func() bool {
		text, _ = get("/metrics")
		return strings.Contains(text, "\ninternal_ocems_parameter_last_delivered_timestamp{"+delivered+"\n")
	})
	if line := fmt.Sprintf("# TYPE internal_ocems_readings_delivered untyped\ninternal_ocems_readings_delivered{endpoint=%q,state_directory=%q} 1\n", p.url, p.state); !strings.Contains(text, line) {
		t.Errorf("%q is not in\n%s", line, text)
	}
	if strings.Contains(text, token) {
		t.Error("a token is in the metrics")
	}
	checkMetrics(t, text)
	if _, status := get("/"); status != http.StatusNotFound {
		t.Errorf("/ has status %d", status)
	}
	r.in.Close()
	r.end(0)

	r = p.start("--metrics-listen", "9274")
	r.end(1)
	if got := r.err.String(); !strings.Contains(got, `--metrics-listen: "9274" is not a host and a port; nearest: 127.0.0.1:9274`) {
		t.Errorf("standard error: %q", got)
	}
}

func TestTextFormat(t *testing.T) {
	at := time.Unix(0, 0)
	var b strings.Builder
	err := writeMetrics(&b, []telegraf.Metric{
		metric.New("internal_ocems_held", map[string]string{"reason": "119", "directory": "C:\\a \"b\"\nc"}, map[string]any{"devices": int64(2)}, at),
		metric.New("internal_memstats", nil, map[string]any{"alloc": int64(2)}, at),
		metric.New("internal_ocems_held", map[string]string{"reason": "10", "directory": "d"}, map[string]any{"devices": int64(-1)}, at),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "# HELP internal_ocems_held_devices Telegraf collected metric\n# TYPE internal_ocems_held_devices untyped\n" +
		`internal_ocems_held_devices{directory="C:\\a \"b\"\nc",reason="119"} 2` + "\n" +
		`internal_ocems_held_devices{directory="d",reason="10"} -1` + "\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	checkMetrics(t, want)
}

// checkMetrics checks the text with Prometheus' own tool, if it is installed.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	promtool, err := exec.LookPath(filepath.Join(os.Getenv("OCEMS_PROMETHEUS"), "promtool"))
	if err != nil {
		return
	}
	c := exec.Command(promtool, "check", "metrics")
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil && c.ProcessState.ExitCode() != 3 { // 3: complaints about names only, which are Telegraf's
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
