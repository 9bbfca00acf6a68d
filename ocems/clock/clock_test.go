package clock_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/clock"
)

const day = 24 * time.Hour

// machine is a machine in a synctest bubble whose clock can be set.
type machine struct {
	*clock.Clock
	offset time.Duration
	saved  []byte
	boot   string
	stands bool // the boot clock stands still
}

// bootClock is the kernel's clock, if known.
func (m *machine) bootClock() (string, time.Duration) {
	if m.stands {
		return m.boot, 0
	}
	return m.boot, time.Since(time.Unix(0, 0))
}

func (m *machine) wall() time.Time { return time.Now().Add(m.offset) }

// start begins a run with the value that the last one saved.
func (m *machine) start(t *testing.T, alone bool) {
	m.Clock = clock.New(clock.Config{MaxSkew: time.Minute, Wall: m.wall, Alone: alone, Boot: m.bootClock})
	if m.saved != nil {
		_, err := m.Restore(m.saved)
		require.NoError(t, err)
	}
}

// set sets the clock to each offset, and lets 4 seconds pass each time.
func (m *machine) set(offsets ...time.Duration) {
	for _, m.offset = range offsets {
		m.Now()
		time.Sleep(4 * time.Second)
	}
}

// off is a day in which the host is off while the machine runs.
func (m *machine) off(t *testing.T, offset time.Duration) {
	m.saved, m.offset = m.Save(), offset
	time.Sleep(day)
	m.start(t, false)
}

// hears passes an answer whose Date differs from the true time by off.
func (m *machine) hears(off time.Duration, sure bool) {
	m.Observe(http.Header{"Date": {time.Now().Add(off).UTC().Format(http.TimeFormat)}}, 0, sure, time.Time{})
}

func (m *machine) trust() clock.Trust {
	_, era := m.Now()
	return m.Trust(era)
}

func inBubble(t *testing.T, name string, f func(t *testing.T, m *machine)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(500 * day)
			m := &machine{}
			m.start(t, false)
			f(t, m)
		})
	})
}

// The trust in the clock after a start and after a step.
func TestTrust(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(t *testing.T, m *machine)
		trust   clock.Trust
		hold    bool
		wrong   int // number of wrong eras
	}{
		{"a start", func(*testing.T, *machine) {}, clock.Untrusted, true, 0},
		{"a start that is confirmed", func(_ *testing.T, m *machine) { m.hears(30*time.Second, false) }, clock.Confirmed, false, 0},
		{"an answer that differs, not the board's own", func(_ *testing.T, m *machine) { m.hears(2*time.Hour, false) }, clock.Untrusted, true, 0},
		{"an answer without a Date", func(_ *testing.T, m *machine) { m.Observe(http.Header{}, 0, true, time.Time{}) }, clock.Untrusted, false, 0},
		{"2 minutes without an answer", func(_ *testing.T, m *machine) { time.Sleep(2 * time.Minute) }, clock.Trusted, true, 0},
		{"6 hours without an answer", func(_ *testing.T, m *machine) { time.Sleep(6 * time.Hour) }, clock.Trusted, false, 0},
		{"6 hours of Dates that differ", func(_ *testing.T, m *machine) {
			m.hears(time.Hour, false)
			time.Sleep(5 * time.Hour)
			m.hears(time.Hour, true)
			time.Sleep(time.Hour)
			m.hears(time.Hour, true)
		}, clock.Trusted, false, 0},
		{"confirmed, and then contradicted", func(_ *testing.T, m *machine) { m.hears(0, false); m.hears(2*time.Hour, true) }, clock.Confirmed, true, 0},
		{"confirmed, and then a proxy's Date differs", func(_ *testing.T, m *machine) { m.hears(0, false); m.hears(2*time.Hour, false) }, clock.Confirmed, false, 0},
		{"contradicted, and then confirmed", func(_ *testing.T, m *machine) { m.hears(-2000*day, true); m.hears(0, false) }, clock.Confirmed, false, 0},
		{"a step that nobody confirms", func(_ *testing.T, m *machine) { m.hears(0, false); m.Now(); m.offset = time.Hour }, clock.Untrusted, true, 0},
		{"a step, 5 minutes ago", func(_ *testing.T, m *machine) {
			m.hears(0, false)
			m.offset = time.Hour
			m.Now()
			time.Sleep(5 * time.Minute)
		}, clock.Trusted, true, 0},
		{"a step after an unconfirmed start", func(_ *testing.T, m *machine) { m.offset = time.Hour }, clock.Untrusted, true, 0},
		{"a step, and back to the confirmed clock", func(_ *testing.T, m *machine) {
			m.hears(0, false)
			m.offset = 9 * day
			m.Now()
			m.offset = 0
		}, clock.Untrusted, true, 1},
		{"a step, and back, put right", func(_ *testing.T, m *machine) {
			m.hears(0, false)
			m.offset = 9 * day
			m.Now()
			m.offset = 0
			m.PutRight(m.Wrong())
		}, clock.Confirmed, false, 0},
		{"less than max_skew", func(_ *testing.T, m *machine) { m.hears(0, false); m.offset = 50 * time.Second }, clock.Confirmed, false, 0},
		{"slewed by an hour, a second a minute", func(_ *testing.T, m *machine) {
			m.hears(0, false)
			for range 3600 {
				time.Sleep(time.Minute)
				m.offset += time.Second
				m.Now()
			}
		}, clock.Confirmed, false, 0},
		{"a start behind the stored time", func(t *testing.T, m *machine) {
			m.hears(0, false)
			m.saved, m.offset = m.Save(), -3*time.Hour
			m.start(t, false)
			time.Sleep(4 * time.Minute)
		}, clock.Untrusted, true, 0},
		{"a start behind an unconfirmed stored time", func(t *testing.T, m *machine) {
			m.saved, m.offset = m.Save(), -3*time.Hour
			m.start(t, false)
		}, clock.Untrusted, true, 1},
		{"a start a day after", func(t *testing.T, m *machine) {
			m.saved = m.Save()
			time.Sleep(day)
			m.start(t, false)
			time.Sleep(2 * time.Minute)
		}, clock.Trusted, true, 0},
		{"a processor, after 2 minutes", func(t *testing.T, m *machine) { m.start(t, true); time.Sleep(2 * time.Minute) }, clock.Confirmed, false, 0},
		{"a processor, a step", func(t *testing.T, m *machine) {
			m.start(t, true)
			time.Sleep(2 * time.Minute)
			m.Now()
			m.offset = time.Hour
			m.Now()
			time.Sleep(4 * time.Minute)
		}, clock.Untrusted, false, 0},
	} {
		inBubble(t, c.name, func(t *testing.T, m *machine) {
			c.happens(t, m)
			assert.Equal(t, c.trust, m.trust())
			assert.Equal(t, c.hold, m.Hold())
			assert.Len(t, m.Wrong(), c.wrong)
		})
	}
}

