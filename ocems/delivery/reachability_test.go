package delivery_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
)

// health records the health that was reported to the host, and when.
type health struct {
	mu   sync.Mutex
	text []string
	at   []time.Time
}

func (h *health) hear(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := "well"
	if err != nil {
		text = err.Error()
	}
	h.text, h.at = append(h.text, text), append(h.at, time.Now())
}

func (h *health) all() ([]string, []time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string{}, h.text...), append([]time.Time{}, h.at...)
}

func TestUnreachableServerIsReported(t *testing.T) {
	for _, c := range []struct {
		name          string
		devices       int
		fault         string // "": disconnect the network
		broken        time.Duration
		from, to      time.Duration // when it is reported after the first attempt; 0, 0: never
		reason, again string
	}{
		{"one device", 1, "", time.Hour, time.Minute, 61 * time.Second, "connection refused", "well"},
		{"one device, told to come much later", 1, `{"http_status":503,"retry_after":1800}`, time.Hour, time.Minute, 61 * time.Second, "HTTP 503", "well"},
		{"one device, a server that hangs", 1, `{"latency":"2h"}`, time.Hour, time.Minute, 91 * time.Second, "no answer", "well"},
		{"one device, a short break", 1, "", 20 * time.Second, 0, 0, "", ""},
		{"three devices", 3, "", time.Hour, time.Minute, 61 * time.Second, "connection refused", "well"},
		{"many devices", 30, "", time.Hour, 0, time.Second, "connection refused", "well"},
		{"many devices, a short break", 30, "", 20 * time.Second, 0, time.Second, "connection refused", "well"},
	} {
		h := &health{}
		var all strings.Builder
		all.WriteString("stations:\n  - id: s\n    devices:\n")
		for i := range c.devices {
			fmt.Fprintf(&all, "      - {id: d%d, token: token-for-tests-d%d}\n", i, i)
		}
		run(t, c.name, all.String(), func(cfg *delivery.Config) {
			cfg.OnHealth = h.hear
			noWait(cfg)
			lookup := cfg.Lookup
			cfg.Lookup = func(device string) (delivery.Target, bool) {
				target, ok := lookup(device)
				target.StationID = "s"
				return target, ok
			}
		}, func(p *plant) {
			if c.fault == "" {
				p.net.unplug(true)
			} else {
				p.fault(c.fault)
			}
			begun := time.Now()
			for i := range c.devices {
				p.put(fmt.Sprint("d", i), at(15), cod(1))
			}
			time.Sleep(c.broken)
			p.net.unplug(false)
			request, _ := http.NewRequest(http.MethodDelete, "http://cpcb.test/faults", nil)
			resp, err := p.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			repaired := time.Now()
			time.Sleep(time.Hour)
			p.want("received", len(p.received()), c.devices)
			texts, times := h.all()
			if c.reason == "" {
				p.want("told", texts, []string{})
				p.want("logged", strings.Contains(p.log.String(), "does not answer"), false)
				return
			}
			if len(texts) != 2 || !strings.HasPrefix(texts[0], "the server does not answer") || !strings.Contains(texts[0], c.reason) || texts[1] != c.again {
				t.Fatalf("told %q, want no answer for %q, and then %s\n%s", texts, c.reason, c.again, p.log)
			}
			if after := times[0].Sub(begun); after < c.from || after > c.to {
				t.Errorf("told after %s, want %s to %s", after, c.from, c.to)
			}
			if times[1].Before(repaired.Add(-time.Second)) {
				t.Errorf("told well %s before it was", repaired.Sub(times[1]))
			}
			p.want("logged", strings.Count(p.log.String(), "the server does not answer"), 1)
			p.want("logged", strings.Count(p.log.String(), "the server answers again"), 1)
		})
	}
}

// A single device without answers, even for hours, delays no other device.
func TestDeviceWithoutAnswersDelaysNoOther(t *testing.T) {
	run(t, "", registry, noWait, func(p *plant) {
		asked := p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			if r.Header.Get("X-Device-Id") == "a" {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			success(w, r, n)
		})
		p.put("a", at(15), cod(1))
		time.Sleep(3 * time.Hour)
		for i := range 60 { // in every state of device a
			begun := time.Now()
			p.put("b", at(15*i), so2(1))
			time.Sleep(3 * time.Second)
			times := asked()["b"]
			if len(times) != i+1 || times[i].Sub(begun) > 2*time.Second { // until patience has passed, the first request of a keeps its place
				t.Fatalf("b waits for a: %d of %d requests", len(times), i+1)
			}
			time.Sleep(7 * time.Second)
		}
		if len(asked()["a"]) < 20 {
			t.Errorf("a was tried %d times", len(asked()["a"]))
		}
	})
}

// If many devices cannot reach the server, one at a time probes for all, and the first answer starts all queues again.
func TestOneQueueAsksForTheOthers(t *testing.T) {
	var all strings.Builder
	all.WriteString("stations:\n")
	for i := range 100 {
		fmt.Fprintf(&all, "  - id: s-d%d\n    devices: [{id: d%d, token: token-for-tests-d%d}]\n", i, i, i)
	}
	run(t, "", all.String(), noWait, func(p *plant) {
		var mu sync.Mutex
		inFlight, most := 0, 0
		var first, last time.Time
		p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
			mu.Lock()
			inFlight++
			if n > 60 {
				most = max(most, inFlight)
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			inFlight--
			if n > 200 {
				if last = time.Now(); first.IsZero() {
					first = last
				}
			}
			mu.Unlock()
			if n <= 200 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			success(w, r, n)
		})
		for i := range 100 {
			p.put(fmt.Sprint("d", i), at(15), cod(1))
		}
		time.Sleep(150 * time.Second)
		mu.Lock()
		p.want("requests at once", most, 1)
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		p.want("waiting", p.d.Stats().Slots, 0)
		if took := last.Sub(first); took > 10*time.Second {
			t.Errorf("the others came over %s after the first answer", took)
		}
	})
}

func TestFirstAnswerWakesTheOthers(t *testing.T) {
	run(t, "", registry, noWait, func(p *plant) {
		asked := p.answers(success)
		p.net.unplug(true)
		for i := range 5 {
			p.put(fmt.Sprint("d", i), at(15), cod(1))
			time.Sleep(17 * time.Second) // so that their backoffs end at different times
		}
		time.Sleep(time.Hour)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		var times []time.Time
		for _, one := range asked() {
			times = append(times, one...)
		}
		slices.SortFunc(times, time.Time.Compare)
		if len(times) != 5 || times[4].Sub(times[0]) > time.Second {
			t.Errorf("they came at %v, want five at once", times)
		}
	})
}

// Thousands of held devices are reported in one short text.
func TestHealthNamesFewDevices(t *testing.T) {
	h := &health{}
	run(t, "", registry, func(cfg *delivery.Config) {
		cfg.OnHealth = h.hear
		noWait(cfg)
	}, func(p *plant) {
		for i := range 25 {
			p.put(fmt.Sprintf("gone-%02d", i), at(15), cod(1))
		}
		time.Sleep(time.Minute)
		texts, _ := h.all()
		last := texts[len(texts)-1]
		p.want("named", strings.Count(last, "is held"), 10)
		p.want("text", strings.HasPrefix(last, `device "gone-00" is held (waiting slots: 1): the device is not configured: put it back`) && strings.HasSuffix(last, "other devices in trouble: 15"), true)
		time.Sleep(9 * 24 * time.Hour) // until all has expired
		texts, _ = h.all()
		p.want("at the end", texts[len(texts)-1], "well")
		p.want("held", p.d.Stats().Held, 0)
	})
}
