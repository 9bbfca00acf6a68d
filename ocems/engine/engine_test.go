package engine_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

func TestWholePath(t *testing.T) {
	run(t, "named, taken, aligned, delivered", nil, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("a", "bod", clock(1, 0, 0), 7), reading("b", "cod", clock(1, 0, 0), 5))
		p.mustTake(reading("a", "cod", clock(1, 0, 10), 3), reading("c", "cod", clock(1, 0, 0), 9), engine.Reading{Time: clock(1, 0, 0)})
		s := p.e.Stats()
		assert.EqualValues(t, 4, s.Taken)
		assert.EqualValues(t, 2, s.Ignored)
		assert.Equal(t, 3, s.Open)
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"a/bod@01:15=7U", "a/cod@01:15=2U", "b/cod@01:15=5U"}, p.received())
		assert.Empty(t, p.trail())
		assert.Len(t, p.log.lines("the device is not configured"), 1)
		assert.Zero(t, p.e.Stats().Outbox.Slots)
		keys, _ := p.keys("samples/")
		assert.Empty(t, keys, "they are in the saved aligner")
	})
}

// A window closes as a whole, and its slot waits for no other parameters. A slot made upstream does wait.
func TestCoalesce(t *testing.T) {
	minute := func(c *engine.Config) { c.Board.Coalesce.Duration, c.Board.Spread.Duration = time.Minute, 0 }
	run(t, "a minute", minute, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 15, 25))
		p.mustTake(finished("b", "cod", clock(1, 15, 0), 1))
		until(clock(1, 15, 33))
		assert.Equal(t, []string{"a/cod@01:15=1U"}, p.received())
		p.mustTake(finished("b", "bod", clock(1, 15, 0), 1))
		until(clock(1, 16, 35))
		assert.Len(t, p.received(), 3)
	})
}

// Commit returns when the samples are on disk, not before.
func TestTakeIsDurable(t *testing.T) {
	run(t, "take", nil, func(p *plant) {
		held := make(chan struct{})
		p.disk.set(func(int, []store.Op) error { <-held; return nil })
		done := make(chan error, 1)
		go func() { done <- p.take(reading("a", "cod", clock(1, 0, 0), 1)) }()
		synctest.Wait()
		assert.Empty(t, done)
		assert.Zero(t, p.e.Stats().Taken)
		close(held)
		require.NoError(t, <-done)
		p.disk.set(nil)
		kept, err := store.Snapshot(filepath.Join(p.dir, "state.db"))
		require.NoError(t, err)
		defer kept.Close()
		n := 0
		require.NoError(t, kept.Range(context.Background(), "samples/", func(string, []byte) error { n++; return nil }))
		assert.Equal(t, 1, n)
	})
}

func TestTakesShareATransaction(t *testing.T) {
	run(t, "50 at once", nil, func(p *plant) {
		p.disk.set(func(int, []store.Op) error { time.Sleep(10 * time.Millisecond); return nil })
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				assert.NoError(t, p.take(reading("a", "cod", clock(1, 0, i), float64(i))))
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, p.disk.count(), 2)
		assert.EqualValues(t, 50, p.e.Stats().Taken)
		p.kill()
		p.open()
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"a/cod@01:15=24.5U"}, p.received())
	})
}

// TestCrash kills the engine at each write of half an hour, before or after the write is on disk. If a sender sends
// unacknowledged readings again, every reading is in its slot exactly once.
func TestCrash(t *testing.T) {
	want := []string{"a/bod@01:15=106U", "a/bod@01:30=121U", "a/cod@01:15=6U", "a/cod@01:30=21U", "b/cod@01:15=-6U", "b/cod@01:30=-21U"}
	for _, written := range []bool{false, true} {
		for n, reached := 0, true; reached; n++ {
			run(t, fmt.Sprintf("write %d, written %v", n, written), nil, func(p *plant) {
				var mu sync.Mutex
				dead := false
				fail := func(i int) error {
					mu.Lock()
					defer mu.Unlock()
					if i >= n {
						dead = true
						return errDisk
					}
					return nil
				}
				p.disk.set(nil) // sendingKey is written
				if written {
					p.disk.before = func(i int, _ []store.Op) error {
						if i > n {
							return errDisk
						}
						return nil
					}
					p.disk.after = fail
				} else {
					p.disk.before = func(i int, _ []store.Op) error { return fail(i) }
				}
				revive := func() (was bool) {
					mu.Lock()
					was = dead
					dead = false
					mu.Unlock()
					if was {
						p.close() // all its writes fail
						p.disk.mu.Lock()
						p.disk.before, p.disk.after = nil, nil
						p.disk.mu.Unlock()
						p.open()
					}
					return was
				}
				reached = false
				for minute := 0; minute < 30; minute += 3 {
					at := clock(1, minute, 0)
					until(at)
					reached = revive() || reached
					batch := []engine.Reading{reading("a", "cod", at, float64(minute)), reading("a", "bod", at, float64(minute)+100), reading("b", "cod", at, -float64(minute))}
					if err := p.take(batch...); err != nil {
						require.ErrorIs(t, err, errDisk)
						require.True(t, revive())
						reached = true
						p.mustTake(batch...)
					}
				}
				until(clock(1, 50, 0))
				if revive() {
					reached = true
					until(clock(2, 10, 0))
				}
				assert.Equal(t, want, p.received())
				assert.Empty(t, p.trail())
				assert.Zero(t, p.e.Stats().Outbox.Slots)
				assert.Zero(t, p.e.Stats().Open)
			})
			if t.Failed() {
				return
			}
			require.Less(t, n, 200)
		}
	}
}

