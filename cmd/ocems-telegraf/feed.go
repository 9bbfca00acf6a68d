package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
)

const (
	longest    = 16 << 20 // line in bytes
	chunk      = 1 << 20  // read at once
	mostBatch  = 5000     // metrics written at once
	drainIdle  = 200 * time.Millisecond
	drainLimit = time.Second // of reading, once told to stop
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	badEvery   = time.Minute // between reports of bad lines, beyond the first few
	badFirst   = 5
)

// feed reads line protocol until its end or until ctx ends, and what is left in the pipe then. What is read is durable
// in every plugin before the next read: what does not fit yet stays with Telegraf.
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
	reads, more := make(chan read), make(chan struct{})
	go func() { // stays behind in a read that nothing ends
		buf := make([]byte, chunk)
		for range more {
			n, err := in.Read(buf)
			reads <- read{buf[:n], err}
		}
	}()
	defer close(more)
	var stop <-chan time.Time
	done := ctx.Done()
	for pending := false; ; {
		if !pending {
			more <- struct{}{}
			pending = true
		}
		var idle <-chan time.Time
		if stop != nil {
			idle = time.After(drainIdle)
		}
		select {
		case r := <-reads:
			pending = false
			if err := f.take(ctx, r.data); err != nil {
				return err
			}
			switch {
			case errors.Is(r.err, io.EOF):
				return f.end(ctx)
			case r.err != nil:
				return errors.Join(fmt.Errorf("reading metrics: %w", r.err), f.end(ctx))
			}
		case <-done:
			stop, done = time.After(drainLimit), nil
		case <-idle:
			return f.end(ctx)
		case <-stop:
			return f.end(ctx)
		}
	}
}

type feeder struct {
	parser  *influx.Parser
	plugins []telegraf.Output
	log     telegraf.Logger

	rest     []byte // of a line whose end has not come
	skipping bool   // a line that is too long
	bad      int    // lines since the last report
	reported int
	lastBad  time.Time
}

// take writes the whole lines of what was read and keeps the rest.
func (f *feeder) take(ctx context.Context, data []byte) error {
	var metrics []telegraf.Metric
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		line := data[:i]
		if len(f.rest) > 0 {
			line = append(f.rest, line...)
			f.rest = f.rest[:0]
		}
		data = data[i+1:]
		if f.skipping {
			f.skipping = false
			continue
		}
		metrics = f.parse(metrics, line)
		if len(metrics) >= mostBatch {
			if err := f.write(ctx, metrics); err != nil {
				return err
			}
			metrics = nil
		}
	}
	if !f.skipping {
		f.rest = append(f.rest, data...)
		if len(f.rest) > longest {
			f.report(fmt.Errorf("it is longer than %d bytes", longest), f.rest)
			f.rest, f.skipping = nil, true
		}
	}
	return f.write(ctx, metrics)
}

// end writes a last line that has no end of its own.
func (f *feeder) end(ctx context.Context) error {
	if len(f.rest) == 0 || f.skipping {
		return nil
	}
	line := f.rest
	f.rest = nil
	return f.write(ctx, f.parse(nil, line))
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

// report names a line that is skipped: the first few, and then one a minute.
func (f *feeder) report(err error, line []byte) {
	f.bad++
	if f.reported >= badFirst && time.Since(f.lastBad) < badEvery {
		return
	}
	text := fmt.Sprintf("%.300q", err)
	if parse := (*influx.ParseError)(nil); errors.As(err, &parse) {
		text = fmt.Sprintf("%q at column %d", err.Error()[:min(len(err.Error()), 120)], parse.Column)
	}
	f.log.Errorf("%d lines are skipped, the last because %s: %.120q", f.bad, text, line[:min(len(line), 120)])
	f.bad, f.lastBad = 0, time.Now()
	f.reported++
}

// write hands metrics to every plugin and does not give up, so that the pipe fills and Telegraf keeps what comes. Only
// the end of ctx ends it, with an error that says how many are lost.
func (f *feeder) write(ctx context.Context, metrics []telegraf.Metric) error {
	if len(metrics) == 0 {
		return nil
	}
	for _, p := range f.plugins {
		wait, failed := firstRetry, false
		for {
			err := p.Write(metrics)
			if err == nil {
				break
			}
			if !failed {
				f.log.Errorf("%d metrics wait, and nothing more is read: %v", len(metrics), err)
			}
			failed = true
			select {
			case <-time.After(wait):
				wait = min(2*wait, lastRetry)
			case <-ctx.Done():
				return fmt.Errorf("%d metrics were read and could not be kept: %w", len(metrics), err)
			}
		}
		if failed {
			f.log.Infof("%d metrics that waited are taken", len(metrics))
		}
	}
	return nil
}
