package simulator

import (
	"cmp"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/webui"
)

const (
	apiPath   = "/v1.0/industry/data"
	bodyLimit = 1 << 20 // bytes of a request; more is HTTP 413
)

// What makes a reading a duplicate of a stored one. The specification does not say which of the two the board uses.
const (
	DuplicatesByParameter = "parameter" // the same device, parameter and stamp
	DuplicatesBySlot      = "slot"      // the same device and stamp, stored by an earlier request
)

// Config configures a Server.
type Config struct {
	PrivateKey *rsa.PrivateKey  // the industry's; nil answers 115
	Registry   *Registry        // required
	Now        func() time.Time // nil is time.Now
	Duplicates string           // DuplicatesByParameter when empty
	Keep       time.Duration    // how long a reading is kept after its stamp, at least spec.MaxAge; 0 keeps all
	Logger     *slog.Logger     // nil logs nothing; tokens and payloads are never logged
	// Hosts are allowed host names outside the API, in addition to addresses and names without a dot.
	Hosts []string
}

// Server is a CPCB server. It is safe for concurrent use.
type Server struct {
	config   Config
	devices  map[string]*device
	listed   []*device // by station and id
	tokens   map[string]bool
	stations map[string]bool
	handler  http.Handler
	closed   chan struct{}
	close    sync.Once

	mu       sync.Mutex
	faults   []activeFault
	faultID  int64     // of the newest
	readings []Reading // in order of arrival
	stored   map[storedKey]bool
	pruned   time.Time         // when old readings were last removed
	counts   map[string]counts // by registered device, "" for all others
	total    counts
	log      requestLog
	refused  refusals
	changed  chan struct{} // closed at the next change that the console shows
	changes  int           // of the faults
	streams  int
}

type storedKey struct {
	device, parameter string // parameter is empty for the whole slot, with DuplicatesBySlot
	diagnostic        bool
	stamp             int64
	point             bool // of a calibration
}

type counts struct{ accepted, rejected, duplicates, requests int }

// New makes a server. Errors name the wrong key of the Config or the Registry.
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
	if config.Keep != 0 && config.Keep < spec.MaxAge {
		return nil, fmt.Errorf("making a simulator: keep: %s is less than the %s for which the board accepts readings: nearest %s", config.Keep, spec.MaxAge, spec.MaxAge)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: config, devices: devices, tokens: map[string]bool{}, stations: map[string]bool{}, closed: make(chan struct{}),
		stored: map[storedKey]bool{}, counts: map[string]counts{}, changed: make(chan struct{})}
	for _, d := range devices {
		s.listed = append(s.listed, d)
		s.tokens[d.token] = true
		s.stations[d.station] = true
	}
	slices.SortFunc(s.listed, func(a, b *device) int { return cmp.Or(cmp.Compare(a.station, b.station), cmp.Compare(a.id, b.id)) })
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+apiPath, s.take)
	mux.HandleFunc("GET /received", s.received)
	mux.HandleFunc("POST /faults", s.addFaults)
	mux.HandleFunc("GET /faults", s.listFaults)
	mux.HandleFunc("DELETE /faults", s.clearFaults)
	mux.HandleFunc("DELETE /faults/{id}", s.removeFault)
	s.console(mux)
	// A page of another site may not send requests or set faults. Programs other than browsers pass.
	s.handler = http.NewCrossOriginProtection().Handler(s.guard(mux))
	return s, nil
}

