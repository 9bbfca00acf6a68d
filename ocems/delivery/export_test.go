package delivery

import "time"

// Waiting returns the waiting slots by device.
func Waiting(d *Delivery) map[string][]time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string][]time.Time{}
	for device, q := range d.queues {
		for t, ok := q.stamps.next(everBefore, (*word).waiting); ok; t, ok = q.stamps.next(t+1, (*word).waiting) {
			all[device] = append(all[device], time.UnixMilli(t))
		}
	}
	return all
}

// Known counts the slots with details beside waiting.
func Known(d *Delivery) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		n += len(q.slots)
	}
	return n
}
