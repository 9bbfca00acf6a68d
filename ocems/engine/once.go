package engine

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// kind is one kind of thing to say once. Of names that a sender chooses only the first few are said in an hour, so that a
// flood of them takes neither memory nor the log. Of configured names all are.
type kind uint8

const (
	refusedOwn     kind = iota // a reading of a configured series
	mixedSources               // of a configured series
	foreignKinds               // what follows is of names that a sender chooses
	refusedForeign             // a slot of a device or parameter that nobody has
	foreignDevice              // a reading of such a device
	foreignName                // a reading that is none of any device
	nearestDevice              // an error that offers the nearest of all devices
	kinds
)

const forgetAfter = time.Hour

// most is how many names of a kind are said in an hour, 0 for all.
func (k kind) most() int {
	switch {
	case k == nearestDevice:
		return 10 // among 20,000 devices one takes a tenth of a second
	case k > foreignKinds:
		return mostForeign
	}
	return 0
}

// once remembers what was said, a kind apart from the others: a flood of one kind does not silence another.
type once struct {
	mu   sync.Mutex
	said [kinds]struct {
		names map[uint64]struct{} // hashed: a name may be long
		since time.Time
	}
}

// first reports whether a name is new among those of its kind.
func (o *once) first(k kind, name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, most := &o.said[k], k.most()
	if s.names == nil || most > 0 && len(s.names) >= most && time.Since(s.since) >= forgetAfter {
		s.names, s.since = map[uint64]struct{}{}, time.Now()
	}
	hash := xxhash.Sum64String(name)
	if _, known := s.names[hash]; known || most > 0 && len(s.names) >= most {
		return false
	}
	s.names[hash] = struct{}{}
	return true
}