// Samples taken in one run of the process are not overwritten in the next.
func TestSeveralKills(t *testing.T) {
	run(t, "samples", nil, func(p *plant) {
		for i := range 4 {
			until(clock(1, i, 0))
			p.mustTake(reading("a", "cod", clock(1, i, 0), float64(i)))
			p.kill()
			p.open()
		}
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"a/cod@01:15=1.5U"}, p.received())
	})
	run(t, "refused", nil, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 16, 0))
		p.mustTake(reading("a", "cod", clock(1, 1, 0), 2)) // late
		until(clock(1, 20, 0))
		p.mustTake(reading("b", "cod", clock(1, 20, 0), 1))
		until(clock(1, 31, 0)) // the line is written, and its samples are deleted
		p.mustTake(reading("a", "cod", clock(1, 1, 1), 3))
		p.kill()
		p.open()
		until(clock(1, 50, 0))
		assert.Equal(t, []string{"late late a/cod@01:15 1x 2U", "late late a/cod@01:15 1x 3U"}, p.trail())
	})
}

func TestDuplicatesAndConflicts(t *testing.T) {
	for _, again := range []struct {
		name string
		do   func(p *plant)
	}{{"same process", func(*plant) {}}, {"restart", (*plant).restart}, {"kill", func(p *plant) { p.kill(); p.open() }}} {
		run(t, again.name, nil, func(p *plant) {
			one := reading("a", "cod", clock(1, 0, 0), 1, "plc", "north")
			p.mustTake(one, reading("a", "cod", clock(1, 1, 0), 3, "plc", "north"))
			again.do(p)
			p.mustTake(one, reading("a", "cod", clock(1, 1, 0), 4, "plc", "south"), reading("a", "cod", clock(1, 1, 0), 5, "plc", "south"))
			s := p.e.Stats()
			assert.EqualValues(t, 1, s.Refused[slot.Duplicate])
			assert.EqualValues(t, 2, s.Refused[slot.Conflict])
			until(clock(1, 20, 0))
			assert.Equal(t, []string{"a/cod@01:15=2U"}, p.received())
			assert.Equal(t, []string{"refused conflict a/cod@01:15 2x 4U"}, p.trail())
			warned := p.log.lines("reason=conflict")
			require.Len(t, warned, 1)
			assert.Contains(t, warned[0], "this one is from site=x plc=south")
			if again.name == "same process" {
				assert.Contains(t, warned[0], "the first from site=x plc=north")
			}
		})
	}
}

// A source that changes once is a restarted sender. Sources that alternate are two senders.
func TestSourcesThatTakeTurns(t *testing.T) {
	run(t, "turns", nil, func(p *plant) {
		for i := range 10 {
			p.mustTake(reading("a", "cod", clock(1, 0, i), 1, "plc", []string{"north", "south"}[i%2]))
		}
		warned := p.log.lines("two sources take turns")
		require.Len(t, warned, 1)
		for _, part := range []string{"level=WARN", "device=a", "parameter=cod", `"site=x plc=north"`, `"site=x plc=south"`, "tell_apart_by=plc"} {
			assert.Contains(t, warned[0], part)
		}
		assert.EqualValues(t, 10, p.e.Stats().Taken)
	})
	run(t, "a token in an attribute", nil, func(p *plant) { // the end of run checks the log
		for i := range 10 {
			p.mustTake(reading("a", "cod", clock(1, 0, i), 1, "plc", []string{tokenA, "south"}[i%2]))
		}
		p.mustTake(reading("a", "cod", clock(1, 0, 3), 2, "plc", tokenA))
		assert.Len(t, p.log.lines("two sources take turns"), 1)
		until(clock(1, 20, 0))
		assert.Len(t, p.trail(), 1)
		text, err := os.ReadFile(p.cfg.Slots.AuditFile)
		require.NoError(t, err)
		assert.NotContains(t, string(text), tokenA)
		assert.Contains(t, string(text), "plc=(the token)")
	})
	run(t, "restart of a sender", nil, func(p *plant) {
		for i := range 10 {
			p.mustTake(reading("a", "cod", clock(1, 0, i), 1, "plc", []string{"north", "south"}[i/5]))
		}
		assert.Empty(t, p.log.lines("two sources take turns"))
	})
}

