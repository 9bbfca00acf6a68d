package engine_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
)

// steps is a plant on a machine whose clock can be set. The board's clock is right.
type steps struct {
	*plant
	offset atomic.Int64
}

func (s *steps) wall() time.Time          { return time.Now().Add(time.Duration(s.offset.Load())) }
func (s *steps) set(offset time.Duration) { s.offset.Store(int64(offset)) }

// runSteps opens a plant at 01:00 with a clock that is off by offset.
func runSteps(t *testing.T, name string, offset time.Duration, change func(*engine.Config), f func(s *steps)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Hour)
			s := &steps{}
			s.set(offset)
			s.plant = newPlant(t, func(c *engine.Config) {
				c.Wall = s.wall
				if change != nil {
					change(c)
				}
			})
			f(s)
		})
	})
}

// sameBoot makes the machine keep running while its host is off.
func sameBoot(c *engine.Config) {
	c.Boot = func() (string, time.Duration) { return "one", time.Since(time.Unix(0, 0)) }
}

// live sends readings with the machine's time until the true time is at, and returns their number.
func (s *steps) live(at time.Time, value float64) (n int) {
	s.t.Helper()
	every := time.Second
	if time.Until(at) > 5*time.Minute {
		every = 20 * time.Second
	}
	for ; time.Now().Before(at); n++ {
		s.mustTake(reading("a", "cod", s.wall(), value))
		time.Sleep(every)
	}
	return n
}

// clocked returns the lines of the trail with the reason clock.
func (s *steps) clocked() []string {
	s.t.Helper()
	return slices.DeleteFunc(s.trail(), func(line string) bool { return !strings.HasPrefix(line, "refused clock ") })
}

// wrong returns the number of readings in the trail with the reason clock.
func (s *steps) wrong() (n int) {
	s.t.Helper()
	for _, e := range s.entries() {
		if e.Reason == string(slot.WrongClock) {
			n += e.Count
		}
	}
	return n
}

// A machine without a clock battery starts with a wrong time, which is then corrected: no reading is in a slot to which
// it does not belong.
func TestBootClock(t *testing.T) {
	for _, c := range []struct {
		name     string
		off      time.Duration
		after    time.Duration // when it is corrected
		offline  bool
		kill     bool // just before that
		whileOff bool // it is corrected while the host is off
		boot     bool // the machine keeps running meanwhile
		full     bool // the disk is full for half a minute after that
		line     string
	}{
		{name: "3 h behind for 8 s", off: -3 * time.Hour, after: 8 * time.Second, line: "refused clock a/cod@22:15 "},
		{name: "3 h behind for 8 s, no server", off: -3 * time.Hour, after: 8 * time.Second, offline: true, line: "refused clock a/cod@22:15 "},
		{name: "3 h behind for 20 min, no server", off: -3 * time.Hour, after: 20 * time.Minute, offline: true, line: "refused clock a/cod@22:15 "},
		{name: "19 min ahead for 70 s", off: 19 * time.Minute, after: 70 * time.Second, line: "refused clock a/cod@01:30 "},
		{name: "19 min ahead for 70 s, killed before", off: 19 * time.Minute, after: 70 * time.Second, kill: true, line: "refused clock a/cod@01:30 "},
		{name: "1 h ahead for 40 min", off: time.Hour, after: 40 * time.Minute, line: "refused clock a/cod@02:15 "},
		{name: "1 h ahead for 40 min, no server", off: time.Hour, after: 40 * time.Minute, offline: true, line: "refused clock a/cod@02:15 "},
		{name: "1 h ahead for 40 min, no server, killed before", off: time.Hour, after: 40 * time.Minute, offline: true, kill: true, line: "refused clock a/cod@02:15 "},
		{name: "1 h ahead for 40 min, no server, disk full after", off: time.Hour, after: 40 * time.Minute, offline: true, full: true, line: "refused clock a/cod@02:15 "},
		{name: "1 h ahead for 40 min, and set while the host is off", off: time.Hour, after: 40 * time.Minute, kill: true, whileOff: true, line: "refused clock a/cod@02:15 "},
		{name: "19 min ahead for 70 s, and set while the host is off", off: 19 * time.Minute, after: 70 * time.Second, kill: true, whileOff: true, line: "refused clock a/cod@01:30 "},
		{name: "3 h behind for 1 min, and set while the host is off", off: -3 * time.Hour, after: time.Minute, kill: true, whileOff: true, boot: true, line: "refused clock a/cod@22:15 "},
		{name: "1 h ahead for 40 min, no server, and set while the host is off", off: time.Hour, after: 40 * time.Minute, offline: true, kill: true, whileOff: true, boot: true, line: "refused clock a/cod@02:15 "},
		{name: "30 years behind for 8 s", off: -time.Until(time.Unix(30, 0)).Abs() - 30*365*24*time.Hour, after: 8 * time.Second, line: "x 9U"},
	} {
		change := func(*engine.Config) {}
		if c.boot {
			change = sameBoot
		}
		runSteps(t, c.name, c.off, change, func(s *steps) {
			s.net.unplug(c.offline)
			begun := time.Now()
			taken := s.live(begun.Add(c.after), 9)
			if c.kill {
				s.kill()
				if c.whileOff {
					s.set(0)
				}
				s.open()
			}
			s.set(0)
			if c.full {
				s.disk.set(func(int, []store.Op) error { return errDisk })
				s.net.unplug(false)
				time.Sleep(30 * time.Second)
				s.disk.set(nil)
			}
			if !c.whileOff {
				taken++
				s.mustTake(reading("a", "cod", begun.Add(c.after+c.off-time.Second), 9)) // from a sender's buffer
			}
			s.live(clock(2, 30, 0), 1)
			until(clock(2, 40, 0))
			s.net.unplug(false)
			until(clock(2, 50, 0))
			var want []string
			for at := begun.Add(c.after).Truncate(15 * time.Minute); at.Before(clock(2, 30, 0)); at = at.Add(15 * time.Minute) {
				want = append(want, fmt.Sprintf("a/cod@%s=1U", at.Add(15*time.Minute).Format("15:04")))
			}
			assert.Equal(t, want, s.received())
			assert.Contains(t, strings.Join(s.clocked(), "\n"), c.line)
			assert.Empty(t, slices.DeleteFunc(s.trail(), func(line string) bool { return strings.HasPrefix(line, "refused clock ") }))
			assert.Equal(t, taken, s.wrong(), "each reading is counted")
			assert.Zero(t, s.e.Stats().Outbox.Slots)
		})
	}
}

