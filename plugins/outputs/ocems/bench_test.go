package ocems

import (
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/spec"
)

// BenchmarkWrite takes batches of 1,000 samples through Write, and makes the same samples durable in bbolt alone, as
// one key a batch and as one key a sample, in turns, so that all three meet the same disk. bbolt neither names nor
// averages anything. x_bbolt_batch and x_bbolt_sample are Write's time over theirs.
func BenchmarkWrite(b *testing.B) {
	const batchSize = 1000
	for _, size := range []struct {
		name                string
		devices, parameters int
	}{{"1000 series", 20, 50}, {"100000 series", 1250, 80}} {
		b.Run(size.name, func(b *testing.B) {
			o := hub(b, size.devices)
			var metrics []telegraf.Metric
			for d := range size.devices {
				for _, p := range spec.Parameters()[:size.parameters] {
					metrics = append(metrics, metric.New("modbus", map[string]string{"ocems_device_id": deviceName(d), "ocems_unit": "mg/l"},
						map[string]any{p.Key: 12.5}, time.Now()))
				}
			}
			perBatch, perSample := openBare(b), openBare(b)
			var spent [3]time.Duration
			timed := func(i int, f func() error) {
				begun := time.Now()
				err := f()
				spent[i] += time.Since(begun)
				require.NoError(b, err)
			}
			next, key := 0, uint64(0)
			for b.Loop() {
				batch := metrics[next : next+batchSize]
				next = (next + batchSize) % len(metrics)
				for _, m := range batch {
					m.SetTime(time.Now())
				}
				samples := make([]sample, batchSize)
				for i, m := range batch {
					device, _ := m.GetTag("ocems_device_id")
					samples[i] = sample{series: series{device: device, parameter: m.FieldList()[0].Key, unit: "mg/L"}, at: m.Time(), value: 12.5, flag: spec.FlagNormal}
				}
				timed(0, func() error { return o.Write(batch) })
				timed(1, func() error {
					return perBatch.Update(func(tx *bolt.Tx) error {
						key++
						return tx.Bucket(bucketName).Put(binary.BigEndian.AppendUint64(nil, key), encodeSamples(time.Now(), samples))
					})
				})
				timed(2, func() error {
					return perSample.Update(func(tx *bolt.Tx) error {
						bucket := tx.Bucket(bucketName)
						for _, x := range samples {
							key++
							value := seriesCodec{}.Append(nil, x.series)
							value = binary.LittleEndian.AppendUint64(value, uint64(x.at.UnixNano()))
							value = binary.LittleEndian.AppendUint64(value, math.Float64bits(x.value))
							if err := bucket.Put(binary.BigEndian.AppendUint64(nil, key), append(value, byte(x.flag))); err != nil {
								return err
							}
						}
						return nil
					})
				})
			}
			require.EqualValues(b, b.N*batchSize, o.aligner.Stats().Taken)
			n := float64(b.N * batchSize)
			b.ReportMetric(0, "ns/op") // of all three: says nothing
			b.ReportMetric(float64(spent[0])/n, "ns/sample")
			b.ReportMetric(n/spent[0].Seconds(), "samples/s")
			b.ReportMetric(float64(spent[0])/float64(spent[1]), "x_bbolt_batch")
			b.ReportMetric(float64(spent[0])/float64(spent[2]), "x_bbolt_sample")
		})
	}
}

// openBare opens a bbolt file as the outbox is opened.
func openBare(b *testing.B) *bolt.DB {
	db, err := openBolt(filepath.Join(b.TempDir(), "bare.db"))
	require.NoError(b, err)
	b.Cleanup(func() { _ = db.Close() })
	require.NoError(b, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucketName)
		return err
	}))
	return db
}

func deviceName(n int) string { return fmt.Sprintf("hub_dev_%05d", n) }

// hub is an output with many devices, which sends nothing.
func hub(b *testing.B, devices int) *OCEMS {
	dir := b.TempDir()
	file, err := os.Create(filepath.Join(dir, "devices.csv"))
	require.NoError(b, err)
	defer file.Close()
	w := csv.NewWriter(file)
	require.NoError(b, w.Write([]string{"station_id", "device_id", "token_id"}))
	for d := range devices {
		require.NoError(b, w.Write([]string{"station_1", deviceName(d), fmt.Sprint("token-of-", d)}))
	}
	w.Flush()
	require.NoError(b, w.Error())
	o, _ := open(b, fmt.Sprintf(`
[[outputs.ocems]]
  endpoint = "http://127.0.0.1:9/v1.0/industry/data"
  dry_run = true
  state_directory = '%s'
  public_key_file = "../../../ocems/seal/testdata/industry_test_public.pem"
  devices_file = '%s'
`, dir, file.Name()))
	return o
}
