package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/spec"
)

// formats are the output formats of a report.
var formats = map[string]func(*report.Report, io.Writer) error{
	"text": (*report.Report).Text, "json": (*report.Report).JSON, "csv": (*report.Report).CSV, "html": (*report.Report).HTML,
}

// readAtOnce is the number of lines, about 20 s of reading, up to which an HTML page without --verify has values.
const readAtOnce = 2_000_000

// reportFlags are the flags of ocems report.
type reportFlags struct {
	host             *hostFlags
	from, to, device string
	format, stamp    *string
	out, board       string
	notice, verify   bool
	flat             int
}

func reportCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "report [TRAIL]...", Short: "show the outcome of each slot, from audit trails",
		Long: `ocems report shows the outcome of each 15-minute slot of each parameter. Name the host's configuration or its audit trails.

With a configuration each parameter in it has a row, the period ends now, and the report shows what waits and why.
--notice answers a notice of the board, with the lines of the audit trail as evidence. --board compares with the board's page.`,
		Example: `  sudo -u telegraf ocems report --config /etc/telegraf/telegraf.conf
  ocems report --format html --out report.html /var/lib/telegraf/ocems/audit.jsonl
  ocems report --notice --device device_5678 --from 2026-11-23 --to 2026-11-24 /var/lib/telegraf/ocems/audit.jsonl`,
	}
	f := &reportFlags{host: newHostFlags(c)}
	flags := c.Flags()
	flags.StringVar(&f.from, "from", "", "first `day` in IST, such as 2026-11-23; by default that of the first slot in the trails")
	flags.StringVar(&f.to, "to", "", "last `day` in IST; by default that of the last slot in the trails, or with --config of the last slot that is due")
	flags.StringVar(&f.device, "device", "", "report this device `id` only")
	f.format = cli.Word(c, "format", "text", "output format; html is one self-contained page, or with more than 50 devices an index and a page for each", "text", "json", "csv", "html")
	flags.StringVar(&f.out, "out", "", "`file` to write; by default standard output")
	f.stamp = cli.Word(c, "stamp", "end", "which end of its window stamps a slot, as in the host's configuration; --config reads it there", "end", "start")
	flags.StringVar(&f.board, "board", "", "compare with this CSV `file`, exported from the board's page; its header names the columns device, parameter, time and value")
	flags.BoolVar(&f.notice, "notice", false, "answer a notice of the board: gaps, flat lines, late deliveries and calibrations, with the lines of the trail as evidence")
	flags.IntVar(&f.flat, "flat-slots", 8, "number of `slots` with an equal value that make a flat line, for --notice")
	flags.BoolVar(&f.verify, "verify", false, "read every line of the closed files too, not only their summary lines")
	c.RunE = func(c *cobra.Command, args []string) error { return reportSlots(c.Context(), s, f, args) }
	return c
}

