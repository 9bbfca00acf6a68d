package hosts

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/test/board"
)

// oneBoard is the simulated board of two hosts. It is outside their bubble but uses the bubble's time. The first part of the
// path identifies the host.
type oneBoard struct {
	*simulator.Server
	t   *testing.T
	url string
	now atomic.Int64

	mu  sync.Mutex
	cut func(host string, now time.Time) bool // reports whether a host's requests do not reach the board
}

func newOneBoard(t *testing.T, duplicates string, p plant) *oneBoard {
	text, err := os.ReadFile("../../ocems/seal/testdata/industry_test_private.pem")
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	b := &oneBoard{t: t, cut: func(string, time.Time) bool { return false }}
	b.now.Store(bubble.UnixNano())
	b.Server, err = simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: p.stations()}, Duplicates: duplicates, Now: b.time})
	require.NoError(t, err)
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	t.Cleanup(b.Server.Close)
	b.url = server.URL
	return b
}

func (b *oneBoard) time() time.Time { return time.Unix(0, b.now.Load()) }

func (b *oneBoard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	r.URL.Path = "/" + path
	w.Header().Set("Connection", "close") // an idle connection would stop the bubble's time
	b.mu.Lock()
	cut := b.cut(host, b.time())
	b.mu.Unlock()
	if cut {
		w.Header()["Date"] = nil
		w.WriteHeader(http.StatusServiceUnavailable) // an answer of a proxy on the way
		return
	}
	b.Server.ServeHTTP(w, r)
}

func (b *oneBoard) cuts(cut func(host string, now time.Time) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = cut
}

// runs updates the board's clock from the bubble's time.
func (b *oneBoard) runs(t *testing.T) {
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			b.now.Store(time.Now().UnixNano())
			select {
			case <-done:
				return
			case <-time.After(time.Second):
			}
		}
	})
	t.Cleanup(func() { close(done); all.Wait() })
}

// values returns the readings at the board, such as "cod 15m0s 100".
func (b *oneBoard) values() (list []string) {
	for _, r := range board.Received(b.t, b.Server).Readings {
		list = append(list, strings.Join([]string{r.Parameter, time.UnixMilli(r.Timestamp).Sub(bubble).String(), r.Value.String()}, " "))
	}
	slices.Sort(list)
	return list
}

// twin is one of the two hosts.
type twin struct {
	*adapter
	name, kind string
	cod        float64 // the value that it reads; bod is 1000 more
	off        time.Duration
}

func (w *twin) restart(p plant) {
	w.start = adapters[w.kind](p, w.at)
	w.stop()
	w.life = w.start(w.adapter)
}

// status returns the content of the host's status file.
func (w *twin) status(t *testing.T) (*status.Host, status.Verdict) {
	files, err := status.Find(w.at.dir)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	h, err := status.Read(files[0])
	require.NoError(t, err)
	return h, h.JudgeAll(time.Now())
}

func (w *twin) report(t *testing.T, trails ...string) report.Device {
	b, err := report.New(report.Options{Now: time.Now()})
	require.NoError(t, err)
	var list [][]string
	for _, path := range trails {
		list = append(list, []string{path})
	}
	require.NoError(t, b.Add(list, nil))
	r, err := b.Report()
	require.NoError(t, err)
	require.Len(t, r.Devices, 1)
	return r.Devices[0]
}

func twins(t *testing.T, b *oneBoard, publicKey, main, spare string, plants ...plant) []*twin {
	list := []*twin{{name: "main", kind: main, cod: 100, off: 10 * time.Second}, {name: "spare", kind: spare, cod: 200, off: 40 * time.Second}}
	for i, w := range list {
		at := newPlace(t, b.url+"/"+w.name+board.Path, publicKey)
		w.adapter = newAdapter(t, at, adapters[w.kind](plants[i], at))
	}
	return list
}

