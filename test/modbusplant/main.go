// Command modbusplant simulates two analysers and a flow meter behind a Modbus TCP gateway. Then it checks the values at the
// board's simulated server and the file of Telegraf's second output.
//
// It writes a day of readings to a file, like an old logger, and serves live readings over Modbus.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/simonvetter/modbus"

	"github.com/ocems-io/ocems/test/judge"
)

const (
	step     = 10 * time.Second // between two readings of history
	zeroLead = 30 * time.Minute // how long before now the zero calibration began
	within   = time.Minute      // time limit for a live calibration point to be at the board
)

// quantity is one register pair of an instrument: a 32-bit float.
type quantity struct {
	field, parameter, unit string
	totalizer              bool
	base, wave             float64
}

// instrument is one Modbus unit, and one device at the board. Its status register comes first.
type instrument struct {
	unit            uint8
	metric          string
	station, device string
	calibrates      bool
	quantities      []quantity
}

func instruments() []instrument {
	return []instrument{
		{1, "etp_analyser", "station_etp", "etp_dev_1", false, []quantity{
			{"cod", "cod", "mg/L", false, 110, 25},
			{"bod", "bod", "mg/L", false, 14, 4},
			{"ph", "ph", "pH", false, 7.5, 0.5},
		}},
		{2, "stack_analyser", "station_stack", "stack_dev_1", true, []quantity{
			{"so2", "so2", "mg/Nm³", false, 82, 30},
		}},
		{3, "flow_meter", "station_etp", "etp_dev_2", false, []quantity{
			{"total", "flow_inlet_totalizer", "m³", true, 12000, 0},
		}},
	}
}

// reading has the values of one instrument at one time.
type reading struct {
	instrument *instrument
	at         time.Time // zero if only Telegraf knows it
	status     uint16    // 1 during zero calibration
	values     []float64
}

func (r reading) flag() string {
	if r.status == 1 {
		return "Z"
	}
	return "U"
}

func (r reading) samples() (out []judge.Sample) {
	for i, q := range r.instrument.quantities {
		out = append(out, judge.Sample{Station: r.instrument.station, Device: r.instrument.device, Parameter: q.parameter, Unit: q.unit,
			Totalizer: q.totalizer, At: r.at, Value: r.values[i], Flag: r.flag()})
	}
	return out
}

// gateway makes readings and remembers those that it served.
type gateway struct {
	list  []instrument
	began time.Time

	mu     sync.Mutex
	random *rand.Rand
	total  float64
	served map[uint8][]reading
	last   time.Time // live readings end here
}

// read makes a reading in steps of 1/8, which a 32-bit float holds exactly.
func (g *gateway) read(in *instrument, at time.Time) reading {
	r := reading{instrument: in, at: at}
	if in.calibrates && !at.Before(g.began.Add(-zeroLead)) {
		r.status = 1
	}
	for _, q := range in.quantities {
		day := float64(at.Unix()%86400) / 86400
		v := q.base + q.wave*math.Sin(2*math.Pi*day) + q.wave/10*g.random.NormFloat64()
		switch {
		case q.totalizer:
			g.total += g.random.Float64()
			v = q.base + g.total
		case r.status == 1:
			v = g.random.Float64()
		}
		r.values = append(r.values, math.Round(v*8)/8)
	}
	return r
}

// history writes a day of readings as line protocol.
func (g *gateway) history(path string) (all []reading, err error) {
	var b bytes.Buffer
	for at := g.began.Add(-24 * time.Hour).Truncate(judge.Slot); at.Before(g.began); at = at.Add(step) {
		for i := range g.list {
			r := g.read(&g.list[i], at)
			all = append(all, r)
			fmt.Fprintf(&b, "%s status=%du", r.instrument.metric, r.status)
			for j, q := range r.instrument.quantities {
				fmt.Fprintf(&b, ",%s=%v", q.field, r.values[j])
			}
			fmt.Fprintf(&b, " %d\n", at.UnixNano())
		}
	}
	return all, os.WriteFile(path, b.Bytes(), 0o600)
}

// HandleHoldingRegisters serves the status and the floats of one instrument, or part of them.
func (g *gateway) HandleHoldingRegisters(req *modbus.HoldingRegistersRequest) ([]uint16, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.list, func(in instrument) bool { return in.unit == req.UnitId })
	if i < 0 || req.IsWrite || int(req.Addr)+int(req.Quantity) > 1+2*len(g.list[i].quantities) {
		return nil, modbus.ErrIllegalDataAddress
	}
	if time.Now().After(g.last) {
		return nil, modbus.ErrServerDeviceBusy // the time for live readings is over
	}
	r := g.read(&g.list[i], time.Now())
	g.served[req.UnitId] = append(g.served[req.UnitId], reading{r.instrument, time.Time{}, r.status, r.values})
	registers := []uint16{r.status}
	for _, v := range r.values {
		bits := math.Float32bits(float32(v))
		registers = append(registers, uint16(bits>>16), uint16(bits))
	}
	return registers[req.Addr:][:req.Quantity], nil
}

