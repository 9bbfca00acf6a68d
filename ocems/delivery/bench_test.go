package delivery_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// BenchmarkHub delivers the slots of a hub of 2,000 devices at one time. 5 % of the devices hang until the time-out,
// and 30 % are refused. It measures how long the slots of the others take from Put to the server, and compares that
// with a hub that has only those others. The first slot after a start is measured separately, because nothing is known
// of the devices yet, and the refused ones are tried once.
func BenchmarkHub(b *testing.B) {
	var alone, all [2][]time.Duration
	for b.Loop() {
		for n, delays := range hub(b, false) {
			alone[min(n, 1)] = append(alone[min(n, 1)], delays...)
		}
		for n, delays := range hub(b, true) {
			all[min(n, 1)] = append(all[min(n, 1)], delays...)
		}
	}
	mean := func(list []time.Duration) (sum float64) {
		for _, d := range list {
			sum += d.Seconds()
		}
		return sum / float64(len(list))
	}
	p99 := func(list []time.Duration) float64 {
		slices.Sort(list)
		return list[len(list)*99/100].Seconds()
	}
	for n, name := range []string{"first", "later"} {
		b.ReportMetric(mean(all[n]), name+"-mean-s")
		b.ReportMetric(p99(all[n]), name+"-p99-s")
		b.ReportMetric(mean(all[n])/mean(alone[n]), name+"-mean-x")
		b.ReportMetric(p99(all[n])/p99(alone[n]), name+"-p99-x")
	}
}

// hub puts a slot of all devices every few seconds, and returns the delays of the good devices by slot.
func hub(b *testing.B, all bool) [][]time.Duration {
	const (
		slots, every = 5, 5 * time.Second
		latency      = 100 * time.Millisecond // of the real board
		timeout      = 6 * time.Second
	)
	var devices []string
	good := 0
	for i := range 2000 {
		switch {
		case i%20 > 6:
			devices = append(devices, fmt.Sprint("good", i))
			good++
		case i%20 == 0 && all:
			devices = append(devices, fmt.Sprint("hangs", i))
		case all:
			devices = append(devices, fmt.Sprint("refused", i))
		}
	}
	delays := make([][]time.Duration, slots)
	var mu sync.Mutex
	var put []time.Time
	stored := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		device := r.Header.Get("X-Device-Id")
		switch {
		case strings.HasPrefix(device, "hangs"):
			<-r.Context().Done()
		case strings.HasPrefix(device, "refused"):
			time.Sleep(latency)
			_, _ = io.WriteString(w, `{"status":113,"msg":"Device not found"}`)
		default:
			time.Sleep(latency)
			mu.Lock()
			n := stored[device]
			delays[n] = append(delays[n], time.Since(put[n]))
			stored[device]++
			mu.Unlock()
			_, _ = io.WriteString(w, `{"status":1,"msg":"success"}`)
		}
	}))
	defer server.Close()
	text, err := os.ReadFile("../seal/testdata/industry_test_private.pem")
	if err != nil {
		b.Fatal(err)
	}
	key, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	file, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	trail, err := audit.Open(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	defer trail.Close()
	cfg := delivery.Config{
		Delivery: options.DefaultDelivery(), Store: file, Trail: trail, Logger: slog.New(slog.DiscardHandler),
		Lookup: func(device string) (delivery.Target, bool) {
			return delivery.Target{StationID: "station_1", DeviceID: device, Sealer: sealer{&key.PublicKey, tokenOf + device}}, true
		},
	}
	transport := &http.Transport{MaxIdleConnsPerHost: cfg.MaxConcurrency}
	defer transport.CloseIdleConnections()
	cfg.Client = &http.Client{Transport: transport, Timeout: timeout}
	cfg.Endpoint, cfg.MaxConcurrency = server.URL, 64
	noWait(&cfg)
	d, err := delivery.New(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		d.Close(now)
	}()

	first := time.Now().Truncate(spec.SlotLength).Add(-24 * time.Hour)
	for n := range slots {
		var records []payload.Record
		for _, device := range devices {
			r := cod(1)
			r.Stamp = first.Add(time.Duration(n) * spec.SlotLength)
			records = append(records, payload.Record{StationID: "station_1", DeviceID: device, Readings: []payload.Reading{r}})
		}
		mu.Lock()
		put = append(put, time.Now())
		mu.Unlock()
		if err := d.Put(b.Context(), records); err != nil {
			b.Fatal(err)
		}
		time.Sleep(every)
	}
	for done := false; !done; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		done = len(slices.Concat(delays...)) == slots*good
		mu.Unlock()
	}
	return delays
}
