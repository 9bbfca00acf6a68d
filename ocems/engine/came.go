package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// A sender may invent any number of names, so only this many metrics are kept, and this many fields of each.
const (
	mostCameMetrics = 200
	mostCameFields  = 50
	mostOthers      = 10        // names of each device
	othersEvery     = time.Hour // how often the account learns that they still come
	mostFlagged     = 1000      // between two slots
	mostJudged      = 1 << 16   // a lost flag or unit is not reported beyond this number
)

// came has the names of readings that are no parameter of any device. An entry may have been meant for one of them.
type came struct {
	mu      sync.Mutex
	metrics map[string]map[string]string // attributes of the first reading of each field, by metric and field
	others  map[string]*others           // by device without entries
	flagged map[metricOf]flagged         // since the last slot: metrics with a flag or unit but no reading that is a parameter
	judged  map[metricOf]struct{}        // metrics that need no report: a reading is a parameter, or a lost flag or unit was reported; never forgotten
	left    int                          // how many searches for the nearest name are left; a search takes milliseconds
}

// others has the names that came with a device and are no parameter.
type others struct {
	names []string
	told  time.Time // when the account last learned that one came
}

// metricOf identifies a metric of a source.
type metricOf struct{ name, source uint64 }

func (r Reading) metricOf() metricOf {
	return metricOf{xxhash.Sum64String(r.Name), r.Source.some().ID}
}

// flagged is a flag or unit on a metric without a parameter.
type flagged struct{ metric, word, source string }

const mostNearest = 20

// hurry allows mostNearest searches for the nearest name until the next call.
func (c *came) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = mostNearest
}

// nearest returns the nearest name as text to append, or "".
func (c *came) nearest(name string, names []string) string {
	if c.left--; c.left < 0 {
		return ""
	}
	if near := spec.Nearest(name, names); len(near) > 0 {
		return "; nearest: " + near[0]
	}
	return ""
}

func (c *came) foreign(r Reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flag(r)
	fields := c.metrics[r.Name]
	if fields == nil {
		if len(c.metrics) >= mostCameMetrics {
			return
		}
		if c.metrics == nil {
			c.metrics = map[string]map[string]string{}
		}
		fields = map[string]string{}
		c.metrics[strings.Clone(registry.Short(r.Name))] = fields
	}
	if _, known := fields[r.Field]; !known && len(fields) < mostCameFields {
		fields[strings.Clone(registry.Short(r.Field))] = r.text()
	}
}

// keepOthers keeps the names of these devices only, which have no entries.
func (c *came) keepOthers(devices []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make(map[string]*others, len(devices))
	for _, id := range devices {
		if kept[id] = c.others[id]; kept[id] == nil {
			kept[id] = &others{}
		}
	}
	c.others = kept
}

// other records a name that is no parameter, and reports whether the account must learn of it.
func (c *came) other(device, name string, now time.Time) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.others[device]
	if o == nil {
		return false
	}
	news = now.Sub(o.told).Abs() >= othersEvery
	if len(o.names) < mostOthers && !slices.Contains(o.names, name) {
		o.names, news = append(o.names, strings.Clone(name)), true
	}
	if news {
		o.told = now
	}
	return news
}

func (c *came) bare(r Reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flag(r)
}

func (r Reading) text() string {
	if r.Source.Text == nil {
		return ""
	}
	return registry.Short(r.Source.Text())
}

// flag records a flag or unit whose metric may have no parameter.
func (c *came) flag(r Reading) {
	word := r.Word()
	if word == "" || len(c.flagged) >= mostFlagged || len(c.judged) >= mostJudged {
		return
	}
	key := r.metricOf()
	if _, known := c.judged[key]; known {
		return
	}
	if c.flagged == nil {
		c.flagged = map[metricOf]flagged{}
	}
	if _, known := c.flagged[key]; !known {
		c.flagged[key] = flagged{metric: registry.Short(r.Name), word: word, source: r.text()}
	}
}

// ours records that the metric of a flag or unit has a parameter.
func (c *came) ours(r Reading) {
	if r.Word() == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judge(r.metricOf())
}

func (c *came) judge(key metricOf) {
	delete(c.flagged, key)
	if c.judged == nil {
		c.judged = map[metricOf]struct{}{}
	}
	if len(c.judged) < mostJudged {
		c.judged[key] = struct{}{}
	}
}

// lost returns the flags and units that apply to no parameter, each once.
func (c *came) lost() (list []flagged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, f := range c.flagged {
		if len(c.judged) < mostJudged {
			list = append(list, f)
		}
		c.judge(key)
	}
	slices.SortFunc(list, func(a, b flagged) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(a.source, b.source))
	})
	return list
}

// ofDevice returns what came instead of the readings of a device without entries.
func (c *came) ofDevice(id string, w registry.Words) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.others[id]
	if o == nil || len(o.names) == 0 {
		return fmt.Sprintf("no metric came with %s=%s since the start", w.DeviceID, id)
	}
	names := slices.Sorted(slices.Values(o.names))
	text := fmt.Sprintf("%s came with %s=%s; no parameter key is among them", fewOf("name", names), w.DeviceID, id)
	for _, name := range names {
		if c.left--; c.left < 0 {
			break
		}
		if near := (&registry.NotListedError{Key: name}).Nearest(); near != "" {
			text += fmt.Sprintf("; nearest to %s: %s", name, near)
		}
	}
	return text
}

// instead returns what came instead of an entry's readings.
func (c *came) instead(m registry.Mapped, d *deviceAccount) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry := m.Metric
	if m.Field != "" {
		entry += " " + m.Field
	}
	fields := maps.Clone(c.metrics[m.Metric])
	if source, same := fields[m.Field]; same && m.Attributes != "" {
		return fmt.Sprintf("%s came with %q, and its entry asks for %q", entry, source, m.Attributes)
	}
	for _, p := range d.parameters { // fields of the same metric that other entries use
		if o := p.mapped; o.Metric == m.Metric && o.Field != m.Field && (p.Reading != nil || p.Slot != nil) {
			if fields == nil {
				fields = map[string]string{}
			}
			fields[o.Field] = ""
		}
	}
	delete(fields, "")
	if names := slices.Sorted(maps.Keys(fields)); len(names) > 0 && m.Field != "" {
		text := fmt.Sprintf("%s has the %s; %q is not among them", m.Metric, fewOf("field", names), m.Field)
		return text + c.nearest(m.Field, names)
	}
	names := slices.Sorted(maps.Keys(c.metrics))
	if len(names) == 0 {
		return fmt.Sprintf("no metric %q came, and no metric without an entry", m.Metric)
	}
	return fmt.Sprintf("no metric %q came, but %s without an entry", m.Metric, fewOf("metric", names)) + c.nearest(m.Metric, names)
}

// fewOf lists names, and the number of those left out.
func fewOf(what string, names []string) string {
	const most = 10
	if len(names) == 1 {
		return what + " " + names[0]
	}
	shown := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return what + "s " + shown
}
