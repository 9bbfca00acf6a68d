package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
)

const (
	longest    = 16 << 20         // line in bytes
	chunk      = 1 << 20          // read at once
	mostBatch  = 5000             // metrics written at once
	drain      = time.Second      // of reading, once told to stop
	unclosed   = 10 * time.Second // for a text of several lines to come whole
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	badEvery   = time.Minute // between reports of bad lines, beyond the first few
	badFirst   = 5
)

// feed reads line protocol until its end, or for a moment after ctx has ended. What is read is durable in every plugin
// before the next read: what does not fit yet stays with Telegraf. When it cannot be made durable and ctx has ended,
// nothing more is read. The error says how many metrics are lost.
func feed(ctx context.Context, in io.Reader, plugins []telegraf.Output, log telegraf.Logger) error {
	parser := &influx.Parser{}
	if err := parser.Init(); err != nil {
		return err
	}
	f := &feeder{parser: parser, plugins: plugins, log: log}
	type read struct {
		data []byte
		err  error
	}
	reads, more := make(chan read, 1), make(chan struct{}, 1)
	go func() { // stays behind in a read that nothing ends
		buf := make([]byte, chunk)
		for range more {
			n, err := in.Read(buf)
			reads <- read{buf[:n], err}
		}
	}()
	defer close(more)
	more <- struct{}{}
	var stop <-chan time.Time
	for done := ctx.Done(); ; {
		select {
		case r := <-reads:
			f.take(ctx, r.data)
			switch {
			case errors.Is(r.err, io.EOF):
				return f.end()
			case r.err != nil:
				return errors.Join(fmt.Errorf("reading metrics: %w", r.err), f.end())
			case f.lost > 0: // what is not read is not lost, but for what fits into the pipe
				return f.end()
			}
			select {
			case <-stop:
				return f.end()
			default:
				more <- struct{}{}
			}
		case <-done: // Telegraf may have been told at the same time, and writes what it has left
			stop, done = time.After(drain), nil
		case <-stop:
			select {
			case r := <-reads:
				f.take(ctx, r.data)
			default:
			}
			return f.end()
		}
	}
}

type feeder struct {
	parser  *influx.Parser
	plugins []telegraf.Output
	log     telegraf.Logger

	rest     []byte // of a line whose end has not come
	since    time.Time
	scan     scanner
	skipping bool // a line that is too long

	bad      int // lines since the last report
	reported int
	lastBad  time.Time

	lost  int // metrics that were read and could not be kept
	fault error
}

// take writes the whole lines of what was read and keeps the rest.
func (f *feeder) take(ctx context.Context, data []byte) {
	if f.scan.in == text && f.scan.lines > 0 && time.Since(f.since) > unclosed {
		if !f.skipping {
			f.report(fmt.Errorf("a text in it does not end within %s", unclosed), f.rest)
		}
		f.skipping = !bytes.HasSuffix(f.rest, []byte("\n"))
		f.rest, f.scan = nil, scanner{}
		if f.skipping {
			f.scan.in = comment
		}
	}
	if len(f.rest) == 0 && !f.skipping {
		f.since = time.Now()
	}
	from := len(f.rest)
	f.rest = append(f.rest, data...)
	start := 0
	var metrics []telegraf.Metric
	for i := from; i < len(f.rest); i++ {
		if f.scan.in == text && !f.scan.escaped { // it may be long
			n := bytes.IndexAny(f.rest[i:], "\"\\\n")
			if n < 0 {
				break
			}
			i += n
		}
		if !f.scan.ends(f.rest[i]) {
			continue
		}
		line := f.rest[start:i]
		start = i + 1
		switch {
		case f.skipping:
			f.skipping = false
		case len(line) > longest:
			f.tooLong(line)
		default:
			metrics = f.parse(metrics, line)
		}
		if len(metrics) >= mostBatch {
			f.write(ctx, metrics)
			metrics = nil
		}
	}
	f.write(ctx, metrics)
	if start > 0 {
		f.rest, f.since = append([]byte(nil), f.rest[start:]...), time.Now()
	}
	if len(f.rest) > longest && !f.skipping {
		f.tooLong(f.rest)
		f.skipping = true
	}
	if f.skipping {
		f.rest = nil
	}
}