// A clock that is right but never confirmed, and wrong for a while: no reading from the right time is lost, and none
// from the wrong time is sent.
func TestClockThatNobodyHadConfirmed(t *testing.T) {
	for _, c := range []struct {
		off         time.Duration
		more        []time.Duration // further settings after that
		heard       bool            // the server is reachable while it is wrong
		kill, close bool            // before it is corrected
		whileOff    bool            // it is corrected while the host is off
		offline     time.Duration   // after it is right again
	}{
		{off: 9 * 24 * time.Hour},
		{off: -3 * time.Hour},
		{off: 2 * time.Minute},
		{off: 70 * time.Second},
		{off: -70 * time.Second},
		{off: 9 * 24 * time.Hour, offline: time.Hour},
		{off: 9 * 24 * time.Hour, more: []time.Duration{0, 9 * 24 * time.Hour, time.Hour, 0, -3 * time.Hour}, offline: 10 * time.Minute},
		{off: 9 * 24 * time.Hour, heard: true},
		{off: -3 * time.Hour, heard: true},
		{off: 9 * 24 * time.Hour, kill: true},
		{off: -3 * time.Hour, close: true},
		{off: 9 * 24 * time.Hour, kill: true, whileOff: true},
		{off: -3 * time.Hour, close: true, whileOff: true, offline: time.Hour},
		{off: 2 * time.Minute, kill: true, whileOff: true},
	} {
		runSteps(t, fmt.Sprint(c), 0, sameBoot, func(s *steps) {
			s.net.unplug(true)
			s.board.CloseIdleConnections()
			s.close()
			s.put(store.Op{Key: "clock"}) // removes the stored confirmation
			s.open()
			s.live(clock(2, 3, 20), 1)
			waiting, wrong := s.e.Stats().Outbox.Slots, 0
			for _, off := range append([]time.Duration{c.off}, c.more...) {
				before := s.wall().Add(-500 * time.Millisecond)
				s.set(off)
				if off == 0 {
					s.live(time.Now().Add(4*time.Second), 1)
					continue
				}
				if s.offset.Load() == int64(c.off) && wrong == 0 {
					s.mustTake(reading("a", "cod", before, 1)) // from a sender's buffer
				}
				wrong += s.live(time.Now().Add(4*time.Second), 9)
			}
			if c.heard {
				s.net.unplug(false)
				wrong += s.live(time.Now().Add(time.Minute), 9)
			}
			before := s.wall().Add(-500 * time.Millisecond)
			if c.kill {
				s.kill()
			} else if c.close {
				s.close()
			}
			if c.whileOff {
				s.set(0)
			}
			if c.kill || c.close {
				s.open()
			}
			s.set(0)
			if !c.whileOff {
				wrong++
				s.mustTake(reading("a", "cod", before, 9)) // from a sender's buffer
			}
			right := time.Now()
			s.live(clock(2, 14, 0), 1)
			if !c.heard {
				assert.Equal(t, waiting, s.e.Stats().Outbox.Slots)
			}
			until(right.Add(c.offline))
			s.net.unplug(false)
			until(clock(3, 40, 0))
			assert.Equal(t, []string{"a/cod@01:15=1U", "a/cod@01:30=1U", "a/cod@01:45=1U", "a/cod@02:00=1U", "a/cod@02:15=1U"}, s.received())
			assert.Equal(t, s.clocked(), s.trail())
			assert.Equal(t, wrong, s.wrong())
			assert.Zero(t, s.e.Stats().Outbox.Slots)
		})
	}
}

