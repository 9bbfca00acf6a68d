// Package operator is the operator's page. It shows in one colour and one sentence whether the hosts of a plant report, and for
// each device its parameters and the outcome of each slot of the last 8 days. It reads the hosts' status files and audit trails,
// and changes nothing.
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

// Source is the status file of a host. Without a Path the host keeps its state in memory and writes no status.
type Source struct{ Name, Path string }

// Config configures a page.
type Config struct {
	Sources  func() ([]Source, error) // called again every minute
	Now      func() time.Time         // nil: the machine's clock
	Hosts    []string                 // names under which a browser may open the page, in addition to addresses and names without a dot
	Password string                   // "": no password
}

// New makes the handler of the page, at /, and of its data in JSON. The error is that of Sources.
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

// wrongPause is the delay of each wrong password; they wait one after another.
const wrongPause = time.Second

// login asks for the password. Any user name is accepted.
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
		http.Error(w, "the password is in the file of --password-file; any user name is accepted", http.StatusUnauthorized)
	})
}

// perPage is the number of devices in one answer.
const perPage = 20

// status answers with the hosts, and the devices of one page.
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
			http.Error(w, fmt.Sprintf("page: %.20q is not a page number: nearest 1", text), http.StatusBadRequest)
			return
		}
	}
	writeJSON(w, all.page(r.URL.Query().Get("find"), n, now))
}

var errDevice = errors.New("host, device: no host has this device")

// device finds the device of ?host= and ?device=.
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

// history answers with the days of a device, or of one parameter with ?parameter= and &diagnostic=true.
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

// slot answers with the outcome of one slot.
func (p *page) slot(w http.ResponseWriter, r *http.Request) {
	d, err := p.device(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	stamp, err := strconv.ParseInt(r.URL.Query().Get("stamp"), 10, 64)
	if err != nil {
		http.Error(w, "stamp: give a time in milliseconds since the Unix epoch", http.StatusBadRequest)
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