// Twenty minutes of refused readings, one each second, make two lines: one for each slot.
func TestFloodOfRefusedReadings(t *testing.T) {
	at := func(i int) time.Time { return clock(2, 0, i) }
	for name, c := range map[string]struct {
		align bool
		flood func(i int) engine.Reading
		line  string // line of the first slot
	}{
		"NaN":             {true, func(i int) engine.Reading { return reading("a", "cod", at(i), math.NaN()) }, "refused not_a_number a/cod@02:15 900x"},
		"flag":            {true, func(i int) engine.Reading { return reading("a", "cod", at(i), 1, "ocems.flag", fmt.Sprint(i)) }, "refused bad_flag a/cod@02:15 900x 1"},
		"unit":            {true, func(i int) engine.Reading { return reading("a", "cod", at(i), 1, "ocems.unit", fmt.Sprint(i)) }, "refused unit a/cod@02:15 900x 1U"},
		"late":            {true, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(-time.Hour), 1) }, "late late a/cod@01:15 900x 1U"},
		"too old":         {true, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(-240*time.Hour), 1) }, "refused too_old a/cod@02:15 900x 1U"},
		"ahead":           {true, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(time.Hour), 1) }, "refused future a/cod@03:15 900x 1U"},
		"far ahead":       {true, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(240*time.Hour), 1) }, "refused future a/cod@02:15 900x 1U"},
		"NaN of a logger": {false, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(time.Nanosecond), math.NaN()) }, "refused not_a_number a/cod@02:15 900x"},
		"off the grid":    {false, func(i int) engine.Reading { return reading("a", "cod", at(i).Add(time.Nanosecond), 1) }, "refused off_grid a/cod@02:15 900x 1U"},
		"flag of a logger": {false, func(i int) engine.Reading {
			return reading("a", "cod", at(i).Add(time.Nanosecond), 1, "ocems.flag", "Q")
		},
			"refused bad_flag a/cod@02:15 900x 1"},
		"unknown parameter": {true, func(i int) engine.Reading { return finished("a", "codd", at(i).Add(time.Nanosecond), 1) }, "refused unknown a/codd@02:15 900x 1U"},
		"unknown device":    {true, func(i int) engine.Reading { return finished("x", "cod", at(i).Add(time.Nanosecond), 1) }, "refused unknown x/cod@02:15 900x 1U"},
	} {
		run(t, name, func(cfg *engine.Config) { cfg.Board.Align = c.align }, func(p *plant) {
			if name == "late" { // a late reading belongs to a closed window
				until(clock(1, 16, 0))
				p.mustTake(reading("a", "cod", clock(1, 0, 30), 5), reading("a", "cod", clock(1, 15, 30), 5))
			}
			for i := range 1200 {
				until(at(i))
				p.mustTake(c.flood(i))
			}
			until(clock(4, 0, 0))
			lines := p.trail()
			require.NotEmpty(t, lines)
			assert.Equal(t, c.line, lines[0])
			n := 0
			for _, e := range p.entries() {
				n += e.Count
			}
			assert.Equal(t, 1200, n, "%s", lines)
			assert.Len(t, lines, 2)
			assert.Len(t, p.log.lines("a reading is refused"), 1)
		})
	}
}

