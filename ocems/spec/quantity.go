package spec

import "strings"

// A quantity is a physical quantity, such as "a volume flow". Units of one quantity convert into each other; "" is unknown.

// families lists the catalogue's units by quantity, the units that Indian plants use most first.
var families = map[string][]string{
	"a share":         {"%", "ppm", "ppb", "ratio"},
	"a temperature":   {"°C", "K", "°F"},
	"a length":        {"m", "cm", "mm", "inch", "mile"},
	"a speed":         {"m/s", "cm/s", "km/hr", "kmph", "mph", "miles/hr"},
	"a volume":        {"m³", "L", "cm³"},
	"a concentration": {"mg/L", "mg/Nm³", "mg/m³", "μg/m³", "g/m³", "kg/m³"},
	"a time":          {"Hrs", "min", "s"},
	"a volume flow":   {"m³/hr", "m³/day", "l/min", "l/s", "l/hr", "m³/s", "knm³/h", "US gpm", "Imperial gpm"},
	"a mass flow":     {"Kg/Hr", "ton/hr", "T/D"},
	"a pressure":      {"mbar", "Pa"},
	"a conductivity":  {"uS/cm", "mS/cm"},
	"pH":              {"pH"},
}

var quantities = func() map[string]string {
	m := map[string]string{}
	for quantity, units := range families {
		for _, u := range units {
			m[u] = quantity
		}
	}
	return m
}()

// measured lists the quantities of parameters, by key; "" is any quantity. All other parameters are amounts.
var measured = map[string]string{
	"ph": "pH", "temperature": "a temperature", "primary_temperature": "a temperature", "secondary_temperature": "a temperature",
	"temperature_emission": "a temperature", "pressure": "a pressure", "velocity": "a speed",
	"conductivity": "a conductivity", "ec": "a conductivity", "opacity": "a share",
	"flow back water": "a volume flow", "flow_emission": "a volume flow", "flow_inlet": "a volume flow", "gas": "a volume flow", "inlet flow2": "a volume flow",
	"flow_inlet_totalizer": "a volume", "flow_totalizer": "a volume", "inlet flow2 totalizer": "a volume", "totalizer": "a volume",
	"color": "", "temp_test": "",
}

// amounts are the quantities that a substance in water, air or gas can have.
var amounts = []string{"a concentration", "a share"}

// Quantity returns the quantity of a unit of the catalogue, such as "a volume flow", or "" if it can be any.
func Quantity(unit string) string { return quantities[unit] }

// Measures returns the quantity of a parameter of the catalogue, and whether a unit of the catalogue fits it. If this is not
// known, the unit fits.
func Measures(parameter, unit string) (quantity string, fits bool) {
	quantity, special := measured[parameter]
	of := quantities[unit]
	switch {
	case !IsParameter(parameter) || of == "" || special && quantity == "":
		return "", true
	case special:
		return quantity, of == quantity || quantity == "a volume flow" && of == "a mass flow"
	}
	return strings.Join(amounts, " or "), of == amounts[0] || of == amounts[1]
}

// unitParts has the quantity of folded units, and of parts of units, that instruments show and the catalogue does not have.
var unitParts = func() map[string]string {
	m := map[string]string{}
	for kind, words := range map[string]string{
		"mass":        "ng ug mcg mg g gm gms kg kgs t ton tons tonne tonnes mt lb lbs",
		"volume":      "ul ml l lit ltr litre kl m3 nm3 cum ncum scm ncm mcm ft3 cft scf cc ml3 dm3 gal gallon knm3 mgal bbl",
		"length":      "um mm cm dm m km ft feet in inch",
		"time":        "s sec min h hr hrs hour d day month yr year",
		"pressure":    "pa hpa kpa mpa bar mbar psi psig atm torr mmhg mmwc mmh2o mmwg inwc inh2o mwc kg/cm2 kgf/cm2 kg/cm2g kgcm2",
		"temperature": "c k f degc degf degk",
		"conductance": "us ms siemens mho mmho umho",
		"flow":        "mld mlpd gpd mgd gpm gph cfm scfm cfh lpd",
	} {
		for _, w := range strings.Fields(words) {
			m[w] = kind
		}
	}
	return m
}()

// derived has the quantities of two parts of a unit.
var derived = map[[2]string]string{
	{"mass", "volume"}: "a concentration", {"mass", "mass"}: "a share", {"volume", "volume"}: "a share",
	{"volume", "time"}: "a volume flow", {"mass", "time"}: "a mass flow", {"length", "time"}: "a speed", {"conductance", "length"}: "a conductivity",
}

var simple = map[string]string{"volume": "a volume", "length": "a length", "time": "a time", "pressure": "a pressure", "temperature": "a temperature", "flow": "a volume flow"}

// quantityOf returns the quantity of a unit that is not in the catalogue, such as ug/Nm3 or mmWC, or "".
func quantityOf(s string) string {
	f := foldUnit(s)
	if kind := unitParts[f]; kind != "" && (len(f) > 1 || kind == "temperature") { // H is henry too
		return simple[kind]
	}
	over, under, two := strings.Cut(f, "/")
	if !two {
		return ""
	}
	return derived[[2]string{unitParts[over], unitParts[under]}]
}
