package engine

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// known caches which parameters a reading belongs to, by all that its host says of it besides time and value. Only
// readings of configured parameters are cached.
type known struct {
	mu      sync.RWMutex
	of      registry.Version
	metrics map[string]points
	entries int
}

// points are the readings of one metric, by the part of the key that differs.
type points map[string]*entry

// entry is the cached meaning of one reading.
type entry struct {
	key     string // in points
	matches []match
	next    atomic.Pointer[entry] // entry that followed this one last time: most senders keep an order
	sources atomic.Uint64         // Engine.sourcesEra when the reading's source was known
	one     [1]match              // backs matches if there is one, which saves an allocation in many entries
}

// match is one parameter that a reading belongs to.
type match struct {
	head
	device *registry.Device
	flag   spec.Flag
	rules  *registry.Rules // nil if no rule depends on a reading's time or value
}

func matchOf(m registry.Match, source uint64) match {
	s := slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic}
	x := match{head{Series: s, Unit: m.Unit, Statistic: m.Statistic, Source: source, MaxStep: m.Rules.MaxStep}, m.Device, m.Flag, nil}
	if m.Rules.EndStamped || m.Rules.LeavesOut() {
		x.rules = m.Rules
	}
	return x
}

// fresh is an entry that a batch adds to the cache.
type fresh struct {
	metric string
	*entry
}

// Fill lets a host add many readings with AddAs.
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
	b.known, b.points, b.last, b.fresh = nil, nil, nil, nil
}

// put caches entries if the registry has not changed since they were found.
func (k *known) put(of registry.Version, names *registry.Registry, list []fresh) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if names.Version() != of {
		return
	}
	if k.of != of || k.entries+len(list) > most(names) {
		k.of, k.metrics, k.entries = of, map[string]points{}, 0
		for _, f := range list {
			f.next.Store(nil) // it would keep old entries alive
		}
	}
	for _, f := range list {
		p := k.metrics[f.metric]
		if p == nil {
			p = points{}
			k.metrics[f.metric] = p
		}
		if p[f.key] == nil {
			p[f.key] = f.entry
			k.entries++
		}
	}
}

// most is how many entries are cached: several for each configured series, because its senders may change attributes.
func most(names *registry.Registry) int { return 1000 + 4*names.Series() }

// Asks reports whether an attribute may decide what a metric means: [registry.Version.Asks].
func (b *Batch) Asks(key string) bool { return b.of.Asks(key) }

// Metric sets the common part of the key for the readings added next: readings with equal keys here and in AddAs have
// equal names. The caller must not change key before the next Metric.
func (b *Batch) Metric(key []byte) { b.points, b.metric, b.last = b.known[string(key)], key, nil }

// AppendText adds a text to a key of Metric or AddAs with its length, so that it cannot be confused with what follows.
func AppendText(key []byte, text string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(text))), text...)
}

// AddAs is Add for a reading whose metric and key may be cached. name returns the reading if they are not; its time,
// value, fault and exit are ignored.
func (b *Batch) AddAs(key []byte, at time.Time, value float64, fault string, exit uint8, name func() Reading) (named bool) {
	x := b.find(key)
	if x == nil {
		r := name()
		r.Time, r.Value, r.Fault, r.Exit = at, value, fault, exit
		x = &entry{key: string(key)}
		x.sources.Store(b.e.sourcesEra.Load())
		x.matches, named = b.name(r, x.one[:0])
		if len(x.matches) > 0 {
			b.fresh = append(b.fresh, fresh{string(b.metric), x})
			b.follow(x)
		}
		return named
	}
	if era := b.e.sourcesEra.Load(); x.sources.Load() != era {
		b.e.know(name().Source.some())
		x.sources.Store(era)
	}
	for i := range x.matches {
		b.addMatch(&x.matches[i], at, value, fault, exit)
	}
	return true
}

// find looks an entry up, first where it was last time.
func (b *Batch) find(key []byte) *entry {
	if b.last != nil {
		if b.last.key == string(key) {
			return b.last
		}
		if x := b.last.next.Load(); x != nil && x.key == string(key) {
			b.last = x
			return x
		}
	}
	x := b.points[string(key)]
	if x != nil {
		b.follow(x)
	}
	return x
}

// follow records that an entry came after the previous one.
func (b *Batch) follow(x *entry) {
	if b.last != nil {
		b.last.next.Store(x)
	}
	b.last = x
}