func TestRefusals(t *testing.T) {
	run(t, "a slow source makes one line a slot too, after its first one", nil, func(p *plant) {
		for i := range 270 {
			until(clock(2, 0, 10*i))
			p.mustTake(reading("a", "cod", clock(2, 0, 10*i).Add(-240*time.Hour), float64(i)))
		}
		until(clock(4, 0, 0))
		assert.ElementsMatch(t, []string{"refused too_old a/cod@02:15 1x 0U", "refused too_old a/cod@02:15 89x 1U", "refused too_old a/cod@02:30 90x 90U",
			"refused too_old a/cod@02:45 90x 180U"}, p.trail())
	})
	run(t, "a flood is one line a slot, series and reason", nil, func(p *plant) {
		for i := range 600 {
			r := reading("a", "cod", clock(1, 0, 0).Add(time.Duration(i)*time.Second), math.NaN())
			r.Fault = fmt.Sprintf("the value is the text %d", i)
			p.mustTake(r, reading("b", "cod", clock(1, 0, 0).Add(time.Duration(i)*time.Second), math.Inf(1)))
		}
		assert.Empty(t, p.trail(), "their slot is not over")
		until(clock(1, 20, 0))
		assert.Equal(t, []string{"refused not_a_number a/cod@01:15 600x", "refused not_a_number b/cod@01:15 600x"}, p.trail())
		assert.Contains(t, p.entries()[1].Detail, "taken from 2000-01-01T01:00:00Z to 2000-01-01T01:09:59Z: the value is the text 0")
		assert.Len(t, p.log.lines("a reading is refused"), 2)
		assert.EqualValues(t, 1200, p.e.Stats().Refused[slot.NotANumber])
	})
	run(t, "each reason has its line, with the first value", nil, func(p *plant) {
		until(clock(1, 30, 0))
		p.mustTake(reading("a", "cod", clock(1, 29, 0), 1))
		until(clock(1, 31, 0))
		p.mustTake(
			reading("a", "cod", clock(1, 29, 30), 2), reading("a", "cod", clock(1, 29, 31), 3), // late
			reading("a", "cod", clock(9, 0, 0), 4),  // in the future, by a clock that is hours ahead
			reading("a", "cod", time.Unix(1, 0), 5), // no time
			reading("a", "bod", clock(1, 20, 0), 6, "ocems.unit", "furlong"),
			reading("a", "bod", clock(1, 20, 0), 7, "ocems.flag", "Q"),
		)
		until(clock(1, 31, 10))
		assert.ElementsMatch(t, []string{
			"late late a/cod@01:30 2x 2U", "refused future a/cod@09:15 1x 4U", "refused too_old a/cod@00:15 1x 5U",
			"refused unit a/bod@01:30 1x 6U", "refused bad_flag a/bod@01:30 1x 7",
		}, p.trail())
		p.mustTake(reading("a", "cod", clock(1, 29, 32), 8))
		until(clock(1, 40, 0))
		assert.Len(t, p.trail(), 5, "what is late again waits for the next line")
		until(clock(1, 48, 0))
		assert.Len(t, p.trail(), 6)
		assert.Equal(t, "late late a/cod@01:30 1x 8U", p.trail()[5])
		assert.EqualValues(t, 3, p.e.Stats().Refused[slot.Late])
	})
	run(t, "stamp start", func(c *engine.Config) { c.Slots.Stamp = "start" }, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), math.NaN()))
		until(clock(1, 14, 0))
		p.mustTake(reading("a", "cod", clock(1, 14, 0), math.NaN()))
		assert.Empty(t, p.trail())
		until(clock(1, 20, 0))
		assert.Equal(t, []string{"refused not_a_number a/cod@01:00 2x"}, p.trail())
	})
	run(t, "without a trail", func(c *engine.Config) { c.Slots.AuditFile = "" }, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), math.NaN()))
		until(clock(1, 20, 0))
		assert.Len(t, p.log.lines("readings are in no slot"), 1)
		p.cfg.Slots.AuditFile = "" // nothing to verify
	})
}

// Refused readings are in the trail whenever the process is killed: once, or twice if the kill came between the line
// and the next checkpoint.
func TestRefusalsOverAKill(t *testing.T) {
	for _, at := range []time.Time{clock(1, 5, 0), clock(1, 15, 32), clock(1, 15, 40), clock(1, 20, 0), clock(1, 35, 0)} {
		for name, end := range map[string]func(*plant){"kill": (*plant).kill, "restart": (*plant).close} {
			run(t, name+" at "+at.Format("15:04:05"), nil, func(p *plant) {
				p.mustTake(reading("a", "cod", clock(1, 0, 0), math.NaN()), reading("a", "cod", clock(1, 0, 1), math.NaN()))
				until(at)
				end(p)
				p.open()
				until(clock(1, 40, 0))
				p.restart()
				most := map[string]int{"kill": 2, "restart": 1}[name]
				lines := slices.Compact(p.trail())
				assert.Equal(t, []string{"refused not_a_number a/cod@01:15 2x"}, lines)
				assert.LessOrEqual(t, len(p.trail()), most)
			})
		}
	}
}

