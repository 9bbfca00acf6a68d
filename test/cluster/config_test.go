package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/test/judge"
)

// In TestConfigurations each program checks its configuration file.
func TestConfigurations(t *testing.T) {
	c := newCluster(t, 1, 0)
	check := func(env []string, argv ...string) {
		t.Helper()
		command := exec.Command(argv[0], argv[1:]...)
		command.Env = append(os.Environ(), env...)
		if out, err := command.CombinedOutput(); err != nil || strings.Contains(string(out), "W! DeprecationWarning") {
			t.Errorf("%v: %v: %s", argv, err, out)
		}
	}
	broker, worker, gateway := c.Brokers[0], c.Workers[1], c.Gateway
	check(broker.env, append(broker.argv, "-t")...)
	check(nil, "bash", "-ec", `set -a; . "$1/examples/cluster/brokers.env"; NATS_CERT=$2.pem NATS_KEY=$2-key.pem NATS_CA=$3/ca.pem exec "$1/bin/tools/nats-server" -c "$1/examples/cluster/nats-server.conf" -t`,
		"bash", c.Root, filepath.Join(c.certs, broker.Name()), c.certs)
	check(worker.env, gateway.argv[0], "config", "check", "--strict-env-handling", "--config", filepath.Join(c.Root, "examples/cluster/worker.conf"))
	check(gateway.env, append([]string{gateway.argv[0], "config", "check"}, gateway.argv[1:]...)...)
}

// TestGateway posts to a stock Telegraf, which publishes to the partitions' streams, while brokers are killed.
func TestGateway(t *testing.T) {
	b := newBench(t, 20, 0)
	b.must(b.Workers[0].Start())
	b.must(b.Workers[2].Start())
	b.must(b.Gateway.Start())
	b.to = b.from.Add(2 * judge.Slot)
	post := func(from, to time.Time) {
		for i := range b.Devices {
			lines, samples := b.readings(i, from, to)
			b.until("the gateway accepts it", func() bool { return b.Gateway.Post(lines) == nil })
			b.samples = append(b.samples, samples...)
		}
	}
	post(b.from, b.from.Add(judge.Slot))
	for _, broker := range b.Brokers[:2] {
		broker.Kill()
		post(b.from.Add(judge.Slot), b.to)
		b.samples = b.samples[:2*2*15*len(b.Devices)] // the second time the samples are the same
		b.must(broker.Start())
		b.must(broker.Ready(b.ctx))
	}
	post(b.to, b.to.Add(after))
	b.judged()
	if b.last(0) == 0 || b.last(1) == 0 {
		t.Errorf("the partitions have %d and %d messages", b.last(0), b.last(1))
	}
}
