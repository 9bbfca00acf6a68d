package main

import (
	"fmt"
	"io"
	"runtime"
)

// row is one boundary of one host in one scenario, or one round of the bare loop.
type row struct {
	Host     string  `json:"host"`
	Scenario string  `json:"scenario"`
	Boundary int     `json:"boundary"` // from 1
	Slots    int     `json:"slots"`
	CPU      float64 `json:"cpu_us_a_slot"` // user and system, of closing and delivery
	Ratio    float64 `json:"cpu_x_bare"`    // 0 where it is not valid
	Rate     float64 `json:"slots_per_s"`   // from the first slot to the last
	Wall     float64 `json:"wall_s"`        // from when windows may close to the last slot
	Syncs    float64 `json:"syncs_per_500_slots"`
	Written  float64 `json:"bytes_a_slot"`
	Peak     float64 `json:"peak_mb"`

	TakeCPU     float64 `json:"take_us_a_reading"`
	TakeWritten float64 `json:"take_bytes_a_reading"`
	TakeSyncs   int     `json:"take_syncs"`
	Idle        float64 `json:"idle_ms_per_s"`

	Traced bool `json:"traced"`
	Slow   bool `json:"slow_server"`
	Wrong  int  `json:"wrong"` // slots that did not come, came twice, or without a parameter
}

// compare sets each row against the bare loop of the same server.
func compare(rows, bare []row) {
	for i := range rows {
		r := &rows[i]
		if base := baseCPU(bare, r.Slow); base > 0 {
			r.Ratio = r.CPU / base
		}
	}
}

// baseCPU is the mean of the bare rounds before and after, each without its first, in which connections are made.
func baseCPU(bare []row, slow bool) float64 {
	sum, n := 0.0, 0
	for _, r := range bare {
		if r.Slow == slow && r.Boundary > 1 {
			sum, n = sum+r.CPU, n+1
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

func table(w io.Writer, p plan, rows, bare []row) {
	fmt.Fprintf(w, "%d devices of %d parameters, %d processors, settle %s, spread %s, latency %s, delay %s\n\n", p.devices, len(parameters), runtime.NumCPU(), p.settle, p.spread, p.latency, p.delay)
	fmt.Fprintln(w, "| host | scenario | boundary | CPU µs a slot | x bare | slots/s | s to the last | syncs for 500 slots | bytes a slot | peak MB | taking: µs a reading | bytes a reading | wrong slots |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range bare {
		fmt.Fprintf(w, "| %s | %s | %d | %.0f | | %.0f | %.1f | | | | | | |\n", r.Host, r.Scenario, r.Boundary, r.CPU, r.Rate, r.Wall)
	}
	for _, r := range rows {
		syncs := ""
		if r.Traced {
			syncs = fmt.Sprintf("%.1f", r.Syncs)
		}
		fmt.Fprintf(w, "| %s | %s | %d | %.0f | %.2f | %.0f | %.1f | %s | %.0f | %.0f | %.2f | %.0f | %d |\n", r.Host, r.Scenario, r.Boundary,
			r.CPU, r.Ratio, r.Rate, r.Wall, syncs, r.Written, r.Peak, r.TakeCPU, r.TakeWritten, r.Wrong)
	}
	fmt.Fprintln(w, "| goal | | | | 1.50 | | 60 (20,000 slots, worst, 10 ms) | 3.0 | 3000 | | | | 0 |")
}
