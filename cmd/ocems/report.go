package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/spec"
)

// formats are what a report can be written as.
var formats = map[string]func(*report.Report, io.Writer) error{
	"text": (*report.Report).Text, "json": (*report.Report).JSON, "csv": (*report.Report).CSV, "html": (*report.Report).HTML,
}

var formatNames = []string{"text", "json", "csv", "html"}

func reportSlots(_ context.Context, s std, args []string) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	from := flags.String("from", "", "first `day` in IST, such as 2026-11-23; without it the trails' first slot")
	to := flags.String("to", "", "last `day` in IST; without it the trails' last slot")
	device := flags.String("device", "", "report this device `id` only")
	format := flags.String("format", "text", "what to write, `text|json|csv|html`; html is one page that needs no other file")
	out := flags.String("out", "", "`file` to write; without it standard output")
	stamp := flags.String("stamp", "end", "the bound of its window that stamps a slot, `end|start`, as the agent is configured")
	if err := parse(flags, s, args, math.MaxInt); err != nil {
		return err
	}
	write, ok := formats[*format]
	if !ok {
		return usageError{fmt.Errorf("--format: %q is unknown: nearest %s", *format, spec.Nearest(*format, formatNames)[0])}
	}
	options := report.Options{Device: *device, Stamp: *stamp, Now: time.Now(), Readings: *format == "html"}
	var err error
	if options.From, err = readDay("from", *from); err != nil {
		return err
	}
	if options.To, err = readDay("to", *to); err != nil {
		return err
	}
	builder, err := report.New(options)
	if err != nil {
		return usageError{err}
	}
	if flags.NArg() == 0 {
		return usageError{errors.New("no audit trail: give one file or more after the flags")}
	}
	var trails []os.FileInfo
	for i, path := range flags.Args() {
		if strings.HasPrefix(path, "-") {
			return usageError{fmt.Errorf("unexpected argument %q: flags come first, then the files", path)}
		}
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reading the audit trail: %w", err)
		}
		if info.IsDir() {
			return usageError{fmt.Errorf("%s is a folder: give the files in it", path)}
		}
		for k, other := range trails {
			if os.SameFile(info, other) {
				return usageError{fmt.Errorf("%s and %s are the same file, whose samples would count twice", flags.Arg(k), flags.Arg(i))}
			}
		}
		trails = append(trails, info)
	}
	if info, err := os.Stat(*out); *out != "" && err == nil {
		for k, trail := range trails {
			if os.SameFile(info, trail) {
				return usageError{fmt.Errorf("--out: %s is the audit trail %s, and is not overwritten", *out, flags.Arg(k))}
			}
		}
	}
	for _, path := range flags.Args() {
		if err := addTrail(builder, path); err != nil {
			return err
		}
	}
	result, err := builder.Report()
	if err != nil {
		return usageError{err}
	}
	if err := writeReport(s.out, *out, func(w io.Writer) error { return write(result, w) }); err != nil {
		return err
	}
	var faults []string
	for _, t := range result.Trails {
		if t.Fault != "" {
			faults = append(faults, t.Name+": "+t.Fault)
		}
	}
	if faults != nil {
		return fmt.Errorf("not verified: %s", strings.Join(faults, "; "))
	}
	return nil
}

func addTrail(b *report.Builder, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	defer f.Close()
	return b.Add(path, f)
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
		return time.Time{}, usageError{fmt.Errorf("--%s: %q is not a day such as 2026-11-23: nearest %s", name, text, nearestDay(text, time.Now()))}
	}
	return day, nil
}

var number = regexp.MustCompile(`\d+`)

// nearestDay reads what is likely meant: year, month and day in this order or reversed, or else today.
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
