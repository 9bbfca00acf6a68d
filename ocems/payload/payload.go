package payload

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Reading is one value of one parameter: an average of 15 minutes, or of 30 seconds in calibration.
type Reading struct {
	Parameter  string // key of annexe 3.1
	Value      float64
	Unit       string // key of annexe 3.2
	Stamp      time.Time
	Flag       spec.Flag
	Diagnostic bool // goes to diag_params instead of params

	Statistic string // how Value was computed, "mean" for one; not sent
	Samples   int    // number of samples; not sent
	// Min and Max are the smallest and the largest sample, both 0 if they are equal or unknown; not sent.
	Min, Max float64
	// Minutes is the number of minutes of the slot with readings, if there are too few and a person must decide; otherwise 0;
	// not sent.
	Minutes int
	Era     uint64 // era of the clock that took it, if that clock was not confirmed; otherwise 0; not sent
}

// Record is the content of one request: readings of one device of one station.
type Record struct {
	StationID string
	DeviceID  string
	Latitude  *float64 // degrees, -90 to 90; nil leaves it out
	Longitude *float64 // degrees, -180 to 180; nil leaves it out
	Readings  []Reading
}

// Check returns why the record is not valid as JSON or by the spec, or nil: empty identifiers, text that is not UTF-8, NaN,
// infinities, an invalid flag, no readings. It accepts two readings of one parameter and stamp, because they go in two
// requests.
func (r Record) Check() error {
	station, device := strings.TrimSpace(r.StationID), strings.TrimSpace(r.DeviceID)
	switch {
	case station == "":
		return errors.New("writing a payload: the station id is empty")
	case device == "":
		return errors.New("writing a payload: the device id is empty")
	case !utf8.ValidString(station):
		return fmt.Errorf("writing a payload: the station id %q is not UTF-8", station)
	case !utf8.ValidString(device):
		return fmt.Errorf("writing a payload: the device id %q is not UTF-8", device)
	case len(r.Readings) == 0:
		return fmt.Errorf("writing a payload: device %q has no readings", device)
	}
	for i := range r.Readings {
		if err := r.Readings[i].Check(); err != nil {
			return fmt.Errorf("writing a payload of device %q: %w", device, err)
		}
	}
	for _, c := range r.coordinates() {
		if c.value != nil && !(math.Abs(*c.value) <= c.limit) {
			return fmt.Errorf("writing a payload of device %q: %s %v is outside -%v to %v", device, c.key, *c.value, c.limit, c.limit)
		}
	}
	return nil
}

type coordinate struct {
	key   string
	value *float64
	limit float64
}

func (r *Record) coordinates() [2]coordinate {
	return [2]coordinate{{"latitude", r.Latitude, 90}, {"longitude", r.Longitude, 180}}
}

// Marshal writes the record as the compact JSON of spec 2.4.1, with keys in the order of the spec. Readings are sorted by
// stamp and then by parameter key, so that the same readings always give the same bytes. Its errors are those of Check, and
// two readings of one parameter and stamp in the same list.
func (r Record) Marshal() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	station, device := strings.TrimSpace(r.StationID), strings.TrimSpace(r.DeviceID)
	sorted := r.Readings
	if !slices.IsSortedFunc(sorted, Reading.compare) {
		sorted = slices.SortedStableFunc(slices.Values(sorted), Reading.compare)
	}
	for i := 1; i < len(sorted); i++ {
		a, b := &sorted[i-1], &sorted[i]
		if a.Diagnostic == b.Diagnostic && a.Stamp.UnixMilli() == b.Stamp.UnixMilli() && strings.TrimSpace(a.Parameter) == strings.TrimSpace(b.Parameter) {
			return nil, fmt.Errorf("writing a payload of device %q: parameter %q occurs twice for %s, as %v %s flag %s and as %v %s flag %s", device,
				strings.TrimSpace(a.Parameter), spec.ISTString(a.Stamp), a.Value, a.Unit, a.Flag, b.Value, b.Unit, b.Flag)
		}
	}
	out := make([]byte, 0, 160+112*len(sorted))
	out = append(out, `{"data":[{"stationId":`...)
	out = appendString(out, station)
	out = append(out, `,"device_data":[{"deviceId":`...)
	out = appendString(out, device)
	out = append(out, `,"params":[`...)
	out, _ = appendReadings(out, sorted, false)
	out = append(out, ']')
	mark := len(out)
	out = append(out, `,"diag_params":[`...)
	out, n := appendReadings(out, sorted, true)
	if n == 0 {
		out = out[:mark]
	} else {
		out = append(out, ']')
	}
	out = append(out, `}]`...)
	for _, c := range r.coordinates() {
		if c.value != nil {
			out = append(out, `,"`+c.key+`":`...)
			out = appendNumber(out, *c.value)
		}
	}
	return append(out, `}]}`...), nil
}

