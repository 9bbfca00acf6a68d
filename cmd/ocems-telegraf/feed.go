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
	longest    = 16<<20 - 1  // bytes of a line; the parser doubles its buffer up to 16 MiB
	roomy      = 64 << 10    // bytes of a line, more than any metric needs
	chunk      = 1 << 20     // bytes per read
	mostBatch  = 5000        // metrics per write
	drain      = time.Second // how long to read on after a signal
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	badEvery   = time.Minute // between reports of bad lines, beyond the first few
	badFirst   = 5
)

var (
	errEnd  = errors.New("end of the metrics") // at io.EOF the parser would accept a last line without a newline
	errLong = fmt.Errorf("it is longer than %d bytes", longest)
)

// feed reads line protocol until its end, or until shortly after ctx has ended. Each read is durable in every plugin before
// the next one: Telegraf keeps the rest. If a read cannot be made durable and ctx has ended, feed stops. The error has the
// number of lost metrics.
func feed(ctx context.Context, in io.Reader, plugins []telegraf.Output, log telegraf.Logger) error {
	f := &feeder{ctx: ctx, done: ctx.Done(), in: in, buf: make([]byte, chunk), reads: make(chan read, 1), plugins: plugins, log: log}
	f.parser = influx.NewStreamParser(f)
	for {
		m, err := f.parser.Next()
		switch bad := (*influx.ParseError)(nil); {
		case err == nil:
			if f.metrics = append(f.metrics, m); len(f.metrics) >= mostBatch {
				f.write()
			}
			if f.most > roomy { // the parser's buffer does not shrink, and is copied with each metric
				f.parser, f.most = influx.NewStreamParser(f), 0
			}
			f.held = 0
		case errors.As(err, &bad): // the parser continues with the next line
			f.held -= f.parser.Position()
			f.report(err)
		case errors.Is(err, errLong):
			f.skip()
		default:
			return f.end(err)
		}
	}
}

// feeder is the reader of its parser.
type feeder struct {
	ctx     context.Context
	done    <-chan struct{}
	stop    <-chan time.Time // a moment after done
	in      io.Reader
	buf     []byte
	reads   chan read
	plugins []telegraf.Output
	log     telegraf.Logger

	next    read // bytes that the parser has not read yet
	parser  *influx.StreamParser
	held    int               // bytes of the current line that the parser has read
	most    int               // maximum of held
	metrics []telegraf.Metric // parsed and not yet written

	bad      int // lines since the last report
	reported int
	lastBad  time.Time

	lost  int // metrics that were read but could not be stored
	fault error
}

type read struct {
	data []byte
	err  error // after the data
}

// Read gives the parser at most one line, so that the parser never holds data of the next line.
func (f *feeder) Read(p []byte) (int, error) {
	for len(f.next.data) == 0 {
		if err := f.more(); err != nil {
			return 0, err
		}
	}
	n := min(len(p), len(f.next.data))
	if end := bytes.IndexByte(f.next.data[:n], '\n'); end >= 0 {
		n = end + 1
	}
	if f.held+n > longest {
		return 0, errLong
	}
	copy(p, f.next.data[:n])
	f.held, f.next.data = f.held+n, f.next.data[n:]
	f.most = max(f.most, f.held)
	return n, nil
}

// more makes the parsed metrics durable, and reads more.
func (f *feeder) more() error {
	f.write()
	select {
	case <-f.stop:
		f.next.err = errEnd
	default:
	}
	if f.lost > 0 { // Telegraf keeps unread metrics, except those in the pipe
		f.next.err = errEnd
	}
	if f.next.err != nil {
		return f.next.err
	}
	go func() { // may stay blocked in a read
		n, err := f.in.Read(f.buf)
		if errors.Is(err, io.EOF) {
			err = errEnd
		}
		f.reads <- read{f.buf[:n], err}
	}()
	for {
		select {
		case f.next = <-f.reads:
			return nil
		case <-f.done: // Telegraf may have got the same signal, and writes its remaining metrics
			f.stop, f.done = time.After(drain), nil
		case <-f.stop:
			select {
			case f.next = <-f.reads:
			default:
			}
			f.next.err = errEnd
			return nil
		}
	}
}

// skip drops a line that is too long. A newline inside a quoted text does not end the line: the text after it may look like a
// metric.
func (f *feeder) skip() {
	line, q := f.parser.LineText(), quotes{}
	f.report(fmt.Errorf("%w: %.120q", errLong, line))
	for i := range len(line) {
		q.ends(line[i])
	}
	f.parser, f.held, f.most = influx.NewStreamParser(f), 0, 0
	for {
		for i, c := range f.next.data {
			if q.ends(c) {
				f.next.data = f.next.data[i+1:]
				return
			}
		}
		if f.next.data = nil; f.more() != nil { // the parser gets the error at its next read
			return
		}
	}
}

type quotes struct{ open, escaped bool }

// ends reports whether c ends the line.
func (q *quotes) ends(c byte) bool {
	switch {
	case c == '\n' && !q.open:
		return true
	case q.escaped:
		q.escaped = false
	case c == '\\':
		q.escaped = true
	case c == '"':
		q.open = !q.open
	}
	return false
}

// end reports what is lost. A last line without a newline may be cut off, even inside a number: it is dropped.
func (f *feeder) end(err error) error {
	if line := strings.TrimLeft(f.parser.LineText(), "\n"); line != "" && !strings.HasSuffix(line, "\n") {
		f.report(fmt.Errorf("it has no newline at its end, so it may be cut off: %.120q", line))
	}
	if f.bad > 0 {
		f.log.Errorf("%d more lines were skipped", f.bad)
	}
	var faults []error
	if !errors.Is(err, errEnd) {
		faults = append(faults, fmt.Errorf("reading metrics: %w", err))
	}
	if f.lost > 0 {
		faults = append(faults, fmt.Errorf("%d metrics were read but could not be stored: %w", f.lost, f.fault))
	}
	return errors.Join(faults...)
}

// report logs skipped lines: the first few, then one a minute.
func (f *feeder) report(err error) {
	f.bad++
	if f.reported >= badFirst && time.Since(f.lastBad) < badEvery {
		return
	}
	f.log.Errorf("Lines skipped: %d; reason for the last: %v", f.bad, err)
	f.bad, f.lastBad = 0, time.Now()
	f.reported++
}

// write writes metrics to every plugin, and retries until ctx ends. Meanwhile the pipe fills and Telegraf keeps new
// metrics.
func (f *feeder) write() {
	metrics := f.metrics
	if f.metrics = nil; len(metrics) == 0 {
		return
	}
	waiting, wait := f.plugins, firstRetry
	for logged := false; ; logged = true {
		last := f.ctx.Err() != nil
		var failed []telegraf.Output
		var faults []error
		for _, p := range waiting {
			if err := p.Write(metrics); err != nil {
				failed, faults = append(failed, p), append(faults, err)
			}
		}
		if len(failed) == 0 {
			if logged {
				f.log.Infof("%d waiting metrics are stored", len(metrics))
			}
			return
		}
		err := errors.Join(faults...)
		if last {
			f.lost, f.fault = f.lost+len(metrics), err
			return
		}
		if !logged {
			f.log.Errorf("%d metrics cannot be stored; reading has stopped until they can: %v", len(metrics), err)
		}
		waiting = failed
		select {
		case <-f.ctx.Done(): // one last attempt
		case <-time.After(wait):
			wait = min(2*wait, lastRetry)
		}
	}
}
