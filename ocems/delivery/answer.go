package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ocems-io/ocems/ocems/spec"
)

// verdict is the meaning of an answer for its request.
type verdict int

const (
	delivered     verdict = iota // status 1
	stored                       // 111: already stored, if there is evidence
	expired                      // 117
	future                       // 118
	badParameter                 // 110, 119: one parameter of the request is refused
	notScheduled                 // 112
	refusedDevice                // the device's registration or credentials are wrong
	tooLarge                     // HTTP 413
	failed                       // everything else: the data is kept
)

// answer is what came back from one request.
type answer struct {
	verdict    verdict
	status     *int // of the body, if it has one
	http       int  // HTTP status, if the device is refused and the body has no status
	detail     string
	wait       time.Duration // Retry-After, 0 if absent
	unanswered bool          // the server itself did not answer: no connection, no JSON, 5xx or 429
	whole      bool          // unanswered, but the failure may be due to this slot: an HTTP answer other than 429 and 503
	doubt      bool          // the server may have stored the request
}

// HoldReasons are the reasons why readings of a device wait for a person: a status of the API, HTTP 401 or 403, a
// device that the configuration no longer has, another sender that reports it, a server that expects times of another
// grid, or other answers that repeat. The set is small, so that it can be the label of a metric.
func HoldReasons() []string {
	return []string{"10", "102", "109", "110", "111", "112", "113", "114", "115", "116", "117", "118", "119", "120", "121",
		anotherSender, "http_401", "http_403", "not_configured", offGrid, "other"}
}

func (a answer) reason() string {
	switch {
	case a.verdict == failed:
		return "other"
	case a.status != nil:
		return strconv.Itoa(*a.status)
	case a.http != 0:
		return fmt.Sprintf("http_%d", a.http)
	}
	return "not_configured"
}

// notConfigured is the detail of slots whose device is not in the configuration.
const notConfigured = "the device is not configured: put it back, or name it in `formerly` of the device that replaces it; its slots wait until they expire"

// cures says what a person can do about a 111 with a known cause.
var cures = map[string]string{
	anotherSender: "another sender reports the device, because the server has slots that were never sent from here and accepts others: stop it, or set shared_device = true for the device, and delay on the second one; if there is none, ask the board",
	offGrid:       "the server has never accepted a slot of the device: compare stamp and the 15-minute grid with what the board expects; if another sender reports the device, stop it, or set shared_device = true",
}

// invalidUnit is the reason of a parameter whose unit the server refuses.
var invalidUnit = strconv.Itoa(int(spec.StatusInvalidUnit))

// cure says what a person can do about an answer that contradicts the evidence.
func (a answer) cure() string {
	switch a.verdict {
	case stored:
		return "if another sender reports the device, set shared_device for it; else compare stamp and the 15-minute grid with what the board expects"
	case expired, future:
		return "compare this machine's clock with the board's"
	}
	return "ask the board"
}

// judge turns an HTTP answer into a verdict. With a 2xx, the body's status decides (spec 2.5). With another HTTP
// status, the body's status counts only if it keeps the readings waiting: a 403 or 500 has stored nothing.
func judge(resp *http.Response, body []byte) answer {
	good, wait := resp.StatusCode >= 200 && resp.StatusCode < 300, retryAfter(resp.Header)
	if code, msg, ok := readStatus(body); ok {
		a := answer{verdict: byStatus(spec.Status(code)), status: &code, wait: wait}
		a.detail = fmt.Sprintf("status %s, msg %s", spec.Status(code), quote(msg))
		a.doubt = code == int(spec.StatusFailed)
		if good || resp.StatusCode >= 400 && resp.StatusCode < 500 && (a.verdict == refusedDevice || a.verdict == badParameter) {
			return a
		}
	}
	a := answer{verdict: failed, wait: wait, unanswered: true}
	a.detail = fmt.Sprintf("HTTP %d, %s", resp.StatusCode, quote(string(body)))
	a.whole = resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable
	switch c := resp.StatusCode; {
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return answer{verdict: refusedDevice, detail: a.detail, http: c}
	case c == http.StatusRequestEntityTooLarge:
		return answer{verdict: tooLarge, detail: a.detail}
	case c >= 300 && c < 400:
		a.detail = fmt.Sprintf("HTTP %d, a redirect to %s, which is not followed: check the endpoint", c, quote(resp.Header.Get("Location")))
	case c == http.StatusInternalServerError || c == http.StatusBadGateway || c == http.StatusGatewayTimeout:
		a.doubt = true
	case good: // truncated, or a page from a proxy
		text := trim(body)
		a.doubt = len(text) == 0 || text[0] == '{'
	}
	return a
}

