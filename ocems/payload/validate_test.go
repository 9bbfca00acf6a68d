package payload_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	point = `{"parameter":"cod","value":245.5,"unit":"mg/L","timestamp":1726857000000,"flag":"U"}`
	valid = `{"data":[{"stationId":"station_2","device_data":[{"deviceId":"device_1","params":[` + point + `]}],"latitude":28.6,"longitude":77.2}]}`
	first = "data[0].device_data[0].params[0]"
)

var rules = payload.Rules{Now: midnight.Add(time.Minute)}

func TestValidateFaults(t *testing.T) {
	// Each case makes one change to the valid payload.
	for _, c := range []struct {
		name, old, new string
		status         spec.Status
		path, detail   string
	}{
		{"not JSON", valid, `2uheaU4PlYhXbUA1`, 109, "$", "reading a payload"},
		{"empty", valid, ``, 109, "$", "reading a payload"},
		{"truncated", `]}`, ``, 109, "$", "reading a payload"},
		{"an array", valid, `[]`, 109, "$", "reading a payload"},
		{"text after it", `77.2}]}`, `77.2}]} x`, 109, "$", "after the document"},
		{"second document", `77.2}]}`, `77.2}]}{}`, 109, "$", "after the document"},
		{"no data", valid, `{}`, 10, "data", "no station"},
		{"null", valid, `null`, 10, "data", "no station"},
		{"two stations", `77.2}]}`, `77.2},{"stationId":"station_3","device_data":[{"deviceId":"d","params":[` + point + `]}]}]}`, 120, "data", "2 stations"},
		{"station empty", `station_2`, ` `, 102, "data[0].stationId", "empty"},
		{"station missing", `"stationId":"station_2",`, ``, 102, "data[0].stationId", "empty"},
		{"latitude", `28.6`, `90.5`, 10, "data[0].latitude", "90.5"},
		{"longitude", `77.2`, `-181`, 10, "data[0].longitude", "-181"},
		{"no device", `[{"deviceId":"device_1","params":[` + point + `]}]`, `[]`, 10, "data[0].device_data", "0 devices"},
		{"two devices", `]}],"lat`, `]},{"deviceId":"d2","params":[` + point + `]}],"lat`, 10, "data[0].device_data", "2 devices"},
		{"device empty", `device_1`, ``, 121, "data[0].device_data[0].deviceId", "empty"},
		{"no readings", point, ``, 10, "data[0].device_data[0].params", "no readings"},
		{"parameter unknown", `"cod"`, `"COD"`, 119, first + ".parameter", `nearest "cod"`},
		{"parameter empty", `"cod"`, `""`, 119, first + ".parameter", "empty"},
		{"unit spelled another way", `mg/L`, `mg/l`, 110, first + ".unit", `must be written "mg/L"`},
		{"unit unknown", `mg/L`, `mg2`, 110, first + ".unit", "unknown unit"},
		{"unit empty", `mg/L`, ` `, 110, first + ".unit", "empty"},
		{"value missing", `"value":245.5,`, ``, 10, first + ".value", "missing"},
		{"value null", `245.5`, `null`, 10, first + ".value", "missing"},
		{"value a string", `245.5`, `"245.5"`, 10, first + ".value", "not a number"},
		{"value true", `245.5`, `true`, 10, first + ".value", "not a number"},
		{"value an object", `245.5`, `{}`, 10, first + ".value", "not a number"},
		{"value with exponent", `245.5`, `1e-07`, 10, first + ".value", "exponent"},
		{"value with capital exponent", `245.5`, `-1E5`, 10, first + ".value", "exponent"},
		{"value out of range", `245.5`, strings.Repeat("9", 400), 10, first + ".value", "out of range"},
		{"flag missing", `,"flag":"U"`, ``, 10, first + ".flag", "not one of"},
		{"flag small", `"U"`, `"u"`, 10, first + ".flag", "not one of"},
		{"flag unknown", `"U"`, `"X"`, 10, first + ".flag", "not one of"},
		{"timestamp missing", `"timestamp":1726857000000,`, ``, 111, first + ".timestamp", "whole number"},
		{"timestamp a string", `1726857000000`, `"1726857000000"`, 111, first + ".timestamp", "whole number"},
		{"timestamp a fraction", `1726857000000`, `1726857000000.5`, 111, first + ".timestamp", "whole number"},
		{"timestamp in seconds", `1726857000000`, `1726857000`, 111, first + ".timestamp", "grid"},
		{"timestamp too large", `1726857000000`, `99999999999999999999`, 111, first + ".timestamp", "whole number"},
		{"not a slot", `1726857000000`, `1726857000001`, 111, first + ".timestamp", "grid"},
		{"30 seconds are not normal", `1726857000000`, `1726856970000`, 111, first + ".timestamp", "grid"},
		{"calibration between", `1726857000000,"flag":"U"`, `1726857015000,"flag":"C"`, 111, first + ".timestamp", "grid"},
		{"too old", `1726857000000`, `1726252200000`, 117, first + ".timestamp", "7 days"},
		{"future", `1726857000000`, `1726857900000`, 118, first + ".timestamp", "future"},
		{"twice", point, point + "," + point, 111, "data[0].device_data[0].params[1]", "same parameter"},
		{"twice, with a space", point, point + "," + strings.Replace(point, `"cod"`, `" cod"`, 1), 111, "data[0].device_data[0].params[1]", "same parameter"},
		{"in diag_params", `}]}],`, `}],"diag_params":[` + strings.Replace(point, "mg/L", "mg2", 1) + `]}],`, 110, "data[0].device_data[0].diag_params[0].unit", "unknown unit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(valid, c.old, c.new, 1)
			if text == valid {
				t.Fatal("the case changes nothing")
			}
			faults := payload.Validate([]byte(text), rules)
			if len(faults) != 1 {
				t.Fatalf("faults %v, want one", faults)
			}
			f := faults[0]
			if f.Status != c.status || f.Path != c.path || !strings.Contains(f.Detail, c.detail) {
				t.Errorf("fault %v, want status %d at %s with %q", f, c.status, c.path, c.detail)
			}
			if want := fmt.Sprintf("%s: %s (status %d)", f.Path, f.Detail, int(f.Status)); f.Error() != want {
				t.Errorf("Error() = %q, want %q", f.Error(), want)
			}
		})
	}
}

