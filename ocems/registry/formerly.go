package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// renaming is a list `formerly`: names that a device or a parameter had before.
type renaming struct {
	at       string // the list's key
	name     string // the present one
	formerly []string
	device   *Device
}

// rename checks lists of former names. What waits under a name can become one device's, or one parameter's, only. present
// says where the names in force are.
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

// device finds a device by its id, or by a former one.
func (s *snapshot) device(id string) *Device {
	if d := s.devices[id]; d != nil {
		return d
	}
	return s.formerly[id]
}

// Current is what a series is called now, and its unit where that is another spelling of the one that its entry has.
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

// Parameter is what a parameter of the device is called now, and the unit of its entry, "" where that gives none.
func (d *Device) Parameter(key string, diagnostic bool) (now, unit string) {
	if to, ok := d.formerly[key]; ok {
		key = to
	}
	if m := d.parameters[key]; m != nil && m.diagnostic == diagnostic {
		unit = m.unit
	}
	return key, unit
}
