package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/ocems/operator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

const (
	allDevices  = 20 // a host with more shows only those that need a person
	mostDevices = 50
	watchEvery  = 2 * time.Second
)

func statusCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "status [DIRECTORY]", Short: "show whether a host reports, and each parameter of its devices",
		Long: `ocems status shows whether a host reports now and when it sends the next slot. For each parameter it shows the last value and
slot, what waits and why, and what to do. It reads the files *.status.json that the host writes beside its state at least
every 5 minutes. Name the state directory or the host's configuration.

The exit code is that of a monitoring plug-in; ocems --help has the table.`,
		Example: `  ocems status /var/lib/ocems
  sudo -u telegraf ocems status --config /etc/telegraf/telegraf.conf --watch`,
		Args: cli.AtMost(1, "directory"),
	}
	host := newHostFlags(c)
	flags := c.Flags()
	v := &statusView{}
	flags.StringVar(&v.device, "device", "", "show this device `id` only")
	flags.BoolVar(&v.all, "all", false, fmt.Sprintf("show all devices; by default a host with more than %d shows only those that need a person", allDevices))
	flags.BoolVar(&v.json, "json", false, "print JSON")
	watch := flags.Bool("watch", false, "print it again every 2 seconds, until interrupted")
	c.RunE = func(c *cobra.Command, args []string) error {
		find := func() ([]operator.Source, error) { return host.statusFiles(strings.Join(args, "")) }
		if *watch {
			return v.watch(c.Context(), s.out, find)
		}
		var text bytes.Buffer
		level, err := v.show(&text, find, time.Now())
		if err == nil {
			err = paint(s.out, text.Bytes())
		}
		if err == nil && level != status.OK {
			err = exit{code: int(level)} // 1 warning, 2 failed
		}
		return err
	}
	return c
}

