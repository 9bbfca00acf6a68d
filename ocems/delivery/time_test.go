package delivery_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
)

// answers replaces the simulator by a server of the test, and records when each device sent a request.
func (p *plant) answers(f func(w http.ResponseWriter, r *http.Request, n int)) (asked func() map[string][]time.Time) {
	var mu sync.Mutex
	at := map[string][]time.Time{}
	n := 0
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		now := n
		at[r.Header.Get("X-Device-Id")] = append(at[r.Header.Get("X-Device-Id")], time.Now())
		mu.Unlock()
		f(w, r, now)
	})
	return func() map[string][]time.Time {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(at)
	}
}

func success(w http.ResponseWriter, _ *http.Request, _ int) {
	fmt.Fprint(w, `{"msg":"success","status":1}`)
}

func TestSkewIsMeasuredFromTheServersDate(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		warns bool
	}{{0, false}, {20 * time.Second, false}, {-40 * time.Minute, true}, {2 * time.Hour, true}} {
		run(t, c.ahead.String(), registry, nil, func(p *plant) {
			p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
				time.Sleep(4 * time.Second) // half of it is the way to the server
				w.Header().Set("Date", time.Now().Add(-2*time.Second+c.ahead).UTC().Format(http.TimeFormat))
				success(w, r, n)
			})
			p.put("a", at(15), cod(1))
			time.Sleep(time.Minute)
			if got := p.d.Stats().Skew; got < c.ahead-time.Second || got > c.ahead+time.Second {
				t.Errorf("skew %s, want %s", got, c.ahead)
			}
			if warned := strings.Contains(p.log.String(), "NTP"); warned != c.warns {
				t.Errorf("warned %v, want %v", warned, c.warns)
			}
		})
	}
	run(t, "not from a proxy's page", registry, nil, func(p *plant) {
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			http.Error(w, "bad gateway", http.StatusBadGateway)
		})
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.want("skew", p.d.Stats().Skew, time.Duration(0))
	})
}

// A slot expires by both clocks, or by the running time of the host since it was made, because one clock may be wrong.
func TestExpiryByBothClocks(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name          string
		ahead         time.Duration
		age           time.Duration // by our clock
		answered      bool          // an answer came before
		want          audit.Outcome
		requestsForIt int
	}{
		{"young for both", 0, week - 15*time.Minute, true, audit.Delivered, 1},
		{"old for both", 0, week + 15*time.Minute, true, audit.Expired, 0},
		{"old by the server alone", 2 * time.Hour, week - time.Hour, true, audit.Delivered, 1},
		{"old by a Date 10 days ahead", 10 * 24 * time.Hour, time.Hour, true, audit.Delivered, 1},
		{"old by our clock alone", -2 * time.Hour, week + time.Hour, true, audit.Delivered, 1},
		{"old by an unconfirmed clock", 0, week + 12*time.Hour, false, audit.Delivered, 1},
		{"9 days old by an unconfirmed clock", 0, week + 48*time.Hour, false, audit.Delivered, 1},
	} {
		run(t, c.name, registry, nil, func(p *plant) {
			time.Sleep(10 * 24 * time.Hour)
			now := time.Now().Truncate(15 * time.Minute)
			asked := p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Date", time.Now().Add(c.ahead).UTC().Format(http.TimeFormat))
				success(w, r, n)
			})
			if c.answered {
				p.put("b", now, so2(1))
				time.Sleep(time.Minute)
			}
			p.put("a", now.Add(-c.age), cod(1))
			time.Sleep(time.Minute)
			p.want("requests", len(asked()["a"]), c.requestsForIt)
			p.want("outcome", p.outcomes()[c.want] > 0 && p.d.Stats().Slots == 0, true)
			if c.want == audit.Expired {
				p.want("expired", p.outcomes()[audit.Expired], 1)
			}
		})
	}
	run(t, "a week of running time in two runs", registry, nil, func(p *plant) {
		p.cfg.Clock = clock.New(clock.Config{Alone: true})
		p.stop()
		p.start()
		p.net.unplug(true)
		p.put("a", at(15), cod(1))
		time.Sleep(3 * 24 * time.Hour)
		saved := p.cfg.Clock.Save()
		p.stop()
		time.Sleep(time.Hour) // time while off does not count
		p.cfg.Clock = clock.New(clock.Config{Alone: true})
		if _, err := p.cfg.Clock.Restore(saved); err != nil {
			t.Fatal(err)
		}
		p.start()
		time.Sleep(4*24*time.Hour - time.Minute)
		p.want("waiting", p.d.Stats().Slots, 1)
		time.Sleep(10 * time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("expired", p.outcomes()[audit.Expired], 1)
	})
}

