package delivery_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
)

// outages returns the trail's lines about outages, with times in minutes.
func (p *plant) outages() (lines []string) {
	p.t.Helper()
	f, err := os.Open(p.trail)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	err = audit.Verify(f, func(e audit.Entry) {
		switch e.Outcome {
		case audit.Unreachable, audit.Reachable, audit.Held, audit.Released:
			text := fmt.Sprintf("%s %s since %s", e.Time.Format("15:04"), e.Outcome, time.UnixMilli(e.Stamp).UTC().Format("15:04"))
			if e.Device != "" {
				text += " of " + e.Device
			}
			if e.Count > 0 {
				text += ", attempts"
			}
			if e.Status != nil {
				text += fmt.Sprintf(", status %d", *e.Status)
			}
			if e.Reason != "" {
				text += ", " + e.Reason
			}
			lines = append(lines, text)
		}
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return lines
}

// The trail records when the server did not answer and when a device was held, if it lasted for 5 minutes.
func TestOutagesAreInTheTrail(t *testing.T) {
	unregistered := func(d time.Duration) func(p *plant) {
		return func(p *plant) {
			until := time.Now().Add(d)
			p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
				if time.Now().Before(until) {
					fmt.Fprint(w, `{"status":102,"msg":"invalid station"}`)
					return
				}
				success(w, r, n)
			})
			p.put("a", at(15), cod(1))
			time.Sleep(d + time.Hour)
		}
	}
	unplugged := func(d time.Duration) func(p *plant) {
		return func(p *plant) {
			p.net.unplug(true)
			p.put("a", at(15), cod(1))
			time.Sleep(d)
			p.net.unplug(false)
			time.Sleep(time.Hour)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*delivery.Config)
		f      func(p *plant)
		want   []string
	}{
		{"no answer for hours", nil, unplugged(3 * time.Hour), []string{"01:05 unreachable since 01:00", "04:0. reachable since 01:00, attempts"}},
		{"no answer for a while", nil, unplugged(100 * time.Second), nil},
		{"the device is refused", nil, unregistered(3 * time.Hour), []string{"01:05 held since 01:00 of a, status 102", "04:.. released since 01:00 of a, attempts, status 102"}},
		{"the device is refused once", nil, unregistered(time.Second), []string{"01:05 held since 01:00 of a, status 102", "01:10 released since 01:00 of a, attempts, status 102"}},
		{"a device that is not configured, until its slots expire", nil, func(p *plant) {
			p.put("gone", at(15), cod(1))
			time.Sleep(8 * 24 * time.Hour)
		}, []string{"01:05 held since 01:00 of gone, not_configured", "..:.. released since 01:00 of gone, not_configured"}},
		{"dry run", func(cfg *delivery.Config) { cfg.DryRun = true }, func(p *plant) {
			p.net.unplug(true)
			p.put("a", at(15), cod(1))
			p.put("gone", at(15), cod(1))
			time.Sleep(time.Hour)
		}, nil},
		{"no trail", func(cfg *delivery.Config) { cfg.Trail = nil }, unplugged(time.Hour), nil},
		{"over three runs", nil, func(p *plant) {
			p.net.unplug(true)
			p.put("a", at(15), cod(1))
			time.Sleep(time.Hour)
			p.stop()
			p.start()
			time.Sleep(2 * time.Minute)
			p.stop()
			p.start()
			time.Sleep(58 * time.Minute)
			p.net.unplug(false)
			time.Sleep(time.Hour)
		}, []string{"01:05 unreachable since 01:00", "02:07 unreachable since 02:02", "03:0. reachable since 02:02, attempts"}},
		{"the trail cannot be written", nil, func(p *plant) {
			p.put("b", at(0), so2(1))
			time.Sleep(2 * time.Second)
			p.away(true)
			p.put("a", at(15), cod(1))
			if err := errors.Join(os.Truncate(p.trail, 0), os.MkdirAll(p.trail+".anew/in the way", 0o700)); err != nil {
				p.t.Fatal(err)
			}
			time.Sleep(time.Hour)
			p.put("b", at(15), so2(1)) // does not wait for the trail
			if err := os.RemoveAll(p.trail + ".anew"); err != nil {
				p.t.Fatal(err)
			}
			time.Sleep(time.Minute)
			p.net.unplug(false)
			time.Sleep(time.Hour)
		}, []string{"02:0. unreachable since 01:00", "02:.. reachable since 01:00, attempts"}},
	} {
		run(t, c.name, registry, func(cfg *delivery.Config) {
			noWait(cfg)
			if c.change != nil {
				c.change(cfg)
			}
		}, func(p *plant) {
			c.f(p)
			got := p.outages()
			if len(got) != len(c.want) {
				p.t.Fatalf("got %q, want %q\n%s", got, c.want, p.log)
			}
			for i, want := range c.want {
				if !matches(want, got[i]) {
					p.t.Errorf("got %q, want %q", got[i], want)
				}
			}
		})
	}
}

// matches compares two texts; a dot in the first stands for any character.
func matches(pattern, text string) bool {
	if len(pattern) != len(text) {
		return false
	}
	for i := range pattern {
		if pattern[i] != '.' && pattern[i] != text[i] {
			return false
		}
	}
	return true
}

// away disconnects the server and closes its connections.
func (p *plant) away(off bool) {
	p.net.unplug(off)
	p.client.CloseIdleConnections()
}

const hours = 6 // duration of the flapping

// flap makes the server reachable and unreachable alternately, while devices report. Each time it is reachable, it
// first refuses one of them.
func (p *plant) flap(each time.Duration) {
	begun := time.Now()
	asked := p.answers(func(w http.ResponseWriter, r *http.Request, n int) {
		if r.Header.Get("X-Device-Id") == "d0" && time.Since(begun)%(2*each) < each/2 {
			fmt.Fprint(w, `{"status":102,"msg":"invalid station"}`)
			return
		}
		success(w, r, n)
	})
	for slot := range 4 * hours {
		for i := range 12 {
			p.put(fmt.Sprint("d", i), at(15*slot), cod(1))
		}
		for end := time.Now().Add(15 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Second) {
			p.away(time.Since(begun)%(2*each) >= each)
		}
	}
	p.want("devices asked", len(asked()), 12)
	p.want("seen", strings.Contains(p.log.String(), "the server does not answer") && strings.Contains(p.log.String(), "the server refuses the device"), true)
}

// However often a server or device goes down and recovers, the trail gets few lines.
func TestOutagesAreFew(t *testing.T) {
	for _, c := range []struct {
		each  time.Duration
		least int
	}{{time.Minute, 0}, {4 * time.Minute, 0}, {6 * time.Minute, 0}, {11 * time.Minute, 4}} {
		run(t, c.each.String(), registry, func(cfg *delivery.Config) {
			noWait(cfg)
			cfg.MaxBackoff.Duration, cfg.InitialBackoff.Duration, cfg.HoldInterval.Duration = 5*time.Second, 5*time.Second, 5*time.Second
		}, func(p *plant) {
			p.flap(c.each)
			most := 2 * 2 * int(hours*time.Hour/(5*time.Minute)) // for the server and for the one device
			if c.each < 5*time.Minute {
				most = 0
			}
			if n := len(p.outages()); n < c.least || n > most {
				p.t.Errorf("%d lines, want %d to %d", n, c.least, most)
			}
		})
	}
}
