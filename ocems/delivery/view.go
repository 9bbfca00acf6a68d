package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
)

// Reader is what is needed to look at a stored outbox: Store.Get alone. What it reads must not change meanwhile, so a
// host that runs is looked at in a copy.
type Reader interface {
	Get(ctx context.Context, key string) ([]byte, error)
}

// Queue is what a stored outbox holds for one device.
type Queue struct {
	Device string
	Stamps []time.Time // of the waiting slots, oldest first
	Err    error       // why not all of them are here: the index is damaged, which the host mends when it starts
}

// Queues lists the devices of a stored outbox, and those of more that it has without naming them, as New finds them, sorted
// by id. Which of them are held is not stored: a Delivery finds that out anew after each start.
func Queues(ctx context.Context, stored Reader, more []string) ([]Queue, error) {
	value, err := stored.Get(ctx, devicesKey)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	var names []string
	if value != nil {
		if names, err = decodeDevices(value); errors.Is(err, errNewer) {
			return nil, fmt.Errorf("reading the outbox: %w", err)
		}
	}
	var queues []Queue
	seen := map[string]bool{}
	for _, device := range slices.Concat(names, more) {
		if seen[device] {
			continue
		}
		seen[device] = true
		value, err := stored.Get(ctx, indexKey(device))
		if err != nil {
			return nil, fmt.Errorf("reading the outbox: %w", err)
		}
		if value == nil {
			continue
		}
		q := Queue{Device: device}
		stamps, err := decodeIndex(value)
		if err != nil {
			q.Err = fmt.Errorf("the index of device %q: %w", device, err)
		}
		for _, s := range stamps {
			q.Stamps = append(q.Stamps, time.UnixMilli(s))
		}
		queues = append(queues, q)
	}
	slices.SortFunc(queues, func(a, b Queue) int { return cmp.Compare(a.Device, b.Device) })
	return queues, nil
}

// Requests returns what a Delivery would send for one waiting slot: one record, or two where a calibration point and an
// average of one parameter end together. Parameters that the server refused since the host started are left out by the
// host, and not here: they are not stored.
func Requests(ctx context.Context, stored Reader, device string, stamp time.Time, to Target) ([]payload.Record, error) {
	value, err := stored.Get(ctx, slotKey(device, stamp.UnixMilli()))
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	if value == nil {
		return nil, fmt.Errorf("reading the outbox: it holds no slot of device %q for its stamp", device)
	}
	rs, err := decodeReadings(value, stamp.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("reading a slot of device %q: %w", device, err)
	}
	a := attempt{l: &lane{device: device}, target: to}
	var records []payload.Record
	for _, one := range requests(rs) {
		records = append(records, a.record(one))
	}
	return records, nil
}
