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

// oldSlot is how long a slot may wait without a warning.
const oldSlot = time.Hour

// outbox shows the waiting slots on disk. The disk does not have which devices are held: the host learns that after each start.
func (e *examination) outbox(ctx context.Context, o *hostconfig.Output, reg *registry.Registry) {
	if o.State == nil {
		return
	}
	s, err := store.Snapshot(o.State.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.add("state", OK, "", "%s: does not exist yet", o.State.File)
		return
	case errors.Is(err, fs.ErrPermission):
		e.add("state", Skipped, "", "%v: run this as the service's user", err)
		return
	case errors.Is(err, store.ErrBusy):
		e.add("state", Skipped, "", "%v", err)
		return
	case errors.Is(err, store.ErrNewer), errors.Is(err, store.ErrOlder):
		e.add("state", Failed, "see the log of the host, which does not start with this file", "%v", err)
		return
	case err != nil:
		e.add("state", Failed, "see the log of the host, which sets a damaged file aside and continues", "%v", err)
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
			warn("start the host: it sets the damaged value aside and continues with the rest", "%v", q.Err)
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
			warn("put the device back into the configuration, or name it in formerly of the device that replaces it; otherwise its slots expire", "%s: the configuration does not have this device", line)
		case age > oldSlot && !o.DryRun:
			warn("see ocems status for the reason: the board refuses the device or does not answer, or a person must decide; ocems preview shows the waiting slots", "%s", line)
		case waiting <= most:
			e.add("outbox", OK, "", "%s", line)
		}
	}
	if warned > most {
		e.add("outbox", Warning, "ocems preview shows all devices", "warnings of the same kinds: %d more", warned-most)
	}
	e.add("outbox", OK, "", "devices with waiting slots %d, slots %d; ocems status shows which devices are held", waiting, slots)
}

// DeviceIDs are the ids of a registry's devices; none if it is nil.
func DeviceIDs(reg *registry.Registry) (ids []string) {
	if reg == nil {
		return nil
	}
	for _, d := range reg.Devices() {
		ids = append(ids, d.DeviceID)
	}
	return ids
}
