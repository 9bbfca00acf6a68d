// Command scale computes the resources of a cluster as in examples/cluster for a number of devices, from the cost of one
// reading, one message and one slot. It also simulates its workers and the board for 15 minutes in steps of 10 ms, with and
// without failures. It prints two tables. See docs/scale.md.
package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Plan has the options.
type Plan struct {
	Devices, Parameters, Partitions, Brokers, Machines int
	Every                                              time.Duration // between two readings of a parameter
	PerMessage                                         int           // readings per message
	Kept                                               time.Duration // the streams' max_age

	Grace, Settle, Spread, Delay, StandbyDelay time.Duration // as in worker.conf; the first worker's delay, and the standby's
	Answer                                     time.Duration // time until the board's answer
	Concurrency                                int           // max_concurrency

	Costs
}

// Costs are the results of make bench-cluster.
type Costs struct {
	Store, Deliver   time.Duration // CPU of all brokers per message: to store it three times; to deliver it to one worker
	Read, Slot       time.Duration // CPU of a worker: per accepted reading; per closed and delivered slot
	Wire             float64       // bytes that all brokers receive per message
	Disk             float64       // bytes per reading on each of three disks
	Memory           float64       // bytes of a worker per device
	Base             float64       // bytes of a worker without devices
	StateOfSlot      float64       // bytes that a worker writes per slot
	Election, Resend time.Duration // until followers take over from a dead broker; ack_wait
}

// million is the plan of docs/scale.md.
var million = Plan{
	Devices: 1_000_000, Parameters: 7, Partitions: 64, Brokers: 6, Machines: 8,
	Every: time.Minute, PerMessage: 7, Kept: 8 * 24 * time.Hour,
	Grace: 2 * time.Minute, Settle: 2 * time.Minute, Spread: time.Minute, Delay: 2 * time.Minute, StandbyDelay: 5 * time.Minute,
	Answer: 60 * time.Millisecond, Concurrency: 64, Costs: measured,
}

func (p *Plan) flags() {
	flag.IntVar(&p.Devices, "devices", p.Devices, "how many")
	flag.IntVar(&p.Parameters, "parameters", p.Parameters, "parameters per device")
	flag.DurationVar(&p.Every, "every", p.Every, "time between two readings of a parameter")
	flag.IntVar(&p.PerMessage, "per-message", p.PerMessage, "readings per message; the measured costs are for the default")
	flag.IntVar(&p.Partitions, "partitions", p.Partitions, "partitions, each with two workers")
	flag.IntVar(&p.Brokers, "brokers", p.Brokers, "brokers that share the streams, with three replicas each")
	flag.IntVar(&p.Machines, "machines", p.Machines, "machines for workers, 4 or more; half of them run the workers a")
	flag.DurationVar(&p.Spread, "spread", p.Spread, "spread of the workers")
	flag.DurationVar(&p.StandbyDelay, "delay", p.StandbyDelay, "delay of the workers b")
	flag.DurationVar(&p.Answer, "answer", p.Answer, "`time` until the board answers a request")
	flag.IntVar(&p.Concurrency, "concurrency", p.Concurrency, "max_concurrency of a worker")
	flag.Parse()
}

func main() {
	p := million
	p.flags()
	if p.Parameters < 1 || p.PerMessage < 1 || p.Partitions < 1 || p.Devices < p.Partitions || p.Brokers < 3 || p.Machines < 4 || p.Every <= 0 || p.Concurrency < 1 {
		fmt.Fprintln(os.Stderr, "scale: parameters, per-message, partitions, every and concurrency must be above 0, devices at least as many as partitions, brokers at least 3, machines at least 4")
		os.Exit(2)
	}
	p.needs(os.Stdout)
	fmt.Println()
	p.play(os.Stdout)
}