func reportSlots(ctx context.Context, s std, f *reportFlags, args []string) error {
	write := formats[*f.format]
	options := report.Options{Device: f.device, Stamp: *f.stamp, Now: time.Now(), Software: delivery.UserAgent(), Verify: f.verify && *f.format != "html"}
	of, err := f.host.reported(args)
	if err != nil {
		return err
	}
	options.Stamp = cmp.Or(of.stamp, options.Stamp)
	if options.From, err = readDay("from", f.from); err != nil {
		return err
	}
	if options.To, err = readDay("to", f.to); err != nil {
		return err
	}
	if _, err := report.New(options); err != nil {
		return err
	}
	bar := newProgress(s.err)
	defer bar.clear()
	bar.step("copying the waiting slots")
	found, err := of.look(options.Now, func(format string, args ...any) {
		bar.clear()
		fmt.Fprintf(s.err, "ocems: report: "+format+"\n", args...)
	})
	if err != nil {
		return err
	}
	defer found.close()
	options.Host = found.host
	add := func(b *report.Builder) error { return found.add(ctx, b) }
	count := (*report.Builder).Report
	if f.board != "" {
		if f.notice {
			return errors.New("both --board and --notice are given; keep one")
		}
		export, err := readExport(f.board)
		if err != nil {
			return err
		}
		options.Readings, options.Verify = true, true
		count = func(b *report.Builder) (*report.Report, error) {
			r, err := b.Report()
			if err == nil {
				if err = r.Compare(export); err != nil {
					err = fmt.Errorf("--board: %s: %w", f.board, err)
				}
			}
			return r, err
		}
	}
	if f.notice {
		return s.notice(options, of, f.flat, *f.format, f.out, bar, add)
	}
	result, err := readTrails(options, of.trails, f.out, bar, add, count)
	if err == nil && *f.format == "html" && !options.Readings {
		few, lines := len(result.Devices) <= report.OnePage, 0
		for _, t := range result.Trails {
			lines += t.Lines
		}
		switch options.Verify, options.Readings = f.verify || few && lines <= readAtOnce, few; {
		case options.Verify:
			result, err = readTrails(options, of.trails, f.out, bar, add, count)
		case few:
			fmt.Fprintf(s.err, "ocems: report: the page has no values because the trail has %d lines: --verify reads them\n", lines)
		}
	}
	if err != nil {
		return err
	}
	if *f.format == "html" && len(result.Devices) > report.OnePage {
		if f.out == "" {
			return fmt.Errorf("--out: %d devices are too many for one page: give a file for the index, such as report.html", len(result.Devices))
		}
		err = result.Site(f.out, func(n int) { bar.step("page %d of %d", n, len(result.Devices)) })
		if err != nil {
			err = fmt.Errorf("--out: %w", err)
		}
	} else {
		err = writeReport(s.out, f.out, func(w io.Writer) error { return write(result, w) })
	}
	bar.clear()
	if err != nil {
		return err
	}
	return faultsOf(result)
}

func readExport(path string) (*report.Export, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--board: %w", err)
	}
	defer f.Close()
	x, err := report.ReadExport(f)
	if err != nil {
		return nil, fmt.Errorf("--board: %s: %w", path, err)
	}
	return x, nil
}

// notices are the output formats of an answer to a notice.
var notices = map[string]func(*report.Notice, io.Writer) error{"text": (*report.Notice).Text, "json": (*report.Notice).JSON, "html": (*report.Notice).HTML}

func (s std) notice(o report.Options, of *reported, flat int, format, out string, bar *progress, add func(*report.Builder) error) error {
	write, ok := notices[format]
	if !ok {
		return fmt.Errorf("--format: %s is not available with --notice: nearest text, json, html", format)
	}
	if flat < 2 {
		return fmt.Errorf("--flat-slots: %d is too small: nearest 2", flat)
	}
	o.Readings, o.Verify = true, true
	var result *report.Notice
	_, err := readTrails(o, of.trails, out, bar, add, func(b *report.Builder) (_ *report.Report, err error) {
		if result, err = b.Notice(flat); err != nil {
			return nil, err
		}
		return result.Report, nil
	})
	if err == nil {
		err = writeReport(s.out, out, func(w io.Writer) error { return write(result, w) })
	}
	if err != nil {
		return err
	}
	return faultsOf(result.Report)
}

func faultsOf(result *report.Report) error {
	var faults []string
	for _, t := range result.Trails {
		if t.Fault != "" {
			faults = append(faults, t.Name+": "+t.Fault)
		}
	}
	if faults != nil {
		return exit{exitFaults, fmt.Errorf("not verified: %s", strings.Join(faults, "; "))}
	}
	return nil
}

