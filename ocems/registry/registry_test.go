package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token   = "8d97c71e68c2f4eee5fb254fccb49773"
	token44 = "q1w2e3r4t5/6u7i8o9p0a1s2d3f4g5h6j7k8l9z0+1c="
	keyFile = "../seal/testdata/industry_test_public.pem"
	weak    = "../seal/testdata/weak_1024_public.pem"
)

func ptr[T any](v T) *T { return &v }

// words are the collector's words for a host whose metrics have fields.
func words() Words {
	w := Collector
	w.NoField = ""
	return w
}

// good returns a configuration without mistakes.
func good() Config {
	return Config{PublicKeyFile: keyFile, Words: words(), Devices: []DeviceConfig{{
		StationID: " station_1 ", DeviceID: "device_1", TokenID: token, Latitude: ptr(Number(17.4)), Longitude: ptr(Number(78.5)),
		Parameters: []ParameterConfig{
			{Metric: "effluent", Field: "ph_raw", Parameter: "ph", Unit: "pH"},
			{Metric: "tank", Attributes: map[string]string{"tag": "AI-7", "site": "a"}, Parameter: "cod", Unit: "mg/l", Statistic: "max", Decimals: ptr(2)},
			{Metric: "inlet flow2 totalizer", Unit: "m3", Diagnostic: true},
			{Metric: "meter.volume", Parameter: "flow_totalizer", Unit: "m3"},
			{Metric: "odd", Parameter: "board_key", Unit: "knm3/h", AllowUnlisted: true},
		},
	}}}
}

func second(cfg *Config) *DeviceConfig {
	cfg.Devices = append(cfg.Devices, DeviceConfig{StationID: "station_1", DeviceID: "device_2", TokenID: token})
	return &cfg.Devices[1]
}

