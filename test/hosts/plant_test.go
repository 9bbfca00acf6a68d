package hosts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ocems-io/ocems/ocems/simulator"
)

const (
	station = "station_1"
	token   = "8d97c71e68c2f4eee5fb254fccb49773" // the example of the spec
)

// plant is the configuration of a host.
type plant struct {
	devices []device
	options map[string]any // added to the common options, or replace them
}

// device is one registered device.
type device struct {
	id                  string
	station, token      string // "" for those of the plant
	formerly            []string
	latitude, longitude *float64
	parameters          []parameter
	calibrations        []simulator.Calibration // scheduled at the board
	shared              bool
}

// parameter is one entry of a device.
type parameter struct {
	name       string // name of its readings
	tags       map[string]string
	parameter  string // default: the last word of name
	formerly   []string
	unit       string
	unlisted   bool
	statistic  string
	kindTells  bool // in the collector the kind of metric gives the statistic
	decimals   *int
	diagnostic bool
	rules      map[string]any // further keys with texts, numbers and lists of numbers
}

func (p plant) stations() []simulator.Station {
	s := simulator.Station{ID: station}
	for _, d := range p.devices {
		s.Devices = append(s.Devices, simulator.Device{ID: d.id, Token: token, Calibrations: d.calibrations})
	}
	return []simulator.Station{s}
}

// place has the host's board and the directory of its state.
type place struct {
	url, publicKey string
	dir            string // for state and trail
	memory         bool   // without a state directory
}

func (p place) state() string { return filepath.Join(p.dir, "state") }
func (p place) trail() string { return filepath.Join(p.state(), "audit.jsonl") }

// newPlace creates the files that a configuration needs.
func newPlace(t testing.TB, url, publicKey string) place {
	p := place{url: url, publicKey: publicKey, dir: t.TempDir()}
	if err := os.WriteFile(p.token(), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) token() string { return filepath.Join(p.dir, "token") }

// common returns the options that are the same in TOML and YAML.
func (p plant) common(at place) map[string]any {
	options := map[string]any{
		"endpoint": at.url, "public_key_file": at.publicKey, "audit_file": at.trail(), "grace": "1s", "calibration_grace": "1s",
		"settle":   "5s", // otherwise a last slot of old readings waits for 15 s or 90 s
		"coalesce": "0s", "spread": "0s", "initial_backoff": "50ms", "max_backoff": "200ms",
	}
	maps.Copy(options, p.options)
	return options
}

// toml returns the block of Telegraf's output.
func (p plant) toml(at place) string {
	b := &strings.Builder{}
	b.WriteString("[[outputs.ocems]]\n")
	options := p.common(at)
	if !at.memory {
		options["state_directory"] = at.state()
	}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		text, _ := json.Marshal(options[key]) // texts and numbers are the same in JSON and TOML
		fmt.Fprintf(b, "  %s = %s\n", key, text)
	}
	for _, d := range p.devices {
		fmt.Fprintf(b, "  [[outputs.ocems.device]]\n    station_id = %q\n    device_id = %q\n", cmp.Or(d.station, station), d.id)
		if d.token == "" {
			fmt.Fprintf(b, "    token_id_file = %q\n", at.token())
		} else {
			fmt.Fprintf(b, "    token_id = %q\n", d.token)
		}
		if d.formerly != nil {
			fmt.Fprintf(b, "    formerly = [%q]\n", d.formerly[0])
		}
		if d.latitude != nil {
			fmt.Fprintf(b, "    latitude = %v\n    longitude = %v\n", *d.latitude, *d.longitude)
		}
		if d.shared {
			b.WriteString("    shared_device = true\n")
		}
		for _, x := range d.parameters {
			metric, field := split(x.name)
			fmt.Fprintf(b, "    [[outputs.ocems.device.parameter]]\n      metric = %q\n      field = %q\n", metric, field)
			for key, value := range map[string]string{"parameter": x.parameter, "unit": x.unit, "statistic": x.statistic} {
				if value != "" {
					fmt.Fprintf(b, "      %s = %q\n", key, value)
				}
			}
			for key, value := range x.rules {
				text, _ := json.Marshal(value)
				fmt.Fprintf(b, "      %s = %s\n", key, text)
			}
			if x.decimals != nil {
				fmt.Fprintf(b, "      decimals = %d\n", *x.decimals)
			}
			if x.diagnostic {
				fmt.Fprintf(b, "      diagnostic = true\n")
			}
			if x.unlisted {
				fmt.Fprintf(b, "      allow_unlisted = true\n")
			}
			if x.formerly != nil {
				fmt.Fprintf(b, "      formerly = [%q]\n", x.formerly[0])
			}
			if len(x.tags) > 0 {
				fmt.Fprintf(b, "      [outputs.ocems.device.parameter.tags]\n")
				for key, value := range x.tags {
					fmt.Fprintf(b, "        %s = %q\n", key, value)
				}
			}
		}
	}
	return b.String()
}

// exporter returns the configuration of the collector's exporter.
func (p plant) exporter(at place) map[string]any {
	conf := p.common(at)
	if !at.memory {
		conf["storage"] = "ocems_storage"
	}
	conf["devices"] = p.yamlDevices(at)
	return conf
}

// processor returns the configuration of the processor in front of the exporter.
func (p plant) processor(at place) map[string]any {
	conf := p.exporter(at)
	for _, key := range []string{"endpoint", "public_key_file", "coalesce", "spread", "initial_backoff", "max_backoff", "hold_interval", "max_concurrency"} {
		delete(conf, key)
	}
	delete(conf, "below_min_coverage") // a processor has no outbox, so it leaves such slots out
	for _, d := range conf["devices"].([]any) {
		parameters, _ := d.(map[string]any)["parameters"].([]any)
		for _, x := range parameters {
			delete(x.(map[string]any), "below_min_coverage")
		}
	}
	return conf
}

func (p plant) yamlDevices(at place) (list []any) {
	for _, d := range p.devices {
		conf := map[string]any{"station_id": cmp.Or(d.station, station), "device_id": d.id, "formerly": asAny(d.formerly)}
		if d.token == "" {
			conf["token_id_file"] = at.token()
		} else {
			conf["token_id"] = d.token
		}
		if d.latitude != nil {
			conf["latitude"], conf["longitude"] = *d.latitude, *d.longitude
		}
		if d.shared {
			conf["shared_device"] = true
		}
		var parameters []any
		for _, x := range d.parameters {
			entry := map[string]any{"metric": x.name, "parameter": x.parameter, "unit": x.unit, "diagnostic": x.diagnostic,
				"allow_unlisted": x.unlisted, "formerly": asAny(x.formerly)}
			maps.Copy(entry, x.rules)
			if x.parameter == "" {
				_, entry["parameter"] = split(x.name)
			}
			if x.statistic != "" && !x.kindTells {
				entry["statistic"] = x.statistic
			}
			if x.decimals != nil {
				entry["decimals"] = *x.decimals
			}
			if len(x.tags) > 0 {
				entry["attributes"] = x.tags
			}
			parameters = append(parameters, entry)
		}
		if parameters != nil {
			conf["parameters"] = parameters
		}
		list = append(list, conf)
	}
	return list
}

func asAny(list []string) (out []any) {
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func asJSON(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // never happens for plain values
	}
	return string(text)
}
