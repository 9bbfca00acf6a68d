package main

import (
	"fmt"
	"io"
	"runtime"
)

// row is one boundary of one host in one scenario, or the bare loop.
type row struct {
	Host     string  `json:"host"`
	Scenario string  `json:"scenario"`
	Boundary int     `json:"boundary"` // starts at 1
	Slots    int     `json:"slots"`
	CPU      float64 `json:"cpu_us_a_slot"` // user and system, for closing and delivery
	Ratio    float64 `json:"cpu_x_bare"`    // divided by the bare loops before and after
	Rate     float64 `json:"slots_per_s"`   // from the first slot to the last
	Wall     float64 `json:"wall_s"`        // from the time when windows may close until the last slot
	Syncs    float64 `json:"syncs_per_500_slots"`
	Written  float64 `json:"bytes_a_slot"` // bytes of write calls to files
	Dirtied  float64 `json:"write_bytes_a_slot"`
	Peak     float64 `json:"peak_mb"`

	TakeCPU     float64 `json:"take_us_a_reading"`
	TakeWritten float64 `json:"take_bytes_a_reading"`
	TakeSyncs   int     `json:"take_syncs"`
	Idle        float64 `json:"idle_ms_per_s"`

	Traced bool `json:"traced"`
	Wrong  int  `json:"wrong"` // slots that did not arrive, arrived twice, or lack a parameter
}

func printHead(w io.Writer, p plan) {
	fmt.Fprintf(w, "%d devices of %d parameters, %d processors, settle %s, spread %s, latency %s, delay %s\n\n", p.devices, len(parameters), runtime.NumCPU(), p.settle, p.spread, p.latency, p.delay)
	fmt.Fprintln(w, "| host | scenario | boundary | CPU µs a slot | x bare | slots/s | s to the last | syncs for 500 slots | bytes a slot | peak MB | taking: µs a reading | bytes a reading | wrong slots |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")
}

func printRows(w io.Writer, rows []row) {
	for _, r := range rows {
		if r.Host == "bare" {
			fmt.Fprintf(w, "| bare | %s | | %.0f | | %.0f | %.1f | | | | | | |\n", r.Scenario, r.CPU, r.Rate, r.Wall)
			continue
		}
		syncs, written, taken := "", "", ""
		if r.Traced {
			syncs, written, taken = fmt.Sprintf("%.1f", r.Syncs), fmt.Sprintf("%.0f", r.Written), fmt.Sprintf("%.0f", r.TakeWritten)
		}
		fmt.Fprintf(w, "| %s | %s | %d | %.0f | %.2f | %.0f | %.1f | %s | %s | %.0f | %.2f | %s | %d |\n", r.Host, r.Scenario, r.Boundary,
			r.CPU, r.Ratio, r.Rate, r.Wall, syncs, written, r.Peak, r.TakeCPU, taken, r.Wrong)
	}
}

func printGoals(w io.Writer) {
	fmt.Fprintln(w, "| goal | | | | 1.50 | | 60 (20,000 slots, worst, 10 ms) | 3.0 | 3000 | | | | 0 |")
}
