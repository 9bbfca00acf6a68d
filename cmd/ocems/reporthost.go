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

// reported is the input of a report: trails and, with a configuration, the outputs that write them.
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
			return nil, fmt.Errorf("%s (%s): audit_file is not set, so there is no record of its slots", o.Name, o.Where)
		}
		if x.trail = slices.Index(r.trails, path); x.trail < 0 {
			x.trail, r.trails = len(r.trails), append(r.trails, path)
		}
		if o.Slots { // it does not deliver to the board, but its trail has the omitted readings
			continue
		}
		if r.stamp != "" && r.stamp != o.Rules.Stamp {
			return nil, fmt.Errorf("%s (%s): its stamp is %s, that of another output is %s: report their audit files separately", o.Name, o.Where, o.Rules.Stamp, r.stamp)
		}
		r.stamp, r.outputs = o.Rules.Stamp, append(r.outputs, x)
	}
	if len(r.outputs) == 0 {
		return nil, errors.New("--config: it has no output that delivers to the board")
	}
	return r, nil
}

// states are the state and status of the hosts, read before the trails: a slot that has left the state since is in the trails.
type states struct {
	host   *report.Host
	stored []waiting
	off    map[int]audit.Off
}

// waiting is the state of one output, and its devices.
type waiting struct {
	*store.File
	devices *registry.Registry
}

// look reads them. It calls note for whatever it cannot read.
func (r *reported) look(now time.Time, note func(string, ...any)) (*states, error) {
	if len(r.outputs) == 0 {
		return &states{}, nil
	}
	s := &states{host: &report.Host{}, off: map[int]audit.Off{}}
	for _, o := range r.outputs {
		h, err := o.readStatus()
		if err != nil {
			note("%s (%s): cannot tell since when its parameters are due: %v", o.Name, o.Where, err)
		} else if !h.Stopped && !h.Runs(now) {
			s.off[o.trail] = audit.Off{From: h.RanUntil(), To: now, Killed: true}
		}
		if until := h.Expected(now); s.host.Until.IsZero() || until.Before(s.host.Until) {
			s.host.Until = until
		}
		reg, err := o.Registry()
		if err != nil {
			return nil, fmt.Errorf("%s (%s): the devices are wrong, see ocems doctor: %w", o.Name, o.Where, err)
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
			note("%s (%s): cannot read the waiting slots: %v", o.Name, o.Where, err)
		}
	}
	return s, nil
}

// readStatus always returns a host, without a status file one made from the configuration.
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

// due are the parameters of a device. Without configured parameters they are those that report.
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
					x.Trouble, x.Cure, x.Asked = v.Text, v.Cure, p.Undecided != nil
				}
			}
		}
		list = append(list, x)
	}
	return list
}

// add adds to a report the waiting readings, and since when a host is off.
func (s *states) add(ctx context.Context, b *report.Builder) error {
	for trail, off := range s.off {
		b.Off(trail, off)
	}
	for _, stored := range s.stored {
		if err := delivery.EachWaiting(ctx, stored, func(device string, r *payload.Reading) {
			if d, known := stored.devices.Device(device); known {
				if why, _ := d.TooFew(r.Parameter, r.Minutes); why == "" {
					r.Minutes = 0 // no longer subject to min_coverage
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