func TestFinishedSlots(t *testing.T) {
	for _, align := range []bool{true, false} {
		run(t, fmt.Sprintf("align %v", align), func(c *engine.Config) { c.Board.Align = align }, func(p *plant) {
			until(clock(2, 0, 0))
			stamp := clock(1, 45, 0)
			p.mustTake(
				finished("a", "cod", stamp, 1), finished("a", "bod", stamp, 2, "ocems.flag", "M"),
				finished("a", "cod", stamp, 1),                  // a duplicate
				finished("a", "cod", stamp.Add(time.Minute), 4), // off the grid
				finished("x", "cod", stamp, 5),                  // unknown device
				finished("b", "codd", stamp, 6),                 // unknown parameter
				finished("b", "cod", stamp, math.NaN()),
			)
			until(clock(2, 2, 0))
			assert.Equal(t, []string{"a/bod@01:45=2M", "a/cod@01:45=1U"}, p.received())
			assert.ElementsMatch(t, []string{
				"refused off_grid a/cod@02:00 1x 4U", "refused unknown x/cod@01:45 1x 5U", "refused unknown b/codd@01:45 1x 6U", "refused not_a_number b/cod@01:45 1x",
			}, p.trail())
			s := p.e.Stats()
			assert.EqualValues(t, 3, s.Finished)
			assert.Zero(t, s.Taken)
			assert.Zero(t, s.Open)
			assert.EqualValues(t, 2, s.Refused["unknown"])
		})
	}
	run(t, "another value is a conflict", nil, func(p *plant) {
		p.net.unplug(true)
		p.mustTake(finished("a", "cod", clock(0, 45, 0), 1))
		p.mustTake(finished("a", "cod", clock(0, 45, 0), 2))
		assert.Equal(t, []string{"a/cod@00:45=1U"}, awaitReceived(p))
		var refused []audit.Entry
		for _, e := range p.entries() {
			if e.Outcome == audit.Refused {
				refused = append(refused, e)
			}
		}
		require.Len(t, refused, 1)
		assert.Equal(t, 2.0, refused[0].Readings[0].Value)
	})
}

func awaitReceived(p *plant) []string {
	p.net.unplug(false)
	time.Sleep(10 * time.Minute)
	return p.received()
}

// A logger's 15-minute values are sent unchanged.
func TestSlotsMadeByALogger(t *testing.T) {
	run(t, "align off", func(c *engine.Config) { c.Board.Align = false }, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(0, 45, 0), 1), reading("a", "cod", clock(0, 50, 0), 2), reading("a", "bod", clock(0, 45, 0), math.NaN()))
		until(clock(1, 2, 0))
		assert.Equal(t, []string{"a/cod@00:45=1U"}, p.received())
		assert.ElementsMatch(t, []string{"refused off_grid a/cod@01:00 1x 2U", "refused not_a_number a/bod@00:45 1x"}, p.trail())
		assert.Len(t, p.log.lines("set align to true"), 1)
		p.restart()
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 3))
		until(clock(1, 3, 0))
		assert.Len(t, p.received(), 2)
	})
}

// A device that is no longer configured delays no other device, and its slots wait.
func TestDeviceConfiguredNoMore(t *testing.T) {
	run(t, "gone and back", nil, func(p *plant) {
		both := p.cfg.Names.Devices
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("b", "cod", clock(1, 0, 0), 2))
		p.close()
		p.cfg.Names.Devices = both[1:]
		p.open()
		until(clock(1, 20, 0))
		assert.Equal(t, []string{"b/cod@01:15=2U"}, p.received())
		assert.Equal(t, 1, p.e.Stats().Outbox.Slots)
		p.close()
		p.cfg.Names.Devices = both
		p.open()
		until(clock(1, 22, 0))
		assert.Equal(t, []string{"a/cod@01:15=1U", "b/cod@01:15=2U"}, p.received())
	})
}

