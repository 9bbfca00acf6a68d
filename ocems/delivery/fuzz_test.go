package delivery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

const longestDetail = 2 << 10

func fitForALog(t *testing.T, text string) {
	t.Helper()
	if len(text) > longestDetail || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not fit for a log, %d bytes: %.300q", len(text), text)
	}
}

func TestStatusInTheBody(t *testing.T) {
	for _, c := range []struct {
		code      int
		body      string
		want      verdict
		transport bool
	}{
		{200, `{"status":1,"msg":"success"}`, accepted, false},
		{200, `{"status":"1"}`, accepted, false},
		{500, `{"status":111,"msg":"x"}`, stored, false},
		{200, `{"status":111,"msg":{"text":"x"}}`, stored, false},
		{200, `{"status":1,"msg":7}`, accepted, false},
		{200, `{"status":117,"msg":null}`, expired, false},
		{200, `{"status":403,"error":"Forbidden"}`, tryAgain, false},
		{403, `{"status":403,"error":"Forbidden"}`, holdDevice, false},
		{401, `{"status":401}`, holdDevice, false},
		{413, `{"status":413}`, tooLarge, false},
		{503, `{"status":503,"error":"Service Unavailable"}`, tryAgain, true},
		{200, `{"status":null}`, tryAgain, true},
		{200, `{"msg":"success"}`, tryAgain, true},
		{200, `<html>`, tryAgain, true},
	} {
		a := judge(&http.Response{StatusCode: c.code, Header: http.Header{}}, []byte(c.body))
		if a.verdict != c.want || a.transport != c.transport {
			t.Errorf("HTTP %d, %s: %+v, want verdict %d, transport %v", c.code, c.body, a, c.want, c.transport)
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestAnswerWithoutEndIsCut(t *testing.T) {
	if b, err := readAnswer(endless{}); err != nil || len(b) != maxAnswer {
		t.Errorf("%d bytes, %v, want %d", len(b), err, maxAnswer)
	}
}

func FuzzJudge(f *testing.F) {
	for s := range 130 {
		f.Add(200, "", "", "", []byte(fmt.Sprintf(`{"status":%d,"msg":"x"}`, s)))
	}
	for _, body := range []string{"", "{", "null", "[]", `"1"`, `{"status":"1"}`, `{"status":1,"msg":7}`, `{"status":111,"msg":{"a":[]}}`, `{"status":1.0}`,
		`{"status":null}`, `{"status":{}}`, `{"STATUS":1}`, `{"status":1} x`, "\ufeff{\"status\":1}", `{"status":99999999999999999999}`, `{"status":-1}`,
		`{"status":0,"status":1}`, `{"status":1,"msg":"\u001b[2J\u202e\r\nlevel=ERROR"}`, "<html>\x1b[31m\x00\x85\u2028</html>", "\xff\xfe", strings.Repeat("é", 4000)} {
		for _, code := range []int{200, 302, 401, 403, 413, 429, 500, 503} {
			f.Add(code, "120", "Mon, 02 Jan 2006 15:04:05 GMT", "https://x/\r\n\x1b", []byte(body))
		}
	}
	f.Add(429, "Mon, 02 Jan 2006 16:04:05 GMT", "Mon, 02 Jan 2006 15:04:05 GMT", "", []byte{})
	f.Add(429, "86400", "", "", []byte{})
	f.Add(429, "Fri, 31 Dec 9999 23:59:59 GMT", "garbage", "", []byte{})
	f.Fuzz(func(t *testing.T, code int, retryAfter, date, location string, body []byte) {
		resp := &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {retryAfter}, "Date": {date}, "Location": {location}}}
		a := judge(resp, body)
		fitForALog(t, a.detail)
		if a.verdict < accepted || a.verdict > tryAgain || a.wait < 0 || a.wait > maxWait || a.detail == "" {
			t.Errorf("%+v", a)
		}
		switch {
		case a.status != nil:
			if a.verdict != byStatus(spec.Status(*a.status)) || a.transport || !bytes.Contains(body, fmt.Append(nil, *a.status)) && !bytes.Contains(body, []byte("+")) {
				t.Errorf("%q is read as status %d: %+v", body, *a.status, a)
			}
		case a.verdict != tryAgain && a.verdict != holdDevice && a.verdict != tooLarge:
			t.Errorf("an answer without a status settles readings: %q: %+v", body, a)
		}
		fitForALog(t, hint(fmt.Errorf("x509: certificate is valid for %s, not y; %s", location, body)))
	})
}

func FuzzReadings(f *testing.F) {
	at := time.UnixMilli(1726857000000)
	two := encodeReadings([]payload.Reading{{Parameter: "cod", Value: 1.5, Unit: "mg/L", Stamp: at, Flag: 'U'},
		{Parameter: "प्र", Value: -0.25, Unit: "°C", Stamp: at, Flag: 'Z', Diagnostic: true}})
	f.Add(two, "cod", "mg/L", 1.5, byte('U'), false)
	f.Add(append([]byte{1}, two[1:len(two)-4]...), "Nh3-n", "%", math.MaxFloat64, byte('C'), true)
	f.Add(encodeReadings([]payload.Reading{{Parameter: "x", Value: math.NaN(), Unit: "x", Flag: 'U'}})[1:15], "x", "x", 0.0, byte('U'), false)
	f.Add([]byte{}, "", "", math.NaN(), byte(0), false)
	f.Add([]byte{3, 1, 2, 3}, "\xff", "x", math.Inf(1), byte('U'), false)
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "x", "\xff", 5e-324, byte('D'), true)
	f.Fuzz(func(t *testing.T, b []byte, parameter, unit string, value float64, flag byte, diagnostic bool) {
		for _, b := range [][]byte{b, frame(append([]byte{formatVersion}, b...)), append([]byte{withoutSum}, b...)} {
			rs, err := decodeReadings(b, at.UnixMilli())
			if err != nil && rs != nil || err == nil && len(rs) == 0 {
				t.Fatalf("%v, %v", rs, err)
			}
			for _, r := range rs {
				if err := r.Check(); err != nil {
					t.Fatalf("what can never be sent is read: %v", err)
				}
			}
			if err == nil {
				again, err := decodeReadings(encodeReadings(rs), at.UnixMilli())
				if err != nil || !reflect.DeepEqual(again, rs) {
					t.Fatalf("%v comes back as %v, %v", rs, again, err)
				}
			}
		}
		r := payload.Reading{Parameter: parameter, Value: value, Unit: unit, Stamp: at, Flag: spec.Flag(flag), Diagnostic: diagnostic}
		if r.Check() != nil {
			return
		}
		rs := []payload.Reading{r, r}
		stored := encodeReadings(rs)
		if back, err := decodeReadings(stored, at.UnixMilli()); err != nil || !reflect.DeepEqual(back, rs) {
			t.Fatalf("%v comes back as %v, %v", rs, back, err)
		}
		alter(t, stored, len(b), func(b []byte) error { _, err := decodeReadings(b, at.UnixMilli()); return err })
	})
}

