package audit

import (
	"fmt"
	"sync"
	"time"
)

// maxWaiting is how many entries a Backlog keeps for a trail that cannot be written.
const maxWaiting = 10_000

// Backlog appends what has happened already and cannot be given back, such as a refused sample: while the trail cannot be
// written, its entries wait in memory, and go with the next. It is safe for concurrent use.
type Backlog struct {
	Trail *Trail

	mu      sync.Mutex
	waiting []Entry
}

// Append writes what waits and then the entries; none are given to write what waits. After an error they wait, or those
// that are too many are gone, and it says so.
func (b *Backlog) Append(entries ...Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if e.Time.IsZero() {
			e.Time = time.Now() // not when it can be written
		}
		b.waiting = append(b.waiting, e)
	}
	err := b.Trail.Append(b.waiting...)
	if err == nil {
		b.waiting = nil
		return nil
	}
	if n := len(b.waiting) - maxWaiting; n > 0 {
		b.waiting = b.waiting[:maxWaiting]
		err = fmt.Errorf("%w; %d lines are left out, since %d wait already", err, n, maxWaiting)
	}
	return err
}
