package spec

import "strings"

// ResolveUnit returns the catalogue's key (annexe 3.2) for a spelling of a unit: `mg/l`, `MG/L` and `mg/L` are mg/L,
// `m3/h` is m³/hr, UCUM's `Cel` is °C. All spellings of a key mean the same unit, so a value is never converted. The error
// for other text is an *UnknownError with the nearest keys.
func ResolveUnit(s string) (string, error) {
	s = strings.TrimSpace(s)
	if IsUnit(s) {
		return s, nil
	}
	// The check of case ignores the brackets of UCUM; otherwise [M] would be a metre.
	bare := unitDecoration.Replace(s)
	if IsUnit(bare) {
		return bare, nil
	}
	f := foldUnit(s)
	switch {
	case otherUnits[bare] || prefixClash(bare, f):
	case len(bare) == 1 && bare != strings.ToLower(bare):
		// A single letter in another case is another unit: S is siemens, M is mole per litre.
	case len(f) == 1 && f != "l":
		if key, ok := unitAliases[f]; ok {
			return key, nil
		}
	default:
		if key, ok := foldedUnits[f]; ok {
			return key, nil
		}
		if key, ok := unitAliases[f]; ok {
			return key, nil
		}
	}
	return "", &UnknownError{Kind: "unit", Value: s, Nearest: func() []string { return nearestUnits(s) }, Convert: foldedUnits[f] == "" && quantityOf(s) != ""}
}

// SameUnit reports whether two texts are spellings of one unit.
func SameUnit(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := ResolveUnit(a)
	y, errY := ResolveUnit(b)
	return errX == nil && errY == nil && x == y
}

// otherUnits have the letters of a catalogue unit but mean something else: millimolar and centimolar are not lengths, a
// picoampere is not a pascal.
var otherUnits = map[string]bool{"mM": true, "cM": true, "pA": true}

var unitDecoration = strings.NewReplacer("[", "", "]", "", " ", "", "_", "", "\u00a0", "", ".", "", "^", "", "**", "")

var unitFolder = strings.NewReplacer(
	"²", "2", "³", "3", "^", "", "**", "",
	"\u00b5", "u", "\u03bc", "u", // micro sign, Greek mu
	"º", "°", "˚", "°", "℃", "°c", "℉", "°f",
	"[", "", "]", "", " ", "", "_", "", "\u00a0", "", ".", "",
	"\\", "/", "÷", "/",
)

// foldUnit removes differences that do not change a unit's meaning: case, spaces, the form of exponents and the micro sign.
func foldUnit(s string) string {
	// Divisions in words: "mg per l", "mg l-1".
	return strings.Replace(fold(s), "per", "/", 1)
}

// prefixClash reports whether s begins with M for mega but its folded spelling has m for milli (or for metre in m/s). It is
// false if s is all capitals, as on displays, and for M3/hr, where M is not a prefix.
func prefixClash(s, folded string) bool {
	if !strings.HasPrefix(s, "M") || s == strings.ToUpper(s) {
		return false
	}
	for _, liquid := range []string{"mg/l", "mgl-1", "mg/nm3", "mg/ncum", "mg/nmc", "mg/normalm3"} { // tonnes per litre do not occur
		if strings.HasPrefix(folded, liquid) {
			return false
		}
	}
	for _, milli := range []string{"mg", "mm", "mbar", "ms/", "m/"} {
		if strings.HasPrefix(folded, milli) {
			return true
		}
	}
	return false
}

var foldedUnits = func() map[string]string {
	m := make(map[string]string, len(units))
	for _, u := range units {
		m[foldUnit(u)] = u
	}
	return m
}()

// unitSpellings are other folded names of catalogue units. Each is exactly the same unit: factor one, offset zero.
var unitSpellings = map[string]string{
	"%":            "percent pct percentage %vol vol% %v/v",
	"°C":           "cel degc oc celsius celcius centigrade degcelsius degcelcius degreec degreecelsius degreecelcius degreescelsius degreescelcius degreecentigrade",
	"°F":           "degf fahrenheit degfahrenheit degreef",
	"K":            "kelvin",
	"cm/s":         "cm/sec",
	"cm³":          "cc cucm",
	"Hrs":          "h hr hour hours",
	"Hz":           "hertz",
	"Imperial gpm": "impgpm ukgpm",
	"US gpm":       "usgal/min gpmus",
	"inch":         "in ini inches",
	"Kg/Hr":        "kg/h kg/hour kgph",
	"km/hr":        "km/h km/hour",
	"knm³/h":       "knm3/hr",
	"L":            "litre liter litres liters ltr",
	"l/hr":         "l/h l/hour lph ltr/hr ltr/hour ltrs/hr litre/hr litre/hour litres/hour liter/hr liter/hour",
	"l/min":        "lpm l/minute ltr/min ltrs/min litre/min litre/minute liter/min",
	"l/s":          "lps l/sec l/second ltr/sec litre/sec",
	"m":            "metre meter metres meters",
	"m/s":          "m/sec m/second mps mtr/s mtr/sec meter/sec metre/sec meters/sec metres/sec",
	"m²":           "sqm",
	"m³":           "cum kl kilolitre kiloliter kilolitres kiloliters cubicmeter cubicmetre cubicmeters cubicmetres",
	"m³/day":       "m3/d kld klpd kl/d kl/day cum/day cubicmeter/day cubicmetre/day",
	"m³/hr":        "m3/h m3/hour m3/hrs m3ph cum/hr cum/h cum/hour cmh cmph kl/hr kl/h kl/hour klh klph cubicmeter/hr cubicmetre/hr cubicmeter/hour cubicmetre/hour",
	"m³/s":         "m3/sec m3/second cum/s cumec cumecs",
	"mbar":         "millibar hpa hectopascal",
	"mg/L":         "mgl-1 mg/lit mg/lt mg/litre mg/liter mg/ltr mg/lts mgpl mgs/l mgs/ltr milligram/litre milligrams/litre milligram/liter",
	"mg/m³":        "mgm-3 mg/cum",
	"mg/Nm³":       "mg/ncum mg/nmc milligram/nm3 milligrams/nm3 mg/normalm3",
	"μg/m³":        "ugm-3 ugm/m3 ug/cum mcg/m3 microgram/m3 micrograms/m3 microgram/cum",
	"g/m³":         "gm-3 gm/m3 g/cum",
	"kg/m³":        "kgm-3",
	"mile":         "miles mi",
	"miles/hr":     "mi/h mi/hr miles/h miles/hour",
	"min":          "minute minutes mins",
	"Mole":         "mol moles",
	"Pa":           "pascal pascals",
	"pH":           "phunit phunits phvalue",
	"ppm":          "partspermillion ppmv",
	"ppb":          "partsperbillion",
	"s":            "sec secs second seconds",
	"T/D":          "tpd mtpd mt/day t/day tonne/day ton/day tonnes/day tons/day",
	"ton/hr":       "ton/h tons/hr tons/h tonne/hr tonnes/hr t/hr t/h tph mt/hr mt/h mtph",
	"True False":   "bool boolean true/false truefalse",
	"uS/cm":        "us/cm microsiemens/cm microsiemen/cm usiemens/cm umho/cm umhos/cm micromho/cm micromhos/cm",
	"mS/cm":        "millisiemens/cm millisiemen/cm mmho/cm mmhos/cm",
}

var unitAliases = func() map[string]string {
	m := map[string]string{}
	for key, spellings := range unitSpellings {
		for _, s := range strings.Fields(spellings) {
			m[foldUnit(s)] = key
		}
	}
	return m
}()
