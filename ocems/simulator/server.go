package simulator

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

const bodyLimit = 1 << 20 // bytes of a request; more is HTTP 413

// What makes a reading a duplicate of a stored one. The document does not say which the board uses.
const (
	DuplicatesByParameter = "parameter" // the same device, parameter and stamp
	DuplicatesBySlot      = "slot"      // the same device and stamp, stored by an earlier request
)

// Config is what a Server needs to know.
type Config struct {
	PrivateKey *rsa.PrivateKey  // the industry's; nil answers 115
	Registry   *Registry        // required
	Now        func() time.Time // nil is time.Now
	Duplicates string           // DuplicatesByParameter when empty
	Logger     *slog.Logger     // nil logs nothing; tokens and payloads are never logged
}

// Server is a CPCB server. It is safe for concurrent use.
type Server struct {
	config   Config
	devices  map[string]*device
	stations map[string]bool
	mux      *http.ServeMux

	mu       sync.Mutex
	faults   []Fault
	readings []Reading // in the order of arrival
	stored   map[storedKey]bool
	counts   map[string]counts // by registered device, "" for all others
}

type storedKey struct {
	device, parameter string // parameter is empty when slots are unique
	diagnostic        bool
	stamp             int64
	point             bool // of a calibration
}

type counts struct{ accepted, rejected, duplicates, requests int }

// New makes a server. Errors name the key of the Config or of the Registry that is wrong.
func New(config Config) (*Server, error) {
	if config.Registry == nil {
		return nil, errors.New("making a simulator: registry: missing")
	}
	devices, err := config.Registry.index()
	if err != nil {
		return nil, fmt.Errorf("making a simulator: registry: %w", err)
	}
	switch config.Duplicates {
	case "":
		config.Duplicates = DuplicatesByParameter
	case DuplicatesByParameter, DuplicatesBySlot:
	default:
		return nil, fmt.Errorf("making a simulator: duplicates: %q is unknown: nearest %s", config.Duplicates,
			strings.Join(spec.Nearest(config.Duplicates, []string{DuplicatesByParameter, DuplicatesBySlot}), ", "))
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: config, devices: devices, stations: map[string]bool{}, mux: http.NewServeMux(),
		stored: map[storedKey]bool{}, counts: map[string]counts{}}
	for _, d := range devices {
		s.stations[d.station] = true
	}
	s.mux.HandleFunc("POST /v1.0/industry/data", s.take)
	s.mux.HandleFunc("GET /received", s.received)
	s.mux.HandleFunc("POST /faults", s.addFaults)
	s.mux.HandleFunc("GET /faults", s.listFaults)
	s.mux.HandleFunc("DELETE /faults", s.clearFaults)
	return s, nil
}

// ServeHTTP answers a request. The Date header is always the simulator's clock.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setDate(w, s.config.Now())
	s.mux.ServeHTTP(w, r)
}

func setDate(w http.ResponseWriter, t time.Time) {
	w.Header().Set("Date", t.UTC().Format(http.TimeFormat))
}

// take is the API of spec 2.
func (s *Server) take(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	id := strings.TrimSpace(r.Header.Get("X-Device-Id"))
	if !ok {
		s.count(id, func(c *counts) { c.rejected++ })
		return
	}
	s.mu.Lock()
	fault := s.takeFault(id)
	s.mu.Unlock()
	judged := spec.StatusFailed
	if fault.AfterStore {
		judged = s.judge(r.Header, id, body, fault)
	}
	if !wait(r, time.Duration(fault.Latency)) {
		if !fault.AfterStore {
			s.count(id, func(c *counts) { c.rejected++ })
		}
		panic(http.ErrAbortHandler)
	}
	setDate(w, s.config.Now().Add(time.Duration(fault.ClockOffset)))
	switch {
	case fault.AfterStore:
	case fault.Close, fault.HTTPStatus != 0, fault.Status != nil, fault.HTML:
		s.countAnswer(id, fault)
	default: // half of the judged answer, or all of it
		judged = s.judge(r.Header, id, body, fault)
	}
	fault.write(w, judged)
}

// judge makes every check of a request, stores its readings when all pass, and counts it.
func (s *Server) judge(h http.Header, id string, body []byte, fault Fault) spec.Status {
	now := s.config.Now()
	var readings []Reading
	d, status := authenticate(h, s.config.PrivateKey, s.devices)
	if status == spec.StatusSuccess {
		readings, status = d.read(body, s.stations, now.Add(time.Duration(fault.ClockOffset)))
	}
	if status == spec.StatusSuccess {
		status = s.store(readings, now)
	}
	s.count(id, func(c *counts) {
		switch status {
		case spec.StatusSuccess:
			c.accepted += len(readings)
		case spec.StatusNotSlot:
			c.duplicates++
		default:
			c.rejected++
		}
	})
	s.config.Logger.Info("request", "device", id, "status", int(status), "readings", len(readings))
	return status
}

