// Command hub measures the cost of closing and delivering the slots of a vendor's hub for a whole host process: CPU, time,
// syncs, bytes and memory. A bare loop runs before and after each host. It makes and posts the same requests and stores nothing.
//
// A boundary is one past 15-minute window: all devices report 15 readings per parameter, one per minute, and the host closes
// the window of each device when no more readings come for it. See docs/performance.md.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// plan has the options of a run.
type plan struct {
	bin, dir   string
	devices    int
	batch      int
	settle     time.Duration
	spread     time.Duration
	latency    time.Duration
	delay      time.Duration
	boundaries int
}

// scenario is what is faulty or slow in the host's environment.
type scenario struct {
	name          string
	slow          bool // the server answers after plan.latency
	held, hanging bool // one device of 20
	traced        bool // syncs are counted
	delayed       bool // each sync takes plan.delay longer
}

var scenarios = []scenario{
	{name: "plain"},
	{name: "latency", slow: true, traced: true},
	{name: "held", held: true},
	{name: "hanging", hanging: true},
	{name: "syncs", traced: true},
	{name: "disk", traced: true, delayed: true},
	{name: "worst", hanging: true, traced: true, delayed: true},
}

// conduct returns the server's behaviour in a scenario.
func (p *plan) conduct(s scenario) (c conduct) {
	c.Held, c.Hanging = s.held, s.hanging
	if s.slow {
		c.Latency = p.latency
	}
	return c
}

func names(list string, known []string) ([]string, error) {
	chosen := strings.Split(list, ",")
	for _, n := range chosen {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("%q is not one of %s", n, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("hub: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	var p plan
	flag.StringVar(&p.bin, "bin", "bin", "`DIRECTORY` with the built hosts")
	flag.StringVar(&p.dir, "dir", "bin", "`DIRECTORY` on the disk that is measured")
	flag.IntVar(&p.devices, "devices", 2000, "devices of the hub")
	flag.IntVar(&p.batch, "batch", 0, "devices in a request of the OTLP feed; 0 is a 40th of all")
	flag.DurationVar(&p.settle, "settle", 2*time.Second, "settle of the host")
	flag.DurationVar(&p.spread, "spread", 0, "spread of the host")
	flag.DurationVar(&p.latency, "latency", 60*time.Millisecond, "latency of the server in the scenario latency")
	flag.DurationVar(&p.delay, "delay", 5*time.Millisecond, "delay of each sync in the scenarios disk and worst")
	flag.IntVar(&p.boundaries, "boundaries", 2, "boundaries of each scenario")
	hostList := flag.String("hosts", "exporter,output", "to measure")
	list := flag.String("scenarios", "plain,latency,held,hanging,syncs,disk", "scenarios to measure; also worst, which is disk and hanging together")
	raw := flag.String("json", "", "`FILE` for the raw figures")
	sink := flag.Bool("sink", false, "internal: run the server")
	bare := flag.String("bare", "", "internal: run the bare loop against the server at `URL`")
	growing := flag.Bool("growth", false, "instead, double the sizes of each case, and fail if a doubling costs more than "+fmt.Sprint(mostGrowth)+" times")
	from := flag.Int("from", 4000, "the smallest size of -growth, which is doubled twice")
	one := flag.String("grow", "", "internal: one run of -growth with the size -devices")
	profile := flag.String("profile", "", "`STEM` of the profile files of -grow")
	flag.Parse()
	switch {
	case *growing:
		return grow(p.dir, *from)
	case *one != "":
		return growOnce(*one, p.dir, p.devices, *from, *profile)
	case *sink:
		return serve()
	case *bare != "":
		return bareLoop(*bare, p.devices, p.boundaries)
	}
	if p.batch == 0 {
		p.batch = max(p.devices/40, 1)
	}
	hosts, err := names(*hostList, []string{"exporter", "output"})
	if err != nil {
		return fmt.Errorf("-hosts: %w", err)
	}
	var known []string
	for _, s := range scenarios {
		known = append(known, s.name)
	}
	chosen, err := names(*list, known)
	if err != nil {
		return fmt.Errorf("-scenarios: %w", err)
	}

	_, noTracer := exec.LookPath("strace")
	var rows []row
	show := func(more ...row) {
		rows = append(rows, more...)
		printRows(os.Stdout, more)
	}
	printHead(os.Stdout, p)
	begun, wrong := time.Now(), 0
	for _, s := range scenarios {
		if !slices.Contains(chosen, s.name) {
			continue
		}
		if s.traced && noTracer != nil {
			if s.delayed {
				log.Printf("left out: %s, because strace is not installed", s.name)
				continue
			}
			s.traced = false
		}
		before, err := p.bare(s)
		if err != nil {
			return err
		}
		show(before)
		for _, h := range hosts {
			measured, err := p.measure(h, s)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", h, s.name, err)
			}
			after, err := p.bare(s)
			if err != nil {
				return err
			}
			for i := range measured {
				r := &measured[i]
				r.Ratio = 2 * r.CPU / (before.CPU + after.CPU)
				wrong += r.Wrong
			}
			show(append(measured, after)...)
			before = after
		}
	}
	printGoals(os.Stdout)
	log.Printf("took %s", time.Since(begun).Round(time.Second))
	if *raw != "" {
		text, err := json.MarshalIndent(rows, "", "  ")
		if err == nil {
			err = os.WriteFile(*raw, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d slots did not arrive within %s, arrived twice, or lack a parameter", wrong, patience)
	}
	return nil
}