func TestRequestsAreSpreadByDevice(t *testing.T) {
	const devices, spread, coalesce = 200, 40 * time.Second, 5 * time.Second
	for _, c := range []struct {
		name        string
		delay, turn time.Duration // after the boundary
	}{{"the first host", 0, coalesce}, {"a host that stands by", 5 * time.Minute, 5 * time.Minute}} {
		run(t, c.name, registry, func(cfg *delivery.Config) {
			lookup := cfg.Lookup
			cfg.Spread.Duration, cfg.Lookup = spread, func(device string) (delivery.Target, bool) {
				target, ok := lookup(device)
				target.Delay = c.delay
				return target, ok
			}
		}, func(p *plant) {
			asked := p.answers(success)
			var rounds [2]map[string]time.Duration
			for round := range rounds {
				boundary := time.Now()
				for i := range devices {
					p.put(fmt.Sprint("device-", i), at(int(boundary.Sub(at(0))/time.Minute)), cod(1))
				}
				time.Sleep(15 * time.Minute)
				rounds[round] = map[string]time.Duration{}
				quarters := [4]int{}
				for device, times := range asked() {
					after := times[round].Sub(boundary) - c.turn
					rounds[round][device] = after
					if after < 0 || after > spread+time.Second {
						p.t.Fatalf("%s asked %s after its turn, want within %s", device, after, spread)
					}
					quarters[min(int(4*after/spread), 3)]++
				}
				for i, n := range quarters {
					if n < devices/8 || n > devices/2 {
						p.t.Errorf("quarter %d of the spread has %d of %d devices", i+1, n, devices)
					}
				}
			}
			for device, first := range rounds[0] {
				if d := (rounds[1][device] - first).Abs(); d > time.Second {
					p.t.Fatalf("%s moved by %s between two slots", device, d)
				}
			}
		})
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	date := func(ahead time.Duration, d time.Duration) func(http.Header) {
		return func(h http.Header) {
			h.Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			h.Set("Retry-After", time.Now().Add(ahead+d).UTC().Format(http.TimeFormat))
		}
	}
	seconds := func(s string) func(http.Header) { return func(h http.Header) { h.Set("Retry-After", s) } }
	for _, c := range []struct {
		name string
		set  func(http.Header)
		want time.Duration
	}{
		{"seconds", seconds("120"), 120 * time.Second},
		{"HTTP date", date(0, 3*time.Minute), 3 * time.Minute},
		{"HTTP date of a server whose clock is behind", date(-time.Hour, 3*time.Minute), 3 * time.Minute},
		{"HTTP date of a server whose clock is ahead", date(time.Hour, 3*time.Minute), 3 * time.Minute},
		{"shorter than the backoff", seconds("1"), 4 * time.Second},
		{"a past date", date(0, -time.Hour), 4 * time.Second},
		{"at most an hour", seconds("86400"), time.Hour},
		{"beyond any number", seconds("99999999999999999999"), 4 * time.Second},
		{"negative", seconds("-5"), 4 * time.Second},
		{"not a time", seconds("soon"), 4 * time.Second},
	} {
		for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			run(t, fmt.Sprint(c.name, " with ", code), registry, nil, func(p *plant) {
				asked := p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
					if n > 1 {
						success(w, r, n)
						return
					}
					c.set(w.Header())
					w.WriteHeader(code)
				})
				p.put("a", at(15), cod(1))
				time.Sleep(3 * time.Hour)
				times := asked()["a"]
				if len(times) != 2 {
					t.Fatalf("%d requests, want 2", len(times))
				}
				if wait := times[1].Sub(times[0]); wait < c.want-2*time.Second || wait > c.want+2*time.Second {
					t.Errorf("tried again after %s, want %s", wait, c.want)
				}
			})
		}
	}
}

// The store fails after the server has accepted a slot: the slot is neither lost nor sent again, and Put fails
// immediately.
func TestStoreThatFailsForAWhile(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		asked := p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			disk.fill(true) // from the first answer on
			success(w, r, n)
		})
		p.put("a", at(15), cod(1))
		p.put("b", at(15), so2(1))
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 2)
		begun := time.Now()
		for range 3 {
			err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{
				{Parameter: "cod", Value: 2, Unit: "mg/L", Flag: 'U', Stamp: at(30)}}}})
			if err == nil || !strings.Contains(err.Error(), "no space left") {
				t.Errorf("Put into a failing store = %v", err)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("Put took %s to say that the store fails", took)
		}
		time.Sleep(30 * time.Minute)
		p.want("requests of a while the store fails", len(asked()["a"]), 1)
		p.want("requests of b while the store fails", len(asked()["b"]), 1)
		p.want("told once", strings.Count(p.log.String(), "cannot write the outbox"), 1)
		p.answers(success)
		disk.fill(false)
		time.Sleep(20 * time.Second)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.put("a", at(30), cod(2))
		time.Sleep(time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 3})
		p.stop()
		p.want("left in the store", len(disk.keys("outbox/")), 0)
	})
}