func TestMistakes(t *testing.T) {
	type C = *Config
	param := func(c C) *ParameterConfig { return &c.Devices[0].Parameters[1] }
	for _, tt := range []struct {
		name string
		edit func(C)
		want []string
	}{
		{"no device", func(c C) { c.Devices = nil }, []string{"devices: none is given"}},
		{"no ids", func(c C) { c.Devices[0].StationID, c.Devices[0].DeviceID, c.Devices[0].TokenID = "", " ", "" },
			[]string{"devices[0].station_id: missing", "devices[0].device_id: missing", "devices[0].token_id: missing"}},
		{"token twice", func(c C) { c.Devices[0].TokenIDFile = "f" }, []string{"devices[0].token_id: both token_id and token_id_file are given"}},
		{"token file absent", func(c C) { c.Devices[0].TokenID, c.Devices[0].TokenIDFile = "", "absent.txt" }, []string{"devices[0].token_id_file: open absent.txt"}},
		{"token as its file", func(c C) { c.Devices[0].TokenID, c.Devices[0].TokenIDFile = "", token }, []string{"devices[0].token_id_file: ", "give it as token_id"}},
		{"token of base64 as its file", func(c C) { c.Devices[0].TokenID, c.Devices[0].TokenIDFile = "", token44 }, []string{"devices[0].token_id_file: ", "give it as token_id"}},
		{"token file empty", func(c C) { c.Devices[0].TokenID, c.Devices[0].TokenIDFile = "", os.DevNull }, []string{"devices[0].token_id_file: /dev/null is empty"}},
		{"key twice", func(c C) { c.PublicKey = "x" }, []string{"public_key: both public_key and public_key_file are given"}},
		{"variable not set", func(c C) { c.Devices[0].TokenID = "${OCEMS_TOKEN}" }, []string{`devices[0].token_id: "${OCEMS_TOKEN}" is the name of a variable that is not set`}},
		{"variable of Telegraf not set", func(c C) { c.Devices[0].TokenID = "$OCEMS_TOKEN" }, []string{`devices[0].token_id: "$OCEMS_TOKEN" is the name of a variable that is not set`}},
		{"token behind ${", func(c C) { c.Devices[0].TokenID = "${hunter2" }, []string{`devices[0].token_id: it begins with ${`}},
		{"long token in ${}", func(c C) { c.Devices[0].TokenID = Secret("${" + strings.Repeat("hunter2", 10) + "}") }, []string{`devices[0].token_id: it begins with ${`}},
		{"token of a spreadsheet", func(c C) { c.Devices[0].TokenID = "1.23E+31" }, []string{"devices[0].token_id: a spreadsheet has changed it into a number"}},
		{"token with its name", func(c C) { c.Devices[0].TokenID = "token=" + token }, []string{"devices[0].token_id: it begins with a name such as token="}},
		{"token behind a colon", func(c C) { c.Devices[0].TokenID = "Token ID: " + token }, []string{"devices[0].token_id: it begins with a name"}},
		{"token of two lines", func(c C) { c.Devices[0].TokenID = token + "\n" + token }, []string{"devices[0].token_id: it has several lines"}},
		{"token with a zero-width space", func(c C) { c.Devices[0].TokenID = Secret(token[:9] + "\u200b" + token[9:]) }, []string{"devices[0].token_id: it contains an invisible character"}},
		{"token behind a byte order mark", func(c C) { c.Devices[0].TokenID = "\ufeff" + token }, []string{"devices[0].token_id: it contains an invisible character"}},
		{"token of UTF-16", func(c C) { c.Devices[0].TokenID = "\xff\xfe8\x00d\x00" }, []string{"devices[0].token_id: the file is UTF-16"}},
		{"token with a space", func(c C) { c.Devices[0].TokenID = Secret(token[:9] + " " + token[9:]) }, []string{"devices[0].token_id: it contains a space"}},
		{"token in quotes", func(c C) { c.Devices[0].TokenID = "'" + token + "'" }, []string{"devices[0].token_id: it is in quotes"}},
		{"id of a spreadsheet", func(c C) { c.Devices[0].DeviceID = "1.23457E+11" }, []string{`devices[0].device_id: "1.23457E+11" is a number that a spreadsheet has shortened`}},
		{"no key", func(c C) { c.PublicKeyFile = "" }, []string{"public_key: missing; give public_key or public_key_file", "devices[0].public_key"}},
		{"not a key", func(c C) { c.PublicKey, c.PublicKeyFile = "n@nsense", "" }, []string{"public_key: reading the public key: neither PEM nor base64"}},
		{"not a device's key", func(c C) { c.Devices[0].PublicKey = "n@nsense" }, []string{"devices[0].public_key: reading the public key"}},
		{"file without a key", func(c C) { c.PublicKeyFile = "doc.go" }, []string{"public_key_file: doc.go: reading the public key: neither PEM nor base64"}},
		{"small key of all", func(c C) { c.PublicKeyFile, c.Devices[0].TokenID = weak, token44 }, []string{"public_key: the public key of 1024 bits is too small"}},
		{"small key", func(c C) { c.Devices[0].PublicKeyFile, c.Devices[0].TokenID = weak, token44 }, []string{"devices[0].public_key: "}},
		{"id not UTF-8", func(c C) { c.Devices[0].StationID = "Barauni\xa0" }, []string{`devices[0].station_id: "Barauni\xa0" is not one line of UTF-8`}},
		{"id of two lines", func(c C) { c.Devices[0].DeviceID = "device\n1" }, []string{`devices[0].device_id: "device\n1" is not one line of UTF-8`}},
		{"same device", func(c C) { second(c).DeviceID = "device_1" }, []string{`devices[1].device_id: "device_1" is also devices[0].device_id`}},
		{"latitude", func(c C) { c.Devices[0].Latitude = ptr(Number(91.5)) }, []string{"devices[0].latitude: 91.5 is outside -90 to 90"}},
		{"longitude", func(c C) { c.Devices[0].Longitude = ptr(Number(-181.0)) }, []string{"devices[0].longitude: -181 is outside -180 to 180"}},
		{"no metric", func(c C) { param(c).Metric = "" }, []string{"devices[0].parameters[1].metric: missing"}},
		{"no parameter", func(c C) { param(c).Parameter = "" }, []string{"devices[0].parameters[1].parameter: missing, and the metric's name is not a parameter key", `"tank"`}},
		{"unknown parameter", func(c C) { param(c).Parameter = "COD" }, []string{"devices[0].parameters[1].parameter: ", `"COD"`, "cod"}},
		{"unknown unit", func(c C) { param(c).Unit = "mg2" }, []string{"devices[0].parameters[1].unit: ", `"mg2"`, "mg"}},
		{"statistic", func(c C) { param(c).Statistic = "average" }, []string{`devices[0].parameters[1].statistic: `, `"average"`, "mean"}},
		{"no metric and no parameter", func(c C) { param(c).Metric, param(c).Parameter = "", "" },
			[]string{"devices[0].parameters[1].parameter: missing; give a key of the catalogue"}},
		{"unused field", func(c C) { c.Words.NoField = "leave it out" },
			[]string{`devices[0].parameters[0].field: "ph_raw" does nothing here; leave it out`}},
		{"in Telegraf's words", func(c C) { param(c).Unit, c.Words = "zz", Telegraf }, []string{"device[0].parameter[1].unit: "}},
		{"selector in Telegraf's words", func(c C) { second(c).Parameters, c.Words = []ParameterConfig{*param(c)}, Telegraf },
			[]string{`device[1].parameter[0].metric: "tank" is also device[0].parameter[1].metric`, "add tags that tell the devices apart, such as ocems_device_id"}},
		{"decimals", func(c C) { param(c).Decimals = ptr(11) }, []string{"devices[0].parameters[1].decimals: 11 is outside 0 to 10; nearest: 10"}},
		{"parameter twice", func(c C) { param(c).Parameter = "ph" }, []string{`devices[0].parameters[1].parameter: "ph" is also parameters[0]`}},
		{"same selector", func(c C) { second(c).Parameters = []ParameterConfig{*param(c)} },
			[]string{`devices[1].parameters[0].metric: "tank" is also devices[0].parameters[1].metric`, "add attributes"}},
		{"formerly empty", func(c C) { c.Devices[0].Formerly = []string{"x", " "} }, []string{`devices[0].formerly: an empty name; leave it out`}},
		{"formerly itself", func(c C) { c.Devices[0].Formerly = []string{"device_1 "} }, []string{`devices[0].formerly: "device_1" is the current name`}},
		{"formerly another's", func(c C) { second(c).Formerly = []string{"device_1"} }, []string{`devices[1].formerly: "device_1" (devices[0].device_id) is a configured device`}},
		{"formerly of two", func(c C) { second(c).Formerly, c.Devices[0].Formerly = []string{"x"}, []string{"x"} },
			[]string{`devices[1].formerly: "x" is also in devices[0].formerly`}},
		{"formerly twice", func(c C) { c.Devices[0].Formerly = []string{"x", "x"} }, []string{`devices[0].formerly: "x" is also in devices[0].formerly`}},
		{"formerly of two lines", func(c C) { c.Devices[0].Formerly = []string{"x\ny"} }, []string{`devices[0].formerly: "x\ny" is not one line`}},
		{"key formerly itself", func(c C) { param(c).Formerly = []string{"cod"} }, []string{`devices[0].parameters[1].formerly: "cod" is the current name`}},
		{"key formerly another's", func(c C) { param(c).Formerly = []string{"ph"} },
			[]string{`devices[0].parameters[1].formerly: "ph" (devices[0].parameters[0].parameter) is a current parameter of the device`}},
		{"key formerly of two", func(c C) { param(c).Formerly, c.Devices[0].Parameters[0].Formerly = []string{"bod"}, []string{"bod"} },
			[]string{`devices[0].parameters[1].formerly: "bod" is also in devices[0].parameters[0].formerly`}},
		{"devices_file absent", func(c C) { c.DevicesFile = "absent.csv" }, []string{"devices_file: open absent.csv"}},
		{"devices_file of another kind", func(c C) { c.DevicesFile = keyFile }, []string{"devices_file: ", "neither .csv, .yaml nor .yml"}},
		{"all at once", func(c C) { param(c).Unit, param(c).Parameter, c.Devices[0].StationID = "zz", "zz", "" },
			[]string{".station_id: ", ".parameter: ", ".unit: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good()
			tt.edit(&cfg)
			_, err := New(cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %q, want %q", err, w)
				}
			}
			if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), token44) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func mustNew(t testing.TB, cfg Config) *Registry {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func attrs(kv ...string) func(string) (string, bool) {
	return func(key string) (string, bool) {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1], true
			}
		}
		return "", false
	}
}

