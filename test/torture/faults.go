package main

import (
	"fmt"
	"log"
	"math/rand/v2"
	"time"
)

var statuses = []int{0, 10, 102, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 999}

// oneFault is a fault for some requests, as the simulator takes it, and its kind.
func oneFault(random *rand.Rand) (fault map[string]any, kind string) {
	fault = map[string]any{"count": 1 + random.IntN(4)}
	switch random.IntN(10) {
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
		kind = "server's clock"
		fault["clock_offset"] = fmt.Sprintf("%dh", random.IntN(7)-3)
	default:
		kind = "status"
		if fault["status"] = statuses[random.IntN(len(statuses))]; random.IntN(4) == 0 {
			fault["status"] = []int{111, 112, 117}[random.IntN(3)] // those that end a reading's way
		}
	}
	return fault, kind
}

// misbehave makes the board do so until stop, and counts in v.faults what was met.
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
			list[i], kinds[i] = oneFault(random)
		}
		if err := v.board.faults(list); err != nil {
			log.Printf("%s: %v", v.host.name, err)
		}
		var left []int
		_ = until(1500*time.Millisecond, func() bool { left = v.board.unmet(); return len(left) == 0 })
		_ = v.board.faults(nil)
		for i, f := range list { // they are met in their order
			n := f["count"].(int)
			if from := len(list) - len(left); i >= from {
				n -= left[i-from]
			}
			v.faults[kinds[i]] += n
		}
	}
}

// unreachable breaks every connection, and for a while shows a bad certificate, speaks an old TLS or lets no connection
// be made.
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
