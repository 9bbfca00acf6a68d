// Command plant simulates the instrument gateway of a plant for a collector. Then it checks the values at the board's simulated
// server.
//
// It sends a day of samples over OTLP, and live samples after them. Then package judge computes every slot independently and
// compares.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/test/judge"
)

const (
	step     = 10 * time.Second // between two samples of an instrument
	disorder = time.Minute      // history is sent out of order by up to this time
	zeroLead = 30 * time.Minute // how long before now the zero calibration began
	batch    = 60               // rounds of samples per request
)

// signal is one parameter of a device, with the plant's metric name and the board's expected names.
type signal struct {
	parameter  string
	unit       string // expected at the board
	metric     string // name at the plant
	metricUnit string
	attributes map[string]string
	totalizer  bool
	base, wave float64 // of the values
}

type device struct {
	id, station string
	calibrates  bool
	signals     []signal
}

func named(id, parameter, unit, metricUnit string, base, wave float64) signal {
	return signal{parameter, unit, parameter, metricUnit, map[string]string{"ocems.device.id": id}, false, base, wave}
}

func analyser(parameter, unit, metric string, base, wave float64) signal {
	return signal{parameter, unit, metric, "", map[string]string{"line": "etp-outlet"}, false, base, wave}
}

func plant() []device {
	inlet := analyser("flow_inlet_totalizer", "m³", "analyser.inlet", 120000, 0)
	inlet.totalizer = true
	return []device{
		{"etp_dev_1", "station_etp", false, []signal{
			analyser("cod", "mg/L", "analyser.cod", 110, 25),
			analyser("bod", "mg/L", "analyser.bod", 14, 4),
			analyser("tss", "mg/L", "analyser.tss", 38, 9),
			analyser("ph", "pH", "analyser.ph", 7.4, 0.6),
			inlet,
		}},
		{"stack_dev_1", "station_stack", false, []signal{
			named("stack_dev_1", "so2", "mg/Nm³", "mg/Nm3", 82, 30),
			named("stack_dev_1", "pm", "mg/Nm³", "mg/Nm3", 21, 8),
			named("stack_dev_1", "temperature_emission", "°C", "Cel", 131, 12),
		}},
		{"stack_dev_2", "station_stack_2", true, []signal{
			named("stack_dev_2", "co", "mg/Nm³", "mg/Nm3", 48, 15),
		}},
	}
}

// sample is the value of one signal at one time.
type sample struct {
	device *device
	signal *signal
	at     time.Time
	value  float64
	flag   string
}

// gateway makes the samples and remembers all. They are the same for the same seed and times.
type gateway struct {
	devices []device
	random  *rand.Rand
	began   time.Time // start of the run
	sent    []sample
	total   float64 // cubic metres
	url     string
	client  *http.Client
}

func (g *gateway) round(at time.Time) []sample {
	var out []sample
	for i := range g.devices {
		d := &g.devices[i]
		flag := "U"
		if d.calibrates && !at.Before(g.began.Add(-zeroLead)) {
			flag = "Z"
		}
		for j := range d.signals {
			s := &d.signals[j]
			day := float64(at.Unix()%86400) / 86400
			value := s.base + s.wave*math.Sin(2*math.Pi*day) + s.wave/10*g.random.NormFloat64()
			switch {
			case s.totalizer:
				g.total += 0.2 + 0.1*g.random.Float64()
				value = s.base + g.total
			case flag == "Z":
				value = 0.2 + 0.05*g.random.Float64()
			}
			out = append(out, sample{d, s, at, value, flag})
		}
	}
	g.sent = append(g.sent, out...)
	return out
}

