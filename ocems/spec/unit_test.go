package spec_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ocems-io/ocems/ocems/spec"
)

func TestResolveUnitKeepsTheCatalogue(t *testing.T) {
	for _, u := range spec.Units() {
		for _, s := range []string{u, " " + u + "\t", "[" + u + "]"} {
			if got, err := spec.ResolveUnit(s); err != nil || got != u {
				t.Errorf("ResolveUnit(%q) = %q, %v, want %q", s, got, err, u)
			}
		}
	}
}

func TestResolveUnitSpellings(t *testing.T) {
	for spelling, want := range map[string]string{
		"mg/l": "mg/L", "MG/L": "mg/L", "mg / L": "mg/L", "mg per l": "mg/L", "mg L^-1": "mg/L", "mg/litre": "mg/L",
		"m3/hr": "m³/hr", "m3/h": "m³/hr", "m^3/h": "m³/hr", "m³/h": "m³/hr", "M3/HR": "m³/hr", "M3/hr": "m³/hr",
		"M3/Hr": "m³/hr", "m**3/h": "m³/hr", "CMH": "m³/hr", "cum/hr": "m³/hr",
		"mg/Nm3": "mg/Nm³", "mg/nm3": "mg/Nm³", "MG/NM3": "mg/Nm³", "mg/Nm^3": "mg/Nm³", "mg/m3": "mg/m³",
		"degC": "°C", "Cel": "°C", "°c": "°C", "ºC": "°C", "℃": "°C", "deg C": "°C", "℉": "°F", "degF": "°F",
		"\u00b5g/m³": "μg/m³", "\u03bcg/m³": "μg/m³", "ug/m3": "μg/m³", "\u00b5g/m3": "μg/m³", "UG/M3": "μg/m³",
		"uS/cm": "uS/cm", "\u00b5S/cm": "uS/cm", "\u03bcS/cm": "uS/cm", "us/cm": "uS/cm", "US/CM": "uS/cm",
		"ms/cm": "mS/cm", "MS/CM": "mS/cm",
		"Mg/L": "mg/L", "[Mg/L]": "mg/L", "Mg/litre": "mg/L", "Mg L-1": "mg/L", "mg/lit": "mg/L", "mg/Lit.": "mg/L", "Mg/Nm3": "mg/Nm³", "mg/N.m3": "mg/Nm³",
		"mg/Ncum": "mg/Nm³", "Mg/Ncum": "mg/Nm³", "mg/NMC": "mg/Nm³", "Milligram/Nm3": "mg/Nm³", "mg/Normal m3": "mg/Nm³",
		"pH Unit": "pH", "pH units": "pH", "KLPH": "m³/hr", "KL/Hr": "m³/hr", "M3/Hrs": "m³/hr", "cubic meter/hr": "m³/hr", "KLPD": "m³/day",
		"oC": "°C", "Deg. C": "°C", "degree celcius": "°C", "Degree Centigrade": "°C", "\u00b5mhos/cm": "uS/cm", "Percentage": "%", "mtr/sec": "m/s", "MT/hr": "ton/hr",
		"KLD": "m³/day", "m3/day": "m³/day", "m3/d": "m³/day", "kL/d": "m³/day",
		"LPH": "l/hr", "L/h": "l/hr", "LPM": "l/min", "lps": "l/s",
		"kg/h": "Kg/Hr", "kg/hr": "Kg/Hr", "KG/HR": "Kg/Hr", "TPH": "ton/hr", "TPD": "T/D",
		"kNm3/h": "knm³/h", "KNM3/H": "knm³/h", "knm3/hr": "knm³/h",
		"[pH]": "pH", "PH": "pH", "[ppm]": "ppm", "PPM": "ppm", "%": "%", "[%]": "%", "percent": "%", "Percent": "%",
		"l": "L", "[L]": "L", "h": "Hrs", "hour": "Hrs", "[in_i]": "inch", "hPa": "mbar", "MBAR": "mbar",
		"Min": "min", "Mile": "mile", "Metre": "m", "KL": "m³", "kelvin": "K", "sec": "s", "true/false": "True False",
	} {
		t.Run(spelling, func(t *testing.T) {
			if got, err := spec.ResolveUnit(spelling); err != nil || got != want {
				t.Errorf("ResolveUnit(%q) = %q, %v, want %q", spelling, got, err, want)
			}
		})
	}
}

