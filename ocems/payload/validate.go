package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Document is a payload as a server reads it (spec 2.4.1).
type Document struct {
	Data []Station `json:"data"`
}

// Station is one entry of `data`.
type Station struct {
	StationID string   `json:"stationId"`
	Devices   []Device `json:"device_data"`
	Latitude  *float64 `json:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty"`
}

// Device is one entry of `device_data`.
type Device struct {
	DeviceID   string  `json:"deviceId"`
	Params     []Point `json:"params"`
	DiagParams []Point `json:"diag_params,omitempty"`
}

// Point is one entry of `params` or `diag_params`. Value and timestamp keep their original text.
type Point struct {
	Parameter string          `json:"parameter"`
	Value     json.RawMessage `json:"value"`
	Unit      string          `json:"unit"`
	Timestamp json.RawMessage `json:"timestamp"`
	Flag      string          `json:"flag"`
}

// Stamp parses the timestamp: whole milliseconds since the Unix epoch.
func (p Point) Stamp() (time.Time, error) {
	ms, err := strconv.ParseInt(string(p.Timestamp), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("timestamp %s is not a whole number of milliseconds", shorten(string(p.Timestamp)))
	}
	return time.UnixMilli(ms), nil
}

// Fault is one mistake in a payload.
type Fault struct {
	Status spec.Status // the server's answer to it
	Path   string      // where, as data[0].device_data[0].params[2].unit
	Detail string
}

func (f Fault) Error() string {
	return fmt.Sprintf("%s: %s (status %d)", f.Path, f.Detail, int(f.Status))
}

// Rules is the input of Validate besides the payload.
type Rules struct {
	Now           time.Time // for the limits of 7 days and of the future
	AllowUnlisted bool      // accept parameter and unit keys outside the catalogue
}

// Decode reads a payload. Like the server, it accepts unknown keys, and refuses text after the document.
func Decode(text []byte) (Document, error) {
	var doc Document
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); err != nil {
		return Document{}, fmt.Errorf("reading a payload: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Document{}, fmt.Errorf("reading a payload: text after the document at byte %d", dec.InputOffset())
	}
	return doc, nil
}

// Validate returns all faults of a payload in the order of the JSON.
func Validate(text []byte, rules Rules) []Fault {
	doc, err := Decode(text)
	if err != nil {
		return []Fault{{spec.StatusNotEncrypted, "$", err.Error()}}
	}
	v := validator{rules: rules}
	v.document(doc)
	return v.faults
}

type validator struct {
	rules  Rules
	faults []Fault
}

func (v *validator) add(s spec.Status, path, format string, args ...any) {
	v.faults = append(v.faults, Fault{s, path, fmt.Sprintf(format, args...)})
}

func (v *validator) document(doc Document) {
	switch {
	case len(doc.Data) == 0:
		v.add(spec.StatusInvalidDetails, "data", "no station")
	case len(doc.Data) > 1:
		v.add(spec.StatusSeveralStations, "data", "%d stations in one payload", len(doc.Data))
	}
	for i, s := range doc.Data {
		path := fmt.Sprintf("data[%d]", i)
		if strings.TrimSpace(s.StationID) == "" {
			v.add(spec.StatusInvalidStation, path+".stationId", "empty")
		}
		v.coordinate(path+".latitude", s.Latitude, 90)
		v.coordinate(path+".longitude", s.Longitude, 180)
		if len(s.Devices) != 1 {
			v.add(spec.StatusInvalidDetails, path+".device_data", "%d devices, a payload carries one", len(s.Devices))
		}
		for j, d := range s.Devices {
			v.device(fmt.Sprintf("%s.device_data[%d]", path, j), d)
		}
	}
}

func (v *validator) coordinate(path string, c *float64, limit float64) {
	if c != nil && (*c < -limit || *c > limit) {
		v.add(spec.StatusInvalidDetails, path, "%v is outside -%v to %v", *c, limit, limit)
	}
}

func (v *validator) device(path string, d Device) {
	if strings.TrimSpace(d.DeviceID) == "" {
		v.add(spec.StatusNoStationDeviceMatch, path+".deviceId", "empty")
	}
	if len(d.Params)+len(d.DiagParams) == 0 {
		v.add(spec.StatusInvalidDetails, path+".params", "no readings")
	}
	seen := map[string]string{}
	for _, list := range []struct {
		name   string
		points []Point
	}{{"params", d.Params}, {"diag_params", d.DiagParams}} {
		for i, p := range list.points {
			at := fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			v.point(at, p)
			key := list.name + "\x00" + strings.TrimSpace(p.Parameter) + "\x00" + string(p.Timestamp)
			if first, twice := seen[key]; twice {
				v.add(spec.StatusNotSlot, at, "the same parameter and timestamp as %s", first)
			} else {
				seen[key] = at
			}
		}
	}
}

func (v *validator) point(path string, p Point) {
	if key := strings.TrimSpace(p.Parameter); key == "" {
		v.add(spec.StatusInvalidParameter, path+".parameter", "empty")
	} else if _, err := spec.LookupParameter(key); err != nil && !v.rules.AllowUnlisted {
		v.add(spec.StatusInvalidParameter, path+".parameter", "%v", err)
	}
	if key := strings.TrimSpace(p.Unit); key == "" {
		v.add(spec.StatusInvalidUnit, path+".unit", "empty")
	} else if !spec.IsUnit(key) && !v.rules.AllowUnlisted {
		// The server compares bytes, so another spelling of a unit is refused.
		if resolved, err := spec.ResolveUnit(key); err == nil {
			v.add(spec.StatusInvalidUnit, path+".unit", "%q must be written %q", key, resolved)
		} else {
			v.add(spec.StatusInvalidUnit, path+".unit", "%v", err)
		}
	}
	v.value(path+".value", p.Value)
	flag, err := spec.ParseFlag(p.Flag)
	if err != nil || strings.TrimSpace(p.Flag) != flag.String() {
		v.add(spec.StatusInvalidDetails, path+".flag", "%q is not one of %s", shorten(p.Flag), strings.Join(strings.Split(spec.Flags, ""), ", "))
		flag = spec.FlagNormal
	}
	stamp, err := p.Stamp()
	if err != nil {
		v.add(spec.StatusNotSlot, path+".timestamp", "%v", err)
		return
	}
	if err := spec.CheckStamp(stamp, flag, v.rules.Now); err != nil {
		v.add(spec.StampStatus(err), path+".timestamp", "%v", err)
	}
}

func (v *validator) value(path string, raw json.RawMessage) {
	text := string(raw)
	if text == "" || text == "null" {
		v.add(spec.StatusInvalidDetails, path, "missing")
		return
	}
	if c := text[0]; c != '-' && (c < '0' || c > '9') {
		v.add(spec.StatusInvalidDetails, path, "%s is not a number", shorten(text))
	} else if strings.ContainsAny(text, "eE") {
		v.add(spec.StatusInvalidDetails, path, "%s has an exponent", shorten(text))
	} else if _, err := strconv.ParseFloat(text, 64); err != nil {
		v.add(spec.StatusInvalidDetails, path, "%s is out of range", shorten(text))
	}
}

func shorten(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}
