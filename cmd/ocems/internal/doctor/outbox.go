package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// oldSlot is how long a slot may wait before it is worth a word.
const oldSlot = time.Hour

// outbox says what waits on disk. Which devices are held is not there: the host finds that out anew after each start.
func (e *examination) outbox(ctx context.Context, o *hostconfig.Output, reg *registry.Registry) {
	if o.State == nil {
		return
	}
	s, err := store.Snapshot(o.State.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.add("state", OK, "", "%s: not begun yet", o.State.File)
		return
	case errors.Is(err, fs.ErrPermission):
		e.add("state", Skipped, "", "%v: run this as the service's user", err)
		return
	case errors.Is(err, store.ErrBusy):
		e.add("state", Skipped, "", "%v", err)
		return
	case errors.Is(err, store.ErrNewer), errors.Is(err, store.ErrOlder):
		e.add("state", Failed, "see the log of the host, which does not start with it", "%v", err)
		return
	case err != nil:
		e.add("state", Failed, "see the log of the host, which sets a damaged file aside and goes on", "%v", err)
		return
	}
	defer s.Close()
	open, err := engine.OpenWindows(ctx, s, o.Rules)
	if err != nil {
		e.add("state", Failed, "start the host and see its log", "%s: %v", o.State.File, err)
		return
	}
	e.add("state", OK, "", "%s: open windows %d", o.State.File, len(open))
	if !o.Slots {
		e.queues(ctx, s, o, reg)
	}
}

func (e *examination) queues(ctx context.Context, s store.Store, o *hostconfig.Output, reg *registry.Registry) {
	queues, err := delivery.Queues(ctx, s)
	if err != nil {
		e.add("outbox", Failed, "start the host and see its log", "%s: %v", o.State.File, err)
		return
	}
	const most = 20 // lines: a hub has thousands of devices
	waiting, slots, warned := 0, 0, 0
	warn := func(do, format string, args ...any) {
		if warned++; warned <= most {
			e.add("outbox", Warning, do, format, args...)
		}
	}
	for _, q := range queues {
		if q.Err != nil {
			warn("start the host: it keeps the damaged value and goes on with the rest", "%v", q.Err)
		}
		if len(q.Stamps) == 0 {
			continue
		}
		waiting++
		slots += len(q.Stamps)
		line := fmt.Sprintf("device %s: slots waiting %d, the oldest %s", q.Device, len(q.Stamps), spec.ISTString(q.Stamps[0]))
		known := false
		if reg != nil {
			_, known = reg.Device(q.Device)
		}
		switch age := time.Since(q.Stamps[0]); {
		case reg != nil && !known:
			warn("put the device back into the configuration, or name it in formerly of the device that it is now; else its slots expire", "%s: the configuration has no such device", line)
		case age > oldSlot && !o.DryRun:
			warn("see ocems status for why: the board refuses the device or does not answer, or a person is to decide; ocems preview shows what waits", "%s", line)
		case waiting <= most:
			e.add("outbox", OK, "", "%s", line)
		}
	}
	if warned > most {
		e.add("outbox", Warning, "ocems preview shows all devices", "warnings of the same kinds: %d more", warned-most)
	}
	e.add("outbox", OK, "", "devices that wait %d, slots %d; whether a device is held is in the host's log and metrics only", waiting, slots)
}

// DeviceIDs are the ids of a registry's devices; none of nil.
func DeviceIDs(reg *registry.Registry) (ids []string) {
	if reg == nil {
		return nil
	}
	for _, d := range reg.Devices() {
		ids = append(ids, d.DeviceID)
	}
	return ids
}
