package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/store"
)

// mending is a configuration that is corrected.
type mending struct {
	mu         sync.Mutex
	unit       string            // of cod
	devices    map[string]string // current ids by former ones
	parameters map[string]string
}

func (n *mending) set(f func(*mending)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// mend makes the plant look names up in n.
func (n *mending) mend(c *delivery.Config) {
	noWait(c)
	before := c.Lookup
	c.Lookup = func(device string) (delivery.Target, bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if now, ok := n.devices[device]; ok {
			device = now
		}
		t, known := before(device)
		t.Parameter = func(key string, _ bool) (string, string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if now, ok := n.parameters[key]; ok {
				key = now
			}
			if key == "cod" {
				return key, n.unit
			}
			return key, ""
		}
		return t, known
	}
}

func in(unit string, r payload.Reading) payload.Reading {
	r.Unit = unit
	return r
}

// details returns the details of the trail's lines with an outcome.
func (p *plant) details(o audit.Outcome) (list []string) {
	p.trailOf(func(e audit.Entry) {
		if e.Outcome == o {
			list = append(list, e.Detail)
		}
	})
	return list
}

func TestMendedUnit(t *testing.T) {
	for _, how := range []struct {
		name string
		heal func(*plant)
	}{
		{"after a restart", func(p *plant) { p.stop(); p.start() }},
		{"when the devices are read again", func(p *plant) { p.d.Retry() }},
	} {
		n := &mending{unit: "ppm"}
		run(t, "refused, mended "+how.name, registry, n.mend, func(p *plant) {
			time.Sleep(2 * time.Hour)
			for i := range 8 {
				p.put("a", at(15*i), in("ppm", cod(float64(i))), bod(1))
				time.Sleep(time.Minute)
			}
			p.want("waiting", p.d.Stats().Slots, 8)
			p.want("in trouble", p.d.Stats().HeldFor, map[string]int{"110": 1})
			n.set(func(n *mending) { n.unit = "mg/L" })
			how.heal(p)
			time.Sleep(time.Minute)
			p.want("waiting after the mending", p.d.Stats().Slots, 0)
			p.want("received", len(p.received()), 16)
			p.want("in trouble after the mending", p.d.Stats().HeldFor, map[string]int{})
			mended := slices.DeleteFunc(p.details(audit.Delivered), func(d string) bool { return d == "" })
			p.want("notes", len(mended), 8)
			p.want("note", strings.Join(mended[:min(1, len(mended))], ""), "cod was made in ppm and sent in mg/L, as it is configured now")
		})
	}
	n := &mending{unit: "mg/L"}
	run(t, "the refusal is not known", registry, n.mend, func(p *plant) {
		p.put("a", at(15), in("ppm", cod(1)))
		p.put("a", at(30), in("ppm", cod(2)), bod(2))
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/bod@00:30:00=2U", "a/cod@00:30:00=2U"})
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
	})
	run(t, "the stored unit goes first", "stations: [{id: s-a, devices: [{id: a, token: token-for-tests-a}]}]", (&mending{unit: "mg/L"}).mend, func(p *plant) {
		p.put("a", at(15), in("ppm", cod(1)))
		time.Sleep(time.Minute)
		p.trailOf(func(e audit.Entry) { p.want("unit", e.Readings[0].Unit, "ppm") })
		p.want("notes", p.details(audit.Delivered), []string{""})
	})
	spelled := &mending{unit: "mgpl"}
	run(t, "another spelling, and the answer to the first was lost", registry, spelled.mend, func(p *plant) {
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, `{"status":111}`)
		})
		p.put("a", at(15), in("mgpl", cod(1)))
		time.Sleep(time.Second)
		spelled.set(func(n *mending) { n.unit = "mg/L" })
		time.Sleep(time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.AlreadyStored: 1})
		p.want("notes", p.details(audit.AlreadyStored), []string{"sent before, and the answer was lost; cod was made in mgpl and sent in mg/L, as it is configured now"})
	})
	other := &mending{unit: "kg/m³"}
	run(t, "the mended unit is refused too, and mended again", registry, other.mend, func(p *plant) {
		p.put("a", at(15), in("ppm", cod(1)))
		time.Sleep(time.Hour)
		p.want("waiting", p.d.Stats().Slots, 1)
		other.set(func(n *mending) { n.unit = "mg/L" })
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U"})
	})
}

// former fills an outbox with three slots under former names, and one that waits under both names.
func former(t *testing.T, name string, disk *openStore, f func(p *plant, n *mending)) {
	n := &mending{}
	run(t, name, registry, func(c *delivery.Config) { n.mend(c); c.Store = disk }, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 3; i++ {
			p.put("gone", at(15*i), so2(float64(i)), bod(2))
		}
		p.put("a", at(30), bod(2), cod(9))
		p.put("a", at(45), bod(7))
		p.stop()
		p.log.Reset()
		n.set(func(n *mending) {
			n.devices, n.parameters, n.unit = map[string]string{"gone": "a"}, map[string]string{"so2": "cod"}, "mg/L"
		})
		f(p, n)
	})
}

// Readings under both names become one slot; of two values, the one under the current name stays.
var taken = []string{"a/bod@00:15:00=2U", "a/bod@00:30:00=2U", "a/bod@00:45:00=7U", "a/cod@00:15:00=1U", "a/cod@00:30:00=9U", "a/cod@00:45:00=3U"}

