package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// Withdrawn is a waiting reading whose slot it does not belong to: the clock that it was taken by was wrong.
type Withdrawn struct {
	Device  string
	Reading payload.Reading
}

// Withdrawal is what is withdrawn at once. It is tried again until it is stored.
type Withdrawal struct {
	Readings []Withdrawn
	logged   bool // the trail has it
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
			return nil // the writer keeps it
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

// hasLeft reports that a slot is not to be withdrawn: its outcome is known.
func (d *Delivery) hasLeft(id slotID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slot(id)
	return d.done.has(id) || s != nil && s.leaving
}

// names are x and what it is called where it was taken over since it was found.
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
		Readings: audit.Readings([]payload.Reading{r}), Parameter: r.Parameter, Reason: "clock", Count: max(r.Samples, 1),
		Detail: "the slot was made by a clock that nobody had confirmed, and that was then set"}
}
