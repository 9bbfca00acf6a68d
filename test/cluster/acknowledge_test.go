package cluster

import (
	"testing"
	"time"
)

// TestAcknowledge holds one worker of each partition to it: a message is acknowledged once its readings are on disk, neither
// before nor never, and a restart gets no acknowledged one again. All slots are right at the end.
func TestAcknowledge(t *testing.T) {
	b := newBench(t, 40, 0)
	first, other := b.Workers[0], b.Workers[2]
	noDisk := first.Disk(4 << 20) // bytes
	b.must(first.Start())
	b.must(other.Start())
	b.publish(time.Hour, time.Second)
	before := b.acknowledged(0, "a")
	if before.Delivered.Consumer == 0 {
		t.Fatal("no device is of partition 0")
	}

	t.Run("a restart keeps the consumer and gets nothing again", func(t *testing.T) {
		b.must(first.Stop())
		stopped := b.consumer(0, "a")
		if !stopped.Created.Equal(before.Created) {
			t.Errorf("the consumer of %s is one of %s now", before.Created, stopped.Created)
		}
		b.publish(time.Hour, time.Second)
		b.must(first.Start())
		after := b.acknowledged(0, "a")
		if got, want := after.Delivered.Consumer-before.Delivered.Consumer, after.Delivered.Stream-before.Delivered.Stream; got != want {
			t.Errorf("%d messages were published, and %d delivered", want, got)
		}
	})

	t.Run("what comes while it is killed and down", func(t *testing.T) {
		down := make(chan error, 1)
		go func() {
			time.Sleep(time.Second)
			first.Kill()
			time.Sleep(6 * time.Second)
			down <- first.Start()
		}()
		b.publish(time.Hour, 4*time.Second)
		b.must(<-down)
		b.acknowledged(0, "a")
	})

	t.Run("the broker of the consumer is killed", func(t *testing.T) {
		leader := b.consumer(0, "a").Cluster.Leader
		for _, broker := range b.Brokers {
			if broker.Name() != leader {
				continue
			}
			killed := make(chan error, 1)
			go func() {
				time.Sleep(time.Second)
				broker.Kill()
				time.Sleep(5 * time.Second)
				killed <- broker.Start()
			}()
			b.publish(time.Hour, 4*time.Second)
			b.must(<-killed)
			b.must(broker.Ready(b.ctx))
		}
		b.acknowledged(0, "a")
	})

	t.Run("what its full disk does not take is not acknowledged", func(t *testing.T) {
		if noDisk != nil {
			t.Skip(noDisk)
		}
		b.must(first.Fill())
		b.publish(6*time.Hour, time.Second) // more than the room in its state
		before := b.consumer(0, "a")
		time.Sleep(b.AckWait + 2*time.Second) // all of it is sent again
		during := b.consumer(0, "a")
		if during.AckFloor.Stream != before.AckFloor.Stream || during.NumAckPending == 0 {
			t.Errorf("acknowledged are %d messages, %d before; %d wait for it", during.AckFloor.Stream, before.AckFloor.Stream, during.NumAckPending)
		}
		first.Kill()
		b.must(first.Free())
		b.must(first.Start())
		b.acknowledged(0, "a")
	})

	b.judged()

	t.Run("a consumer that the worker itself made is gone when it stops", func(t *testing.T) {
		b.must(first.Stop())
		conn, err := b.Connect("admin-0")
		b.must(err)
		defer conn.Close()
		js, err := conn.JetStream()
		b.must(err)
		b.must(js.DeleteConsumer("READINGS", "a"))
		b.must(first.Start())
		b.acknowledged(0, "a")
		b.must(first.Stop())
		if info, err := b.tryConsumer(0, "a"); err == nil {
			t.Errorf("the consumer of %s is still there", info.Created)
		}
	})
	b.judged() // it got the whole stream again
}