// needs prints the table of resources.
func (p Plan) needs(w io.Writer) {
	readings := float64(p.Devices*p.Parameters) / p.Every.Seconds()
	messages := readings / float64(p.PerMessage)
	slots := float64(p.Devices) / quarter.Seconds()
	workers := 2 * p.Partitions
	brokerCores := messages * (p.Store + 2*p.Deliver).Seconds()
	workerCores := 2 * (readings*p.Read.Seconds() + slots*p.Slot.Seconds())
	perWorker := p.Base + p.Memory*float64(p.Devices)/float64(p.Partitions)
	kept := readings * p.Kept.Seconds()
	fmt.Fprintln(w, "| what | all | each of |\n|---|---|---|")
	row := func(what, all string, each string) { fmt.Fprintf(w, "| %s | %s | %s |\n", what, all, each) }
	row("readings/s", f(readings), f(readings/float64(p.Partitions))+" a partition")
	row("messages/s", f(messages), f(messages/float64(p.Partitions))+" a partition")
	row("slots/s, over a quarter of an hour", f(slots), f(slots/float64(p.Partitions))+" a partition")
	row("cores of brokers, busy", fmt.Sprintf("%.1f", brokerCores), fmt.Sprintf("%.1f of %d brokers", brokerCores/float64(p.Brokers), p.Brokers))
	row("cores of workers, busy", fmt.Sprintf("%.1f", workerCores), fmt.Sprintf("%.2f of %d workers, %.1f of %d machines", workerCores/float64(workers), workers, workerCores/float64(p.Machines), p.Machines))
	row("memory of workers, GB", fmt.Sprintf("%.0f", perWorker*float64(workers)/1e9), fmt.Sprintf("%.2f a worker, %.1f a machine", perWorker/1e9, perWorker*float64(workers)/float64(p.Machines)/1e9))
	row("received by brokers, Mbit/s", f(messages*p.Wire*8/1e6), f(messages*p.Wire*8/1e6/float64(p.Brokers))+" a broker")
	row("streams on disk, TB in 8 days", fmt.Sprintf("%.1f", 3*kept*p.Disk/1e12), fmt.Sprintf("%.1f a broker", 3*kept*p.Disk/1e12/float64(p.Brokers)))
	row("written by workers a day, GB", f(2*slots*86400*p.StateOfSlot/1e9), f(slots*86400*p.StateOfSlot/1e9/float64(p.Partitions))+" a worker, slots alone")
	replay := kept / float64(p.Partitions) * p.Read.Seconds()
	again := float64(p.Devices) / float64(p.Partitions) * spec.MaxAge.Seconds() / quarter.Seconds() // older slots expire
	row("a worker without its state reads the whole stream", "", fmt.Sprintf("%s of a core, then %s requests to the board in %s or more", time.Duration(replay*1e9).Round(time.Minute), f(again), time.Duration(again/p.rate()*1e9).Round(time.Minute)))
}

const quarter = 15 * time.Minute

// rate returns the largest number of requests per second of a worker, limited by max_concurrency and by one core.
func (p Plan) rate() float64 {
	return min(float64(p.Concurrency)/p.Answer.Seconds(), 1/p.Slot.Seconds())
}