// A damaged part of the state is kept under another key and named; the other parts are not affected.
func TestDamage(t *testing.T) {
	spoil := func(prefix string) func(p *plant) {
		return func(p *plant) {
			keys, values := p.keys(prefix)
			require.NotEmpty(p.t, keys)
			values[0][len(values[0])/2] ^= 1
			p.put(store.Op{Key: keys[0], Value: values[0]})
		}
	}
	for _, tt := range []struct {
		name, prefix string
		end          func(*plant)
		want         []string
	}{
		{"a batch of samples", "samples/", (*plant).kill, []string{"b/cod@01:15=2U"}},
		{"a part of the aligner", "open/", (*plant).close, nil},
		{"refused", "refused", nil, []string{"a/cod@01:15=1U", "b/cod@01:15=2U"}},
	} {
		for _, full := range []bool{false, true} { // disk full at the start
			run(t, fmt.Sprintf("%s, disk full %v", tt.name, full), nil, func(p *plant) {
				p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
				p.mustTake(reading("b", "cod", clock(1, 0, 0), 2))
				if tt.end != nil {
					tt.end(p)
				} else {
					p.close()
					p.put(store.Op{Key: "refused", Value: []byte{1, 2, 3, 4, 5, 6}})
				}
				spoil(tt.prefix)(p)
				if full {
					p.disk.set(func(int, []store.Op) error { return errDisk })
				}
				p.open()
				until(clock(1, 10, 0))
				p.disk.set(nil)
				until(clock(1, 20, 0))
				got := p.received()
				if tt.want == nil { // either, depending on the devices' shards
					assert.Len(t, got, 1)
				} else {
					assert.Equal(t, tt.want, got)
				}
				kept, _ := p.keys("damaged/" + tt.prefix)
				assert.Len(t, kept, 1)
				assert.Len(t, p.log.lines("a part of the state is damaged"), 1)
				p.restart()
				assert.Len(t, p.log.lines("a part of the state is damaged"), 1, "it is named once")
			})
		}
	}
}

// A state written by a newer version is refused and left unchanged. Nothing is sent from it.
func TestNewerFormat(t *testing.T) {
	newer := func(value []byte) []byte {
		e := frame.New(value[0] + 1)
		e.Append(value[1 : len(value)-4])
		return e.Seal()
	}
	for _, tt := range []struct {
		prefix string
		change func([]byte) []byte
	}{{"samples/", newer}, {"open/", newer}, {"index/", newer}} {
		run(t, tt.prefix, nil, func(p *plant) {
			p.net.unplug(true)
			p.mustTake(finished("a", "cod", clock(0, 45, 0), 1), reading("a", "cod", clock(1, 0, 0), 1))
			p.restart()
			p.mustTake(reading("a", "cod", clock(1, 0, 1), 1))
			p.kill()
			keys, values := p.keys(tt.prefix)
			require.Len(t, keys, 1)
			p.put(store.Op{Key: keys[0], Value: tt.change(values[0])})
			beforeKeys, before := p.keys("")
			p.net.unplug(false)
			_, err := engine.Open(context.Background(), p.cfg)
			require.ErrorContains(t, err, "a newer version of this program")
			time.Sleep(time.Minute)
			afterKeys, after := p.keys("")
			assert.Equal(t, beforeKeys, afterKeys)
			assert.Equal(t, before, after)
			assert.Empty(t, p.received())
			p.put(store.Op{Key: keys[0], Value: values[0]}) // the newer version's value is back
			p.open()
			until(clock(1, 20, 0))
			assert.Len(t, p.received(), 2)
		})
	}
}

// No window closes while a sender may still resend readings that were refused because the disk failed.
func TestPatience(t *testing.T) {
	patient := func(c *engine.Config) { c.Patience, c.Rest = 10*time.Minute, time.Minute }
	full := func(_ int, ops []store.Op) error {
		for _, op := range ops {
			if strings.HasPrefix(op.Key, "samples/") {
				return errDisk
			}
		}
		return nil
	}
	run(t, "taken again", patient, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 14, 50))
		p.disk.set(full)
		rest := reading("a", "cod", clock(1, 14, 50), 3)
		require.ErrorIs(t, p.take(rest), errDisk)
		until(clock(1, 20, 0))
		require.ErrorIs(t, p.take(rest), errDisk)
		until(clock(1, 29, 0))
		p.disk.set(nil)
		assert.Equal(t, 1, p.e.Stats().Open, "10 minutes after the last try")
		p.mustTake(rest)
		until(clock(1, 29, 50))
		p.mustTake(reading("a", "cod", clock(1, 14, 55), 5)) // another sender's
		until(clock(1, 31, 25))
		assert.Zero(t, p.e.Stats().Open)
		until(clock(1, 32, 30))
		assert.Equal(t, []string{"a/cod@01:15=3U"}, p.received())
		assert.Empty(t, p.trail())
	})
	run(t, "given up", patient, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 14, 50))
		p.disk.set(full)
		require.ErrorIs(t, p.take(reading("a", "cod", clock(1, 14, 50), 3)), errDisk)
		until(clock(1, 24, 49))
		assert.Equal(t, 1, p.e.Stats().Open)
		until(clock(1, 24, 52))
		assert.Zero(t, p.e.Stats().Open)
	})
}