// findTrails lists the files of each trail, closed files included.
func findTrails(paths []string, out string) (trails [][]string, err error) {
	if len(paths) == 0 {
		return nil, errors.New("no audit trail: give --config, or one file or more")
	}
	type known struct {
		path string
		info os.FileInfo
	}
	var given, all []known
	same := func(list []known, info os.FileInfo) string {
		for _, k := range list {
			if os.SameFile(k.info, info) {
				return k.path
			}
		}
		return ""
	}
	for _, path := range paths {
		files, err := audit.Files(path)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%w: run it as the host's user", err)
		case err != nil:
			return nil, err
		}
		info, err := os.Stat(files[len(files)-1])
		if err != nil {
			return nil, fmt.Errorf("reading the audit trail: %w", err)
		}
		if info.IsDir() {
			return nil, fmt.Errorf("%s is a folder: give the files in it", path)
		}
		if other := same(given, info); other != "" {
			return nil, fmt.Errorf("%s and %s are the same file; give it once, or its samples would count twice", other, path)
		}
		given = append(given, known{path, info})
		var trail []string
		for _, f := range files {
			info, err := os.Stat(f)
			if errors.Is(err, fs.ErrNotExist) { // it was compressed in the meantime
				info, err = os.Stat(f + ".zst")
			}
			if err != nil {
				return nil, fmt.Errorf("reading the audit trail: %w", err)
			}
			if same(all, info) == "" {
				all, trail = append(all, known{f, info}), append(trail, f)
			}
		}
		trails = append(trails, trail)
	}
	if info, err := os.Stat(out); out != "" && err == nil {
		if trail := same(all, info); trail != "" {
			return nil, fmt.Errorf("--out: %s is the audit trail %s, which is never overwritten; give another file", out, trail)
		}
	}
	return trails, nil
}

// readTrails reads all files again if the host began a new file in the meantime, since lines would be missing. If a last
// line is unfinished, the host may be writing it: it reads at most two more times.
func readTrails(o report.Options, paths []string, out string, bar *progress, add func(*report.Builder) error, count func(*report.Builder) (*report.Report, error)) (*report.Report, error) {
	trails, err := findTrails(paths, out)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		r, err := readFiles(o, trails, bar, add, count)
		if err != nil {
			return nil, err
		}
		now, err := findTrails(paths, out)
		if err != nil {
			return nil, err
		}
		same := slices.EqualFunc(trails, now, func(a, b []string) bool { return len(a) == len(b) })
		unfinished := slices.ContainsFunc(r.Trails, func(t report.Trail) bool { return strings.HasSuffix(t.Fault, ": unfinished") })
		if same && (!unfinished || n > 1) {
			return r, nil
		}
		trails = now
	}
}

func readFiles(o report.Options, trails [][]string, bar *progress, add func(*report.Builder) error, count func(*report.Builder) (*report.Report, error)) (*report.Report, error) {
	builder, err := report.New(o)
	if err != nil {
		return nil, err
	}
	all := 0
	for _, files := range trails {
		all += len(files)
	}
	defer bar.clear()
	bar.step("reading the audit trail: file 0 of %d", all)
	err = builder.Add(trails, func(n int) { bar.step("reading the audit trail: file %d of %d", n, all) })
	if err == nil {
		err = add(builder)
	}
	if err != nil {
		return nil, err
	}
	r, err := count(builder)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func writeReport(standard io.Writer, path string, write func(io.Writer) error) error {
	if path == "" {
		if err := write(standard); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	w := bufio.NewWriter(f)
	if err := errors.Join(write(w), w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

func readDay(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, spec.IST)
	if err != nil {
		return time.Time{}, fmt.Errorf("--%s: %q is not a day such as 2026-11-23: nearest %s", name, text, nearestDay(text, time.Now()))
	}
	return day, nil
}

var number = regexp.MustCompile(`\d+`)

// nearestDay guesses the intended day: year, month and day in this order or reversed, otherwise today.
func nearestDay(text string, now time.Time) string {
	var n []int
	for _, digits := range number.FindAllString(text, 3) {
		v, _ := strconv.Atoi(digits)
		n = append(n, v)
	}
	if len(n) == 3 && n[2] > 31 {
		n[0], n[2] = n[2], n[0]
	}
	if len(n) < 3 || n[0] < 1970 || n[0] > 9999 {
		return now.In(spec.IST).Format(time.DateOnly)
	}
	first := time.Date(n[0], time.Month(min(max(n[1], 1), 12)), 1, 0, 0, 0, 0, spec.IST)
	return first.AddDate(0, 0, min(max(n[2], 1), first.AddDate(0, 1, -1).Day())-1).Format(time.DateOnly)
}
