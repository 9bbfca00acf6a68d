package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

const (
	mostGrowth = 2.3 // limit for the growth of CPU when n doubles
	sizes      = 3
	fewRounds  = 2
	mostRounds = 8 // for a case above mostGrowth
	together   = 2 // cases in parallel, because a run mostly waits
)

// growth is a quantity that may grow. run processes n items in a directory, with state and trail on the disk, and returns the
// measured CPU. from is the smallest n of the series.
type growth struct {
	name string
	what string // text after the first size, which is unit * from
	unit float64
	run  func(dir string, n, from int) (time.Duration, error)
}

var growths = []growth{
	{"devices", "devices, a slot of each delivered", 1, growDevices},
	{"series", "series of a fixed number of devices, a slot of each delivered", 4, growSeries},
	{"waiting", "slots that wait while the server is down, with a restart", 8, growWaiting},
	{"recovery", "waiting slots that are delivered after a restart", 1, growRecovery},
	{"held", "devices that the board holds, two slots of each", 1, growHeld},
	{"trail", "trail lines, in a report", 10, growTrail},
}

// grow measures each case, and fails if a doubling costs too much.
func grow(dir string, from int) error {
	fmt.Printf("CPU of one process in seconds: the median of %d rounds or more, each of all sizes; a doubling may cost %.1f times.\n\n| what grows |", fewRounds, mostGrowth)
	for i := range sizes {
		fmt.Printf(" x%d |", 1<<i)
	}
	fmt.Printf(" worst doubling | rounds |\n|---|%s\n", strings.Repeat("---|", sizes+2))
	rows, failed := make([]string, len(growths)), make([]error, len(growths))
	var cases sync.WaitGroup
	free := make(chan bool, together)
	for i, g := range growths {
		free <- true
		cases.Go(func() {
			rows[i], failed[i] = g.measure(dir, from)
			<-free
		})
	}
	cases.Wait()
	fmt.Print(strings.Join(rows, ""))
	return errors.Join(failed...)
}

