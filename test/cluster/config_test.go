package cluster

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// TestBadLines posts lines that the brokers would refuse. They must not stop the lines behind them.
func TestBadLines(t *testing.T) {
	b := newBench(t, 20, 0)
	b.must(b.Gateway.Start())
	stored := func() uint64 { return b.last(0) + b.last(1) }
	long, fields := strings.Repeat("x", 20_000), ""
	for i := range 2000 {
		fields += fmt.Sprintf("f%d=%d,", i, i)
	}
	for _, bad := range []string{"stack,ocems_device_id=dev.1 so2=1", `stack,ocems_device_id=dev\ 1 so2=1`, "stack,ocems_device_id=* so2=1", "stack,ocems_device_id=> so2=1",
		"stack so2=1", "stack,ocems_device_id=dev_1 so2=1,text=\"" + long + "\"", "stack,ocems_device_id=dev_1,text=" + long + " so2=1", "stack,ocems_device_id=dev_1 " + fields + "so2=1"} {
		before := stored()
		name := bad[:min(len(bad), 50)]
		b.until("the gateway accepts it", func() bool { return b.Gateway.Post([]byte(bad+"\n")) == nil })
		b.must(b.Gateway.Post([]byte("stack,ocems_device_id=dev_1,ocems_unit=mg/Nm³ so2=81.25,pm=9i,on=true,flag=\"U\"\n")))
		b.until("the good line behind "+name+" is stored", func() bool { return stored() > before })
		if n := stored() - before; n != 1 {
			t.Errorf("%s: %d lines are stored, want the good one", name, n)
		}
	}
}

// TestRoutes starts a broker with a certificate of the same authority, such as a logger has. It must not become a part of the
// cluster, because a broker can read and write everything.
func TestRoutes(t *testing.T) {
	b := newBench(t, 1, 0)
	b.must(b.authority.issue("logger"))
	ports, err := freePorts(3)
	b.must(err)
	foreign := &process{name: "foreign", dir: b.Dir, argv: b.Brokers[0].argv, env: append(slices.Clone(b.Brokers[0].env),
		"NATS_NAME=foreign", "NATS_LISTEN=127.0.0.1:"+ports[0], "NATS_ROUTE_LISTEN=127.0.0.1:"+ports[1], "NATS_MONITOR=127.0.0.1:"+ports[2],
		"NATS_STORE="+filepath.Join(b.Dir, "foreign"), "NATS_CERT="+filepath.Join(b.certs, "logger.pem"), "NATS_KEY="+filepath.Join(b.certs, "logger-key.pem"))}
	b.must(foreign.Start())
	defer foreign.Kill()
	b.until("a broker refuses its route", func() bool {
		log, err := os.ReadFile(foreign.Log())
		return err == nil && strings.Contains(string(log), "Route Error 'Authorization Violation'")
	})
	for _, broker := range b.Brokers {
		resp, err := http.Get("http://" + broker.monitor + "/routez")
		b.must(err)
		text, err := io.ReadAll(resp.Body)
		b.must(errors.Join(err, resp.Body.Close()))
		if !strings.Contains(string(text), `"remote_name": "broker-`) || strings.Contains(string(text), `"remote_name": "foreign"`) {
			t.Errorf("the routes of %s: %s", broker.Name(), text)
		}
	}
}
