package registry

import (
	"maps"
	"slices"
	"strings"
)

// Mapped is a configured parameter of a device and the metric from which it is read.
type Mapped struct {
	Parameter, Unit string // Unit is "" for the metric's own
	Diagnostic      bool
	Metric, Field   string
	Attributes      string // key=value pairs with a space between them
}

// Mapped lists the configured parameters of a device, sorted by key. A device without any accepts all that its metrics name.
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

// Word returns the name of the metric's flag or unit attribute, as either host names it, or "".
func (m Metric) Word() string {
	for _, key := range []string{"ocems_flag", "ocems.flag", "ocems_unit", "ocems.unit"} {
		if _, ok := m.attr(key); ok {
			return key
		}
	}
	return ""
}
