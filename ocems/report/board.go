package report

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Export is an export of the board's page: values by device, parameter and stamp of the slot.
type Export struct {
	values      map[exportKey]exported
	known       map[[2]string]bool // device and parameter
	first, last int64
	device      bool // it has a device column
}

type exportKey struct {
	device, parameter string // parameter: letters and digits only, in lower case
	slot              int64
}

type exported struct {
	value float64
	text  string
}

// Comparison has the differences between the trails and the board's page. It compares the parameters of the export, from its
// first to its last slot.
type Comparison struct {
	First       time.Time         `json:"first"`
	Last        time.Time         `json:"last"`
	Parameters  []BoardCounts     `json:"parameters"`
	Differences []BoardDifference `json:"differences"`
	NotThere    []string          `json:"not_in_the_export"` // parameters, as device/parameter
}

// BoardCounts counts the slots of one parameter.
type BoardCounts struct {
	Device    string `json:"device"`
	Parameter string `json:"parameter"`
	Same      int    `json:"same"`
	OnlyThere int    `json:"only_there"`
	OnlyHere  int    `json:"only_here"`
	Other     int    `json:"other_value"`
}

// BoardDifference is a slot that differs.
type BoardDifference struct {
	Device    string    `json:"device"`
	Parameter string    `json:"parameter"`
	Stamp     time.Time `json:"stamp"`
	What      string    `json:"what"` // only there, only here or other value
	Class     string    `json:"here"` // outcome in the trails
	Here      *float64  `json:"value_here"`
	There     *float64  `json:"value_there"`
}

// columnNames are the known names of each column, letters and digits only, in lower case.
var columnNames = map[string][]string{
	"device":    {"deviceid", "device", "deviceno", "analyzerid", "analyserid"},
	"parameter": {"parameter", "parametername", "parameterkey", "param", "pollutant"},
	"time":      {"time", "timestamp", "datetime", "dateandtime", "datetimeist", "timeist", "timestampist", "slot", "slottime", "date"},
	"value":     {"value", "avgvalue", "averagevalue", "avg", "average", "concentration", "reading", "result"},
}

// exportTimes are the time formats; a time without a zone is IST.
var exportTimes = []string{time.DateTime, "2006-01-02 15:04", time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "02-01-2006 15:04:05", "02-01-2006 15:04",
	"02/01/2006 15:04:05", "02/01/2006 15:04", "02-Jan-2006 15:04:05", "02-Jan-2006 15:04", "02 Jan 2006 15:04", "02-01-2006 03:04 PM", "02/01/2006 03:04 PM"}

// ReadExport reads a CSV with a header. Columns are found by name, in any order. An empty value is no value.
func ReadExport(r io.Reader) (*Export, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	lines := csv.NewReader(bytes.NewReader(text))
	head, _, _ := bytes.Cut(text, []byte("\n"))
	for _, comma := range ";\t" {
		if strings.Count(string(head), string(comma)) > strings.Count(string(head), string(lines.Comma)) {
			lines.Comma = comma
		}
	}
	lines.FieldsPerRecord, lines.TrimLeadingSpace = -1, true
	header, err := lines.Read()
	if err != nil {
		return nil, fmt.Errorf("reading its header: %w", err)
	}
	columns := map[string]int{}
	for what, names := range columnNames {
		columns[what] = -1
		for _, name := range slices.Backward(names) {
			if i := slices.IndexFunc(header, func(text string) bool { return letters(text) == name }); i >= 0 {
				columns[what] = i
			}
		}
		if columns[what] < 0 && what != "device" {
			return nil, fmt.Errorf("the header has no column for the %s: it has %s; name one %q", what, strings.Join(header, ", "), names[0])
		}
	}
	day := slices.IndexFunc(header, func(text string) bool { return letters(text) == "date" })
	x := &Export{values: map[exportKey]exported{}, known: map[[2]string]bool{}, first: math.MaxInt64, last: math.MinInt64, device: columns["device"] >= 0}
	for {
		row, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		cell := func(i int) string {
			if i < 0 || i >= len(row) {
				return ""
			}
			return strings.TrimSpace(row[i])
		}
		when := cell(columns["time"])
		if day >= 0 && day != columns["time"] {
			when = cell(day) + " " + when
		}
		line, _ := lines.FieldPos(0)
		if strings.Trim(strings.Join(row, ""), " -") == "" {
			continue
		}
		if err := x.take(cell(columns["device"]), cell(columns["parameter"]), when, cell(columns["value"])); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	if len(x.known) == 0 {
		return nil, errors.New("it has a header only")
	}
	return x, nil
}

// noValue are texts that stand for no value.
var noValue = []string{"", "-", "--", "na", "n/a", "null", "nil", "nan"}

func (x *Export) take(device, parameter, when, value string) error {
	var stamp time.Time
	err := errors.New("")
	for _, form := range exportTimes {
		if stamp, err = time.ParseInLocation(form, when, spec.IST); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("time %q is not a time such as 2026-11-23 10:15", when)
	}
	slot, rest := floor(stamp.UnixMilli(), slotMillis), mod(stamp.UnixMilli(), slotMillis)
	if rest != 0 {
		return fmt.Errorf("time %q is not on the grid of 15 minutes", when)
	}
	x.first, x.last = min(x.first, slot), max(x.last, slot)
	key := exportKey{device, letters(parameter), slot}
	x.known[[2]string{key.device, key.parameter}] = true
	if slices.Contains(noValue, strings.ToLower(value)) {
		return nil
	}
	v, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("value %q is not a number", value)
	}
	x.values[key] = exported{v, value}
	return nil
}

