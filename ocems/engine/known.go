package engine

import (
	"bytes"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// known remembers which parameters readings are, by all that their host says of them besides time and value. What is no
// device's parameter takes no room here.
type known struct {
	mu      sync.RWMutex
	of      registry.Version
	metrics map[string]points
	entries int
}

// points are the readings of one metric, by what they do not have in common.
type points map[string]entry

type entry struct {
	matches []match
	sources uint64 // Engine.sourcesEra, when the reading's source was known
}

// match is one parameter that a reading is of.
type match struct {
	head
	device *registry.Device
	flag   spec.Flag
}

// fresh is an entry that a batch has found.
type fresh struct {
	metric, point string
	entry
}

// Fill lets a host add many readings by AddAs.
func (b *Batch) Fill(add func()) {
	k := &b.e.known
	b.of = b.e.names.Version()
	func() {
		k.mu.RLock()
		defer k.mu.RUnlock()
		if k.of == b.of {
			b.known = k.metrics
		}
		add()
	}()
	if len(b.fresh) > 0 {
		k.put(b.of, b.e.names, b.fresh)
	}
	b.known, b.points, b.fresh = nil, nil, nil
}

// put remembers entries, if the registry is still as it was when they were found.
func (k *known) put(of registry.Version, names *registry.Registry, list []fresh) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if names.Version() != of {
		return
	}
	if k.of != of || k.entries+len(list) > most(names) {
		k.of, k.metrics, k.entries = of, map[string]points{}, 0
	}
	for _, f := range list {
		p := k.metrics[f.metric]
		if p == nil {
			p = points{}
			k.metrics[f.metric] = p
		}
		before := len(p)
		p[f.point] = f.entry
		k.entries += len(p) - before
	}
}

// most is how many entries are remembered: some for each series that the configuration names, since its senders may change
// what else they say.
func most(names *registry.Registry) int { return 1000 + 4*names.Series() }

// Asks reports whether an attribute may say what a metric is: [registry.Version.Asks].
func (b *Batch) Asks(key string) bool { return b.of.Asks(key) }

// Metric says what the readings that are added next have in common: two of the same key here and in AddAs are named alike.
// The key must stay as it is until the next one.
func (b *Batch) Metric(key []byte) { b.points, b.metric, b.last = b.known[string(key)], key, entry{} }

// AddAs is Add where a reading of the same metric and key may be known. name is what it is otherwise; its time, value, fault
// and exit are of no account.
func (b *Batch) AddAs(key []byte, at time.Time, value float64, fault string, exit uint8, name func() Reading) (named bool) {
	sources := b.e.sourcesEra.Load()
	if !bytes.Equal(key, b.point) || b.last.matches == nil {
		b.point, b.last = append(b.point[:0], key...), b.points[string(key)]
	}
	if b.last.matches != nil && b.last.sources == sources {
		for i := range b.last.matches {
			b.addMatch(&b.last.matches[i], at, value, fault, exit)
		}
		return true
	}
	r := name()
	r.Time, r.Value, r.Fault, r.Exit = at, value, fault, exit
	matches, named := b.name(r)
	if len(matches) > 0 {
		b.last = entry{matches, sources}
		b.fresh = append(b.fresh, fresh{string(b.metric), string(key), b.last})
	}
	return named
}
