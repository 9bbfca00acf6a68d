package delivery_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
)

// coverage is a configuration for values with few minutes.
type coverage struct {
	mu    sync.Mutex
	least int // minutes
	waits bool
	asked int // number of calls
}

func (c *coverage) set(least int, waits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.least, c.waits = least, waits
}

func (c *coverage) ask(cfg *delivery.Config) {
	noWait(cfg)
	before := cfg.Lookup
	cfg.Lookup = func(device string) (delivery.Target, bool) {
		t, known := before(device)
		t.TooFew = func(_ string, minutes int) (string, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.asked++
			if minutes >= c.least {
				return "", false
			}
			return fmt.Sprintf("readings in %d minutes", minutes), c.waits
		}
		return t, known
	}
}

// few makes a value of 4 minutes.
func few(r payload.Reading) payload.Reading {
	r.Minutes, r.Samples = 4, 8
	return r
}

// counted counts the requests, except those for the time.
func (p *plant) counted() *int {
	n, board := new(int), p.serve(nil)
	p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		if strings.HasSuffix(r.URL.Path, "/data") && r.Method == http.MethodPost {
			*n++
		}
		p.mu.Unlock()
		board.ServeHTTP(w, r)
	}))
	return n
}

func TestUndecided(t *testing.T) {
	ends := []struct {
		name string
		set  func(*coverage)
		got  string // delivered values of those that waited
		rest map[audit.Outcome]int
	}{
		{"min_coverage is lowered", func(c *coverage) { c.set(4, true) }, "a/cod@00:15:00=1U a/cod@00:30:00=2U", map[audit.Outcome]int{audit.Delivered: 5}},
		{"they are left out", func(c *coverage) { c.set(8, false) }, "", map[audit.Outcome]int{audit.Delivered: 3, audit.Refused: 2}},
		{"nobody decides", func(*coverage) { time.Sleep(8 * 24 * time.Hour) }, "", map[audit.Outcome]int{audit.Delivered: 3, audit.Expired: 2}},
	}
	changes := map[string]func(*plant){
		"a restart": func(p *plant) { p.stop(); p.start() },
		"a reload":  func(p *plant) { p.d.Retry() },
	}
	for _, end := range ends {
		for how, change := range changes {
			c := &coverage{least: 8, waits: true}
			run(t, end.name+", "+how, registry, c.ask, func(p *plant) {
				n := p.counted()
				p.put("a", at(15), few(cod(1)), bod(7))
				p.put("a", at(30), few(cod(2)))
				p.put("a", at(45), bod(8), cod(9))
				time.Sleep(30 * time.Minute)
				p.want("received", strings.Join(p.received(), " "), "a/bod@00:15:00=7U a/bod@00:45:00=8U a/cod@00:45:00=9U")
				p.want("requests", *n, 2)
				p.want("in trouble", p.d.Stats().Held, 0)
				want := map[string]delivery.Undecided{"cod": {Slots: 2, Oldest: at(15), Why: "readings in 4 minutes"}}
				for range 2 { // the second time after a restart
					got := p.d.State("a").Undecided
					for key, u := range got {
						u.Oldest = u.Oldest.UTC()
						got[key] = u
					}
					p.want("what waits for a person", got, want)
					p.want("waiting", p.d.Stats().Slots, 2)
					p.stop()
					p.start()
					time.Sleep(time.Minute)
				}
				p.want("requests after the restarts", *n, 2)
				end.set(c)
				change(p)
				time.Sleep(time.Minute)
				p.want("received in the end", strings.TrimSpace(strings.Join(p.received()[3:], " ")), end.got)
				p.want("outcomes", p.outcomes(), end.rest)
				p.want("waiting in the end", p.d.Stats().Slots, 0)
				p.want("nothing waits for a person", len(p.d.State("a").Undecided), 0)
				p.trailOf(func(e audit.Entry) {
					switch e.Outcome {
					case audit.Refused:
						p.want("refused", fmt.Sprint(e.Parameter, " ", e.Reason, " ", e.Count, " ", e.Detail), "cod min_coverage 8 readings in 4 minutes; the value is computed from all of them")
					case audit.Expired:
						p.want("expired", e.Detail, "not delivered within 7 days of its stamp: no decision was made: readings in 4 minutes")
					}
				})
			})
		}
	}
	c := &coverage{least: 8, waits: true}
	run(t, "what waits for the board expires for its own reason", registry, c.ask, func(p *plant) {
		p.net.unplug(true)
		p.put("a", at(15), few(cod(1)), bod(7))
		time.Sleep(8 * 24 * time.Hour)
		p.net.unplug(false)
		time.Sleep(time.Hour)
		p.want("expired", strings.Join(p.details(audit.Expired), "|"),
			"not delivered within 7 days of its stamp: no decision was made: readings in 4 minutes|not delivered within 7 days of its stamp")
	})
	c = &coverage{least: 8, waits: true}
	run(t, "the clocks do not agree on its age", registry, c.ask, func(p *plant) {
		p.fault(`{"clock_offset":"-240h"}`)
		p.put("a", at(15), few(cod(1)))
		time.Sleep(7*24*time.Hour + time.Hour)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked < 2 || c.asked > 20 {
			t.Errorf("it was looked at %d times", c.asked)
		}
	})
}

