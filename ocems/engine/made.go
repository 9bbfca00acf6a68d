package engine

import (
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// made are the refused slots of those that were made upstream. The first of a slot, series and reason is in the trail
// before the batch is accepted, since no state has it. What repeats it is in a line of the next quarter of an hour.
type made struct {
	mu sync.Mutex
	refusals
}

// refuseMade refuses slots, and writes the lines whose time has come. The error is that a line waits in memory: what comes
// again meanwhile is counted again.
func (e *Engine) refuseMade(list []sample, now time.Time) error {
	m := &e.made
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lines == nil {
		m.refusals = newRefusals()
	}
	for _, x := range list {
		stamp := x.Time
		if x.reason == offGrid {
			stamp = e.stamp(x.Time, x.Flag)
		}
		e.refuseSlot(&m.refusals, x, x.fault, stamp, now)
	}
	e.noteMade(func(last time.Time) bool { return now.Sub(last).Abs() >= spec.SlotLength }, now)
	if e.backlog == nil {
		return nil
	}
	return e.backlog.Append()
}

// noteMade writes the lines of which none was written, or of which the last one is long ago.
func (e *Engine) noteMade(longAgo func(last time.Time) bool, now time.Time) {
	m := &e.made
	var due []*refused
	for key, l := range m.lines {
		if last, ok := m.noted[key]; ok && !longAgo(last) {
			continue
		}
		due = append(due, l)
		delete(m.lines, key)
		m.noted[key] = now
	}
	if len(m.noted) > mostRefusals {
		clear(m.noted)
	}
	if len(due) > 0 {
		e.note(due)
	}
}
