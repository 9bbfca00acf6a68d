package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/influxdata/telegraf"
)

// streams are what outputs.execd reads: it logs a line of standard error as an error, and one of standard output as
// information.
type streams struct {
	mu       sync.Mutex
	out, err io.Writer
}

// log implements telegraf.Logger. A level that execd would show as another is named in the line.
type log struct {
	*streams
	level telegraf.LogLevel
	alias string
}

func (l *log) print(level telegraf.LogLevel, text string) {
	if !l.level.Includes(level) {
		return
	}
	text = strings.TrimSpace(strings.ReplaceAll(text, "\n", "; "))
	if l.alias != "" {
		text = l.alias + ": " + text
	}
	to := l.out
	switch level {
	case telegraf.Error:
		to = l.err
	case telegraf.Info:
	case telegraf.Warn:
		to, text = l.err, level.Indicator()+" "+text
	default:
		text = level.Indicator() + " " + text
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(to, text+"\n")
}

func (l *log) Level() telegraf.LogLevel       { return l.level }
func (*log) AddAttribute(string, any)         {}
func (l *log) Errorf(format string, a ...any) { l.print(telegraf.Error, fmt.Sprintf(format, a...)) }
func (l *log) Error(a ...any)                 { l.print(telegraf.Error, fmt.Sprint(a...)) }
func (l *log) Warnf(format string, a ...any)  { l.print(telegraf.Warn, fmt.Sprintf(format, a...)) }
func (l *log) Warn(a ...any)                  { l.print(telegraf.Warn, fmt.Sprint(a...)) }
func (l *log) Infof(format string, a ...any)  { l.print(telegraf.Info, fmt.Sprintf(format, a...)) }
func (l *log) Info(a ...any)                  { l.print(telegraf.Info, fmt.Sprint(a...)) }
func (l *log) Debugf(format string, a ...any) { l.print(telegraf.Debug, fmt.Sprintf(format, a...)) }
func (l *log) Debug(a ...any)                 { l.print(telegraf.Debug, fmt.Sprint(a...)) }
func (l *log) Tracef(format string, a ...any) { l.print(telegraf.Trace, fmt.Sprintf(format, a...)) }
func (l *log) Trace(a ...any)                 { l.print(telegraf.Trace, fmt.Sprint(a...)) }
