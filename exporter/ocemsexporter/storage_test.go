package ocemsexporter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/ocems/audit"
)

// ranger is the client of an ocems_storage extension.
type ranger interface {
	storage.Client
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	Check() error
}

// disk is an ocems_storage extension whose disk can be made full.
type disk struct {
	storage.Extension
	full atomic.Bool
}

func (d *disk) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	c, err := d.Extension.GetClient(ctx, kind, id, name)
	if err != nil {
		return nil, err
	}
	return &diskClient{c.(ranger), d}, nil
}

type diskClient struct {
	ranger
	disk *disk
}

func (c *diskClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	if c.disk.full.Load() {
		return errors.New("no space left on device")
	}
	return c.ranger.Batch(ctx, ops...)
}

func (b *board) withDisk(dir string) *disk {
	b.withStorage(dir)
	d := &disk{Extension: b.extensions[storageID].(storage.Extension)}
	b.extensions[storageID] = d
	return d
}

const stored = "storage: ocems_storage\n" + oneDevice

// On a full disk the batch is refused, so the sender keeps it and sends it again. Until then no reading of it counts.
func TestStorageFails(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		d := b.withDisk(t.TempDir())
		e := b.start(stored)
		md := pmetric.NewMetrics()
		finished(md, "dev_1", "cod", "mg/L", 41, ago(1))
		finished(md, "dev_1", "cpu", "1", 0.5, ago(0))
		raw(md, "dev_1", "tss", "mg/L", 12, ago(0).Add(-time.Minute))
		raw(md, "dev_1", "tss", "mg/L", 13, ago(0).Add(-time.Minute))
		raw(md, "dev_1", "cpu", "1", 0.5, ago(0))

		d.full.Store(true)
		for range 40 { // within a minute of each other: the window of 00:00 stays open until the sender succeeds
			err := e.ConsumeMetrics(t.Context(), md)
			require.EqualError(t, err, "writing the outbox: no space left on device; the readings stay with the sender: make sure that the directory of the storage is writable and has free space")
			pass(50 * time.Second)
		}
		require.Empty(t, b.asked())
		require.Empty(t, b.trail(audit.Refused))
		for _, name := range []string{"outbox_slots", "samples", "duplicate_samples", "refused_samples", "ignored_points", "readings"} {
			require.Zero(t, b.number(name), name)
		}
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, b.reported())
		require.Len(t, b.said("error: readings are refused until the state can be written again: their senders keep them map[error:writing the outbox: no space left on device]"), 1)

		d.full.Store(false)
		b.consume(e, md)
		pass(time.Minute)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusOK}, b.reported())
		require.Len(t, b.said("readings are accepted again"), 1)
		require.Equal(t, []string{"dev_1 cod 41 mg/L U -15", "dev_1 tss 12 mg/L U -0"}, b.received())
		require.Len(t, b.trail(audit.Refused), 2, "cpu, and the second reading of one time")
		require.EqualValues(t, 1, b.number("ignored_points"))
		require.EqualValues(t, 2, b.number("readings"))
	})
}

// A window cannot close on a full disk, and none of its readings is lost.
func TestStorageFailsAtClosing(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		d := b.withDisk(t.TempDir())
		e := b.start(stored)
		b.consume(e, reading("cod", "mg/L", 41))
		d.full.Store(true)
		pass(20 * time.Minute)
		require.EqualValues(t, 1, b.number("pending_slots"))
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, b.reported())
		require.Len(t, b.said("error: closed slots are held until the state can be written again"), 1)
		require.ErrorContains(t, e.Shutdown(t.Context()), "no space left on device")
		d.full.Store(false)
		b.start(stored)
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 cod 41 mg/L U --15"}, b.received())
	})
}

// Waiting slots are on the disk. After a restart the exporter sends them, oldest first, when the server is back.
func TestRestart(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		b.withStorage(t.TempDir())
		trouble := []componentstatus.Status{componentstatus.StatusRecoverableError}
		b.fault(`{"http_status": 503}`)
		e := b.start(stored)
		for _, i := range []int{2, 0, 3, 1} {
			b.consume(e, ph("dev_1", 7+float64(i)/10, ago(i)))
		}
		pass(time.Hour)
		require.Equal(t, trouble, b.reported())
		require.NoError(t, e.Shutdown(t.Context()))

		b.start(stored)
		pass(time.Hour)
		require.EqualValues(t, 4, b.number("outbox_slots"))
		require.Equal(t, trouble, b.reported())
		b.fault("")
		pass(time.Hour)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusOK}, b.reported())
		require.Equal(t, []string{"dev_1 ph 7.3 pH U -45", "dev_1 ph 7.2 pH U -30", "dev_1 ph 7.1 pH U -15", "dev_1 ph 7 pH U -0"}, b.received())
	})
}

