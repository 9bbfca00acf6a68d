package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// renaming is a list `formerly`: earlier names of a device or a parameter.
type renaming struct {
	at       string // the list's key
	name     string // the current one
	formerly []string
	device   *Device
}

// rename checks lists of former names. A former name can belong to one device, or one parameter, only. present has the
// current names with the keys that define them.
func (b *builder) rename(list []renaming, present map[string]string, inUse string, add func(n renaming, former string)) {
	claimed := map[string]string{}
	for _, n := range list {
		for _, former := range n.formerly {
			former = strings.TrimSpace(former)
			at, now := present[former]
			first, twice := claimed[former]
			switch {
			case former == "":
				b.fault(n.at, "an empty name; leave it out")
			case !utf8.ValidString(former) || strings.ContainsFunc(former, unicode.IsControl):
				b.fault(n.at, "%q is not one line of UTF-8; write it as it was", former)
			case former == n.name:
				b.fault(n.at, "%q is the current name; give an earlier one, or leave it out", former)
			case now:
				b.fault(n.at, "%q (%s) %s", former, at, inUse)
			case twice:
				b.fault(n.at, "%q is also in %s; name it once", former, first)
			default:
				claimed[former] = n.at
				add(n, former)
			}
		}
	}
}

// device finds a device by its id or by a former id.
func (s *snapshot) device(id string) *Device {
	if d := s.devices[id]; d != nil {
		return d
	}
	return s.formerly[id]
}

// Current returns the current name of a series. It also returns the unit in the spelling of the configuration, if unit is
// the same unit.
func (r *Registry) Current(s slot.Series, unit string) (slot.Series, string) {
	d := r.now.Load().device(s.Device)
	if d == nil {
		return s, unit
	}
	s.Device = d.DeviceID
	var now string
	if s.Parameter, now = d.Parameter(s.Parameter, s.Diagnostic); now != "" && spec.SameUnit(unit, now) {
		unit = now
	}
	return s, unit
}

// Parameter returns the current key of a parameter of the device, and the unit of its entry, or "".
func (d *Device) Parameter(key string, diagnostic bool) (now, unit string) {
	if to, ok := d.formerly[key]; ok {
		key = to
	}
	if m := d.parameters[key]; m != nil && m.diagnostic == diagnostic {
		unit = m.unit
	}
	return key, unit
}
