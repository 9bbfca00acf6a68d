package delivery_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
)

// Tests of a slot whose outcome is not written yet, and of a device whose slots have left.
func TestWhileOutcomesAreGathered(t *testing.T) {
	const era = 7
	wrong := cod(9)
	wrong.Era = era
	withdraw := func(p *plant, n int) {
		w, err := p.d.Withdraw(context.Background(), []uint64{era})
		p.want("withdrawn", fmt.Sprint(len(w.Readings), err), fmt.Sprint(n, " <nil>"))
		p.want("put", p.d.PutWhole(context.Background(), nil, w), nil)
	}
	run(t, "another parameter comes in a host that has run for a week", registry, noWait, func(p *plant) {
		time.Sleep(8 * 24 * time.Hour)
		now := time.Now().Truncate(15 * time.Minute)
		p.put("a", now, cod(1))
		time.Sleep(300 * time.Millisecond)
		p.put("a", now, bod(2))
		time.Sleep(time.Hour)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 2})
	})
	run(t, "a slot is withdrawn", registry, noWait, func(p *plant) {
		p.put("a", at(15), wrong)
		time.Sleep(300 * time.Millisecond)
		withdraw(p, 0)
		time.Sleep(time.Minute)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 1})
	})
	run(t, "a slot is withdrawn while it is at the server, nine times", registry, noWait, func(p *plant) {
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			time.Sleep(800 * time.Millisecond)
			success(w, r, n)
		})
		for i := range 9 {
			p.put("a", at(15*i-120), wrong)
			time.Sleep(300 * time.Millisecond)
			withdraw(p, 1)
			time.Sleep(time.Minute)
		}
		p.put("a", at(45), cod(1))
		time.Sleep(time.Hour)
		p.want("waiting", p.d.Stats().Slots, 0)
	})
	n := &mending{}
	run(t, "a slot with the same value is withdrawn under a former name", registry, n.mend, func(p *plant) {
		p.net.unplug(true)
		p.put("gone", at(45), wrong)
		p.put("a", at(45), cod(9))
		synctest.Wait() // else an attempt may find the new name, and move the slot before it is withdrawn
		n.set(func(n *mending) { n.devices = map[string]string{"gone": "a"} })
		withdraw(p, 1)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:45:00=9U"})
	})
	again := newOpenStore()
	run(t, "another value comes for a slot that was in doubt", registry, func(c *delivery.Config) { noWait(c); c.Store = again }, func(p *plant) {
		p.net.unplug(true)
		p.put("a", at(15), cod(1))
		synctest.Wait()
		p.net.unplug(false) // before the next life, whose first attempt then arrives
		p.killed(again, again.copy())
		time.Sleep(300 * time.Millisecond)
		p.put("a", at(15), bod(2))
		p.put("b", at(15), so2(1))
		time.Sleep(300 * time.Millisecond)
		p.put("a", at(15), cod(3))
		time.Sleep(10 * time.Minute)
		got := p.received()
		slices.Sort(got)
		p.want("received", got, []string{"a/bod@00:15:00=2U", "a/cod@00:15:00=1U", "b/so2@00:15:00=1U"})
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 3, audit.Rejected: 1})
	})
	disk := newOpenStore()
	run(t, "a kill after the first delivered slot of a shared device", registry, func(c *delivery.Config) {
		noWait(c)
		c.Store = disk
		lookup := c.Lookup
		c.Lookup = func(device string) (delivery.Target, bool) {
			target, ok := lookup(device)
			target.Shared = true
			return target, ok
		}
	}, func(p *plant) {
		p.put("a", at(15), cod(1))
		time.Sleep(10 * time.Minute)
		p.killed(disk, disk.copy())
		p.serve(&counting{body: `{"status":111}`})
		p.put("a", at(30), cod(1))
		time.Sleep(time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
	})
	passed := newOpenStore()
	run(t, "a kill after newer slots went before one that failed often", registry, func(c *delivery.Config) { noWait(c); c.Store = passed }, func(p *plant) {
		p.put("a", at(0), cod(1))
		time.Sleep(3 * time.Second)
		honest := p.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad request", http.StatusBadRequest) }))
		for i := range 48 {
			p.put("a", at(75+15*i), cod(float64(i)))
			time.Sleep(15 * time.Minute)
		}
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(200 * time.Millisecond)
			honest.ServeHTTP(w, r)
		}))
		for len(p.received()) < 3 {
			time.Sleep(100 * time.Millisecond)
		}
		p.cfg.Trail = nil
		p.killed(passed, passed.copy())
		time.Sleep(8 * 24 * time.Hour)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("received", len(p.received()), 49)
		p.want("in trouble", p.d.Stats().HeldFor, map[string]int{})
	})
}