func TestResolve(t *testing.T) {
	cfg := good()
	second(&cfg).Parameters = []ParameterConfig{
		{Metric: "tank", Attributes: map[string]string{"tag": "AI-8"}, Parameter: "cod"},
		{Metric: "effluent", Field: "bod_raw", Parameter: "bod", Unit: "mg/L"},
		{Metric: "effluent", Field: "bod_raw", Parameter: "bod5", Unit: "mg/L", AllowUnlisted: true},
	}
	r := mustNew(t, cfg)
	for _, tt := range []struct {
		name   string
		metric Metric
		want   string
		err    string
	}{
		{"field", Metric{Name: "effluent", Field: "ph_raw"}, "device_1 ph pH U mean false;", ""},
		{"another field", Metric{Name: "effluent", Field: "x"}, "", ""},
		{"several", Metric{Name: "effluent", Field: "bod_raw"}, "device_2 bod mg/L U mean false;device_2 bod5 mg/L U mean false;", ""},
		{"attributes", Metric{Name: "tank", Field: "value", Attr: attrs("tag", "AI-7", "site", "a", "more", "x")}, "device_1 cod mg/L U max false;", ""},
		{"an attribute short", Metric{Name: "tank", Attr: attrs("tag", "AI-7")}, "", ""},
		{"no attributes", Metric{Name: "tank"}, "", ""},
		{"named as another device", Metric{Name: "tank", Attr: attrs("tag", "AI-7", "site", "a", "ocems_device_id", "device_2")}, "", `"tank" is not a parameter key and has no entry`},
		{"named as this device", Metric{Name: "tank", Attr: attrs("tag", "AI-7", "site", "a", "ocems.device.id", "device_1")}, "device_1 cod mg/L U max false;", ""},
		{"totalizer", Metric{Name: "inlet flow2 totalizer"}, "device_1 inlet flow2 totalizer m³ U last true;", ""},
		{"totalizer of a gauge of any name", Metric{Name: "meter.volume"}, "device_1 flow_totalizer m³ U last false;", ""},
		{"totalizer by deltas", Metric{Name: "meter.volume", Statistic: slot.Sum}, "device_1 flow_totalizer m³ U sum false;", ""},
		{"counter", Metric{Name: "odd", Statistic: slot.Last}, "device_1 board_key knm3/h U last false;", ""},
		{"configured statistic of a counter", Metric{Name: "tank", Attr: attrs("tag", "AI-7", "site", "a"), Statistic: slot.Last}, "device_1 cod mg/L U max false;", ""},
		{"unlisted", Metric{Name: "odd"}, "device_1 board_key knm3/h U mean false;", ""},
		{"unit of the metric", Metric{Name: "tank", Unit: "MG/L", Attr: attrs("tag", "AI-8")}, "device_2 cod mg/L U mean false;", ""},
		{"unit of the attribute", Metric{Name: "tank", Unit: "K", Attr: attrs("tag", "AI-8", "ocems_unit", "mg/l")}, "device_2 cod mg/L U mean false;", ""},
		{"no unit", Metric{Name: "tank", Attr: attrs("tag", "AI-8")}, "", `naming parameter "cod" of device "device_2": it has no unit`},
		{"unknown unit", Metric{Name: "tank", Unit: "mgl", Attr: attrs("tag", "AI-8")}, "", "mg/L"},
		{"flag", Metric{Name: "odd", Attr: attrs("ocems.flag", "c")}, "device_1 board_key knm3/h C mean false;", ""},
		{"bad flag", Metric{Name: "odd", Attr: attrs("ocems_flag", "Q")}, "", `"Q"`},
		{"implicit", Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_2")}, "device_2 bod mg/L U mean false;", ""},
		{"implicit field", Metric{Name: "x", Field: "bod", Unit: "mg/L", Attr: attrs("ocems_device_id", "device_2")}, "device_2 bod mg/L U mean false;", ""},
		{"status of a parameter", Metric{Name: "bod", Field: "status", Unit: "mg/L", Attr: attrs("ocems_device_id", "device_2")}, "", `"status" is not a parameter key and has no entry`},
		{"implicit without unit", Metric{Name: "bod", Attr: attrs("ocems_device_id", "device_2")}, "", "it has no unit"},
		{"implicit bad flag", Metric{Name: "bod", Attr: attrs("ocems_device_id", "device_2", "ocems_flag", "Q")}, "", `"Q"`},
		{"unknown device", Metric{Name: "bod", Attr: attrs("ocems.device.id", "device_3")}, "", `unknown device "device_3"; nearest: device_1, device_2`},
		{"unknown device and name", Metric{Name: "cpu", Attr: attrs("ocems.device.id", "device_3")}, "", ""},
		{"no device", Metric{Name: "bod", Unit: "mg/L"}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			matches, err := r.Resolve(tt.metric)
			var got string
			for _, m := range matches {
				got += fmt.Sprintf("%s %s %s %v %s %v;", m.Device.DeviceID, m.Parameter, m.Unit, m.Flag, m.Statistic, m.Diagnostic)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			var re *ResolveError
			var other *NotListedError
			if err != nil && !errors.Is(err, ErrUnknownDevice) && !errors.As(err, &re) && !errors.As(err, &other) {
				t.Errorf("error of type %T", err)
			}
		})
	}
}

func TestDevice(t *testing.T) {
	r := mustNew(t, good())
	d, ok := r.Device("device_1")
	if !ok || d.StationID != "station_1" || len(r.Devices()) != 1 || r.Devices()[0] != d {
		t.Fatal(d, ok)
	}
	if _, ok := r.Device("x"); ok {
		t.Fatal("found a device that is not there")
	}
	if plain, err := seal.Open(token, d.Seal([]byte("{}"))); err != nil || string(plain) != "{}" {
		t.Fatal(string(plain), err)
	}
	text, err := os.ReadFile("../seal/testdata/industry_test_private.pem")
	if err != nil {
		t.Fatal(err)
	}
	private, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1726857000042)
	signature, err := d.Sign(at)
	if err != nil {
		t.Fatal(err)
	}
	if tok, got, err := seal.Unsign(private, signature); err != nil || tok != token || !got.Equal(at) {
		t.Fatal(got, err)
	}
}