// end says what is lost. A last line that has no end was cut off, with a number in it perhaps: it is not taken.
func (f *feeder) end() error {
	if len(f.rest) > 0 {
		f.report(errors.New("it has no end, so it may be cut off"), f.rest)
	}
	if f.bad > 0 {
		f.log.Errorf("%d more lines were skipped", f.bad)
	}
	if f.lost > 0 {
		return fmt.Errorf("%d metrics were read and could not be kept: %w", f.lost, f.fault)
	}
	return nil
}

func (f *feeder) parse(metrics []telegraf.Metric, line []byte) []telegraf.Metric {
	if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
		return metrics
	}
	found, err := f.parser.Parse(line)
	if err != nil {
		f.report(err, line)
	}
	return append(metrics, found...)
}

func (f *feeder) tooLong(line []byte) {
	f.report(fmt.Errorf("it is longer than %d bytes", longest), line)
}

// report names a line that is skipped: the first few, and then one a minute.
func (f *feeder) report(err error, line []byte) {
	f.bad += 1 + bytes.Count(line, []byte("\n"))
	if f.reported >= badFirst && time.Since(f.lastBad) < badEvery {
		return
	}
	text := err.Error()
	if parse := (*influx.ParseError)(nil); errors.As(err, &parse) { // it repeats the line
		text, _, _ = strings.Cut(text, fmt.Sprintf(" at %d:%d: ", parse.LineNumber, parse.Column))
		text = fmt.Sprintf("%s at column %d", text, parse.Column)
	}
	f.log.Errorf("Lines skipped: %d, the last because %s: %q", f.bad, text, line[:min(len(line), 120)])
	f.bad, f.lastBad = 0, time.Now()
	f.reported++
}

// write hands metrics to every plugin and does not give up, so that the pipe fills and Telegraf keeps what comes. Only
// the end of ctx ends it.
func (f *feeder) write(ctx context.Context, metrics []telegraf.Metric) {
	if len(metrics) == 0 {
		return
	}
	waiting, wait := f.plugins, firstRetry
	for said := false; ; said = true {
		last := ctx.Err() != nil
		var failed []telegraf.Output
		var faults []error
		for _, p := range waiting {
			if err := p.Write(metrics); err != nil {
				failed, faults = append(failed, p), append(faults, err)
			}
		}
		if len(failed) == 0 {
			if said {
				f.log.Infof("%d metrics that waited are taken", len(metrics))
			}
			return
		}
		err := errors.Join(faults...)
		if last {
			f.lost, f.fault = f.lost+len(metrics), err
			return
		}
		if !said {
			f.log.Errorf("%d metrics wait, and nothing more is read: %v", len(metrics), err)
		}
		waiting = failed
		select {
		case <-ctx.Done(): // once more: it may work again
		case <-time.After(wait):
			wait = min(2*wait, lastRetry)
		}
	}
}

// scanner finds where lines end: not at a newline inside a field's text, which Telegraf writes as it is. What follows
// such a newline is a part of the text, and must not be taken for a metric.
type scanner struct {
	in      part
	escaped bool // by a backslash before
	equals  bool // came right before, in the fields
	lines   int  // ended inside of a text
}

type part int

const (
	blank part = iota // before the name
	comment
	metricName
	tags
	fields
	text
)

// ends reports whether c ends a line.
func (s *scanner) ends(c byte) bool {
	if c == '\n' {
		if s.in == text {
			s.escaped = false
			s.lines++
			return false
		}
		*s = scanner{}
		return true
	}
	if s.escaped {
		s.escaped = s.in == tags && c == '\\' // in tags, the second may escape again
		return false
	}
	space := c == ' ' || c == '\t' || c == '\v' || c == '\f'
	equals := false
	switch {
	case s.in == comment:
	case s.in == blank && space:
	case s.in == blank && c == '#':
		s.in = comment
	case c == '\\':
		s.escaped = true
		if s.in == blank {
			s.in = metricName
		}
	case s.in == blank:
		s.in = metricName
	case s.in == metricName && c == ',':
		s.in = tags
	case (s.in == metricName || s.in == tags) && space:
		s.in = fields
	case s.in == fields:
		if c == '"' && s.equals {
			s.in = text
		}
		equals = c == '='
	case s.in == text && c == '"':
		s.in = fields
	}
	s.equals = equals
	return false
}