// f formats a number with three significant digits.
func f(x float64) string {
	if x <= 0 {
		return "0"
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-2)
	if x = math.Round(x/unit) * unit; x < 100 {
		return fmt.Sprintf("%.3g", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// situation has the differences from the plan. Times count from the end of a window.
type situation struct {
	name   string
	change func(*Plan)
	firsts float64       // share of the first workers that are dead
	pause  time.Duration // time without readings
	outage time.Duration // time without answers of the board
}

func (p Plan) situations() []situation {
	same := func(*Plan) {}
	return []situation{
		{name: "all is well", change: same},
		{name: "`spread = \"0s\"`", change: func(p *Plan) { p.Spread = 0 }},
		{name: "`spread = \"5m\"`, `delay` of b 10m", change: func(p *Plan) { p.Spread, p.StandbyDelay = 5*time.Minute, 10*time.Minute }},
		{name: "the same, `max_concurrency = 8`", change: func(p *Plan) { p.Spread, p.StandbyDelay, p.Concurrency = 5*time.Minute, 10*time.Minute, 8 }},
		{name: "one broker dies", change: same, pause: p.Election + p.Resend},
		{name: "one machine with workers a dies", change: same, firsts: 1 / float64(p.Machines/2)},
		{name: "all workers a die", change: same, firsts: 1},
		{name: "the board is away for an hour", change: same, outage: time.Hour},
		{name: "the board is away for an hour, `max_concurrency = 8`", change: func(p *Plan) { p.Concurrency = 8 }, outage: time.Hour},
	}
}

// play prints the load of the board in each situation.
func (p Plan) play(w io.Writer) {
	fmt.Fprintln(w, "| situation | half of the slots are there | the last | peak of workers a, requests/s | of workers b | of all | requests a slot |\n|---|---|---|---|---|---|---|")
	for _, s := range p.situations() {
		q := p
		s.change(&q)
		r := q.playOne(s)
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %.2f |\n", s.name, r.half.Round(time.Second), r.last.Round(time.Second), f(r.peak[0]), f(r.peak[1]), f(r.peak[2]), r.requests)
	}
}

// result is the load of the board.
type result struct {
	half, last time.Duration // after the end of the window, or of the first window that had to wait
	peak       [3]float64    // requests per second: of the first workers, of the standbys, of all
	requests   float64       // per slot
}

const step = 10 * time.Millisecond

func (p Plan) playOne(s situation) (r result) {
	perPartition, slots := p.Devices/p.Partitions, int(s.outage/quarter)+1
	closes := max(s.pause, p.Grace) + p.Settle
	queue := func(delay time.Duration) *worker {
		x := &worker{plan: p}
		for k := range slots {
			for i := range perPartition {
				offset := time.Duration(float64(p.Spread) * float64(i) / float64(perPartition))
				end := time.Duration(k) * quarter
				x.due = append(x.due, max(end+closes, end+delay, s.outage)+offset)
			}
		}
		slices.Sort(x.due)
		return x
	}
	// Partitions are alike: one represents all with a running first worker, and one the others.
	dead := int(math.Round(s.firsts * float64(p.Partitions)))
	kinds := []struct {
		a, b *worker
		n    int
	}{{queue(p.Delay), queue(p.StandbyDelay), p.Partitions - dead}, {&worker{plan: p}, queue(p.StandbyDelay), dead}}
	total, second, all := slots*perPartition*p.Partitions, [2]int{}, 0
	for now := time.Duration(0); now < s.outage+3*quarter; now += step {
		there := 0
		for i := range kinds {
			k := &kinds[i]
			had := k.a.answered // answered before this step
			second[0] += k.n * k.a.send(now, 0)
			second[1] += k.n * k.b.send(now, had)
			there += k.n * max(k.a.answered, k.b.answered)
		}
		if r.half == 0 && there*2 >= total {
			r.half = now
		}
		if r.last == 0 && there >= total {
			r.last = now
		}
		if (now+step)%time.Second == 0 {
			for i, n := range [3]int{second[0], second[1], second[0] + second[1]} {
				r.peak[i] = max(r.peak[i], float64(n))
			}
			all, second = all+second[0]+second[1], [2]int{}
		}
	}
	r.requests = float64(all) / float64(total)
	return r
}

// worker is a simulated worker.
type worker struct {
	plan     Plan
	due      []time.Duration // times of its slots, sorted
	next     int             // index in due
	answered int             // slots
	inFlight []request       // in the order of their answers
	room     float64         // requests for which its core has time
	asks     int             // requests for single readings that must be sent
	share    float64         // fraction of a slot to ask for, carried over
}

type request struct {
	answer time.Duration
	slot   bool // a slot, not an ask
}

// send processes arrived answers and sends due requests, as max_concurrency and CPU allow. The board already has the first had
// slots. For some of these the worker sends each reading alone, as often as ocems/delivery allows.
func (x *worker) send(now time.Duration, had int) (sent int) {
	const perTurn = 5 * float64(quarter/time.Second) // requests
	for len(x.inFlight) > 0 && x.inFlight[0].answer <= now {
		if x.inFlight[0].slot {
			if x.answered++; x.answered <= had {
				if x.share += min(1, perTurn/float64(x.plan.Parameters*len(x.due))); x.share >= 1 {
					x.share--
					x.asks += x.plan.Parameters
				}
			}
		}
		x.inFlight = x.inFlight[1:]
	}
	perStep := step.Seconds() / x.plan.Slot.Seconds()
	x.room = min(x.room+perStep, 10*perStep)
	for len(x.inFlight) < x.plan.Concurrency && x.room >= 1 {
		switch {
		case x.asks > 0:
			x.asks--
			x.inFlight = append(x.inFlight, request{now + x.plan.Answer, false})
		case x.next < len(x.due) && x.due[x.next] <= now:
			x.next++
			x.inFlight = append(x.inFlight, request{now + x.plan.Answer, true})
		default:
			return sent
		}
		x.room--
		sent++
	}
	return sent
}
