package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/store"
)

// reported is what a report is made of: trails, and the outputs that write them where a configuration is given.
type reported struct {
	trails  []string
	outputs []reportedOutput
	stamp   string
}

type reportedOutput struct {
	*hostconfig.Output
	trail  int
	status string // file, or ""
}

// reported finds the trails of the configuration, or takes those that are given.
func (h *hostFlags) reported(args []string) (*reported, error) {
	if len(h.configs) == 0 {
		return &reported{trails: args}, nil
	}
	if len(args) > 0 {
		return nil, fmt.Errorf("both --config and %s are given; keep one", args[0])
	}
	cfg, _, err := h.load()
	if err != nil {
		return nil, err
	}
	r := &reported{}
	for _, o := range cfg.Outputs {
		x := reportedOutput{Output: o}
		path := o.AuditFile
		if o.State != nil {
			x.status = status.Path(o.State.File)
			if s, err := status.Read(x.status); err == nil && s.Trail != "" {
				path = s.Trail
			}
		}
		if path == "" {
			return nil, fmt.Errorf("%s (%s): audit_file is not set, and without it nothing is known of its slots", o.Name, o.Where)
		}
		if x.trail = slices.Index(r.trails, path); x.trail < 0 {
			x.trail, r.trails = len(r.trails), append(r.trails, path)
		}
		if o.Slots { // it delivers to no board, but knows what it left out
			continue
		}
		if r.stamp != "" && r.stamp != o.Rules.Stamp {
			return nil, fmt.Errorf("%s (%s): its stamp is %s, and that of another output is %s: report their audit files one by one", o.Name, o.Where, o.Rules.Stamp, r.stamp)
		}
		r.stamp, r.outputs = o.Rules.Stamp, append(r.outputs, x)
	}
	if len(r.outputs) == 0 {
		return nil, errors.New("--config: nothing in it delivers to a board")
	}
	return r, nil
}

// states are what hosts have written beside their trails, from before these are read: what has left since is in them.
type states struct {
	host   *report.Host
	stored []waiting
	off    map[int]audit.Off
}

// waiting is what waits, and the devices that it is of.
type waiting struct {
	*store.File
	devices *registry.Registry
}

// look reads them. What cannot be known is told by note.
func (r *reported) look(now time.Time, note func(string, ...any)) (*states, error) {
	if len(r.outputs) == 0 {
		return &states{}, nil
	}
	s := &states{host: &report.Host{}, off: map[int]audit.Off{}}
	for _, o := range r.outputs {
		h, err := o.readStatus()
		if err != nil {
			note("%s (%s): since when its parameters are due is not known: %v", o.Name, o.Where, err)
		} else if !h.Stopped && !h.Runs(now) {
			s.off[o.trail] = audit.Off{From: h.RanUntil(), To: now, Killed: true}
		}
		if until := h.Expected(now); s.host.Until.IsZero() || until.Before(s.host.Until) {
			s.host.Until = until
		}
		reg, err := o.Registry()
		if err != nil {
			return nil, fmt.Errorf("%s (%s): the devices are not right, see ocems doctor: %w", o.Name, o.Where, err)
		}
		known := map[string]*status.Device{}
		if h.Runs(now) {
			h.JudgeAll(now)
		}
		for i := range h.Devices {
			known[h.Devices[i].ID] = &h.Devices[i]
		}
		for _, d := range reg.Devices() {
			s.host.Due = append(s.host.Due, due(d.StationID, d.DeviceID, d.Mapped(), known[d.DeviceID], h.StampOf)...)
		}
		if o.State == nil {
			continue
		}
		stored, err := store.Snapshot(o.State.File)
		switch {
		case err == nil:
			s.stored = append(s.stored, waiting{stored, reg})
		case !errors.Is(err, fs.ErrNotExist):
			note("%s (%s): what waits is not known: %v", o.Name, o.Where, err)
		}
	}
	return s, nil
}

// readStatus always returns a host: without a file one that knows its configuration.
func (o *reportedOutput) readStatus() (*status.Host, error) {
	h, err := (*status.Host)(nil), error(fs.ErrNotExist)
	if o.status != "" {
		h, err = status.Read(o.status)
	}
	if err != nil {
		h = &status.Host{Within: (o.Rules.Grace + o.Rules.Settle + time.Minute).Seconds()}
	}
	h.Stamp = o.Rules.Stamp
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("it has written no %s", cmp.Or(o.status, "status"))
	}
	return h, err
}

// due are the parameters of a device. One that is not named in the configuration is due while it reports.
func due(station, device string, mapped []registry.Mapped, known *status.Device, stampOf func(time.Time) time.Time) []report.Due {
	list := []report.Due{{Station: station, Device: device}}
	if len(mapped) == 0 && known != nil {
		for _, p := range known.Parameters {
			mapped = append(mapped, registry.Mapped{Parameter: p.Parameter, Diagnostic: p.Diagnostic, Unit: p.Unit})
		}
	}
	for _, m := range mapped {
		x := report.Due{Station: station, Device: device, Parameter: m.Parameter, Diagnostic: m.Diagnostic, Unit: m.Unit}
		if known != nil {
			i := slices.IndexFunc(known.Parameters, func(p status.Parameter) bool { return p.Parameter == m.Parameter && p.Diagnostic == m.Diagnostic })
			if x.Refused = known.Held; i >= 0 {
				p := &known.Parameters[i]
				x.Since = stampOf(p.Due)
				if p.Refused != nil {
					x.Refused = cmp.Or(p.Refused.Reason, x.Refused)
				}
				if v := p.Verdict; v != nil && v.Level != status.OK && v.Class != status.Waits {
					x.Trouble, x.Cure = v.Text, v.Cure
				}
			}
		}
		list = append(list, x)
	}
	return list
}

// add adds to a report what waits, and since when a host is off.
func (s *states) add(ctx context.Context, b *report.Builder) error {
	for trail, off := range s.off {
		b.Off(trail, off)
	}
	for _, stored := range s.stored {
		if err := delivery.EachWaiting(ctx, stored, func(device string, r *payload.Reading) {
			if d, known := stored.devices.Device(device); known {
				if why, _ := d.TooFew(r.Parameter, r.Minutes); why == "" {
					r.Minutes = 0 // it is decided
				}
			}
			b.Wait(device, r)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *states) close() {
	for _, stored := range s.stored {
		_ = stored.Close()
	}
}
