package simulator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Fault is a fault of the server. The first fault in the list that is for the device of a request applies to it. A fault
// without http_status, status, html, close and half leaves the result of the checks as the answer.
type Fault struct {
	Device      string       `json:"device,omitempty"`       // X-Device-Id; empty is every device
	Count       int          `json:"count"`                  // number of requests; 0: until it is cleared
	Latency     Duration     `json:"latency,omitempty"`      // wait before the answer
	HTTPStatus  int          `json:"http_status,omitempty"`  // HTTP status, 200 to 599
	RetryAfter  int          `json:"retry_after,omitempty"`  // Retry-After header in seconds
	Status      *spec.Status `json:"status,omitempty"`       // status in the body, may be outside v1.5
	HTML        bool         `json:"html,omitempty"`         // an HTML page as the body
	Close       bool         `json:"close,omitempty"`        // close the connection without an answer
	Half        bool         `json:"half,omitempty"`         // close the connection after half of the answer's body
	ClockOffset Duration     `json:"clock_offset,omitempty"` // offset of the clock of the checks and the Date header
	AfterStore  bool         `json:"after_store,omitempty"`  // check and store first: only the reply is lost
}

var faultKeys = []string{"device", "count", "latency", "http_status", "retry_after", "status", "html", "close", "half", "clock_offset", "after_store"}

// Duration is a time.Duration that is a text in JSON, as in Go: "2s", "-1h".
type Duration time.Duration

// UnmarshalText reads a duration such as 2s.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 2s or -1h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the duration as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// parseFaults reads a fault or a list of them.
func parseFaults(text []byte) ([]Fault, error) {
	text = bytes.TrimSpace(text)
	list := []json.RawMessage{text}
	if len(text) > 0 && text[0] == '[' {
		list = nil
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("reading faults: %w", err)
		}
	}
	faults := make([]Fault, len(list))
	for i, one := range list {
		var err error
		if faults[i], err = parseFault(one); err != nil {
			return nil, fmt.Errorf("reading fault %d: %w", i+1, err)
		}
	}
	return faults, nil
}

func parseFault(text []byte) (Fault, error) {
	var fault Fault
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil || keys == nil {
		return fault, errors.New("it is not a JSON object")
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(faultKeys, key) {
			return fault, fmt.Errorf("unknown key %q: nearest %s", key, strings.Join(spec.Nearest(key, faultKeys), ", "))
		}
		// One key at a time, so that every error can name it.
		one, _ := json.Marshal(map[string]json.RawMessage{key: keys[key]})
		if err := json.Unmarshal(one, &fault); err != nil {
			return fault, fmt.Errorf("%s: value %s is not valid: %w", key, keys[key], err)
		}
	}
	fault.Device = strings.TrimSpace(fault.Device)
	switch {
	case fault.Count < 0:
		return fault, fmt.Errorf("count: %d is negative: nearest 0, which lasts until it is cleared", fault.Count)
	case fault.Latency < 0:
		return fault, fmt.Errorf("latency: %s is negative", time.Duration(fault.Latency))
	case fault.RetryAfter < 0:
		return fault, fmt.Errorf("retry_after: %d is negative", fault.RetryAfter)
	case fault.HTTPStatus != 0 && (fault.HTTPStatus < 200 || fault.HTTPStatus > 599):
		return fault, fmt.Errorf("http_status: %d is not an HTTP status from 200 to 599", fault.HTTPStatus)
	}
	return fault, nil
}

// activeFault is a fault with its id for DELETE /faults/{id}.
type activeFault struct {
	id int64
	Fault
}

// takeFault returns the fault for a request of the device and counts it down. The caller holds the lock.
func (s *Server) takeFault(device string) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.Device != "" && f.Device != device {
			continue
		}
		taken := f.Fault
		if f.Count == 1 {
			s.faults = slices.Delete(s.faults, i, i+1)
		} else if f.Count > 1 {
			f.Count--
		}
		if taken.Count > 0 {
			s.faultsChanged()
		}
		return taken
	}
	return Fault{}
}

