package slot

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// Rename gives each series the name, and each of its open windows the unit, that the function returns. It returns how
// many open windows have a new name. If a series with that name exists, the two are joined: a window that one has
// closed is closed, and the samples of windows that both have open are joined. If samples cannot be joined (both have
// one for the same time, or units or statistics differ), the window keeps its former name until it closes.
func (a *Aligner) Rename(current func(s Series, unit string) (Series, string)) (renamed int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(a.devices)) {
		d := a.devices[id]
		for _, s := range slices.SortedFunc(maps.Values(d.series), func(s, o *series) int { return s.compare(o.Series) }) {
			for _, c := range s.open {
				if _, unit := current(s.Series, c.unit); unit != c.unit {
					c.unit, a.shards[d.shard].mark.dirty = unit, true
				}
			}
			if to, _ := current(s.Series, ""); to != s.Series {
				renamed += a.rename(d, s, to)
			}
		}
	}
	return renamed
}

// rename moves a series of a device to another name.
func (a *Aligner) rename(d *device, s *series, to Series) (renamed int) {
	t := &series{Series: to, seen: math.MinInt64}
	if known := a.devices[to.Device]; known != nil && known.series[parameter{to.Parameter, to.Diagnostic}] != nil {
		t = known.series[parameter{to.Parameter, to.Diagnostic}]
	} else {
		a.install(t)
	}
	now := a.devices[to.Device]
	a.shards[d.shard].mark.dirty, a.shards[now.shard].mark.dirty = true, true
	t.seen = max(t.seen, s.seen)
	t.pace = pace{newest: max(t.pace.newest, s.pace.newest), slow: max(t.pace.slow, s.pace.slow)}
	t.memory = cmp.Or(t.memory, s.memory)
	for k := range kinds {
		if k == normal || s.calibration != nil {
			t.ring(k).join(s.ring(k), k)
		}
	}
	var left []*cell
	for _, c := range s.open {
		w := a.window(now, c.window.bounds)
		i, found := slices.BinarySearchFunc(t.open, w.bounds, func(o *cell, b bounds) int { return o.window.bounds.compare(b) })
		if found && !t.open[i].join(c) {
			left = append(left, c)
			continue
		}
		renamed++
		a.open--
		c.window.cells = slices.DeleteFunc(c.window.cells, func(o *cell) bool { return o == c })
		if len(w.cells) == 0 || w.arrival < c.window.arrival {
			w.arrival = c.window.arrival
		}
		if !found {
			c.series, c.window = t, w
			a.attach(c, i)
		}
	}
	d.windows = slices.DeleteFunc(d.windows, func(w *window) bool { return len(w.cells) == 0 })
	if s.open = left; len(left) > 0 {
		return renamed
	}
	delete(d.series, parameter{s.Parameter, s.Diagnostic})
	d.sorted = nil
	a.era++
	a.series--
	if len(d.series) == 0 {
		a.remove(d)
	}
	return renamed
}

// join adds the samples of another cell of the same window, if all of them can be added.
func (c *cell) join(o *cell) bool {
	if c.unit != o.unit || c.stat != o.stat || len(c.marks)+len(o.marks) > maxSamples {
		return false
	}
	sources := slices.Clone(c.sources)
	for _, s := range o.sources {
		if !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	if len(sources) > maxSources {
		return false
	}
	marks := slices.Clone(c.marks)
	for _, m := range o.marks {
		place := slices.Index(sources, o.sources[m.source()])
		marks = append(marks, m&^((maxSources-1)<<hashBits)|mark64(place)<<hashBits)
	}
	slices.SortFunc(marks, func(a, b mark64) int { return cmp.Compare(a, b) })
	for i, m := range marks {
		if i > 0 && marks[i-1].time() == m.time() && (c.stat != Sum || marks[i-1].source() == m.source()) {
			return false
		}
	}
	c.sources, c.marks, c.doubt = sources, marks, c.doubt || o.doubt
	for _, b := range o.flags {
		c.accumulator(b.flag).join(b)
	}
	return true
}

// join adds the samples of another accumulator.
func (a *accumulator) join(b accumulator) {
	if a.count == 0 {
		*a = b
		return
	}
	last, at := a.last, a.lastTime
	if b.lastTime >= at {
		last, at = b.last, b.lastTime
	}
	smallest, largest, count := min(a.min, b.min), max(a.max, b.max), a.count+b.count
	a.add(at, b.sum, false)
	a.rest += b.rest
	a.min, a.max, a.last, a.lastTime, a.count = smallest, largest, last, at, count
	a.values = append(a.values, b.values...)
}

// join adds the closed windows of another ring, as far as this ring can cover their time.
func (r *ring) join(o *ring, k kind) {
	for _, p := range []*stretch{&o.other, &o.stretch} {
		for i := p.top - ringSize(k) + 1; i <= p.top; i++ {
			if p.has(i, k) && (r.bits == nil || r.other.bits == nil || r.covers(i, k) || r.other.covers(i, k)) {
				r.set(i, k)
			}
		}
	}
}