// While closed slots cannot be saved, no reading is taken: it would be late now, but in time after a kill.
func TestClosedSlotsThatCannotBeSaved(t *testing.T) {
	var mu sync.Mutex
	var told []error
	run(t, "held", func(c *engine.Config) {
		c.OnHealth = func(err error) { mu.Lock(); defer mu.Unlock(); told = append(told, err) }
	}, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 14, 0))
		p.disk.set(func(_ int, ops []store.Op) error {
			for _, op := range ops {
				if strings.HasPrefix(op.Key, "open/") {
					return errDisk
				}
			}
			return nil
		})
		until(clock(1, 16, 0))
		assert.Equal(t, 1, p.e.Stats().Pending)
		assert.Len(t, p.log.lines("closed slots are held"), 1)
		require.ErrorIs(t, p.take(reading("a", "cod", clock(1, 1, 0), 3)), errDisk)
		mu.Lock()
		require.Len(t, told, 1)
		assert.ErrorIs(t, told[0], errDisk)
		mu.Unlock()
		p.disk.set(nil)
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"a/cod@01:15=1U"}, p.received())
		assert.Len(t, p.log.lines("slots are saved and handed on again"), 1)
		mu.Lock()
		assert.Len(t, told, 2)
		assert.NoError(t, told[1])
		mu.Unlock()
	})
}

func TestClosed(t *testing.T) {
	run(t, "twice, and takes after it", nil, func(p *plant) {
		require.NoError(t, p.e.Close(context.Background()))
		require.NoError(t, p.e.Close(context.Background()))
		assert.ErrorContains(t, p.take(reading("a", "cod", clock(1, 0, 0), 1)), "the engine is shut down")
		assert.Error(t, p.take(finished("a", "cod", clock(0, 45, 0), 1)))
		p.e.Stats()
	})
}

// A sender that stops waiting sends readings again that may have been taken.
func TestCommitThatGivesUp(t *testing.T) {
	run(t, "taken once", nil, func(p *plant) {
		held := make(chan struct{})
		p.disk.set(func(int, []store.Op) error { <-held; return nil })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b := p.e.NewBatch()
		b.Add(reading("a", "cod", clock(1, 0, 0), 1))
		require.ErrorIs(t, b.Commit(ctx), context.DeadlineExceeded)
		close(held)
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("a", "cod", clock(1, 0, 1), 3))
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"a/cod@01:15=2U"}, p.received())
		assert.Empty(t, p.trail())
	})
}

// While the trail cannot be written, refused readings stay in the state.
func TestTrailThatCannotBeWritten(t *testing.T) {
	for name, end := range map[string]func(*plant){"kill": (*plant).kill, "restart": (*plant).close} {
		run(t, name, nil, func(p *plant) {
			p.mustTake(reading("a", "cod", clock(1, 0, 0), math.NaN()), reading("b", "cod", clock(1, 0, 0), 1))
			trail, err := audit.Open(p.cfg.Slots.AuditFile) // the engine's own Trail, because it is one process
			require.NoError(t, err)
			require.NoError(t, trail.Close())
			require.NoError(t, trail.Close()) // closes it for the engine too
			until(clock(1, 40, 0))            // the slot closes, and the samples are deleted
			end(p)
			assert.Len(t, p.log.lines("cannot write refused readings"), 1)
			p.open()
			until(clock(1, 50, 0))
			assert.Equal(t, []string{"refused not_a_number a/cod@01:15 1x"}, p.trail())
		})
	}
}

// If nothing closes because all readings are refused, the state does not grow without limit.
func TestNothingButRefusals(t *testing.T) {
	run(t, "a day", nil, func(p *plant) {
		for at := clock(1, 0, 0); at.Before(clock(7, 0, 0)); at = at.Add(5 * time.Minute) {
			until(at)
			p.mustTake(reading("a", "cod", at, math.NaN()))
		}
		keys, _ := p.keys("samples/")
		assert.LessOrEqual(t, len(keys), 4)
		until(clock(7, 20, 0))
		assert.Len(t, p.trail(), 24)
		p.kill()
		p.open()
		until(clock(8, 0, 0))
		assert.Len(t, slices.Compact(p.trail()), 24, "the last one may be there twice")
	})
}