func TestValidateAccepts(t *testing.T) {
	for _, c := range []struct{ name, old, new string }{
		{"the valid payload", "", ""},
		{"white space around it", `{"data"`, "\n {\"data\""},
		{"padded identifiers", `"cod"`, `" cod "`},
		{"unknown keys", `"flag":"U"`, `"flag":"U","remark":"x"`},
		{"diagnostic alone", `"params"`, `"params":[],"diag_params"`},
		{"the same parameter as a diagnostic", `}]}],`, `}],"diag_params":[` + point + `]}],`},
		{"calibration", `1726857000000,"flag":"U"`, `1726857030000,"flag":"C"`},
		{"zero calibration", `1726857000000,"flag":"U"`, `1726856970000,"flag":"Z"`},
		{"7 days less a minute", `1726857000000`, `1726253100000`},
		{"negative value", `245.5`, `-0.0000001`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if faults := payload.Validate([]byte(strings.Replace(valid, c.old, c.new, 1)), rules); len(faults) != 0 {
				t.Errorf("faults %v", faults)
			}
		})
	}
}

func TestValidateAllowsUnlistedKeysKnowingly(t *testing.T) {
	text := []byte(strings.NewReplacer(`"cod"`, `"nox"`, "mg/L", "knm3/h").Replace(valid))
	if faults := payload.Validate(text, rules); len(faults) != 2 || faults[0].Status != 119 || faults[1].Status != 110 {
		t.Errorf("faults %v, want 119 and 110", faults)
	}
	loose := rules
	loose.AllowUnlisted = true
	if faults := payload.Validate(text, loose); len(faults) != 0 {
		t.Errorf("faults %v though unlisted keys are allowed", faults)
	}
	empty := []byte(strings.NewReplacer(`"cod"`, `""`, "mg/L", "").Replace(valid))
	if faults := payload.Validate(empty, loose); len(faults) != 2 {
		t.Errorf("faults %v, want two: an empty key is no key", faults)
	}
}

func TestValidateFindsAllInOrder(t *testing.T) {
	text := strings.NewReplacer("station_2", "", "device_1", "", `"cod"`, `"COD"`, "mg/L", "mg2", "245.5", `"x"`,
		`"U"`, `"?"`, "1726857000000", "1726857000001", "28.6", "100").Replace(valid)
	var got []string
	for _, f := range payload.Validate([]byte(text), rules) {
		got = append(got, fmt.Sprintf("%d %s", int(f.Status), f.Path))
	}
	want := []string{"102 data[0].stationId", "10 data[0].latitude", "121 data[0].device_data[0].deviceId", "119 " + first + ".parameter",
		"110 " + first + ".unit", "10 " + first + ".value", "10 " + first + ".flag", "111 " + first + ".timestamp"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMarshalledRecordIsValid(t *testing.T) {
	latitude, longitude := -90.0, 180.0
	r := record()
	r.Latitude, r.Longitude = &latitude, &longitude
	for i, p := range spec.Parameters() {
		one := reading(p.Key, float64(i)*1e-9, spec.Units()[i%len(spec.Units())])
		one.Flag = spec.Flag(spec.Flags[i%len(spec.Flags)])
		r.Readings = append(r.Readings, one)
		one.Diagnostic = true
		r.Readings = append(r.Readings, one)
	}
	text := marshal(t, r)
	if faults := payload.Validate([]byte(text), rules); len(faults) != 0 {
		t.Errorf("faults %v", faults)
	}
	doc, err := payload.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if d := doc.Data[0].Devices[0]; len(d.Params) != 86 || len(d.DiagParams) != 86 {
		t.Errorf("%d params and %d diag_params, want 86 of each", len(d.Params), len(d.DiagParams))
	}
}

func FuzzValidate(f *testing.F) {
	for _, s := range []string{valid, "", "null", "{}", `{"data":[null]}`, `{"data":[{"device_data":[null]}]}`,
		`{"data":[{"device_data":[{"params":[null]}]}]}`, strings.Replace(valid, "1726857000000", "-9223372036854775808", 1),
		strings.Replace(valid, "1726857000000", "9223372036854775807", 1), strings.Replace(valid, `"U"`, `"`+strings.Repeat("é", 40)+`"`, 1)} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, loose bool) {
		faults := payload.Validate(text, payload.Rules{Now: rules.Now, AllowUnlisted: loose})
		_, err := payload.Decode(text)
		if err != nil && (len(faults) != 1 || faults[0].Status != spec.StatusNotEncrypted) {
			t.Errorf("faults %v of what does not decode: %v", faults, err)
		}
		for _, fault := range faults {
			if !fault.Status.Known() || fault.Path == "" || fault.Detail == "" {
				t.Errorf("fault without status, path or detail: %+v", fault)
			}
		}
	})
}