// letters are the letters and digits of a text, in lower case.
func letters(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// equal reports whether a value equals that of the page, which may be rounded.
func (e exported) equal(v float64) bool {
	decimals := 0
	if _, after, ok := strings.Cut(e.text, "."); ok {
		decimals = len(after)
	}
	return math.Abs(e.value-v) <= 0.5000001*math.Pow10(-decimals)
}

// Compare adds a comparison with the board's page. It needs Options.Readings.
func (r *Report) Compare(x *Export) error {
	if !x.device && len(r.Devices) > 1 {
		return fmt.Errorf("it has no device column, but the report has %d devices: add a column %s, or give --device", len(r.Devices), columnNames["device"][0])
	}
	c := &Comparison{First: at(x.first), Last: at(x.last), Parameters: []BoardCounts{}, Differences: []BoardDifference{}, NotThere: []string{}}
	for i := range r.Devices {
		d := &r.Devices[i]
		for j, s := range d.series {
			p := &d.Parameters[j]
			key, ok := x.find(d.ID, p.Parameter)
			switch {
			case !s.closed || p.Diagnostic || r.Period == nil:
			case !ok:
				c.NotThere = append(c.NotThere, d.ID+"/"+p.Parameter)
			default:
				c.compare(r, d.ID, p.Parameter, s, x, key)
			}
		}
	}
	slices.SortStableFunc(c.Differences, func(a, b BoardDifference) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Parameter, b.Parameter), a.Stamp.Compare(b.Stamp))
	})
	r.Board = c
	return nil
}

// find finds a parameter in the export, by its key or by its name on the board's page.
func (x *Export) find(device, parameter string) (exportKey, bool) {
	if !x.device {
		device = ""
	}
	names := []string{letters(parameter)}
	if p, err := spec.LookupParameter(parameter); err == nil {
		names = append(names, letters(p.Name))
	}
	for _, name := range names {
		if x.known[[2]string{device, name}] {
			return exportKey{device: device, parameter: name}, true
		}
	}
	return exportKey{}, false
}

func (c *Comparison) compare(r *Report, device, parameter string, s *series, x *Export, key exportKey) {
	n := BoardCounts{Device: device, Parameter: parameter}
	first, last := r.Period.First.UnixMilli()/slotMillis, r.Period.Last.UnixMilli()/slotMillis
	for key.slot = max(first, x.first); key.slot <= min(last, x.last); key.slot++ {
		there, has := x.values[key]
		on, place := split(key.slot)
		today := s.day(on)
		class, _ := s.state(today, on, place)
		diff := BoardDifference{Device: device, Parameter: parameter, Stamp: at(key.slot), Class: class.String()}
		if class > calendar.Excluded && class != calendar.Calibration && today.readings != nil && today.readings[place] != (reading{}) {
			diff.Here = &today.readings[place].value
		}
		if has {
			diff.There = &there.value
		}
		switch reached := class >= calendar.Stored && class != calendar.Calibration; {
		case !reached && !has:
			continue
		case !reached:
			diff.What = "only there"
			n.OnlyThere++
		case !has:
			diff.What = "only here"
			n.OnlyHere++
		case diff.Here != nil && !there.equal(*diff.Here):
			diff.What = "other value"
			n.Other++
		default:
			n.Same++
			continue
		}
		c.Differences = append(c.Differences, diff)
	}
	c.Parameters = append(c.Parameters, n)
}

// mostDifferences is how many differences text and HTML show.
const mostDifferences = 500

// Shown are the differences that text and HTML show.
func (c *Comparison) Shown() []BoardDifference {
	return c.Differences[:min(len(c.Differences), mostDifferences)]
}

// More is how many differences are not shown.
func (c *Comparison) More() int { return len(c.Differences) - len(c.Shown()) }

// Verdict is one sentence.
func (c *Comparison) Verdict() string {
	var all BoardCounts
	for _, n := range c.Parameters {
		all.Same += n.Same
		all.OnlyThere += n.OnlyThere
		all.OnlyHere += n.OnlyHere
		all.Other += n.Other
	}
	text := fmt.Sprintf("The board's page from %s: same %d, only there %d, only here %d, other value %d.", span(c.First, c.Last), all.Same, all.OnlyThere, all.OnlyHere, all.Other)
	if len(c.NotThere) > 0 {
		text += " Not in the export: " + strings.Join(c.NotThere[:min(len(c.NotThere), 20)], ", ") + "."
	}
	return text
}

// String is a difference for a person.
func (d BoardDifference) String() string {
	return fmt.Sprintf("%s %s: %s; here %s, there %s", d.Parameter, d.StampText(), d.What, d.HereText(), d.ThereText())
}

// StampText is the stamp, for a table.
func (d BoardDifference) StampText() string { return clock(d.Stamp) }

// HereText is the value and outcome in the trails.
func (d BoardDifference) HereText() string {
	if d.Here == nil {
		return d.Class
	}
	return strconv.FormatFloat(*d.Here, 'f', -1, 64) + " " + d.Class
}

// ThereText is the value on the board's page.
func (d BoardDifference) ThereText() string {
	if d.There == nil {
		return "nothing"
	}
	return strconv.FormatFloat(*d.There, 'f', -1, 64)
}
