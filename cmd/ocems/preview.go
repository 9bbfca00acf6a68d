package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/cmd/ocems/internal/doctor"
	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

func previewCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "preview", Short: "show the next request of each device, from the state on disk",
		Long: `ocems preview shows the open windows and, for each device, the waiting slots and the exact JSON of the next request before
encryption. It reads a copy of the state that the configuration names; the host may run. Tokens are not needed and not shown.
It does not know what the host has in memory only: which devices are held, and which parameters the board has refused since
the host started. The host leaves these parameters out of the request.`,
		Example: `  sudo -u telegraf ocems preview --config /etc/telegraf/telegraf.conf --device device_5678
  sudo -u ocems ocems preview --config /etc/ocems/collector.yaml --json`,
		Args: cli.AtMost(0, ""),
	}
	host := newHostFlags(c)
	v := &viewer{out: s.out, err: s.err, bar: newProgress(s.err)}
	c.Flags().StringVar(&v.only, "device", "", "show this device `id` only")
	c.Flags().BoolVar(&v.asJSON, "json", false, "print only the JSON of the requests, one per line")
	c.RunE = func(c *cobra.Command, _ []string) error { return v.preview(c.Context(), host) }
	return c
}

func (v *viewer) preview(ctx context.Context, host *hostFlags) error {
	cfg, _, err := host.load()
	if err != nil {
		return err
	}
	if len(cfg.Outputs) == 0 {
		for _, f := range cfg.Faults {
			err = errors.Join(err, errors.New(f.Text))
		}
		return errors.Join(errors.New("the configuration has no output of OCEMS"), err)
	}
	for _, o := range cfg.Outputs {
		if err := v.output(ctx, o); err != nil {
			return fmt.Errorf("%s (%s): %w", o.Name, o.Where, err)
		}
	}
	if v.only != "" && !v.found {
		slices.Sort(v.devices)
		text := fmt.Sprintf("--device: there is no device %q", v.only)
		if near := spec.Nearest(v.only, slices.Compact(v.devices)); len(near) > 0 {
			text += ": nearest " + strings.Join(near, ", ")
		}
		return errors.New(text)
	}
	return v.faults
}

// viewer shows outboxes.
type viewer struct {
	only     string
	asJSON   bool
	out, err io.Writer
	bar      *progress

	devices []string
	found   bool
	faults  error
}

// note writes a line for a person. With --json it goes to standard error.
func (v *viewer) note(format string, args ...any) {
	out := v.out
	if v.asJSON {
		out = v.err
	}
	fmt.Fprintf(out, format+"\n", args...)
}

func (v *viewer) output(ctx context.Context, o *hostconfig.Output) error {
	v.note("%s (%s)", o.Name, o.Where)
	if o.State == nil {
		v.note("no place on disk is configured: waiting slots are in the host's memory only and cannot be shown")
		v.found = true
		return nil
	}
	reg, err := o.Registry()
	if err != nil {
		return fmt.Errorf("the devices are wrong, see ocems doctor: %w", err)
	}
	v.devices = append(v.devices, doctor.DeviceIDs(reg)...)
	if _, known := reg.Device(v.only); known {
		v.found = true
	}
	v.bar.step("copying the state %s", o.State.File)
	stored, err := store.Snapshot(o.State.File)
	v.bar.clear()
	if errors.Is(err, fs.ErrNotExist) {
		path, relative := o.State.File, ""
		if absolute, err := filepath.Abs(path); err == nil && !filepath.IsAbs(path) {
			path, relative = absolute, " (relative to the working directory, and the service may have another one)"
		}
		v.note("nothing waits: %s%s does not exist yet", path, relative)
		return nil
	}
	if err != nil {
		return err
	}
	defer stored.Close()
	v.windows(ctx, stored, o.Rules)
	if o.Slots {
		v.note("it does not deliver to the board: it passes its slots to exporters")
		return nil
	}
	v.bar.step("counting the waiting slots")
	queues, err := delivery.Queues(ctx, stored)
	v.bar.clear()
	if err != nil {
		return err
	}
	if o.DryRun {
		v.note("dry_run is set: the host logs the requests and sends nothing")
	}
	waiting := 0
	for _, q := range queues {
		v.devices = append(v.devices, q.Device)
		if v.only != "" && q.Device != v.only {
			continue
		}
		v.found = true
		if q.Err != nil {
			v.note("%v; at its next start the host sets the damaged value aside and continues with the rest", q.Err)
		}
		if len(q.Stamps) > 0 {
			waiting++
			v.queue(ctx, stored, reg, q)
		}
	}
	if _, configured := reg.Device(v.only); waiting == 0 && (v.only == "" || configured) {
		v.note("nothing waits to be sent")
	}
	return nil
}

