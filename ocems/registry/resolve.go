package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Metric is the part of a host's metric that names it.
type Metric struct {
	Name  string
	Field string // of a Telegraf metric; "" and `value` are the same
	Unit  string // the metric's own unit, if it has one
	// Statistic is the default for this kind of metric: last for a counter, sum for a counter of deltas, otherwise mean. The
	// configuration overrides it. A totalizer replaces mean by last, but never replaces sum.
	Statistic slot.Statistic
	Attr      func(key string) (string, bool)
}

// longest is the number of bytes that are kept of a sender's text. No key, unit or id of the board is as long.
const longest = 256

// Short truncates a text from a sender. Only the result may be kept or logged.
func Short(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.Clone(strings.ToValidUTF8(text[:longest], "")) + "..."
}

// Match is a parameter of a device to which a metric is mapped.
type Match struct {
	Device     *Device
	Parameter  string
	Unit       string
	Flag       spec.Flag
	Statistic  slot.Statistic
	Diagnostic bool
	Rules      *Rules
}

// ErrUnknownDevice means that the device attribute of a metric, whose name is a catalogue key, names no configured device.
var ErrUnknownDevice = errors.New("unknown device")

// UnknownDeviceError wraps ErrUnknownDevice. Error finds the nearest ids, not Resolve, because a search among thousands of
// devices takes too long for each sample.
type UnknownDeviceError struct {
	Device string
	Metric string
	ids    []string
}

func (e *UnknownDeviceError) Error() string {
	text := fmt.Sprintf("naming metric %q: %v %q", e.Metric, ErrUnknownDevice, e.Device)
	if near := spec.Nearest(e.Device, e.ids); len(near) > 0 {
		text += "; nearest: " + strings.Join(near, ", ")
	}
	return text
}

func (e *UnknownDeviceError) Unwrap() error { return ErrUnknownDevice }

// NotListedError means that a metric names a configured device, but its name is no catalogue key and no mapping fits it. It
// may be a misspelt parameter, or not meant for the board.
type NotListedError struct {
	Device string
	Key    string
}

func (e *NotListedError) Error() string {
	return fmt.Sprintf("naming a reading of device %q: %q is not a parameter key and has no entry", e.Device, e.Key)
}

// Nearest returns the parameter key that may be meant, or "".
func (e *NotListedError) Nearest() string {
	var keys []string
	for _, p := range spec.Parameters() {
		keys = append(keys, p.Key)
	}
	if near := spec.Alike(e.Key, keys); len(near) > 0 {
		return near[0]
	}
	return ""
}

// ResolveError means that a metric is a device's parameter but has no unit, or has a unit or flag that is not in the
// catalogue. Err is then a *spec.UnknownError with the nearest keys.
type ResolveError struct {
	Device    string
	Parameter string
	Unit      string // as found, "" for none
	Err       error
}

func (e *ResolveError) Error() string {
	return fmt.Sprintf("naming parameter %q of device %q: %v", e.Parameter, e.Device, e.Err)
}

func (e *ResolveError) Unwrap() error { return e.Err }