// A start after a kill does not assume that slots that wait for a person were at the server.
func TestUndecidedAfterAKill(t *testing.T) {
	c, disk := &coverage{least: 8, waits: true}, newOpenStore()
	run(t, "", registry, func(cfg *delivery.Config) { c.ask(cfg); cfg.Store = disk }, func(p *plant) {
		time.Sleep(3 * time.Hour)
		p.put("a", at(0), bod(1))
		for i := range 12 {
			p.put("a", at(15*i+15), few(cod(1)))
		}
		time.Sleep(2 * time.Minute)
		p.fault(`{"count":1,"latency":"20s","after_store":true}`)
		p.put("a", at(15*13), bod(2))
		time.Sleep(time.Second)
		p.cfg.Trail = nil // it may have the slot
		p.killed(disk, disk.copy())
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:00:00=1U", "a/bod@03:15:00=2U"})
		p.want("waiting", p.d.Stats().Slots, 12)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
		c.set(4, true)
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("waiting in the end", p.d.Stats().Slots, 0)
		p.want("received in the end", len(p.received()), 14)
	})
}

// The same holds if all slots came together just before the kill, for example as history.
func TestUndecidedAtOnceBeforeAKill(t *testing.T) {
	c, disk := &coverage{least: 8, waits: true}, newOpenStore()
	run(t, "", registry, func(cfg *delivery.Config) { c.ask(cfg); cfg.Store = disk }, func(p *plant) {
		time.Sleep(3 * time.Hour)
		p.put("a", at(0), bod(1))
		time.Sleep(2 * time.Minute)
		p.fault(`{"count":1,"latency":"20s","after_store":true}`)
		var records []payload.Record
		for i := range 13 {
			r := few(cod(1))
			if i == 12 {
				r = bod(2)
			}
			r.Stamp = at(15*i + 15)
			records = append(records, payload.Record{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{r}})
		}
		if err := p.d.Put(context.Background(), records); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		p.cfg.Trail = nil // it may have the slot
		p.killed(disk, disk.copy())
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/bod@00:00:00=1U", "a/bod@03:15:00=2U"})
		p.want("waiting", p.d.Stats().Slots, 12)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
	})
}

// Slots that wait for a person do not change how others are tried.
func TestUndecidedBesideOthers(t *testing.T) {
	c := &coverage{least: 8, waits: true}
	run(t, "a slot that fails often is alone", registry, c.ask, func(p *plant) {
		p.put("a", at(0), few(cod(1)))
		p.answers(func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, `{"status":108}`) })
		p.put("a", at(15), bod(1))
		time.Sleep(2 * time.Hour)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
	})
	run(t, "a parameter that the board refuses is tried as ever", registry, c.ask, func(p *plant) {
		asked := p.answers(refuses("so2"))
		for i := range 50 {
			p.put("a", at(15*i-900), few(cod(1)))
		}
		p.put("a", at(0), few(cod(1)), so2(1))
		time.Sleep(3 * time.Hour)
		if n := len(asked()["a"]); n < 15 || n > 20 {
			t.Errorf("requests in 3 hours: %d", n)
		}
		p.want("waiting for a person", p.d.State("a").Undecided["cod"].Slots, 51)
		c.set(4, true)
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 1)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 51})
	})
}

// After a restart it is known immediately what waits for a person, also among slots that wait apart.
func TestUndecidedBetweenParked(t *testing.T) {
	c := &coverage{least: 8, waits: true}
	run(t, "", registry, c.ask, func(p *plant) {
		p.answers(func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, `{"status":111}`) })
		for i := range 6 {
			r := bod(2)
			if i%2 == 1 {
				r = few(cod(1))
			}
			p.put("a", at(15*i), r)
		}
		time.Sleep(time.Minute)
		p.want("before", p.d.State("a").Undecided["cod"].Slots, 3)
		p.stop()
		p.start()
		time.Sleep(time.Minute)
		p.want("after a restart", p.d.State("a").Undecided["cod"].Slots, 3)
	})
}