// Check returns why the reading is not valid as JSON or by the spec, or nil.
func (r *Reading) Check() error {
	switch {
	case strings.TrimSpace(r.Parameter) == "":
		return errors.New("a reading has no parameter key")
	case strings.TrimSpace(r.Unit) == "":
		return fmt.Errorf("parameter %q has no unit", r.Parameter)
	case !utf8.ValidString(r.Parameter):
		return fmt.Errorf("parameter %q is not UTF-8", r.Parameter)
	case !utf8.ValidString(r.Unit):
		return fmt.Errorf("parameter %q: unit %q is not UTF-8", r.Parameter, r.Unit)
	case math.IsNaN(r.Value) || math.IsInf(r.Value, 0):
		return fmt.Errorf("parameter %q: %v is not a number that JSON can carry", r.Parameter, r.Value)
	case !r.Flag.Valid():
		return fmt.Errorf("parameter %q: flag %q is not one of %s", r.Parameter, string(rune(r.Flag)), spec.Flags)
	}
	return nil
}

func (r Reading) compare(o Reading) int {
	return cmp.Or(
		cmp.Compare(r.Stamp.UnixMilli(), o.Stamp.UnixMilli()),
		cmp.Compare(strings.TrimSpace(r.Parameter), strings.TrimSpace(o.Parameter)),
		compareBools(r.Diagnostic, o.Diagnostic),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func appendReadings(out []byte, rs []Reading, diagnostic bool) ([]byte, int) {
	n := 0
	for i := range rs {
		r := &rs[i]
		if r.Diagnostic != diagnostic {
			continue
		}
		if n > 0 {
			out = append(out, ',')
		}
		n++
		out = append(out, `{"parameter":`...)
		out = appendString(out, strings.TrimSpace(r.Parameter))
		out = append(out, `,"value":`...)
		out = appendNumber(out, r.Value)
		out = append(out, `,"unit":`...)
		out = appendString(out, strings.TrimSpace(r.Unit))
		out = append(out, `,"timestamp":`...)
		out = strconv.AppendInt(out, r.Stamp.UnixMilli(), 10)
		out = append(out, `,"flag":"`...)
		out = append(out, byte(r.Flag), '"', '}')
	}
	return out, n
}

// appendNumber writes the shortest decimal that reads back as v, never with an exponent and never -0, because some
// servers refuse these.
func appendNumber(out []byte, v float64) []byte {
	if v == 0 {
		return append(out, '0')
	}
	return strconv.AppendFloat(out, v, 'f', -1, 64)
}

// appendString writes a JSON string of valid UTF-8. For plain text, as in nearly all keys and identifiers, it allocates
// nothing. U+2028 and U+2029 are escaped; they begin with 0xE2.
func appendString(out []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c == 0xE2 {
			return appendAnyString(out, s)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}

func appendAnyString(out []byte, s string) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil { // never happens for a string
		return append(out, `""`...)
	}
	return append(out, strings.TrimSuffix(b.String(), "\n")...)
}