// An era that ended with a step without confirmation is wrong once another clock is confirmed, or trusted after a time.
// Until then its readings are kept, and slots wait.
func TestAccused(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(t *testing.T, m *machine) // after an hour without confirmation
		first   clock.Trust                    // in the clock of that hour
		now     clock.Trust                    // after everything is put right
		wrong   int
	}{
		{"set", func(_ *testing.T, m *machine) { m.set(9 * day) }, clock.Untrusted, clock.Untrusted, 0},
		{"set, and an answer without a Date", func(_ *testing.T, m *machine) { m.set(9 * day); m.Observe(http.Header{}, 0, true, time.Time{}) }, clock.Untrusted, clock.Untrusted, 0},
		{"set, and trusted after 5 minutes", func(_ *testing.T, m *machine) { m.set(9 * day); time.Sleep(5 * time.Minute) }, clock.Wrong, clock.Trusted, 1},
		{"set, and confirmed", func(_ *testing.T, m *machine) { m.set(9 * day); m.hears(9*day, false) }, clock.Wrong, clock.Confirmed, 1},
		{"set, and a server has the previous clock", func(_ *testing.T, m *machine) { m.set(9 * day); m.hears(0, false) }, clock.Confirmed, clock.Untrusted, 0},
		{"set back", func(_ *testing.T, m *machine) { m.set(9*day, 0) }, clock.Untrusted, clock.Untrusted, 0},
		{"set back, and trusted after 5 minutes", func(_ *testing.T, m *machine) { m.set(9*day, 0); time.Sleep(5 * time.Minute) }, clock.Trusted, clock.Trusted, 1},
		{"set right for minutes, and wrong for an instant", func(_ *testing.T, m *machine) {
			m.set(3 * time.Hour)
			time.Sleep(4 * time.Minute)
			m.set(0, 3*time.Hour)
			m.hears(3*time.Hour, false)
		}, clock.Wrong, clock.Confirmed, 1},
		{"set back, and confirmed", func(_ *testing.T, m *machine) { m.set(-3*time.Hour, 20*time.Second); m.hears(0, false) }, clock.Confirmed, clock.Confirmed, 1},
		{"set twice, and slewed, and set back", func(_ *testing.T, m *machine) {
			m.set(9 * day)
			m.set(9*day + 40*time.Second)
			m.set(-9*day, time.Minute)
			m.hears(40*time.Second, false)
		}, clock.Confirmed, clock.Confirmed, 2},
		{"set by less than max_skew from the other clock", func(_ *testing.T, m *machine) { m.set(9*day, 50*time.Second); time.Sleep(5 * time.Minute) }, clock.Trusted, clock.Trusted, 1},
		{"set while the host is off", func(t *testing.T, m *machine) { m.off(t, 9*day) }, clock.Untrusted, clock.Untrusted, 0},
		{"set forward while the host is off, and confirmed", func(t *testing.T, m *machine) { m.off(t, 3*time.Hour); m.hears(3*time.Hour, false) }, clock.Wrong, clock.Confirmed, 1},
		{"set while the host is off, and trusted after 5 minutes", func(t *testing.T, m *machine) { m.off(t, -3*time.Hour); time.Sleep(5 * time.Minute) }, clock.Wrong, clock.Trusted, 1},
		{"set while the host is off, and back", func(t *testing.T, m *machine) { m.off(t, 9*day); m.set(0); m.hears(0, false) }, clock.Confirmed, clock.Confirmed, 1},
		{"set, and back while the host is off", func(t *testing.T, m *machine) { m.set(9 * day); m.off(t, 0); m.hears(0, false) }, clock.Confirmed, clock.Confirmed, 1},
		{"off for a day", func(t *testing.T, m *machine) { m.off(t, 0); time.Sleep(2 * time.Minute) }, clock.Trusted, clock.Trusted, 0},
		{"set forward while the machine boots, which cannot be detected", func(t *testing.T, m *machine) {
			m.saved, m.boot = m.Save(), "another"
			m.set(9 * day)
			m.start(t, false)
			m.hears(9*day, false)
		}, clock.Confirmed, clock.Confirmed, 0},
		{"off for a day, and the boot's clock stands", func(t *testing.T, m *machine) {
			m.stands = true
			m.start(t, false)
			time.Sleep(time.Hour)
			m.off(t, 0)
			time.Sleep(2 * time.Minute)
		}, clock.Trusted, clock.Trusted, 0},
		{"set back while the machine boots", func(t *testing.T, m *machine) {
			m.saved, m.boot, m.offset = m.Save(), "another", -9*day
			m.start(t, false)
		}, clock.Wrong, clock.Untrusted, 1},
		{"set each 4 seconds for 4 hours, back and forth", func(t *testing.T, m *machine) {
			for i := range 3600 {
				m.set(time.Duration(i%2) * 9 * day)
				assert.Less(t, len(m.Save()), 1000)
				m.PutRight(m.Wrong())
			}
			m.set(0)
			m.hears(0, false)
		}, clock.Confirmed, clock.Confirmed, 1},
		{"set each 4 seconds for 4 hours, and the disk is full", func(t *testing.T, m *machine) {
			for i := range 3600 {
				m.set(time.Duration(i) * time.Hour)
			}
			assert.Less(t, len(m.Save()), 3000)
			m.set(0)
			m.hears(0, false)
		}, clock.Confirmed, clock.Confirmed, 1000},
	} {
		inBubble(t, c.name, func(t *testing.T, m *machine) {
			m.boot = "one"
			m.start(t, false)
			_, first := m.Now()
			time.Sleep(time.Hour)
			m.Now()
			c.happens(t, m)
			wrong := m.Wrong()
			assert.Len(t, wrong, c.wrong)
			if c.wrong > 0 || c.first == clock.Untrusted {
				assert.True(t, m.Hold())
			}
			m.PutRight(wrong)
			assert.Equal(t, c.first, m.Trust(first))
			assert.Equal(t, c.now, m.trust())
			if c.first == clock.Trusted || c.first == clock.Untrusted {
				assert.Equal(t, first, m.Doubted())
			}
		})
	}
}