// A clock that was confirmed, and is wrong for a while: readings from before stay and do not wait.
func TestClockThatWasRight(t *testing.T) {
	for _, c := range []struct {
		off, long time.Duration
		offline   bool
	}{{9 * 24 * time.Hour, 4 * time.Second, false}, {9 * 24 * time.Hour, 4 * time.Second, true}, {-3 * time.Hour, time.Minute, true},
		{9 * 24 * time.Hour, 20 * time.Minute, true}, {9 * 24 * time.Hour, 20 * time.Minute, false}, {-400 * 24 * time.Hour, 20 * time.Minute, true}} {
		runSteps(t, fmt.Sprint(c), 0, nil, func(s *steps) {
			until(clock(1, 0, 30))
			s.net.unplug(true)
			s.board.CloseIdleConnections()
			for i := range 40 { // history, waiting in the outbox
				s.mustTake(finished("b", "cod", clock(0, 45, 0).Add(-time.Duration(i)*15*time.Minute), 1))
			}
			s.live(clock(1, 8, 0), 1)
			s.net.unplug(c.offline)
			before := s.wall().Add(-500 * time.Millisecond)
			s.set(c.off)
			s.mustTake(reading("a", "cod", before, 1)) // from a sender's buffer
			wrong := s.live(time.Now().Add(c.long), 9)
			s.set(0)
			s.live(clock(1, 45, 0), 1)
			until(clock(1, 50, 0))
			s.net.unplug(false)
			until(clock(2, 0, 0))
			got := s.received()
			want := []string{"a/cod@01:15=1U", "a/cod@01:30=1U", "a/cod@01:45=1U"}
			assert.Equal(t, want, slices.DeleteFunc(got, func(r string) bool { return strings.HasPrefix(r, "b/") }))
			assert.Zero(t, s.e.Stats().Outbox.Slots)
			for _, e := range s.entries() {
				assert.NotEqual(t, audit.Expired, e.Outcome)
				assert.NotEqual(t, audit.Late, e.Outcome)
			}
			assert.Equal(t, wrong, s.wrong())
		})
	}
}

