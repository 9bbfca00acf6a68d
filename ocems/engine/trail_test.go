package engine

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
)

// A line about refused readings waits in the state while the trail cannot be written. A kill or stop does not lose it,
// and slots continue.
func TestLineThatCannotBeWrittenIsInTheState(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *Engine){
		"kill": func(_ *testing.T, e *Engine) {
			e.stop()
			e.ready.stop()
			synctest.Wait()
		},
		"stop": func(t *testing.T, e *Engine) { assert.Error(t, e.Close(t.Context())) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				var left atomic.Int64
				cfg := Config{
					Slots: options.DefaultSlots(), Store: store.NewMemory(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
					Names: registry.Config{Devices: []registry.DeviceConfig{{StationID: "station", DeviceID: "dev"}}, Words: registry.Collector, NamesOnly: true},
					Next:  func(_ context.Context, _ uint8, slots []slot.Slot) error { left.Add(int64(len(slots))); return nil },
				}
				cfg.Slots.AuditFile = filepath.Join(t.TempDir(), "audit.jsonl")
				e, err := Open(t.Context(), cfg)
				require.NoError(t, err)
				b := e.NewBatch()
				attr := func(key string) (string, bool) { return "dev", key == "ocems.device.id" }
				for i, value := range []float64{1, math.NaN(), math.Inf(1)} {
					b.Add(Reading{Metric: registry.Metric{Name: "cod", Unit: "mg/L", Attr: attr}, Time: time.Now().Add(time.Duration(i) * time.Second), Value: value})
				}
				require.NoError(t, b.Commit(t.Context()))
				require.NoError(t, e.trail.Close()) // like a full disk
				time.Sleep(20 * time.Minute)
				assert.EqualValues(t, 1, left.Load())
				assert.Equal(t, 1, strings.Count(log.String(), "cannot write refused readings"), "said once")
				end(t, e)

				e, err = Open(t.Context(), cfg)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.NoError(t, e.Close(t.Context()))
				text, err := os.ReadFile(cfg.Slots.AuditFile)
				require.NoError(t, err)
				assert.Equal(t, 1, strings.Count(string(text), "not_a_number"), "%s", text)
				assert.Contains(t, string(text), `"count":2`)
			})
		})
	}
}

// The trail records when the host ran, and after a kill the time until which it ran at least.
func TestTrailTellsWhenTheHostRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file, err := store.Open(filepath.Join(dir, "state.db"))
		require.NoError(t, err)
		defer file.Close()
		cfg := Config{
			Slots: options.DefaultSlots(), Store: file, Logger: slog.New(slog.DiscardHandler),
			Names: registry.Config{Devices: []registry.DeviceConfig{{StationID: "station", DeviceID: "dev", Parameters: []registry.ParameterConfig{{Metric: "cod"}}}}, Words: registry.Collector, NamesOnly: true},
			Next:  func(context.Context, uint8, []slot.Slot) error { return nil },
		}
		cfg.Slots.AuditFile = filepath.Join(dir, "audit.jsonl")
		for _, killed := range []bool{false, true, false} {
			e, err := Open(t.Context(), cfg)
			require.NoError(t, err)
			time.Sleep(time.Hour)
			if killed {
				e.stop()
				e.ready.stop()
				synctest.Wait()
				time.Sleep(time.Hour)
				defer e.trail.Close()
				continue
			}
			require.NoError(t, e.Close(t.Context()))
			require.NoError(t, e.Close(t.Context()))
		}
		cfg.Names.Devices = nil
		_, err = Open(t.Context(), cfg)
		require.Error(t, err, "and it has not run")
		var got []string
		_, err = audit.Scan(cfg.Slots.AuditFile, func(e *audit.Entry, verified bool) {
			assert.True(t, verified)
			assert.Equal(t, "ocems/devel: devices 1, parameters 1", e.Detail)
			got = append(got, e.Time.Format("15:04 ")+string(e.Outcome))
			if e.Stamp != 0 && len(got) == 4 {
				ran := time.UnixMilli(e.Stamp).UTC()
				assert.WithinRange(t, ran, e.Time.Add(-time.Hour-5*time.Minute), e.Time.Add(-time.Hour))
				got = append(got, "ran until about two")
			}
		})
		require.NoError(t, err)
		assert.Equal(t, []string{"00:00 started", "01:00 stopped", "01:00 started", "03:00 started", "ran until about two", "04:00 stopped"}, got)
	})
}

// A start that fails leaves no line, nor does a host that ends immediately: a host that cannot start counts as off.
func TestFailedStartsAreNoLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file, err := store.Open(filepath.Join(dir, "state.db"))
		require.NoError(t, err)
		defer file.Close()
		cfg := Config{
			Slots: options.DefaultSlots(), Store: file, Logger: slog.New(slog.DiscardHandler),
			Names: registry.Config{Devices: []registry.DeviceConfig{{StationID: "station", DeviceID: "dev", Parameters: []registry.ParameterConfig{{Metric: "cod"}}}}, Words: registry.Collector, NamesOnly: true},
			Next:  func(context.Context, uint8, []slot.Slot) error { return nil },
		}
		cfg.Slots.AuditFile = filepath.Join(dir, "audit.jsonl")
		live := func(lasts time.Duration, kill bool) {
			e, err := Open(t.Context(), cfg)
			require.NoError(t, err)
			time.Sleep(lasts)
			if !kill {
				require.NoError(t, e.Close(t.Context()))
				return
			}
			e.stop()
			e.ready.stop()
			synctest.Wait()
			e.trail.Close()
		}
		live(time.Hour, true)
		for range 100 { // for example because another component's port is in use
			time.Sleep(20 * time.Second)
			live(3*time.Second, false)
			time.Sleep(20 * time.Second)
			live(3*time.Second, true)
		}
		broken := errors.New("cannot read")
		cfg.Store = unreadable{file, broken}
		_, err = Open(t.Context(), cfg)
		require.ErrorIs(t, err, broken)
		cfg.Store = file
		live(time.Hour, false)

		tally := &audit.Tally{}
		var got []audit.Outcome
		_, err = audit.Scan(cfg.Slots.AuditFile, func(e *audit.Entry, verified bool) {
			got = append(got, e.Outcome)
			tally.Add(e)
		})
		require.NoError(t, err)
		assert.Equal(t, []audit.Outcome{audit.Started, audit.Started, audit.Stopped}, got)
		require.Len(t, tally.Off, 1)
		assert.True(t, tally.Off[0].Killed)
		assert.WithinRange(t, tally.Off[0].From.In(time.UTC), clockOf(1, -5), clockOf(1, 0))
		assert.Equal(t, 100*46*time.Second, tally.Off[0].To.Sub(clockOf(1, 0)))
	})
}

func clockOf(hour, minute int) time.Time { return time.Date(2000, 1, 1, hour, minute, 0, 0, time.UTC) }

// unreadable is a store whose ready slots cannot be read.
type unreadable struct {
	*store.File
	err error
}

func (u unreadable) Range(ctx context.Context, prefix string, visit func(string, []byte) error) error {
	if strings.HasPrefix(prefix, "ready/") {
		return u.err
	}
	return u.File.Range(ctx, prefix, visit)
}
