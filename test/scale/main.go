// Command scale works out what a cluster as in examples/cluster needs for a number of devices, from what one reading, one
// message and one slot cost, and plays a quarter of an hour of its workers and of the board, in steps of 10 ms, with and
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
)

// Plan is what is asked for.
type Plan struct {
	Devices, Parameters, Partitions, Brokers, Machines int
	Every                                              time.Duration // between two readings of a parameter
	PerMessage                                         int           // readings
	Kept                                               time.Duration // the streams' max_age

	Grace, Settle, Spread, Delay, StandbyDelay time.Duration // as in worker.conf; the first worker's delay, and the standby's
	Answer                                     time.Duration // of the board
	Concurrency                                int           // max_concurrency

	Costs
}

// Costs are those that make bench-cluster measures.
type Costs struct {
	Store, Deliver   time.Duration // CPU of all brokers a message: to store it three times; to deliver it to one worker
	Read, Slot       time.Duration // CPU of a worker: a reading taken, a slot closed and delivered
	Wire             float64       // bytes that all brokers receive of a message
	Disk             float64       // bytes a reading on each of three disks
	Memory           float64       // bytes of a worker a device
	Base             float64       // and of one with no device
	StateOfSlot      float64       // bytes that a worker writes a slot
	Election, Resend time.Duration // until followers have taken over from a dead broker; ack_wait
}

func defaults() (p Plan) {
	flag.IntVar(&p.Devices, "devices", 1_000_000, "how many")
	flag.IntVar(&p.Parameters, "parameters", 7, "of a device")
	flag.DurationVar(&p.Every, "every", time.Minute, "between two readings of a parameter")
	flag.IntVar(&p.PerMessage, "per-message", 7, "readings in a message")
	flag.IntVar(&p.Partitions, "partitions", 64, "each with two workers")
	flag.IntVar(&p.Brokers, "brokers", 6, "that share the streams, three replicas each")
	flag.IntVar(&p.Machines, "machines", 16, "of workers")
	flag.DurationVar(&p.Spread, "spread", time.Minute, "of the workers")
	flag.DurationVar(&p.Grace, "grace", 2*time.Minute, "of the workers")
	flag.DurationVar(&p.Settle, "settle", 2*time.Minute, "of the workers")
	flag.DurationVar(&p.Delay, "delay", 2*time.Minute, "of the first workers")
	flag.DurationVar(&p.StandbyDelay, "standby-delay", 5*time.Minute, "of the standbys")
	flag.DurationVar(&p.Answer, "answer", 60*time.Millisecond, "of the board, to a request")
	flag.IntVar(&p.Concurrency, "concurrency", 64, "max_concurrency of a worker")
	flag.Parse()
	p.Kept = 8 * 24 * time.Hour
	p.Costs = measured
	return p
}

func main() {
	p := defaults()
	if p.Devices < 1 || p.Partitions < 1 || p.Parameters < 1 || p.PerMessage < 1 || p.Brokers < 3 || p.Machines < 2 {
		fmt.Fprintln(os.Stderr, "scale: devices, parameters, partitions and per-message are 1 or more, brokers 3 or more, machines 2 or more")
		os.Exit(2)
	}
	p.needs(os.Stdout)
	fmt.Println()
	p.play(os.Stdout)
}

// needs prints the arithmetic.
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
	row("streams on disk, TB in "+p.Kept.String(), fmt.Sprintf("%.1f", 3*kept*p.Disk/1e12), fmt.Sprintf("%.1f a broker", 3*kept*p.Disk/1e12/float64(p.Brokers)))
	row("written by workers a day, GB", f(2*slots*86400*p.StateOfSlot/1e9), f(slots*86400*p.StateOfSlot/1e9/float64(p.Partitions))+" a worker, slots alone")
	replay := kept / float64(p.Partitions) * p.Read.Seconds()
	again := float64(p.Devices) / float64(p.Partitions) * p.Kept.Seconds() / quarter.Seconds()
	row("a worker without its state reads the whole stream", "", fmt.Sprintf("%s of a core, then %s requests to the board in %s or more", time.Duration(replay*1e9).Round(time.Minute), f(again), time.Duration(again/p.rate()*1e9).Round(time.Minute)))
}

const quarter = 15 * time.Minute

// rate is how many requests a second a worker makes at most: by the places that it has, and by one core.
func (p Plan) rate() float64 {
	return min(float64(p.Concurrency)/p.Answer.Seconds(), 1/p.Slot.Seconds())
}

// f is a number with three digits that count.
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

// scenario is what fails, and when: times count from a window's end.
type scenario struct {
	name    string
	firsts  float64       // share of the first workers that are dead from the window's end on
	pause   time.Duration // no reading comes from the window's end on
	spread  bool
	outage  time.Duration // the board answers nobody until then
	standby bool
}

const step = 10 * time.Millisecond

// worker is one in the play: requests that are due, in their order, and those in flight.
type worker struct {
	due      []time.Duration // of the slots, sorted
	first    bool
	next     int
	inFlight []time.Duration // when they are answered, in order
	budget   float64         // requests that its core has left
	asks     []time.Duration // further requests, for single readings
	owed     time.Duration   // until when the asks are paid off, see ocems/delivery
}

