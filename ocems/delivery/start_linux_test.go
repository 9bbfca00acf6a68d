package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// BenchmarkStart measures a start with the slots that a killed hub has left waiting. The run that fills the file and
// the measured run are separate processes. Memory is that of the process without mapped files.
func BenchmarkStart(b *testing.B) {
	if path := os.Getenv("OCEMS_START"); path != "" {
		start(b, path)
	}
	for _, c := range []struct{ devices, slots int }{{2000, 100}, {20000, 67}} {
		b.Run(fmt.Sprintf("%dx%d", c.devices, c.slots), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "state.db")
			child := func(fill string) []byte {
				cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkStart$", "-test.benchtime=1x")
				cmd.Env = append(os.Environ(), "OCEMS_START="+path, "OCEMS_FILL="+fill)
				out, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				_, last, _ := bytes.Cut(out, []byte("\x00"))
				return last
			}
			child(fmt.Sprintf("%d %d", c.devices, c.slots))
			for b.Loop() {
				var m map[string]float64
				if err := json.Unmarshal(child(""), &m); err != nil {
					b.Fatal(err)
				}
				for unit, value := range m {
					b.ReportMetric(value, unit)
				}
				if m["slots"] != float64(c.devices*c.slots) {
					b.Errorf("waiting: %v", m["slots"])
				}
			}
		})
	}
}

// start is such a process. It ends without closing anything.
func start(b *testing.B, path string) {
	begin := time.Now()
	file, err := store.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	opened, openBusy := time.Now(), busy(b)
	openMemory := anonymous(b)
	cfg := delivery.Config{
		Delivery: options.DefaultDelivery(), Store: file, Logger: slog.New(slog.DiscardHandler), Client: &http.Client{Timeout: time.Second},
		Lookup: func(string) (delivery.Target, bool) { return delivery.Target{}, false },
	}
	cfg.Endpoint, cfg.MaxConcurrency = "http://127.0.0.1:1", 1
	cfg.Coalesce = options.Duration{Duration: time.Hour}
	d, err := delivery.New(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	took, startBusy := time.Since(opened), busy(b)-openBusy
	if fill := os.Getenv("OCEMS_FILL"); fill != "" {
		var devices, slots int
		if _, err := fmt.Sscan(fill, &devices, &slots); err != nil {
			b.Fatal(err)
		}
		first := time.Now().Truncate(spec.SlotLength).Add(-6 * 24 * time.Hour)
		for n := range slots {
			r := cod(1)
			r.Stamp = first.Add(time.Duration(n) * spec.SlotLength)
			var records []payload.Record
			for i := range devices {
				records = append(records, payload.Record{StationID: "station_1", DeviceID: fmt.Sprintf("device_%05d", i), Readings: []payload.Reading{r}})
			}
			if err := d.Put(b.Context(), records); err != nil {
				b.Fatal(err)
			}
		}
		os.Exit(0)
	}
	startMemory := anonymous(b)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Print("\x00")
	_ = json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"open-s": opened.Sub(begin).Seconds(), "start-s": took.Seconds(), "open-cpu-s": openBusy.Seconds(), "start-cpu-s": startBusy.Seconds(), "open-MB": openMemory, "start-MB": startMemory,
		"heap-MB": float64(m.HeapAlloc) / 1e6, "sys-MB": float64(m.HeapSys) / 1e6, "slots": float64(d.Stats().Slots),
	})
	os.Exit(0)
}

// anonymous returns this process's memory without the pages of files, in MB.
func anonymous(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kB) * 1024 / 1e6
}

// busy returns the CPU time of this process. Wall time is not meaningful on a shared machine.
func busy(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
