//go:build linux

// Command torture runs examples/cluster with faults in random order and checks the slots at the board: none is lost, none is
// wrong, none is sent twice without need.
//
// It publishes days of readings, a slot every few seconds. Meanwhile brokers and workers are killed, hang, are cut off, and
// lose or fill their disks. At any time there is at most one fault of brokers and one of a worker. The same seed gives the
// same choices, but the timing of processes differs.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ocems-io/ocems/test/cluster"
	"github.com/ocems-io/ocems/test/judge"
)

// Waits of worker.conf, as in the demo. The readings are days old, so every slot closes by settle. The standby's settle is
// longer by the length of its delay.
const (
	settle  = 20 * time.Second
	standby = 40 * time.Second
	ackWait = 2 * time.Second
	goal    = standby + time.Minute // time limit for every slot to be at the board
)

const (
	pace    = 4 * time.Second // time in which a slot is published
	history = 6 * 24 * time.Hour
	step    = cluster.Interval * cluster.PerMessage
	disk    = 512 << 20 // bytes
)

type options struct {
	root    string
	devices int
	faults  int
	seed    uint64
	only    string
	keep    bool
	drain   time.Duration
	apart   time.Duration
}

func main() {
	log.SetFlags(log.Ltime)
	var o options
	flag.StringVar(&o.root, "root", ".", "`directory` of the repository")
	flag.IntVar(&o.devices, "devices", 40, "number of devices")
	flag.IntVar(&o.faults, "faults", 10, "number of faults")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of the random choices")
	flag.StringVar(&o.only, "only", "", "only faults whose name contains this `text`")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory of the run")
	flag.DurationVar(&o.drain, "drain", 4*time.Minute, "how long the slots may take after the last fault")
	flag.DurationVar(&o.apart, "apart", 0, "one fault after the other with this `time` between two, for how late slots are after each kind")
	flag.Parse()
	alone, err := isolate()
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, o, alone)
	if err != nil {
		log.Print(err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// isolated is a variable that tells the process that it is in its own namespaces.
const isolated = "OCEMS_TORTURE_ISOLATED"

// isolate runs this program again with its own network and mounts, which end with it, and does not return. It returns true in
// that second process. Without root it returns false, and the program runs without isolation.
func isolate() (bool, error) {
	if os.Getenv(isolated) != "" {
		return true, errors.Join(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), os.MkdirAll("/run/netns", 0o755),
			syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""))
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), isolated+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := again.Start(); err != nil {
		log.Print("left out: cuts of the network and full disks, which need root: ", err)
		return false, nil
	}
	signal.Ignore(os.Interrupt) // the second process gets it as well
	err := again.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return false, err
	}
	os.Exit(again.ProcessState.ExitCode())
	return false, nil
}

// torture is one run.
type torture struct {
	*cluster.Cluster
	options
	ctx    context.Context
	start  time.Time // start of the feed
	from   time.Time // time of the first reading
	to     time.Time // end of the last slot
	events []event

	mu sync.Mutex
}

func run(ctx context.Context, o options, alone bool) (ok bool, err error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "torture-cluster-")
	if err != nil {
		return false, err
	}
	log.Printf("seed %d, in %s", o.seed, dir)
	waits := func(settle time.Duration) []string {
		return []string{fmt.Sprint("OCEMS_GRACE=", settle), fmt.Sprint("OCEMS_SETTLE=", settle), "OCEMS_SPREAD=2s", fmt.Sprint("OCEMS_DELAY=", settle)}
	}
	cfg := cluster.Config{Root: root, Dir: dir, Devices: cluster.Devices(o.devices), AckWait: ackWait, First: waits(settle), Standby: waits(standby)}
	if alone {
		if cfg.Network, err = cluster.NewNetwork(); err != nil {
			return false, err
		}
	}
	c, err := cluster.New(cfg)
	if err != nil {
		return false, err
	}
	defer func() {
		err = errors.Join(err, c.Close())
		if ok && !o.keep {
			_ = os.RemoveAll(dir)
		}
	}()
	ctx, end := context.WithCancel(ctx)
	defer end()
	t := &torture{Cluster: c, options: o, ctx: ctx, from: time.Now().Add(-history).Truncate(judge.Slot)}
	if alone {
		for _, b := range c.Brokers {
			err = errors.Join(err, b.Disk(disk))
		}
		for _, w := range c.Workers {
			err = errors.Join(err, w.Disk(disk))
		}
	}
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := errors.Join(err, c.StartBrokers(starting), c.StartWorkers()); err != nil {
		return false, err
	}

	// Faults of brokers, faults of workers and the feed run in parallel.
	random := rand.New(rand.NewPCG(o.seed, 0))
	lanes := [][]fault{t.brokerFaults(alone), t.workerFaults(alone)}
	if o.apart > 0 {
		lanes = [][]fault{slices.Concat(lanes...)}
	}
	errs := make([]error, len(lanes))
	var striking sync.WaitGroup
	t.start = time.Now()
	for i, list := range lanes {
		lane := rand.New(rand.NewPCG(random.Uint64(), 1))
		striking.Go(func() {
			if errs[i] = t.strike(lane, list, (o.faults+i)/len(lanes)); errs[i] != nil {
				end() // it would wait in vain for a fault that is not mended
			}
		})
	}
	struck := make(chan struct{})
	go func() { striking.Wait(); close(struck) }()
	wants, err := t.feed(struck)
	<-struck
	if err := errors.Join(append(errs, err)...); err != nil {
		return false, err
	}
	log.Print("all readings are acknowledged; waiting for the slots")
	v := t.drained(wants)
	ok = t.report(v)
	if !ok || o.keep {
		fmt.Printf("the run is kept in %s; again with -seed %d\n", dir, o.seed)
	}
	fmt.Printf("torture-cluster: brokers=%d workers=%d faults=%d slots=%d lost=%d wrong=%d twice=%d standby_111=%d seed=%d\n",
		len(c.Brokers), len(c.Workers), len(t.events), v.slots, v.lost, v.wrong, v.twice, v.standby, o.seed)
	return ok, nil
}