// Without confirmation a start is trusted after 2 minutes and a step after 5. A restart finds the waiting readings.
func TestNobodyConfirms(t *testing.T) {
	unplugged := func(s *steps) {
		s.net.unplug(true)
		s.board.CloseIdleConnections()
		s.restart()
	}
	runSteps(t, "a start", 0, nil, func(s *steps) {
		unplugged(s)
		s.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("b", "cod", clock(0, 40, 0), 2))
		assert.EqualValues(t, 1, s.e.Stats().Taken, "history does not wait")
		until(clock(1, 1, 0))
		s.kill()
		s.open()
		until(clock(1, 2, 50))
		assert.EqualValues(t, 0, s.e.Stats().Open, "the window of history has closed")
		until(clock(1, 3, 5))
		assert.EqualValues(t, 1, s.e.Stats().Open)
		s.kill()
		s.open()
		until(clock(1, 20, 0))
		assert.Equal(t, []string{"a/cod@01:15=1U", "b/cod@00:45=2U"}, awaitReceived(s.plant))
		assert.Empty(t, s.trail())
	})
	runSteps(t, "a step", 0, nil, func(s *steps) {
		unplugged(s)
		s.live(clock(1, 3, 0), 1)
		s.set(2 * time.Hour)
		s.live(clock(1, 7, 0), 5)
		assert.EqualValues(t, 180, s.e.Stats().Taken)
		s.live(clock(1, 8, 10), 5)
		assert.EqualValues(t, 180+310, s.e.Stats().Taken)
		until(clock(1, 10, 0))
		assert.Equal(t, []string{"refused clock a/cod@01:15 180x 1U"}, s.clocked())
	})
	runSteps(t, "a processor", 0, func(c *engine.Config) {
		c.Board = nil
		c.Next = func(context.Context, uint8, []slot.Slot) error { return nil }
	}, func(s *steps) {
		s.mustTake(reading("a", "cod", clock(1, 0, 0), 1))
		until(clock(1, 1, 50))
		assert.Zero(t, s.e.Stats().Open)
		until(clock(1, 2, 5))
		assert.EqualValues(t, 1, s.e.Stats().Open)
		s.set(time.Hour)
		s.live(clock(1, 3, 0), 5)
		s.set(0)
		until(clock(1, 20, 0))
		assert.EqualValues(t, 1, s.e.Stats().Closed)
		assert.Equal(t, []string{"refused clock a/cod@02:15 55x 5U"}, s.clocked())
	})
}

// Without a disk, a stop ends the wait for the clock: the readings are in the trail.
func TestStopWithoutDisk(t *testing.T) {
	runSteps(t, "held", 0, func(c *engine.Config) { c.Store = store.NewMemory() }, func(s *steps) {
		s.net.unplug(true)
		s.board.CloseIdleConnections()
		s.close()
		s.cfg.Store = store.NewMemory()
		s.open()
		s.mustTake(reading("a", "cod", clock(1, 0, 0), 1), reading("b", "cod", clock(5, 0, 0), 2), reading("b", "cod", clock(0, 40, 0), 3))
		s.close()
		assert.Equal(t, []string{"refused clock a/cod@01:15 1x 1U", "refused clock b/cod@05:15 1x 2U"}, s.trail())
	})
}

// Readings of a source with its own clock do not wait, whatever this machine's clock shows.
func TestTimestampsOfTheSource(t *testing.T) {
	for _, of := range []string{"host", "device"} {
		runSteps(t, of, -3*time.Hour, func(c *engine.Config) {
			if of == "host" {
				c.Slots.Timestamps = "source"
			} else {
				c.Names.Devices[0].Timestamps = "source"
			}
		}, func(s *steps) {
			s.mustTake(reading("a", "cod", s.wall(), 7))
			assert.EqualValues(t, 1, s.e.Stats().Taken)
			s.set(0)
			until(clock(1, 20, 0))
			assert.Equal(t, []string{"a/cod@22:15=7U"}, s.received())
			assert.Empty(t, s.trail())
		})
	}
}

// lying is a board with a wrong Date and correct answers.
type lying struct {
	http.RoundTripper
	by     func() time.Duration
	gets   bool // GETs get the wrong Date too
	silent bool // the answer to a GET has no Date
}

func (l lying) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil && (l.gets || r.Method == http.MethodPost) && !strings.HasSuffix(r.URL.Path, "/received") {
		resp.Header.Set("Date", time.Now().Add(l.by()).UTC().Format(http.TimeFormat))
	}
	if err == nil && l.silent && r.Method == http.MethodGet {
		resp.Header.Del("Date")
	}
	return resp, err
}

// A wrong Date causes only a delay.
func TestDateThatLies(t *testing.T) {
	const day = 24 * time.Hour
	var n atomic.Int64
	for _, c := range []struct {
		name   string
		by     func() time.Duration
		gets   bool
		within time.Duration // time within which all slots are at the board
	}{
		{"10 days ahead", func() time.Duration { return 10 * day }, false, 3 * time.Minute},
		{"10 years ahead", func() time.Duration { return 3650 * day }, false, 3 * time.Minute},
		{"10 years behind", func() time.Duration { return -3650 * day }, false, 3 * time.Minute},
		{"an hour behind, for ever", func() time.Duration { return -time.Hour }, true, 7 * time.Hour},
		{"an hour ahead, for ever", func() time.Duration { return time.Hour }, true, 14 * time.Hour},
		{"back and forth", func() time.Duration { return []time.Duration{3 * time.Hour, -3 * time.Hour, 0}[n.Add(1)%3] }, true, time.Hour},
	} {
		run(t, c.name, func(cfg *engine.Config) {
			client := *cfg.Board.Client
			client.Transport = lying{RoundTripper: client.Transport, by: c.by, gets: c.gets}
			cfg.Board.Client = &client
		}, func(p *plant) {
			var want []string
			for i := range 40 {
				p.mustTake(finished("b", "cod", clock(0, 45, 0).Add(-time.Duration(i)*15*time.Minute), 1))
			}
			for range 8 * 60 {
				p.mustTake(reading("a", "cod", time.Now(), 1))
				time.Sleep(time.Minute)
			}
			time.Sleep(c.within)
			for i := range 32 {
				want = append(want, fmt.Sprintf("a/cod@%s=1U", clock(1, 15, 0).Add(time.Duration(i)*15*time.Minute).Format("15:04")))
			}
			got := slices.DeleteFunc(p.received(), func(r string) bool { return strings.HasPrefix(r, "b/") })
			assert.Equal(t, want, got)
			assert.Empty(t, p.trail())
			assert.Zero(t, p.e.Stats().Outbox.Slots)
		})
	}
}

