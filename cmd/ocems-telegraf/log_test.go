package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/influxdata/telegraf"
)

func TestLogGoesWhereExecdReadsIt(t *testing.T) {
	write := func(l telegraf.Logger) {
		l.Errorf("e %d", 1)
		l.Error("e ", 2)
		l.Warn("w 1")
		l.Warnf("w %d", 2)
		l.Info("i 1")
		l.Infof("i %d", 2)
		l.Debug("d 1")
		l.Debugf("d %d", 2)
		l.Trace("t 1")
		l.Tracef("t %d", 2)
	}
	for _, c := range []struct {
		level    telegraf.LogLevel
		alias    string
		out, err string
	}{
		{telegraf.Error, "", "", "e 1\ne 2\n"},
		{telegraf.Warn, "", "", "e 1\ne 2\nW! w 1\nW! w 2\n"},
		{telegraf.Info, "", "i 1\ni 2\n", "e 1\ne 2\nW! w 1\nW! w 2\n"},
		{telegraf.Debug, "", "i 1\ni 2\nD! d 1\nD! d 2\n", "e 1\ne 2\nW! w 1\nW! w 2\n"},
		{telegraf.Trace, "", "i 1\ni 2\nD! d 1\nD! d 2\nT! t 1\nT! t 2\n", "e 1\ne 2\nW! w 1\nW! w 2\n"},
		{telegraf.Info, "board", "board: i 1\nboard: i 2\n", "board: e 1\nboard: e 2\nW! board: w 1\nW! board: w 2\n"},
	} {
		var out, err bytes.Buffer
		write(&log{streams: &streams{out: &out, err: &err}, level: c.level, alias: c.alias})
		if out.String() != c.out || err.String() != c.err {
			t.Errorf("%s: standard output %q, standard error %q", c.level, out.String(), err.String())
		}
	}
}

func TestLogWritesOneLine(t *testing.T) {
	var out, err bytes.Buffer
	l := &log{streams: &streams{out: &out, err: &err}, level: telegraf.Info}
	l.Errorf("%v", errors.Join(errors.New("one\r"), errors.New("two\x1b[2J\x00\u0085\xff ü\n")))
	if got, want := err.String(), "one\\x0d; two\\x1b[2J\\x00\\x85\uFFFD ü\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// outputs.execd reads with a bufio.Scanner, which stops at a longer line.
func TestLogBreaksWhatExecdCannotRead(t *testing.T) {
	var out, err bytes.Buffer
	l := &log{streams: &streams{out: &out, err: &err}, level: telegraf.Info}
	text := strings.Repeat("ü€", 50_000)
	l.Info(text)
	joined := ""
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		if len(line) > 64<<10-1 {
			t.Errorf("a line of %d bytes", len(line))
		}
		joined += strings.TrimPrefix(line, "... ")
	}
	if joined != text {
		t.Error("the text is not whole")
	}
}
