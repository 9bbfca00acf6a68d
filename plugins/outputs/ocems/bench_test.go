package ocems

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/spec"
)

// sampleBytes is the approximate size of a sample in the state, in bytes.
const sampleBytes = 16

// BenchmarkWrite makes batches of 1,000 samples durable. Each round does the same with bbolt alone, one Update per batch:
// first the same number of bytes under one key, then each sample under its own key. x_bbolt_* is the time of Write divided
// by the time of bbolt. bbolt only stores; Write also names, checks and averages.
func BenchmarkWrite(b *testing.B) {
	const batch, parameters = 1000, 10
	keys := spec.Parameters()
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			var devices strings.Builder
			devices.WriteString("station_id,device_id,token_id\n")
			for i := range n / parameters {
				fmt.Fprintf(&devices, "station_1,dev_%d,token-%d\n", i, i)
			}
			dir := b.TempDir()
			list := filepath.Join(dir, "devices.csv")
			require.NoError(b, os.WriteFile(list, []byte(devices.String()), 0o600))
			server := startBoard(b)
			o, _ := open(b, slow(settings(server, filepath.Join(dir, "state")))+fmt.Sprintf("devices_file = '%s'\n", list))
			db, err := bolt.Open(filepath.Join(dir, "bare.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
			require.NoError(b, err)
			bare := func(put func(*bolt.Bucket) error) {
				require.NoError(b, db.Update(func(tx *bolt.Tx) error {
					bucket, err := tx.CreateBucketIfNotExists([]byte("samples"))
					if err != nil {
						return err
					}
					return put(bucket)
				}))
			}

			start := time.Now().Add(-time.Hour)
			var write, byBatch, bySample time.Duration
			next := 0
			round := func(i int) {
				metrics := make([]telegraf.Metric, batch)
				for j := range metrics {
					tags := map[string]string{"ocems_device_id": fmt.Sprintf("dev_%d", next/parameters), "ocems_unit": "mg/L"}
					at := start.Add(time.Duration(i) * time.Millisecond)
					metrics[j] = metric.New("plant", tags, map[string]any{keys[next%parameters].Key: float64(i) + 0.5}, at)
					next = (next + 1) % n
				}
				begun := time.Now()
				require.NoError(b, o.Write(metrics))
				write += time.Since(begun)

				begun = time.Now()
				bare(func(bucket *bolt.Bucket) error {
					return bucket.Put(binary.BigEndian.AppendUint64(nil, uint64(i)), bytes.Repeat([]byte{byte(i)}, batch*sampleBytes))
				})
				byBatch += time.Since(begun)

				begun = time.Now()
				bare(func(bucket *bolt.Bucket) error {
					for _, m := range metrics {
						device, _ := m.GetTag("ocems_device_id")
						key := append([]byte(device+"/"+m.FieldList()[0].Key+"/"), binary.BigEndian.AppendUint64(nil, uint64(m.Time().UnixNano()))...)
						if err := bucket.Put(key, make([]byte, sampleBytes)); err != nil {
							return err
						}
					}
					return nil
				})
				bySample += time.Since(begun)
			}
			for i := range n / batch { // opens every series
				round(i)
			}
			write, byBatch, bySample = 0, 0, 0
			b.ResetTimer()
			for i := range b.N {
				round(n/batch + i)
			}
			b.StopTimer()
			samples := float64(b.N * batch)
			b.ReportMetric(float64(write)/samples, "ns/sample")
			b.ReportMetric(samples/write.Seconds(), "samples/s")
			b.ReportMetric(float64(write)/float64(byBatch), "x_bbolt_batch")
			b.ReportMetric(float64(write)/float64(bySample), "x_bbolt_sample")
			b.ReportMetric(0, "ns/op") // it would be the sum of all three
			require.Equal(b, n, o.engine.Stats().Series)
			require.NoError(b, db.Close())
			require.NoError(b, o.Close())
		})
	}
}
