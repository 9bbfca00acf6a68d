package engine

import "sync"

const mostKinds = 10_000 // names remembered of one kind, so that a flood of names takes no memory

// once remembers what was logged, a kind apart from the others: a flood of one kind does not silence another.
type once struct {
	mu   sync.Mutex
	seen map[string]map[string]bool
}

// first reports whether key is new among those of its kind.
func (o *once) first(kind, key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.seen[kind]
	if known[key] || len(known) >= mostKinds {
		return false
	}
	if known == nil {
		known = map[string]bool{}
		if o.seen == nil {
			o.seen = map[string]map[string]bool{}
		}
		o.seen[kind] = known
	}
	known[key] = true
	return true
}
