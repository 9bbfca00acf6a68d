package cluster

import (
	"testing"
	"time"
)

// TestAcknowledge checks that a worker acknowledges a message when its readings are on disk, and not earlier. After a restart
// it gets no acknowledged message again. At the end all slots are right.
func TestAcknowledge(t *testing.T) {
	b := newBench(t, 40, 0)
	first, other := b.Workers[0], b.Workers[2]
	noDisk := first.Disk(4 << 20) // bytes
	b.must(first.Start())
	b.must(other.Start())
	b.publish(time.Hour, time.Second)
	before := b.acknowledged(0, "a")
	if before.Delivered.Consumer == 0 {
		t.Fatal("partition 0 has no device")
	}

	t.Run("a restart keeps the consumer and gets nothing again", func(t *testing.T) {
		b.must(first.Stop())
		stopped := b.consumer(0, "a")
		if !stopped.Created.Equal(before.Created) {
			t.Errorf("the consumer created at %s is now one created at %s", before.Created, stopped.Created)
		}
		b.publish(time.Hour, time.Second)
		b.must(first.Start())
		after := b.acknowledged(0, "a")
		if got, want := after.Delivered.Consumer-before.Delivered.Consumer, after.Delivered.Stream-before.Delivered.Stream; got != want {
			t.Errorf("%d messages were published, and %d delivered", want, got)
		}
	})

	t.Run("messages that arrive while it is killed and down", func(t *testing.T) {
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

	t.Run("messages that do not fit on its full disk are not acknowledged", func(t *testing.T) {
		if noDisk != nil {
			t.Skip(noDisk)
		}
		b.must(first.Fill())
		b.publish(6*time.Hour, time.Second) // more than the free space in its state
		before := b.consumer(0, "a")
		time.Sleep(b.AckWait + 2*time.Second) // all messages are sent again
		during := b.consumer(0, "a")
		if during.AckFloor.Stream != before.AckFloor.Stream || during.NumAckPending == 0 {
			t.Errorf("%d messages are acknowledged, %d before; %d wait for it", during.AckFloor.Stream, before.AckFloor.Stream, during.NumAckPending)
		}
		first.Kill()
		b.must(first.Free())
		b.must(first.Start())
		b.acknowledged(0, "a")
	})

	b.judged()

	t.Run("a consumer that the worker created ends when the worker stops", func(t *testing.T) {
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
			t.Errorf("the consumer created at %s still exists", info.Created)
		}
	})
	b.judged() // the worker got the whole stream again
}
