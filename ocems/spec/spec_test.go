package spec_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

func TestCatalogueCounts(t *testing.T) {
	var keys []string
	for _, p := range spec.Parameters() {
		keys = append(keys, p.Key)
		if p.Key == "" || p.Name == "" || p.Key != strings.TrimSpace(p.Key) {
			t.Errorf("parameter %+v is incomplete or padded", p)
		}
	}
	var codes []string
	for _, s := range spec.Statuses() {
		codes = append(codes, s.String())
	}
	for _, c := range []struct {
		name string
		list []string
		want int
	}{{"parameters", keys, 86}, {"units", spec.Units(), 57}, {"statuses", codes, 17}} {
		slices.Sort(c.list)
		if n := len(slices.Compact(c.list)); n != c.want {
			t.Errorf("%d different %s, want %d", n, c.name, c.want)
		}
	}
}

func TestCatalogueIsNotTheCallers(t *testing.T) {
	spec.Units()[0], spec.Parameters()[0].Key = "x", "x"
	if spec.Units()[0] == "x" || spec.Parameters()[0].Key == "x" {
		t.Error("a caller can change the catalogue")
	}
}

func TestStatuses(t *testing.T) {
	for _, s := range spec.Statuses() {
		if !s.Known() || s.Message() == "" || s.Description() == "" || !strings.Contains(s.String(), s.Description()) {
			t.Errorf("status %v: message %q, description %q", s, s.Message(), s.Description())
		}
	}
	for _, s := range []spec.Status{101, 108, -1, 2} {
		if s.Known() || s.Message() != "" || s.Description() != "" || !strings.Contains(s.String(), "not a status") {
			t.Errorf("status %v is taken for one of v1.5", s)
		}
	}
}

func TestLookupParameter(t *testing.T) {
	for _, p := range spec.Parameters() {
		if got, err := spec.LookupParameter("\t" + p.Key + " "); err != nil || got != p || !spec.IsParameter(p.Key) {
			t.Errorf("LookupParameter(%q) = %+v, %v", p.Key, got, err)
		}
	}
	for _, key := range []string{"Nh3-n", "n03-n", "no3-n", "nh4-n", "ammonical_nitrogen", "cyanide", "cynide", "flow back water",
		"inlet flow2", "inlet flow2 totalizer", "oil in water", "total hydrocarbon content(thc)"} {
		if !spec.IsParameter(key) {
			t.Errorf("the odd key %q is missing", key)
		}
	}
	for _, c := range []struct{ key, nearest string }{
		{"COD", "cod"},
		{"nh3-n", "Nh3-n"},
		{"NH3-N", "Nh3-n"},
		{"Stack Temperature", "temperature_emission"},
		{"PH", "ph"},
		{"SO2", "so2"},
		{"oil & grease", "oil_grease"},
		{"Dissolved Oxygen", "do"},
		{"flow-totalizer", "flow_totalizer"},
		{"nox", ""},
		{"flow", ""},
		{"", ""},
		{"\xff", ""},
	} {
		t.Run(c.key, func(t *testing.T) {
			_, err := spec.LookupParameter(c.key)
			var unknown *spec.UnknownError
			if !errors.As(err, &unknown) || spec.IsParameter(c.key) {
				t.Fatalf("LookupParameter(%q): %v, want an *UnknownError", c.key, err)
			}
			if unknown.Kind != "parameter" || len(unknown.Nearest()) != 3 {
				t.Fatalf("%+v, want a parameter with three nearest", unknown)
			}
			for _, n := range unknown.Nearest() {
				if !spec.IsParameter(n) || !strings.Contains(err.Error(), `"`+n+`"`) {
					t.Errorf("nearest %q is no parameter or not in %q", n, err)
				}
			}
			if c.nearest != "" && unknown.Nearest()[0] != c.nearest {
				t.Errorf("nearest %q, want %q first", unknown.Nearest(), c.nearest)
			}
		})
	}
}

func TestTotalizers(t *testing.T) {
	var got []string
	for _, p := range spec.Parameters() {
		if p.Totalizer() {
			got = append(got, p.Key)
		}
	}
	if want := []string{"flow_inlet_totalizer", "flow_totalizer", "inlet flow2 totalizer", "totalizer"}; !slices.Equal(got, want) {
		t.Errorf("totalizers %q, want %q", got, want)
	}
	if !spec.IsTotalizer("etp.Flow_Totalizer") || spec.IsTotalizer("totalizer_flow") {
		t.Error("a metric name counts by its end alone, in any case")
	}
}

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		name, word string
		of, want   []string
	}{
		{"case", "A_B", []string{"x", "ab"}, []string{"ab", "x"}},
		{"at most three", "a", []string{"e", "d", "c", "b", "a"}, []string{"a", "e", "d"}},
		{"none", "a", nil, []string{}},
		{"held before changed", "flow", []string{"blow", "flow2"}, []string{"flow2", "blow"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := spec.Nearest(c.word, c.of); !slices.Equal(got, c.want) {
				t.Errorf("Nearest(%q) = %q, want %q", c.word, got, c.want)
			}
		})
	}
}