// store keeps all the readings of a request, or none when one of them is stored already or is there twice.
func (s *Server) store(readings []Reading, now time.Time) spec.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	inRequest := map[storedKey]bool{}
	keys := make([]storedKey, len(readings))
	for i, r := range readings {
		// A calibration point is no average: the two may end at the same time.
		point := len(r.Flag) == 1 && spec.Flag(r.Flag[0]).Calibration()
		one := storedKey{r.Device, r.Parameter, r.Diagnostic, r.Timestamp, point}
		keys[i] = one
		if s.config.Duplicates == DuplicatesBySlot {
			keys[i] = storedKey{device: r.Device, stamp: r.Timestamp, point: point}
		}
		if inRequest[one] || s.stored[keys[i]] {
			return spec.StatusNotSlot
		}
		inRequest[one] = true
	}
	for i := range readings {
		readings[i].ReceivedAt = now.UnixMilli()
		s.stored[keys[i]] = true
	}
	s.readings = append(s.readings, readings...)
	return spec.StatusSuccess
}

// count counts one request of a device.
func (s *Server) count(id string, change func(*counts)) {
	if s.devices[id] == nil {
		id = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[id]
	c.requests++
	change(&c)
	s.counts[id] = c
}

// countAnswer counts a request that a fault answered without a look at it.
func (s *Server) countAnswer(id string, f Fault) {
	s.count(id, func(c *counts) {
		switch {
		case f.Status == nil || f.Close || f.HTML || *f.Status != spec.StatusSuccess && *f.Status != spec.StatusNotSlot:
			c.rejected++
		case *f.Status == spec.StatusNotSlot:
			c.duplicates++
		}
	})
	s.config.Logger.Info("request", "device", id, "fault", true)
}

// wait waits for d, and reports false when the client has gone before.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// readBody reads a whole request. It answers 413 to one above the limit, and nothing when the client breaks off.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		http.Error(w, fmt.Sprintf("the body is larger than %d bytes", bodyLimit), http.StatusRequestEntityTooLarge)
	} else if err != nil {
		http.Error(w, "the body ended early", http.StatusBadRequest)
	}
	return body, err == nil
}

// Received is the answer of GET /received. The counts are of the device asked for, or of all; `parameter` and `since`
// choose among the readings alone.
type Received struct {
	Accepted   int       `json:"accepted"`   // readings
	Rejected   int       `json:"rejected"`   // requests answered other than 1 and 111
	Duplicates int       `json:"duplicates"` // requests answered 111
	Requests   int       `json:"requests"`
	Readings   []Reading `json:"readings"` // in the order of arrival
}

func (s *Server) received(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	for key := range query {
		if key != "device" && key != "parameter" && key != "since" {
			http.Error(w, fmt.Sprintf("unknown key %q: nearest %s", key,
				strings.Join(spec.Nearest(key, []string{"device", "parameter", "since"}), ", ")), http.StatusBadRequest)
			return
		}
	}
	var since int64
	if text := query.Get("since"); text != "" {
		var err error
		if since, err = strconv.ParseInt(text, 10, 64); err != nil {
			http.Error(w, fmt.Sprintf("since: %q is not a whole number of milliseconds since the Unix epoch", text), http.StatusBadRequest)
			return
		}
	}
	device, parameter := query.Get("device"), query.Get("parameter")
	out := Received{Readings: []Reading{}}
	s.mu.Lock()
	for id, c := range s.counts {
		if device == "" || id == device {
			out.Accepted += c.accepted
			out.Rejected += c.rejected
			out.Duplicates += c.duplicates
			out.Requests += c.requests
		}
	}
	for _, one := range s.readings {
		if (device == "" || one.Device == device) && (parameter == "" || one.Parameter == parameter) && one.ReceivedAt >= since {
			out.Readings = append(out.Readings, one)
		}
	}
	s.mu.Unlock()
	writeJSON(w, out)
}

func (s *Server) addFaults(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	faults, err := parseFaults(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.faults = append(s.faults, faults...)
	s.mu.Unlock()
	s.listFaults(w, r)
}

func (s *Server) listFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	faults := append([]Fault{}, s.faults...)
	s.mu.Unlock()
	writeJSON(w, faults)
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	s.faults = nil
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