// The server is asked while its time is needed, at most once in 15 seconds.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers func(m *machine, n int)
		alone   bool
		want    int // requests in an hour
	}{
		{"it agrees at once", func(m *machine, _ int) { m.hears(0, false) }, false, 1},
		{"it agrees in the end", func(m *machine, n int) { m.hears(time.Duration(8-n)*time.Hour, false) }, false, 8},
		{"it never answers", func(*machine, int) {}, false, 240},
		{"there is none", func(*machine, int) {}, true, 0},
	} {
		inBubble(t, c.name, func(t *testing.T, m *machine) {
			m.start(t, c.alone)
			n := 0
			for range 3600 {
				if m.Ask() {
					n++
					c.answers(m, n)
				}
				time.Sleep(time.Second)
			}
			assert.Equal(t, c.want, n)
		})
	}
}

func TestExpired(t *testing.T) {
	for _, c := range []struct {
		name          string
		age           time.Duration // true age of the stamp
		off           time.Duration // error of this machine's clock
		server        time.Duration // error of the server's clock
		heard         bool
		ran           time.Duration // running time since the slot was made
		expired, past bool
	}{
		{"young", 6 * day, 0, 0, true, 0, false, true},
		{"old by both", 8 * day, 0, 0, true, 0, true, true},
		{"a machine that is 9 days ahead", time.Hour, 9 * day, 0, true, 0, false, true},
		{"a Date of 10 days ahead", time.Hour, 0, 10 * day, true, 0, false, true},
		{"a server that was never heard", 30 * day, 0, 0, false, 0, false, true},
		{"7 days of running", time.Hour, 0, 0, false, 7*day + time.Second, true, true},
		{"nearly 7 days of running", time.Hour, -day, 0, false, 7*day - time.Second, false, true},
		{"in the future by both", -time.Hour, 0, 0, true, 0, false, false},
		{"passed by a machine that is ahead", -time.Hour, 2 * time.Hour, 0, true, 0, false, false},
		{"passed by the server's clock alone", -time.Hour, 0, 2 * time.Hour, true, 0, false, false},
		{"passed, and the server not heard", time.Minute, 0, 0, false, 0, false, true},
	} {
		inBubble(t, c.name, func(t *testing.T, m *machine) {
			m.offset = c.off
			m.start(t, false)
			made := m.Running()
			if c.heard {
				m.hears(c.server, true)
			}
			stamp := time.Now().Add(-c.age)
			time.Sleep(c.ran)
			assert.Equal(t, c.expired, m.Expired(stamp, made))
			assert.Equal(t, c.past, m.Passed(stamp))
		})
	}
}

