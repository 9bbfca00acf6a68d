//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ocems-io/ocems/test/cluster"
)

// fault is one kind of fault.
type fault struct {
	name  string
	takes bool // a worker loses its disk
	stops bool // the streams stop, because two or more brokers are away
	// strike causes the fault and returns when it is over. It calls begins with the process and its partition; -1 is all.
	strike func(random *rand.Rand, begins func(part string, partition int)) error
}

// event is one fault that has happened.
type event struct {
	kind          string
	worker        string // "" for brokers
	partition     int    // -1 is all
	takes, stops  bool
	begin, mended time.Time
}

// strike causes n faults in random order, each kind equally often.
func (t *torture) strike(random *rand.Rand, list []fault, n int) error {
	var deck []fault
	for ; n > 0 && t.ctx.Err() == nil; n-- {
		if len(deck) == 0 {
			for _, i := range random.Perm(len(list)) {
				if strings.Contains(list[i].name, t.only) {
					deck = append(deck, list[i])
				}
			}
			if len(deck) == 0 {
				return nil
			}
		}
		f := deck[0]
		deck = deck[1:]
		if err := t.pause(t.apart + between(random, 1, 4)); err != nil {
			return err
		}
		e := event{kind: f.name, takes: f.takes, stops: f.stops, partition: -1}
		err := f.strike(random, func(part string, partition int) {
			log.Printf("%s: %s", part, f.name)
			e.begin, e.partition = time.Now(), partition
			if partition >= 0 {
				e.worker = part
			}
		})
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		e.mended = time.Now()
		t.mu.Lock()
		t.events = append(t.events, e)
		t.mu.Unlock()
	}
	return t.ctx.Err()
}

func between(random *rand.Rand, least, most float64) time.Duration {
	return time.Duration((least + random.Float64()*(most-least)) * float64(time.Second))
}

func (t *torture) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

// ready waits until brokers are up to date and each stream has a leader.
func (t *torture) ready(list ...*cluster.Broker) error {
	ctx, cancel := context.WithTimeout(t.ctx, time.Minute)
	defer cancel()
	for _, b := range list {
		if err := b.Ready(ctx); err != nil {
			return err
		}
	}
	return t.elected("")
}

// brokerFaults returns the faults of brokers. If alone is true, the processes have their own addresses and disks.
func (t *torture) brokerFaults(alone bool) []fault {
	// some disturbs between least and n brokers, mends them after a while, and waits until they are up to date.
	some := func(name string, least, n int, from, to float64, strike, mend func(*cluster.Broker) error) fault {
		return fault{name: name, stops: least > 1, strike: func(random *rand.Rand, begins func(string, int)) error {
			var list []*cluster.Broker
			var names []string
			for _, i := range random.Perm(len(t.Brokers))[:least+random.IntN(n-least+1)] {
				list, names = append(list, t.Brokers[i]), append(names, t.Brokers[i].Name())
			}
			begins(strings.Join(names, " and "), -1)
			away := between(random, from, to)
			var err error
			for _, b := range list {
				err = errors.Join(err, strike(b))
			}
			err = errors.Join(err, t.pause(away))
			for _, b := range list {
				err = errors.Join(err, mend(b))
			}
			return errors.Join(err, t.ready(list...))
		}}
	}
	kill := func(b *cluster.Broker) error { b.Kill(); return nil }
	hang := func(b *cluster.Broker) error { b.Pause(); return nil }
	resume := func(b *cluster.Broker) error { b.Resume(); return nil }
	list := []fault{
		some("kill -9 of a broker", 1, 1, 0, 8, kill, (*cluster.Broker).Start),
		some("kill -9 of two or three brokers", 2, 3, 0, 8, kill, (*cluster.Broker).Start),
		some("a broker hangs", 1, 1, 3, 15, hang, resume),
		some("two or three brokers hang", 2, 3, 3, 30, hang, resume), // longer than settle
		some("a broker is slow", 1, 1, 0, 0, t.slow, resume),
		{name: "a broker's disk is lost", strike: func(random *rand.Rand, begins func(string, int)) error {
			b := t.Brokers[random.IntN(len(t.Brokers))]
			begins(b.Name(), -1)
			b.Kill()
			// A broker with an empty disk cannot vote, so the others must elect a leader before it starts.
			return errors.Join(b.Wipe(), t.elected(b.Name()), b.Start(), t.ready(b))
		}},
	}
	if alone {
		list = append(list,
			some("a broker is cut off", 1, 1, 3, 15, func(b *cluster.Broker) error { return b.Cut() }, func(b *cluster.Broker) error { return b.Heal() }),
			some("two or three brokers are cut off", 2, 3, 3, 30, func(b *cluster.Broker) error { return b.Cut() }, func(b *cluster.Broker) error { return b.Heal() }),
			some("a broker's disk is full", 1, 1, 3, 8, func(b *cluster.Broker) error { return b.Fill() }, func(b *cluster.Broker) error {
				b.Kill() // JetStream stays off until a restart
				return errors.Join(b.Free(), b.Start())
			}))
	}
	return list
}