// windows shows the open windows, so that a plant sees in its first 15 minutes that readings arrive.
func (v *viewer) windows(ctx context.Context, stored store.Store, rules slot.Options) {
	open, err := engine.OpenWindows(ctx, stored, rules)
	if err != nil {
		v.note("open slots: %v", err)
		return
	}
	type count struct{ series, samples int }
	slots := map[time.Time]count{}
	for _, x := range open {
		if v.only != "" && x.Device != v.only {
			continue
		}
		n := slots[x.Stamp]
		slots[x.Stamp] = count{n.series + 1, n.samples + x.Samples}
	}
	if len(slots) == 0 {
		v.note("open slots: none")
	}
	for _, stamp := range slices.SortedFunc(maps.Keys(slots), time.Time.Compare) {
		v.note("open slot %s: parameters %d, readings so far %d", spec.ISTString(stamp), slots[stamp].series, slots[stamp].samples)
	}
}

// queue shows the waiting slots of one device, and its next request.
func (v *viewer) queue(ctx context.Context, stored store.Store, reg *registry.Registry, q delivery.Queue) {
	d, known := reg.Device(q.Device)
	target, station := delivery.Target{DeviceID: q.Device}, "(not configured)"
	if known {
		target = delivery.Target{StationID: d.StationID, DeviceID: d.DeviceID, Latitude: d.Latitude, Longitude: d.Longitude, Parameter: d.Parameter, TooFew: d.TooFew}
		station = d.StationID
	}
	oldest, decide := q.Stamps[0], 0
	v.note("\n%s / %s: slots waiting %d, the oldest %s", station, q.Device, len(q.Stamps), spec.ISTString(oldest))
	if !known {
		v.note("held: the configuration does not have this device: its slots wait until they are 7 days old; put it back, or name it in formerly of the device that replaces it")
	}
	if time.Since(oldest) > spec.MaxAge {
		v.note("the oldest is more than 7 days old: it is no longer sent, and goes to the audit trail as expired")
	}
	var records []payload.Record
	var err error
	for _, stamp := range q.Stamps {
		if records, err = delivery.Requests(ctx, stored, q.Device, stamp, target); err != nil || len(records) > 0 {
			break
		}
		decide++
	}
	if decide > 0 {
		v.note("older slots that are not sent because their readings cover fewer minutes than min_coverage requires: %d", decide)
	}
	if err != nil {
		v.note("%v", err)
		v.faults = errFaults
		return
	}
	for i, r := range records {
		if len(records) > 1 {
			v.note("request %d of %d: a calibration point and an average of one parameter have the same stamp", i+1, len(records))
		}
		if !v.asJSON {
			v.table(r)
		}
		if !known {
			continue // without its station there is no request
		}
		text, err := r.Marshal()
		if err != nil {
			v.note("%v", err)
			v.faults = errFaults
			continue
		}
		if v.asJSON {
			fmt.Fprintf(v.out, "%s\n", text)
			continue
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, text, "", "  "); err == nil {
			fmt.Fprintf(v.out, "%s\n", indented.Bytes())
		}
	}
}

// table shows the readings in the order of the JSON.
func (v *viewer) table(r payload.Record) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "parameter\tvalue\tunit\tflag\tstamp\t")
	for _, diagnostic := range []bool{false, true} {
		sorted := slices.SortedFunc(slices.Values(r.Readings), func(a, b payload.Reading) int { return strings.Compare(a.Parameter, b.Parameter) })
		for _, x := range sorted {
			if x.Diagnostic != diagnostic {
				continue
			}
			note := ""
			if diagnostic {
				note = "diagnostic"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", x.Parameter, strconv.FormatFloat(x.Value, 'f', -1, 64), x.Unit, x.Flag, spec.ISTString(x.Stamp), note)
		}
	}
	_ = w.Flush()
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(v.out, strings.TrimRight(line, " \n"))
	}
}