// guard guards all but the API.
func (s *Server) guard(next http.Handler) http.Handler {
	guarded := webui.Guard(s.config.Hosts, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == apiPath {
			next.ServeHTTP(w, r)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// Close ends the event streams, which would otherwise last as long as their browsers. All else continues.
func (s *Server) Close() { s.close.Do(func() { close(s.closed) }) }

// ServeHTTP answers a request. The Date header is the simulator's clock.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setDate(w, s.config.Now())
	s.handler.ServeHTTP(w, r)
}

func setDate(w http.ResponseWriter, t time.Time) {
	w.Header().Set("Date", t.UTC().Format(http.TimeFormat))
}

// take is the API of spec 2.
func (s *Server) take(w http.ResponseWriter, r *http.Request) {
	body, code := readBody(w, r)
	id := strings.TrimSpace(r.Header.Get("X-Device-Id"))
	if code != http.StatusOK {
		s.count(id, func(c *counts) { c.rejected++ })
		s.record(id, sealed{}, Request{HTTP: code, Reason: "the request's body could not be read"})
		return
	}
	opened := s.open(id, body)
	s.mu.Lock()
	fault := s.takeFault(id)
	s.mu.Unlock()
	var verdict verdict
	if fault.AfterStore {
		verdict = s.judge(r.Header, id, opened, fault)
	}
	if !wait(r, time.Duration(fault.Latency)) {
		if !fault.AfterStore {
			s.count(id, func(c *counts) { c.rejected++ })
		}
		s.record(id, opened, Request{Stored: verdict.stored, Reason: "the sender left before the answer; fault: " + fault.String()})
		panic(http.ErrAbortHandler)
	}
	setDate(w, s.config.Now().Add(time.Duration(fault.ClockOffset)))
	switch {
	case fault.AfterStore:
	case fault.Close, fault.HTTPStatus != 0, fault.Status != nil, fault.HTML:
		s.countAnswer(id, fault)
	default: // half of the judged answer, or all of it
		verdict = s.judge(r.Header, id, opened, fault)
	}
	s.record(id, opened, fault.request(verdict))
	fault.write(w, verdict.status)
}

// verdict is what the checks make of a request. The zero value is of one that was not looked at.
type verdict struct {
	status spec.Status
	reason string // what was wrong with it
	stored bool
}

// judge makes every check of a request, stores its readings if all pass, and counts the request.
func (s *Server) judge(h http.Header, id string, opened sealed, fault Fault) verdict {
	now := s.config.Now()
	var readings []Reading
	d, status, reason := authenticate(h, s.config.PrivateKey, s.devices)
	if status == spec.StatusSuccess {
		readings, status, reason = d.read(opened, s.stations, now.Add(time.Duration(fault.ClockOffset)))
	}
	if status == spec.StatusSuccess {
		status, reason = s.store(d, readings, now)
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
	s.config.Logger.Info("request", "device", s.hide(id, nil), "status", int(status), "readings", len(readings))
	return verdict{status, reason, status == spec.StatusSuccess}
}

// store stores all readings of a request, or none if one of them is already stored or is in the request twice.
func (s *Server) store(d *device, readings []Reading, now time.Time) (spec.Status, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(now)
	inRequest := map[storedKey]bool{}
	keys := make([]storedKey, len(readings))
	for i, r := range readings {
		// A calibration point and an average may have the same stamp.
		one := r.key()
		keys[i] = one
		if s.config.Duplicates == DuplicatesBySlot {
			keys[i] = storedKey{device: r.Device, stamp: r.Timestamp, point: one.point}
		}
		switch {
		case inRequest[one]:
			return spec.StatusNotSlot, r.name() + " is in the request twice"
		case s.stored[keys[i]]:
			return spec.StatusNotSlot, r.name() + " is already stored"
		}
		inRequest[one] = true
	}
	for i := range readings {
		readings[i].ReceivedAt = now.UnixMilli()
		s.stored[keys[i]], s.stored[readings[i].key()] = true, true
		d.readings = append(d.readings, len(s.readings)+i)
	}
	s.readings = append(s.readings, readings...)
	return spec.StatusSuccess, ""
}

// prune removes readings older than Keep, so that a simulator may run for months. It does so once an hour. The caller holds
// the lock.
func (s *Server) prune(now time.Time) {
	if s.config.Keep == 0 || now.Sub(s.pruned) < time.Hour {
		return
	}
	s.pruned = now
	oldest := now.Add(-s.config.Keep).UnixMilli()
	kept := slices.DeleteFunc(s.readings, func(r Reading) bool { return r.Timestamp < oldest })
	if len(kept) == len(s.readings) {
		return
	}
	s.readings = slices.Clone(kept)
	maps.DeleteFunc(s.stored, func(k storedKey, _ bool) bool { return k.stamp < oldest })
	for _, d := range s.listed {
		d.readings = nil
	}
	for i, r := range s.readings {
		d := s.devices[r.Device]
		d.readings = append(d.readings, i)
	}
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
	s.total.requests++
	change(&c)
	change(&s.total)
	s.counts[id] = c
}

// countAnswer counts a request that a fault answered without checks.
func (s *Server) countAnswer(id string, f Fault) {
	s.count(id, func(c *counts) {
		switch {
		case f.Status == nil || f.Close || f.HTML || *f.Status != spec.StatusSuccess && *f.Status != spec.StatusNotSlot:
			c.rejected++
		case *f.Status == spec.StatusNotSlot:
			c.duplicates++
		}
	})
	s.config.Logger.Info("request", "device", s.hide(id, nil), "fault", true)
}

// wait waits for d, and reports false if the client disconnects before.
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

// readBody reads a whole request and returns HTTP 200. It answers 413 to a body above the limit, and 400 to an incomplete
// one.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, int) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		http.Error(w, fmt.Sprintf("the body is larger than %d bytes", bodyLimit), http.StatusRequestEntityTooLarge)
		return nil, http.StatusRequestEntityTooLarge
	} else if err != nil {
		http.Error(w, "the body ended early", http.StatusBadRequest)
		return nil, http.StatusBadRequest
	}
	return body, http.StatusOK
}

// Received is the answer of GET /received. The counts are of the requested device, or of all; `parameter` and `since` select
// readings only.
type Received struct {
	Accepted   int       `json:"accepted"`   // readings
	Rejected   int       `json:"rejected"`   // requests not answered 1 or 111
	Duplicates int       `json:"duplicates"` // requests answered 111
	Requests   int       `json:"requests"`
	Readings   []Reading `json:"readings"` // in order of arrival
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

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
