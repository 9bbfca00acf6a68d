package registry

import (
	"maps"
	"slices"
	"strings"
)

// Mapped is a parameter that a device is to report, and the metric that it is read from.
type Mapped struct {
	Parameter, Unit string // Unit is "" for the metric's own
	Diagnostic      bool
	Metric, Field   string
	Attributes      string // as key=value pairs parted by blanks
}

// Mapped lists the parameters of a device, by their keys. A device without any takes all that its metrics name.
func (d *Device) Mapped() []Mapped {
	list := make([]Mapped, 0, len(d.parameters))
	for _, key := range slices.Sorted(maps.Keys(d.parameters)) {
		p := d.parameters[key]
		var words []string
		for _, a := range p.attributes {
			words = append(words, a.key+"="+a.value)
		}
		list = append(list, Mapped{p.parameter, p.unit, p.diagnostic, p.metric, p.field, strings.Join(words, " ")})
	}
	return list
}

// Word is a metric's flag or unit attribute, by its name in either host, or "".
func (m Metric) Word() string {
	for _, key := range []string{"ocems_flag", "ocems.flag", "ocems_unit", "ocems.unit"} {
		if _, ok := m.attr(key); ok {
			return key
		}
	}
	return ""
}
