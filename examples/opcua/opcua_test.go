// Package opcua_test lets Telegraf read an OPC UA server. Some of its values are bad or uncertain.
package opcua_test

import (
	"fmt"
	"maps"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	quarter = 15 * time.Minute
	values  = 30
)

func TestBadQualityIsNoReading(t *testing.T) {
	telegraf := board.Built(t, "OCEMS_TELEGRAF")
	dir, address := t.TempDir(), loopback.Addr(t)
	analyser := filepath.Join(dir, "analyser")
	build := exec.Command("go", "build", "-o", analyser, ".")
	build.Dir = "../../test/opcuaserver"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v: %s", err, out)
	}
	server := board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: "8d97c71e68c2f4eee5fb254fccb49773"}}})
	board.Write(t, filepath.Join(dir, "token"), "8d97c71e68c2f4eee5fb254fccb49773")
	start := time.Now().Truncate(quarter).Add(-3 * quarter)
	source := board.Start(t, dir, nil, analyser, "-listen", address, "-start", fmt.Sprint(start.Unix()), "-count", fmt.Sprint(values))
	board.Listens(t, address)
	config := board.Config(t, "telegraf.conf", dir, "192.168.0.20:4840", address, "/var/lib/ocems", dir, "/etc/ocems/public.pem", server.PublicKey,
		"/etc/ocems/tokens/device_5678", filepath.Join(dir, "token"),
		// Shorter waits for the test, and the address of its board.
		`interval = "10s"`, `interval = "100ms"`, `flush_interval = "5s"`, `flush_interval = "500ms"`,
		"[[outputs.ocems]]", "[[outputs.ocems]]\n  settle = \"3s\"\n  spread = \"0s\"\n  coalesce = \"500ms\"\n  endpoint = \""+server.URL+`"`)
	program := board.Start(t, dir, nil, telegraf, "--config", config)
	server.Arrive(2)
	sums, counts, bad := map[time.Time]float64{}, map[time.Time]float64{}, 0
	for line := range strings.Lines(source.Log()) {
		var at, status int64
		var value float64
		if n, _ := fmt.Sscan(line, &at, &value, &status); n < 3 {
			continue
		}
		if status != 0 {
			bad++
			continue
		}
		end := time.UnixMilli(at).Truncate(quarter).Add(quarter)
		sums[end] += value
		counts[end]++
	}
	if bad < 8 || len(sums) != 2 {
		t.Fatalf("the analyser has served %d values that are not good, and %d slots", bad, len(sums))
	}
	want := map[string]float64{}
	for end, sum := range sums {
		want[board.Key("cod", end, "U")] = sum / counts[end]
	}
	if got := server.Values(); !maps.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) <= 5e-7*b }) {
		t.Errorf("the board has %v, want %v", got, want)
	}
	program.Says("status not OK for node cod")
}
