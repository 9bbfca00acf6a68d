package delivery_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
)

// counting answers every request with the body, and counts the requests.
type counting struct {
	mu   sync.Mutex
	body string
	n    int
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	fmt.Fprint(w, c.body)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (p *plant) serve(h http.Handler) (before http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, p.server = p.server, h
	return before
}

// killed makes a plant whose end restores the store to the time of snapshot.
func (p *plant) killed(disk *openStore, snapshot map[string][]byte) {
	p.stop()
	for key := range disk.copy() {
		disk.set(key, nil)
	}
	for key, value := range snapshot {
		disk.set(key, value)
	}
	p.start()
}

func TestContradictingAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		reason string
		log    string
	}{
		{111, "off_grid", "never accepted a slot of the device"},
		{112, "112", "ask the board"},
		{117, "117", "compare this machine's clock"},
		{118, "118", "compare this machine's clock"},
	} {
		run(t, fmt.Sprint(c.status), registry, noWait, func(p *plant) {
			board := &counting{body: fmt.Sprintf(`{"status":%d}`, c.status)}
			honest := p.serve(board)
			for i := range 4 {
				p.put("a", at(15*i), cod(float64(i)), bod(1))
				time.Sleep(15 * time.Minute)
			}
			time.Sleep(time.Hour)
			p.want("outcomes", p.outcomes(), map[audit.Outcome]int{})
			p.want("waiting", p.d.Stats().Slots, 4)
			p.want("in trouble", p.d.Stats().HeldFor, map[string]int{c.reason: 1})
			if n := board.count(); n > 30 {
				t.Errorf("%d requests in two hours", n)
			}
			if log := p.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, c.log) {
				t.Errorf("the log does not say it: %s", log)
			}
			p.serve(honest)
			time.Sleep(time.Hour)
			p.want("received in the end", len(p.received()), 8)
			p.want("outcomes in the end", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 8})
			p.want("in trouble in the end", p.d.Stats().HeldFor, map[string]int{})
		})
	}
	run(t, "until they expire", registry, noWait, func(p *plant) {
		board := &counting{body: `{"status":111}`}
		p.serve(board)
		p.put("a", at(15), cod(1), bod(1))
		time.Sleep(9 * 24 * time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Expired: 2})
		p.trailOf(func(e audit.Entry) {
			if e.Status == nil || *e.Status != 111 {
				t.Errorf("the trail does not say why: %+v", e)
			}
		})
	})
}