// trim removes white space and the byte order mark that some servers put before UTF-8.
func trim(body []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\xef\xbb\xbf")))
}

// readStatus reads the status from an answer's body: a whole number, or a string that contains one.
func readStatus(body []byte) (code int, msg string, ok bool) {
	var doc struct {
		Status json.RawMessage `json:"status"`
		Msg    json.RawMessage `json:"msg"` // any JSON: it must not invalidate the status
	}
	if json.Unmarshal(trim(body), &doc) != nil {
		return 0, "", false
	}
	number, err := strconv.ParseFloat(strings.TrimSpace(text(doc.Status)), 64)
	if code = int(number); err != nil || float64(code) != number || number < 0 || number > math.MaxInt32 {
		return 0, "", false
	}
	return code, text(doc.Msg), true
}

// text is the text of a JSON string, or any other JSON unchanged.
func text(raw json.RawMessage) string {
	var s string
	if len(raw) > 0 && raw[0] >= '0' && raw[0] <= '9' || json.Unmarshal(raw, &s) != nil {
		return string(raw)
	}
	return s
}

// byStatus is the table of verdicts. A code that v1.5 does not define keeps the data.
func byStatus(s spec.Status) verdict {
	switch s {
	case spec.StatusSuccess:
		return delivered
	case spec.StatusNotSlot:
		return stored
	case spec.StatusTooOld:
		return expired
	case spec.StatusFuture:
		return future
	case spec.StatusInvalidUnit, spec.StatusInvalidParameter:
		return badParameter
	case spec.StatusNoCalibration:
		return notScheduled
	case spec.StatusInvalidDetails, spec.StatusInvalidStation, spec.StatusNotEncrypted, spec.StatusNoSignature,
		spec.StatusNoDeviceID, spec.StatusNoPublicKey, spec.StatusDeviceNotRegistered, spec.StatusSeveralStations,
		spec.StatusNoStationDeviceMatch:
		return refusedDevice
	}
	return failed
}

const (
	maxAnswer = 64 << 10  // bytes read of an answer
	maxWait   = time.Hour // longest Retry-After obeyed
)

func readAnswer(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxAnswer)) }

// retryAfter reads the wait that the server asks for: seconds, or a time of the server's own clock.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return min(time.Duration(min(n, 1<<20))*time.Second, maxWait)
	}
	if at, err := http.ParseTime(text); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		return min(max(at.Sub(now), 0), maxWait)
	}
	return 0
}

// quote makes a server's text safe for a log.
func quote(s string) string { return strconv.Quote(printable(s, 160)) }

// printable is the beginning of a text, without line breaks and escape sequences.
func printable(s string, most int) string {
	for i := range s {
		if most--; most < 0 {
			s = s[:i] + "..."
			break
		}
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// Words are the host's configuration keys that a hint names.
type Words struct {
	CAFile   string // the key of the authority's certificate
	ProxyURL string // the key of the proxy
}

// hint adds the usual remedy to an error. The text may contain data from the server, such as names in a certificate.
func (w Words) hint(err error, hide func([]byte) []byte) string {
	text := printable(string(hide([]byte(err.Error()))), 400)
	switch {
	case strings.Contains(text, "x509:") || strings.Contains(text, "certificate"):
		return text + " (the server's certificate is not trusted: give the authority's file as " + w.CAFile + "; do not turn verification off)"
	case strings.Contains(text, http.StatusText(http.StatusProxyAuthRequired)):
		return text + " (the proxy wants another user or password in " + w.ProxyURL + ")"
	case errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, "timeout"):
		return text + " (the board's server may answer to Indian addresses only; check the route and the proxy)"
	}
	return text
}
