package hosts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

// answered is one case: the board's answers to a device, first by reply and then correct, and the expected outcome.
type answered struct {
	name     string
	devices  []device    // default: one with the row's name and the parameter cod
	readings []reading   // default: one in the first slot
	reply    func(asked) // the wrong answers of the first phase
	first    []want      // at the board after the first phase
	stored   int         // readings that count as already stored after the first phase
	later    []want      // further readings at the board at the end
	says     []string    // words of one log line about the device; nil: no error about it
	most     int         // largest number of requests in the first phase, 0 for any
}

// asked is a request and its answer.
type asked struct {
	http.ResponseWriter
	request    *http.Request
	parameters []string
	stamp      time.Time
	board      http.Handler
}

func (a asked) say(code int, text string) {
	a.WriteHeader(code)
	_, _ = io.WriteString(a, text)
}

func (a asked) status(code int) { a.say(http.StatusOK, fmt.Sprintf(`{"status":%d,"msg":"x"}`, code)) }

// right answers like a correct board.
func (a asked) right() { a.board.ServeHTTP(a.ResponseWriter, a.request) }

func always(code int) func(asked) { return func(a asked) { a.status(code) } }

// body lets the board process a request, and replaces the body of its answer.
func body(text string) func(asked) {
	return func(a asked) {
		w := httptest.NewRecorder()
		a.board.ServeHTTP(w, a.request)
		if strings.Contains(w.Body.String(), `"status":1}`) {
			a.say(http.StatusOK, text)
		} else {
			a.say(w.Code, w.Body.String())
		}
	}
}

// answers is the table.
func answers() (list []answered) {
	twoSlots := slices.Concat(each(0, 1), each(15, 2))
	both := []want{{slot: 1, value: 1}, {slot: 2, value: 2}}
	list = []answered{
		{name: "always-111", readings: twoSlots, reply: always(111), later: both, says: []string{"never accepted a slot", "stamp", "shared_device"}},
		{name: "fresh-117", readings: twoSlots, reply: always(117), later: both, says: []string{"contradicts", "clock"}},
		{name: "fresh-118", reply: always(118), later: both[:1], says: []string{"contradicts", "clock"}},
		{name: "112-on-u", reply: always(112), later: both[:1], says: []string{"contradicts", "ask the board"}},
		{name: "112-on-c", devices: []device{{parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}}, calibrations: []simulator.Calibration{{From: base, To: base.Add(time.Hour)}}}},
			readings: slices.Concat(each(5, 4), flagged([]reading{at(1, 50)}, "C")),
			reply: func(a asked) {
				if a.stamp.Equal(base.Add(90 * time.Second)) {
					a.status(112)
				} else {
					a.right()
				}
			},
			first: []want{{value: 4}}, later: []want{{stamp: base.Add(90 * time.Second), value: 50, flag: "C"}}},
		{name: "111-of-one", devices: []device{{parameters: []parameter{{name: "analyser.bod", unit: "mg/L"}, {name: "analyser.cod", unit: "mg/L"}, {name: "analyser.tss", unit: "mg/L"}}}},
			readings: slices.Concat(each(0, 1), called(each(0, 2), "analyser.bod"), called(each(0, 3), "analyser.tss")),
			reply: func(a asked) {
				if slices.Contains(a.parameters, "cod") {
					a.status(111)
				} else {
					a.right()
				}
			},
			first: []want{{parameter: "bod", value: 2}, {parameter: "tss", value: 3}}, later: []want{{value: 1}}, says: []string{"contradicts"}},
		{name: "shared-device", devices: []device{{parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}}, shared: true}}, readings: twoSlots,
			reply: func(a asked) {
				if a.stamp.Equal(base.Add(15 * time.Minute)) {
					a.right()
				} else {
					a.status(111)
				}
			},
			first: both[:1], stored: 1},
		oneBad(),
	}
	for _, code := range []int{302, 403, 500} {
		list = append(list, answered{name: fmt.Sprintf("1-with-http-%d", code), reply: func(a asked) { a.say(code, `{"status":1,"msg":"success"}`) }, later: both[:1],
			says: []string{map[bool]string{true: "refuses the device", false: "attempt failed"}[code == 403]}})
	}
	for name, text := range map[string]string{"1-behind-a-mark": "\ufeff" + `{"status":1}`, "1-as-a-fraction": `{"status":1.0}`, "1-as-a-text": `{"status":" 1 "}`} {
		list = append(list, answered{name: name, reply: body(text), first: both[:1], most: 1})
	}
	for i := range list {
		x := &list[i]
		wants := len(x.first)
		r := row{name: x.name, devices: x.devices, before: batches(x.readings), want: slices.Concat(x.first, x.later)}
		if x.readings == nil {
			r.before = batches(each(0, 1))
		}
		r.complete()
		x.devices, x.readings, x.first, x.later = r.devices, r.before[0], r.want[:wants], r.want[wants:]
	}
	return list
}

