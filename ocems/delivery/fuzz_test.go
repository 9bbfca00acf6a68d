package delivery

import (
	"bytes"
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
	"github.com/ocems-io/ocems/ocems/store/frame"
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
		code       int
		body       string
		want       verdict
		unanswered bool
		doubt      bool
	}{
		{200, `{"status":1,"msg":"success"}`, delivered, false, false},
		{200, `{"status":"1"}`, delivered, false, false},
		{200, `{"status":" 1 "}`, delivered, false, false},
		{200, `{"status":1.0}`, delivered, false, false},
		{200, "\ufeff {\"status\":1}\r\n", delivered, false, false},
		{201, `{"status":1}`, delivered, false, false},
		{200, `{"status":1.5}`, failed, true, true},
		{302, `{"status":1}`, failed, true, false},
		{403, `{"status":1}`, refusedDevice, false, false},
		{404, `{"status":117}`, failed, true, false},
		{500, `{"status":1}`, failed, true, true},
		{500, `{"status":111,"msg":"x"}`, failed, true, true},
		{400, `{"status":110}`, badParameter, false, false},
		{400, `{"status":102}`, refusedDevice, false, false},
		{200, `{"status":111,"msg":{"text":"x"}}`, stored, false, false},
		{200, `{"status":1,"msg":7}`, delivered, false, false},
		{200, `{"status":117,"msg":null}`, expired, false, false},
		{200, `{"status":0}`, failed, false, true},
		{200, `{"status":108}`, failed, false, false},
		{200, `{"status":403,"error":"Forbidden"}`, failed, false, false},
		{403, `{"status":403,"error":"Forbidden"}`, refusedDevice, false, false},
		{401, `{"status":401}`, refusedDevice, false, false},
		{413, `{"status":413}`, tooLarge, false, false},
		{429, `slow down`, failed, true, false},
		{502, `<html>`, failed, true, true},
		{503, `{"status":503,"error":"Service Unavailable"}`, failed, true, false},
		{504, ``, failed, true, true},
		{200, `{"status":null}`, failed, true, true},
		{200, `{"stat`, failed, true, true},
		{200, ``, failed, true, true},
		{200, `<html>`, failed, true, false},
	} {
		a := judge(&http.Response{StatusCode: c.code, Header: http.Header{}}, []byte(c.body))
		if a.verdict != c.want || a.unanswered != c.unanswered || a.doubt != c.doubt {
			t.Errorf("HTTP %d, %s: %+v, want verdict %d, unanswered %v, doubt %v", c.code, c.body, a, c.want, c.unanswered, c.doubt)
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
		if a.verdict < delivered || a.verdict > failed || a.wait < 0 || a.wait > maxWait || a.detail == "" {
			t.Errorf("%+v", a)
		}
		switch {
		case a.status != nil:
			if a.verdict != byStatus(spec.Status(*a.status)) || a.unanswered || a.verdict < badParameter && (code < 200 || code > 299) {
				t.Errorf("%q is read as status %d: %+v", body, *a.status, a)
			}
		case a.verdict != failed && a.verdict != refusedDevice && a.verdict != tooLarge:
			t.Errorf("an answer without a status settles readings: %q: %+v", body, a)
		}
		fitForALog(t, Words{}.hint(fmt.Errorf("x509: certificate is valid for %s, not y; %s", location, body), bytes.Clone))
	})
}

func FuzzReadings(f *testing.F) {
	at := time.UnixMilli(1726857000000)
	two := encodeReadings(0, []payload.Reading{{Parameter: "cod", Value: 1.5, Unit: "mg/L", Stamp: at, Flag: 'U', Statistic: "mean", Samples: 900, Min: -1, Max: 2, Minutes: 4},
		{Parameter: "प्र", Value: -0.25, Unit: "°C", Stamp: at, Flag: 'Z', Diagnostic: true}})
	f.Add(two, "cod", "mg/L", "mean", 900, 1.5, byte('U'), false)
	f.Add(two[1:len(two)-4], "Nh3-n", "%", "", 0, math.MaxFloat64, byte('C'), true)
	f.Add(encodeReadings(0, []payload.Reading{{Parameter: "x", Value: math.NaN(), Unit: "x", Flag: 'U'}})[1:15], "x", "x", "sum", -1, 0.0, byte('U'), false)
	f.Add([]byte{}, "", "", "", math.MaxInt, math.NaN(), byte(0), false)
	f.Add([]byte{4, 1, 2, 3}, "\xff", "x", "\xff", math.MaxInt32, math.Inf(1), byte('U'), false)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "x", "\xff", "last", 1, 5e-324, byte('D'), true)
	f.Fuzz(func(t *testing.T, b []byte, parameter, unit, statistic string, samples int, value float64, flag byte, diagnostic bool) {
		for _, b := range [][]byte{b, sealed(b)} {
			rs, _, err := decodeReadings(b, at.UnixMilli())
			if err != nil && rs != nil || err == nil && len(rs) == 0 {
				t.Fatalf("%v, %v", rs, err)
			}
			for _, r := range rs {
				if err := r.Check(); err != nil {
					t.Fatalf("what can never be sent is read: %v", err)
				}
			}
			if err == nil {
				again, _, err := decodeReadings(encodeReadings(0, rs), at.UnixMilli())
				if err != nil || !reflect.DeepEqual(again, rs) {
					t.Fatalf("%v comes back as %v, %v", rs, again, err)
				}
			}
		}
		r := payload.Reading{Parameter: parameter, Value: value, Unit: unit, Stamp: at, Flag: spec.Flag(flag), Diagnostic: diagnostic,
			Statistic: statistic, Samples: min(max(samples, 0), math.MaxInt32)}
		if r.Check() != nil {
			return
		}
		rs := []payload.Reading{r, r}
		stored := encodeReadings(0, rs)
		if back, _, err := decodeReadings(stored, at.UnixMilli()); err != nil || !reflect.DeepEqual(back, rs) {
			t.Fatalf("%v comes back as %v, %v", rs, back, err)
		}
		alter(t, stored, len(b), func(b []byte) error { _, _, err := decodeReadings(b, at.UnixMilli()); return err })
	})
}

// sealed returns a value with a correct checksum.
func sealed(b []byte) []byte {
	e := frame.New(formatVersion)
	e.Append(b)
	return e.Seal()
}

// alter changes one byte of a value, which decode must detect.
func alter(t *testing.T, stored []byte, seed int, decode func([]byte) error) {
	t.Helper()
	b := slices.Clone(stored)
	b[seed%len(b)] ^= byte(seed/len(b))%255 + 1
	if decode(b) == nil {
		t.Fatalf("%x passes for %x", b, stored)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("outbox/", int64(0), "a")
	f.Add("outbox/slot/abc/def", int64(-1), "device/with/slashes")
	f.Add("outbox/\x80\x00\x01\x92\x12\x34\x56\x78/a", int64(math.MaxInt64), "प्लांट")
	f.Fuzz(func(t *testing.T, key string, stamp int64, device string) {
		if id, ok := parseKey(key); ok && id.key() != key {
			t.Fatalf("%q is read as %v, whose key is %q", key, id, id.key())
		}
		if device == "" {
			return
		}
		id := slotID{device, stamp}
		if back, ok := parseKey(id.key()); !ok || back != id {
			t.Fatalf("%v comes back as %v, %v", id, back, ok)
		}
		if stamp < math.MaxInt64 && id.key() >= (slotID{device, stamp + 1}).key() {
			t.Fatalf("the keys of %d and the next stamp are out of order", stamp)
		}
	})
}
