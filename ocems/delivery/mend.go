package delivery

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// A reading waits under the names and in the unit that it was made with. Names are mended before sending, by moving the
// slots that wait under a former name; the unit is mended when the reading is sent.

// current returns a reading under the current name of its parameter, and the configured unit or "".
func (t Target) current(r payload.Reading) (now payload.Reading, unit string) {
	if t.Parameter != nil {
		r.Parameter, unit = t.Parameter(r.Parameter, r.Diagnostic)
	}
	return r, unit
}

// mended changes readings to the configured unit if it is another spelling of their unit, or if the server has refused
// their unit.
func (t Target) mended(rs []payload.Reading, m *memory) []payload.Reading {
	mended := rs
	for i, r := range rs {
		_, unit := t.current(r)
		if unit != "" && unit != r.Unit && (spec.SameUnit(unit, r.Unit) || m.unitRefused(unitOf{r.Parameter, r.Unit})) {
			if &mended[0] == &rs[0] {
				mended = slices.Clone(rs)
			}
			mended[i].Unit = unit
		}
	}
	return mended
}

func (m *memory) unitRefused(u unitOf) bool {
	s := m.suspended[u]
	return m.replaced[u] || s != nil && s.reason == invalidUnit
}

// mend mends the units of readings from the outbox. The suspension of a unit in which nothing is sent any more ends.
func (a *attempt) mend(rs []payload.Reading) []payload.Reading {
	m := &a.q.memory
	mended := a.target.mended(rs, m)
	for i, r := range rs {
		if u := (unitOf{r.Parameter, r.Unit}); mended[i].Unit != r.Unit && m.suspended[u] != nil {
			if m.suspended[u].reason == invalidUnit {
				m.replaced[u] = true
			}
			delete(m.suspended, u)
		}
	}
	a.stored, a.mended = rs, !slices.EqualFunc(rs, mended, func(r, m payload.Reading) bool { return r.Unit == m.Unit })
	return mended
}

// units returns, for the trail, which readings were made in another unit.
func (a *attempt) units(rs []payload.Reading) string {
	if !a.mended {
		return ""
	}
	var notes []string
	for _, r := range rs {
		i := slices.IndexFunc(a.stored, func(x payload.Reading) bool { return sameParameter(x, r) })
		if i >= 0 && a.stored[i].Unit != r.Unit {
			notes = append(notes, fmt.Sprintf("%s was made in %s and sent in %s, as it is configured now", r.Parameter, a.stored[i].Unit, r.Unit))
		}
	}
	return strings.Join(notes, "; ")
}

// formerly reports that readings wait under a former name.
func (a *attempt) formerly(rs []payload.Reading) bool {
	return a.target.DeviceID != a.q.device || slices.ContainsFunc(rs, func(r payload.Reading) bool {
		now, _ := a.target.current(r)
		return now.Parameter != r.Parameter
	})
}

// takeOver moves the queue's slots from former names to the current ones, each slot in one transaction. A slot that
// cannot be read stays for an attempt of its own. The server's answers about a former name do not apply to the current
// one.
func (a *attempt) takeOver() {
	d := a.d
	var ids []slotID
	d.mu.Lock()
	for t, ok := a.q.stamps.next(everBefore, (*word).waiting); ok; t, ok = a.q.stamps.next(t+1, (*word).waiting) {
		if !a.q.isLeaving(t) {
			ids = append(ids, slotID{a.q.device, t})
		}
	}
	d.mu.Unlock()
	var moves []*work
	keys := map[string]string{}
	for _, id := range ids {
		rs, _, _, err := d.load(d.ctx, id)
		if err != nil || !a.formerly(rs) {
			continue
		}
		var old, now []payload.Reading
		for _, r := range rs {
			x, _ := a.target.current(r)
			if x.Parameter != r.Parameter {
				keys[r.Parameter] = x.Parameter
			} else if a.target.DeviceID == a.q.device {
				continue
			}
			old, now = append(old, r), append(now, x)
		}
		w := &work{records: []payload.Record{a.target.record(now)}, whole: true, leaves: &id, settled: old, urgent: true}
		if a.target.DeviceID != a.q.device {
			w.with = []store.Op{{Key: memoryPrefix + a.q.device}}
		}
		moves = append(moves, w)
		d.hand(w)
	}
	for _, w := range moves {
		select {
		case <-w.done:
		case <-d.ctx.Done():
			return
		}
	}
	d.cfg.Logger.Info("moved waiting slots from former names to the current ones", "device", a.target.DeviceID, "slots", len(moves), "device_formerly", a.q.device, "parameters_formerly", keys)
	a.forget(keys)
}

// forget removes former names from the memory.
func (a *attempt) forget(keys map[string]string) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	m := &a.q.memory
	if a.target.DeviceID != a.q.device {
		*m, a.q.saved = newMemory(), ""
		delete(a.d.postponed, a.q)
	}
	maps.DeleteFunc(m.suspended, func(u unitOf, _ *suspension) bool { return keys[u.parameter] != "" })
	maps.DeleteFunc(m.suspects, func(u unitOf, _ bool) bool { return keys[u.parameter] != "" })
	maps.DeleteFunc(m.replaced, func(u unitOf, _ bool) bool { return keys[u.parameter] != "" })
}

// join combines two notes.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