// Resolve returns the parameters to which a metric is mapped: all mappings of the configuration that it fits. Without a
// mapping, its attribute gives the device and its name gives the catalogue key. A metric without match and error is
// ignored, and so is one with a *NotListedError. If some of several mappings are faulty, the others are returned with the error.
func (r *Registry) Resolve(m Metric) ([]Match, error) {
	s := r.now.Load()
	sel := selector{m.Name, plainField(m.Field)}
	id, named := m.attr("ocems.device.id", "ocems_device_id")
	if d := s.formerly[id]; d != nil {
		id = d.DeviceID
	}

	var matches []Match
	var faults []error
	if g := s.index[sel]; g != nil {
		var flag spec.Flag
		var noFlag error
		for p := range g.candidates(m) {
			if named && p.device.DeviceID != id || !p.fits(m) {
				continue
			}
			if flag == 0 && noFlag == nil {
				flag, noFlag = m.Flag()
			}
			if noFlag != nil {
				faults = append(faults, &ResolveError{Device: p.device.DeviceID, Parameter: p.parameter, Err: noFlag})
				continue
			}
			match := Match{p.device, p.parameter, p.unit, flag, p.statisticOf(m), p.diagnostic, p.rules}
			if err := m.unit(&match, r.noUnit); err != nil {
				faults = append(faults, err)
				continue
			}
			matches = append(matches, match)
		}
		if len(faults) == 1 && len(matches) == 0 {
			return nil, faults[0]
		}
		if matches != nil || faults != nil {
			return matches, errors.Join(faults...)
		}
	}

	name := sel.catalogueName()
	device := s.devices[id]
	switch {
	case !named, device == nil && !spec.IsParameter(name):
		return nil, nil
	case !spec.IsParameter(name):
		return nil, &NotListedError{id, Short(name)}
	case device == nil:
		return nil, &UnknownDeviceError{id, Short(m.Name), s.ids}
	}
	match := Match{Device: device, Parameter: name, Statistic: statisticOf(name, m), Rules: device.rules}
	var err error
	if match.Flag, err = m.Flag(); err != nil {
		return nil, &ResolveError{Device: id, Parameter: name, Err: err}
	}
	if err := m.unit(&match, r.noUnit); err != nil {
		return nil, err
	}
	return []Match{match}, nil
}

// Finished returns the parameter of a finished slot of the processor. The metric's name is the parameter key, and it has flag
// and unit. Mapping and statistic are not applied again. The error says why the slot cannot be sent.
func (r *Registry) Finished(m Metric) (match Match, err error) {
	id, _ := m.attr("ocems.device.id", "ocems_device_id")
	m.Name, m.Unit = Short(m.Name), Short(m.Unit)
	match = Match{Device: &Device{DeviceID: id}, Parameter: m.Name, Unit: m.Unit}
	diagnostic, _ := m.attr("ocems.diagnostic", "ocems_diagnostic")
	match.Diagnostic = diagnostic == "true"
	flag, noFlag := m.Flag()
	match.Flag = flag
	s := r.now.Load()
	fault := func(err error) (Match, error) { return match, &ResolveError{id, m.Name, m.Unit, err} }
	d := s.device(id)
	if d == nil {
		return fault(&UnknownDeviceError{id, m.Name, s.ids})
	}
	match.Device = d
	match.Parameter, _ = d.Parameter(m.Name, match.Diagnostic)
	p := d.parameters[match.Parameter]
	if p == nil {
		if _, err := spec.LookupParameter(match.Parameter); err != nil {
			return fault(err)
		}
	}
	if p == nil || p.unit != m.Unit {
		unit, err := spec.ResolveUnit(m.Unit)
		if err == nil && unit != m.Unit {
			err = fmt.Errorf("its unit must be written %q", unit)
		}
		if err != nil {
			return fault(err)
		}
	}
	if noFlag != nil {
		return fault(noFlag)
	}
	return match, nil
}

// attr reads an attribute by its name in the collector or in Telegraf, truncated by [Short]. An empty value is no attribute.
func (m Metric) attr(keys ...string) (string, bool) {
	if m.Attr == nil {
		return "", false
	}
	for _, key := range keys {
		if v, ok := m.Attr(key); ok {
			if v = strings.TrimSpace(v); v != "" {
				return Short(v), true
			}
		}
	}
	return "", false
}

// Flag returns the operation mode of the metric, U by default.
func (m Metric) Flag() (spec.Flag, error) {
	v, ok := m.attr("ocems.flag", "ocems_flag")
	if !ok {
		return spec.FlagNormal, nil
	}
	return spec.ParseFlag(v)
}

