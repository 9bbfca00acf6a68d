package hosts

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

var (
	streams = flag.Int("streams", 200, "number of random streams in TestStreams")
	seed    = flag.Uint64("seed", 0, "seed of the first plant of TestStreams; 0 takes the time")
)

// perPlant returns the number of streams that share hosts. Each stream has its own device. Every third plant has restarts.
func perPlant() int { return min(max(*streams/4, 1), 200) }

// payloads is a board that accepts everything.
type payloads struct {
	component.StartFunc
	component.ShutdownFunc
	mu   sync.Mutex
	list []string
}

func (p *payloads) take(body []byte) []byte {
	text, err := seal.Open(token, body)
	if err != nil {
		text = []byte(err.Error())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, string(text))
	return []byte(`{"msg":"success","status":1}`)
}

func (p *payloads) sorted() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Clone(p.list)
	slices.Sort(list)
	return list
}

// RoundTripper implements an authenticator, so that the exporter's requests need no network.
func (p *payloads) RoundTripper(http.RoundTripper) (http.RoundTripper, error) { return p, nil }

// RoundTrip answers a request.
func (p *payloads) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet { // for the time
		return &http.Response{StatusCode: http.StatusMethodNotAllowed, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(p.take(body))), Request: r}, nil
}

// ServeHTTP answers a request. It closes the connection, because an idle one would stop a bubble's time. It sets Date from the
// bubble's time.
func (p *payloads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header()["Date"] = nil
	w.Header().Set("Connection", "close")
	if r.Method == http.MethodGet { // for the time
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	_, _ = w.Write(p.take(body))
}

// readings returns a line for each reading of the payloads, in the form of expect.
func readings(t testing.TB, payloads []string) (lines []string) {
	for _, text := range payloads {
		var p struct {
			Data []struct {
				Devices []struct {
					ID     string            `json:"deviceId"`
					Params []json.RawMessage `json:"params"`
					Diag   []json.RawMessage `json:"diag_params"`
				} `json:"device_data"`
			} `json:"data"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &p), text)
		for _, d := range p.Data[0].Devices {
			for _, r := range d.Params {
				lines = append(lines, d.ID+" params "+string(r))
			}
			for _, r := range d.Diag {
				lines = append(lines, d.ID+" diag_params "+string(r))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// script is the sequence of events for the hosts of a plant: rounds of batches. All batches of a round have the same time.
type script struct {
	plant    plant
	restarts bool
	rounds   []round
}

type round struct {
	at    time.Time
	steps []step
}

// step is a batch, or a restart if there is no batch.
type step struct {
	batch []reading
	kill  bool
}

var bubble = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // start of a bubble's time

// newScript makes a script. Rounds are at second 15 to 20 of a minute. Then exactly these windows are closed: those that ended
// half a minute before the minute began, with a reading of an earlier round.
func newScript(seed uint64) script {
	r := rand.New(rand.NewPCG(seed, 1))
	s := script{restarts: seed%3 == 0, plant: plant{options: map[string]any{
		"grace": "30s", "calibration_grace": "30s", "settle": "1s", "timestamps": "source", "min_samples": 1 + 2*r.IntN(2), "stamp": []string{"end", "start"}[r.IntN(2)],
		"reading_stamp": []string{"start", "end"}[r.IntN(2)], "min_coverage": []float64{0, 0, 0.1, 0.2}[r.IntN(4)], "below_min_coverage": []string{"leave_out", "wait"}[r.IntN(2)]}}}
	for i := range perPlant() {
		s.plant.devices = append(s.plant.devices, randomDevice(r, fmt.Sprintf("dev-%d", i)))
	}
	minute := bubble
	sent := make([][]reading, perPlant())
	for range 2 + r.IntN(5) {
		minute = minute.Add(time.Duration(1+int(math.Abs(r.NormFloat64())*4)) * time.Minute)
		n := round{at: minute.Add(15*time.Second + time.Duration(r.IntN(5000))*time.Millisecond)}
		var all []reading
		for i, d := range s.plant.devices {
			list := randomReadings(r, d, n.at, sent[i])
			sent[i] = append(sent[i], list...)
			all = append(all, list...)
		}
		if r.IntN(3) > 0 {
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		}
		for len(all) > 0 {
			size := 1 + r.IntN(len(all))
			n.steps = append(n.steps, step{batch: all[:size]})
			if r.IntN(4) == 0 { // the answer was lost
				n.steps = append(n.steps, step{batch: all[:size]})
			}
			if s.restarts && r.IntN(8) == 0 {
				n.steps = append(n.steps, step{kill: r.IntN(3) > 0})
			}
			all = all[size:]
		}
		s.rounds = append(s.rounds, n)
	}
	return s
}

var keys = []string{"cod", "bod", "ph", "tss", "flow_totalizer", "flow_inlet_totalizer"}

func randomDevice(r *rand.Rand, id string) device {
	d := device{id: id}
	if r.IntN(3) == 0 {
		latitude, longitude := math.Round(r.Float64()*1e6)/1e5, math.Round(r.Float64()*1e7)/1e5
		d.latitude, d.longitude = &latitude, &longitude
	}
	for _, i := range r.Perm(len(keys))[:r.IntN(4)] {
		x := parameter{name: "plant." + keys[i], parameter: keys[i], unit: []string{"", "mg/l"}[r.IntN(2)], tags: map[string]string{"device": id},
			statistic: []string{"", "mean", "last", "min", "max", "sum", "median", "time_weighted"}[r.IntN(8)], diagnostic: r.IntN(5) == 0, rules: map[string]any{}}
		randomRules(r, x)
		if r.IntN(2) == 0 {
			n := r.IntN(4)
			x.decimals = &n
		}
		d.parameters = append(d.parameters, x)
	}
	return d
}

// randomRules sets some of the keys of validity in an entry.
func randomRules(r *rand.Rand, x parameter) {
	for _, rule := range []struct {
		key   string
		value any
	}{
		{"valid_min", -float64(r.IntN(20)) / 7},
		{"valid_max", 10 + float64(r.IntN(1000))/10},
		{"invalid_values", []any{0.0, float64(r.IntN(1000)) / 10, 1e9 + float64(r.IntN(1000))}},
		{"max_step", 1 + float64(r.IntN(400))/10},
		{"min_coverage", 2.0 / 15},
		{"below_min_coverage", []string{"leave_out", "wait"}[r.IntN(2)]},
		{"reading_stamp", []string{"start", "end"}[r.IntN(2)]},
	} {
		if r.IntN(4) == 0 {
			x.rules[rule.key] = rule.value
		}
	}
	if x.statistic == "time_weighted" {
		x.rules["reading_stamp"] = "start"
	}
}

// randomReadings returns what senders of a device send until now: new readings and repeated ones.
func randomReadings(r *rand.Rand, d device, now time.Time, sent []reading) (list []reading) {
	back := []time.Duration{2 * time.Minute, 20 * time.Minute, 40 * time.Minute, 2 * time.Hour}[r.IntN(4)]
	grid := []time.Duration{time.Millisecond, time.Second, 10 * time.Second, time.Minute}[r.IntN(4)]
	sender := r.IntN(3)
	flags := []string{"", "", "", "", "", "U", "M", "m", "F", "D", "?", string("CZ"[len(d.id)%2])} // the board has one point per time
	for range r.IntN(16) {
		if known := append(slices.Clone(sent), list...); len(known) > 0 && r.IntN(3) == 0 {
			x := known[r.IntN(len(known))]
			switch r.IntN(6) {
			case 0:
				x.value = randomValue(r)
			case 1:
				x.flag = flags[r.IntN(len(flags))]
			case 2:
				x.resource = map[string]string{"service.instance.id": fmt.Sprint(r.IntN(3))}
			}
			list = append(list, x)
			continue
		}
		x := reading{value: randomValue(r), at: now.Add(-time.Duration(r.Int64N(int64(back)))).Truncate(grid), flag: flags[r.IntN(len(flags))],
			resource: map[string]string{"service.instance.id": fmt.Sprint(sender)}}
		if len(d.parameters) > 0 && r.IntN(4) > 0 {
			p := d.parameters[r.IntN(len(d.parameters))]
			x.name, x.tags = p.name, map[string]string{"device": d.id}
			if p.unit == "" {
				x.unit = randomUnit(r)
			}
			if r.IntN(3) == 0 {
				x.tags["probe"] = fmt.Sprint(r.IntN(2))
			}
		} else if x.name = keys[r.IntN(len(keys))]; slices.ContainsFunc(d.parameters, func(p parameter) bool { return p.parameter == x.name }) {
			continue // entry and catalogue key would be one series with two units
		} else {
			x.unit, x.device = randomUnit(r), d.id
		}
		if r.IntN(20) == 0 {
			sender++ // the sender was restarted
		}
		list = append(list, x)
	}
	return list
}

func randomUnit(r *rand.Rand) string {
	return []string{"mg/L", "mg/l", "mg/L", "mg/l", "ppm"}[r.IntN(5)]
}

func randomValue(r *rand.Rand) float64 {
	switch r.IntN(8) {
	case 0:
		return 0
	case 1:
		return math.NaN()
	case 2:
		return 1e9 + float64(r.IntN(1000))
	case 3:
		return -float64(r.IntN(100)) / 7
	case 4:
		return float64(float32(r.Float64() * 100))
	}
	return float64(r.IntN(1000)) / 10
}

// way is a way of readings to a board inside this process.
type way struct {
	name  string
	start func(p plant, at place, to *payloads) func(*adapter) life
}

// ways returns the adapters with boards that accept everything.
func ways(server *boards) []way {
	return []way{
		{"output", func(p plant, at place, to *payloads) func(*adapter) life {
			at.url = server.add(to)
			return output(p.toml(at))
		}},
		{"exporter", func(p plant, at place, to *payloads) func(*adapter) life {
			return collector(to.options(p.exporter(at)), nil, extensions{component.MustNewID("payloads"): to})
		}},
		{"processor-exporter", func(p plant, at place, to *payloads) func(*adapter) life {
			return collector(to.options(p.exporter(at)), p.processor(at), extensions{component.MustNewID("payloads"): to})
		}},
	}
}

// options makes an exporter send to this board.
func (p *payloads) options(exporter map[string]any) map[string]any {
	exporter["http"] = map[string]any{"auth": map[string]any{"authenticator": "payloads"}}
	return exporter
}

// perform runs a script in each way and returns the boards.
func perform(t *testing.T, s script, publicKey string, ways []way) map[string]*payloads {
	got := map[string]*payloads{}
	synctest.Test(t, func(t *testing.T) {
		var hosts []*adapter
		for _, w := range ways {
			at := newPlace(t, "http://board.test/v1.0/industry/data", publicKey)
			if at.memory = !s.restarts; at.memory {
				s.plant.options["audit_file"] = ""
			}
			got[w.name] = &payloads{}
			hosts = append(hosts, newAdapter(t, at, w.start(s.plant, at, got[w.name])))
		}
		for _, n := range s.rounds {
			time.Sleep(time.Until(n.at))
			for _, st := range n.steps {
				for _, h := range hosts {
					switch {
					case st.batch != nil:
						h.send(st.batch)
					case st.kill:
						synctest.Wait()
						h.kill()
					default:
						h.stop()
						h.life = h.start(h)
					}
				}
			}
		}
		time.Sleep(spec.SlotLength + time.Minute)
		for _, h := range hosts {
			h.stop()
		}
	})
	return got
}

// play runs a script in all ways, and compares their payloads with each other and with the reference.
func play(t *testing.T, s script, publicKey string, ways []way) (sent []string) {
	var all []arrival
	for _, n := range s.rounds {
		for _, st := range n.steps {
			for _, x := range st.batch {
				all = append(all, arrival{x, n.at})
			}
		}
	}
	got := perform(t, s, publicKey, ways)
	want := expect(s.plant, all)
	once := func(list []string) []string { // a kill may come between an answer and the write of its outcome
		if s.restarts {
			return slices.Compact(list)
		}
		return list
	}
	for _, w := range ways {
		if have := once(readings(t, got[w.name].sorted())); !slices.Equal(want, have) {
			t.Errorf("%s: %s", w.name, difference(want, have))
		}
		if a, b := once(got[ways[0].name].sorted()), once(got[w.name].sorted()); !slices.Equal(a, b) {
			t.Errorf("the payloads of %s and %s differ: %s", ways[0].name, w.name, difference(a, b))
		}
	}
	return got[ways[0].name].sorted()
}

// difference returns some of the lines that are in only one list.
func difference(want, have []string) string {
	b := &strings.Builder{}
	only := func(what string, a, b_ []string) {
		n := 0
		for _, x := range a {
			if _, found := slices.BinarySearch(b_, x); !found {
				if n++; n <= 5 {
					fmt.Fprintf(b, "\n%s: %s", what, x)
				}
			}
		}
	}
	only("missing", want, have)
	only("not wanted", have, want)
	fmt.Fprintf(b, "\nwant %d lines, have %d", len(want), len(have))
	return b.String()
}

// boards are the boards of many plants, outside their bubbles.
type boards struct {
	*httptest.Server
	publicKey string
	mu        sync.Mutex
	by        map[string]*payloads
	last      int
}

func newBoards(t *testing.T) *boards {
	key, err := filepath.Abs("../../ocems/seal/testdata/industry_test_public.pem")
	require.NoError(t, err)
	b := &boards{publicKey: key, by: map[string]*payloads{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// add gives a board a URL, which is valid until many more are added.
func (b *boards) add(p *payloads) (url string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	b.by[b.path(b.last)] = p
	delete(b.by, b.path(b.last-10))
	return b.URL + b.path(b.last)
}

func (*boards) path(n int) string { return fmt.Sprintf("/%d", n) }

func (b *boards) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	p := b.by[r.URL.Path]
	b.mu.Unlock()
	p.ServeHTTP(w, r)
}

// TestStreams makes random streams of readings, with retries, restarts, conflicts and late readings. It compares the payloads
// of the three adapters with each other and with the reference. -streams 1000000 is a long run; -seed repeats a run.
func TestStreams(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	server := newBoards(t)
	warmUp(t, server.publicKey)
	t.Logf("the first seed is %d", first)
	for i := range (*streams + perPlant() - 1) / perPlant() {
		all := ways(server)
		if i%5 == 0 {
			all = append(all, both)
		}
		if play(t, newScript(first+uint64(i)), server.publicKey, all); t.Failed() {
			t.Fatalf("to repeat it: go test ./test/hosts -run TestStreams -streams %d -seed %d", *streams, first+uint64(i))
		}
		if (i+1)%50 == 0 {
			t.Logf("%d streams", (i+1)*perPlant())
		}
	}
}

// TestSourceThatIsBehind reads an instrument whose clock is behind, each half minute: a slot is due before its readings
// come, and has all its readings all the same.
func TestSourceThatIsBehind(t *testing.T) {
	server := newBoards(t)
	warmUp(t, server.publicKey)
	for _, behind := range []time.Duration{3 * time.Hour, 20 * time.Minute} {
		t.Run(behind.String(), func(t *testing.T) {
			s := script{plant: plant{devices: []device{{id: "dev"}}, options: map[string]any{"grace": "30s", "settle": "0s"}}}
			slots := map[int64][]float64{}
			for i := range 81 {
				now := bubble.Add(20*time.Second + time.Duration(i)*30*time.Second)
				at, value := now.Add(-behind), float64(i*i%50)
				s.rounds = append(s.rounds, round{now, []step{{batch: []reading{{name: "cod", device: "dev", unit: "mg/L", value: value, at: at}}}}})
				stamp := at.Truncate(spec.SlotLength).Add(spec.SlotLength).UnixMilli()
				slots[stamp] = append(slots[stamp], value)
			}
			if behind > time.Hour { // younger slots wait until the clock is trusted, 2 minutes after the start
				first := slices.Min(slices.Collect(maps.Keys(slots)))
				slots[first] = slots[first][:1]
			}
			var want []string
			for stamp, values := range slots {
				sum := 0.0
				for _, v := range values {
					sum += v
				}
				want = append(want, fmt.Sprintf(`dev params {"parameter":"cod","value":%v,"unit":"mg/L","timestamp":%d,"flag":"U"}`, math.Round(sum/float64(len(values))*1e5)/1e5, stamp))
			}
			slices.Sort(want)
			for name, got := range perform(t, s, server.publicKey, ways(server)) {
				if have := readings(t, got.sorted()); !slices.Equal(want, have) {
					t.Errorf("%s: %s", name, difference(want, have))
				}
			}
		})
	}
}

// warmUp starts Telegraf's goroutines that run for the life of the process, outside a bubble.
func warmUp(t *testing.T, publicKey string) {
	at := newPlace(t, "http://127.0.0.1:1/", publicKey)
	h := newAdapter(t, at, output(plant{devices: []device{{id: "dev"}}}.toml(at)))
	h.stop()
}