func TestRound(t *testing.T) {
	r := mustNew(t, good())
	for _, tt := range []struct {
		device, parameter string
		value, want       float64
	}{
		{"device_1", "cod", 41.23456, 41.23},
		{"device_1", "cod", 1.005, 1}, // less than 1.005 in binary
		{"device_1", "cod", -0.001, 0},
		{"device_1", "ph", 7.123456, 7.123456},
		{"device_1", "ph", float64(float32(7.42)), 7.42},
		{"device_1", "ph", 1.0 / 3, 0.3333333},
		{"device_1", "tss", float64(float32(110.1)), 110.1},
		{"device_1", "tss", 9999.99951, 10000},
		{"device_1", "tss", 1.23456789e-9, 1.234568e-9},
		{"device_1", "totalizer", 1000000064, 1000000064},
		{"device_1", "totalizer", 120031456.789, 120031456.789},
		{"device_1", "totalizer", float64(float32(12345.67)), 12345.67},
	} {
		d, _ := r.Device(tt.device)
		if got := Round(tt.value, d.Decimals(tt.parameter)); got != tt.want {
			t.Errorf("%s of %s: %v becomes %v, want %v", tt.parameter, tt.device, tt.value, got, tt.want)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	cfg := good()
	r := mustNew(t, cfg)
	d, _ := r.Device("device_1")
	s := Secret(token)
	if s.Reveal() != token || s.String() != "[REDACTED]" || s.GoString() != "[REDACTED]" {
		t.Fatal("not itself")
	}
	var out bytes.Buffer
	for _, v := range []any{s, &s, cfg, &cfg, cfg.Devices, d, *d, r, []*Device{d}, map[string]Secret{"a": s}, struct{ R *Registry }{r}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("x", "s", s, "cfg", cfg, "device", d, "registry", r)
	}
	for _, v := range []any{s, cfg, d} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	for _, leak := range []string{token, fmt.Sprintf("%x", token), fmt.Sprintf("%X", token)} {
		if strings.Contains(out.String(), leak) {
			t.Fatalf("printed: %s", leak)
		}
	}
}

// utf16Of encodes a text as Excel does for "Unicode text".
func utf16Of(text string) string {
	out := "\xff\xfe"
	for _, r := range text {
		out += string([]byte{byte(r), byte(r >> 8)})
	}
	return out
}

const csvHead = "\xef\xbb\xbfstation_id,device_id,token_id,latitude,longitude\n"

// write makes a file that was not changed for a while.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path, before, before); err != nil {
		t.Fatal(err)
	}
}

// reload looks at the file up to twice, until there is a change or an error.
func reload(t testing.TB, r *Registry) (changed bool, err error) {
	if changed, err = r.Reload(t.Context()); !changed && err == nil {
		return r.Reload(t.Context())
	}
	return changed, err
}

