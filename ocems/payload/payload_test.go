package payload_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

var midnight = time.Date(2024, 9, 21, 0, 0, 0, 0, spec.IST)

func reading(parameter string, value float64, unit string) payload.Reading {
	return payload.Reading{Parameter: parameter, Value: value, Unit: unit, Stamp: midnight, Flag: spec.FlagNormal}
}

func record(rs ...payload.Reading) payload.Record {
	return payload.Record{StationID: "station_2", DeviceID: "device_1", Readings: rs}
}

func marshal(t *testing.T, r payload.Record) string {
	t.Helper()
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestMarshalGolden(t *testing.T) {
	text, err := os.ReadFile("../seal/testdata/payload_bodies.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct{ Name, Plaintext string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, c := range file.Cases {
		want[c.Name] = c.Plaintext
	}
	latitude, longitude := 28.6129, 77.2295
	next := midnight.Add(spec.SlotLength)
	for name, r := range map[string]payload.Record{
		"hex32/minimal": record(reading("cod", 245.5, "mg/L")),
		"hex32/full": {StationID: " station_2 ", DeviceID: "device_1\n", Latitude: &latitude, Longitude: &longitude, Readings: []payload.Reading{
			{Parameter: "pressure", Value: 1013.25, Unit: "mbar", Stamp: next, Flag: spec.FlagNormal, Diagnostic: true},
			{Parameter: "temperature_emission ", Value: -3.25, Unit: " °C", Stamp: next, Flag: spec.FlagM},
			{Parameter: " so2", Value: 12, Unit: "mg/Nm³", Stamp: next, Flag: spec.FlagNormal},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if want[name] == "" {
				t.Fatal("no such vector")
			}
			if got := marshal(t, r); got != want[name] {
				t.Errorf("got  %s\nwant %s", got, want[name])
			}
		})
	}
}

func TestMarshalNumbers(t *testing.T) {
	for want, v := range map[string]float64{
		"0.0000001":              1e-07,
		"1000000000000000000000": 1e21,
		"0":                      math.Copysign(0, -1),
		"-0.5":                   -0.5,
		"0.1":                    0.1,
		"0.30000000000000004":    math.Nextafter(0.3, 1),
		"9007199254740993000":    9007199254740993000,
		"245.5":                  245.50,
	} {
		t.Run(want, func(t *testing.T) {
			if got := marshal(t, record(reading("cod", v, "mg/L"))); !strings.Contains(got, `"value":`+want+`,"unit"`) {
				t.Errorf("%v is written as %s", v, got)
			}
		})
	}
	for _, v := range []float64{math.MaxFloat64, math.SmallestNonzeroFloat64, -math.MaxFloat64} {
		r := record(reading("cod", v, "mg/L"))
		r.Latitude = new(float64)
		*r.Latitude = 1e-9
		_, rest, _ := strings.Cut(marshal(t, r), `"value":`)
		number, rest, _ := strings.Cut(rest, ",")
		if back, err := strconv.ParseFloat(number, 64); err != nil || back != v || strings.ContainsAny(number, "eE") {
			t.Errorf("%v is written as %s", v, number)
		}
		if !strings.Contains(rest, `"latitude":0.000000001}`) {
			t.Errorf("a small latitude is written as %s", rest)
		}
	}
}

func TestMarshalLeavesOutWhatIsNotSet(t *testing.T) {
	zero := 0.0
	for _, c := range []struct {
		name          string
		change        func(*payload.Record)
		with, without []string
	}{
		{"nothing set", func(*payload.Record) {}, nil, []string{"diag_params", "latitude", "longitude"}},
		{"latitude zero", func(r *payload.Record) { r.Latitude = &zero }, []string{`"latitude":0}`}, []string{"longitude"}},
		{"longitude alone", func(r *payload.Record) { r.Longitude = &zero }, []string{`"longitude":0}`}, []string{"latitude"}},
		{"diagnostic alone", func(r *payload.Record) { r.Readings[0].Diagnostic = true }, []string{`"params":[],"diag_params":[{"parameter":"cod"`}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(reading("cod", 1, "mg/L"))
			c.change(&r)
			got := marshal(t, r)
			for _, s := range c.with {
				if !strings.Contains(got, s) {
					t.Errorf("%s lacks %s", got, s)
				}
			}
			for _, s := range c.without {
				if strings.Contains(got, s) {
					t.Errorf("%s has %s", got, s)
				}
			}
		})
	}
}

