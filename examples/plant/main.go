// Command plant plays the instrument gateway of a plant to a collector, and is then the judge of what the board's
// simulated server holds.
//
// It sends a day of samples over OTLP, and live ones after them. Then it works out every slot by plain arithmetic of
// its own, and compares. It shares no code with the components that it judges.
package main

import (
	"bytes"
	"context"
	"encoding/json"
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
)

const (
	step     = 10 * time.Second // between two samples of an instrument
	slot     = 15 * time.Minute
	point    = 30 * time.Second // of a calibration
	disorder = time.Minute      // how far out of order history is sent
	zeroLead = 30 * time.Minute // how long before now the zero calibration began
	batch    = 60               // rounds of samples in a request
)

// signal is one parameter of a device: how the plant names it and what the board must get.
type signal struct {
	parameter  string
	unit       string // as the board must get it
	metric     string // as the plant names it
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

// sample is what one signal showed at one time.
type sample struct {
	device *device
	signal *signal
	at     time.Time
	value  float64
	flag   string
}

// gateway makes the samples, always the same for the same seed and times, and remembers them all.
type gateway struct {
	devices []device
	random  *rand.Rand
	began   time.Time // the run
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

// history sends all samples from the slot in which the last 24 h began until now.
func (g *gateway) history(ctx context.Context) (next time.Time, err error) {
	type placed struct {
		sample
		order int64
	}
	var all []placed
	at := g.began.Add(-24 * time.Hour).Truncate(slot)
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

// place is one value at the board.
type place struct {
	device, parameter string
	stamp             int64 // Unix ms
	flag              string
}

// want is what must be at a place.
type want struct {
	station, unit string
	value         float64
	due           bool // its window ended before the run began
}

// expected is the plain mean of the samples of each window, or the last one of a totalizer, stamped at its end.
func (g *gateway) expected() map[place]want {
	values := map[place][]sample{}
	for _, s := range g.sent {
		length := slot
		if s.flag == "Z" {
			length = point
		}
		end := s.at.Truncate(length).Add(length)
		w := place{s.device.id, s.signal.parameter, end.UnixMilli(), s.flag}
		values[w] = append(values[w], s)
	}
	out := map[place]want{}
	for w, samples := range values {
		value, last := 0.0, samples[0]
		for _, s := range samples {
			value += s.value
			if s.at.After(last.at) {
				last = s
			}
		}
		value /= float64(len(samples))
		if last.signal.totalizer {
			value = last.value
		}
		out[w] = want{last.device.station, last.signal.unit, value, w.stamp <= g.began.UnixMilli()}
	}
	return out
}

// received is the simulator's account.
type received struct {
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"`
	Readings []struct {
		Station    string  `json:"station"`
		Device     string  `json:"device"`
		Parameter  string  `json:"parameter"`
		Value      float64 `json:"value"`
		Unit       string  `json:"unit"`
		Timestamp  int64   `json:"timestamp"`
		Flag       string  `json:"flag"`
		Diagnostic bool    `json:"diagnostic"`
	} `json:"readings"`
}

func fetch(ctx context.Context, client *http.Client, url string) (*received, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking what was received: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking what was received: %w", err)
	}
	defer resp.Body.Close()
	out := &received{}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("reading what was received: %w", err)
	}
	return out, nil
}

// verdict is a device's line in the table.
type verdict struct{ expected, received, wrong, missing int }

func judge(wants map[place]want, got *received) (map[string]*verdict, []string) {
	verdicts := map[string]*verdict{}
	of := func(id string) *verdict {
		if verdicts[id] == nil {
			verdicts[id] = &verdict{}
		}
		return verdicts[id]
	}
	var faults []string
	seen := map[place]bool{}
	for _, r := range got.Readings {
		p := place{r.Device, r.Parameter, r.Timestamp, r.Flag}
		w, known := wants[p]
		v := of(r.Device)
		v.received++
		fault := ""
		switch {
		case !known:
			fault = "unexpected"
		case seen[p]:
			fault = "there twice"
		case r.Station != w.station || r.Unit != w.unit || r.Diagnostic:
			fault = fmt.Sprintf("must be %s %s", w.station, w.unit)
		case math.Abs(r.Value-w.value) > 1e-9*math.Abs(w.value):
			fault = fmt.Sprintf("must be %v", w.value)
		}
		seen[p] = true
		if fault != "" {
			v.wrong++
			faults = append(faults, fmt.Sprintf("%s %s %s %s: %v %s %s: %s", r.Station, r.Device, r.Parameter, clock(r.Timestamp), r.Value, r.Unit, r.Flag, fault))
		}
	}
	for p, w := range wants {
		if !w.due {
			continue
		}
		v := of(p.device)
		v.expected++
		if !seen[p] {
			v.missing++
			faults = append(faults, fmt.Sprintf("%s %s %s %s: %v %s %s: missing", w.station, p.device, p.parameter, clock(p.stamp), w.value, w.unit, p.flag))
		}
	}
	slices.Sort(faults)
	return verdicts, faults
}

func clock(stamp int64) string {
	return time.UnixMilli(stamp).In(time.FixedZone("IST", 19800)).Format("2006-01-02 15:04:05 MST")
}

func run() error {
	otlp := flag.String("otlp", "http://127.0.0.1:4318/v1/metrics", "`URL` of the collector's OTLP receiver")
	receivedURL := flag.String("received", "http://127.0.0.1:8750/received", "`URL` of the simulator's account")
	live := flag.Duration("live", 30*time.Second, "how long to send live samples after the day of history")
	deadline := flag.Duration("deadline", 60*time.Second, "how long to wait for the slots after that")
	seed := flag.Uint64("seed", 1, "of the values and of the order")
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
	log.Printf("sent %d samples in all, waiting for their slots", len(g.sent))

	wants := g.expected()
	var got *received
	var verdicts map[string]*verdict
	var faults []string
	for end := time.Now().Add(*deadline); ; time.Sleep(time.Second) {
		if got, err = fetch(ctx, g.client, *receivedURL); err != nil {
			return err
		}
		if verdicts, faults = judge(wants, got); len(faults) == 0 || time.Now().After(end) {
			break
		}
	}

	for i, f := range faults {
		if i == 20 {
			fmt.Printf("and %d more\n", len(faults)-i)
			break
		}
		fmt.Println(f)
	}
	fmt.Printf("%-12s %-16s %9s %9s %6s %8s\n", "device", "station", "expected", "received", "wrong", "missing")
	missing := 0
	for _, d := range g.devices {
		v := verdicts[d.id]
		if v == nil {
			v = &verdict{}
		}
		missing += v.missing
		fmt.Printf("%-12s %-16s %9d %9d %6d %8d\n", d.id, d.station, v.expected, v.received, v.wrong, v.missing)
	}
	fmt.Printf("demo: devices=%d accepted=%d rejected=%d missing=%d\n", len(g.devices), got.Accepted, got.Rejected, missing)
	if len(faults) > 0 || got.Rejected > 0 {
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