func TestWhatIsInDoubt(t *testing.T) {
	run(t, "a refused connection leaves no doubt", registry, noWait, func(p *plant) {
		p.put("a", at(15), bod(2))
		time.Sleep(time.Minute)
		p.net.unplug(true)
		p.client.CloseIdleConnections()
		p.put("a", at(30), cod(1), bod(2))
		time.Sleep(time.Minute)
		p.serve(&counting{body: `{"status":111}`})
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1})
	})
	run(t, "a request with other content is split", registry, noWait, func(p *plant) {
		p.fault(`{"count":1,"close":true,"after_store":true}`)
		p.put("a", at(15), cod(1))
		time.Sleep(time.Second)
		p.put("a", at(15), bod(2))
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/bod@00:15:00=2U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 1, audit.Delivered: 1})
	})
	const calibrating = "stations: [{id: s-a, devices: [{id: a, token: token-for-tests-a, calibrations: [{from: -24h, to: 24h}]}]}]"
	for _, c := range []struct{ name, fault string }{
		{"a lost answer outlives an orderly end", `{"count":1,"close":true,"after_store":true}`},
		{"HTTP 500 after it was stored", `{"count":1,"http_status":500,"after_store":true}`},
	} {
		disk := newOpenStore()
		run(t, c.name, calibrating, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = disk }, func(p *plant) {
			p.fault(c.fault)
			z := bod(0)
			z.Flag = 'Z'
			p.put("a", at(15), cod(1), z)
			time.Sleep(time.Second)
			p.stop()
			p.start()
			time.Sleep(10 * time.Minute)
			p.want("received", len(p.received()), 2)
			p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 2})
		})
	}
	disk := newOpenStore()
	run(t, "a kill while the board stores", calibrating, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = disk }, func(p *plant) {
		p.put("a", at(0), cod(1))
		time.Sleep(2 * time.Minute)
		p.fault(`{"count":1,"latency":"20s","after_store":true}`)
		z := bod(0)
		z.Flag = 'Z'
		p.put("a", at(15), cod(1), z)
		time.Sleep(time.Second)
		p.cfg.Trail = nil
		p.killed(disk, disk.copy())
		time.Sleep(10 * time.Minute)
		p.want("received", len(p.received()), 3)
		p.want("waiting", p.d.Stats().Slots, 0)
	})
	first := newOpenStore()
	run(t, "a kill while the board stores the first slots", registry, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = first }, func(p *plant) {
		p.fault(`{"count":1,"latency":"20s","after_store":true}`)
		p.put("a", at(15), cod(1))
		time.Sleep(time.Second)
		p.cfg.Trail = nil
		p.killed(first, first.copy())
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 1)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
		p.put("a", at(30), cod(1))
		time.Sleep(time.Minute)
		p.want("received", len(p.received()), 2)
		p.want("waiting once it has taken another", p.d.Stats().Slots, 0)
	})
	never := newOpenStore()
	run(t, "a kill before anything was sent", registry, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = never }, func(p *plant) {
		p.net.unplug(true)
		for i := range 12 {
			p.put("a", at(15*i-300), cod(float64(i)), bod(2))
		}
		time.Sleep(time.Minute)
		p.killed(never, never.copy())
		honest := p.serve(&counting{body: `{"status":111}`})
		p.net.unplug(false)
		time.Sleep(time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{})
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{"off_grid": 1})
		p.serve(honest)
		time.Sleep(time.Hour)
		p.want("outcomes in the end", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 24})
	})
	all := newOpenStore()
	run(t, "a kill is no evidence after an unexplained 111", registry, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = all }, func(p *plant) {
		honest := p.serve(&counting{body: `{"status":111}`})
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.put("a", at(30), cod(1))
		p.killed(all, all.copy())
		p.put("a", at(45), cod(1))
		time.Sleep(time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{})
		p.serve(honest)
		time.Sleep(time.Hour)
		p.want("outcomes in the end", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 3})
	})
	lost := newOpenStore()
	run(t, "the trail knows what a lost store forgot", registry, func(cfg *delivery.Config) { noWait(cfg); cfg.Store = lost }, func(p *plant) {
		p.put("a", at(15), cod(1), bod(2))
		time.Sleep(time.Minute)
		p.killed(lost, nil)
		p.put("a", at(15), cod(1), bod(3))
		time.Sleep(time.Hour)
		p.want("received", p.received(), []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2, audit.AlreadyStored: 1, audit.Rejected: 1})
		p.trailOf(func(e audit.Entry) {
			if e.Outcome == audit.Rejected && (e.Reason != "conflict" || !strings.Contains(e.Detail, "the server has 2 mg/L")) {
				t.Errorf("the conflict is not said: %+v", e)
			}
		})
	})
}