// alter changes one byte of a value, which decode must find.
func alter(t *testing.T, stored []byte, seed int, decode func([]byte) error) {
	t.Helper()
	b := slices.Clone(stored)
	b[seed%len(b)] ^= byte(seed/len(b))%255 + 1
	if b[0] != withoutSum && b[0] != '[' && decode(b) == nil {
		t.Fatalf("%x passes for %x", b, stored)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(encodeIndex([]int64{1726857000000, 1726857030000, 1726857900000}))
	f.Add([]byte{1, 2, 0xff})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 2})
	f.Add(binary.AppendVarint(binary.AppendVarint(nil, math.MaxInt64-1), math.MaxInt64))
	f.Add([]byte{3})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, frame(append([]byte{formatVersion}, b...)), append([]byte{withoutSum}, b...)} {
			stamps, _ := decodeIndex(b)
			if !slices.IsSorted(stamps) || len(stamps) != len(slices.Compact(slices.Clone(stamps))) {
				t.Fatalf("stamps out of order: %v", stamps)
			}
			if len(stamps) > len(b) {
				t.Fatalf("%d stamps of %d bytes", len(stamps), len(b))
			}
			stored := encodeIndex(stamps) // what is left of a damaged index is written again too
			if again, err := decodeIndex(stored); err != nil || !slices.Equal(again, stamps) {
				t.Fatalf("%v comes back as %v, %v", stamps, again, err)
			}
			alter(t, stored, len(b), func(b []byte) error { _, err := decodeIndex(b); return err })
		}
	})
}

func FuzzDevices(f *testing.F) {
	f.Add(encodeDevices([]string{"a", "device/with/slashes", `"quoted"`, "प्लांट", "<&>"}))
	f.Add([]byte(`["a","b"]`))
	f.Add([]byte(`["a",null,7]`))
	f.Add([]byte("[\"\xff\"]"))
	f.Add([]byte(`null`))
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, frame(append([]byte{formatVersion}, b...)), append([]byte{withoutSum}, b...)} {
			devices, _ := decodeDevices(b)
			stored := encodeDevices(devices)
			if again, err := decodeDevices(stored); err != nil || !slices.Equal(again, devices) {
				t.Fatalf("%q comes back as %q, %v", devices, again, err)
			}
			alter(t, stored, len(b), func(b []byte) error { _, err := decodeDevices(b); return err })
		}
	})
}
