package ocemsslotprocessor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/ocems/slot"
)

// manySeries has a sample of each of n series, of the given age.
func manySeries(n int, age time.Duration) pmetric.Metrics {
	md := gauge("cod", 1, "")
	points := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints()
	points.At(0).SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-age)))
	for i := range n {
		points.At(0).Attributes().PutInt("n", int64(i))
		if i < n-1 {
			points.At(0).CopyTo(points.AppendEmpty())
		}
	}
	return md
}

// sent is a slot that reached the next consumer.
type sent struct {
	stamp pcommon.Timestamp
	n     int64
}

func sentIn(md pmetric.Metrics) (out []sent) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, dp := range m.Gauge().DataPoints().All() {
					n, _ := dp.Attributes().Get("n")
					out = append(out, sent{dp.Timestamp(), n.Int()})
				}
			}
		}
	}
	return out
}

func TestOneCallCarriesAtMost5000(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []int
		var got []sent
		next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
			calls = append(calls, md.DataPointCount())
			if len(calls) == 2 {
				return errors.New("down")
			}
			got = append(got, sentIn(md)...)
			return nil
		})
		require.NoError(t, err)
		p := start(t, componenttest.NewNopHost(), next, nil)
		require.NoError(t, p.ConsumeMetrics(t.Context(), manySeries(6001, 2*time.Hour)))
		require.NoError(t, p.ConsumeMetrics(t.Context(), manySeries(6000, 3*time.Hour)))
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Shutdown(t.Context()))

		require.Equal(t, []int{5000, 5000, 5000, 2001}, calls, "the refused call comes again, the one before it does not")
		require.True(t, slices.IsSortedFunc(got, func(a, b sent) int { return cmp.Compare(a.stamp, b.stamp) }))
		seen := map[sent]bool{}
		for _, s := range got {
			seen[s] = true
		}
		require.Len(t, got, 12001)
		require.Len(t, seen, 12001, "a slot was sent twice")
	})
}

func TestPauseCountsFromTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pauses []time.Duration
		var answered time.Time
		next, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
			if !answered.IsZero() {
				pauses = append(pauses, time.Since(answered))
			}
			select {
			case <-time.After(20 * time.Second):
			case <-ctx.Done():
			}
			answered = time.Now()
			return errors.New("timed out")
		})
		require.NoError(t, err)
		p := start(t, componenttest.NewNopHost(), next, nil)
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
		time.Sleep(20 * time.Minute)
		require.NoError(t, p.Shutdown(t.Context()))
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, maxBackoff, maxBackoff}
		require.Equal(t, want, pauses[:min(len(pauses), len(want))])
	})
}

// savedPending is how many closed slots the storage holds: what a start after a kill would find.
func savedPending(t *testing.T, p *slotProcessor) int {
	copied, err := slot.New(slot.Options{}, keyCodec{})
	require.NoError(t, err)
	entries := map[string][]byte{}
	for _, k := range copied.Keys() {
		entries[k], err = p.client.Get(context.Background(), k)
		require.NoError(t, err)
	}
	require.NoError(t, copied.Restore(entries, time.Now()))
	return len(copied.Pending())
}

// A kill just after a slot was handed over does not bring it a second time.
func TestSentIsSavedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := openHost(t, t.TempDir())
		sink := new(consumertest.MetricsSink)
		p := start(t, h, sink, func(c *Config) {
			stored(c)
			c.CheckpointInterval = 10 * time.Minute
		})
		require.NoError(t, p.ConsumeMetrics(t.Context(), manySeries(3, 2*time.Hour)))
		for sink.DataPointCount() == 0 {
			time.Sleep(tick)
		}
		synctest.Wait()
		require.Equal(t, 3, sink.DataPointCount())
		require.Zero(t, savedPending(t, p))
		require.NoError(t, p.Shutdown(t.Context()))
		h.close(t)
	})
}

func TestStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := openHost(t, t.TempDir())
		core, logs := observer.New(zapcore.InfoLevel)
		sink := new(consumertest.MetricsSink)
		var p *slotProcessor
		next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
			require.GreaterOrEqual(t, savedPending(t, p), md.DataPointCount(), "sent before it was saved")
			return sink.ConsumeMetrics(ctx, md)
		})
		require.NoError(t, err)
		p = startLogged(t, h, next, stored, zap.New(core))
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
		time.Sleep(14 * time.Minute)
		h.full.Store(true)
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 2, "")), "it is not known yet")
		time.Sleep(30 * time.Second)
		refused := gauge("cod", 6, "")
		require.ErrorContains(t, p.ConsumeMetrics(t.Context(), refused), "has free space")
		require.False(t, consumererror.IsPermanent(p.ConsumeMetrics(t.Context(), refused)))
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		require.Empty(t, sink.AllMetrics())
		require.Equal(t, slot.Stats{Series: 1, Open: 1, Taken: 2, Refused: map[slot.Reason]uint64{}}, p.aligner.Stats(), "what is refused belongs into the window")
		require.Equal(t, 1, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
		failed := logs.FilterMessageSnippet("Saving failed; samples are refused and slots held until it works again").All()
		require.Len(t, failed, 1)
		require.Contains(t, failed[0].ContextMap()["error"], `storage "file_storage": no space left on device`)

		h.full.Store(false)
		time.Sleep(45 * time.Second)
		require.NoError(t, p.ConsumeMetrics(t.Context(), refused))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 3, 3.)}, lines(sink.AllMetrics()))
		require.Equal(t, 1, logs.FilterMessage("Saving works again").Len())
		require.Equal(t, 1, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
		require.NoError(t, p.Shutdown(t.Context()))
		h.close(t)
	})
}

func TestShutdownWhileTheStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		h := openHost(t, dir)
		sink := new(consumertest.MetricsSink)
		p := start(t, h, sink, stored)
		require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
		time.Sleep(14 * time.Minute)
		h.full.Store(true)
		time.Sleep(2 * time.Minute)
		require.ErrorContains(t, p.Shutdown(t.Context()), "no space left on device")
		require.Empty(t, sink.AllMetrics())
		h.close(t)

		h = openHost(t, dir)
		p = start(t, h, sink, stored)
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Shutdown(t.Context()))
		require.Equal(t, []string{fmt.Sprintf(point, "cod", "00:00:00-00:15:00", "U", 1, 1.)}, lines(sink.AllMetrics()))
		h.close(t)
	})
}

func TestShutdownWithoutTimeWhileTheNextConsumerBlocks(t *testing.T) {
	for name, obeys := range map[string]bool{"obeys its context": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				h := openHost(t, dir)
				calls := 0
				release := make(chan struct{})
				next, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
					calls++
					if obeys {
						<-ctx.Done()
						return ctx.Err()
					}
					<-release
					return nil
				})
				require.NoError(t, err)
				core, logs := observer.New(zapcore.InfoLevel)
				p := startLogged(t, h, next, stored, zap.New(core))
				const series = maxPoints + 1
				require.NoError(t, p.ConsumeMetrics(t.Context(), manySeries(series, 0)))
				time.Sleep(16 * time.Minute)
				require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 3, ""))) // only the shutdown saves this
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				err = p.Shutdown(gone)
				require.LessOrEqual(t, time.Since(began), leaveWithin)
				if obeys {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.ErrorContains(t, err, "waiting for the next consumer at shutdown")
				}
				require.NoError(t, p.Shutdown(t.Context()), "a second shutdown does nothing")
				h.close(t)

				close(release)
				<-p.done // else the goroutine is left behind
				require.Equal(t, 1, calls, "sent after the shutdown")
				require.Empty(t, h.statuses())
				require.Empty(t, logs.FilterLevelExact(zapcore.ErrorLevel).All(), "a shutdown is no fault")

				h = openHost(t, dir)
				sink := new(consumertest.MetricsSink)
				p = start(t, h, sink, stored)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Equal(t, series, sink.DataPointCount(), "what was not taken comes after the start")
				sink.Reset()
				time.Sleep(16 * time.Minute)
				require.NoError(t, p.Shutdown(t.Context()))
				require.Equal(t, []string{fmt.Sprintf(point, "cod", "00:15:00-00:30:00", "U", 1, 3.)}, lines(sink.AllMetrics()))
				h.close(t)
			})
		})
	}
}

func TestShutdownWithoutTimeOfAnIdleProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := openHost(t, t.TempDir())
		p := start(t, h, consumertest.NewNop(), stored)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, p.Shutdown(gone))
		h.close(t)
	})
}

func TestTwoPipelinesCannotShareAState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := openHost(t, t.TempDir())
		p := start(t, h, consumertest.NewNop(), stored)
		second, err := newProcessor(settings(zap.NewNop()), p.cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.ErrorContains(t, second.Start(t.Context(), h), `opening storage "file_storage": `)
		require.NoError(t, second.Shutdown(t.Context()))
		require.NoError(t, p.Shutdown(t.Context()))
		h.close(t)
	})
}