func TestDevicesFile(t *testing.T) {
	row := "s," + "d1," + token
	for _, tt := range []struct{ name, file, text, err string }{
		{"csv", "d.csv", csvHead + row + ",17.4,78.5\n", ""},
		{"csv of all columns", "d.csv", "station_id,device_id,token_id,token_id_file,latitude,longitude,public_key,public_key_file\n" +
			row + ",,,,," + weak + "\n" + "s,d2,," + keyFile + ",,,oops,\n", "d.csv:3: public_key: reading the public key"},
		{"csv of a spare", "d.csv", "station_id,device_id,token_id,shared_device,delay\n" + row + ",true,5m\n" + "s,d2," + token + ",,\n", ""},
		{"csv of a delay alone", "d.csv", "station_id,device_id,token_id,delay\n" + row + ",5m\n", "d.csv:2: delay: 5m is for a host that stands by for another sender"},
		{"csv of a delay without a unit", "d.csv", "station_id,device_id,token_id,delay\n" + row + ",5\n", "d.csv:2: delay: 5 has no unit"},
		{"csv formerly", "d.csv", "station_id,device_id,token_id,formerly\n" + row + ",d0; d00\n" + "s,d2," + token + ",\n", ""},
		{"csv formerly configured", "d.csv", "station_id,device_id,token_id,formerly\n" + row + ",d0;d2\n" + "s,d2," + token + ",\n", `d.csv:2: formerly: "d2" (`},
		{"csv of no device yet", "d.csv", csvHead, ""},
		{"csv of semicolons", "d.csv", strings.ReplaceAll(csvHead+row+",17.4,78.5\n", ",", ";"), ""},
		{"csv of tabs", "d.csv", strings.ReplaceAll(csvHead+row+",17.4,78.5\n", ",", "\t"), ""},
		{"csv with sep=", "d.csv", "\xef\xbb\xbfsep=;\r\n" + strings.ReplaceAll(csvHead[3:]+row+",17.4,78.5\n", ",", ";"), ""},
		{"csv with sep= and a mistake", "d.csv", "sep=;\n" + strings.ReplaceAll(csvHead[3:]+"s,d1,,1,1\n", ",", ";"), "d.csv:3: token_id: missing"},
		{"csv with blank rows", "d.csv", ",,,,\n" + csvHead[3:] + ",,,,\n" + row + ",17.4,78.5\n , ,,,\n\n,,,,\n", ""},
		{"csv with a comma at the end", "d.csv", strings.ReplaceAll(csvHead+row+",17.4,78.5\n", "\n", ",\n"), ""},
		{"csv with more behind the columns", "d.csv", csvHead + row + ",17.4,78.5,77\n", "d.csv:2: wrong number of fields: 6, but the first row has 5"},
		{"csv of other case", "d.csv", strings.Replace(strings.ToUpper(csvHead[3:]), "STATION_ID", "Station ID", 1) + row + ",17.4,78.5\n", ""},
		{"csv of UTF-16", "d.csv", utf16Of(csvHead[3:] + row + ",17.4,78.5\r\n"), ""},
		{"csv of UTF-16 without a mark", "d.csv", utf16Of(csvHead[3:] + row + ",17.4,78.5\r\n")[2:], "d.csv: this text is not UTF-8; save it as CSV UTF-8"},
		{"csv that is a workbook", "d.csv", "PK\x03\x04\x14\x00", "d.csv: this is a spreadsheet workbook; save it as CSV UTF-8"},
		{"workbook", "d.xlsx", "PK\x03\x04", "save a workbook as CSV UTF-8"},
		{"csv with a decimal comma", "d.csv", strings.NewReplacer(",", ";", "§", ",").Replace(csvHead + row + ",17§4,78.5\n"), "d.csv:2: latitude: not a number of degrees; write it with a point"},
		{"csv with a token of a spreadsheet", "d.csv", csvHead + "s,d1,1.23E+31,17.4,78.5\n", "d.csv:2: token_id: a spreadsheet has changed it into a number"},
		{"csv empty", "d.csv", "", "d.csv:1: the file is empty"},
		{"csv without header", "d.csv", row + "\n", "d.csv:1: no column device_id"},
		{"csv without a name's underscore", "d.csv", "station_id,DeviceID,token_id\n" + row + "\n", `d.csv:1: column "deviceid" is unknown; nearest: device_id`},
		{"csv column", "d.csv", "device_id,tokenid\n", `d.csv:1: column "tokenid" is unknown; nearest: token_id`},
		{"csv column twice", "d.csv", "device_id,device_id\n", `d.csv:1: column "device_id" is given twice`},
		{"csv short row", "d.csv", csvHead + "\n" + row + "\n", "d.csv:3: wrong number of fields"},
		{"csv quote", "d.csv", csvHead + "\"" + row, "d.csv:2: "},
		{"csv slipped row", "d.csv", csvHead + "s,d1,,17.4," + token + "\n", "d.csv:2: longitude: not a number of degrees"},
		{"csv slipped to the delay", "d.csv", "station_id,device_id,token_id,delay\ns,d1,," + token + "\n", "d.csv:2: delay: not a duration such as 30s or 5m"},
		{"csv slipped to the timestamps", "d.csv", "station_id,device_id,token_id,timestamps\ns,d1,," + token + "\n", `d.csv:2: timestamps: neither "auto" nor "source"; nearest: `},
		{"csv slipped to the stamp", "d.csv", "station_id,device_id,token_id,reading_stamp\ns,d1,," + token + "\n", `d.csv:2: reading_stamp: neither "start" nor "end"; nearest: `},
		{"csv stamp", "d.csv", "station_id,device_id,token_id,reading_stamp\n" + row + ",ent\n", "d.csv:2: reading_stamp: neither \"start\" nor \"end\"; nearest: end"},
		{"csv no token", "d.csv", csvHead + "s,d1,,1,1\n", "d.csv:2: token_id: missing"},
		{"csv in another encoding", "d.csv", csvHead + "Barauni\xe9,d1," + token + ",,\n", `d.csv:2: station_id: "Barauni\xe9" is not one line of UTF-8`},
		{"csv twice", "d.csv", csvHead + row + ",,\n" + row + ",,\n", `d.csv:3: device_id: "d1" is also `},
		{"yaml", "d.yaml", "devices:\n- {station_id: s, device_id: d1, token_id: " + token + "}\n", ""},
		{"yaml formerly", "d.yaml", "devices:\n- station_id: s\n  device_id: d1\n  token_id: " + token + "\n  parameters:\n  - metric: cod\n    formerly: [cod]\n",
			`d.yaml:7: devices[0].parameters[0].formerly: "cod" is the current name`},
		{"yaml of no device yet", "d.yml", "devices: []\n", ""},
		{"yaml empty", "d.yml", "", "d.yml:1: no list of `devices:`"},
		{"yaml without the key", "d.yml", "- station_id: a\n  device_id: b\n", "d.yml:1: no list of `devices:`"},
		{"yaml key", "d.yml", "devices:\n- station_id: s\n  tokenid: " + token + "\n", `d.yml:3: key "tokenid" is unknown; nearest: token_id`},
		{"yaml type", "d.yml", "devices:\n- latitude: " + token + "\n", "d.yml:2: cannot unmarshal"},
		{"yaml syntax", "d.yml", "devices:\n- {\n", "d.yml:"},
		{"yaml two documents", "d.yml", "devices: []\n---\ndevices: []\n", "d.yml: a second document"},
		{"yaml unit", "d.yml", "devices:\n- station_id: s\n  device_id: d1\n  token_id: " + token +
			"\n  parameters:\n  - metric: bod\n    unit: mg/L\n  - metric: cod\n    unit: zz\n", `d.yml:9: devices[0].parameters[1].unit: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), tt.file)
			write(t, path, tt.text)
			_, err := New(Config{PublicKeyFile: keyFile, DevicesFile: path})
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("got %v, want %q", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), token[:7]) {
				t.Fatalf("the error shows the token: %v", err)
			}
		})
	}
}

// A key of the parameter overrides the device's key, which overrides the key of the whole configuration.
func TestRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.yaml")
	write(t, path, "devices:\n- {station_id: s, device_id: d1, token_id: "+token+", reading_stamp: end, parameters: [\n"+
		"  {metric: bod, unit: mg/L, valid_min: 0, valid_max: 9.5, invalid_values: [0, -9.9, 5], max_step: 2, min_coverage: 0.6, below_min_coverage: leave_out, flat_line_after: 0s, limit_low: 1, limit_high: 8, reading_stamp: start},\n"+
		"  {metric: cod, unit: mg/L, max_step: 3}, {metric: ph, unit: pH}]}\n")
	cfg := Config{PublicKeyFile: keyFile, DevicesFile: path, Common: Common{MinCoverage: 0.2, BelowMinCoverage: "wait", FlatLineAfter: Duration{6 * time.Hour}}}
	r := mustNew(t, cfg)
	d, _ := r.Device("d1")
	none := Rules{ValidMin: math.Inf(-1), ValidMax: math.Inf(1), LimitLow: math.Inf(-1), LimitHigh: math.Inf(1), MinCoverage: 0.2, Waits: true, EndStamped: true, FlatLineAfter: 6 * time.Hour}
	cod := none
	cod.MaxStep = 3
	for key, want := range map[string]Rules{"cod": cod, "ph": none, "tss": none,
		"bod": {ValidMin: 0, ValidMax: 9.5, MaxStep: 2, MinCoverage: 0.6, LimitLow: 1, LimitHigh: 8, invalid: d.Rules("bod").invalid}} {
		if got := *d.Rules(key); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", key, got, want)
		}
	}
	for v, want := range map[float64]slot.Reason{0.1: "", 9.5: "", 9.6: slot.AboveMax, -0.1: slot.BelowMin, 0: slot.Invalid, -9.9: slot.Invalid, float64(float32(-9.9)): slot.Invalid,
		math.Inf(1): "", math.NaN(): ""} {
		if got, _ := d.Rules("bod").LeftOut(v); got != want || !d.Rules("bod").LeavesOut() || d.Rules("cod").LeavesOut() {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	for metric, attr := range map[string]func(string) (string, bool){"bod": nil, "tss": attrs("ocems.device.id", "d1", "ocems.unit", "mg/L")} {
		if got, err := r.Resolve(Metric{Name: metric, Attr: attr}); err != nil || len(got) != 1 || got[0].Rules != d.Rules(metric) {
			t.Error(got, err)
		}
	}

	write(t, path, "devices:\n- {station_id: s, device_id: d1, token_id: "+token+", parameters: [\n  {metric: bod, unit: mg/L,\n   valid_mn: 0}]}\n")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), path+`:4: key "valid_mn" is unknown; nearest: valid_min`) {
		t.Error(err)
	}
	write(t, path, "devices:\n- {station_id: s, device_id: d1, token_id: "+token+", parameters: [\n  {metric: bod, unit: mg/L,\n   valid_min: .nan, flat_line_after: 30}]}\n")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), `30 has no unit; nearest: "30s"`) {
		t.Error(err)
	}
	path = filepath.Join(t.TempDir(), "d.csv")
	write(t, path, "station_id,device_id,token_id,reading_stamp\ns,d1,"+token+",end\ns,d2,"+token+",\n")
	r = mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
	for id, want := range map[string]bool{"d1": true, "d2": false} {
		if d, _ := r.Device(id); d.Rules("cod").EndStamped != want {
			t.Error(id, d.Rules("cod"))
		}
	}
}

// The field `value` is the same as no field, so that one file serves both hosts.
func TestFieldsOfAHostWithout(t *testing.T) {
	const entry = "devices:\n- station_id: s\n  device_id: d1\n  token_id: " + token + "\n  parameters:\n  - metric: bod\n    field: value\n    unit: mg/L\n"
	path := filepath.Join(t.TempDir(), "d.yaml")
	write(t, path, entry)
	r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path, Words: Collector})
	write(t, path, strings.Replace(strings.Replace(entry, "d1", "d2", 1), "value", "raw", 1))
	want := path + `:7: devices[0].parameters[0].field: "raw" does nothing here; ` + Collector.NoField
	if changed, err := reload(t, r); changed || err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Error(changed, err)
	}
	if _, ok := r.Device("d1"); !ok {
		t.Error("the previous devices are gone")
	}
}

// A processor names metrics and needs no tokens or keys.
func TestNamesOnly(t *testing.T) {
	cfg := good()
	cfg.NamesOnly, cfg.PublicKeyFile, cfg.Devices[0].TokenIDFile, cfg.Devices[0].PublicKey = true, "absent.pem", "absent.txt", "nonsense"
	if m, err := mustNew(t, cfg).Resolve(Metric{Name: "odd"}); len(m) != 1 || err != nil {
		t.Error(m, err)
	}
	cfg.Devices[0].Parameters[1].Unit = "zz"
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "parameters[1].unit") {
		t.Error(err)
	}
}

func TestFinished(t *testing.T) {
	r := mustNew(t, good())
	for _, tt := range []struct {
		name   string
		metric Metric
		want   string
		err    string
	}{
		{"listed", Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_1")}, "device_1 bod mg/L U false", ""},
		{"mapped from a metric that fits nothing", Metric{Name: "cod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_1", "ocems.flag", "M")}, "device_1 cod mg/L M false", ""},
		{"diagnostic", Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_1", "ocems.diagnostic", "true")}, "device_1 bod mg/L U true", ""},
		{"unlisted and configured", Metric{Name: "board_key", Unit: "knm3/h", Attr: attrs("ocems.device.id", "device_1")}, "device_1 board_key knm3/h U false", ""},
		{"unlisted", Metric{Name: "board_kez", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_1")}, "", `"board_kez"`},
		{"unit of another spelling", Metric{Name: "bod", Unit: "MG/L", Attr: attrs("ocems.device.id", "device_1")}, "", "unit"},
		{"unknown device", Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_2")}, "", `unknown device "device_2"; nearest: device_1`},
		{"no device", Metric{Name: "bod", Unit: "mg/L"}, "", "unknown device"},
		{"bad flag", Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "device_1", "ocems.flag", "Q")}, "", `"Q"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := r.Finished(tt.metric)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if got := fmt.Sprintf("%s %s %s %v %v", m.Device.DeviceID, m.Parameter, m.Unit, m.Flag, m.Diagnostic); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.csv")
	row := func(id string) string { return "s," + id + "," + token + ",,\n" }
	write(t, path, csvHead+row("d1"))
	r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
	check := func(want bool, fails bool, ids ...string) {
		t.Helper()
		changed, err := reload(t, r)
		if changed != want || (err != nil) != fails {
			t.Fatal(changed, err)
		}
		var got []string
		for _, d := range r.Devices() {
			got = append(got, d.DeviceID)
		}
		if fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Fatalf("got %v, want %v", got, ids)
		}
	}
	check(false, false, "d1")
	write(t, path, csvHead+row("d2")+row("d1"))
	check(true, false, "d1", "d2")
	info, _ := os.Stat(path)
	write(t, path, csvHead+row("d3")+row("d1")) // same size, same time
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	check(true, false, "d1", "d3")
	write(t, path, csvHead+"s,d4\n")
	check(false, true, "d1", "d3")
	check(false, true, "d1", "d3")
	os.Remove(path)
	check(false, true, "d1", "d3")
	write(t, path, csvHead+row("d4"))
	check(true, false, "d4")
	if changed, err := mustNew(t, good()).Reload(t.Context()); changed || err != nil {
		t.Fatal(changed, err)
	}
}

func TestReloadWhileResolving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.csv")
	text := csvHead + "s,d1," + token + ",,\n"
	write(t, path, text)
	r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if m, err := r.Resolve(Metric{Name: "bod", Unit: "mg/L", Attr: attrs("ocems.device.id", "d1")}); len(m) != 1 || err != nil {
					t.Error(m, err)
					return
				}
			}
		})
	}
	for i := range 50 {
		write(t, path, text+fmt.Sprintf("s,x%d,%s,,\n", i, token))
		if changed, err := reload(t, r); !changed || err != nil {
			t.Error(changed, err)
		}
	}
	close(done)
	wg.Wait()
}

