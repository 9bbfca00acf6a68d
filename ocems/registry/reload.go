package registry

import (
	"context"
	"fmt"
	"time"
)

const (
	answerWithin = 10 * time.Second // limit for reading the files
	restFor      = time.Second      // at the start a devices_file must not change for this time
)

// look reads the files in a goroutine. It gives up after answerWithin if the disk does not answer. Until that goroutine ends,
// no second one starts.
func (r *Registry) look(ctx context.Context, read func() look) (look, error) {
	if r.asked == nil {
		answer := make(chan look, 1)
		r.asked = answer
		go func() { answer <- read() }()
	}
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case l := <-r.asked:
		r.asked = nil
		return l, l.err
	case <-timer.C:
		return look{}, fmt.Errorf("the devices_file, or a file that the configuration names, cannot be read within %s: check its disk or network mount", answerWithin)
	case <-ctx.Done():
		return look{}, ctx.Err()
	}
}

// first reads the files at the start. A devices_file with a recent change may be incomplete, so first waits until it does not
// change for restFor.
func (r *Registry) first() look {
	for range 8 {
		l := r.secret()
		age := time.Since(l.modified)
		if r.file == "" || age < 0 || age >= restFor {
			return l
		}
		time.Sleep(restFor - age)
		if _, v, err := readVersion(r.file); err == nil && v.is(l.version) {
			return l
		}
	}
	return look{err: fmt.Errorf("devices_file: %s is still being written; start again when it is complete", r.file)}
}

// Reload looks at the devices_file and reports whether it now uses new devices. It uses a file when two looks find the same
// content, so that the file is complete. A file with less than half of the current devices must be the same at one more look.
// A faulty file changes nothing: the previous devices stay until it is corrected.
func (r *Registry) Reload(ctx context.Context) (changed bool, err error) {
	if r.file == "" {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, next := r.seen, r.next
	l, err := r.look(ctx, func() look {
		_, v, err := readVersion(r.file)
		if err != nil || v.is(seen) || !v.is(next) {
			return look{nil, v, err}
		}
		return r.secret()
	})
	r.next = l.version
	if err != nil {
		return false, fmt.Errorf("reading the devices_file again: %w", err)
	}
	if l.snapshot == nil || !l.is(next) {
		return false, nil
	}
	if n, before := len(l.ids), len(r.now.Load().ids); 2*n < before && !l.is(r.few) {
		r.few = l.version
		return false, fmt.Errorf("the devices_file %s has only %d devices of %d: it is used if the next look finds the same content", r.file, n, before)
	}
	r.seen = l.version
	r.before.Store(r.now.Load())
	r.now.Store(l.snapshot)
	return true, nil
}

// Watch reloads at the given interval until ctx ends. It calls onChange after each change, and onError for each error that
// differs from the one before.
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
		changed, err := r.Reload(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			reported = ""
		} else if text := err.Error(); text != reported {
			reported = text
			onError(err)
		}
		if changed {
			onChange()
		}
	}
}