// HandleCoils implements modbus.RequestHandler.
func (*gateway) HandleCoils(*modbus.CoilsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

// HandleDiscreteInputs implements modbus.RequestHandler.
func (*gateway) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

// HandleInputRegisters implements modbus.RequestHandler.
func (*gateway) HandleInputRegisters(*modbus.InputRegistersRequest) ([]uint16, error) {
	return nil, modbus.ErrIllegalFunction
}

// written returns the instruments' readings in the second output.
func (g *gateway) written(path string) (all []reading, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the second output: %w", err)
	}
	lines := bufio.NewReader(bytes.NewReader(data))
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return all, nil // an incomplete line is still being written
		}
		var m struct {
			Name   string             `json:"name"`
			At     int64              `json:"timestamp"` // milliseconds
			Fields map[string]float64 `json:"fields"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("reading the second output: %w: %s", err, line)
		}
		i := slices.IndexFunc(g.list, func(in instrument) bool { return in.metric == m.Name })
		if i < 0 {
			return nil, fmt.Errorf("the second output has a metric %q", m.Name)
		}
		r := reading{instrument: &g.list[i], at: time.UnixMilli(m.At), status: uint16(m.Fields["status"])}
		for _, q := range g.list[i].quantities {
			v, ok := m.Fields[q.field]
			if !ok {
				return nil, fmt.Errorf("the second output has lost field %q: %s", q.field, line)
			}
			r.values = append(r.values, v)
		}
		all = append(all, r)
	}
}

func same(a, b reading) bool { return a.status == b.status && slices.Equal(a.values, b.values) }

// compare returns the readings that the second output has lost or changed. It must have each reading of the history, and all
// live readings in order.
func (g *gateway) compare(history, written []reading) (faults []string) {
	type key struct {
		unit uint8
		at   int64
	}
	old := map[key]reading{}
	for _, r := range history {
		old[key{r.instrument.unit, r.at.UnixMilli()}] = r
	}
	live := map[uint8][]reading{}
	for _, r := range written {
		k := key{r.instrument.unit, r.at.UnixMilli()}
		if h, ok := old[k]; ok && r.at.Before(g.began) {
			if !same(h, r) {
				faults = append(faults, fmt.Sprintf("second output: %s at %s: %v, must be %v", r.instrument.metric, r.at, r.values, h.values))
			}
			delete(old, k)
			continue
		}
		live[r.instrument.unit] = append(live[r.instrument.unit], r)
	}
	if len(old) > 0 {
		faults = append(faults, fmt.Sprintf("second output: %d readings of history are lost", len(old)))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, in := range g.list {
		served, got := g.served[in.unit], live[in.unit]
		if !slices.EqualFunc(served, got, same) {
			faults = append(faults, fmt.Sprintf("second output: %s served %d readings, %d are written, or some are changed", in.metric, len(served), len(got)))
		}
	}
	return faults
}

// tardy returns the live calibration points that came too late.
func (g *gateway) tardy(got *judge.Received) (faults []string, points int) {
	for _, r := range got.Readings {
		if r.Flag != "Z" || r.Timestamp-judge.Point.Milliseconds() < g.began.UnixMilli() {
			continue
		}
		points++
		if late := time.Duration(r.ReceivedAt-r.Timestamp) * time.Millisecond; late > within {
			faults = append(faults, fmt.Sprintf("%s %s: a calibration point came %s after its end", r.Device, r.Parameter, late))
		}
	}
	return faults, points
}

func run() error {
	listen := flag.String("modbus", "127.0.0.1:1502", "`address` of the Modbus gateway")
	file := flag.String("history", "history.influx", "`file` for a day of readings, in line protocol")
	raw := flag.String("raw", "raw.json", "`file` with Telegraf's second output")
	receivedURL := flag.String("received", "http://127.0.0.1:8750/received", "`URL` of the simulator's received data")
	live := flag.Duration("live", 70*time.Second, "how long to serve readings")
	deadline := flag.Duration("deadline", 40*time.Second, "how long to wait for the slots after the live readings")
	seed := flag.Uint64("seed", 1, "seed of the values")
	flag.Parse()

	ctx := context.Background()
	began := time.Now()
	g := &gateway{list: instruments(), began: began, random: rand.New(rand.NewPCG(*seed, 0)), served: map[uint8][]reading{}, last: began.Add(*live)}
	history, err := g.history(*file)
	if err != nil {
		return err
	}
	server, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + *listen, Timeout: time.Minute, MaxClients: 10, Logger: log.New(io.Discard, "", 0)}, g)
	if err != nil {
		return fmt.Errorf("making the Modbus gateway: %w", err)
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("starting the Modbus gateway on %s: %w", *listen, err)
	}
	defer server.Stop()
	log.Printf("%d readings of history are in %s; live readings at %s", len(history), *file, *listen)
	time.Sleep(time.Until(g.last))
	log.Print("the last reading is served; waiting for the slots")

	var verdict *judge.Verdict
	for end := time.Now().Add(*deadline); ; time.Sleep(time.Second) {
		got, err := judge.Fetch(ctx, *receivedURL)
		if err != nil {
			return err
		}
		written, err := g.written(*raw)
		if err != nil {
			return err
		}
		var samples []judge.Sample
		for _, r := range written {
			samples = append(samples, r.samples()...)
		}
		verdict = judge.Expect(samples, func(s judge.Sample) time.Time {
			if s.Length() == judge.Point {
				return g.last
			}
			return began
		}).Compare(got)
		verdict.Faults = append(verdict.Faults, g.compare(history, written)...)
		tardy, points := g.tardy(got)
		verdict.Faults = append(verdict.Faults, tardy...)
		if points == 0 {
			verdict.Faults = append(verdict.Faults, "no live calibration point has arrived")
		}
		if len(verdict.Faults) == 0 || time.Now().After(end) {
			break
		}
	}
	if !verdict.Print() {
		os.Exit(1)
	}
	return nil
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("plant: ")
	if err := run(); err != nil {
		log.Print(err)
		os.Exit(1)
	}
}
