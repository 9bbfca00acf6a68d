package main

import "slices"

// Repeated and contradicting metrics, and restarts of the sender. The random choices are those of the fed metrics.

// another adds repeated and contradicting metrics to the metrics of a minute.
func (v *victim) another(ms []metric) []metric {
	if v.values.IntN(12) == 0 { // the sender restarts in the middle of a window
		v.instance++
	}
	for i := range ms {
		ms[i].instance = v.instance
	}
	if n := len(v.fed); n > 0 {
		switch v.values.IntN(24) {
		case 0, 1: // the last batch, whose answer did not reach the sender
			ms = append(ms, v.again(n-len(ms), n)...)
		case 2: // part of a batch
			from := n - v.values.IntN(min(n, 4*batchSize*len(devices))) - 1
			ms = append(ms, v.again(from, from+1+v.values.IntN(batchSize))...)
		case 3: // a file, read twice
			from := v.values.IntN(n)
			ms = append(ms, v.again(from, from+v.values.IntN(60*batchSize))...)
		}
	}
	if m, ok := v.contradiction(ms); ok {
		ms = append(ms, m)
	}
	return ms
}

// afterKill returns the metrics that a sender repeats after a kill, from the first one without an answer.
func (v *victim) afterKill() []metric {
	if len(v.gaps) == 0 || v.values.IntN(2) == 0 {
		return nil
	}
	g := v.gaps[len(v.gaps)-1]
	const most = 1000
	return v.again(max(g.lo, g.hi-most), g.hi)
}

// again returns the fed metrics between two positions once more, from their old sender or from the current one.
func (v *victim) again(from, to int) []metric {
	out := slices.Clone(v.fed[max(from, 0):min(to, len(v.fed))])
	out = slices.DeleteFunc(out, func(m metric) bool { return m.contradicts }) // now it could arrive first
	if v.values.IntN(2) == 0 {
		for i := range out {
			out[i].instance = v.instance
		}
	}
	if len(out) > 0 {
		v.events["fed again"]++
	}
	return out
}

// contradiction sometimes returns an earlier metric, or a metric of the batch, with another flag or other values. The host
// certainly has the first metric, or loses it together with this one.
func (v *victim) contradiction(batch []metric) (m metric, ok bool) {
	if v.values.IntN(8) != 0 {
		return m, false
	}
	m = batch[v.values.IntN(len(batch))]
	if n := len(v.fed); n > 0 && v.values.IntN(2) == 0 {
		i := n - 1 - v.values.IntN(min(n, 10*batchSize*len(devices)))
		if m = v.fed[i]; m.contradicts || i < v.broken || v.gapOf(i) >= 0 {
			return m, false
		}
	}
	if v.values.IntN(2) == 0 {
		m.instance = v.instance
	}
	m.contradicts = true
	switch kind := v.values.IntN(3); {
	case kind == 0 && m.flag == "U":
		m.as = "M"
	case kind == 1:
		m.bod++
		fallthrough
	default:
		m.cod++
	}
	v.events["contradiction"]++
	return m, true
}

// gapOf returns the index of the gap that contains the position, or -1. Metrics in a gap may be lost.
func (v *victim) gapOf(fed int) int {
	return slices.IndexFunc(v.gaps, func(g gap) bool { return g.lo <= fed && fed < g.hi })
}