// A Date with which the server could not have accepted the slot is wrong, and no reason to wait.
func TestDateThatItsAnswerRefutes(t *testing.T) {
	for off, refuted := range map[time.Duration]bool{10 * day: true, 3650 * day: true, -time.Hour: true, -3650 * day: true, time.Hour: false, 6 * day: false} {
		inBubble(t, off.String(), func(t *testing.T, m *machine) {
			m.hears(0, false)
			m.Observe(http.Header{"Date": {time.Now().Add(off).UTC().Format(http.TimeFormat)}}, 0, true, time.Now().Add(-time.Minute))
			assert.Equal(t, !refuted, m.Hold())
			assert.Equal(t, !refuted, m.Trouble() != "")
		})
	}
}

// The running time adds up over runs. A damaged value or one of a newer version is not misread.
func TestSave(t *testing.T) {
	inBubble(t, "lives", func(t *testing.T, m *machine) {
		for range 3 {
			time.Sleep(time.Hour)
			m.saved = m.Save()
			time.Sleep(day) // the host is off
			m.start(t, false)
		}
		assert.Equal(t, 3*time.Hour, m.Running())
		damaged := append([]byte{}, m.saved...)
		damaged[2] ^= 1
		_, err := clock.New(clock.Config{}).Restore(damaged)
		assert.Error(t, err)
	})
	inBubble(t, "at most once a minute", func(t *testing.T, m *machine) {
		n := 0
		for range 600 {
			if m.SaveDue(false) {
				n++
				m.Save()
			}
			time.Sleep(time.Second)
		}
		assert.Equal(t, 10, n)
	})
	for _, x := range []struct {
		boot   string
		stands bool
		saves  int
	}{{"a", false, 5}, {"", false, 60}, {"a", true, 60}} {
		inBubble(t, fmt.Sprintf("while no reading comes, boot %q stands %t", x.boot, x.stands), func(t *testing.T, m *machine) {
			m.boot, m.stands = x.boot, x.stands
			m.start(t, false)
			n := 0
			for range 60 * 60 {
				if m.SaveDue(true) {
					n++
					m.Save()
				}
				time.Sleep(time.Second)
				m.Now()
			}
			assert.InDelta(t, x.saves, n, 2)
		})
	}
	inBubble(t, "at once where it is confirmed", func(t *testing.T, m *machine) {
		m.boot = "a"
		m.start(t, false)
		time.Sleep(time.Minute)
		m.Save()
		time.Sleep(time.Second)
		assert.False(t, m.SaveDue(true))
		m.hears(0, true)
		assert.True(t, m.SaveDue(true), "a kill must not put it in doubt again")
		m.Save()
		m.hears(0, true)
		assert.False(t, m.SaveDue(true))
	})
	inBubble(t, "at once where it is trusted, and after a step", func(t *testing.T, m *machine) {
		time.Sleep(90 * time.Second)
		m.Save()
		time.Sleep(30 * time.Second)
		m.Now()
		assert.True(t, m.SaveDue(false))
		m.Save()
		assert.False(t, m.SaveDue(false))
		m.offset = time.Hour
		m.Now()
		assert.True(t, m.SaveDue(false))
	})
	inBubble(t, "confirmed", func(t *testing.T, m *machine) {
		_, doubtful := m.Now()
		c := clock.New(clock.Config{})
		confirmed, err := c.Restore(m.Save())
		require.NoError(t, err)
		assert.False(t, confirmed)
		assert.Equal(t, clock.Untrusted, c.Trust(doubtful))
		m.hears(0, false)
		c = clock.New(clock.Config{})
		confirmed, err = c.Restore(m.Save())
		require.NoError(t, err)
		assert.True(t, confirmed)
		assert.Equal(t, clock.Confirmed, c.Trust(doubtful))
		_, era := c.Now()
		assert.Equal(t, clock.Untrusted, c.Trust(era), "a start is to be confirmed again")
	})
}