// Each case has a typed text and the keys that are meant.
func TestNearestParameters(t *testing.T) {
	for _, c := range []struct{ word, want string }{
		{"COD", "cod"},
		{"Ph", "ph"},
		{"so_2", "so2"},
		{"SO2 ppm", "so2_ppm so2"},
		{"flow", "flow_inlet flow_emission flow_totalizer"},
		{"Flow", "flow_inlet flow_emission flow_totalizer"},
		{"inlet flow", "flow_inlet|inlet flow2"},
		{"outlet_flow", "flow_inlet|inlet flow2|flow_totalizer"},
		{"total flow", "flow_totalizer flow_inlet_totalizer"},
		{"flow_totaliser", "flow_totalizer"},
		{"totaliser", "totalizer flow_totalizer"},
		{"temp", "temperature temp_test temperature_emission"},
		{"Temperature", "temperature temperature_emission primary_temperature"},
		{"stack temp", "temperature_emission"},
		{"pm10", "pm"},
		{"PM2.5", "pm"},
		{"BOD5", "bod"},
		{"cod_mgl", "cod"},
		{"etp.cod", "cod"},
		{"pH value", "ph"},
		{"co_ppm", "co so2_ppm"},
		{"NH3-N", "Nh3-n"},
		{"NH3", "nh3_effluent Nh3-n"},
		{"ammonia nitrogen", "ammonical_nitrogen"},
		{"dissolved oxygen", "do"},
		{"oil & grease", "oil_grease"},
		{"oil and grease", "oil_grease"},
		{"sulfide", "sulphide"},
		{"fluride", "fluoride"},
		{"phosphate", "phosphates phosphorous"},
		{"conductivity_us", "conductivity"},
		{"hg_total", "hg"},
		{"turbidty of the water", "oil in water|flow back water"},
	} {
		_, err := spec.LookupParameter(c.word)
		var unknown *spec.UnknownError
		if !errors.As(err, &unknown) || len(unknown.Nearest()) != 3 {
			t.Fatalf("LookupParameter(%.40q): %v", c.word, err)
		}
		want := strings.Split(c.want, "|")
		if len(want) == 1 {
			want = strings.Fields(c.want)
		}
		if !slices.Equal(unknown.Nearest()[:len(want)], want) {
			t.Errorf("%.40q: nearest %q, want %q first", c.word, unknown.Nearest(), want)
		}
	}
}

func TestNearestOfALongTextIsQuick(t *testing.T) {
	begun := time.Now()
	spec.LookupParameter(strings.Repeat("flow ", 1<<19))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestParseFlag(t *testing.T) {
	for _, c := range []struct {
		text string
		want spec.Flag
	}{
		{"", spec.FlagNormal}, {"  ", spec.FlagNormal}, {"U", 'U'}, {"u", 'U'}, {" c\n", 'C'}, {"m", 'M'}, {"F", 'F'}, {"z", 'Z'}, {"D", 'D'},
	} {
		got, err := spec.ParseFlag(c.text)
		if err != nil || got != c.want || !got.Valid() || got.String() != string(rune(c.want)) {
			t.Errorf("ParseFlag(%q) = %v, %v, want %c", c.text, got, err, c.want)
		}
		calibrates := c.want == 'C' || c.want == 'Z'
		if got.Calibration() != calibrates || (got.Length() == spec.CalibrationLength) != calibrates {
			t.Errorf("flag %v: calibration %v, length %s", got, got.Calibration(), got.Length())
		}
	}
	for _, c := range []struct{ text, nearest string }{
		{"X", "U"}, {"UC", "U"}, {"zero", "Z"}, {"calibration", "C"}, {"ok", "U"}, {"é", "U"}, {"\xff", "U"}, {"ſ", "U"}, {"0", "U"},
	} {
		got, err := spec.ParseFlag(c.text)
		var unknown *spec.UnknownError
		if !errors.As(err, &unknown) || got != 0 || unknown.Kind != "flag" {
			t.Errorf("ParseFlag(%q) = %v, %v, want an *UnknownError", c.text, got, err)
		} else if unknown.Nearest()[0] != c.nearest {
			t.Errorf("ParseFlag(%q): nearest %q, want %q first", c.text, unknown.Nearest(), c.nearest)
		}
	}
	for _, f := range []spec.Flag{0, 'u', 'X', 0xff} {
		if f.Valid() {
			t.Errorf("flag %q is valid", byte(f))
		}
	}
}

func TestUnknownErrorWithoutNearest(t *testing.T) {
	e := &spec.UnknownError{Kind: "unit", Value: "x"}
	if got := e.Error(); got != `unknown unit "x"` {
		t.Errorf("Error() = %s", got)
	}
}