// unit sets the unit of a match whose mapping has none.
func (m Metric) unit(match *Match, noUnit error) error {
	if match.Unit != "" {
		return nil
	}
	v, ok := m.attr("ocems.unit", "ocems_unit")
	if !ok {
		v = Short(strings.TrimSpace(m.Unit))
	}
	err := noUnit
	if v != "" {
		match.Unit, err = spec.ResolveUnit(v)
	}
	if v == "" || err != nil {
		return &ResolveError{match.Device.DeviceID, match.Parameter, v, err}
	}
	return nil
}

// selector is the index key of mappings.
type selector struct{ metric, field string }

// plainField maps `value`, which is Telegraf's name of an only field, to no field.
func plainField(field string) string {
	if field == "value" {
		return ""
	}
	return field
}

// catalogueName returns the name that may be a catalogue key: the field, which is more exact, or the metric.
func (s selector) catalogueName() string {
	if s.field != "" {
		return s.field
	}
	return s.metric
}

type attribute struct{ key, value string }

// mapping is one checked entry of parameters.
type mapping struct {
	selector
	attributes []attribute // sorted by key
	device     *Device
	parameter  string
	unit       string          // "" for the metric's own
	statistic  *slot.Statistic // nil for the default
	decimals   int
	diagnostic bool
	rules      *Rules
}

func (p *mapping) statisticOf(m Metric) slot.Statistic {
	if p.statistic != nil {
		return *p.statistic
	}
	return statisticOf(p.parameter, m)
}

// statisticOf returns the default statistic. It depends on the parameter first, then on the kind of metric. Deltas of a
// totalizer stay sum, because the last delta is not a reading of it.
func statisticOf(parameter string, m Metric) slot.Statistic {
	if m.Statistic == slot.Mean && spec.IsTotalizer(parameter) {
		return slot.Last
	}
	return m.Statistic
}

func (p *mapping) fits(m Metric) bool {
	for _, a := range p.attributes {
		if m.Attr == nil {
			return false
		}
		if v, ok := m.Attr(a.key); !ok || v != a.value {
			return false
		}
	}
	return true
}

// group holds the mappings of one selector, indexed by the attribute with the most values. A hub whose thousands of devices
// share a metric name then finds a mapping without trying all.
type group struct {
	plain []*mapping // without attributes
	keys  []string   // the attributes of by
	by    map[attribute][]*mapping
}

func newIndex(mappings []*mapping) map[selector]*group {
	type variety struct {
		selector
		key string
	}
	seen := map[selector]map[attribute]bool{}
	values := map[variety]int{}
	for _, p := range mappings {
		if seen[p.selector] == nil {
			seen[p.selector] = map[attribute]bool{}
		}
		for _, a := range p.attributes {
			if !seen[p.selector][a] {
				seen[p.selector][a] = true
				values[variety{p.selector, a.key}]++
			}
		}
	}
	index := map[selector]*group{}
	for _, p := range mappings {
		g := index[p.selector]
		if g == nil {
			g = &group{by: map[attribute][]*mapping{}}
			index[p.selector] = g
		}
		if len(p.attributes) == 0 {
			g.plain = append(g.plain, p)
			continue
		}
		best := p.attributes[0]
		for _, a := range p.attributes[1:] {
			if values[variety{p.selector, a.key}] > values[variety{p.selector, best.key}] {
				best = a
			}
		}
		if !slices.Contains(g.keys, best.key) {
			g.keys = append(g.keys, best.key)
		}
		g.by[best] = append(g.by[best], p)
	}
	return index
}

// candidates yields the mappings that can fit.
func (g *group) candidates(m Metric) func(yield func(*mapping) bool) {
	return func(yield func(*mapping) bool) {
		for _, p := range g.plain {
			if !yield(p) {
				return
			}
		}
		if m.Attr == nil {
			return
		}
		for _, key := range g.keys {
			v, ok := m.Attr(key)
			if !ok {
				continue
			}
			for _, p := range g.by[attribute{key, v}] {
				if !yield(p) {
					return
				}
			}
		}
	}
}
