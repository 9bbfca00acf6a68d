package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/ocems/audit"
)

const failed, ok = componentstatus.StatusRecoverableError, componentstatus.StatusOK

func TestLifecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		p := h.create(h.config(stored), &sink{})
		require.False(t, p.Capabilities().MutatesData)
		require.NoError(t, p.Shutdown(t.Context()), "never started")
		require.ErrorContains(t, p.Start(t.Context(), componenttest.NewNopHost()), `storage: there is no extension "ocems_storage"; add it to service.extensions`)
		require.NoError(t, p.Shutdown(t.Context()), "not started")
		require.EqualError(t, p.ConsumeMetrics(t.Context(), cod(1)), "the processor is not running; the readings stay with the sender")
		require.NoError(t, p.Start(t.Context(), h))
		h.consume(p, cod(1))
		require.NoError(t, p.Shutdown(t.Context()))
		require.NoError(t, p.Shutdown(t.Context()), "shut down already")
		require.Error(t, p.ConsumeMetrics(t.Context(), cod(1)))
		require.Empty(t, h.said("error"))
	})
}

func TestWarningsAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		p := h.start("audit_file: ''\n"+twoDevices, &sink{})
		require.Equal(t, []string{
			"warn: no storage is set: open windows and waiting slots are lost when the collector stops; set `storage` to an ocems_storage extension map[]",
			"warn: no audit_file is set: final outcomes go to the log only map[]"}, h.said("warn"))
		require.Len(t, h.said("info: making slots"), 1)
		h.consume(p, cod(1, "ocems.flag", "X"))
		pass(16 * time.Minute)
		require.Len(t, h.said("warn: readings are in no slot"), 1)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// Readings of a device's parameter come back as a slot. All other data passes on immediately. The input is not changed.
func TestOnlyNamedReadingsAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		next := &sink{}
		p := h.start(stored, next)

		md := cod(40)
		sm := md.ResourceMetrics().At(0).ScopeMetrics().At(0)
		add := func(name string) pmetric.Metric {
			m := sm.Metrics().AppendEmpty()
			m.SetName(name)
			return m
		}
		point := func(m pmetric.Metric, v float64) pmetric.NumberDataPoint {
			p := m.Gauge().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(time.Second)))
			p.SetDoubleValue(v)
			return p
		}
		point(sm.Metrics().At(0), 44)
		point(sm.Metrics().At(0), 45).Attributes().PutStr("ocems.device.id", "D9") // not a configured device
		point(sm.Metrics().At(0), 46).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
		slot := point(sm.Metrics().At(0), 47) // of another ocems_slot
		slot.Attributes().PutInt(points.Samples, 7)
		cpu := add("cpu")
		cpu.SetEmptyGauge()
		point(cpu, 0.5)
		add("requests").SetEmptySum().DataPoints().AppendEmpty().SetIntValue(3)
		add("latency").SetEmptyHistogram().DataPoints().AppendEmpty().SetCount(1)
		add("quantiles").SetEmptySummary().DataPoints().AppendEmpty().SetCount(1)
		add("exponential").SetEmptyExponentialHistogram().DataPoints().AppendEmpty().SetCount(1)
		add("empty").SetEmptyGauge()
		add("nothing")

		before := pmetric.NewMetrics()
		md.CopyTo(before)
		h.consume(p, md)
		require.Equal(t, before, func() pmetric.Metrics { again := pmetric.NewMetrics(); md.CopyTo(again); return again }())

		// The output is the input without two points.
		want := pmetric.NewMetrics()
		before.CopyTo(want)
		left := want.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints()
		taken := 0
		left.RemoveIf(func(pmetric.NumberDataPoint) bool { taken++; return taken <= 2 })
		require.Len(t, next.calls, 1, "in the same call")
		require.Equal(t, want, next.calls[0])
		next.took()

		h.consume(p, cod(40)) // a duplicate
		h.consume(p, pmetric.NewMetrics())
		require.Empty(t, next.took(), "nothing to pass on")
		pass(16 * time.Minute)
		require.Equal(t, []string{"D1 cod 42 mg/L U 2 00:15:00"}, next.took())
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// If the next consumer refuses the rest, the sender sends everything again, and the readings count once.
func TestNextRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		var down atomic.Bool
		next := &sink{fail: func() error {
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}}
		p := h.start(stored, next)
		md := cod(40)
		add(md, "D1", "cpu", "1", 0.5)
		down.Store(true)
		require.EqualError(t, p.ConsumeMetrics(t.Context(), md), "down")
		down.Store(false)
		time.Sleep(time.Second)
		h.consume(p, cod(50))
		h.consume(p, md)
		pass(16 * time.Minute)
		require.Equal(t, []string{"D1 cpu 0.5 1 00:00:00", "D1 cod 45 mg/L U 2 00:15:00"}, next.took())
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// While the next consumer refuses slots, they wait. Then they come in order, once each.
func TestNextRefusesSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		var down atomic.Bool
		tries := 0
		next := &sink{fail: func() error {
			if down.Load() {
				tries++
				return errors.New("down")
			}
			return nil
		}}
		p := h.start(stored, next)
		down.Store(true)
		h.consume(p, cod(0))
		pass(15*time.Minute + 31*time.Second)
		require.Equal(t, []string{"error: the next consumer refused slots: they are kept and tried again map[error:down slots:1]"}, h.said("error"))
		pass(28 * time.Second)
		require.Empty(t, h.reported(), "trouble of less than a minute is not reported")
		for i := range 2 {
			h.consume(p, cod(float64(i+1)))
			pass(15 * time.Minute)
		}
		pass(time.Minute)
		require.Equal(t, []componentstatus.Status{failed}, h.reported())
		require.EqualValues(t, 3, h.number("pending_slots"))
		require.Less(t, tries, 70, "the pauses grow")
		down.Store(false)
		pass(31 * time.Second)
		require.Equal(t, []string{"D1 cod 0 mg/L U 1 00:15:00", "D1 cod 1 mg/L U 1 00:30:00", "D1 cod 2 mg/L U 1 00:45:00"}, next.took())
		require.Equal(t, []componentstatus.Status{ok}, h.reported())
		require.Len(t, h.said("error"), 1, "once")
		require.Len(t, h.said("info: the next consumer takes slots again"), 1)
		require.Zero(t, h.number("pending_slots"))
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// Open windows and waiting slots survive a restart and a kill. A kill is simulated by a copy of the storage after the last
// call has returned.
func TestRestart(t *testing.T) {
	for name, kill := range map[string]bool{"shutdown": false, "kill": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, copied := t.TempDir(), t.TempDir()
				h := newHost(t, dir)
				next := &sink{fail: func() error { return errors.New("down") }}
				p := h.start(stored, next)
				h.consume(p, cod(1))
				pass(16 * time.Minute)
				first := cod(100)
				h.consume(p, first)
				pass(time.Second)
				h.consume(p, cod(200))
				if kill {
					require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
					dir = copied
				}
				require.NoError(t, p.Shutdown(t.Context()))
				require.Empty(t, next.took())

				h = newHost(t, dir)
				next = &sink{}
				p = h.start(stored, next)
				pass(time.Second)
				require.Equal(t, []string{"D1 cod 1 mg/L U 1 00:15:00"}, next.took(), "no partial window")
				h.consume(p, first) // sent again, because the answer was lost
				h.consume(p, cod(300))
				pass(16 * time.Minute)
				require.Equal(t, []string{"D1 cod 200 mg/L U 3 00:30:00"}, next.took())
				require.EqualValues(t, 1, h.number("duplicate_samples"))
				require.NoError(t, p.Shutdown(t.Context()))

				h = newHost(t, dir)
				p = h.start(stored, next)
				pass(time.Hour)
				require.Empty(t, next.took(), "once each")
				require.NoError(t, p.Shutdown(t.Context()))
			})
		})
	}
}

