package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
)

// next is the next consumer of a processor.
type next struct {
	mu     sync.Mutex
	refuse map[uint8]error // errors by exit
	fails  int             // number of calls still to refuse
	got    []string
	calls  int
	health []error
}

func (n *next) take(_ context.Context, exit uint8, slots []slot.Slot) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	if err := n.refuse[exit]; err != nil {
		return err
	}
	if n.fails--; n.fails >= 0 {
		return errNext
	}
	for _, s := range slots {
		n.got = append(n.got, fmt.Sprintf("%d:%s/%s@%s=%v %dx", exit, s.Device, s.Parameter, s.Stamp.UTC().Format("15:04"), s.Value, s.Samples))
	}
	return nil
}

func (n *next) told(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.health = append(n.health, err)
}

func (n *next) set(exit uint8, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuse[exit] = err
}

func (n *next) fail(calls int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fails = calls
}

func (n *next) all() (got []string, calls int, health []error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append(got, n.got...), n.calls, append(health, n.health...)
}

func (n *next) processor(c *engine.Config) {
	n.refuse = map[uint8]error{}
	c.Board, c.Next, c.OnHealth = nil, n.take, n.told
}

func exits(r engine.Reading, exit uint8) engine.Reading {
	r.Exit = exit
	return r
}

var errNext = errors.New("the exporter's queue is full")

func TestProcessor(t *testing.T) {
	var n next
	run(t, "by the exit of a window's first sample, in order", n.processor, func(p *plant) {
		p.mustTake(exits(reading("b", "cod", clock(1, 0, 0), 1), 2), exits(reading("a", "cod", clock(1, 0, 0), 2), 1))
		p.mustTake(exits(reading("a", "cod", clock(1, 1, 0), 4), 2))
		assert.False(t, p.e.NewBatch().Add(finished("a", "cod", clock(0, 45, 0), 1)), "it passes on")
		until(clock(1, 17, 0))
		got, _, _ := n.all()
		assert.Equal(t, []string{"1:a/cod@01:15=3 2x", "2:b/cod@01:15=1 1x"}, got)
		keys, _ := p.keys("ready/")
		assert.Empty(t, keys)
		assert.Zero(t, p.e.Stats().Pending)
	})
}

// Slots are kept during refusals, restarts and kills until the next consumer takes them; then they leave in order.
func TestReadySlotsAreKept(t *testing.T) {
	for name, end := range map[string]func(*plant){"refusals": func(*plant) {}, "restart": (*plant).restart, "kill": func(p *plant) { p.kill(); p.open() }} {
		var n next
		run(t, name, n.processor, func(p *plant) {
			n.set(0, errNext)
			n.set(1, errNext)
			for i := range 3 {
				at := clock(1, 15*i, 0)
				until(at)
				p.mustTake(exits(reading("a", "cod", at, float64(i)), 1))
				until(at.Add(15*time.Minute + 40*time.Second))
				assert.Equal(t, i+1, p.e.Stats().Pending)
				end(p)
				assert.Equal(t, i+1, p.e.Stats().Pending)
			}
			n.fail(1) // one refusal only: later slots must not overtake
			n.set(0, nil)
			n.set(1, nil)
			until(clock(1, 47, 0))
			exit := 0 // any exit
			if name == "refusals" {
				exit = 1
			}
			got, _, _ := n.all()
			var want []string
			for i, stamp := range []string{"01:15", "01:30", "01:45"} {
				want = append(want, fmt.Sprintf("%d:a/cod@%s=%d 1x", exit, stamp, i))
			}
			assert.Equal(t, want, got)
			assert.Zero(t, p.e.Stats().Pending)
			p.restart()
			until(clock(1, 50, 0))
			got, _, _ = n.all()
			assert.Len(t, got, 3, "they went once")
		})
	}
}

func TestOneExitRefuses(t *testing.T) {
	var n next
	run(t, "the other goes on", n.processor, func(p *plant) {
		n.set(1, errNext)
		p.mustTake(exits(reading("a", "cod", clock(1, 0, 0), 1), 1), exits(reading("b", "cod", clock(1, 0, 0), 2), 2))
		until(clock(1, 18, 0))
		got, calls, _ := n.all()
		assert.Equal(t, []string{"2:b/cod@01:15=2 1x"}, got)
		assert.Less(t, calls, 12, "waits grow")
	})
}

// Refusals for less than a minute are not reported in the health.
func TestHealthOfTheNextConsumer(t *testing.T) {
	var n next
	run(t, "a minute", n.processor, func(p *plant) {
		n.set(1, errNext)
		p.mustTake(exits(reading("a", "cod", clock(1, 0, 0), 1), 1))
		until(clock(1, 16, 20))
		_, _, health := n.all()
		assert.Empty(t, health)
		assert.Len(t, p.log.lines("the next consumer refused slots"), 1)
		until(clock(1, 18, 0))
		_, _, health = n.all()
		require.Len(t, health, 1)
		assert.ErrorIs(t, health[0], errNext)
		n.set(1, nil)
		until(clock(1, 19, 0))
		_, _, health = n.all()
		require.Len(t, health, 2)
		assert.NoError(t, health[1])
		assert.Len(t, p.log.lines("the next consumer takes slots again"), 1)
	})
}

// A next consumer that does not return does not delay the shutdown.
func TestNextConsumerHangs(t *testing.T) {
	run(t, "close", func(c *engine.Config) {
		c.Board = nil
		c.Next = func(ctx context.Context, _ uint8, _ []slot.Slot) error {
			time.Sleep(time.Hour)
			return nil
		}
	}, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 16, 0))
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		assert.ErrorContains(t, p.e.Close(ctx), "waiting for the next consumer")
		assert.LessOrEqual(t, time.Since(begun), 3*time.Second)
		time.Sleep(2 * time.Hour)
	})
}