func TestSharedDevice(t *testing.T) {
	shared := func(cfg *delivery.Config) {
		noWait(cfg)
		lookup := cfg.Lookup
		cfg.Lookup = func(device string) (delivery.Target, bool) {
			target, ok := lookup(device)
			target.Shared = true
			return target, ok
		}
	}
	run(t, "once the server has taken something", registry, shared, func(p *plant) {
		honest := p.serve(&counting{body: `{"status":111}`})
		p.put("a", at(15), cod(1))
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 1)
		p.serve(honest)
		p.put("a", at(30), cod(1))
		time.Sleep(time.Minute)
		p.stop()
		p.serve(&counting{body: `{"status":111}`})
		p.start()
		p.put("a", at(45), cod(1), bod(2))
		time.Sleep(time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1, audit.AlreadyStored: 3})
	})
	standby := func(cfg *delivery.Config) {
		shared(cfg)
		lookup := cfg.Lookup
		cfg.Lookup = func(device string) (delivery.Target, bool) {
			target, ok := lookup(device)
			target.Delay = 5 * time.Minute
			return target, ok
		}
	}
	run(t, "a host that stands by", registry, standby, func(p *plant) {
		board := &counting{body: `{"status":111}`}
		honest := p.serve(board)
		stamp := time.Now().Truncate(15 * time.Minute).Add(15 * time.Minute)
		time.Sleep(time.Until(stamp.Add(30 * time.Second)))
		slot := int(stamp.Sub(at(0)) / time.Minute)
		p.put("a", at(slot), cod(1))
		time.Sleep(4 * time.Minute)
		p.want("requests before its turn", board.count(), 0)
		p.stop()
		p.start()
		time.Sleep(29 * time.Second)
		p.want("requests before its turn, after a restart", board.count(), 0)
		time.Sleep(10 * time.Second)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
		p.serve(honest)
		p.put("a", at(slot-15), cod(1))
		time.Sleep(10 * time.Second)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 1, audit.Delivered: 1})
	})
	run(t, "the answer is lost for a slot that the other sender had in part", registry, standby, func(p *plant) {
		lost := false
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // it has cod from the other sender
			body, _ := io.ReadAll(r.Body)
			switch text, _ := seal.Open(tokenOf+"a", body); {
			case strings.Contains(string(text), "cod") && !lost && r.Method == http.MethodPost:
				lost = true
				panic(http.ErrAbortHandler)
			case strings.Contains(string(text), "cod"):
				fmt.Fprint(w, `{"status":111}`)
			default:
				fmt.Fprint(w, `{"status":1}`)
			}
		}))
		p.put("a", at(15), cod(1), bod(2))
		time.Sleep(time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 1, audit.Delivered: 1})
	})
}

func TestAnotherSender(t *testing.T) {
	run(t, "another sender has half of the slots", registry, noWait, func(p *plant) {
		stored := &counting{body: `{"status":111}`}
		honest := p.serve(stored)
		for i := range 6 {
			p.serve([]http.Handler{honest, stored}[i%2])
			p.put("a", at(15*i), cod(1), bod(2))
			time.Sleep(time.Minute)
			p.want("in trouble", p.d.Stats().HeldFor, []map[string]int{{}, {"111": 1}, {"111": 1}, {"another_sender": 1}, {"another_sender": 1}, {"another_sender": 1}}[i])
			p.serve(stored)
		}
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 6})
		p.want("lines", strings.Count(p.log.String(), "another sender reports the device, because"), 1)
		p.stop()
		p.start()
		time.Sleep(time.Hour)
		p.want("in trouble after a restart", p.d.Stats().HeldFor, map[string]int{"another_sender": 1})
		p.want("lines after a restart", strings.Count(p.log.String(), "contradicts"), 2)
		p.serve(honest)
		time.Sleep(time.Hour)
		p.want("in trouble in the end", p.d.Stats().HeldFor, map[string]int{})
	})
	run(t, "a part of the slot was sent from here", registry, noWait, func(p *plant) {
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a slot is identified by its stamp, and bod is not registered yet
			body, _ := io.ReadAll(r.Body)
			switch text, _ := seal.Open(tokenOf+"a", body); {
			case !strings.Contains(string(text), "bod"):
				fmt.Fprint(w, `{"status":1}`)
			case strings.Contains(string(text), "cod"):
				fmt.Fprint(w, `{"status":119}`)
			default:
				fmt.Fprint(w, `{"status":111}`)
			}
		}))
		for i := range 4 {
			p.put("a", at(15*i), cod(1), bod(2))
			time.Sleep(time.Minute)
		}
		p.stop()
		p.start()
		time.Sleep(2 * time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 4})
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{"111": 1})
	})
}

