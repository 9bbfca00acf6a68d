package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config has the options of a run.
type Config struct {
	Root    string // directory of the repository; its bin has the programs
	Dir     string // directory of the run
	Devices []Device
	AckWait time.Duration // the brokers send an unacknowledged message again after this time
	Network *Network      // of brokers and workers; nil is the loopback
	Rate    int           // limit of a consumer's delivery, bits per second; 0 is no limit

	// First and Standby are variables of worker.conf for the two workers of each partition, such as OCEMS_GRACE=20s.
	First, Standby []string
}

// Partitions is the number of partitions in accounts.conf.
const Partitions = 2

// Cluster has all processes and files of examples/cluster.
type Cluster struct {
	Config
	Board   *Board
	Brokers []*Broker
	Workers []*Worker // first worker and standby of each partition
	Gateway *Gateway

	certs     string // directory
	list      string // the devices_file
	consumer  string // the example's consumer.json with the changes of Config
	authority *authority
}

// New writes all files and starts the board. Nothing else runs yet.
func New(cfg Config) (c *Cluster, err error) {
	c = &Cluster{Config: cfg, certs: filepath.Join(cfg.Dir, "certs"), list: filepath.Join(cfg.Dir, "devices.csv"), consumer: filepath.Join(cfg.Dir, "consumer.json")}
	if err := os.MkdirAll(c.certs, 0o700); err != nil {
		return nil, err
	}
	if c.authority, err = newAuthority(c.certs, c.Network.addresses()); err != nil {
		return nil, err
	}
	for _, user := range []string{"gateway", "admin-gateways", "admin-0", "admin-1"} {
		if err := c.authority.issue(user); err != nil {
			return nil, err
		}
	}
	if c.Board, err = newBoard(cfg, c.Network.board()); err != nil {
		return nil, err
	}
	if err := c.Board.writeDevices(c.list, c.Devices); err != nil {
		return nil, err
	}
	if err := c.writeConsumer(); err != nil {
		return nil, err
	}
	if c.Brokers, err = newBrokers(c); err != nil {
		return nil, err
	}
	if c.Gateway, err = newGateway(c); err != nil {
		return nil, err
	}
	for partition := range Partitions {
		for _, w := range []struct {
			id        string
			variables []string
		}{{"a", cfg.First}, {"b", cfg.Standby}} {
			worker, err := newWorker(c, partition, w.id, w.variables)
			if err != nil {
				return nil, err
			}
			c.Workers = append(c.Workers, worker)
		}
	}
	return c, nil
}

func (c *Cluster) writeConsumer() error {
	text, err := os.ReadFile(filepath.Join(c.Root, "examples/cluster/consumer.json"))
	if err != nil {
		return err
	}
	var consumer map[string]any
	if err := json.Unmarshal(text, &consumer); err != nil {
		return fmt.Errorf("reading consumer.json: %w", err)
	}
	consumer["ack_wait"] = c.AckWait
	if c.Rate > 0 {
		consumer["rate_limit_bps"] = c.Rate
	}
	if text, err = json.Marshal(consumer); err != nil {
		return err
	}
	return os.WriteFile(c.consumer, text, 0o600)
}

// URL returns the brokers' addresses for clients.
func (c *Cluster) URL() string {
	var list []string
	for _, b := range c.Brokers {
		list = append(list, "tls://"+b.address)
	}
	return strings.Join(list, ",")
}

// environment returns the variables of the example's scripts and configurations.
func (c *Cluster) environment() []string {
	return []string{"OCEMS_NATS=" + c.URL(), "OCEMS_CERTS=" + c.certs, "OCEMS_NATS_CLI=" + filepath.Join(c.Root, "bin/tools/nats"),
		"OCEMS_TELEGRAF=" + filepath.Join(c.Root, "bin/telegraf-ocems-small"), "OCEMS_CONSUMER=" + c.consumer,
		"OCEMS_ENDPOINT=" + c.Board.URL, "OCEMS_DEVICES_FILE=" + c.list, "XDG_CONFIG_HOME=" + c.Dir}
}

// StartBrokers starts all brokers, and creates the streams and consumers with setup.sh.
func (c *Cluster) StartBrokers(ctx context.Context) error {
	for _, b := range c.Brokers {
		if err := b.Start(); err != nil {
			return err
		}
	}
	for _, b := range c.Brokers {
		if err := b.Ready(ctx); err != nil {
			return err
		}
	}
	for { // an election of a leader may be in progress
		setup := exec.CommandContext(ctx, filepath.Join(c.Root, "examples/cluster/setup.sh"))
		setup.Env = append(os.Environ(), c.environment()...)
		out, err := setup.CombinedOutput()
		if err == nil {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("making the streams: %w: %s", err, out)
		}
	}
}

// StartWorkers starts all workers.
func (c *Cluster) StartWorkers() error {
	for _, w := range c.Workers {
		if err := w.Start(); err != nil {
			return err
		}
	}
	return nil
}

// Close stops everything: the gateway and the workers, then the brokers and the board.
func (c *Cluster) Close() error {
	errs := make([]error, len(c.Workers)+len(c.Brokers))
	stopped := c.Gateway.Stop()
	var stopping sync.WaitGroup
	for i, w := range c.Workers {
		stopping.Go(func() { errs[i] = errors.Join(w.Stop(), w.unmount()) })
	}
	stopping.Wait()
	for i, b := range c.Brokers {
		stopping.Go(func() { errs[len(c.Workers)+i] = errors.Join(b.Stop(), b.unmount()) })
	}
	stopping.Wait()
	return errors.Join(append(errs, stopped, c.Board.server.Close())...)
}