func TestResolveUnitRefuses(t *testing.T) {
	for _, c := range []struct{ name, spelling, nearest string }{
		{"megagram", "Mg/m3", "mg/m³"}, // a density
		{"megamho", "Mmho/cm", "uS/cm mS/cm"},
		{"megabar", "Mbar", "mbar"},
		{"megasiemens", "MS/cm", "mS/cm"},
		{"megametre", "Mm", "mm"},
		{"molar", "M", "m"},
		{"molar in brackets", "[M]", "m"},
		{"molar with a dot", "M.", "m"},
		{"millimolar", "mM", "mm"},
		{"picoampere", "pA", "Pa"},
		{"siemens", "S", "s"},
		{"siemens in brackets", "[S]", "s"},
		{"henry", "H", ""},
		{"microgram per litre", "ug/L", "mg/L mg/Nm³ mg/m³"},
		{"microgram of gas", "ug/Nm3", "mg/Nm³ μg/m³ mg/L"},
		{"water column", "mmWC", "mbar Pa"},
		{"kilopascal", "kPa", "Pa mbar"},
		{"megalitres", "MLD", "m³/hr m³/day l/min"},
		{"the document's mg2", "mg2", ""},
		{"normal cubic metres", "Nm3/hr", "m³/hr m³/day l/min"},
		{"a slip", "degree celsuis", "°C"},
		{"no division", "mgl", "mg/L"},
		{"of which degree", "degree", "°C °F"},
		{"empty", "", ""},
		{"white space", " \t", ""},
		{"a mass", "mg", ""},
		{"nonsense", "furlong/fortnight", ""},
		{"not UTF-8", "\xff\xfe", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := spec.ResolveUnit(c.spelling)
			var unknown *spec.UnknownError
			if !errors.As(err, &unknown) || got != "" {
				t.Fatalf("ResolveUnit(%q) = %q, %v, want an *UnknownError", c.spelling, got, err)
			}
			if unknown.Kind != "unit" {
				t.Errorf("kind %q, want a unit", unknown.Kind)
			}
			for _, n := range unknown.Nearest() {
				if !spec.IsUnit(n) {
					t.Errorf("nearest %q is not in the catalogue", n)
				}
			}
			if got := strings.Join(unknown.Nearest(), " "); got != c.nearest {
				t.Errorf("nearest %q, want %q", got, c.nearest)
			}
		})
	}
}

func FuzzResolveUnit(f *testing.F) {
	for _, s := range append(spec.Units(), "", "mg/l", "Mg/L", "[M]", "\u00b5S/cm", "℃", "\xff", "per per", "K", "ſ") {
		f.Add(s)
	}
	units := spec.Units()
	f.Fuzz(func(t *testing.T, s string) {
		key, err := spec.ResolveUnit(s)
		if err != nil {
			if key != "" {
				t.Errorf("ResolveUnit(%q) = %q with error %v", s, key, err)
			}
			return
		}
		if !slices.Contains(units, key) {
			t.Errorf("ResolveUnit(%q) = %q is not in the catalogue", s, key)
		}
		if again, err := spec.ResolveUnit(key); err != nil || again != key {
			t.Errorf("ResolveUnit(%q) = %q, %v", key, again, err)
		}
	})
}

func TestMeasures(t *testing.T) {
	for _, c := range []struct {
		parameter, unit string
		fits            bool
	}{
		{"ph", "pH", true}, {"ph", "m³/hr", false}, {"ph", "mg/L", false}, {"ph", "Number", true}, {"cod", "mg/L", true}, {"cod", "m³/hr", false}, {"cod", "pH", false},
		{"so2", "ppm", true}, {"so2", "mg/Nm³", true}, {"so2", "°C", false}, {"flow_inlet", "m³/hr", true}, {"flow_inlet", "m³", false}, {"flow_inlet", "ton/hr", true},
		{"flow_inlet_totalizer", "m³", true}, {"flow_inlet_totalizer", "m³/hr", false}, {"temperature", "°C", true}, {"temperature", "mg/L", false}, {"velocity", "m/s", true},
		{"o2", "%", true}, {"pressure", "mbar", true}, {"pressure", "%", false}, {"color", "mg/L", true}, {"its own", "m³/hr", true}, {"cod", "its own", true},
	} {
		if quantity, fits := spec.Measures(c.parameter, c.unit); fits != c.fits || !fits && quantity == "" {
			t.Errorf("%s in %s: %q %v, want %v", c.parameter, c.unit, quantity, fits, c.fits)
		}
	}
	for _, p := range spec.Parameters() { // each can be reported in something
		if !slices.ContainsFunc(spec.Units(), func(u string) bool { _, fits := spec.Measures(p.Key, u); return fits && spec.Quantity(u) != "" }) {
			t.Errorf("no unit fits %q", p.Key)
		}
	}
}