// The store is full at the start: one line of the log says so with the reason, and nothing is sent until it can be written.
func TestStoreThatIsFullAtTheStart(t *testing.T) {
	disk := newOpenStore()
	disk.fill(true)
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		asked := p.answers(success)
		time.Sleep(10 * time.Minute)
		p.want("lines about the store", strings.Count(p.log.String(), "cannot write the outbox"), 1)
		p.want("lines without a reason", strings.Count(p.log.String(), "error=<nil>"), 0)
		disk.fill(false)
		time.Sleep(20 * time.Second)
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.want("requests", len(asked()["a"]), 1)
	})
}

// A slot whose outcome was not written before the end is sent again after it, and answered 111.
func TestStopWhileTheStoreFails(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		p.put("a", at(15), cod(1))
		disk.fill(true)
		time.Sleep(time.Minute)
		begun := time.Now()
		p.stop()
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("Close took %s", took)
		}
		disk.fill(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
		p.want("waiting", p.d.Stats().Slots, 0)
	})
}

// The end tries once more to write pending outcomes.
func TestStopOnceTheStoreHeals(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		p.put("a", at(15), cod(1))
		disk.fill(true)
		time.Sleep(time.Minute)
		disk.fill(false)
		p.stop()
		p.start()
		p.want("waiting", p.d.Stats().Slots, 0)
		time.Sleep(time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1})
	})
}

// A trail that cannot be written delays outcomes, but not new readings.
func TestTrailThatCannotBeWritten(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.put("a", at(15), cod(1))
		p.cfg.Trail.Close()
		time.Sleep(time.Minute)
		p.put("a", at(30), cod(2))
		p.want("waiting", p.d.Stats().Slots, 2)
	})
}

// A slot that cannot be read delays no other slot.
func TestSlotOnABadSector(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		p.net.unplug(true)
		p.put("a", at(15), cod(1))
		p.stop()
		disk.spoil(disk.slots("a")[0])
		p.start()
		p.net.unplug(false)
		p.put("b", at(15), so2(1))
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 1)
		if err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{
			{Parameter: "bod", Value: 2, Unit: "mg/L", Flag: 'U', Stamp: at(15)}}}}); err == nil || !strings.Contains(err.Error(), "input/output") {
			t.Errorf("Put to a slot that cannot be read = %v", err)
		}
		disk.spoil("")
		time.Sleep(10 * time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2})
	})
}

func TestManyPutAtOnce(t *testing.T) {
	run(t, "", registry, noWait, func(p *plant) {
		asked := p.answers(success)
		const hosts, devices, slots = 8, 5, 12
		var wg sync.WaitGroup
		for host := range hosts {
			wg.Go(func() {
				for i := range slots {
					var records []payload.Record
					for d := range devices {
						// Every host has a parameter of its own, and one that all have.
						records = append(records, payload.Record{StationID: "s", DeviceID: fmt.Sprint("device-", d), Readings: []payload.Reading{
							{Parameter: fmt.Sprint("p", host), Value: float64(i), Unit: "mg/L", Flag: 'U', Stamp: at(-15 * i)},
							{Parameter: "shared", Value: 7, Unit: "mg/L", Flag: 'U', Stamp: at(-15 * i)}}})
					}
					if err := p.d.Put(context.Background(), records); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() { p.d.Stats(); p.d.Retry() })
		}
		wg.Wait()
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		own := map[string]int{}
		p.trailOf(func(e audit.Entry) {
			for _, r := range e.Readings {
				if r.Parameter != "shared" {
					own[fmt.Sprint(e.Device, e.Stamp, r.Parameter, e.Outcome)]++
				}
			}
		})
		p.want("readings in the trail", len(own), hosts*devices*slots)
		for what, n := range own {
			if n != 1 || !strings.HasSuffix(what, string(audit.Delivered)) {
				t.Errorf("%s: %d times", what, n)
			}
		}
		p.want("devices", len(asked()), devices)
	})
}

func TestCloseEndsWithItsContext(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		p.put("a", at(15), cod(1))
		time.Sleep(30 * time.Second) // the request hangs
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		p.d.Close(ctx)
		if took := time.Since(begun); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("Close took %s, want the 3 s of its context", took)
		}
		if err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{
			{Parameter: "cod", Value: 2, Unit: "mg/L", Flag: 'U', Stamp: at(30)}}}}); err == nil {
			t.Error("a closed outbox took readings")
		}
		asked := p.answers(success)
		p.start()
		time.Sleep(time.Minute)
		p.want("requests after the restart", len(asked()["a"]), 1)
		p.want("devices", slices.Sorted(maps.Keys(asked())), []string{"a"})
	})
}

// A redirect would send the signature and the device id to another server.
func TestRedirectsAreNotFollowed(t *testing.T) {
	run(t, "", registry, nil, func(p *plant) {
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirect was followed")
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader([]int{301, 302, 307, 308}[n%4])
		})
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.want("waiting slots", p.d.Stats().Slots, 1)
	})
}
