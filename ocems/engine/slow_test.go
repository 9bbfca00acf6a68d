package engine_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/store"
)

// On a slow disk senders wait all the time, one or another. Windows close nevertheless.
func TestSlowDisk(t *testing.T) {
	for _, sync := range []time.Duration{200 * time.Millisecond, 3 * time.Second, 11 * time.Second} {
		run(t, sync.String(), nil, func(p *plant) {
			until(clock(1, 0, 30))
			p.mustTake(reading("a", "cod", clock(1, 0, 30), 5))
			until(clock(1, 14, 0))
			p.disk.set(func(int, []store.Op) error { time.Sleep(sync); return nil })
			done := make(chan struct{})
			for sender := range 3 {
				go func() {
					defer func() { done <- struct{}{} }()
					for n := 0; time.Now().Before(clock(1, 34, 0)); n++ {
						_ = p.take(reading("b", "bod", time.Now().Add(time.Duration(sender)*time.Millisecond), 5))
						time.Sleep(time.Millisecond)
					}
				}()
			}
			for range 3 {
				<-done
			}
			p.disk.set(nil)
			got := strings.Join(p.received(), " ")
			require.Contains(t, got, "a/cod@01:15=5U", p.log.lines("level=ERROR"))
		})
	}
}

// A disk that stands still does so in any write. What its sender could not send meanwhile is no late reading.
func TestDiskThatStandsStill(t *testing.T) {
	for _, kind := range []string{"samples/", "open/"} {
		run(t, kind, nil, func(p *plant) {
			p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
			until(clock(1, 14, 25))
			p.mustTake(reading("b", "cod", clock(1, 14, 5), 1, "ocems.flag", "C")) // closes at 01:14:40
			until(clock(1, 14, 35))
			stood := false
			p.disk.set(func(_ int, ops []store.Op) error {
				if !stood && slices.ContainsFunc(ops, func(op store.Op) bool { return op.Value != nil && strings.HasPrefix(op.Key, kind) }) {
					stood = true
					time.Sleep(70 * time.Second)
				}
				return nil
			})
			until(clock(1, 14, 50))
			p.mustTake(reading("a", "cod", clock(1, 14, 50), 2))
			require.True(t, stood)
			time.Sleep(5 * time.Second) // the sender's next batch
			p.mustTake(reading("a", "cod", clock(1, 14, 55), 6))
			until(clock(1, 18, 30))
			require.Contains(t, p.received(), "a/cod@01:15=3U")
			require.Empty(t, p.trail())
		})
	}
}