// String describes the fault, without its device and count.
func (f Fault) String() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if f.AfterStore {
		add("stores first")
	}
	if f.ClockOffset != 0 {
		add("clock %+g s", time.Duration(f.ClockOffset).Seconds())
	}
	if f.Latency > 0 {
		add("waits %s", time.Duration(f.Latency))
	}
	if f.HTTPStatus != 0 && !f.Close {
		add("%s", strings.TrimSpace(fmt.Sprintf("HTTP %d %s", f.HTTPStatus, http.StatusText(f.HTTPStatus))))
	}
	if f.RetryAfter > 0 && !f.Close {
		add("Retry-After %d s", f.RetryAfter)
	}
	switch {
	case f.Close:
		add("closes the connection")
	case f.HTML:
		add("answers HTML")
	case f.Status != nil:
		add("status %s", *f.Status)
	}
	if f.Half && !f.Close {
		add("sends half of the answer")
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// request is the entry in the request log for an answer with this fault.
func (f Fault) request(v verdict) Request {
	r := Request{HTTP: http.StatusOK, Stored: v.stored, Reason: v.reason}
	status := &v.status
	if f.HTTPStatus != 0 {
		r.HTTP, status = f.HTTPStatus, nil
	}
	if f.Status != nil {
		status = f.Status
	}
	if f.HTML || f.Half {
		status = nil
	}
	if f.Close {
		r.HTTP, status = 0, nil
	}
	if status != nil {
		code := int(*status)
		r.Status, r.Meaning = &code, cmp.Or(status.Description(), "not a status of API v1.5")
	}
	if about := f.String(); about != "none" {
		if r.Reason != "" {
			r.Reason += "; "
		}
		r.Reason += "fault: " + about
	}
	return r
}

// write sends the answer to a request with this status, changed by the fault.
func (f Fault) write(w http.ResponseWriter, judged spec.Status) {
	if f.Close {
		panic(http.ErrAbortHandler)
	}
	code, kind, body := http.StatusOK, "application/json", answer(judged)
	if f.HTTPStatus != 0 {
		code = f.HTTPStatus
		kind, body = "text/plain; charset=utf-8", []byte(http.StatusText(code)+"\n")
	}
	if f.Status != nil {
		kind, body = "application/json", answer(*f.Status)
	}
	if f.HTML {
		kind, body = "text/html; charset=utf-8", []byte("<!DOCTYPE html><html><body><h1>"+strconv.Itoa(code)+" "+http.StatusText(code)+"</h1></body></html>\n")
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	w.Header().Set("Content-Type", kind)
	if code != http.StatusNoContent && code != http.StatusNotModified {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	} else {
		body = nil
	}
	w.WriteHeader(code)
	if f.Half {
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

// answer is the body of spec 2.5.
func answer(s spec.Status) []byte {
	msg := s.Message()
	if msg == "" {
		msg = "status outside v1.5"
	}
	text, _ := json.Marshal(struct {
		Msg    string      `json:"msg"`
		Status spec.Status `json:"status"`
	}{msg, s})
	return text
}

func (s *Server) addFaults(w http.ResponseWriter, r *http.Request) {
	body, code := readBody(w, r)
	if code != http.StatusOK {
		return
	}
	faults, err := parseFaults(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	for _, f := range faults {
		s.faultID++
		s.faults = append(s.faults, activeFault{s.faultID, f})
	}
	s.faultsChanged()
	s.mu.Unlock()
	s.listFaults(w, r)
}

func (s *Server) listFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	faults := make([]Fault, len(s.faults))
	for i, f := range s.faults {
		faults[i] = f.Fault
	}
	s.mu.Unlock()
	writeJSON(w, faults)
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	s.faults = nil
	s.faultsChanged()
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// removeFault removes one fault by the id that GET /console/faults gives.
func (s *Server) removeFault(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	s.mu.Lock()
	at := slices.IndexFunc(s.faults, func(f activeFault) bool { return f.id == id })
	if at >= 0 {
		s.faults = slices.Delete(s.faults, at, at+1)
		s.faultsChanged()
	}
	s.mu.Unlock()
	if at < 0 {
		http.Error(w, fmt.Sprintf("no fault %q: it was removed, or its count of requests is used up", r.PathValue("id")), http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// faultsChanged notifies the consoles. The caller holds the lock.
func (s *Server) faultsChanged() {
	s.changes++
	s.notify()
}