func TestMarshalRefuses(t *testing.T) {
	number := func(v float64) *float64 { return &v }
	for _, c := range []struct {
		name   string
		change func(*payload.Record)
		want   string
	}{
		{"NaN", func(r *payload.Record) { r.Readings[0].Value = math.NaN() }, "NaN"},
		{"infinity", func(r *payload.Record) { r.Readings[0].Value = math.Inf(1) }, "+Inf"},
		{"negative infinity", func(r *payload.Record) { r.Readings[0].Value = math.Inf(-1) }, "-Inf"},
		{"no station", func(r *payload.Record) { r.StationID = " " }, "station id is empty"},
		{"no device", func(r *payload.Record) { r.DeviceID = "\t" }, "device id is empty"},
		{"station not UTF-8", func(r *payload.Record) { r.StationID = "\xff" }, "not UTF-8"},
		{"device not UTF-8", func(r *payload.Record) { r.DeviceID = "a\xc3" }, "not UTF-8"},
		{"parameter not UTF-8", func(r *payload.Record) { r.Readings[0].Parameter = "\xb5" }, "not UTF-8"},
		{"unit in Latin-1", func(r *payload.Record) { r.Readings[0].Unit = "\xb0C" }, "not UTF-8"},
		{"no readings", func(r *payload.Record) { r.Readings = nil }, "no readings"},
		{"no parameter", func(r *payload.Record) { r.Readings[0].Parameter = "" }, "no parameter key"},
		{"no unit", func(r *payload.Record) { r.Readings[0].Unit = " " }, "no unit"},
		{"no flag", func(r *payload.Record) { r.Readings[0].Flag = 0 }, "flag"},
		{"small flag", func(r *payload.Record) { r.Readings[0].Flag = 'u' }, "flag"},
		{"latitude", func(r *payload.Record) { r.Latitude = number(90.01) }, "latitude"},
		{"latitude NaN", func(r *payload.Record) { r.Latitude = number(math.NaN()) }, "latitude"},
		{"longitude", func(r *payload.Record) { r.Longitude = number(-180.01) }, "longitude"},
		{"a parameter twice", func(r *payload.Record) {
			r.Readings = append(r.Readings, reading("ph", 7, "pH"), reading(" cod", 2, "ppm"))
			r.Readings[2].Flag = spec.FlagZeroCalibration
		}, `parameter "cod" occurs twice for 2024-09-21 00:00:00 IST, as 1 mg/L flag U and as 2 ppm flag Z`},
		{"a diagnostic parameter twice", func(r *payload.Record) {
			r.Readings = append(r.Readings, r.Readings[0], r.Readings[0], r.Readings[0])
			r.Readings[0].Diagnostic, r.Readings[3].Diagnostic = true, true
			r.Readings[2].Stamp = r.Readings[2].Stamp.Add(spec.SlotLength)
		}, "occurs twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(reading("cod", 1, "mg/L"))
			c.change(&r)
			if text, err := r.Marshal(); err == nil || !strings.Contains(err.Error(), c.want) || text != nil {
				t.Errorf("Marshal = %s, %v, want an error with %q", text, err, c.want)
			}
			// Two readings of a parameter are valid in two requests, but not in one.
			if err := r.Check(); (err == nil) != strings.Contains(c.want, "twice") {
				t.Errorf("Check = %v", err)
			}
		})
	}
}

func TestMarshalRefusesTheSameTwice(t *testing.T) {
	a, b := reading("cod", 1, "mg/L"), reading(" cod", 2, "ppm")
	r := record(a, b)
	if text, err := r.Marshal(); err == nil || text != nil || !strings.Contains(err.Error(), `parameter "cod" occurs twice`) {
		t.Errorf("Marshal = %s, %v", text, err)
	}
	if err := r.Check(); err != nil {
		t.Errorf("Check = %v: they go in two requests", err)
	}
	b.Diagnostic = true
	r = record(a, b)
	if _, err := r.Marshal(); err != nil {
		t.Errorf("one in params and one in diag_params: %v", err)
	}
}

