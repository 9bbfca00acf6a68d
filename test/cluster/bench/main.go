//go:build linux

// Command bench measures the cost of brokers and workers of examples/cluster: CPU per message, reading and slot, bytes on disk
// and on the wire, and memory. It prints one line per case. See docs/scale.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/cluster"
)

var parameters = []string{"so2", "co", "pm", "hcl", "hf", "hg", "o3"}

// load is one case: each device has 15 readings per parameter in one window, and batch readings per message.
type load struct{ batch, devices int }

const (
	window   = 15 * perLine // readings per device
	perLine  = 7
	patience = 5 * time.Minute // limit of one case
	rest     = 4 * time.Second // time in which a worker starts
)

var quick = []string{"OCEMS_GRACE=20s", "OCEMS_SETTLE=20s", "OCEMS_SPREAD=1s", "OCEMS_DELAY=20s"}

func main() {
	log.SetFlags(0)
	root := flag.String("root", "../..", "`directory` of the repository")
	rounds := flag.Int("rounds", 1, "number of measurements of each case")
	smallest := flag.Int("from", 1, "`readings` per message in the first case")
	large := flag.Int("large", 20000, "`devices` in the last case; 0 leaves it out")
	flag.Parse()
	loads := []load{{1, 300}, {7, 600}, {35, 1600}, {105, 4000}}
	if *large > 0 {
		loads = append(loads, load{perLine, *large}) // with full blocks of the streams
	}
	fmt.Println("| readings per message | devices | messages/s | brokers: CPU µs per message stored | brokers: CPU µs per message delivered | brokers: bytes in a message | brokers: bytes on disk per reading and replica | brokers: peak MB | worker: CPU µs per reading | worker: CPU µs per slot | worker: MB at its start | at rest | worker: peak MB | load |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for range *rounds {
		for _, l := range loads {
			if l.batch < *smallest {
				continue
			}
			if err := measure(*root, l); err != nil {
				log.Fatal(err)
			}
		}
	}
}

func measure(root string, l load) (err error) {
	dir, err := os.MkdirTemp("", "ocems-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := cluster.New(cluster.Config{Root: root, Dir: dir, Devices: cluster.Devices(l.devices), AckWait: 10 * time.Second, First: quick, Standby: quick})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartBrokers(ctx); err != nil {
		return err
	}
	workers := []*cluster.Worker{c.Workers[0], c.Workers[2]} // the first worker of each partition

	// The cost of a start is not part of the cost of a reading.
	start := make([]cluster.Cost, len(workers))
	for i, w := range workers {
		if err := w.Start(); err != nil {
			return err
		}
		time.Sleep(rest)
		if start[i], err = w.Cost(); err != nil {
			return err
		}
		if err := w.Stop(); err != nil {
			return err
		}
	}

	before, err := brokers(c)
	if err != nil {
		return err
	}
	diskBefore, err := c.Brokers[0].Stored()
	if err != nil {
		return err
	}
	began := time.Now()
	messages, err := publish(ctx, c, l)
	if err != nil {
		return err
	}
	took := time.Since(began)
	time.Sleep(time.Second)
	stored, err := brokers(c)
	if err != nil {
		return err
	}
	disk, err := c.Brokers[0].Stored()
	if err != nil {
		return err
	}

	for _, w := range workers {
		if err := w.Start(); err != nil {
			return err
		}
	}
	for partition := range workers {
		if err := acknowledged(ctx, c, partition); err != nil {
			return err
		}
	}
	delivered, err := brokers(c)
	if err != nil {
		return err
	}
	var taking, closing, mostEver, resident float64
	taken := make([]cluster.Cost, len(workers))
	for i, w := range workers {
		if taken[i], err = w.Cost(); err != nil {
			return err
		}
		taking += float64((taken[i].CPU - start[i].CPU).Microseconds())
	}
	for want := l.devices * perLine; ; time.Sleep(2 * time.Second) {
		if err := c.Again(began); err != nil { // windows settle only while readings come
			return err
		}
		got, err := c.Board.Received(ctx)
		if err != nil {
			return err
		}
		if got.Accepted >= want {
			break
		}
	}
	time.Sleep(3 * time.Second) // until the outcomes are on disk
	for i, w := range workers {
		end, err := w.Cost()
		if err != nil {
			return err
		}
		closing += float64(end.Less(taken[i]).CPU.Microseconds())
		resident = max(resident, float64(end.Resident)/1e6)
		mostEver = max(mostEver, float64(end.MostEver)/1e6)
	}
	busy, _ := os.ReadFile("/proc/loadavg")
	var average float64
	_, _ = fmt.Sscan(string(busy), &average)
	n, readings := float64(messages), float64(l.devices*window)
	in, out := stored.Less(before), delivered.Less(stored)
	fmt.Printf("| %d | %d | %.0f | %.0f | %.0f | %.0f | %.1f | %.0f | %.2f | %.0f | %.0f | %.0f | %.0f | %.1f |\n", l.batch, l.devices, n/took.Seconds(),
		float64(in.CPU.Microseconds())/n, float64(out.CPU.Microseconds())/n, float64(in.Read)/n, float64(disk-diskBefore)/readings, float64(delivered.MostEver)/1e6,
		taking/readings, closing/float64(l.devices), float64(start[0].Resident)/1e6, resident, mostEver, average)
	return nil
}

