package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// The tables of the page are the output of the program.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := million
	p.needs(&out)
	p.play(&out)
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(string(page), line) {
			t.Errorf("the page lacks: %s", line)
		}
	}
}

// The simulation must agree with results that can be computed by hand.
func TestPlay(t *testing.T) {
	p := million
	p.Devices, p.Partitions = 6400, 64 // 100 slots per partition
	s := p.situations()[0]
	for _, c := range []struct {
		name     string
		change   func(*Plan, *situation)
		last     time.Duration
		peak     float64 // of all workers; 0 is not checked
		requests float64
	}{
		{"as it is", func(*Plan, *situation) {}, p.Grace + p.Settle + p.Spread*99/100 + p.Answer, 0, 2 + float64(p.Parameters)},
		{"no first worker", func(_ *Plan, s *situation) { s.firsts = 1 }, p.StandbyDelay + p.Spread*99/100 + p.Answer, 0, 1},
		{"no spread", func(p *Plan, s *situation) { p.Spread, s.firsts = 0, 1 }, p.StandbyDelay + 2*p.Answer, 64 * 100, 1},
		{"one place", func(p *Plan, s *situation) { p.Spread, p.Concurrency, s.firsts = 0, 1, 1 }, p.StandbyDelay + 100*p.Answer, 0, 1},
	} {
		q, situation := p, s
		c.change(&q, &situation)
		r := q.playOne(situation)
		if d := (r.last - c.last).Abs(); d > 100*time.Millisecond {
			t.Errorf("%s: the last slot arrives after %s, want %s", c.name, r.last, c.last)
		}
		if c.peak > 0 && r.peak[2] != c.peak {
			t.Errorf("%s: %v requests in a second, want %v", c.name, r.peak[2], c.peak)
		}
		if r.requests != c.requests {
			t.Errorf("%s: %v requests a slot, want %v", c.name, r.requests, c.requests)
		}
	}
}
