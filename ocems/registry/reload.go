package registry

import (
	"context"
	"fmt"
	"time"
)

// Reload reads the devices_file again when its time, size or content has changed, and says whether it did. A faulty
// file changes nothing: the previous devices stay until it is corrected.
func (r *Registry) Reload() (changed bool, err error) {
	if r.file == "" {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, v, err := readVersion(r.file)
	if err != nil {
		return false, fmt.Errorf("reading the devices_file again: %w", err)
	}
	if v.modified.Equal(r.seen.modified) && v.sum == r.seen.sum {
		return false, nil
	}
	s, v, err := r.read()
	if err != nil {
		return false, fmt.Errorf("reading the devices_file again: %w", err)
	}
	r.seen = v
	r.before.Store(r.now.Load())
	r.now.Store(s)
	return true, nil
}

// Watch reloads at the given interval until ctx ends. It calls onChange after each change, and onError when a reload
// fails otherwise than the one before. Either may be nil.
func (r *Registry) Watch(ctx context.Context, every time.Duration, onChange func(), onError func(error)) {
	if r.file == "" {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var reported string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := r.Reload()
		if err == nil {
			reported = ""
		} else if text := err.Error(); text != reported {
			reported = text
			if onError != nil {
				onError(err)
			}
		}
		if changed && onChange != nil {
			onChange()
		}
	}
}
