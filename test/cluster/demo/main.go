// Command demo runs examples/cluster on this machine: three brokers, two partitions with two workers each, and a board.
// While it publishes hours of readings of 300 devices, it kills a broker and a worker and deletes their disks. At the end it
// checks all slots at the board.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/ocems-io/ocems/test/cluster"
	"github.com/ocems-io/ocems/test/judge"
)

const (
	hours    = 6 * time.Hour    // time span of the readings
	within   = 40 * time.Second // time in which they are published
	away     = 4 * time.Second  // time until a killed process starts again
	deadline = 170 * time.Second
)

func main() {
	log.SetFlags(log.Ltime)
	root := flag.String("root", "../..", "`directory` of the repository")
	devices := flag.Int("devices", 300, "how many")
	keep := flag.Bool("keep", false, "keep the directory of the run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	dir, err := os.MkdirTemp("", "ocems-cluster-")
	if err != nil {
		log.Fatal(err)
	}
	v, err := run(ctx, *root, dir, *devices)
	if *keep {
		log.Print("the run is kept in ", dir)
	} else {
		_ = os.RemoveAll(dir)
	}
	if err != nil {
		log.Print(err)
	}
	if v == nil || !v.Print() || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, root, dir string, devices int) (v *judge.Verdict, err error) {
	// Short waits of worker.conf for a demonstration of two minutes. The readings are hours old, so every slot closes by settle.
	// The standby's settle is longer, so that it sends second, as it does with its delay.
	c, err := cluster.New(cluster.Config{
		Root: root, Dir: dir, Devices: cluster.Devices(devices), AckWait: 2 * time.Second,
		First:   []string{"OCEMS_GRACE=20s", "OCEMS_SETTLE=20s", "OCEMS_SPREAD=2s", "OCEMS_DELAY=20s"},
		Standby: []string{"OCEMS_GRACE=20s", "OCEMS_SETTLE=40s", "OCEMS_SPREAD=2s", "OCEMS_DELAY=40s"},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartBrokers(ctx); err != nil {
		return nil, err
	}
	log.Print("three brokers run; each partition has a stream with three replicas")
	if err := c.StartWorkers(); err != nil {
		return nil, err
	}
	log.Print("two workers per partition run; publishing ", hours, " of readings of ", devices, " devices")

	to := time.Now().Truncate(judge.Slot).Add(-judge.Slot)
	broker, worker := c.Brokers[0], c.Workers[0]
	var strikes sync.WaitGroup
	var struck error
	begun := false
	samples, err := c.Feed(ctx, to.Add(-hours), to, within, func(share float64) {
		if share > 0.6 && !begun {
			begun = true
			strikes.Go(func() { struck = strike(ctx, broker, worker) })
		}
	})
	strikes.Wait()
	if err := errors.Join(err, struck); err != nil {
		return nil, err
	}
	log.Print("all readings are acknowledged; waiting for the slots")

	wants := judge.Expect(samples, func(judge.Sample) time.Time { return to })
	for {
		got, err := c.Board.Received(ctx)
		if err == nil {
			v = wants.Compare(got)
		}
		if v != nil && len(v.Faults) == 0 && done(c, v.Accepted) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(time.Second):
			if err := c.Again(to); err != nil {
				return v, err
			}
		case <-ctx.Done():
		}
	}
	for _, w := range c.Workers {
		o, err := w.Outcomes()
		if err != nil {
			return v, err
		}
		fmt.Printf("%s: %d readings delivered, %d already at the board, %d too late for their slot\n", w.Name(), o.Delivered, o.Stored, o.Late)
	}
	return v, nil
}

// done reports whether both workers of each partition have an outcome for every reading at the board.
func done(c *cluster.Cluster, readings int) bool {
	outcomes := 0
	for _, w := range c.Workers {
		o, err := w.Outcomes()
		if err != nil {
			return false
		}
		outcomes += o.Delivered + o.Stored
	}
	return outcomes >= 2*readings
}

// strike kills a broker and a worker, deletes their disks, and starts them again.
func strike(ctx context.Context, b *cluster.Broker, w *cluster.Worker) error {
	log.Printf("kill -9 of %s and %s; their disks are deleted", b.Name(), w.Name())
	b.Kill()
	w.Kill()
	if err := errors.Join(b.Wipe(), w.Wipe()); err != nil {
		return err
	}
	select {
	case <-time.After(away):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := errors.Join(b.Start(), w.Start()); err != nil {
		return err
	}
	log.Printf("%s and %s run again, with empty disks", b.Name(), w.Name())
	return b.Ready(ctx)
}