func TestMarshalOrderIsThatOfTheReadings(t *testing.T) {
	var rs []payload.Reading
	for _, p := range []string{"bod", " cod", "tss"} {
		for i := range 3 {
			r := reading(p, float64(i%2)+0.5, "mg/L")
			r.Stamp = r.Stamp.Add(time.Duration(i) * spec.CalibrationLength)
			rs = append(rs, r)
			r.Value, r.Flag, r.Diagnostic = 7, spec.FlagM, true
			rs = append(rs, r)
		}
	}
	want := marshal(t, record(rs...))
	if strings.Index(want, `"bod"`) > strings.Index(want, `"cod"`) || strings.Index(want, `"cod"`) > strings.Index(want, `"tss"`) {
		t.Errorf("not ordered by parameter: %s", want)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		random.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
		first := rs[0]
		if got := marshal(t, record(rs...)); got != want {
			t.Fatalf("another order gives\n%s\nwant\n%s", got, want)
		}
		if rs[0] != first {
			t.Fatal("Marshal reordered the caller's readings")
		}
	}
}

func TestMarshalStrings(t *testing.T) {
	for _, id := range []string{`say "so"`, `back\slash`, "tab\tinside", "<&>", "प्लांट", "a\u2028b", "nul\x00", "😀", "\x7f"} {
		t.Run(id, func(t *testing.T) {
			r := record(reading(id, 1, id))
			r.StationID, r.DeviceID = id, id
			doc, err := payload.Decode([]byte(marshal(t, r)))
			if err != nil {
				t.Fatal(err)
			}
			s := doc.Data[0]
			p := s.Devices[0].Params[0]
			for _, got := range []string{s.StationID, s.Devices[0].DeviceID, p.Parameter, p.Unit} {
				if got != id {
					t.Errorf("%q comes back as %q", id, got)
				}
			}
		})
	}
	if got := marshal(t, record(reading("cod", 1, "<µ³&>"))); !strings.Contains(got, `"<µ³&>"`) {
		t.Errorf("characters are escaped that need not be: %s", got)
	}
}

func FuzzMarshal(f *testing.F) {
	f.Add("station_2", "device_1", "cod", "mg/L", 245.5, int64(1726857000000), byte('U'), 28.6, 77.2, false)
	f.Add(`"`, `\`, "\u2028", "°C", math.Copysign(0, -1), int64(-1), byte('Z'), 0.0, -180.0, true)
	f.Add("\xff", "d", "p", "u", 1e21, int64(0), byte('C'), 91.0, 0.0, false)
	f.Add("s", "d", "p", "u", 1e-7, int64(math.MaxInt64), byte(0), math.NaN(), math.Inf(1), true)
	f.Fuzz(func(t *testing.T, station, device, parameter, unit string, value float64, ms int64, flag byte, latitude, longitude float64, diagnostic bool) {
		r := payload.Record{StationID: station, DeviceID: device, Latitude: &latitude, Longitude: &longitude, Readings: []payload.Reading{{
			Parameter: parameter, Value: value, Unit: unit, Stamp: time.UnixMilli(ms), Flag: spec.Flag(flag), Diagnostic: diagnostic,
		}}}
		text, err := r.Marshal()
		if err != nil {
			return
		}
		if !utf8.Valid(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
		doc, err := payload.Decode(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		s := doc.Data[0]
		d := s.Devices[0]
		points := d.Params
		if diagnostic {
			points = d.DiagParams
		}
		if len(points) != 1 || len(d.Params)+len(d.DiagParams) != 1 {
			t.Fatalf("%s: not one reading where it belongs", text)
		}
		p := points[0]
		for _, c := range [][2]string{{s.StationID, station}, {d.DeviceID, device}, {p.Parameter, parameter}, {p.Unit, unit}} {
			if c[0] != strings.TrimSpace(c[1]) {
				t.Errorf("%q comes back as %q", c[1], c[0])
			}
		}
		if back, err := strconv.ParseFloat(string(p.Value), 64); err != nil || back != value || strings.ContainsAny(string(p.Value), "eE") {
			t.Errorf("%v comes back as %s", value, p.Value)
		}
		if stamp, err := p.Stamp(); err != nil || stamp.UnixMilli() != ms {
			t.Errorf("%d comes back as %s", ms, p.Timestamp)
		}
		if p.Flag != string(rune(flag)) || *s.Latitude != latitude || *s.Longitude != longitude {
			t.Errorf("flag %q, latitude or longitude differ in %s", flag, text)
		}
	})
}
