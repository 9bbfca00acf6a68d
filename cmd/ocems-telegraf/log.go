package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/influxdata/telegraf"
)

// streams are read by outputs.execd: it logs a line of standard error as an error, and a line of standard output as
// information.
type streams struct {
	mu       sync.Mutex
	out, err io.Writer
}

// log implements telegraf.Logger. If execd would show another level, the line has the level as a prefix.
type log struct {
	*streams
	level telegraf.LogLevel
	alias string
}

func (l *log) print(level telegraf.LogLevel, text string) {
	if !l.level.Includes(level) {
		return
	}
	text = oneLine(text)
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
	for len(text) > longestLine {
		end := longestLine
		for !utf8.RuneStart(text[end]) {
			end--
		}
		_, _ = io.WriteString(to, text[:end]+"\n")
		text = "... " + text[end:]
	}
	_, _ = io.WriteString(to, text+"\n")
}

// longestLine is in bytes. After a line of 64 KiB outputs.execd stops reading, and writing a line would block forever.
const longestLine = 60 << 10

// oneLine escapes newlines and terminal control characters.
func oneLine(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"), "\n", "; ")
	if strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unicode.IsControl(r) {
			fmt.Fprintf(&b, `\x%02x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
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
