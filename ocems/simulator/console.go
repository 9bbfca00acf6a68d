package simulator

import (
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/webui"
)

const (
	devicesShown = 200                    // in a list; the search finds the others
	streamsOpen  = 64                     // event streams at the same time
	eventPause   = 250 * time.Millisecond // minimum between two events of a stream
	heartbeat    = 15 * time.Second
	writeTimeout = 10 * time.Second // for an event; after it the stream is closed
)

//go:embed console
var assets embed.FS

// console serves the page and its data. No answer has a token: see hide.
func (s *Server) console(mux *http.ServeMux) {
	for pattern, handle := range map[string]http.HandlerFunc{
		"GET /{$}":                   webui.Asset(assets, "console/index.html"),
		"GET /console/console.css":   webui.Asset(assets, "console/console.css"),
		"GET /console/console.js":    webui.Asset(assets, "console/console.js"),
		"GET /console/about":         s.about,
		"GET /console/devices":       s.listDevices,
		"GET /console/calendar":      s.calendar,
		"GET /console/requests":      s.listRequests,
		"GET /console/requests/{id}": s.showRequest,
		"GET /console/faults":        s.showFaults,
		"GET /console/events":        s.events,
	} {
		mux.HandleFunc(pattern, webui.Headers(handle))
	}
	webui.Shared(mux)
}

// about has what the page needs once.
func (s *Server) about(w http.ResponseWriter, _ *http.Request) {
	type status struct {
		Code    int    `json:"code"`
		Meaning string `json:"meaning"`
	}
	out := struct {
		Statuses     []status `json:"statuses"`
		RequestsKept int      `json:"requests_kept"`
	}{RequestsKept: requestsKept}
	for _, code := range spec.Statuses() {
		out.Statuses = append(out.Statuses, status{int(code), code.Description()})
	}
	writeJSON(w, out)
}

type deviceView struct {
	Station    string `json:"station"`
	Device     string `json:"device"`
	Requests   int    `json:"requests"`
	Accepted   int    `json:"accepted"`   // readings
	Rejected   int    `json:"rejected"`   // requests
	Duplicates int    `json:"duplicates"` // requests
	Last       int64  `json:"last"`       // time of the last request, milliseconds since the Unix epoch
	LastStored bool   `json:"last_stored"`
}

// listDevices answers with the first devices whose station or id contains ?search=, case-insensitively.
func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) {
	search := strings.ToLower(strings.TrimSpace(r.URL.Query().Get("search")))
	out := struct {
		Total   int          `json:"total"`
		Matched int          `json:"matched"`
		Devices []deviceView `json:"devices"`
	}{Total: len(s.listed), Devices: []deviceView{}}
	s.mu.Lock()
	for _, d := range s.listed {
		if !strings.Contains(strings.ToLower(d.station), search) && !strings.Contains(strings.ToLower(d.id), search) {
			continue
		}
		if out.Matched++; len(out.Devices) < devicesShown {
			c := s.counts[d.id]
			out.Devices = append(out.Devices, deviceView{d.station, d.id, c.requests, c.accepted, c.rejected, c.duplicates, d.last, d.lastStored})
		}
	}
	s.mu.Unlock()
	writeJSON(w, out)
}

type faultView struct {
	ID    int64  `json:"id"`
	About string `json:"about"`
	Fault Fault  `json:"fault"`
}

func (s *Server) faultViews() []faultView {
	out := make([]faultView, len(s.faults))
	for i, f := range s.faults {
		out[i] = faultView{f.id, f.String(), f.Fault}
		out[i].Fault.Device = short(s.hide(f.Device, nil))
	}
	return out
}

func (s *Server) showFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	list := s.faultViews()
	s.mu.Unlock()
	writeJSON(w, list)
}

// notify wakes the streams. The caller holds the lock.
func (s *Server) notify() {
	if s.streams > 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// update is an event: the changes since the stream's last event.
type update struct {
	Now      int64       `json:"now"` // the board's clock, milliseconds since the Unix epoch
	Requests []Request   `json:"requests"`
	Skipped  int64       `json:"skipped,omitempty"` // requests that left the log between two events
	Faults   []faultView `json:"faults"`            // all faults, or null if they have not changed
	Totals   totals      `json:"totals"`
}

type totals struct {
	Requests   int `json:"requests"`
	Accepted   int `json:"accepted"`
	Rejected   int `json:"rejected"`
	Duplicates int `json:"duplicates"`
}

// events is a stream of server-sent events. A stream has no queue: when its browser is ready it gets the new requests that
// the log still has. So a slow browser delays nothing and needs no memory.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	full := s.streams >= streamsOpen
	if !full {
		s.streams++
	}
	sent, changes := s.log.last, -1
	s.mu.Unlock()
	if full {
		http.Error(w, fmt.Sprintf("%d consoles are open, which is the maximum", streamsOpen), http.StatusServiceUnavailable)
		return
	}
	defer func() {
		s.mu.Lock()
		s.streams--
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		s.mu.Lock()
		changed := s.changed
		u := update{Now: s.config.Now().UnixMilli(), Requests: s.log.after(sent),
			Totals: totals{s.total.requests, s.total.accepted, s.total.rejected, s.total.duplicates}}
		u.Skipped = s.log.last - sent - int64(len(u.Requests))
		if changes != s.changes {
			u.Faults = s.faultViews()
		}
		sent, changes = s.log.last, s.changes
		s.mu.Unlock()
		text, _ := json.Marshal(u)
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := fmt.Fprintf(w, "retry: 2000\ndata: %s\n\n", text); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
		pause.Reset(eventPause)
		select {
		case <-pause.C:
		case <-r.Context().Done():
			return
		case <-s.closed:
			return
		}
		select {
		case <-changed:
		case <-beat.C:
		case <-r.Context().Done():
			return
		case <-s.closed:
			return
		}
	}
}
