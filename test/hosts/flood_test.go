package hosts

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/test/board"
)

// flood returns readings that a sender may invent: series, devices, units, flags, finished slots and long texts. None belongs
// to the plant, except readings of one parameter with an unknown unit or flag.
func flood(n int) (list []reading) {
	long := strings.Repeat("x", 10<<20)
	now := time.Now()
	for i, r := range []reading{
		{name: "cod", device: long, unit: "mg/L"}, {name: "bod", device: "plant", unit: long}, {name: "bod", device: "plant", unit: "mg/L", flag: long},
		{name: long, device: "plant", unit: "mg/L", tags: map[string]string{"ocems.samples": "1"}}, {name: "cod", device: long, tags: map[string]string{"ocems.samples": "1"}},
		{name: "analyser.tss", tags: map[string]string{"host": long}}, {name: "analyser.tss", tags: map[string]string{long: "x"}},
	} {
		r.value, r.at = 1, base.Add(time.Minute+time.Duration(i)*time.Second)
		list = append(list, r)
	}
	for i := range n {
		id := fmt.Sprint(i)
		list = append(list,
			reading{name: "series" + id + ".value", value: 1, at: now},
			reading{name: "cod", value: 1, at: now, unit: "mg/L", device: "device-" + id},
			reading{name: "cod", value: 1, at: base, unit: "mg/L", device: "device-" + id, tags: map[string]string{"ocems.samples": "1"}},
			reading{name: "key" + id, value: 1, at: base, unit: "mg/L", device: "plant", tags: map[string]string{"ocems.samples": "1"}},
			reading{name: "bod", value: 1, at: base, unit: "unit-" + id, device: "plant"},
			reading{name: "bod", value: 1, at: base, unit: "mg/L", flag: "flag-" + id, device: "plant"},
			reading{name: "analyser.tss", value: 1, at: base.Add(time.Duration(i) * time.Millisecond), tags: map[string]string{"host": "host-" + id}})
	}
	return list
}

// TestFlood sends 100,000 foreign readings of every kind through every host. Memory, state, trail and log do not grow with
// them. A parameter of the plant that reports for the first time after them is delivered.
func TestFlood(t *testing.T) {
	const n, each = 100_000 / 5, 10_000
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			p := plant{devices: []device{{id: "plant", parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}, {name: "analyser.tss", unit: "mg/L"}}}}}
			b := board.New(t, p.stations()...)
			at := newPlace(t, b.URL, b.PublicKey)
			h := newAdapter(t, at, start(p, at))
			before := heap()
			all := flood(n)
			for len(all) > 0 {
				m := min(each, len(all))
				h.send(all[:m])
				all = all[m:]
			}
			grown := heap() - before
			t.Logf("%d MB more in use", grown>>20)
			assert.Less(t, grown, 16<<20, "bytes in use")
			h.send([]reading{{name: "analyser.cod", value: 5, at: base}})
			board.Until(t, "the plant's reading arrives", func() bool {
				return contains(received(b), want{device: "plant", parameter: "cod", stamp: base.Add(15 * time.Minute), value: 5, unit: "mg/L", flag: "U"}.String())
			})
			h.stop()
			counts := map[string]int{}
			for _, e := range readTrail(t, at.trail()) {
				counts[e.Reason] += e.Count
			}
			assert.GreaterOrEqual(t, counts["unit"], n)
			assert.GreaterOrEqual(t, counts["bad_flag"], n)
			if name == "exporter" {
				assert.Equal(t, 2*n+2, counts["unknown"])
			}
			info, err := os.Stat(at.trail())
			require.NoError(t, err)
			assert.Less(t, info.Size(), int64(2<<20), "the trail")
			assert.Less(t, len(h.log()), 2<<20, "the log")
		})
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// In TestEcho the board repeats the token wherever it can. The token is in no log and in no trail.
func TestEcho(t *testing.T) {
	answers := []func(w http.ResponseWriter, r *http.Request){
		func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"status":0,"msg":"unknown token %s"}`, token)
		},
		func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/login?token="+strings.ToUpper(token), http.StatusFound)
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "<html>%s %%38%s</html>", strings.Repeat("x", 100), token[1:])
		},
		func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"status":0,"msg":"failed for \u0038%s"}`, token[1:])
		},
	}
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				answers[int(n.Add(1))%len(answers)](w, r)
			}))
			defer server.Close()
			p := plant{devices: []device{{id: "plant", parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}}}}}
			at := newPlace(t, server.URL, board.New(t, p.stations()...).PublicKey)
			h := newAdapter(t, at, start(p, at))
			h.send(each(0, 1, 2))
			board.Until(t, "each answer was given twice", func() bool { return int(n.Load()) > 2*len(answers) })
			h.stop()
			trail, err := os.ReadFile(at.trail())
			require.NoError(t, err)
			said := strings.ToLower(h.log() + string(trail))
			assert.Contains(t, said, "(the token)")
			assert.NotContains(t, said, token[1:])
		})
	}
}
