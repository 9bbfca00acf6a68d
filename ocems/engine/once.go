package engine

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// kind is a kind of message that is logged once for each name. For names that a sender chooses, only a limited number
// is logged in an hour, so that a flood of names fills neither memory nor log. For configured names there is no limit.
type kind uint8

const (
	refusedOwn     kind = iota // a reading of a configured series
	mixedSources               // of a configured series
	foreignKinds               // the kinds below have names that a sender chooses
	refusedForeign             // a slot of an unknown device or parameter
	foreignDevice              // a reading of an unknown device
	foreignName                // a reading that belongs to no device
	nearestDevice              // an error that suggests the nearest device
	kinds
)

const forgetAfter = time.Hour

// most is how many names of a kind are logged in an hour; 0: no limit.
func (k kind) most() int {
	switch {
	case k == nearestDevice:
		return 10 // with 20,000 devices, one search takes a tenth of a second
	case k > foreignKinds:
		return mostForeign
	}
	return 0
}

// once remembers logged names, separately for each kind: a flood of one kind does not silence another.
type once struct {
	mu   sync.Mutex
	said [kinds]struct {
		names map[uint64]struct{} // hashed, because a name may be long
		since time.Time
	}
}

// first reports whether a name is new in its kind.
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
