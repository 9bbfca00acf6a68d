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

// known remembers which parameters readings are, by all that their host says of them besides time and value. What is no
// device's parameter takes no room here.
type known struct {
	mu      sync.RWMutex
	of      registry.Version
	metrics map[string]points
	entries int
}

// points are the readings of one metric, by what they do not have in common.
type points map[string]*entry

// entry is what one reading is.
type entry struct {
	key     string // in its points
	matches []match
	next    atomic.Pointer[entry] // that came after it, which comes after it again: most senders keep an order
	sources atomic.Uint64         // Engine.sourcesEra, when the reading's source was known
	one     [1]match              // of matches, where there is one: beside the rest, since there are many entries
}

// match is one parameter that a reading is of.
type match struct {
	head
	device *registry.Device
	flag   spec.Flag
	rules  *registry.Rules // nil where a reading's time and value may be anything
}

func matchOf(m registry.Match, source uint64) match {
	s := slot.Series{Device: m.Device.DeviceID, Parameter: m.Parameter, Diagnostic: m.Diagnostic}
	x := match{head{Series: s, Unit: m.Unit, Statistic: m.Statistic, Source: source, MaxStep: m.Rules.MaxStep}, m.Device, m.Flag, nil}
	if m.Rules.EndStamped || m.Rules.LeavesOut() {
		x.rules = m.Rules
	}
	return x
}

// fresh is an entry that a batch has found.
type fresh struct {
	metric string
	*entry
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
	b.known, b.points, b.last, b.fresh = nil, nil, nil, nil
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
		for _, f := range list {
			f.next.Store(nil) // it would hold those of before
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

// most is how many entries are remembered: some for each series that the configuration names, since its senders may change
// what else they say.
func most(names *registry.Registry) int { return 1000 + 4*names.Series() }

// Asks reports whether an attribute may say what a metric is: [registry.Version.Asks].
func (b *Batch) Asks(key string) bool { return b.of.Asks(key) }

// Metric says what the readings that are added next have in common: two of the same key here and in AddAs are named alike.
// The key must stay as it is until the next one.
func (b *Batch) Metric(key []byte) { b.points, b.metric, b.last = b.known[string(key)], key, nil }

// AppendText adds a text to a key of Metric or AddAs, so that it is not taken for another with what follows.
func AppendText(key []byte, text string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(text))), text...)
}

// AddAs is Add where a reading of the same metric and key may be known. name is what it is otherwise; its time, value, fault
// and exit are of no account.
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

// find finds an entry, first where it was the last time.
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

// follow notes that an entry has come after the one before.
func (b *Batch) follow(x *entry) {
	if b.last != nil {
		b.last.next.Store(x)
	}
	b.last = x
}
