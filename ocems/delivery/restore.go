package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// damage is a value that cannot be read, on its way to the key under which it is kept.
type damage struct {
	key, to string
	value   []byte
	entry   audit.Entry
	audited bool
}

// setAside has the writer keep a damaged value with its next batch, a slot's in place of where it was. The log names the
// key and never the content.
func (d *Delivery) setAside(key string, value []byte, device string, stamp int64) {
	if slices.ContainsFunc(d.damaged, func(x damage) bool { return x.key == key }) {
		return // found again: the batch that was to keep it failed
	}
	to := damagedKey(key, time.Now())
	d.cfg.Logger.Error("a value of the outbox is damaged: it is kept under another key, and the rest goes on",
		"key", key, "bytes", len(value), "kept_as", to)
	d.damaged = append(d.damaged, damage{key: key, to: to, value: value, entry: audit.Entry{Outcome: audit.Recovered,
		Device: device, Stamp: stamp, Detail: fmt.Sprintf("the outbox's key %q, %d bytes, is damaged and kept as %q", key, len(value), to)}})
	if stamp != 0 {
		d.mended = append(d.mended, Op{Key: key})
	}
}

// restore reads the outbox. All of it is read before anything is written, so that a newer version's state stays as it is.
func (d *Delivery) restore(ctx context.Context) error {
	value, err := d.cfg.Store.Get(ctx, devicesKey)
	if err != nil {
		return err
	}
	var listed []string
	if value != nil {
		listed, err = decodeDevices(value)
		if errors.Is(err, errNewer) {
			return fmt.Errorf("the list of devices: %w", err)
		}
		if err != nil {
			d.setAside(devicesKey, value, "", 0)
		}
	}
	names := slices.Clone(listed)
	if d.cfg.Devices != nil {
		names = append(names, d.cfg.Devices()...)
	}
	for i, device := range names {
		if d.lanes[device] != nil {
			continue
		}
		if err := d.restoreLane(ctx, device, err == nil && i < len(listed)); err != nil {
			return err
		}
		if d.lanes[device] != nil {
			d.devices = append(d.devices, device)
		}
	}
	if err != nil || len(d.devices) != len(listed) {
		d.mended = append(d.mended, Op{devicesKey, encodeDevices(d.devices)})
	}
	return nil
}

// adopt reads the lane of a device that the list did not name: the list may have been lost.
func (d *Delivery) adopt(ctx context.Context, device string) error {
	lane := func() *lane {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.lanes[device]
	}
	if lane() != nil {
		return nil
	}
	if err := d.restoreLane(ctx, device, false); err != nil || lane() == nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.devices = append(slices.Clone(d.devices), device)
	d.mended = append(d.mended, Op{devicesKey, encodeDevices(d.devices)})
	return nil
}

// restoreLane reads a device's index and checks each of its slots. A device that is not known to have an index, and has
// none, is no lane.
func (d *Delivery) restoreLane(ctx context.Context, device string, known bool) error {
	value, err := d.cfg.Store.Get(ctx, indexKey(device))
	if err != nil || value == nil && !known {
		return err
	}
	stamps, err := decodeIndex(value)
	mend := err != nil
	switch {
	case errors.Is(err, errNewer):
		return fmt.Errorf("the index of device %q: %w", device, err)
	case mend:
		if value != nil {
			d.setAside(indexKey(device), value, device, 0)
		}
		if stamps, err = d.probe(ctx, device, stamps); err != nil {
			return err
		}
		d.cfg.Logger.Error("the index of a device was damaged or lost and is made anew of the slots that are found",
			"device", device, "slots", len(stamps))
	}
	now := time.Now()
	var slots []*slot
	for _, stamp := range stamps {
		_, value, err := d.load(ctx, place{device, stamp})
		switch {
		case errors.Is(err, errNewer), ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case errors.Is(err, errDamaged):
			d.setAside(slotKey(device, stamp), value, device, stamp)
			mend = true
			continue
		}
		slots = append(slots, &slot{stamp: stamp, ready: now}) // what cannot be read now is read again when its turn comes
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lane(device)
	l.slots = slots
	if mend {
		d.mended = append(d.mended, Op{indexKey(device), encodeIndex(l.stamps())})
	}
	d.schedule(l)
	return nil
}

// probe finds the slots of a device without its index: of the stamps that the index still shows and of all that a
// reading may have. Without an answer of the server readings are kept a day longer than 7, see clock.
func (d *Delivery) probe(ctx context.Context, device string, hints []int64) (stamps []int64, err error) {
	const ahead = time.Hour // of a clock that was set back
	now := time.Now()
	at, _ := spec.Window(now.Add(-spec.MaxAge-24*time.Hour), spec.SlotLength)
	for ; at.Before(now.Add(ahead)); at = at.Add(spec.CalibrationLength) { // every slot is on this grid too
		hints = append(hints, at.UnixMilli())
	}
	slices.Sort(hints)
	for _, stamp := range slices.Compact(hints) {
		value, err := d.cfg.Store.Get(ctx, slotKey(device, stamp))
		if err != nil {
			return nil, err
		}
		if value != nil {
			stamps = append(stamps, stamp)
		}
	}
	return stamps, ctx.Err()
}
