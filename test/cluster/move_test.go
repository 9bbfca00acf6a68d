package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/test/judge"
)

// single is the machine that moves to the cluster: a Telegraf to which loggers post, as to a gateway.
type single struct {
	*Gateway
	b       *bench
	gateway string // gateway.conf
	direct  string // the same without the brokers
	host    string // host.conf
	boardAt string // the host's address of the board, which can be cut off
	way     net.Listener
}

func newSingle(b *bench) *single {
	ports, err := freePorts(1)
	b.must(err)
	s := &single{Gateway: b.Gateway, b: b, boardAt: "127.0.0.1:" + ports[0], gateway: filepath.Join(b.Root, "examples/cluster/gateway.conf"),
		host: filepath.Join(b.Root, "examples/cluster/host.conf"), direct: filepath.Join(b.Dir, "direct.conf")}
	text, err := os.ReadFile(s.gateway)
	b.must(err)
	input, _, ok := strings.Cut(string(text), "[[outputs.nats]]")
	if !ok {
		b.t.Fatal("gateway.conf has no outputs.nats")
	}
	b.must(os.WriteFile(s.direct, []byte(input), 0o600))
	s.env = append(s.env, "OCEMS_ENDPOINT="+strings.Replace(b.Board.URL, strings.Split(b.Board.URL, "/")[2], s.boardAt, 1),
		"OCEMS_HOST_STATE="+filepath.Join(b.Dir, "host"), "OCEMS_HOST_GRACE=2s", "OCEMS_HOST_SETTLE=3s")
	return s
}

// run restarts it with these configurations.
func (s *single) run(configs ...string) {
	s.b.t.Helper()
	s.b.must(s.Stop())
	s.argv = s.argv[:1]
	for _, c := range configs {
		s.argv = append(s.argv, "--config", c)
	}
	s.b.must(s.Start())
}

// reach connects the host to the board.
func (s *single) reach() {
	s.b.t.Helper()
	way, err := net.Listen("tcp", s.boardAt)
	s.b.must(err)
	s.way = way
	board := strings.Split(s.b.Board.URL, "/")[2]
	go func() {
		for {
			c, err := way.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				to, err := net.Dial("tcp", board)
				if err != nil {
					return
				}
				defer to.Close()
				go func() { _, _ = io.Copy(to, c); _ = to.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(c, to)
			}()
		}
	}()
}

// lose refuses new connections from the host to the board. Its open connections end with its next restart.
func (s *single) lose() { s.b.must(s.way.Close()) }

// post posts minutes of readings of all devices like their loggers, and repeats each post until it is accepted.
func (s *single) post(minutes int) {
	s.b.t.Helper()
	for range minutes {
		var text []byte
		for i := range s.b.Devices {
			lines, samples := s.b.readings(i, s.b.from, s.b.from.Add(time.Minute))
			text, s.b.samples = append(text, lines...), append(s.b.samples, samples...)
		}
		s.b.until("the host accepts readings", func() bool { return s.Post(text) == nil })
		s.b.from = s.b.from.Add(time.Minute)
	}
	s.b.to = s.b.from.Truncate(judge.Slot)
}

// outcomes returns the host's outcomes.
func (s *single) outcomes() Outcomes {
	s.b.t.Helper()
	o, err := (&Worker{disk: disk{path: filepath.Join(s.b.Dir, "host")}}).Outcomes()
	s.b.must(err)
	return o
}