// Only a complete file that does not change is used. Each step is the content of the file at one look.
func TestHalfADevicesFile(t *testing.T) {
	row := func(id string) string { return "s," + id + "," + token + ",17.25,78.5\n" }
	all := csvHead + row("d1") + row("d2") + row("d3") + row("d4") + row("d5")
	more := all + row("d6")
	for _, tt := range []struct {
		name  string
		looks []string
		want  string // the number of devices after each look, ! after an error
	}{
		{"a copy that goes on", []string{csvHead, csvHead + row("d1"), all[:len(all)-7], all, more, more}, "555556"},
		{"half of a coordinate, at rest", []string{more[:len(more)-7], more[:len(more)-7], more, more}, "55!56"},
		{"a copy that stands still for a while", []string{csvHead + row("d1"), csvHead + row("d1"), more, more}, "55!56"},
		{"two that are dismissed", []string{csvHead + row("d1"), csvHead + row("d1"), csvHead + row("d1")}, "55!1"},
		{"one that is dismissed", []string{csvHead + row("d1") + row("d2") + row("d3"), csvHead + row("d1") + row("d2") + row("d3")}, "53"},
		{"an empty file", []string{"", "", "", more, more}, "55!5!56"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "d.csv")
			write(t, path, all)
			r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
			got, before := "", all
			for _, text := range tt.looks {
				if text != before {
					write(t, path, text)
				}
				before = text
				_, err := r.Reload(t.Context())
				if got += fmt.Sprint(len(r.Devices())); err != nil {
					got += "!"
				}
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// At the start the registry waits for a file that is still being written.
func TestDevicesFileThatIsWrittenAtTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.csv")
	part := csvHead + "s,d1," + token + ",,\n"
	if err := os.WriteFile(path, []byte(part), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(restFor / 2)
		_ = os.WriteFile(path, []byte(part+"s,d2,"+token+",,\n"), 0o600)
	}()
	if r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path}); len(r.Devices()) != 2 {
		t.Error(r.Devices())
	}
}

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.csv")
	write(t, path, csvHead)
	r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var changes, faults int
		ended := make(chan struct{})
		go func() {
			r.Watch(ctx, time.Minute, func() { changes++ }, func(error) { faults++ })
			close(ended)
		}()
		pass := func(text string, wantChanges, wantFaults int) {
			t.Helper()
			write(t, path, text)
			time.Sleep(4*time.Minute + time.Second)
			synctest.Wait()
			if changes != wantChanges || faults != wantFaults {
				t.Fatal(changes, faults)
			}
		}
		pass(csvHead+"s,d1,"+token+",,\n", 1, 0)
		pass("broken", 1, 1)
		pass(csvHead+"s,d2,"+token+",,\n", 2, 1)
		cancel()
		<-ended
	})
	mustNew(t, good()).Watch(t.Context(), time.Minute, nil, nil)
}