// The instances of one configuration, one per pipeline, share the windows. A slot leaves by the pipeline that received the
// first reading of its window. The last instance that shuts down closes the state.
func TestPipelinesShareWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		h := newHost(t, dir)
		first, second := &sink{}, &sink{}
		cfg := h.config(stored)
		a, b := h.create(cfg, first), h.create(cfg, second)
		require.NoError(t, b.Start(t.Context(), h))
		require.NoError(t, a.Start(t.Context(), h))
		h.consume(a, cod(100))
		h.consume(b, reading("D2", "cod", "mg/L", 7))
		time.Sleep(time.Second)
		h.consume(b, cod(200))
		pass(16 * time.Minute)
		require.Equal(t, []string{"D1 cod 150 mg/L U 2 00:15:00"}, first.took())
		require.Equal(t, []string{"D2 cod 7 mg/L U 1 00:15:00"}, second.took())

		h.consume(a, cod(1))
		h.consume(b, reading("D2", "cod", "mg/L", 8))
		require.NoError(t, a.Shutdown(t.Context()))
		pass(15 * time.Minute) // slots of a pipeline that is shut down wait and are not lost
		require.Empty(t, first.took())
		require.NoError(t, b.Shutdown(t.Context()))
		require.Empty(t, h.said("error"))
		require.Empty(t, h.reported())

		h = newHost(t, dir)
		cfg = h.config(stored)
		a, b = h.create(cfg, first), h.create(cfg, second)
		require.NoError(t, b.Start(t.Context(), h))
		pass(time.Second)
		got := append(first.took(), second.took()...)
		require.Contains(t, got, "D1 cod 1 mg/L U 1 00:30:00", "after a restart any running pipeline is used")
		require.NoError(t, a.Start(t.Context(), h))
		require.NoError(t, b.Shutdown(t.Context()))
		require.NoError(t, a.Shutdown(t.Context()))
		require.Empty(t, h.said("error"))
	})
}

// A pipeline whose next consumer refuses slots does not delay another pipeline.
func TestOnePipelineRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		first, second := &sink{fail: func() error { return errors.New("down") }}, &sink{}
		cfg := h.config(stored)
		a, b := h.create(cfg, first), h.create(cfg, second)
		require.NoError(t, a.Start(t.Context(), h))
		require.NoError(t, b.Start(t.Context(), h))
		for i := range 3 {
			h.consume(a, cod(float64(i)))
			h.consume(b, reading("D2", "cod", "mg/L", float64(i)))
			pass(15 * time.Minute)
		}
		pass(time.Minute)
		require.Len(t, second.took(), 3)
		require.EqualValues(t, 3, h.number("pending_slots"))
		require.Equal(t, []componentstatus.Status{failed, failed}, h.reported(), "each instance has a status of its own")
		require.NoError(t, a.Shutdown(t.Context()))
		require.NoError(t, b.Shutdown(t.Context()))
	})
}

// While the disk is full, readings are refused and windows stay open, so that the sender can send again.
func TestStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		next := &sink{}
		p := h.start(stored, next)
		h.consume(p, cod(1))
		pass(14 * time.Minute)
		h.full.Store(true)
		refused := cod(3)
		err := p.ConsumeMetrics(t.Context(), refused)
		require.EqualError(t, err, "taking readings: no space left on device; the readings stay with the sender: make sure that the directory of the storage is writable and has free space")
		require.False(t, consumererror.IsPermanent(err))
		for range 20 {
			pass(50 * time.Second)
			require.Error(t, p.ConsumeMetrics(t.Context(), refused))
		}
		require.Empty(t, next.took())
		require.Equal(t, []componentstatus.Status{failed}, h.reported())
		h.full.Store(false)
		h.consume(p, refused)
		pass(10 * time.Second)
		require.Equal(t, []componentstatus.Status{ok}, h.reported())
		pass(40 * time.Second)
		require.Empty(t, next.took(), "another sender may retry")
		pass(20 * time.Second)
		require.Equal(t, []string{"D1 cod 2 mg/L U 2 00:15:00"}, next.took())
		require.Len(t, h.said("error: readings are refused until the state can be written again: their senders keep them"), 1)

		h.logs.TakeAll()
		h.consume(p, cod(4))
		h.full.Store(true)
		pass(20 * time.Minute)
		require.Empty(t, next.took(), "sent before it was saved")
		require.EqualValues(t, 1, h.number("pending_slots"))
		require.Len(t, h.said("error: closed slots are held until the state can be written again"), 1)
		require.ErrorContains(t, p.Shutdown(t.Context()), "no space left on device")
		h.full.Store(false)
		p = h.start(stored, next)
		pass(3 * time.Minute) // the clock is not trusted in the first 2 minutes
		require.Equal(t, []string{"D1 cod 4 mg/L U 1 00:45:00"}, next.took())
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// If the next consumer never returns, the collector still shuts down, and the slot is sent again.
func TestShutdownWhileNextBlocks(t *testing.T) {
	for name, obeys := range map[string]bool{"obeys its context": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				h := newHost(t, dir)
				release := make(chan struct{})
				p := h.start(stored, blocks{obeys, release})
				h.consume(p, cod(1))
				pass(16 * time.Minute)
				h.consume(p, cod(3))
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				err := p.Shutdown(gone)
				require.LessOrEqual(t, time.Since(began), 2*time.Second)
				if obeys {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, "waiting for the next consumer: context canceled")
				}
				require.Empty(t, h.said("error"))
				close(release)
				synctest.Wait()

				h = newHost(t, dir)
				next := &sink{}
				p = h.start(stored, next)
				pass(16 * time.Minute)
				require.Equal(t, []string{"D1 cod 1 mg/L U 1 00:15:00", "D1 cod 3 mg/L U 1 00:30:00"}, next.took())
				require.NoError(t, p.Shutdown(t.Context()))
			})
		})
	}
}

