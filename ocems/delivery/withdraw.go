package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	aligner "github.com/ocems-io/ocems/ocems/slot" // this package has a type slot
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// Withdrawn is a waiting reading that may be in the wrong slot, because the clock was wrong when it was taken.
type Withdrawn struct {
	Device  string
	Reading payload.Reading
}

// Withdrawal is a set of readings to withdraw together. It is tried again until it is stored.
type Withdrawal struct {
	Readings []Withdrawn
	logged   bool // it is in the trail
}

// Withdraw finds the waiting readings of eras of the clock.
func (d *Delivery) Withdraw(ctx context.Context, eras []uint64) (*Withdrawal, error) {
	var list []Withdrawn
	err := d.cfg.Store.Range(ctx, prefix, func(key string, value []byte) error {
		id, ok := parseKey(key)
		if !ok || d.hasLeft(id) {
			return nil
		}
		rs, _, err := decodeReadings(value, id.stamp)
		if errors.Is(err, frame.ErrDamaged) {
			return nil // the writer keeps a damaged value
		}
		for _, r := range rs {
			if r.Era != 0 && slices.Contains(eras, r.Era) {
				list = append(list, Withdrawn{id.device, r})
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	return &Withdrawal{Readings: list}, nil
}

// hasLeft reports that the outcome of a slot is known, so it must not be withdrawn.
func (d *Delivery) hasLeft(id slotID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slot(id)
	return d.done.has(id) || s != nil && s.leaving
}

// names returns x, and x under the current names if its slot was moved since it was found.
func (x Withdrawn) names(d *Delivery) []Withdrawn {
	if t, known := d.cfg.Lookup(x.Device); known {
		if r, _ := t.current(x.Reading); t.DeviceID != x.Device || r.Parameter != x.Reading.Parameter {
			return []Withdrawn{x, {t.DeviceID, r}}
		}
	}
	return []Withdrawn{x}
}

func (x Withdrawn) entry(d *Delivery) audit.Entry {
	r := x.Reading
	t, _ := d.cfg.Lookup(x.Device)
	return audit.Entry{Outcome: audit.Refused, Station: t.StationID, Device: x.Device, Stamp: r.Stamp.UnixMilli(),
		Readings: audit.Readings([]payload.Reading{r}), Parameter: r.Parameter, Reason: string(aligner.WrongClock), Count: max(r.Samples, 1),
		Detail: "the slot was made while the clock was not confirmed, and the clock was then corrected"}
}