func FuzzDevicesFile(f *testing.F) {
	for _, text := range []string{
		csvHead + "s,d1," + token + ",17.4,78.5\n", "device_id\n\"", "", "device_id,token_id\na\n",
	} {
		f.Add(text, false)
	}
	for _, text := range []string{
		"devices:\n- {station_id: s, device_id: d1, token_id: t, parameters: [{metric: bod, unit: mg/L, attributes: {a: b}}]}\n",
		"devices: &a\n- &b {device_id: x}\n- *b\n", "devices: 3", "a: b", "devices: []\n---\n", "devices:\n- latitude: x\n", "",
	} {
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, isYAML bool) {
		name := "d.csv"
		if isYAML {
			name = "d.yaml"
		}
		list, err := parseDevices(name, []byte(text))
		if err != nil && !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("the error does not begin with the file: %v", err)
		}
		for _, src := range list {
			if at := src.at("parameters[0].unit"); !strings.HasPrefix(at, name+":") {
				t.Error(at)
			}
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	var cfg = Config{PublicKeyFile: keyFile}
	for i := range 20000 {
		id := fmt.Sprintf("d%d", i)
		cfg.Devices = append(cfg.Devices, DeviceConfig{StationID: "s", DeviceID: id, TokenID: token, Parameters: []ParameterConfig{
			{Metric: "tank", Attributes: map[string]string{"area": "a", "tag": id}, Parameter: "cod", Unit: "mg/l"}}})
	}
	start := time.Now()
	r := mustNew(b, cfg)
	b.Logf("20,000 devices in %v", time.Since(start))
	m := Metric{Name: "tank", Attr: attrs("area", "a", "tag", "d19999")}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := r.Resolve(m); len(got) != 1 || err != nil || got[0].Flag != spec.FlagNormal {
			b.Fatal(got, err)
		}
	}
}

