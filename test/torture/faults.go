package main

import (
	"fmt"
	"log"
	"math/rand/v2"
	"time"
)

// statuses are the spec's statuses that say nothing about a slot, and an unknown one. contradictions are the others. They are
// false for all fed readings, so only the front sends them.
var (
	statuses       = []int{0, 10, 102, 109, 110, 113, 114, 115, 116, 119, 120, 121, 999}
	contradictions = []int{111, 112, 117, 118}
)

// oneFault returns a fault for some requests, in the simulator's form, and its kind.
func oneFault(random *rand.Rand, wrongDate bool) (fault map[string]any, kind string) {
	fault = map[string]any{"count": 1 + random.IntN(4)}
	kinds := 10
	if !wrongDate {
		kinds--
	}
	switch random.IntN(kinds) {
	case 0:
		kind = "slow"
		fault["latency"] = fmt.Sprintf("%dms", 50+random.IntN(300))
		if random.IntN(8) == 0 {
			kind = "reply after the time-out"
			fault["latency"], fault["after_store"], fault["count"] = "6s", random.IntN(2) == 0, 1
		}
	case 1:
		kind = "http 5xx"
		fault["http_status"] = 500 + random.IntN(5)
	case 2:
		kind = "http 429"
		fault["http_status"], fault["retry_after"] = 429, 1
	case 3:
		kind = "http 4xx"
		fault["http_status"] = []int{401, 403, 404, 413}[random.IntN(4)]
	case 4:
		kind = "html"
		fault["html"], fault["http_status"] = true, 200
	case 5:
		kind = "closed"
		fault["close"] = true
	case 6:
		kind = "half a body"
		fault["half"] = true
	case 7:
		kind = "reply lost after it was stored"
		fault["close"], fault["after_store"] = true, true
	case 8:
		kind = "status"
		fault["status"] = statuses[random.IntN(len(statuses))]
	case 9:
		kind = "server's clock"
		fault["clock_offset"] = fmt.Sprintf("%dh", random.IntN(7)-3)
	}
	return fault, kind
}

// misbehave sets faults at the board until stop, and counts the faults that happened in v.faults.
func (v *victim) misbehave(random *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(20+random.IntN(130)) * time.Millisecond):
		}
		if kind := random.IntN(12); kind < 2 {
			v.unreachable(random, kind == 0)
			continue
		}
		list := make([]map[string]any, 1+random.IntN(5))
		kinds := make([]string, len(list))
		for i := range list {
			list[i], kinds[i] = oneFault(random, v.wrongDate.Load())
		}
		if err := v.board.faults(list); err != nil {
			log.Printf("%s: %v", v.host.name, err)
		}
		var left []int
		_ = until(1500*time.Millisecond, func() bool { left = v.board.unmet(); return len(left) == 0 })
		_ = v.board.faults(nil)
		for i, f := range list { // the simulator applies them in order
			n := f["count"].(int)
			if from := len(list) - len(left); i >= from {
				n -= left[i-from]
			}
			v.faults[kinds[i]] += n
		}
	}
}

// unreachable breaks all connections. Then for a while it shows a bad certificate, uses an old TLS version or accepts no
// connections.
func (v *victim) unreachable(random *rand.Rand, reset bool) {
	kind := "certificate or TLS 1.1"
	if reset {
		kind = "reset"
		v.board.reset.Store(true)
	} else {
		v.board.mode.Store(int32(expired + random.IntN(3)))
	}
	v.board.cut()
	time.Sleep(time.Duration(200+random.IntN(400)) * time.Millisecond)
	v.board.mode.Store(good)
	v.board.reset.Store(false)
	v.faults[kind]++
}

// lie makes the front give false answers, or none, to one or all devices, for some time, until stop.
func (v *victim) lie(random *rand.Rand, stop <-chan struct{}) {
	l := v.board.lies
	defer l.none()
	pause := func(least, most int) (over bool) {
		select {
		case <-stop:
			return true
		case <-time.After(time.Duration(least+random.IntN(most-least)) * time.Millisecond):
			return false
		}
	}
	for !pause(50, 300) {
		about := []device{devices[random.IntN(len(devices))]}
		if random.IntN(4) == 0 {
			about = devices
		}
		off := time.Duration(1+random.IntN(240)) * time.Hour
		if random.IntN(3) == 0 {
			off *= 100 // years
		}
		if random.IntN(2) == 0 {
			off = -off
		}
		kind, status, stores := random.IntN(4), contradictions[random.IntN(len(contradictions))], random.IntN(2) == 0
		l.set(func() {
			switch {
			case kind == 0 && len(about) == 1:
				l.silent[about[0].id], l.stores = true, stores
			case kind == 1 && v.wrongDate.Load():
				l.off = off
			default:
				for _, d := range about {
					l.status[d.id] = status
				}
			}
		})
		over := pause(200, 1500)
		l.none()
		if over {
			return
		}
	}
}
