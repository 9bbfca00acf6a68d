package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	requestsKept = 1000     // requests in the log
	payloadKept  = 32 << 10 // bytes of a decrypted body in the log; a slot of 100 readings has 12 KB
	textKept     = 100      // bytes of a name or value from a sender
)

// Request is one request to the API, for the console.
type Request struct {
	ID       int64  `json:"id"`       // counts from 1
	Time     int64  `json:"time"`     // of the answer, milliseconds since the Unix epoch
	Station  string `json:"station"`  // of the registry
	Device   string `json:"device"`   // X-Device-Id, truncated if it is not in the registry
	HTTP     int    `json:"http"`     // HTTP status; 0 if no answer was sent
	Status   *int   `json:"status"`   // in the answer's body; null if it has none
	Meaning  string `json:"meaning"`  // of the status, by annexe 3.3
	Reason   string `json:"reason"`   // what was wrong, and the fault that applied
	Stored   bool   `json:"stored"`   // its readings were stored by this request
	Readings int    `json:"readings"` // in its body
	First    int64  `json:"first"`    // first slot of its readings, milliseconds since the Unix epoch; 0 without readings
	Last     int64  `json:"last"`
	Payload  string `json:"payload,omitempty"` // the decrypted body without the device's token, in GET /console/requests/{id}
	Cut      bool   `json:"cut,omitempty"`     // Payload is the beginning of a larger one
}

// requestLog keeps the newest requests.
type requestLog struct {
	ring []Request
	last int64 // ID of the newest
}

func (l *requestLog) add(r Request) int64 {
	l.last++
	r.ID = l.last
	if len(l.ring) < requestsKept {
		l.ring = append(l.ring, r)
	} else {
		l.ring[(r.ID-1)%requestsKept] = r
	}
	return r.ID
}

func (l *requestLog) find(id int64) (Request, bool) {
	if id <= l.last-requestsKept || id < 1 || id > l.last {
		return Request{}, false
	}
	return l.ring[(id-1)%requestsKept], true
}

// after returns the requests in the log after the ID, oldest first, without their payload.
func (l *requestLog) after(id int64) []Request {
	out := []Request{}
	for id = max(id, l.last-requestsKept, 0) + 1; id <= l.last; id++ {
		r, _ := l.find(id)
		r.Payload, r.Cut = "", false
		out = append(out, r)
	}
	return out
}

// record adds a request and its answer to the log, and notifies the consoles.
func (s *Server) record(id string, opened sealed, r Request) {
	points := opened.points()
	r.Time = s.config.Now().UnixMilli()
	r.Device = short(s.hide(id, nil))
	r.Reason = s.hide(r.Reason, opened.device)
	r.Readings = len(points)
	if d := s.devices[id]; d != nil {
		r.Station, r.Device = d.station, d.id
	}
	r.Payload = s.hide(string(opened.text), opened.device)
	if r.Cut = len(r.Payload) > payloadKept; r.Cut {
		r.Payload = strings.Clone(strings.ToValidUTF8(r.Payload[:payloadKept], ""))
	}
	for _, p := range points {
		if slot := p.slot(); p.stampErr == nil {
			if r.First == 0 || slot < r.First {
				r.First = slot
			}
			r.Last = max(r.Last, slot)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ID = s.log.add(r)
	if d := opened.device; d != nil {
		stored := len(points) > 0 // 111 may also mean a stamp off the grid, or a partly stored request
		for _, p := range points {
			stored = stored && p.stampErr == nil && s.stored[d.key(p)]
			if p.stampErr == nil {
				s.settle(d, p, r)
			}
		}
		d.last, d.lastStored = r.Time, r.Stored || stored && r.Status != nil && *r.Status == int(spec.StatusNotSlot)
	}
	s.notify()
}

// slot is the stamp of the reading's slot: its own, or for a calibration point the next end.
func (p *point) slot() int64 { return slotOf(p.stamp.UnixMilli()) }

func slotOf(ms int64) int64 {
	n := spec.SlotLength.Milliseconds()
	return ms + ((-ms%n)+n)%n
}

const hidden = "(a token)"

// hide removes tokens from a sender's text: the device's own anywhere, any other if it is a whole name or JSON string. A
// logger with mixed-up columns may send its token as an identifier.
func (s *Server) hide(text string, d *device) string {
	if s.tokens[strings.TrimSpace(text)] {
		return hidden
	}
	if d != nil && strings.Contains(text, d.token) {
		text = strings.ReplaceAll(text, d.token, hidden)
	}
	var out strings.Builder
	for {
		begin := strings.IndexByte(text, '"')
		end := endOfString(text, begin+1)
		if begin < 0 || end < 0 {
			out.WriteString(text)
			return out.String()
		}
		plain := text[begin+1 : end]
		if strings.Contains(plain, `\`) {
			_ = json.Unmarshal([]byte(text[begin:end+1]), &plain)
		}
		out.WriteString(text[:begin+1])
		if s.tokens[strings.TrimSpace(plain)] || d != nil && strings.Contains(plain, d.token) {
			out.WriteString(hidden)
		} else {
			out.WriteString(text[begin+1 : end])
		}
		out.WriteByte('"')
		text = text[end+1:]
	}
}

// endOfString finds the quote that ends a JSON string, or -1.
func endOfString(text string, from int) int {
	for i := from; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// short truncates a text from a sender.
func short(text string) string {
	if len(text) > textKept {
		return strings.ToValidUTF8(text[:textKept], "") + "..."
	}
	return text
}

func (s *Server) listRequests(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	list := s.log.after(0)
	s.mu.Unlock()
	writeJSON(w, list)
}

func (s *Server) showRequest(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	s.mu.Lock()
	found, ok := s.log.find(id)
	s.mu.Unlock()
	if !ok {
		http.Error(w, fmt.Sprintf("request %q is not among the newest %d", short(r.PathValue("id")), requestsKept), http.StatusNotFound)
		return
	}
	found.Payload = lay(found.Payload)
	writeJSON(w, found)
}

var (
	leaf = regexp.MustCompile(`\{\n[^{}\[\]]*\n *\}`)
	rest = regexp.MustCompile(`\n *`)
)

// lay formats JSON with one line for each reading. Numbers and order stay as sent.
func lay(text string) string {
	var indented bytes.Buffer
	if json.Indent(&indented, []byte(text), "", "  ") != nil {
		return text
	}
	return strings.TrimSpace(leaf.ReplaceAllStringFunc(indented.String(), func(object string) string { return rest.ReplaceAllString(object, " ") }))
}