// A clock that the board contradicts, and that nobody has set: finished slots wait and a person is informed.
func TestClockThatTheBoardContradicts(t *testing.T) {
	var health atomic.Value
	health.Store("")
	runSteps(t, "1 h ahead", time.Hour, func(c *engine.Config) {
		c.OnHealth = func(err error) { health.Store(fmt.Sprint(err)) }
		client := *c.Board.Client
		client.Transport = lying{RoundTripper: client.Transport, by: func() time.Duration { return 0 }, silent: true}
		c.Board.Client = &client
	}, func(s *steps) {
		s.mustTake(finished("b", "cod", clock(0, 45, 0), 1))
		until(clock(1, 5, 0))
		assert.Equal(t, []string{"b/cod@00:45=1U"}, s.received())
		s.mustTake(finished("b", "cod", clock(1, 0, 0), 2))
		until(clock(1, 20, 0))
		assert.Equal(t, 1, s.e.Stats().Outbox.Slots)
		assert.Equal(t, -time.Hour, s.e.Stats().Outbox.Skew)
		assert.Len(t, s.log.lines("this machine's clock contradicts the server's"), 1)
		assert.Contains(t, health.Load(), "correct this machine's clock with NTP")
		s.set(0)
		until(clock(1, 26, 0)) // no GET confirms it
		assert.Equal(t, []string{"b/cod@00:45=1U", "b/cod@01:00=2U"}, s.received())
		assert.Equal(t, "<nil>", health.Load())
	})
}

// History that arrives just after a clock was corrected keeps its slots, although its times are in the wrong era.
func TestHistoryAfterAStep(t *testing.T) {
	runSteps(t, "", -3*time.Hour, nil, func(s *steps) {
		s.net.unplug(true)
		s.live(clock(2, 0, 0), 9)
		s.set(0)
		s.net.unplug(false)
		time.Sleep(20 * time.Second)
		for i := range 15 {
			s.mustTake(reading("b", "cod", clock(0, 0, 0).Add(time.Duration(i-90)*time.Minute), 5))
		}
		s.live(clock(3, 0, 0), 1)
		for _, r := range s.received() {
			assert.NotContains(t, r, "=9U")
		}
		assert.Contains(t, s.received(), "b/cod@22:45=5U")
	})
}

// A proxy on this machine answers with this machine's time while the board is unreachable.
func TestErrorPageIsNoWitnessOfTheClock(t *testing.T) {
	runSteps(t, "", -3*time.Hour, func(c *engine.Config) {
		client := *c.Board.Client
		client.Transport = &localProxy{client.Transport, c.Wall}
		c.Board.Client = &client
	}, func(s *steps) {
		s.net.unplug(true)
		s.live(clock(2, 0, 0), 9)
		s.set(0)
		s.net.unplug(false)
		s.live(clock(3, 0, 0), 1)
		got := s.received()
		assert.Contains(t, got, "a/cod@02:15=1U")
		for _, r := range got {
			assert.NotContains(t, r, "=9U")
		}
	})
}

type localProxy struct {
	http.RoundTripper
	wall func() time.Time
}

// RoundTrip implements [http.RoundTripper].
func (l *localProxy) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil {
		return &http.Response{StatusCode: http.StatusBadGateway, Request: r,
			Header: http.Header{"Date": {l.wall().UTC().Format(http.TimeFormat)}}, Body: io.NopCloser(strings.NewReader("bad gateway"))}, nil
	}
	return resp, nil
}
