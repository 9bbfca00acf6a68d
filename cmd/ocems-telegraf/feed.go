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
	longest    = 16<<20 - 1  // line in bytes; the parser doubles its buffer, and this is the most that fits into 16 MiB
	roomy      = 64 << 10    // line in bytes that no metric needs
	chunk      = 1 << 20     // read at once
	mostBatch  = 5000        // metrics written at once
	drain      = time.Second // of reading, once told to stop
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	badEvery   = time.Minute // between reports of bad lines, beyond the first few
	badFirst   = 5
)

var (
	errEnd  = errors.New("end of the metrics") // at io.EOF the parser would take a last line that has no end
	errLong = fmt.Errorf("it is longer than %d bytes", longest)
)

// feed reads line protocol until its end, or for a moment after ctx has ended. What is read is durable in every plugin
// before the next read: what does not fit yet stays with Telegraf. When it cannot be made durable and ctx has ended,
// nothing more is read. The error says how many metrics are lost.
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
			if f.most > roomy { // the parser's buffer does not shrink, and is moved with each metric
				f.parser, f.most = influx.NewStreamParser(f), 0
			}
			f.held = 0
		case errors.As(err, &bad): // the parser goes on in the next line
			f.held -= f.parser.Position()
			f.report(err)
		case errors.Is(err, errLong):
			f.skip()
		default:
			return f.end(err)
		}
	}
}

// feeder is what its parser reads from.
type feeder struct {
	ctx     context.Context
	done    <-chan struct{}
	stop    <-chan time.Time // a moment after done
	in      io.Reader
	buf     []byte
	reads   chan read
	plugins []telegraf.Output
	log     telegraf.Logger

	next    read // what the parser has not been given yet
	parser  *influx.StreamParser
	held    int               // bytes that the parser has of a line
	most    int               // it ever held
	metrics []telegraf.Metric // parsed and not yet written

	bad      int // lines since the last report
	reported int
	lastBad  time.Time

	lost  int // metrics that were read and could not be kept
	fault error
}

type read struct {
	data []byte
	err  error // after the data
}

// Read gives the parser no more than one line, so that it never holds what comes after.
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

// more makes durable what was read, and reads on.
func (f *feeder) more() error {
	f.write()
	select {
	case <-f.stop:
		f.next.err = errEnd
	default:
	}
	if f.lost > 0 { // what is not read is not lost, but for what fits into the pipe
		f.next.err = errEnd
	}
	if f.next.err != nil {
		return f.next.err
	}
	go func() { // stays behind in a read that nothing ends
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
		case <-f.done: // Telegraf may have been told at the same time, and writes what it has left
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

// skip gives up a line that is too long. A newline inside of its text does not end it: what follows there may look like
// a metric, and is none.
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
		if f.next.data = nil; f.more() != nil { // the parser is told again
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

// end says what is lost. A last line that has no end was cut off, with a number in it perhaps: it is not taken.
func (f *feeder) end(err error) error {
	if line := strings.TrimLeft(f.parser.LineText(), "\n"); line != "" && !strings.HasSuffix(line, "\n") {
		f.report(fmt.Errorf("it has no end, so it may be cut off: %.120q", line))
	}
	if f.bad > 0 {
		f.log.Errorf("%d more lines were skipped", f.bad)
	}
	var faults []error
	if !errors.Is(err, errEnd) {
		faults = append(faults, fmt.Errorf("reading metrics: %w", err))
	}
	if f.lost > 0 {
		faults = append(faults, fmt.Errorf("%d metrics were read and could not be kept: %w", f.lost, f.fault))
	}
	return errors.Join(faults...)
}

// report names a line that is skipped: the first few, and then one a minute.
func (f *feeder) report(err error) {
	f.bad++
	if f.reported >= badFirst && time.Since(f.lastBad) < badEvery {
		return
	}
	f.log.Errorf("Lines skipped: %d, the last because %v", f.bad, err)
	f.bad, f.lastBad = 0, time.Now()
	f.reported++
}

// write hands metrics to every plugin and does not give up, so that the pipe fills and Telegraf keeps what comes. Only
// the end of ctx ends it.
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
				f.log.Infof("%d metrics that waited are taken", len(metrics))
			}
			return
		}
		err := errors.Join(faults...)
		if last {
			f.lost, f.fault = f.lost+len(metrics), err
			return
		}
		if !logged {
			f.log.Errorf("%d metrics wait, and nothing more is read: %v", len(metrics), err)
		}
		waiting = failed
		select {
		case <-f.ctx.Done(): // once more: it may work again
		case <-time.After(wait):
			wait = min(2*wait, lastRetry)
		}
	}
}
