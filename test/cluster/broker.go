package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/ocems-io/ocems/test/loopback"
)

// Broker is one nats-server of the cluster.
type Broker struct {
	process
	disk                    // for its streams
	address, route, monitor string
}

func newBrokers(c *Cluster) ([]*Broker, error) {
	var list []*Broker
	var routes []string
	ports, err := freePorts(9)
	if err != nil {
		return nil, err
	}
	for i := range 3 {
		b := &Broker{process: process{name: fmt.Sprintf("broker-%d", i+1), dir: c.Dir}}
		b.path = filepath.Join(c.Dir, b.name)
		host, err := c.Network.join(&b.process)
		if err != nil {
			return nil, err
		}
		b.address, b.route, b.monitor = net.JoinHostPort(host, ports[3*i]), net.JoinHostPort(host, ports[3*i+1]), net.JoinHostPort(host, ports[3*i+2])
		routes = append(routes, `"nats-route://`+b.route+`"`)
		list = append(list, b)
	}
	for _, b := range list {
		host, _, _ := net.SplitHostPort(b.route)
		if err := c.authority.issue(b.name, host); err != nil { // a route's certificate must have a name in NATS_ROUTES
			return nil, err
		}
		b.argv = []string{filepath.Join(c.Root, "bin/tools/nats-server"), "-c", filepath.Join(c.Root, "examples/cluster/nats-server.conf")}
		b.env = []string{"NATS_NAME=" + b.name, "NATS_LISTEN=" + b.address, "NATS_MONITOR=" + b.monitor, "NATS_ROUTE_LISTEN=" + b.route,
			"NATS_ROUTES=[" + strings.Join(routes, ",") + "]", "NATS_STORE=" + b.path, "NATS_MAX_FILE=4GB",
			"NATS_CERT=" + filepath.Join(c.certs, b.name+".pem"), "NATS_KEY=" + filepath.Join(c.certs, b.name+"-key.pem"), "NATS_CA=" + filepath.Join(c.certs, "ca.pem")}
	}
	return list, nil
}

// impatient does not wait long for a broker that hangs.
var impatient = &http.Client{Timeout: 2 * time.Second}

// Ready waits until the broker serves clients and is up to date with the others.
func (b *Broker) Ready(ctx context.Context) error {
	return b.until(ctx, "is ready", func() bool {
		resp, err := impatient.Get("http://" + b.monitor + "/healthz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// until waits for a condition.
func (p *process) until(ctx context.Context, what string, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s %s: %w:\n%s", p.name, what, ctx.Err(), p.tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// freePorts returns the ports of n addresses that are this process's own, also while a broker is down.
func freePorts(n int) (list []string, err error) {
	for len(list) < n {
		free, err := loopback.Free()
		if err != nil {
			return nil, err
		}
		list = append(list, strings.TrimPrefix(free, "127.0.0.1:"))
	}
	return list, nil
}
