package ocems

import (
	"fmt"
	"strings"
	"sync"

	"github.com/influxdata/telegraf"
)

// captured keeps what the plugin logs. Telegraf's own testutil would bring a container runtime into go.mod.
type captured struct {
	mu   sync.Mutex
	said []string // each begins with the letter of its level
}

func (l *captured) add(level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, level+"! "+text)
}

// text returns the log lines of these levels, or of all levels if none is given.
func (l *captured) text(levels string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, s := range l.said {
		if levels == "" || strings.Contains(levels, s[:1]) {
			b.WriteString(s + "\n")
		}
	}
	return b.String()
}

func (*captured) Level() telegraf.LogLevel            { return telegraf.Trace }
func (*captured) AddAttribute(string, any)            {}
func (l *captured) Errorf(format string, args ...any) { l.add("E", fmt.Sprintf(format, args...)) }
func (l *captured) Error(args ...any)                 { l.add("E", fmt.Sprint(args...)) }
func (l *captured) Warnf(format string, args ...any)  { l.add("W", fmt.Sprintf(format, args...)) }
func (l *captured) Warn(args ...any)                  { l.add("W", fmt.Sprint(args...)) }
func (l *captured) Infof(format string, args ...any)  { l.add("I", fmt.Sprintf(format, args...)) }
func (l *captured) Info(args ...any)                  { l.add("I", fmt.Sprint(args...)) }
func (l *captured) Debugf(format string, args ...any) { l.add("D", fmt.Sprintf(format, args...)) }
func (l *captured) Debug(args ...any)                 { l.add("D", fmt.Sprint(args...)) }
func (l *captured) Tracef(format string, args ...any) { l.add("T", fmt.Sprintf(format, args...)) }
func (l *captured) Trace(args ...any)                 { l.add("T", fmt.Sprint(args...)) }