// brokers returns the sum of all three brokers, and the largest memory of one.
func brokers(c *cluster.Cluster) (sum cluster.Cost, err error) {
	for _, b := range c.Brokers {
		one, err := b.Cost()
		if err != nil {
			return sum, err
		}
		sum.CPU, sum.Read, sum.MostEver = sum.CPU+one.CPU, sum.Read+one.Read, max(sum.MostEver, one.MostEver)
	}
	return sum, nil
}

// publish publishes one past window of all devices, and a few newer readings so that the window closes.
func publish(ctx context.Context, c *cluster.Cluster, l load) (messages int, err error) {
	f, err := c.NewFeeder(ctx)
	if err != nil {
		return 0, err
	}
	from := time.Now().Truncate(spec.SlotLength).Add(-2 * spec.SlotLength)
	line := func(text []byte, device string, fields []string, minute int) []byte {
		text = append(text, "stack,ocems_device_id="+device+",ocems_unit=mg/Nm³ "...)
		for i, p := range fields {
			if i > 0 {
				text = append(text, ',')
			}
			text = strconv.AppendFloat(append(text, p+"="...), float64(4000+(minute*37+i*211+int(device[len(device)-1]))%997)/100, 'f', -1, 64)
		}
		return append(strconv.AppendInt(append(text, ' '), from.Add(time.Duration(minute)*time.Minute).UnixNano(), 10), '\n')
	}
	for minute := 0; minute < 15; minute += max(1, l.batch/perLine) {
		for i := 0; i < perLine; i += min(l.batch, perLine) { // device by device, so that many messages are in flight
			for _, d := range c.Devices {
				if l.batch < perLine {
					f.Publish(d.ID, line(nil, d.ID, parameters[i:i+l.batch], minute))
					continue
				}
				var text []byte
				for m := range l.batch / perLine {
					text = line(text, d.ID, parameters, minute+m)
				}
				f.Publish(d.ID, text)
			}
		}
	}
	for _, d := range c.Devices[:20] {
		f.Publish(d.ID, line(nil, d.ID, parameters, 17))
	}
	f.Close()
	messages, _, err = f.Stats()
	return messages, errors.Join(ctx.Err(), err)
}

// acknowledged waits until the first worker of a partition has acknowledged all messages.
func acknowledged(ctx context.Context, c *cluster.Cluster, partition int) error {
	conn, js, err := c.JetStream(fmt.Sprintf("admin-%d", partition))
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		stream, err := js.Stream(ctx, "READINGS")
		if err != nil {
			return err
		}
		consumer, err := stream.PushConsumer(ctx, "a")
		if err != nil {
			return err
		}
		if consumer.CachedInfo().AckFloor.Stream >= stream.CachedInfo().State.LastSeq {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
}