// send posts samples as OTLP over HTTP, in protobuf.
func (g *gateway) send(ctx context.Context, samples []sample) error {
	metrics := pmetric.NewMetrics()
	scope := metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	points := map[*signal]pmetric.NumberDataPointSlice{}
	for _, s := range samples {
		list, seen := points[s.signal]
		if !seen {
			m := scope.Metrics().AppendEmpty()
			m.SetName(s.signal.metric)
			m.SetUnit(s.signal.metricUnit)
			if s.signal.totalizer {
				sum := m.SetEmptySum()
				sum.SetIsMonotonic(true)
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				list = sum.DataPoints()
			} else {
				list = m.SetEmptyGauge().DataPoints()
			}
			points[s.signal] = list
		}
		p := list.AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(s.at))
		p.SetDoubleValue(s.value)
		for key, value := range s.signal.attributes {
			p.Attributes().PutStr(key, value)
		}
		if s.flag != "U" {
			p.Attributes().PutStr("ocems.flag", s.flag)
		}
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	if err != nil {
		return fmt.Errorf("writing a request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := g.client.Do(req)
	if err != nil {
		return fmt.Errorf("sending samples: %w", err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("sending samples: %s: %s", resp.Status, answer)
	}
	return nil
}

// history sends all samples until now, beginning with the slot of 24 h ago.
func (g *gateway) history(ctx context.Context) (next time.Time, err error) {
	type placed struct {
		sample
		order int64
	}
	var all []placed
	at := g.began.Add(-24 * time.Hour).Truncate(judge.Slot)
	for ; at.Before(g.began); at = at.Add(step) {
		for _, s := range g.round(at) {
			all = append(all, placed{s, at.UnixNano() + g.random.Int64N(int64(disorder))})
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		switch {
		case a.order < b.order:
			return -1
		case a.order > b.order:
			return 1
		}
		return 0
	})
	size := batch * len(g.round0())
	for part := range slices.Chunk(all, size) {
		samples := make([]sample, len(part))
		for i, p := range part {
			samples[i] = p.sample
		}
		if err := g.send(ctx, samples); err != nil {
			return at, err
		}
	}
	return at, nil
}

// round0 lists the signals of one round.
func (g *gateway) round0() (all []*signal) {
	for i := range g.devices {
		for j := range g.devices[i].signals {
			all = append(all, &g.devices[i].signals[j])
		}
	}
	return all
}

func (g *gateway) live(ctx context.Context, next time.Time, length time.Duration) error {
	for end := g.began.Add(length); !next.After(end); next = next.Add(step) {
		select {
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := g.send(ctx, g.round(next)); err != nil {
			return err
		}
	}
	return nil
}

// wants returns the expected values at the board: every window that ended before the run began.
func (g *gateway) wants() judge.Wants {
	samples := make([]judge.Sample, len(g.sent))
	for i, s := range g.sent {
		samples[i] = judge.Sample{Station: s.device.station, Device: s.device.id, Parameter: s.signal.parameter, Unit: s.signal.unit,
			Totalizer: s.signal.totalizer, At: s.at, Value: s.value, Flag: s.flag}
	}
	return judge.Expect(samples, func(judge.Sample) time.Time { return g.began })
}

func run() error {
	otlp := flag.String("otlp", "http://127.0.0.1:4318/v1/metrics", "`URL` of the collector's OTLP receiver")
	receivedURL := flag.String("received", "http://127.0.0.1:8750/received", "`URL` of the simulator's received data")
	live := flag.Duration("live", 30*time.Second, "how long to send live samples after the day of history")
	deadline := flag.Duration("deadline", 60*time.Second, "how long to wait for the slots after the live samples")
	seed := flag.Uint64("seed", 1, "seed of the values and of their order")
	flag.Parse()

	ctx := context.Background()
	g := &gateway{devices: plant(), random: rand.New(rand.NewPCG(*seed, 0)), began: time.Now(), url: *otlp,
		client: &http.Client{Timeout: 30 * time.Second}}
	next, err := g.history(ctx)
	if err != nil {
		return err
	}
	log.Printf("sent %d samples of history in %s", len(g.sent), time.Since(g.began).Round(time.Millisecond))
	if err := g.live(ctx, next, *live); err != nil {
		return err
	}
	log.Printf("sent %d samples in total; waiting for their slots", len(g.sent))

	wants := g.wants()
	var verdict *judge.Verdict
	for end := time.Now().Add(*deadline); ; time.Sleep(time.Second) {
		got, err := judge.Fetch(ctx, *receivedURL)
		if err != nil {
			return err
		}
		if verdict = wants.Compare(got); len(verdict.Faults) == 0 || time.Now().After(end) {
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