// oneBad is a device with 60 parameters, one of which the board refuses, at 5 answers per second. The search for it runs once.
func oneBad() answered {
	x := answered{name: "one-bad-of-60", devices: []device{{}}, says: []string{"refuses a parameter"}, most: 2*6 + 4}
	simple := regexp.MustCompile(`^[a-z0-9_]+$`)
	for _, p := range spec.Parameters() {
		if len(x.first) == 60 {
			break
		}
		if simple.MatchString(p.Key) && !p.Totalizer() {
			x.devices[0].parameters = append(x.devices[0].parameters, parameter{name: "analyser." + p.Key, unit: "mg/L"})
			x.readings = append(x.readings, called(each(0, 1), "analyser."+p.Key)...)
			x.first = append(x.first, want{parameter: p.Key, value: 1})
		}
	}
	bad := x.first[37].parameter
	x.later, x.first = []want{x.first[37]}, slices.Delete(slices.Clone(x.first), 37, 38)
	var since time.Time
	n := 0
	x.reply = func(a asked) {
		if now := time.Now(); now.Sub(since) > time.Second {
			since, n = now, 0
		}
		switch n++; {
		case n > 5:
			a.WriteHeader(http.StatusTooManyRequests)
		case slices.Contains(a.parameters, bad):
			a.status(119)
		default:
			a.right()
		}
	}
	return x
}

// strange is a board that answers each device by the reply of its row, and later correctly.
type strange struct {
	board http.Handler
	rows  map[string]answered
	mu    sync.Mutex
	right bool
	asked map[string]int // without 429; "" for requests for the time
}

func (s *strange) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(text))
	a := asked{ResponseWriter: w, request: r, board: s.board}
	x, known := s.rows[r.Header.Get("X-Device-Id")]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.right || !known {
		a.right()
		s.asked[""]++
		return
	}
	if open, err := seal.Open(token, text); err == nil {
		doc, _ := payload.Decode(open)
		for _, p := range doc.Data[0].Devices[0].Params {
			a.parameters = append(a.parameters, p.Parameter)
			a.stamp, _ = p.Stamp()
		}
	}
	counted := &counted{w, 0}
	a.ResponseWriter = counted
	x.reply(a)
	if counted.code != http.StatusTooManyRequests {
		s.asked[x.name]++
	}
}

// counted records the status of an answer.
type counted struct {
	http.ResponseWriter
	code int
}

func (c *counted) WriteHeader(code int) { c.code = code; c.ResponseWriter.WriteHeader(code) }

func (s *strange) requests(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *strange) doRight() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.right = true
}

// settled counts the readings in a trail by device and outcome, such as "x delivered". Only the first outcome counts, because
// a reading is sent again if a kill comes before the store has its outcome.
func settled(path string) map[string]int {
	counts, seen := map[string]int{}, map[string]bool{}
	text, _ := os.ReadFile(path)
	for line := range bytes.Lines(text) {
		var e audit.Entry
		if json.Unmarshal(line, &e) != nil { // the last line may be incomplete
			continue
		}
		for _, r := range e.Readings {
			if key := fmt.Sprint(e.Device, e.Stamp, r); !seen[key] {
				seen[key] = true
				counts[e.Device+" "+string(e.Outcome)]++
			}
		}
	}
	return counts
}

