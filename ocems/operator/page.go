// Package operator is the operator's own page: whether the hosts of a plant report, in one colour and one sentence, and of each
// device what its parameters are doing and what became of its slots of the last 7 days. It reads what hosts write beside their
// state and their audit trails, and touches neither.
package operator

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/webui"
)

//go:embed page
var assets embed.FS

// Source is where a host writes its status. Without a Path it keeps its state in memory, and nothing is known of it.
type Source struct{ Name, Path string }

// Config is what a page shows, and to whom.
type Config struct {
	Sources  func() ([]Source, error) // is asked again each minute
	Now      func() time.Time         // nil: the machine's clock
	Hosts    []string                 // names under which a browser may open the page, besides addresses and names without a dot
	Password string                   // "": none is asked for
}

// New makes the page, at /, and its data in JSON. The error is that of the sources.
func New(c Config) (http.Handler, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	p := &page{config: c, hosts: hosts{find: c.Sources}, trails: trails{known: map[trailKey]*history{}}}
	if _, err := p.hosts.read(c.Now()); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for pattern, handle := range map[string]http.HandlerFunc{
		"GET /{$}":          webui.Asset(assets, "page/index.html"),
		"GET /page.css":     webui.Asset(assets, "page/page.css"),
		"GET /page.js":      webui.Asset(assets, "page/page.js"),
		"GET /status.json":  p.status,
		"GET /history.json": p.history,
		"GET /slot.json":    p.slot,
	} {
		mux.HandleFunc(pattern, webui.Headers(handle))
	}
	webui.Shared(mux)
	return webui.Guard(c.Hosts, p.login(mux)), nil
}

type page struct {
	config Config
	hosts  hosts
	trails trails
	wrong  sync.Mutex
}

// wrongPause is how long a wrong password takes, one after the other.
const wrongPause = time.Second

// login asks for the password. The user's name is of no matter.
func (p *page) login(next http.Handler) http.Handler {
	if p.config.Password == "" {
		return next
	}
	want := sha256.Sum256([]byte(p.config.Password))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, given := r.BasicAuth()
		got := sha256.Sum256([]byte(password))
		if given && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			next.ServeHTTP(w, r)
			return
		}
		if given {
			p.wrong.Lock()
			defer p.wrong.Unlock()
			select {
			case <-time.After(wrongPause):
			case <-r.Context().Done():
			}
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="ocems", charset="UTF-8"`)
		http.Error(w, "the password is that of --password-file; any user name will do", http.StatusUnauthorized)
	})
}

// perPage is how many devices one answer has.
const perPage = 20

// status answers with what is known of the hosts, and of the devices of one page.
func (p *page) status(w http.ResponseWriter, r *http.Request) {
	now := p.config.Now()
	all, err := p.hosts.read(now)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n := 1
	if text := r.URL.Query().Get("page"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("page: %.20q is no number of a page: nearest 1", text), http.StatusBadRequest)
			return
		}
	}
	writeJSON(w, all.page(r.URL.Query().Get("find"), n, now))
}

var errDevice = errors.New("host, device: there is no such device")

// device is that of ?host= and ?device=.
func (p *page) device(r *http.Request) (*known, error) {
	all, err := p.hosts.read(p.config.Now())
	if err != nil {
		return nil, err
	}
	host, err := strconv.Atoi(r.URL.Query().Get("host"))
	if err != nil {
		host = 0
	}
	d := all.devices[deviceKey{host, r.URL.Query().Get("device")}]
	if d == nil {
		return nil, errDevice
	}
	return d, nil
}

// history answers with the days of a device, or of one parameter of it with ?parameter= and &diagnostic=true.
func (p *page) history(w http.ResponseWriter, r *http.Request) {
	d, err := p.device(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	now := p.config.Now()
	h, err := p.trails.of(d, now)
	shown := d.Parameters
	if key := r.URL.Query().Get("parameter"); key != "" {
		shown = slices.DeleteFunc(slices.Clone(shown), func(p status.Parameter) bool {
			return p.Parameter != key || fmt.Sprint(p.Diagnostic) != cmp.Or(r.URL.Query().Get("diagnostic"), "false")
		})
	}
	writeJSON(w, h.days(d, shown, now, err))
}

// slot answers with what became of one slot.
func (p *page) slot(w http.ResponseWriter, r *http.Request) {
	d, err := p.device(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	stamp, err := strconv.ParseInt(r.URL.Query().Get("stamp"), 10, 64)
	if err != nil {
		http.Error(w, "stamp: it is a time in milliseconds since the Unix epoch", http.StatusBadRequest)
		return
	}
	now := p.config.Now()
	h, err := p.trails.of(d, now)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	writeJSON(w, h.slotOf(d, stamp, now))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
