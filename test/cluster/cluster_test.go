package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ocems-io/ocems/test/judge"
)

const root = "../.."

// quick has short waits of worker.conf for a test. They are longer than AckWait and than the time that a broker's followers
// need to catch up.
var quick = []string{"OCEMS_GRACE=20s", "OCEMS_SETTLE=20s", "OCEMS_SPREAD=1s", "OCEMS_DELAY=20s"}

// bench is a cluster under test with the published samples.
type bench struct {
	*Cluster
	t       *testing.T
	ctx     context.Context
	from    time.Time // start of the next readings
	to      time.Time // end of the last completely published slot
	samples []judge.Sample
}

// newCluster writes all files. Nothing runs yet.
func newCluster(t *testing.T, devices, rate int) *Cluster {
	t.Helper()
	for _, program := range []string{"tools/nats-server", "tools/nats", "telegraf-ocems-small"} {
		if _, err := os.Stat(filepath.Join(root, "bin", program)); err != nil {
			t.Skipf("%v: make test-cluster builds it", err)
		}
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Root: absolute, Dir: t.TempDir(), Devices: Devices(devices), AckWait: 2 * time.Second, Rate: rate, First: quick, Standby: quick})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, w := range c.Workers {
				t.Logf("the end of the log of %s:\n%s", w.Name(), w.tail())
			}
			t.Logf("the end of the log of the gateway:\n%s", c.Gateway.tail())
		}
	})
	return c
}

// newBench starts the brokers and creates the streams. The workers do not run yet.
func newBench(t *testing.T, devices, rate int) *bench {
	t.Helper()
	t.Parallel()
	c := newCluster(t, devices, rate)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	if err := c.StartBrokers(ctx); err != nil {
		t.Fatal(err)
	}
	return &bench{Cluster: c, t: t, ctx: ctx, from: time.Now().Truncate(judge.Slot).Add(-12 * time.Hour)}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// publish publishes hours of readings of all devices, and returns when they are acknowledged.
func (b *bench) publish(hours time.Duration, within time.Duration) {
	b.t.Helper()
	b.to = b.from.Truncate(judge.Slot).Add(hours)
	samples, err := b.Feed(b.ctx, b.from, b.to, within, func(float64) {})
	b.must(err)
	b.from, b.samples = b.to.Add(after), append(b.samples, samples...)
}

// consumer returns the brokers' information about a worker's consumer.
func (b *bench) consumer(partition int, worker string) *jetstream.ConsumerInfo {
	b.t.Helper()
	info, err := b.tryConsumer(partition, worker)
	b.must(err)
	return info
}

func (b *bench) tryConsumer(partition int, worker string) (info *jetstream.ConsumerInfo, err error) {
	err = b.Stream(b.ctx, partition, func(ctx context.Context, s jetstream.Stream) error {
		consumer, err := s.PushConsumer(ctx, worker)
		if err == nil {
			info = consumer.CachedInfo()
		}
		return err
	})
	return info, err
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for !ok() {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("%v: %s", b.ctx.Err(), what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// settled is until for work that the workers do when windows have settled.
func (b *bench) settled(what string, ok func() bool) {
	b.t.Helper()
	again := time.Now()
	b.until(what, func() bool {
		if time.Since(again) > time.Second {
			b.must(b.Again(b.to))
			again = time.Now()
		}
		return ok()
	})
}

// acknowledged waits until a worker has acknowledged all published messages.
func (b *bench) acknowledged(partition int, worker string) (info *jetstream.ConsumerInfo) {
	b.t.Helper()
	last := b.last(partition)
	b.until("all messages are acknowledged", func() bool {
		var err error
		info, err = b.tryConsumer(partition, worker)
		return err == nil && info.AckFloor.Stream >= last
	})
	return info
}

// last returns the number of a partition's newest message.
func (b *bench) last(partition int) (n uint64) {
	b.t.Helper()
	b.until("the stream exists", func() bool {
		err := b.Stream(b.ctx, partition, func(_ context.Context, s jetstream.Stream) error { n = s.CachedInfo().State.LastSeq; return nil })
		return err == nil
	})
	return n
}

// judged waits until the board has all slots, and checks each value.
func (b *bench) judged() {
	b.t.Helper()
	wants := judge.Expect(b.samples, func(judge.Sample) time.Time { return b.to })
	var v *judge.Verdict
	end := time.Now().Add(60 * time.Second)
	b.settled("the board has all slots", func() bool {
		got, err := b.Board.Received(b.ctx)
		b.must(err)
		v = wants.Compare(got)
		return len(v.Faults) == 0 || time.Now().After(end)
	})
	for i, f := range v.Faults {
		if i == 10 {
			b.t.Errorf("and %d more", len(v.Faults)-i)
			break
		}
		b.t.Error(f)
	}
	if v.Rejected > 0 {
		b.t.Errorf("the board rejected %d requests", v.Rejected)
	}
}