// within polls until ok is true or the time is over.
func within(limit time.Duration, ok func() bool) {
	for end := time.Now().Add(limit); !ok() && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
}

// believe runs the table through a host. The board accepts no connection when the slots are due, so no slot is in doubt. In
// the middle the host is killed. This is no evidence either, because a 111 is unexplained.
func believe(t *testing.T, start func(t *testing.T, p plant, at place) host) {
	list := answers()
	p := plant{options: map[string]any{"settle": "1ms", "hold_interval": "1s"}}
	s := &strange{rows: map[string]answered{}, asked: map[string]int{}}
	var batch []reading
	var first, all []string
	before, after := map[string]int{}, map[string]int{}
	count := func(n map[string]int, name string, o audit.Outcome, readings int) {
		if readings > 0 {
			n[name+" "+string(o)] += readings
		}
	}
	for _, x := range list {
		s.rows[x.name], p.devices, batch = x, append(p.devices, x.devices...), append(batch, x.readings...)
		for _, w := range x.first {
			first = append(first, w.String())
		}
		for _, w := range slices.Concat(x.first, x.later) {
			all = append(all, w.String())
		}
		count(before, x.name, audit.Delivered, len(x.first))
		count(before, x.name, audit.AlreadyStored, x.stored)
		count(after, x.name, audit.Delivered, len(x.first)+len(x.later))
		count(after, x.name, audit.AlreadyStored, x.stored)
	}
	b := board.New(t, p.stations()...)
	s.board = b
	address := loopback.Addr(t)
	at := newPlace(t, "http://"+address+board.Path, b.PublicKey)
	listen := func() *httptest.Server {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: s}}
		server.Start()
		return server
	}
	server := listen()
	h := start(t, p, at)
	board.Until(t, "the host asks for the time", func() bool { return s.requests("") > 0 })
	server.Close()
	h.send(batch)
	h.flush()
	said := func(x answered, words ...string) bool {
		for line := range strings.Lines(strings.ReplaceAll(h.log(), `\"`, `"`)) {
			if strings.Contains(line, `"`+x.name+`"`) && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return true
			}
		}
		return false
	}
	board.Until(t, "no connection is tried", func() bool {
		return !slices.ContainsFunc(list, func(x answered) bool { return !said(x, "connection refused") })
	})
	server = listen()
	defer server.Close()

	asked := map[string]int{}
	within(20*time.Second, func() bool {
		got := received(b)
		for _, x := range list {
			if _, known := asked[x.name]; !known && !slices.ContainsFunc(x.first, func(w want) bool { return !contains(got, w.String()) }) {
				asked[x.name] = s.requests(x.name)
			}
		}
		return len(got) >= len(first) && !slices.ContainsFunc(list, func(x answered) bool { return x.says != nil && !said(x, x.says...) }) &&
			maps.Equal(settled(at.trail()), before)
	})
	for _, x := range list {
		assert.True(t, x.says == nil || said(x, x.says...), "a line of the log about %s with %q", x.name, x.says)
	}
	h.kill()
	again := s.requests("always-111") + 3
	board.Until(t, "waiting slots are tried again after a kill", func() bool { return s.requests("always-111") >= again })
	assert.ElementsMatch(t, first, received(b), "at the board")
	assert.Equal(t, before, settled(at.trail()), "in the trail")
	s.doRight()
	within(20*time.Second, func() bool { return len(b.Received().Readings) >= len(all) && maps.Equal(settled(at.trail()), after) })
	h.stop()
	assert.ElementsMatch(t, all, received(b), "at the board in the end")
	assert.Equal(t, after, settled(at.trail()), "in the trail in the end")
	for _, x := range list {
		if x.most > 0 {
			assert.LessOrEqual(t, asked[x.name], x.most, "requests of %s", x.name)
		}
		if x.says == nil {
			assert.False(t, said(x, "contradicts"), "an error about %s", x.name)
		}
	}
}

func TestAnswersInAdapters(t *testing.T) {
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			believe(t, func(t *testing.T, p plant, at place) host { return newAdapter(t, at, start(p, at)) })
		})
	}
}

func TestAnswersInPrograms(t *testing.T) {
	for name, start := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			believe(t, start)
		})
	}
}
