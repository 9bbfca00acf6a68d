package simulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Registry has the stations of an industry, with their devices and the devices' tokens.
type Registry struct {
	Stations []Station

	// Keys outside the catalogue that this board accepts too, exactly as written here.
	UnlistedParameters, UnlistedUnits []string
}

func (r *Registry) takesParameter(key string) bool {
	return spec.IsParameter(key) || slices.Contains(r.UnlistedParameters, key)
}

func (r *Registry) takesUnit(key string) bool {
	return spec.IsUnit(key) || slices.Contains(r.UnlistedUnits, key)
}

// Station is one station of an industry with its devices.
type Station struct {
	ID      string
	Devices []Device
}

// Device is one registered device. Device ids are unique over all stations.
type Device struct {
	ID           string
	Token        string
	Parameters   map[string][]string // units by parameter key; nil accepts the catalogue, an empty list any unit of it
	Calibrations []Calibration
}

// Calibration is a time, both ends inclusive, for which the board accepts readings flagged C or Z (spec 2.4.3).
type Calibration struct{ From, To time.Time }

// The same in YAML.
type (
	registryFile struct {
		Stations           []stationFile `yaml:"stations"`
		UnlistedParameters []string      `yaml:"unlisted_parameters"`
		UnlistedUnits      []string      `yaml:"unlisted_units"`
	}
	stationFile struct {
		ID      string       `yaml:"id"`
		Devices []deviceFile `yaml:"devices"`
	}
	deviceFile struct {
		ID           string              `yaml:"id"`
		Token        string              `yaml:"token"`
		Parameters   map[string][]string `yaml:"parameters"`
		Calibrations []struct {
			From string `yaml:"from"`
			To   string `yaml:"to"`
		} `yaml:"calibrations"`
	}
)

var registryKeys = []string{"stations", "unlisted_parameters", "unlisted_units", "id", "devices", "token", "parameters", "calibrations", "from", "to"}

// LoadRegistry reads a registry file. Durations in it are relative to now.
func LoadRegistry(path string) (*Registry, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the registry: %w", err)
	}
	r, err := ParseRegistry(text, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// ParseRegistry reads a registry in YAML. `from` and `to` of a calibration are RFC 3339 times, or durations such as
// -2h that are relative to start. Errors name the key, the value and the nearest valid one, and never a token.
func ParseRegistry(text []byte, start time.Time) (*Registry, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var file registryFile
	if err := dec.Decode(&file); err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading the registry: %w", explainYAML(err))
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("reading the registry: more than one YAML document")
	}
	r := &Registry{UnlistedParameters: file.UnlistedParameters, UnlistedUnits: file.UnlistedUnits}
	for i, s := range file.Stations {
		station := Station{ID: s.ID}
		for j, d := range s.Devices {
			device := Device{ID: d.ID, Token: d.Token, Parameters: d.Parameters}
			for k, c := range d.Calibrations {
				path := fmt.Sprintf("stations[%d].devices[%d].calibrations[%d]", i, j, k)
				from, err := moment(c.From, start)
				if err != nil {
					return nil, fmt.Errorf("reading the registry: %s.from: %w", path, err)
				}
				to, err := moment(c.To, start)
				if err != nil {
					return nil, fmt.Errorf("reading the registry: %s.to: %w", path, err)
				}
				device.Calibrations = append(device.Calibrations, Calibration{from, to})
			}
			station.Devices = append(station.Devices, device)
		}
		r.Stations = append(r.Stations, station)
	}
	if _, err := r.index(); err != nil {
		return nil, fmt.Errorf("reading the registry: %w", err)
	}
	return r, nil
}

func moment(text string, start time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if d, err := time.ParseDuration(text); err == nil {
		return start.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is neither an RFC 3339 time such as 2026-01-31T10:00:00+05:30 nor a duration such as -2h", text)
}

var (
	unknownField = regexp.MustCompile(`(line \d+): field (.+) not found in type`)
	quotedValue  = regexp.MustCompile("`[^`]*`")
)

// explainYAML adds the nearest key to an unknown one, and removes values, which may be tokens, from other errors.
func explainYAML(err error) error {
	var mismatch *yaml.TypeError
	if !errors.As(err, &mismatch) {
		return err
	}
	var lines []string
	for _, line := range mismatch.Errors {
		if m := unknownField.FindStringSubmatch(line); m != nil {
			line = fmt.Sprintf("%s: unknown key %q: nearest %s", m[1], m[2], strings.Join(spec.Nearest(m[2], registryKeys), ", "))
		}
		lines = append(lines, quotedValue.ReplaceAllString(line, "the value"))
	}
	return errors.New(strings.Join(lines, "; "))
}

// index checks a registry and returns its devices by id.
func (r *Registry) index() (map[string]*device, error) {
	if len(r.Stations) == 0 {
		return nil, errors.New("stations: the list is empty")
	}
	for _, list := range []struct {
		name  string
		keys  []string
		known func(string) bool
	}{{"unlisted_parameters", r.UnlistedParameters, spec.IsParameter}, {"unlisted_units", r.UnlistedUnits, spec.IsUnit}} {
		for i, key := range list.keys {
			switch {
			case key == "" || key != strings.TrimSpace(key):
				return nil, fmt.Errorf("%s[%d]: %q is empty or has white space around it", list.name, i, key)
			case list.known(key):
				return nil, fmt.Errorf("%s[%d]: %q is in the catalogue", list.name, i, key)
			}
		}
	}
	devices := map[string]*device{}
	stations := map[string]bool{}
	for i, s := range r.Stations {
		path, station := fmt.Sprintf("stations[%d]", i), strings.TrimSpace(s.ID)
		switch {
		case station == "":
			return nil, fmt.Errorf("%s.id: empty", path)
		case stations[station]:
			return nil, fmt.Errorf("%s.id: %q is in the list twice", path, station)
		case len(s.Devices) == 0:
			return nil, fmt.Errorf("%s.devices: the list is empty", path)
		}
		stations[station] = true
		for j, d := range s.Devices {
			path := fmt.Sprintf("%s.devices[%d]", path, j)
			dev, err := r.newDevice(station, d)
			if err != nil {
				return nil, fmt.Errorf("%s.%w", path, err)
			}
			if devices[dev.id] != nil {
				return nil, fmt.Errorf("%s.id: %q is in the list twice", path, dev.id)
			}
			devices[dev.id] = dev
		}
	}
	return devices, nil
}

// checkKeys refuses parameter and unit keys that the board does not accept.
func (r *Registry) checkKeys(d Device) error {
	for _, key := range slices.Sorted(maps.Keys(d.Parameters)) {
		if !r.takesParameter(key) {
			_, err := spec.LookupParameter(key)
			if err == nil {
				err = fmt.Errorf("%q has white space around it", key)
			}
			return fmt.Errorf("parameters: %w", err)
		}
		for _, unit := range d.Parameters[key] {
			if r.takesUnit(unit) {
				continue
			}
			resolved, err := spec.ResolveUnit(unit)
			if err == nil {
				err = fmt.Errorf("%q must be written %q", unit, resolved)
			}
			return fmt.Errorf("parameters.%s: %w", key, err)
		}
	}
	return nil
}