// TestMove moves a single machine to the cluster as described in docs/growing.md, while slots wait for the board. The board gets
// each slot once, with all its readings, although publishing begins and the host ends in the middle of a slot.
func TestMove(t *testing.T) {
	b := newBench(t, 20, 0)
	s := newSingle(b)
	perSlot := len(b.Devices) * len(parameters)

	s.run(s.direct, s.host) // as before, plus shared_device
	s.post(60)
	time.Sleep(6 * time.Second) // its windows close; the board cannot be reached

	s.post(7)
	time.Sleep(2 * time.Second) // until Telegraf flushes
	s.run(s.gateway, s.host)
	s.post(8 + 45) // the stream begins in the middle of a slot
	s.reach()
	s.b.until("the host has delivered the waiting slots", func() bool { return s.outcomes().Delivered >= 7*perSlot })

	if out, err := exec.Command(filepath.Join(b.Root, "examples/cluster/split.sh"), strconv.Itoa(Partitions), b.list).CombinedOutput(); err != nil {
		t.Fatalf("splitting the devices: %v: %s", err, out)
	}
	for _, w := range b.Workers { // gets only the devices of its partition
		w.env = append(w.env, "OCEMS_DEVICES_FILE="+strings.Replace(b.list, ".csv", fmt.Sprintf("-%d.csv", w.Partition), 1))
	}
	b.must(b.StartWorkers())
	s.post(60)
	workers := func(count func(Outcomes) int) (n int) {
		for _, w := range b.Workers {
			o, err := w.Outcomes()
			b.must(err)
			n += count(o)
		}
		return n
	}
	stored := func(o Outcomes) int { return o.Stored }
	b.settled("both workers know that the board has a complete slot", func() bool { return workers(stored) >= 2*4*perSlot })
	if n := workers(func(o Outcomes) int { return o.Delivered }); n > 0 {
		t.Errorf("the workers delivered %d readings while the host was first", n)
	}

	since := time.Now()
	t.Log("the host loses the board; the workers still reach it")
	s.lose()
	s.run(s.gateway, s.host)
	s.post(60)
	b.settled("the workers deliver", func() bool { return workers(func(o Outcomes) int { return o.Delivered }) >= 3*perSlot })
	s.reach()
	b.until("the host knows that the board has the slots", func() bool { o := s.outcomes(); return o.Stored >= 3*perSlot })

	s.post(7)
	time.Sleep(2 * time.Second)
	s.run(s.gateway) // now it is a gateway; its open window gets no more readings
	s.post(8 + 45 + 6)
	b.judged()

	t.Log("worker 0-a is lost, and its successor reads the stream from a start time")
	lost, other := b.Workers[0], b.Workers[1]
	lost.Kill()
	b.must(lost.Wipe())
	text, err := os.ReadFile(b.Cluster.consumer)
	b.must(err)
	var consumer map[string]any
	b.must(json.Unmarshal(text, &consumer))
	consumer["deliver_policy"], consumer["opt_start_time"] = "by_start_time", since
	text, err = json.Marshal(consumer)
	b.must(err)
	b.must(os.WriteFile(b.Cluster.consumer, text, 0o600))
	b.must(lost.Start())
	b.acknowledged(0, "a")
	all, err := other.Outcomes()
	b.must(err)
	b.settled("it knows which slots the board has", func() bool {
		o, err := lost.Outcomes()
		b.must(err)
		if o.Stored > all.Stored+all.Delivered-4*len(parameters) {
			t.Fatalf("it reported %d readings, the whole stream", o.Stored)
		}
		return o.Stored > 0
	})
	b.judged()
}

// TestMovePartition moves the devices of partition 0 to partition 1. In the middle of a slot their readings begin to go to
// both partitions. In the middle of another slot partition 0 ends. Until then partition 1 sends second.
func TestMovePartition(t *testing.T) {
	b := newBench(t, 12, 0)
	for _, w := range b.Workers {
		if w.Partition == 1 {
			w.env = append(w.env, "OCEMS_SETTLE=40s") // in place of a delay, because the readings are hours old
		}
	}
	b.must(b.StartWorkers())
	publish := func(minutes int, prefixes ...string) {
		b.t.Helper()
		f, err := b.NewFeeder(b.ctx)
		b.must(err)
		for range minutes {
			for i, d := range b.Devices {
				lines, samples := b.readings(i, b.from, b.from.Add(time.Minute))
				b.samples = append(b.samples, samples...)
				for _, s := range prefixes {
					f.publishTo(s, d.ID, lines)
				}
			}
			f.Flush()
			b.from = b.from.Add(time.Minute)
		}
		b.to = b.from.Truncate(judge.Slot)
		f.Close()
	}
	count := func(partition int, of func(Outcomes) int) (n int) {
		for _, w := range b.Workers {
			if w.Partition == partition {
				o, err := w.Outcomes()
				b.must(err)
				n += of(o)
			}
		}
		return n
	}
	perSlot := len(b.Devices) * len(parameters)

	publish(67, "part.0.")
	publish(53, "part.0.", "part.1.")
	publish(7, "part.0.", "part.1.")
	b.settled("both workers of partition 1 know which slots the board has", func() bool {
		return count(1, func(o Outcomes) int { return o.Stored }) >= 2*4*perSlot
	})
	if n := count(1, func(o Outcomes) int { return o.Delivered }); n > 0 {
		t.Errorf("partition 1 delivered %d readings while partition 0 was first", n)
	}
	for _, w := range b.Workers {
		if w.Partition == 0 {
			b.must(w.Stop())
		}
	}
	publish(59, "part.1.")
	b.judged()
}