// Series under a former name get the current name.
func TestFormerly(t *testing.T) {
	cfg := good()
	cfg.Devices[0].Formerly, cfg.Devices[0].Parameters[1].Formerly = []string{" old_1", "old_2"}, []string{"bod"}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		device, parameter, unit, want string
	}{
		{"device_1", "cod", "mg/L", "device_1 cod mg/L"},
		{"old_1", "cod", "mgpl", "device_1 cod mg/L"},
		{"old_2", "bod", "ppm", "device_1 cod ppm"},
		{"old_2", "ss", "ppm", "device_1 ss ppm"},
		{"old_3", "bod", "mgpl", "old_3 bod mgpl"},
	} {
		s, unit := r.Current(slot.Series{Device: tt.device, Parameter: tt.parameter}, tt.unit)
		if got := s.Device + " " + s.Parameter + " " + unit; got != tt.want {
			t.Errorf("%v is %s", tt, got)
		}
	}
	for _, id := range []string{"device_1", "old_1"} {
		if d, ok := r.Device(id); !ok || d.DeviceID != "device_1" {
			t.Errorf("%s is %v", id, d)
		}
		attr := func(key string) (string, bool) { return id, key == "ocems.device.id" }
		if m, err := r.Resolve(Metric{Name: "ph", Unit: "pH", Attr: attr}); err != nil || len(m) != 1 || m[0].Device.DeviceID != "device_1" {
			t.Errorf("%v, %v", m, err)
		}
		if m, err := r.Finished(Metric{Name: "bod", Unit: "mg/L", Attr: attr}); err != nil || m.Device.DeviceID != "device_1" || m.Parameter != "cod" {
			t.Errorf("%v, %v", m, err)
		}
	}
	if len(r.Devices()) != 1 {
		t.Errorf("%v", r.Devices())
	}
}

// A token or id of digits and one e is not a number.
func TestNoNumberOfASpreadsheet(t *testing.T) {
	for _, token := range []string{"000000000000000000000000000037e5", "12345678901234567890123456789E12"} {
		mustNew(t, Config{PublicKeyFile: keyFile, Devices: []DeviceConfig{{StationID: "1e5", DeviceID: "12E34", TokenID: Secret(token)}}})
	}
}