// play prints what the board sees.
func (p Plan) play(w io.Writer) {
	fmt.Fprintln(w, "| situation | slots there, after the end: half | last | posts/s: first workers, peak | standbys, peak | all, peak | requests a slot |\n|---|---|---|---|---|---|---|")
	for _, s := range []scenario{
		{name: "all is well", spread: true, standby: true},
		{name: "`spread = \"0s\"`", standby: true},
		{name: "one broker dies at the boundary", spread: true, standby: true, pause: p.Election + p.Resend},
		{name: "one machine of first workers dies", spread: true, standby: true, firsts: 1 / float64(max(1, p.Machines/2))},
		{name: "all first workers die", spread: true, standby: true, firsts: 1},
		{name: "the board is away for an hour", spread: true, standby: true, outage: time.Hour},
	} {
		p.playOne(w, s)
	}
}

func (p Plan) playOne(w io.Writer, s scenario) {
	perPartition := p.Devices / p.Partitions
	closes := max(s.pause, p.Grace) + p.Settle
	slots := 1
	if s.outage > 0 {
		slots = int(s.outage/quarter) + 1
	}
	make1 := func(delay time.Duration, first bool) *worker {
		x := &worker{first: first}
		for k := range slots { // the oldest first; of an outage all but the last one are due when the board answers
			for i := range perPartition {
				var offset time.Duration
				if s.spread {
					offset = time.Duration(float64(p.Spread) * float64(i) / float64(perPartition))
				}
				at := time.Duration(k) * quarter
				x.due = append(x.due, max(at+closes+offset, at+delay, s.outage+offset))
			}
		}
		slices.Sort(x.due)
		return x
	}
	// Partitions are alike: one of each kind stands for all.
	dead := int(math.Round(s.firsts * float64(p.Partitions)))
	type kind struct {
		first, standby *worker
		n              int
		have           []bool // by order of due
		there          int
	}
	kinds := []*kind{{make1(p.Delay, true), make1(p.StandbyDelay, false), p.Partitions - dead, nil, 0}, {&worker{}, make1(p.StandbyDelay, false), dead, nil, 0}}
	var posts, postsFirst, postsStandby int
	perSecond := map[int][2]int{}
	var half, last time.Duration
	total, there := 0, 0
	for _, k := range kinds {
		if k.n > 0 {
			total += slots * perPartition * k.n
		}
	}
	end := s.outage + closes + 2*quarter
	for now := time.Duration(0); now < end; now += step {
		for _, k := range kinds {
			if k.n == 0 {
				continue
			}
			sentFirst, doneFirst := k.first.send(p, now)
			sentStandby, doneStandby := k.standby.send(p, now)
			c := perSecond[int(now/time.Second)]
			perSecond[int(now/time.Second)] = [2]int{c[0] + sentFirst*k.n, c[1] + sentStandby*k.n}
			postsFirst, postsStandby = postsFirst+sentFirst*k.n, postsStandby+sentStandby*k.n
			// The board has a slot once whoever is ahead has its answer.
			_, _ = doneFirst, doneStandby
			if got := max(k.first.answered(), k.standby.answered()); got > k.there {
				there += (got - k.there) * k.n
				k.there = got
			}
			// What the first one has not delivered yet, the standby delivers itself and asks nothing about.
			k.standby.ask(p, now, doneStandby, k.first.answered() >= k.standby.answered())
		}
		if half == 0 && there*2 >= total {
			half = now
		}
		if last == 0 && there >= total {
			last = now
		}
	}
	posts = postsFirst + postsStandby
	var peak [3]int
	for _, c := range perSecond {
		peak = [3]int{max(peak[0], c[0]), max(peak[1], c[1]), max(peak[2], c[0]+c[1])}
	}
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %.2f |\n", s.name, half.Round(time.Second), last.Round(time.Second), f(float64(peak[0])), f(float64(peak[1])), f(float64(peak[2])), float64(posts)/float64(total))
}

// send sends what is due in this step, as far as there are places and CPU, and says how many slots were answered.
func (x *worker) send(p Plan, now time.Duration) (sent, done int) {
	for len(x.inFlight) > 0 && x.inFlight[0] <= now {
		x.inFlight = x.inFlight[1:]
		done++
	}
	x.budget = min(x.budget+step.Seconds()/p.Slot.Seconds(), 10*step.Seconds()/p.Slot.Seconds())
	take := func() bool {
		if len(x.inFlight) >= p.Concurrency || x.budget < 1 {
			return false
		}
		x.inFlight, x.budget = append(x.inFlight, now+p.Answer), x.budget-1
		sent++
		return true
	}
	for len(x.asks) > 0 && take() {
		x.asks = x.asks[1:]
		x.next-- // answered counts slots alone
		x.next++
	}
	for x.next < len(x.due) && x.due[x.next] <= now && take() {
		x.next++
	}
	return sent, done
}

// answered is of how many of its slots it has an answer.
func (x *worker) answered() int { return max(0, x.next-len(x.inFlight)) }

// ask notes the further requests of slots that the board had: one for each reading, as often as ocems/delivery allows.
func (x *worker) ask(p Plan, now time.Duration, answered int, had bool) {
	const interval, burst = time.Second / 5, quarter
	for ; had && answered > 0; answered-- {
		if x.owed = max(x.owed, now); x.owed-now > burst {
			return
		}
		x.owed += time.Duration(p.Parameters) * interval
		for range p.Parameters {
			x.asks = append(x.asks, now)
		}
	}
}
