package ocemsslotprocessor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/ocems/audit"
)

func TestStatus(t *testing.T) {
	const failed, ok = componentstatus.StatusRecoverableError, componentstatus.StatusOK
	for name, c := range map[string]struct {
		act  func(wait func(time.Duration), next, disk func(works bool))
		want []componentstatus.Status
		says string
	}{
		"all is well": {act: func(wait func(time.Duration), _, _ func(bool)) { wait(time.Hour) }},
		"the next consumer refuses for less than a minute": {act: func(wait func(time.Duration), next, _ func(bool)) {
			next(false)
			wait(15*time.Minute + 30*time.Second + reportAfter/2) // the next try is within the minute
			next(true)
			wait(time.Hour)
		}},
		"the next consumer refuses for an hour": {
			act: func(wait func(time.Duration), next, _ func(bool)) {
				next(false)
				wait(time.Hour)
				next(true)
				wait(time.Hour)
			},
			want: []componentstatus.Status{failed, ok},
			says: "the next consumer refuses slots: down",
		},
		"it refuses until the shutdown": {
			act: func(wait func(time.Duration), next, _ func(bool)) {
				next(false)
				wait(time.Hour)
			},
			want: []componentstatus.Status{failed},
			says: "the next consumer refuses slots: down",
		},
		"the disk is full twice": {
			act: func(wait func(time.Duration), _, disk func(bool)) {
				for range 2 {
					disk(false)
					wait(20 * time.Minute)
					disk(true)
					wait(20 * time.Minute)
				}
			},
			want: []componentstatus.Status{failed, ok, failed, ok},
			says: "no space left on device",
		},
		"one trouble outlives the other": {
			act: func(wait func(time.Duration), next, disk func(bool)) {
				next(false)
				wait(20 * time.Minute)
				disk(false)
				wait(20 * time.Minute)
				disk(true)
				wait(20 * time.Minute)
				next(true)
				wait(time.Hour)
			},
			want: []componentstatus.Status{failed, ok},
			says: "the next consumer refuses slots: down",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := openHost(t, t.TempDir())
				var down atomic.Bool
				next, err := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error {
					if down.Load() {
						return errors.New("down")
					}
					return nil
				})
				require.NoError(t, err)
				p := start(t, h, next, stored)
				wait := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(time.Minute, time.Until(end))) {
						if err := p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")); err != nil {
							require.ErrorContains(t, err, "no space left on device")
						}
					}
				}
				c.act(wait, func(works bool) { down.Store(!works) }, func(works bool) { h.full.Store(!works) })
				require.NoError(t, p.Shutdown(t.Context()))
				require.Equal(t, c.want, h.statuses())
				if len(h.events) > 0 {
					require.ErrorContains(t, h.events[0].Err(), c.says)
				}
				h.close(t)
			})
		})
	}
}

func TestTrailFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := openHost(t, t.TempDir())
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		core, logs := observer.New(zapcore.InfoLevel)
		sink := new(consumertest.MetricsSink)
		p := startLogged(t, h, sink, func(c *Config) {
			stored(c)
			c.AuditFile = path
			c.CheckpointInterval = 7 * time.Second // so that slots close, and are saved, between two checkpoints
		}, zap.New(core))
		synctest.Wait()
		require.NoError(t, p.trail.Close()) // from here on each write fails
		for range 4 {
			require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
			require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "X")))
			time.Sleep(15 * time.Minute)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 4, sink.DataPointCount(), "slots need no trail")
		require.Equal(t, 1, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
		require.Equal(t, 1, logs.FilterMessage("The audit trail cannot be written; what belongs into it is kept and tried again").Len())
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, h.statuses())

		trail, err := audit.Open(path)
		require.NoError(t, err)
		p.mu.Lock()
		p.trail = trail
		p.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, logs.FilterMessage("The audit trail is written again").Len())
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, h.statuses())
		require.NoError(t, p.Shutdown(t.Context()))
		require.Len(t, entriesOf(t, path), 4, "each window's refusal is a line, once")
		h.close(t)
	})
}

func entriesOf(t *testing.T, path string) (out []audit.Entry) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, audit.Verify(f, func(e audit.Entry) { out = append(out, e) }))
	return out
}
