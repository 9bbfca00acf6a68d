// Package webui is shared by the pages of this project, the console of the simulated board and the operator's page: colours,
// the calendar of slots, and the protection from other sites. A page requests nothing from another host.
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
		panic(err) // impossible: it is embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kinds[path.Ext(name)])
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text)
	}
}

// Headers limits a page to requests to its own host, and keeps the browser from storing it.
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

// Guard refuses requests that a page of another site makes in a browser: those with that site as the origin, and those under
// a name of that site whose DNS points here (DNS rebinding). It allows hosts, addresses and names without a dot.
func Guard(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, err := url.Parse(r.Header.Get("Origin"))
		switch {
		case !named(r.Host, hosts):
			http.Error(w, fmt.Sprintf("the host name %.100q is not allowed: use an address or localhost, or start the program with --hosts", r.Host), http.StatusForbidden)
		case err != nil || r.Header.Get("Origin") != "" && origin.Host != r.Host:
			http.Error(w, "the request comes from a page of another site", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// named reports whether a Host header is allowed. Names of public sites have a dot.
func named(host string, hosts []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil || slices.Contains(hosts, host)
}