type blocks struct {
	obeys   bool
	release chan struct{}
}

func (blocks) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (b blocks) ConsumeMetrics(ctx context.Context, _ pmetric.Metrics) error {
	if !b.obeys {
		<-b.release
		return errors.New("too late")
	}
	<-ctx.Done()
	return ctx.Err()
}

// A state that cannot be read is an error at start, even if earlier slots wait to be passed on.
func TestStateOfANewerVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		h := newHost(t, dir)
		p := h.start(stored, &sink{fail: func() error { return errors.New("down") }})
		h.consume(p, cod(1))
		pass(16 * time.Minute)
		require.NoError(t, p.Shutdown(t.Context()))
		h.write("samples/12345678", newer())

		p = h.create(h.config(stored), &sink{fail: func() error { return errors.New("down") }})
		require.ErrorContains(t, p.Start(t.Context(), h), "reading the state: a newer version of this program wrote it")
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// Readings that are in no slot are in the trail, with the slot to which they would belong.
func TestTrail(t *testing.T) {
	for stamp, want := range map[string]time.Duration{"start": 0, "end": 15 * time.Minute} {
		t.Run(stamp, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, t.TempDir())
				began := time.Now()
				p := h.start("stamp: "+stamp+"\n"+stored, &sink{})
				h.consume(p, cod(1))
				time.Sleep(time.Second)
				late := cod(5)
				h.consume(p, cod(6, "ocems.flag", "X"))
				pass(16 * time.Minute)
				h.consume(p, late)
				h.consume(p, late)
				require.NoError(t, p.Shutdown(t.Context()))
				var got []string
				for _, e := range h.entries() {
					require.Equal(t, began.Add(want).UnixMilli(), e.Stamp)
					got = append(got, fmt.Sprint(e.Outcome, " ", e.Station, " ", e.Device, " ", e.Parameter, " ", e.Reason, " ", e.Count, " ", e.Readings[0].Value))
				}
				require.Equal(t, []string{"refused station_1 D1 cod bad_flag 1 6", "late station_1 D1 cod late 2 5"}, got)
				require.Equal(t, audit.Late, h.entries()[1].Outcome)
			})
		})
	}
}

// The processor can use the exporter's devices_file, and does not read its tokens. A change needs no restart.
func TestDevicesFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		path := filepath.Join(t.TempDir(), "devices.csv")
		write := func(text string) {
			require.NoError(t, os.WriteFile(path, []byte("station_id,device_id,token_id\n"+text), 0o600))
		}
		write("station_1,D1,hunter2\n")
		next := &sink{}
		p := h.start("storage: ocems_storage\ndevices_file: "+path, next)
		h.consume(p, reading("D2", "cod", "mg/L", 7))
		require.Equal(t, []string{"D2 cod 7 mg/L 00:00:00"}, next.took(), "it passes on")
		write("station_1,D1,hunter2\nstation_1,D2,\n")
		pass(21 * time.Second)
		h.consume(p, reading("D2", "cod", "mg/L", 8))
		pass(16 * time.Minute)
		require.Equal(t, []string{"D2 cod 8 mg/L U 1 00:15:00"}, next.took())
		require.Empty(t, h.said("hunter2"))
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func TestDecimals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		next := &sink{}
		p := h.start("devices: [{station_id: station_1, device_id: D1, parameters: [{metric: cod, parameter: cod, unit: mg/L, decimals: 1}]}]", next)
		for _, v := range []float64{1, 1, 2} {
			h.consume(p, cod(v))
			time.Sleep(time.Second)
		}
		pass(16 * time.Minute)
		require.Equal(t, []string{"D1 cod 1.3 mg/L U 3 00:15:00"}, next.took())
		require.NoError(t, p.Shutdown(t.Context()))
	})
}
