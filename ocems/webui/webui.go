// Package webui has what the pages of this project share, the console of the simulated board and the operator's page: the
// colours and the drawing of a calendar of slots, and what keeps other sites from a page. A page asks no other host for
// anything.
package webui

import (
	"embed"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

//go:embed assets
var assets embed.FS

// Shared serves /webui/webui.css, /webui/webui.js and /webui/icon.svg.
func Shared(mux *http.ServeMux) {
	for _, name := range []string{"webui.css", "webui.js", "icon.svg"} {
		mux.HandleFunc("GET /webui/"+name, Headers(Asset(assets, "assets/"+name)))
	}
}

var kinds = map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// Asset answers with an embedded file.
func Asset(from fs.FS, name string) http.HandlerFunc {
	text, err := fs.ReadFile(from, name)
	if err != nil {
		panic(err) // it is embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kinds[path.Ext(name)])
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text)
	}
}

// Headers lets a page ask its own host only, and keeps nothing of it in the browser.
func Headers(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next(w, r)
	}
}

// Guard refuses what a page of another site could bring a browser to ask for: under a name of that site which its DNS has
// turned to this address, or with that site as the origin. Allowed are hosts, addresses and names without a dot.
func Guard(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, err := url.Parse(r.Header.Get("Origin"))
		switch {
		case !named(r.Host, hosts):
			http.Error(w, fmt.Sprintf("the host %.100q is not known here: use an address or localhost, or start the program with --hosts", r.Host), http.StatusForbidden)
		case err != nil || r.Header.Get("Origin") != "" && origin.Host != r.Host:
			http.Error(w, "the request comes from a page of another site", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// named reports that a Host header cannot be the name of a public site: those have a dot.
func named(host string, hosts []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil || slices.Contains(hosts, host)
}
