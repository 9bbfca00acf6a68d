package spec

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

//go:embed parameters.csv
var parametersCSV string

//go:embed units.csv
var unitsCSV string

//go:embed status_codes.csv
var statusCodesCSV string

// Parameter is one line of annexe 3.1.
type Parameter struct {
	Key  string // in the payload, case-sensitive
	Name string // on the board's pages
}

// Totalizer reports whether the parameter is a running total (a volume since the meter was installed). Its value for a slot
// is the last reading, not the mean.
func (p Parameter) Totalizer() bool { return IsTotalizer(p.Key) }

// IsTotalizer reports whether a parameter key, or a metric name that ends in one, is a running total.
func IsTotalizer(key string) bool { return strings.HasSuffix(strings.ToLower(key), "totalizer") }

var (
	parameters   = readParameters()
	parameterSet = indexParameters()
	units        = readUnits()
	unitSet      = indexUnits()
	statusCodes  = readStatusCodes()
)

// Parameters returns the 86 parameters of annexe 3.1 in the order of the catalogue.
func Parameters() []Parameter { return slices.Clone(parameters) }

// Units returns the 57 unit keys of annexe 3.2 in the order of the catalogue.
func Units() []string { return slices.Clone(units) }

// LookupParameter finds a parameter by its exact key. White space around the key is ignored; case is not. The error
// for an unknown key is an *UnknownError with the nearest keys.
func LookupParameter(key string) (Parameter, error) {
	key = strings.TrimSpace(key)
	if p, ok := parameterSet[key]; ok {
		return p, nil
	}
	return Parameter{}, &UnknownError{Kind: "parameter", Value: key, Nearest: func() []string { return nearestParameters(key) }}
}

// IsParameter reports whether key is exactly a parameter key of annexe 3.1.
func IsParameter(key string) bool { _, ok := parameterSet[key]; return ok }

// IsUnit reports whether key is exactly a unit key of annexe 3.2.
func IsUnit(key string) bool { _, ok := unitSet[key]; return ok }

// UnknownError is a key that is not in the catalogue. Its text has the nearest keys. Error finds them, because the search
// takes too long for each reading.
type UnknownError struct {
	Kind    string          // "parameter", "unit", "flag" or "statistic"
	Value   string          // as given
	Nearest func() []string // best first, at most three; nil: none
	// Convert says that Value is a unit, and that Nearest are other units of the same quantity, so the values differ.
	Convert bool
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("unknown %s %q", e.Kind, e.Value)
	var nearest []string
	if e.Nearest != nil {
		nearest = e.Nearest()
	}
	if len(nearest) == 0 {
		return s
	}
	quoted := make([]string, len(nearest))
	for i, n := range nearest {
		quoted[i] = strconv.Quote(n)
	}
	if e.Convert {
		return s + ": the board has " + strings.Join(quoted, ", ") + " for it: convert the values to one of these"
	}
	return s + ": nearest " + strings.Join(quoted, ", ")
}

func readRows(name, text string) [][]string {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		panic("ocems/spec: embedded " + name + ": " + err.Error())
	}
	return rows[1:]
}

func readParameters() []Parameter {
	var ps []Parameter
	for _, row := range readRows("parameters.csv", parametersCSV) {
		ps = append(ps, Parameter{Key: row[0], Name: row[1]})
	}
	return ps
}

func indexParameters() map[string]Parameter {
	set := make(map[string]Parameter, len(parameters))
	for _, p := range parameters {
		set[p.Key] = p
	}
	return set
}

func readUnits() []string {
	var us []string
	for _, row := range readRows("units.csv", unitsCSV) {
		us = append(us, row[0])
	}
	return us
}

func indexUnits() map[string]struct{} {
	set := make(map[string]struct{}, len(units))
	for _, u := range units {
		set[u] = struct{}{}
	}
	return set
}
