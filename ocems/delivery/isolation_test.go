package delivery_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
)

// hangingBoard stores after a latency, but devices that hang get no answer until their time-out.
type hangingBoard struct {
	latency time.Duration
	hangs   func(device string) bool

	mu             sync.Mutex
	inFlight, most int
	asked, stored  map[string][]time.Time
}

func newBoard(latency time.Duration, hangs func(device string) bool) *hangingBoard {
	return &hangingBoard{latency: latency, hangs: hangs, asked: map[string][]time.Time{}, stored: map[string][]time.Time{}}
}

func (b *hangingBoard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	device := r.Header.Get("X-Device-Id")
	io.Copy(io.Discard, r.Body)
	b.mu.Lock()
	b.inFlight++
	b.most = max(b.most, b.inFlight)
	b.asked[device] = append(b.asked[device], time.Now())
	hangs := b.hangs(device)
	b.mu.Unlock()
	if hangs {
		<-r.Context().Done()
	} else {
		time.Sleep(b.latency)
	}
	b.mu.Lock()
	b.inFlight--
	if !hangs {
		b.stored[device] = append(b.stored[device], time.Now())
	}
	b.mu.Unlock()
	if !hangs {
		success(w, r, 0)
	}
}

// sum returns the number of requests since the last call, and the most at one time.
func (b *hangingBoard) sum() (requests, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for device, times := range b.asked {
		requests += len(times)
		delete(b.asked, device)
	}
	most, b.most = b.most, b.inFlight
	return requests, most
}

// times returns when slots of a device were stored.
func (b *hangingBoard) times(device string) []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stored[device])
}

func (p *plant) board(b *hangingBoard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = b
}

func (p *plant) putAll(devices []string, stamp time.Time) {
	for _, device := range devices {
		p.put(device, stamp, cod(1))
	}
}

// names returns device names: prefix0, prefix1 and so on.
func names(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

func bad(device string) bool { return strings.HasPrefix(device, "bad") }

// Devices whose requests hang delay no other. The first slot after a start is separate, because the hanging devices are
// not known yet.
func TestHangingDevices(t *testing.T) {
	const slots, latency = 4, 100 * time.Millisecond
	delays := func(t *testing.T, timeout time.Duration, concurrency, good, hanging int, spread time.Duration, told int) (out [slots][]time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			h := &health{}
			p := newPlant(t, registry, func(c *delivery.Config) {
				c.Client.Timeout, c.MaxConcurrency, c.OnHealth, c.Spread.Duration = timeout, concurrency, h.hear, spread
			})
			b := newBoard(latency, bad)
			p.board(b)
			for i := range slots {
				put := time.Now()
				p.putAll(names("bad", hanging), at(15*i))
				p.putAll(names("good", good), at(15*i))
				time.Sleep(15 * time.Minute)
				for _, device := range names("good", good) {
					times := b.times(device)
					if len(times) != i+1 {
						t.Fatalf("slot %d: %s has %d slots stored", i, device, len(times))
					}
					out[i] = append(out[i], times[i].Sub(put))
				}
			}
			if _, most := b.sum(); most > 8*concurrency {
				t.Errorf("%d requests in flight, want %d at most", most, 8*concurrency)
			}
			for _, device := range names("bad", hanging) {
				if len(b.times(device)) > 0 {
					t.Errorf("%s is stored", device)
				}
			}
			if text, _ := h.all(); len(text) > 2*told {
				t.Errorf("told %q: the server is there", text)
			}
		})
		return out
	}
	for _, c := range []struct {
		name                       string
		timeout                    time.Duration
		concurrency, good, hanging int
		spread                     time.Duration
		first                      time.Duration // how much later the first slot may be stored
		told                       int           // reports of an unreachable server, if eight devices hang before any is answered
	}{
		{"10 of 100, time-out 5 s", 5 * time.Second, 32, 90, 10, 10 * time.Second, 0, 0},
		{"10 of 100, time-out 45 s", 45 * time.Second, 32, 90, 10, 10 * time.Second, 0, 0},
		{"10 of 100, at once", 45 * time.Second, 32, 90, 10, 0, time.Second, 0},
		{"time-out shorter than the patience", 500 * time.Millisecond, 8, 90, 10, 0, 2 * time.Second, 1},
		{"more than there are places", 45 * time.Second, 8, 50, 55, 0, 20 * time.Second, 0},
		{"one of two, max_concurrency 1", 45 * time.Second, 1, 1, 1, 0, 2 * time.Second, 0},
		{"more than may be in flight", 45 * time.Second, 1, 5, 40, 0, 3 * time.Minute, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := delays(t, c.timeout, c.concurrency, c.good, 0, c.spread, 0)
			got := delays(t, c.timeout, c.concurrency, c.good, c.hanging, c.spread, c.told)
			for i := range got {
				var allowed time.Duration
				if i == 0 {
					allowed = c.first
				}
				slices.Sort(want[i]) // their order is random
				slices.Sort(got[i])
				for j := range got[i] {
					if later := got[i][j] - want[i][j]; later > allowed {
						t.Errorf("slot %d, device %d of %d comes %s after %s", i, j+1, c.good, later, want[i][j])
						break
					}
				}
			}
		})
	}
}