func (v *statusView) watch(ctx context.Context, out io.Writer, find func() ([]operator.Source, error)) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		var text bytes.Buffer
		if _, err := v.show(&text, find, time.Now()); err != nil {
			fmt.Fprintln(&text, err)
		}
		if !v.json && isTerminal(out) {
			fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		if err := paint(out, text.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// statusFiles are the status files of a directory, a file, or a configuration.
func (h *hostFlags) statusFiles(place string) (files []operator.Source, err error) {
	if place != "" {
		if len(h.configs) > 0 {
			return nil, errors.New("both --config and a directory are given; keep one")
		}
		info, err := os.Stat(place)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return []operator.Source{{Name: place, Path: place}}, nil
		}
		if _, err := os.ReadDir(place); err != nil { // Find does not report it
			return nil, fmt.Errorf("%w: run it as the host's user", err)
		}
		paths, err := status.Find(place)
		if err == nil && len(paths) == 0 {
			err = fmt.Errorf("%s has no *.status.json: give the directory of a host's state, and check that the host runs", place)
		}
		for _, path := range paths {
			files = append(files, operator.Source{Name: path, Path: path})
		}
		return files, err
	}
	if len(h.configs) == 0 {
		return nil, errors.New("give the state directory, or --config")
	}
	cfg, _, err := h.load()
	if err != nil {
		return nil, err
	}
	for _, o := range cfg.Outputs {
		f := operator.Source{Name: fmt.Sprintf("%s (%s)", o.Name, o.Where)}
		if o.State != nil {
			f.Path = status.Path(o.State.File)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, errors.New("the configuration has no output of OCEMS")
	}
	return files, nil
}

// statusView shows hosts.
type statusView struct {
	device    string
	all, json bool
}

// show returns the level of the worst host.
func (v *statusView) show(out io.Writer, find func() ([]operator.Source, error), now time.Time) (worst status.Level, err error) {
	files, err := find()
	if err != nil {
		return 0, err
	}
	var list []operator.Host
	var devices []string
	for _, f := range files {
		x := operator.Host{Name: f.Name}
		if x.Host, err = operator.Read(f); err != nil {
			x.Fault, worst = err.Error(), status.Failed
		} else {
			devices = append(devices, v.keep(x.Host)...)
			worst = max(worst, x.JudgeAll(now).Level)
		}
		list = append(list, x)
	}
	if v.device != "" && !slices.ContainsFunc(list, func(x operator.Host) bool { return x.Host != nil && len(x.Devices) > 0 }) {
		text := fmt.Sprintf("--device: there is no device %q", v.device)
		if near := spec.Nearest(v.device, devices); len(near) > 0 {
			text += ": nearest " + strings.Join(near, ", ")
		}
		return 0, errors.New(text)
	}
	if v.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return worst, e.Encode(list)
	}
	for i, x := range list {
		if i > 0 {
			fmt.Fprintln(out)
		}
		v.host(out, x, now)
	}
	return worst, nil
}

// keep drops the devices that --device excludes, and returns the ids of all.
func (v *statusView) keep(h *status.Host) (ids []string) {
	for _, d := range h.Devices {
		ids = append(ids, d.ID)
	}
	if v.device != "" {
		h.Devices = slices.DeleteFunc(h.Devices, func(d status.Device) bool { return d.ID != v.device })
		if strings.HasPrefix(h.Trouble, `device "`) && !strings.Contains(h.Trouble, "\n") { // of devices alone: this one's parameters tell its own
			h.Trouble = ""
		}
	}
	return ids
}

func (v *statusView) host(out io.Writer, x operator.Host, now time.Time) {
	fmt.Fprintln(out, x.Name)
	if x.Fault != "" {
		fmt.Fprintf(out, "FAILED  %s\n", x.Fault)
		return
	}
	fmt.Fprintf(out, "%-7s %s\n", strings.ToUpper(x.Verdict.Level.String()), x.Verdict.Text)
	if x.Verdict.Cure != "" {
		fmt.Fprintf(out, "        do: %s\n", x.Verdict.Cure)
	}
	if x.Trouble != "" && x.Trouble != x.Verdict.Text && !strings.HasSuffix(x.Verdict.Cure, strings.TrimPrefix(x.Trouble, "the server does not answer: ")) {
		fmt.Fprintf(out, "        %s\n", x.Trouble)
	}
	fmt.Fprintln(out, facts(x.Host, now))
	many := len(x.Devices) > allDevices && !v.all && v.device == ""
	shown, well, more := 0, 0, 0
	for _, d := range x.Devices {
		wrong := d.Held != "" || slices.ContainsFunc(d.Parameters, func(p status.Parameter) bool { return p.Verdict.Level != status.OK })
		switch {
		case many && !wrong:
			well++
		case many && shown == mostDevices:
			more++
		default:
			shown++
			writeDevice(out, d, now)
		}
	}
	if more > 0 {
		fmt.Fprintf(out, "\nother devices that need a person: %d (--all shows them)\n", more)
	}
	if well > 0 {
		fmt.Fprintf(out, "\ndevices that report: %d (--all shows them)\n", well)
	}
}

// facts is one line about clock and board.
func facts(h *status.Host, now time.Time) string {
	var parts []string
	if h.Clock.Trusted {
		parts = append(parts, "clock trusted")
	} else {
		parts = append(parts, "clock not trusted yet")
	}
	if h.Slots {
		return strings.Join(append(parts, "passes slots on to exporters", fmt.Sprintf("slots waiting: %d", h.Waiting)), "; ")
	}
	if h.Board.Answered != nil {
		parts = append(parts, fmt.Sprintf("board answered %s, usually in %s", status.Time(*h.Board.Answered, now), max(time.Duration(h.Board.Latency*float64(time.Second)).Round(time.Millisecond), time.Millisecond)))
	} else {
		parts = append(parts, "the board has not answered yet")
	}
	return strings.Join(append(parts, fmt.Sprintf("slots waiting: %d", h.Waiting), "to "+h.Endpoint), "; ")
}

func shortValue(v float64) string { return strconv.FormatFloat(v, 'g', 7, 64) }

func writeDevice(out io.Writer, d status.Device, now time.Time) {
	line := fmt.Sprintf("\n%s at %s", d.ID, d.Station)
	if d.Waiting > 0 {
		line += fmt.Sprintf("; slots waiting: %d, from %s", d.Waiting, status.Time(*d.Oldest, now))
	}
	if d.Held != "" {
		line += "; held: " + cmp.Or(d.Detail, d.Held)
	}
	fmt.Fprintln(out, line)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range d.Parameters {
		name, value, at := p.Parameter, "-", "-"
		if p.Diagnostic {
			name += " (diagnostic)"
		}
		switch {
		case p.Reading != nil:
			value, at = shortValue(p.Reading.Value)+" "+p.Unit, status.Time(p.Reading.At, now)
		case p.Slot != nil:
			value, at = shortValue(p.Slot.Value)+" "+p.Unit, status.Time(p.Slot.Stamp, now)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", p.Verdict.Level, name, value, at, p.Verdict.Text)
		if p.Verdict.Cure != "" {
			fmt.Fprintf(w, "  \t\t\t\tdo: %s\n", p.Verdict.Cure)
		}
	}
	_ = w.Flush()
}