// A reading that arrives just after a step from a sender's buffer was taken before the step.
func TestBefore(t *testing.T) {
	inBubble(t, "3 h behind for 8 s", func(t *testing.T, m *machine) {
		m.offset = -3 * time.Hour
		m.start(t, false)
		time.Sleep(8 * time.Second)
		m.offset = 0
		m.Now()
		assert.True(t, m.Before().Took(time.Now().Add(-3*time.Hour-time.Second)))
		assert.True(t, m.Before().Took(time.Now().Add(-3*time.Hour-9*time.Second)))
		assert.False(t, m.Before().Took(time.Now().Add(-2*time.Hour)))
		assert.False(t, m.Before().Took(time.Now().Add(-4*time.Hour)))
		time.Sleep(6 * time.Minute)
		assert.False(t, m.Before().Took(time.Now().Add(-3*time.Hour-6*time.Minute)), "long after it, that is history")
	})
	for _, step := range []time.Duration{70 * time.Second, -70 * time.Second} {
		inBubble(t, "a step of "+step.String(), func(t *testing.T, m *machine) {
			time.Sleep(time.Hour)
			m.Now()
			before := m.wall()
			m.offset = step
			m.Now()
			time.Sleep(10 * time.Second)
			assert.True(t, m.Before().Took(before.Add(-time.Second)))
			for age := range 10 {
				assert.False(t, m.Before().Took(m.wall().Add(-time.Duration(age)*time.Second)), "of the present clock")
			}
			assert.Equal(t, before.Add(10*time.Second), m.Before().Now)
		})
	}
}

// A server that does not answer, or whose clock is always wrong, delays slots only once and for a limited time.
func TestServerThatIsNoWitness(t *testing.T) {
	inBubble(t, "it answers no GET", func(t *testing.T, m *machine) {
		require.True(t, m.Hold())
		time.Sleep(10 * time.Minute)
		assert.False(t, m.Hold())
		assert.True(t, m.Ask(), "it is asked no more")
	})
	inBubble(t, "it is some minutes wrong", func(t *testing.T, m *machine) {
		m.hears(4*time.Minute, true)
		assert.False(t, m.Hold())
		assert.Equal(t, clock.Untrusted, m.trust())
		m.hears(20*time.Minute, true)
		assert.True(t, m.Hold())
		m.hears(4*time.Minute, true)
		assert.False(t, m.Hold())
	})
	inBubble(t, "it is days wrong, in one life and the next", func(t *testing.T, m *machine) {
		for range 6 * 60 {
			m.hears(3*day, true)
			assert.True(t, m.Hold())
			time.Sleep(time.Minute)
		}
		m.hears(3*day, true)
		assert.False(t, m.Hold())
		m.saved = m.Save()
		m.start(t, false)
		m.hears(3*day, false)
		assert.False(t, m.Hold(), "after a restart")
		m.hears(-3*day, false)
		assert.True(t, m.Hold(), "after another Date")
	})
}
