package intake

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// disk counts the transactions of a store.
type disk struct {
	*store.File
	transactions, values, bytes int
}

func (d *disk) Batch(ctx context.Context, ops ...store.Op) error {
	d.transactions++
	for _, op := range ops {
		d.values++
		d.bytes += len(op.Key) + len(op.Value)
	}
	return d.File.Batch(ctx, ops...)
}

// board accepts every slot.
type board struct{ slots int }

func (b *board) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		b.slots++
	}
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(strings.NewReader(`{"status":1,"msg":"success"}`)),
		Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "Content-Type": {"application/json"}}}, nil
}

// written returns the bytes that this process has written to files.
func written(t *testing.T) (bytes int) {
	text, err := os.ReadFile("/proc/self/io")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "wchar: ")
	_, err = fmt.Sscan(rest, &bytes)
	require.NoError(t, err)
	return bytes
}

// TestPlant reports the writes of a plant with 10 parameters and a flush every 10 seconds. One day's writes must be acceptable
// for flash memory or a metered volume. While the plant stands still, the host writes only its running time.
func TestPlant(t *testing.T) {
	const hours = 6
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(9000 * 24 * time.Hour)
		f, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
		require.NoError(t, err)
		d, b := &disk{File: f}, &board{}
		cfg := engine.Config{Slots: options.DefaultSlots(), Store: d, Logger: slog.New(slog.DiscardHandler),
			Boot: func() (string, time.Duration) { return "", 0 }, // the bubble's time is not the kernel's
			Names: registry.Config{PublicKeyFile: publicKeyFile, Words: registry.Telegraf, Devices: []registry.DeviceConfig{
				{StationID: "station_1", DeviceID: "device_1", TokenID: "token-of-device-1"}}},
			Board: &engine.Board{Delivery: options.DefaultDelivery(), Client: &http.Client{Transport: b}}}
		cfg.Slots.AuditFile = filepath.Join(t.TempDir(), "audit.jsonl")
		e, err := engine.Open(t.Context(), cfg)
		require.NoError(t, err)
		parameters := spec.Parameters()[:10]
		flush := func() {
			batch := e.NewBatch()
			for i, p := range parameters {
				batch.Add(engine.Reading{Time: time.Now().Truncate(time.Second), Value: float64(time.Now().Unix()*int64(i+7)%10_000) / 100, Source: engine.Source{ID: 7},
					Metric: registry.Metric{Name: p.Key, Unit: "mg/L", Attr: func(key string) (string, bool) { return "device_1", key == "ocems_device_id" }}})
			}
			require.NoError(t, batch.Commit(t.Context()))
		}
		spend := func(hours int, flush func()) (mb float64, before disk) {
			before, began := *d, written(t)
			for range hours * 360 {
				flush()
				time.Sleep(10 * time.Second)
			}
			synctest.Wait()
			mb = float64(written(t)-began) / 1e6 / float64(hours) * 24
			day := func(n int) int { return n * 24 / hours }
			t.Logf("a day: %.1f MB, %d transactions of 2 syncs, %d values of %.1f MB", mb, day(d.transactions-before.transactions),
				day(d.values-before.values), float64(day(d.bytes-before.bytes))/1e6)
			return mb, before
		}
		spend(1, flush)
		mb, _ := spend(hours, flush)
		assert.Less(t, mb, 200.0, "MB a day")
		assert.InDelta(t, hours*4, b.slots, 5)
		spend(1, func() {})
		spend(hours, func() {})
		require.NoError(t, e.Close(t.Context()))
		require.NoError(t, f.Close())
	})
}