// An open window continues after a restart, and a reading that is sent again counts once. A kill is simulated by a copy of
// the storage after ConsumeMetrics has returned.
func TestOpenWindowSurvives(t *testing.T) {
	for name, kill := range map[string]bool{"shutdown": false, "kill": true} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				dir, copied := t.TempDir(), t.TempDir()
				b.withStorage(dir)
				e := b.start(stored)
				first, again := reading("cod", "mg/L", 100), reading("cod", "mg/L", 100)
				b.consume(e, first)
				pass(time.Minute)
				second := reading("cod", "mg/L", 200)
				b.consume(e, second)
				if kill {
					require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
					dir = copied
				}
				require.NoError(t, e.Shutdown(t.Context()))
				require.Empty(t, b.asked(), "a partial window")

				b.withStorage(dir)
				e = b.start(stored)
				b.consume(e, again)
				pass(time.Second)
				b.consume(e, reading("cod", "mg/L", 300))
				require.EqualValues(t, 1, b.number("duplicate_samples"))
				pass(16 * time.Minute)
				require.Equal(t, []string{"dev_1 cod 200 mg/L U --15"}, b.received())
				require.NoError(t, e.Shutdown(t.Context()))

				e = b.start(stored)
				b.consume(e, again) // its window is closed
				require.EqualValues(t, 1, b.number("late_samples"))
				require.NoError(t, e.Shutdown(t.Context()))
				late := b.trail(audit.Late)
				require.Len(t, late, 1)
				require.Equal(t, 100., late[0].Readings[0].Value)
				require.Len(t, b.asked(), 1)
			})
		})
	}
}

// A device that is removed with an open window delays no other. Its slot waits until the device is back.
func TestDeviceLeavesWithAnOpenWindow(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		b.withStorage(t.TempDir())
		path := filepath.Join(t.TempDir(), "devices.csv")
		write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(csvHead+text), 0o600)) }
		const both = "station_1,dev_1,token-of-dev-1\nstation_1,dev_2,token-of-dev-2\n"
		write(both)
		e := b.start("storage: ocems_storage\ndevices_file: " + path)
		md := reading("cod", "mg/L", 41)
		raw(md, "dev_2", "cod", "mg/L", 42, time.Now())
		b.consume(e, md)
		write("station_1,dev_1,token-of-dev-1\n")
		pass(16 * time.Minute)
		require.Equal(t, []string{"dev_1 cod 41 mg/L U --15"}, b.received())
		require.EqualValues(t, 1, b.number("outbox_slots"))
		write(both)
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 cod 41 mg/L U --15", "dev_2 cod 42 mg/L U --15"}, b.received())
	})
}

// After the start, the slot has exactly the readings that were accepted while the exporter shut down.
func TestShutdownUnderLoad(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		b.withStorage(t.TempDir())
		const config = "storage: ocems_storage\n" + `
devices:
  - {station_id: station_1, device_id: dev_1, token_id: token-of-dev-1, parameters: [{metric: pulses, parameter: flow_totalizer, unit: m3, statistic: sum}]}
  - {station_id: station_1, device_id: dev_2, token_id: token-of-dev-2}`
		e := b.start(config)
		var accepted, slots atomic.Int64
		var senders sync.WaitGroup
		for sender := range 4 {
			senders.Go(func() {
				for i := range 150 { // older slots would be older than 7 days
					md := pmetric.NewMetrics()
					raw(md, "dev_1", "pulses", "", 1, y2k.Add(time.Duration(4*i+sender)*time.Microsecond))
					if e.ConsumeMetrics(context.Background(), md) != nil {
						return
					}
					accepted.Add(1)
					if e.ConsumeMetrics(context.Background(), ph("dev_2", 7, ago(4*i+sender+1))) != nil {
						return
					}
					slots.Add(1)
				}
			})
		}
		for accepted.Load() < 100 {
			runtime.Gosched()
		}
		require.NoError(t, e.Shutdown(t.Context()))
		senders.Wait()
		b.start(config)
		pass(17 * time.Minute)
		n := 0
		for _, r := range b.received() {
			if strings.HasPrefix(r, "dev_2") {
				n++
			}
		}
		require.Contains(t, b.received(), fmt.Sprintf("dev_1 flow_totalizer %d m³ U --15", accepted.Load()))
		require.GreaterOrEqual(t, n, int(slots.Load()))
	})
}

// When the exporter's file is removed, log and status report this for a minute, even though it exists again immediately.
func TestFileTakenAwayIsReported(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		dir := t.TempDir()
		b.withStorage(dir)
		b.start("storage: ocems_storage\n" + oneDevice)
		pass(2 * time.Second)
		require.Empty(t, b.reported())
		for _, file := range []string{filepath.Join(dir, "exporter_ocems_"), b.auditFile} {
			require.NoError(t, os.Remove(file))
			pass(2 * time.Second)
			require.FileExists(t, file)
			require.Len(t, b.said("error: another program has moved, replaced or cut a file of this host: keep it away map[error:looking for the "), 1)
			require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, b.reported())
			pass(2 * time.Minute)
			require.Equal(t, []componentstatus.Status{componentstatus.StatusOK}, b.reported())
			b.logs.TakeAll()
		}
	})
}