// minute sends the readings of the hosts for one minute, each at its own second. Hosts in without have lost the link to the
// analyser of bod.
func minute(n int, list []*twin, without map[string]bool) {
	for _, w := range list {
		at := bubble.Add(time.Duration(n)*time.Minute + w.off)
		time.Sleep(time.Until(at))
		if w.life.send == nil { // the host is stopped
			continue
		}
		value := w.cod + float64(n/15)
		batch := []reading{{name: "plant.cod", value: value, at: at}}
		if !without[w.name] {
			batch = append(batch, reading{name: "plant.bod", value: value + 1000, at: at})
		}
		w.send(batch)
	}
}

func pairPlant(options map[string]any) plant {
	p := plant{options: map[string]any{"grace": "30s", "initial_backoff": "5s", "max_backoff": "30s"},
		devices: []device{{id: "outlet", parameters: []parameter{{name: "plant.cod", unit: "mg/L"}, {name: "plant.bod", unit: "mg/L"}}}}}
	maps.Copy(p.options, options)
	return p
}

// TestPair runs a main host and its spare for two hours. In slot 2 the main host lacks bod. In slots 3 and 4 it cannot reach the
// board. At minute 12 of slot 6 it is stopped for 10 minutes, as in a test of the spare.
func TestPair(t *testing.T) {
	key := newBoards(t).publicKey
	warmUp(t, key)
	for _, c := range []struct{ name, main, spare, duplicates string }{
		{"111 by parameter", "output", "exporter", simulator.DuplicatesByParameter},
		{"111 by slot", "exporter", "output", simulator.DuplicatesBySlot},
	} {
		t.Run(c.name, func(t *testing.T) {
			bySlot := c.duplicates == simulator.DuplicatesBySlot
			main, spare := pairPlant(map[string]any{"shared_device": true}), pairPlant(map[string]any{"shared_device": true, "delay": "5m"})
			b := newOneBoard(t, c.duplicates, main)
			synctest.Test(t, func(t *testing.T) {
				b.runs(t)
				pair := twins(t, b, key, c.main, c.spare, main, spare)
				for n := range 8*15 + 8 {
					switch n {
					case 46:
						b.cuts(func(host string, _ time.Time) bool { return host == "main" })
					case 81:
						b.cuts(func(string, time.Time) bool { return false })
					case 102:
						pair[0].stop()
					case 112:
						pair[0].restart(main)
					}
					minute(n, pair, map[string]bool{"main": n/15 == 2})
					if n > 2 {
						h, v := pair[1].status(t)
						assert.Equal(t, status.OK, v.Level, "the spare after %d minutes: %+v %+v", n, v, h.Devices)
						assert.Empty(t, h.Trouble)
						for _, p := range h.Devices[0].Parameters {
							if at := map[bool]string{true: "05:45 was at the board already", false: "06:30 delivered"}[n < 35]; n == 30 || n == 66 {
								assert.Equal(t, at, p.Verdict.Text)
							}
						}
					}
					if n > 2 && n < 45 || n > 82 && n < 102 || n > 121 {
						h, v := pair[0].status(t)
						assert.Equal(t, status.OK, v.Level, "the main after %d minutes: %+v %+v", n, v, h.Devices)
					}
				}

				want := []string{}
				for slot := range 8 {
					from := 100.0
					if slot == 3 || slot == 4 || slot == 6 {
						from = 200
					}
					at := bubble.Add(time.Duration(slot+1) * spec.SlotLength)
					want = append(want, "cod "+at.Sub(bubble).String()+" "+number(from+float64(slot)))
					switch {
					case slot == 2 && bySlot: // the first accepted request is the whole slot
					case slot == 2:
						want = append(want, "bod "+at.Sub(bubble).String()+" "+number(1202))
					default:
						want = append(want, "bod "+at.Sub(bubble).String()+" "+number(from+1000+float64(slot)))
					}
				}
				slices.Sort(want)
				assert.Equal(t, want, b.values())
				for _, r := range board.Received(t, b.Server).Readings {
					if strings.HasPrefix(r.Value.String(), "2") || strings.HasPrefix(r.Value.String(), "12") {
						assert.GreaterOrEqual(t, r.ReceivedAt-r.Timestamp, (5*time.Minute - time.Second).Milliseconds(), "the spare waits for its turn")
					}
				}
				assert.Equal(t, map[string]int{"outlet delivered": 9, "outlet already_stored": 6}, settled(pair[0].at.trail()))
				took := map[string]int{"outlet delivered": 7, "outlet already_stored": 9}
				if bySlot {
					took = map[string]int{"outlet delivered": 6, "outlet already_stored": 10}
				}
				assert.Equal(t, took, settled(pair[1].at.trail()))
				for _, w := range pair {
					assert.NotContains(t, w.log(), "contradicts")
				}
				assert.Contains(t, pair[1].log(), "delivered 0 of 2 parameters of outlet; the board had 2 already")
				assert.NotContains(t, pair[1].log(), "needs a person")
				assert.Contains(t, pair[0].log(), "the board had 2 of them already")

				for _, p := range pair[1].report(t, pair[1].at.trail()).Parameters {
					assert.Equal(t, []int{8, 0, 0}, []int{p.Delivered + p.AlreadyStored, p.Missing, p.Waiting}, p.Parameter)
				}
				for _, p := range pair[0].report(t, pair[0].at.trail(), pair[1].at.trail()).Parameters { // two trails together say more than one
					already := 0
					if bySlot && p.Parameter == "bod" {
						already = 1
					}
					assert.Equal(t, []int{8 - already, already, 0}, []int{p.Delivered, p.AlreadyStored, p.Missing}, p.Parameter)
				}
			})
		})
	}
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// TestTwoSendersOfOneDevice has two hosts that do not know of each other. They alternate in which one sends first.
func TestTwoSendersOfOneDevice(t *testing.T) {
	key := newBoards(t).publicKey
	warmUp(t, key)
	alone, shared := pairPlant(nil), pairPlant(map[string]any{"shared_device": true})
	b := newOneBoard(t, simulator.DuplicatesByParameter, alone)
	b.cuts(func(host string, now time.Time) bool {
		slot := int(now.Sub(bubble) / spec.SlotLength)
		return now.Sub(bubble)%spec.SlotLength < time.Minute && (slot%2 == 0) == (host == "main")
	})
	synctest.Test(t, func(t *testing.T) {
		b.runs(t)
		pair := twins(t, b, key, "output", "exporter", alone, alone)
		const slots = 6
		for n := range slots*15 + 5 {
			minute(n, pair, nil)
		}
		assert.Len(t, b.values(), 2*slots)
		for _, w := range pair {
			assert.Equal(t, map[string]int{"outlet delivered": slots}, settled(w.at.trail()), w.name)
			said := strings.Count(strings.ToLower(w.log()), "another sender reports the device, because")
			assert.Equal(t, 1, said, "lines of %s:\n%s", w.name, w.log())
			h, v := w.status(t)
			assert.Equal(t, status.Failed, v.Level, w.name)
			assert.Equal(t, slots/2, h.Waiting, w.name)
			assert.Contains(t, h.Trouble, `device "outlet" has readings that wait: another sender reports the device`)
			for _, p := range h.Devices[0].Parameters {
				assert.Equal(t, "some slots wait apart: another sender reports this device", p.Verdict.Text)
				assert.Contains(t, p.Verdict.Cure, "shared_device = true")
			}
		}
		for _, w := range pair {
			w.restart(shared)
		}
		for n := slots*15 + 5; n < slots*15+14; n++ {
			minute(n, pair, nil)
		}
		for _, w := range pair {
			assert.Equal(t, map[string]int{"outlet delivered": slots, "outlet already_stored": slots}, settled(w.at.trail()), w.name)
			h, v := w.status(t)
			assert.Equal(t, status.OK, v.Level, "%s: %+v %+v", w.name, v, h.Devices)
			assert.Equal(t, 0, h.Waiting, w.name)
		}
	})
}