// measure runs a case at each size. The cost of a doubling is the ratio of the smallest costs of all rounds, or the ratio of
// their medians if this is smaller. Other processes increase a median, and one garbage collection less makes a smallest cost
// too small. A case with both ratios above mostGrowth gets more rounds.
func (g growth) measure(dir string, from int) (row string, err error) {
	var costs [sizes][]float64
	worst, rounds := math.Inf(1), 0
	for ; rounds < fewRounds || worst > mostGrowth && rounds < mostRounds; rounds++ {
		worst = 0
		for i := range sizes {
			cost, err := g.cost(dir, from, i)
			if err != nil {
				return "", fmt.Errorf("%s, x%d: %w", g.name, 1<<i, err)
			}
			costs[i] = append(costs[i], cost)
			if i > 0 {
				worst = max(worst, min(slices.Min(costs[i])/slices.Min(costs[i-1]), median(costs[i])/median(costs[i-1])))
			}
		}
	}
	row = fmt.Sprintf("| %s: %.0f %s |", g.name, g.unit*float64(from), g.what)
	for _, c := range costs {
		row += fmt.Sprintf(" %.2f |", median(c))
	}
	if worst > mostGrowth {
		err = fmt.Errorf("%s: a doubling costs %.2f times", g.name, worst)
	}
	return row + fmt.Sprintf(" %.2f | %d |\n", worst, rounds), err
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// cost returns the CPU of a separate process in seconds, after this number of doublings.
func (g growth) cost(dir string, from, doublings int) (seconds float64, err error) {
	out, err := exec.Command(os.Args[0], "-grow", g.name, "-dir", dir, "-from", fmt.Sprint(from), "-devices", fmt.Sprint(from<<doublings)).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err == nil {
		_, err = fmt.Sscan(string(out), &seconds)
	}
	return seconds, err
}

// growOnce is one run in its own process. profile is the stem of the files for profiles, or "".
func growOnce(name, under string, n, from int, profile string) error {
	i := slices.IndexFunc(growths, func(g growth) bool { return g.name == name })
	if i < 0 {
		return fmt.Errorf("-grow: %q is unknown", name)
	}
	dir, err := os.MkdirTemp(under, "growth-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if profile != "" {
		f, err := os.Create(profile + ".cpu")
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer func() {
			pprof.StopCPUProfile()
			f.Close()
			if f, err := os.Create(profile + ".mem"); err == nil {
				_ = pprof.Lookup("allocs").WriteTo(f, 0)
				f.Close()
			}
		}()
	}
	cpu, err := growths[i].run(dir, n, from)
	if err != nil {
		return err
	}
	_, err = fmt.Println(cpu.Seconds())
	return err
}

// board answers inside the process, so that a measurement includes no server.
type board struct {
	down, held atomic.Bool
	posts      atomic.Int64
	delivered  atomic.Int64 // readings
}

// RoundTrip implements [http.RoundTripper].
func (b *board) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	if b.down.Load() {
		return nil, errors.New("connection refused")
	}
	text := `{"status":1,"msg":"success"}`
	if r.Method == http.MethodPost {
		b.posts.Add(1)
		if b.held.Load() {
			text = `{"status":102,"msg":"Invalid token"}`
		}
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// hub is an engine inside the process.
type hub struct {
	*engine.Engine
	file *store.File
}

func (b *board) open(dir string, devices int) (*hub, error) {
	list := filepath.Join(dir, "devices.csv")
	if err := writeDevices(list, devices); err != nil {
		return nil, err
	}
	file, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return nil, err
	}
	slots, delivery := options.DefaultSlots(), options.DefaultDelivery()
	slots.AuditFile, slots.Timestamps, slots.Settle.Duration, slots.Grace.Duration = filepath.Join(dir, "audit.jsonl"), registry.TimestampsSource, time.Nanosecond, time.Millisecond
	delivery.Endpoint, delivery.Spread.Duration, delivery.Coalesce.Duration = "http://board.example.org"+dataPath, 0, 0
	e, err := engine.Open(context.Background(), engine.Config{Slots: slots, Store: file, Logger: slog.New(slog.DiscardHandler),
		Names: registry.Config{PublicKeyFile: publicKey, DevicesFile: list, Words: registry.Collector},
		Board: &engine.Board{Delivery: delivery, Client: &http.Client{Transport: b}, OnResult: func(o audit.Outcome, n int) {
			if o == audit.Delivered {
				b.delivered.Add(int64(n))
			}
		}}})
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &hub{e, file}, nil
}

func (h *hub) close() error {
	return errors.Join(h.Close(context.Background()), h.file.Close())
}

const growthBatch = 1000 // devices per batch

// take passes one reading of each parameter, or a finished slot, to the engine.
func (h *hub) take(devices int, keys []spec.Parameter, at time.Time, finished bool) error {
	for from := 0; from < devices; from += growthBatch {
		b := h.NewBatch()
		for i := from; i < min(from+growthBatch, devices); i++ {
			id := deviceID(i)
			attr := func(key string) (string, bool) { return id, key == "ocems.device.id" }
			for j, k := range keys {
				b.Add(engine.Reading{Metric: registry.Metric{Name: k.Key, Unit: "mg/L", Attr: attr}, Time: at, Value: value(i, j, at.Minute()), Finished: finished, Samples: minutes})
			}
		}
		if err := b.Commit(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

func until(n int64, count *atomic.Int64) error {
	for end := time.Now().Add(5 * time.Minute); count.Load() < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("only %d of %d after 5 minutes", count.Load(), n)
		}
	}
	return nil
}

// deliverWindow lets devices report in one window, and waits until all slots are delivered.
func deliverWindow(dir string, devices, series int) (time.Duration, error) {
	b, begun := new(board), ownCPU()
	h, err := b.open(dir, devices)
	if err != nil {
		return 0, err
	}
	keys := spec.Parameters()[:series]
	if err := h.take(devices, keys, windowStart(0), false); err != nil {
		return 0, err
	}
	err = errors.Join(until(int64(devices*series), &b.delivered), h.close())
	return ownCPU() - begun, err
}

func growDevices(dir string, n, _ int) (time.Duration, error) { return deliverWindow(dir, n, 2) }

func growSeries(dir string, n, from int) (time.Duration, error) {
	return deliverWindow(dir, from/2, 8*n/from) // at the largest size 32 of the 86 parameters
}

// fill puts n slots of a fixed number of devices into the outbox, while the server is down.
func fill(b *board, dir string, n, from int) error {
	b.down.Store(true)
	devices := from / 2
	h, err := b.open(dir, devices)
	if err != nil {
		return err
	}
	for w := range n / devices {
		if err := h.take(devices, spec.Parameters()[:2], windowStart(w), true); err != nil {
			return err
		}
	}
	if waiting := h.Stats().Outbox.Slots; waiting != n {
		return fmt.Errorf("%d slots wait, not %d", waiting, n)
	}
	return h.close()
}

// growWaiting fills the outbox with eight times n slots, stops, and starts again.
func growWaiting(dir string, n, from int) (time.Duration, error) {
	b, begun := new(board), ownCPU()
	if err := fill(b, dir, 8*n, from); err != nil {
		return 0, err
	}
	h, err := b.open(dir, from/2)
	if err != nil {
		return 0, err
	}
	err = h.close()
	return ownCPU() - begun, err
}

// growRecovery delivers n waiting slots.
func growRecovery(dir string, n, from int) (time.Duration, error) {
	b := new(board)
	if err := fill(b, dir, n, from); err != nil {
		return 0, err
	}
	b.down.Store(false)
	begun := ownCPU()
	h, err := b.open(dir, from/2)
	if err != nil {
		return 0, err
	}
	err = errors.Join(until(int64(2*n), &b.delivered), h.close())
	return ownCPU() - begun, err
}

// growHeld lets the server refuse all devices.
func growHeld(dir string, n, _ int) (time.Duration, error) {
	b := new(board)
	b.held.Store(true)
	begun := ownCPU()
	h, err := b.open(dir, n)
	if err != nil {
		return 0, err
	}
	for w := range 2 {
		if err := h.take(n, spec.Parameters()[:2], windowStart(w), true); err != nil {
			return 0, err
		}
		if err := until(int64(n), &b.posts); err != nil {
			return 0, err
		}
	}
	held := h.Stats().Outbox.Held
	if err := h.close(); err != nil {
		return 0, err
	}
	if held < n*99/100 {
		return 0, fmt.Errorf("%d devices are held, not %d", held, n)
	}
	return ownCPU() - begun, nil
}

// growTrail writes ten lines for each of n, each line with a slot of two readings, and makes a report of them.
func growTrail(dir string, n, from int) (time.Duration, error) {
	path := filepath.Join(dir, "audit.jsonl")
	trail, err := audit.Open(path)
	if err != nil {
		return 0, err
	}
	var entries []audit.Entry
	devices := from / 8
	for line := range 10 * n {
		i := line % devices
		entries = append(entries, audit.Entry{Outcome: audit.Delivered, Station: station(i), Device: deviceID(i),
			Stamp:    windowStart(0).Add(-time.Duration(line/devices) * spec.SlotLength).UnixMilli(),
			Readings: []audit.Reading{{Parameter: "cod", Value: value(i, 0, 0), Unit: "mg/L", Flag: "U"}, {Parameter: "bod", Value: value(i, 1, 0), Unit: "mg/L", Flag: "U"}}})
		if len(entries) == growthBatch || line == 10*n-1 {
			if err := trail.Append(entries...); err != nil {
				return 0, err
			}
			entries = entries[:0]
		}
	}
	if err := trail.Close(); err != nil {
		return 0, err
	}
	begun := ownCPU()
	b, err := report.New(report.Options{Now: time.Now()})
	if err != nil {
		return 0, err
	}
	if err := b.Add([][]string{{path}}, nil); err != nil {
		return 0, err
	}
	_, err = b.Report()
	return ownCPU() - begun, err
}