// feed publishes until the faults are over and the last slot is complete. It returns when all messages are acknowledged.
func (t *torture) feed(struck <-chan struct{}) (judge.Wants, error) {
	f, err := t.NewFeeder(t.ctx)
	if err != nil {
		return nil, err
	}
	var samples []judge.Sample
	var to time.Time // zero while faults go on
	for at := t.from; to.IsZero() || at.Before(to.Add(step)); at = at.Add(step) {
		select {
		case <-time.After(time.Until(t.due(at.Add(step)))):
		case <-t.ctx.Done():
			return nil, t.ctx.Err()
		}
		select {
		case <-struck:
			if to.IsZero() {
				to = at.Truncate(judge.Slot).Add(judge.Slot)
			}
		default:
			if time.Since(at) < 2*time.Hour {
				return nil, errors.New("publishing: the history ended before the faults")
			}
		}
		samples = append(samples, f.Readings(at, at.Add(step))...)
	}
	t.to = to
	f.Close()
	published, retried, last := f.Stats()
	log.Printf("%d messages were published; %d attempts failed, the last one: %v", published, retried, last)
	return judge.Expect(samples, func(judge.Sample) time.Time { return to }), t.ctx.Err()
}

// due returns when the readings up to a time must be published.
func (t *torture) due(at time.Time) time.Time {
	return t.start.Add(time.Duration(float64(at.Sub(t.from)) / float64(judge.Slot) * float64(pace)))
}

// drained waits until the board has all slots and both workers of each partition know this.
func (t *torture) drained(wants judge.Wants) (v verdict) {
	for end := time.Now().Add(t.drain); ; {
		got, err := t.Board.Received(t.ctx)
		if err == nil {
			v = t.judge(wants, got, t.Board.Requests())
		}
		if err == nil && v.lost+v.alone == 0 || time.Now().After(end) || t.ctx.Err() != nil {
			return v
		}
		select {
		case <-time.After(2 * time.Second):
			if err := t.Again(t.to); err != nil {
				log.Print("publishing once more: ", err)
			}
		case <-t.ctx.Done():
		}
	}
}

// report prints the table, and reports whether all is well.
func (t *torture) report(v verdict) bool {
	for i, f := range v.faults {
		if i == 15 {
			fmt.Printf("and %d more\n", len(v.faults)-i)
			break
		}
		fmt.Println(f)
	}
	fmt.Printf("%-36s %5s %6s %9s %9s\n", "while", "times", "slots", "median", "max")
	slow := 0
	for _, row := range t.table(v) {
		fmt.Printf("%-36s %5d %6d %9s %9s\n", row.kind, row.times, row.slots, row.median.Round(100*time.Millisecond), row.longest.Round(100*time.Millisecond))
		if row.longest > goal && row.kind != several {
			slow++
		}
	}
	if len(v.late) > 0 {
		l := slices.MaxFunc(v.late, func(x, y late) int { return cmp.Compare(t.lateness(x), t.lateness(y)) })
		fmt.Printf("the latest: %s %s, published until %s, delivered at %s by %s\n", l.device, time.UnixMilli(l.stamp).UTC().Format(time.RFC3339),
			l.due.Format(time.TimeOnly), l.at.Format(time.TimeOnly), l.worker)
	}
	if v.alone > 0 {
		fmt.Printf("%d slots for which a worker never got an answer\n", v.alone)
	}
	fmt.Printf("goal: at most %s from the end of a slot's readings; kinds of fault above it: %d\n", goal, slow)
	return cmp.Or(v.lost, v.wrong, v.twice, v.alone, slow) == 0
}
