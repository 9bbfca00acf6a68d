package simulator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ocems-io/ocems/ocems/simulator"
)

func TestRegistryMistakes(t *testing.T) {
	device := func(rest string) string { return "stations: [{id: s, devices: [{id: d, token: secret" + rest + "}]}]" }
	for name, c := range map[string]struct{ text, want string }{
		"empty":                {"", "stations: the list is empty"},
		"unknown key":          {device(", tokn: x"), `line 1: unknown key "tokn": nearest token`},
		"no token":             {"stations: [{id: s, devices: [{id: d}]}]", "stations[0].devices[0].token: the token is empty"},
		"no device id":         {"stations: [{id: s, devices: [{token: x}]}]", "stations[0].devices[0].id: empty"},
		"no devices":           {"stations: [{id: s}]", "stations[0].devices: the list is empty"},
		"station twice":        {"stations: [{id: s, devices: [{id: d, token: x}]}, {id: s, devices: [{id: e, token: x}]}]", `stations[1].id: "s" is in the list twice`},
		"device twice":         {"stations: [{id: s, devices: [{id: d, token: x}, {id: d, token: x}]}]", `devices[1].id: "d" is in the list twice`},
		"parameter":            {device(", parameters: {PH: []}"), `parameters: unknown parameter "PH"`},
		"unit":                 {device(", parameters: {cod: [mg/l]}"), `parameters.cod: "mg/l" must be written "mg/L"`},
		"unlisted for another": {"unlisted_units: [nox]\n" + device(", parameters: {nox: []}"), `parameters: unknown parameter "nox"`},
		"listed":               {"unlisted_parameters: [board_key, cod]\n" + device(""), `unlisted_parameters[1]: "cod" is in the catalogue`},
		"listed unit":          {"unlisted_units: [mg/L]\n" + device(""), `unlisted_units[0]: "mg/L" is in the catalogue`},
		"unlisted blank":       {"unlisted_units: [' x']\n" + device(""), `unlisted_units[0]: " x" is empty or has white space`},
		"unlisted empty":       {"unlisted_parameters: ['']\n" + device(""), `unlisted_parameters[0]: "" is empty`},
		"calibration":          {device(", calibrations: [{from: yesterday, to: 1h}]"), `calibrations[0].from: "yesterday" is neither`},
		"calibration back":     {device(", calibrations: [{from: 2h, to: 1h}]"), "is before from"},
		"kind":                 {"stations: [{id: s, devices: [{id: d, token: {secret: secret}}]}]", "line 1: cannot unmarshal"},
		"two documents":        {device("") + "\n---\n" + device(""), "more than one YAML document"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := simulator.ParseRegistry([]byte(c.text), now)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the token is in the error %v", err)
			}
		})
	}
}

func TestLoadRegistry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.yaml")
	if _, err := simulator.LoadRegistry(path); err == nil {
		t.Error("a missing file was read")
	}
	if err := os.WriteFile(path, []byte(registryYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := simulator.LoadRegistry(path)
	if err != nil || len(r.Stations) != 2 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := simulator.New(simulator.Config{Registry: r, Duplicates: "slots"}); err == nil || !strings.Contains(err.Error(), `"slots" is unknown: nearest slot`) {
		t.Error(err)
	}
	if _, err := simulator.New(simulator.Config{}); err == nil {
		t.Error("no registry was taken")
	}
}
