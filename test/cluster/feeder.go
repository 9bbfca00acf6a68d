package cluster

import (
	"context"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Feeder publishes like a gateway: to a subject of the device, in order per device. It repeats each message until it is
// acknowledged. If an acknowledgement is lost, the message is stored twice.
type Feeder struct {
	cluster *Cluster
	conn    *nats.Conn
	js      jetstream.JetStream
	lanes   []chan message
	done    sync.WaitGroup
	under   sync.WaitGroup // messages in flight

	mu                 sync.Mutex
	published, retried int
	err                error
}

type message struct {
	subject string
	data    []byte
}

const (
	lanes   = 64
	ackWait = 3 * time.Second // limit of one attempt
)

// NewFeeder connects as the user gateway.
func (c *Cluster) NewFeeder(ctx context.Context) (*Feeder, error) {
	conn, js, err := c.JetStream("gateway")
	if err != nil {
		return nil, fmt.Errorf("connecting the feeder: %w", err)
	}
	f := &Feeder{cluster: c, conn: conn, js: js}
	for range lanes {
		lane := make(chan message, 4)
		f.lanes = append(f.lanes, lane)
		f.done.Go(func() {
			for m := range lane {
				f.publish(ctx, m)
				f.under.Done()
			}
		})
	}
	return f, nil
}

// Connect connects to any broker as a user with a certificate.
func (c *Cluster) Connect(user string) (*nats.Conn, error) {
	return nats.Connect(c.URL(), nats.RootCAs(filepath.Join(c.certs, "ca.pem")), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.ClientCert(filepath.Join(c.certs, user+".pem"), filepath.Join(c.certs, user+"-key.pem")))
}

// JetStream is Connect with the streams of the user's account.
func (c *Cluster) JetStream(user string) (*nats.Conn, jetstream.JetStream, error) {
	conn, err := c.Connect(user)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, js, nil
}

// Stream looks up a partition's stream and calls use with it, within five seconds.
func (c *Cluster) Stream(ctx context.Context, partition int, use func(context.Context, jetstream.Stream) error) error {
	conn, js, err := c.JetStream(fmt.Sprintf("admin-%d", partition))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "READINGS")
	if err != nil {
		return err
	}
	return use(ctx, stream)
}

// Publish queues a message, and waits while the device's lane is full.
func (f *Feeder) Publish(device string, data []byte) { f.publishTo("readings.", device, data) }

func (f *Feeder) publishTo(prefix, device string, data []byte) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(device))
	f.under.Add(1)
	f.lanes[h.Sum32()%lanes] <- message{prefix + device, data}
}

func (f *Feeder) publish(ctx context.Context, m message) {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, ackWait)
		_, err := f.js.Publish(attempt, m.subject, m.data)
		cancel()
		f.mu.Lock()
		if err == nil {
			f.published++
		} else {
			f.retried, f.err = f.retried+1, err
		}
		f.mu.Unlock()
		if err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Flush waits until all messages are acknowledged.
func (f *Feeder) Flush() { f.under.Wait() }

// Close waits until every message is acknowledged or the context ends.
func (f *Feeder) Close() {
	for _, lane := range f.lanes {
		close(lane)
	}
	f.done.Wait()
	f.conn.Close()
}

// Stats returns the number of acknowledged messages, the number of failed attempts, and the last error.
func (f *Feeder) Stats() (published, retried int, last error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.published, f.retried, f.err
}