func TestFormerly(t *testing.T) {
	former(t, "at the start", newOpenStore(), func(p *plant, n *mending) {
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		got := p.received()
		slices.Sort(got)
		p.want("received", got, taken)
		// The slot under both names may be sent before or after it is moved: before, the value of bod is already stored.
		all := p.outcomes()
		p.want("delivered", all[audit.Delivered], 6)
		p.want("not taken", all[audit.Refused]+all[audit.Rejected], 2)
		p.want("log", strings.Contains(p.log.String(), "moved waiting slots from former names to the current ones\" device=a slots=3"), true)
		p.want("log of a device that is not configured", strings.Contains(p.log.String(), "not configured"), false)
	})
	former(t, "when the devices are read again", newOpenStore(), func(p *plant, n *mending) {
		devices := n.devices
		n.set(func(n *mending) { n.devices = nil })
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("held", p.d.Stats().HeldFor, map[string]int{"not_configured": 1})
		p.want("log", strings.Contains(p.log.String(), "slots wait for a device that is not configured: put it back, or name it in `formerly` of the device that replaces it\" device=gone waiting_slots=3"), true)
		n.set(func(n *mending) { n.devices = devices })
		p.d.Retry()
		time.Sleep(time.Minute)
		p.want("held after", p.d.Stats().HeldFor, map[string]int{})
		got := p.received()
		slices.Sort(got)
		p.want("received", got, taken)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 6, audit.AlreadyStored: 1, audit.Rejected: 2})
	})
	aged := &mending{}
	run(t, "a moved slot keeps its age", registry, aged.mend, func(p *plant) {
		p.net.unplug(true)
		p.put("gone", at(15), bod(1))
		time.Sleep(4 * 24 * time.Hour)
		aged.set(func(n *mending) { n.devices = map[string]string{"gone": "a"} })
		p.d.Retry()
		time.Sleep(3*24*time.Hour - time.Hour)
		p.want("waiting", p.d.Stats().Slots, 1)
		time.Sleep(2 * time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Expired: 1})
	})
	n := &mending{}
	run(t, "a parameter that the board refused", registry, n.mend, func(p *plant) {
		for i := 1; i <= 3; i++ {
			p.put("a", at(15*i), so2(float64(i)), bod(2))
			time.Sleep(time.Minute)
		}
		p.want("held", p.d.Stats().HeldFor, map[string]int{"119": 1})
		p.stop()
		n.set(func(n *mending) { n.parameters, n.unit = map[string]string{"so2": "cod"}, "mg/L" })
		p.start()
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("received", p.received()[3:], []string{"a/cod@00:15:00=1U", "a/cod@00:30:00=2U", "a/cod@00:45:00=3U"})
		p.want("log", strings.Contains(p.log.String(), "device=a slots=3 device_formerly=a parameters_formerly=map[so2:cod]"), true)
	})
}

// TestTakenOverWhileWithdrawn moves a reading to its new name between the first try of its withdrawal and the one that
// is stored.
func TestTakenOverWhileWithdrawn(t *testing.T) {
	disk, n := newOpenStore(), &mending{}
	run(t, "", registry, func(c *delivery.Config) { n.mend(c); c.Store = disk }, func(p *plant) {
		const era = 7
		p.net.unplug(true)
		wrong := cod(9)
		wrong.Era = era
		p.put("gone", at(45), wrong)
		time.Sleep(10 * time.Second)
		disk.fill(true)
		n.set(func(n *mending) { n.devices = map[string]string{"gone": "a"} })
		p.d.Retry()
		time.Sleep(10 * time.Second)
		w, err := p.d.Withdraw(context.Background(), []uint64{era})
		p.want("withdrawn", fmt.Sprint(len(w.Readings), err), "1 <nil>")
		p.want("a full store takes it", p.d.PutWhole(context.Background(), nil, w) == nil, false)
		disk.fill(false)
		time.Sleep(10 * time.Second)
		p.want("then", p.d.PutWhole(context.Background(), nil, w), nil)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", len(p.received()), 0)
		p.want("waiting", p.d.Stats().Slots, 0)
	})
}

// TestKilledWhileTakingOver ends the store at each of its writes, before or after it is on disk.
func TestKilledWhileTakingOver(t *testing.T) {
	for _, written := range []bool{false, true} {
		for n := 0; n < 5; n++ {
			disk := newOpenStore()
			former(t, fmt.Sprintf("write %d, written %v", n, written), disk, func(p *plant, _ *mending) {
				p.net.unplug(false)
				dying := &dyingStore{openStore: disk, left: n, written: written}
				p.cfg.Store = dying
				p.start()
				time.Sleep(2 * time.Second)
				p.stop()
				dead := dying.dead
				p.cfg.Store = disk
				p.start()
				time.Sleep(time.Hour)
				got := p.received()
				slices.Sort(got)
				p.want("received", got, taken)
				p.want("waiting", p.d.Stats().Slots, 0)
				p.want("died", dead, true)
			})
		}
	}
}

// dyingStore accepts a number of writes, and may carry out one more without reporting success.
type dyingStore struct {
	*openStore
	mu      sync.Mutex
	left    int
	written bool
	dead    bool
}

func (s *dyingStore) Batch(ctx context.Context, ops ...store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left >= 0 {
		return s.openStore.Batch(ctx, ops...)
	}
	if s.written && !s.dead {
		_ = s.openStore.Batch(ctx, ops...)
	}
	s.dead = true
	return errors.New("the process is dead")
}
