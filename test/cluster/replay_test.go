package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// In TestReplay a worker without a state catches up. Meanwhile all brokers hang for longer than grace and settle, one broker
// is killed and loses its disk, and the worker is killed. If a slot closed in a pause, it would lack readings. The board has
// no slots at the beginning.
func TestReplay(t *testing.T) {
	b := newBench(t, 100, 1_000_000)
	b.publish(6*time.Hour, 2*time.Second)
	first, other := b.Workers[0], b.Workers[2]
	total := b.consumer(0, "a").NumPending
	b.must(other.Start())
	b.must(first.Start())
	for n := range 3 {
		var info *jetstream.ConsumerInfo
		b.until("part of the stream is delivered", func() (ok bool) {
			var err error
			info, err = b.tryConsumer(0, "a")
			return err == nil && info.Delivered.Stream > total*uint64(n+1)/5
		})
		if info.NumPending == 0 {
			t.Fatal("the whole stream is delivered before the first fault")
		}
		switch n {
		case 0:
			for _, broker := range b.Brokers {
				broker.Pause()
			}
			time.Sleep(25 * time.Second)
			for _, broker := range b.Brokers {
				broker.Resume()
			}
		case 1:
			leader := info.Cluster.Leader
			for _, broker := range b.Brokers {
				if broker.Name() == leader {
					broker.Kill()
					b.must(broker.Wipe())
					b.must(broker.Start())
				}
			}
		case 2: // while it has messages in memory
			first.Kill()
			b.must(first.Wipe())
			b.must(first.Start())
		}
	}
	b.acknowledged(0, "a")
	b.judged()
}

// TestLostDiskInAnOutage starts a worker without its state while the brokers cannot answer. The messages that it had
// acknowledged must be delivered again, by a consumer that is created as soon as the brokers answer.
func TestLostDiskInAnOutage(t *testing.T) {
	b := newBench(t, 20, 0)
	first := b.Workers[0]
	b.must(first.Start())
	b.publish(time.Hour, time.Second)
	before := b.acknowledged(0, "a")
	first.Kill()
	b.must(first.Wipe())
	cli := filepath.Join(b.Dir, "nats-that-fails-once")
	b.must(os.WriteFile(cli, []byte(fmt.Sprintf(`#!/bin/sh
if mkdir "$0.asked" 2>/dev/null; then
	echo "nats: error: JetStream system temporarily unavailable (10008)" >&2
	exit 1
fi
exec %q "$@"
`, filepath.Join(b.Root, "bin/tools/nats"))), 0o700))
	first.env = append(first.env, "OCEMS_NATS_CLI="+cli)
	b.must(first.Start())
	b.until("the consumer is created again", func() bool {
		info, err := b.tryConsumer(0, "a")
		return err == nil && info.Created.After(before.Created) && info.AckFloor.Stream >= before.AckFloor.Stream
	})
}