// board accepts all parameters of device a except the bad ones, with a limit on answers in ten seconds.
type board struct {
	mu       sync.Mutex
	bad      map[string]bool
	limit    int
	since    time.Time
	answered int
	asked    int
	taken    map[string]int
}

func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	text, _ := seal.Open(tokenOf+"a", body)
	doc, _ := payload.Decode(text)
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); now.Sub(b.since) > 10*time.Second {
		b.since, b.answered = now, 0
	}
	if b.answered++; b.limit > 0 && b.answered > b.limit {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	b.asked++
	for _, p := range doc.Data[0].Devices[0].Params {
		if b.bad[p.Parameter] {
			fmt.Fprint(w, `{"status":119}`)
			return
		}
	}
	for _, p := range doc.Data[0].Devices[0].Params {
		b.taken[p.Parameter]++
	}
	fmt.Fprint(w, `{"status":1}`)
}

func (b *board) requests() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, b.asked = b.asked, 0
	return n
}

func (b *board) all() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

func many(n int) (rs []payload.Reading) {
	for i := range n {
		rs = append(rs, payload.Reading{Parameter: fmt.Sprintf("p%02d", i), Value: 1, Unit: "mg/L", Flag: 'U'})
	}
	return rs
}

func TestIsolationOfParameters(t *testing.T) {
	const log2 = 6 // log2 of 60, rounded up
	for _, c := range []struct {
		name  string
		bad   []int
		limit int
		most  int
	}{
		{"one of 60", []int{37}, 0, 2*log2 + 1},
		{"the last of 60", []int{59}, 0, 2*log2 + 1},
		{"two of 60", []int{0, 59}, 0, 4*log2 + 1},
		{"one of 60, and 5 requests in 10 seconds", []int{37}, 5, 2*log2 + 2},
	} {
		run(t, c.name, registry, noWait, func(p *plant) {
			b := &board{bad: map[string]bool{}, limit: c.limit, taken: map[string]int{}}
			for _, i := range c.bad {
				b.bad[fmt.Sprintf("p%02d", i)] = true
			}
			p.serve(b)
			p.put("a", at(15), many(60)...)
			time.Sleep(9 * time.Minute)
			if n := b.requests(); n > c.most || b.all() != 60-len(c.bad) {
				t.Errorf("%d requests, at most %d are due, and %d parameters are at the server", n, c.most, b.all())
			}
			p.put("a", at(30), many(60)...)
			time.Sleep(30 * time.Second)
			p.want("requests for a known bad parameter", b.requests(), 1)
			p.stop()
			p.start()
			p.put("a", at(45), many(60)...)
			time.Sleep(20 * time.Second)
			p.want("requests after a restart, with one for what is parked", b.requests(), 2)
		})
	}
	run(t, "all of 60, and restarts", registry, noWait, func(p *plant) {
		b := &board{bad: map[string]bool{}, taken: map[string]int{}}
		for i := range 60 {
			b.bad[fmt.Sprintf("p%02d", i)] = true
		}
		p.serve(b)
		p.put("a", at(0), many(60)...)
		time.Sleep(2 * time.Minute)
		if n := b.requests(); n > 30 {
			t.Errorf("%d requests in two minutes", n)
		}
		for i := range 12 {
			time.Sleep(15 * time.Minute)
			p.put("a", at(15*(i+1)), many(60)...)
		}
		if n := b.requests(); n > 2*60+20 {
			t.Errorf("%d requests in three hours", n)
		}
		for range 3 {
			p.stop()
			p.start()
			time.Sleep(time.Minute)
		}
		if n := b.requests(); n > 3 {
			t.Errorf("%d requests by three restarts", n)
		}
		b.mu.Lock()
		b.bad = nil
		b.mu.Unlock()
		time.Sleep(2 * time.Hour)
		p.want("waiting in the end", p.d.Stats().Slots, 0)
	})
}