// slow lets a broker run for only a fifth of the time, for 8 seconds.
func (t *torture) slow(b *cluster.Broker) error {
	for range 32 {
		b.Pause()
		if err := t.pause(200 * time.Millisecond); err != nil {
			return err
		}
		b.Resume()
		if err := t.pause(50 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// elected waits until each partition's stream has a leader that is not the given broker.
func (t *torture) elected(other string) error {
	for p := 0; p < cluster.Partitions; {
		leader := ""
		err := t.Stream(t.ctx, p, func(ctx context.Context, s jetstream.Stream) error {
			leader = s.CachedInfo().Cluster.Leader
			return nil
		})
		if err == nil && leader != "" && leader != other {
			p++
			continue
		}
		if err := t.pause(200 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// workerFaults returns the faults of workers.
func (t *torture) workerFaults(alone bool) []fault {
	of := func(name string, takes bool, strike func(*rand.Rand, *cluster.Worker) error) fault {
		return fault{name: name, takes: takes, strike: func(random *rand.Rand, begins func(string, int)) error {
			w := t.Workers[random.IntN(len(t.Workers))]
			begins(w.Name(), w.Partition)
			return strike(random, w)
		}}
	}
	list := []fault{
		of("kill -9 of a worker", false, func(random *rand.Rand, w *cluster.Worker) error {
			w.Kill()
			return errors.Join(t.pause(between(random, 0, 8)), w.Start())
		}),
		of("a worker's disk is lost", true, func(random *rand.Rand, w *cluster.Worker) error {
			w.Kill()
			return errors.Join(w.Wipe(), t.pause(between(random, 0, 8)), w.Start())
		}),
		// Longer than ack_wait, so unacknowledged messages are sent again.
		of("a worker hangs", false, func(random *rand.Rand, w *cluster.Worker) error {
			w.Pause()
			defer w.Resume()
			return t.pause(between(random, 3, 20))
		}),
		of("a worker is removed, another added", true, func(random *rand.Rand, w *cluster.Worker) error {
			err := errors.Join(w.Stop(), w.Wipe())
			for err == nil {
				gone := t.Stream(t.ctx, w.Partition, func(ctx context.Context, s jetstream.Stream) error {
					return s.DeleteConsumer(ctx, w.Name()[len(w.Name())-1:])
				})
				if gone == nil || errors.Is(gone, jetstream.ErrConsumerNotFound) {
					break
				}
				err = t.pause(20 * time.Second) // as consumer.sh: the request may still be under way
			}
			return errors.Join(err, t.pause(between(random, 0, 8)), w.Start())
		}),
	}
	if alone {
		list = append(list,
			of("a worker is cut off", false, func(random *rand.Rand, w *cluster.Worker) error {
				return errors.Join(w.Cut(), t.pause(between(random, 1, 15)), w.Heal())
			}),
			of("a worker's disk is full", false, func(random *rand.Rand, w *cluster.Worker) error {
				return errors.Join(w.Fill(), t.pause(between(random, 3, 8)), w.Free())
			}))
	}
	return list
}
