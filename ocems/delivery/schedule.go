package delivery

import (
	"container/heap"
	"time"
)

// standing is the result of a device's last request.
type standing int

const (
	unasked   standing = iota // no request yet in this process
	answering                 // answered
	failing                   // failed soon: refused, or a page instead of an answer
	hanging                   // no answer for longer than patience
)

// schedule has the queues with something to send. Due queues are separated by standing, so that a queue that may not
// send now does not block the others.
type schedule struct {
	waiting byDue
	due     [hanging + 1]byDue
}

// set puts a queue in its place, or removes it if it has nothing to send.
func (s *schedule) set(q *queue) {
	if q.in != nil {
		heap.Remove(q.in, q.index)
	}
	if _, due, ok := q.pick(); !q.busy() && ok {
		q.due = due
		s.waiting.add(q)
	}
}

// next removes and returns a due queue with an admitted standing, or returns the time until another is due. The queue
// that is due longest comes first, so that a backlog is sent evenly; devices that hang come last.
func (s *schedule) next(now time.Time, admits func(standing) bool) (q *queue, wait time.Duration) {
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		q := heap.Pop(&s.waiting).(*queue)
		s.due[q.standing].add(q)
	}
	for st := range hanging + 1 {
		if h := s.due[st]; len(h) > 0 && admits(st) && (q == nil || st != hanging && h[0].due.Before(q.due)) {
			q = h[0]
		}
	}
	switch {
	case q != nil:
		heap.Remove(q.in, q.index)
		return q, 0
	case len(s.waiting) > 0:
		return nil, s.waiting[0].due.Sub(now)
	}
	return nil, forever
}

// forever is the longest sleep. Any event wakes the sleeper earlier.
const forever = time.Hour

// byDue is a heap of queues by due time. It implements [heap.Interface].
type byDue []*queue

func (h *byDue) add(q *queue) {
	q.in = h
	heap.Push(h, q)
}

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *byDue) Push(x any) {
	q := x.(*queue)
	q.index = len(*h)
	*h = append(*h, q)
}

// Pop implements [heap.Interface].
func (h *byDue) Pop() any {
	all := *h
	q := all[len(all)-1]
	q.in = nil
	all[len(all)-1] = nil
	*h = all[:len(all)-1]
	return q
}