// A board that is slow for all devices is waited for: every slot is sent once.
func TestSlowBoardIsWaitedFor(t *testing.T) {
	run(t, "", registry, func(c *delivery.Config) { noWait(c); c.MaxConcurrency = 4 }, func(p *plant) {
		b := newBoard(13500*time.Millisecond, func(string) bool { return false })
		p.board(b)
		for i := range 3 {
			p.putAll(names("d", 20), at(15*i))
			time.Sleep(15 * time.Minute)
			requests, most := b.sum()
			p.want("requests", requests, 20)
			if most > 32 {
				t.Errorf("%d in flight, want 32 at most", most)
			}
		}
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("log", strings.Contains(p.log.String(), "trying again"), false)
	})
}

// While no device is answered, few send requests. The first answer starts all queues again, spread, also those that
// have not sent anything yet.
func TestServerThatHangsForAll(t *testing.T) {
	const devices, concurrency, spread = 500, 8, 20 * time.Second
	h := &health{}
	run(t, "", registry, func(c *delivery.Config) {
		c.MaxConcurrency, c.Spread.Duration, c.OnHealth = concurrency, spread, h.hear
	}, func(p *plant) {
		down := true
		b := newBoard(100*time.Millisecond, func(string) bool { return down })
		p.board(b)
		p.putAll(names("d", devices), at(15))
		time.Sleep(2 * time.Minute)
		if _, most := b.sum(); most > 8*concurrency {
			t.Errorf("%d requests in flight, want %d at most", most, 8*concurrency)
		}
		time.Sleep(10 * time.Minute)
		requests, most := b.sum()
		if most > 8 || requests < 60 {
			t.Errorf("%d requests in 10 minutes, %d at once", requests, most)
		}
		b.mu.Lock()
		down = false
		b.mu.Unlock()
		back := time.Now()
		time.Sleep(5 * time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		var stored []time.Duration
		for _, device := range names("d", devices) {
			stored = append(stored, b.times(device)[0].Sub(back))
		}
		slices.Sort(stored)
		// Six hang all the time; one of them ends every 7.5 s. Those that hang when the server is back do so for 45 s
		// at most.
		if first, median, most, last := stored[0], stored[devices/2], stored[devices*9/10], stored[devices-1]; first > 8*time.Second ||
			median-first < spread/4 || most-first > spread+time.Second || last > time.Minute {
			t.Errorf("the first is stored %s after the server is back, half of them after %s, the last after %s", first, median, last)
		}
		texts, _ := h.all()
		if len(texts) != 2 || !strings.HasPrefix(texts[0], "the server does not answer") || texts[1] != "well" {
			t.Errorf("told %q", texts)
		}
	})
}