// The open windows can be read from a copy of the state.
func TestOpenWindows(t *testing.T) {
	run(t, "of a host that runs", nil, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("a", "bod", clock(1, 0, 0), 4), reading("b", "cod", clock(1, 0, 0), math.NaN()))
		p.mustTake(reading("a", "cod", clock(1, 0, 1), 3))
		kept, err := store.Snapshot(filepath.Join(p.dir, "state.db"))
		require.NoError(t, err)
		defer kept.Close()
		slots, err := engine.OpenWindows(context.Background(), kept, p.cfg.Slots.Rules())
		require.NoError(t, err)
		require.Len(t, slots, 2)
		assert.Equal(t, "bod", slots[0].Parameter)
		assert.Equal(t, 2.0, slots[1].Value)
	})
}

// TestUnitThatIsNotUTF8: such a unit stops no other device, although a configuration that lists no unit let it in.
func TestUnitThatIsNotUTF8(t *testing.T) {
	change := func(c *engine.Config) {
		c.Names.Devices[0].Parameters = []registry.ParameterConfig{{Metric: "temp", Parameter: "temperature", AllowUnlisted: true}}
	}
	run(t, "latin", change, func(p *plant) {
		p.mustTake(reading("b", "cod", clock(1, 0, 0), 1), reading("a", "temp", clock(1, 0, 0), 20, "ocems.unit", "\xb0C"))
		until(clock(1, 17, 0))
		assert.Equal(t, []string{"b/cod@01:15=1U"}, p.received())
		assert.NoError(t, p.take(reading("b", "cod", clock(1, 16, 0), 1)))
		p.restart()
		until(clock(1, 32, 0))
		assert.Equal(t, []string{"b/cod@01:15=1U", "b/cod@01:30=1U"}, p.received())
		lines := slices.DeleteFunc(p.trail(), func(line string) bool { return !strings.HasPrefix(line, "refused") })
		require.Len(t, lines, 1)
		assert.Contains(t, lines[0], "refused unit a/temperature@01:15 1x")
	})
}

// TestAlignTurnedOff closes the windows that were open before.
func TestAlignTurnedOff(t *testing.T) {
	run(t, "off", nil, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		p.close()
		p.cfg.Board.Align = false
		p.open()
		p.mustTake(reading("b", "cod", clock(1, 0, 0), 2), reading("b", "bod", time.Unix(clock(1, 0, 0).UnixMilli(), 0), 3))
		until(clock(1, 17, 0))
		assert.ElementsMatch(t, []string{"a/cod@01:15=1U", "b/cod@01:00=2U"}, p.received())
		assert.Equal(t, uint64(1), p.e.Stats().Refused[slot.Future], "of the year 31969")
		keys, _ := p.keys("samples/")
		assert.Empty(t, keys)
	})
}

// TestTimeThatJSONHasNot: a kill loses no line of the trail because of such a time.
func TestTimeThatJSONHasNot(t *testing.T) {
	run(t, "far", nil, func(p *plant) {
		p.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 15, 29))
		p.mustTake(reading("b", "cod", clock(1, 15, 10), 1), reading("b", "cod", clock(1, 15, 10), 2))
		for range 8 {
			p.mustTake(reading("a", "cod", time.Unix(time.Now().UnixMilli(), 0), 5))
			time.Sleep(time.Second)
		}
		p.kill()
		p.open()
		assert.Empty(t, p.log.lines("a part of the state is damaged"))
		until(clock(1, 40, 0))
		assert.Contains(t, strings.Join(p.trail(), "\n"), "refused conflict b/cod@01:30 1x 2U")
	})
}

// TestSlowDiskMakesNothingLate takes readings that arrived before their window closes.
func TestSlowDiskMakesNothingLate(t *testing.T) {
	for range 10 {
		run(t, "slow", nil, func(p *plant) {
			until(clock(1, 5, 0))
			p.mustTake(reading("b", "cod", clock(1, 5, 0), 1))
			until(clock(1, 15, 5))
			var first atomic.Bool
			p.disk.set(func(int, []store.Op) error {
				if !first.Swap(true) {
					time.Sleep(40 * time.Second)
				}
				return nil
			})
			go func() { _ = p.take(reading("a", "cod", clock(1, 15, 4), 1)) }()
			time.Sleep(time.Second)
			p.mustTake(reading("b", "cod", clock(1, 14, 55), 3)) // arrived at 01:15:06
			assert.Zero(t, p.e.Stats().Refused[slot.Late])
		})
	}
}
