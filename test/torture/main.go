// Command torture runs the four hosts with faults and checks the slots at the board: none is lost, none is wrong, none is there
// twice.
//
// Each host is a real process with its own simulated board. Senders that restart feed it days of history, some of it twice.
// Meanwhile it is killed, stopped and started, its disk fills up, its state is damaged or removed, a second process opens its
// state, its wall clock jumps, and the board gives every faulty answer and contradicts itself. The judge shares no code with the
// hosts. The same seed gives the same choices, but the timing of processes differs.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

type options struct {
	bin    string
	kills  int
	seed   uint64
	keep   bool
	settle time.Duration
}

func main() {
	log.SetFlags(log.Ltime)
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` with the built programs")
	flag.IntVar(&o.kills, "kills", 4, "kills and stops of each host")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of the random choices")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory of the run")
	only := flag.String("hosts", "telegraf,external,exporter,edge", "hosts to run, separated by commas")
	flag.DurationVar(&o.settle, "drain", 7*time.Minute, "how long the slots may take after the last fault; a processor trusts no clock for 5 minutes after a step")
	flag.Parse()
	ok, err := run(o, strings.Split(*only, ","))
	if err != nil {
		log.Fatal(err)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(o options, names []string) (bool, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return false, err
	}
	o.bin = bin
	work, err := os.MkdirTemp("", "torture-")
	if err != nil {
		return false, err
	}
	log.Printf("seed %d, in %s", o.seed, work)
	var runs []*victim
	for i, name := range names {
		v, err := newVictim(o, name, filepath.Join(work, name), o.seed+uint64(i))
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
		runs = append(runs, v)
	}
	errs := make([]error, len(runs))
	var all sync.WaitGroup
	for i, v := range runs {
		all.Go(func() { errs[i] = v.torture() })
	}
	all.Wait()
	ok := true
	total := verdict{}
	kills, faults := 0, 0
	for i, v := range runs {
		v.end()
		if errs[i] != nil {
			log.Printf("%s: %v", v.host.name, errs[i])
			ok = false
		}
		r := v.judge()
		for j, f := range r.faults {
			if j == 15 {
				fmt.Printf("%s: and %d more\n", v.host.name, len(r.faults)-j)
				break
			}
			fmt.Printf("%s: %s\n", v.host.name, f)
		}
		faultKinds, met := tally(v.faults)
		events, _ := tally(v.events)
		fmt.Printf("%-8s kills=%d (%s) faults=%d (%s) slots=%d delivered=%d damaged=%d lost=%d wrong=%d twice=%d waited=%d answered_111=%d start=%s drained=%s\n",
			v.host.name, v.kills, events, met, faultKinds, r.slots, r.delivered, r.damaged, r.lost, r.wrong, r.twice, r.waited, r.again, spread(v.recovery), v.drained.Round(time.Second))
		total.add(r)
		kills += v.kills
		faults += met
	}
	ok = ok && total.lost == 0 && total.wrong == 0 && total.twice == 0 && total.secrets == 0
	if ok && !o.keep {
		_ = os.RemoveAll(work)
	} else {
		fmt.Printf("the run is kept in %s; again with -seed %d\n", work, o.seed)
	}
	fmt.Printf("torture: hosts=%d kills=%d faults=%d slots=%d lost=%d wrong=%d twice=%d waited=%d\n", len(runs), kills, faults, total.slots, total.lost, total.wrong, total.twice, total.waited)
	return ok, nil
}

// spread returns the median and the maximum of times.
func spread(times []time.Duration) string {
	if len(times) == 0 {
		return "none"
	}
	slices.Sort(times)
	return fmt.Sprintf("%s..%s", times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
}
