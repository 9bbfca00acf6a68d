package hosts

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/wallclock"
)

// phase is a time with one error of the machine's clock and one value of the analyser.
type phase struct {
	long, off time.Duration
	value     float64
}

// stepping has the cases of clocks that are set while a host runs. In the last phase the clock is right; it lasts beyond the end
// of the slot.
var stepping = []struct {
	name    string
	phases  []phase
	waiting int // finished slots, which the board does not accept before the last phase
}{
	{"boot-clock", []phase{{8 * time.Second, -3 * time.Hour, 9}, {0, 0, 1}}, 0},
	{"future-slot", []phase{{8 * time.Second, time.Hour, 9}, {0, 0, 1}}, 0},
	{"all-gone", []phase{{4 * time.Second, 0, 1}, {4 * time.Second, 9 * 24 * time.Hour, 9}, {0, 0, 1}}, 40},
}

const (
	clockHost   = "OCEMS_TEST_CLOCK_HOST" // name, directory, URL and public key of the host in a process
	untilWindow = 28 * time.Second        // from the start to the end of the slot
)

// TestClocks runs each adapter in a process whose clock is set. The board's clock is right. Both differ from this machine's
// clock, so that a slot ends soon after the start. All cases run in parallel, because each mostly waits.
func TestClocks(t *testing.T) {
	t.Parallel()
	var running sync.WaitGroup
	var judges []func()
	for name := range adapters {
		for _, c := range stepping {
			right := time.Until(time.Now().Truncate(15 * time.Minute).Add(15*time.Minute - untilWindow)).Truncate(time.Second)
			s, url, key := clockBoard(t, right)
			r := &clockRun{t: t, board: s, right: right, end: time.Now().Add(untilWindow), alone: name == "processor-exporter"}
			at := newPlace(t, url, key)
			child := exec.Command(os.Args[0], "-test.run=^TestClockHost$")
			child.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%s|%d", clockHost, name, at.dir, url, key, c.waiting))
			if c.waiting > 0 {
				r.fault(`{"http_status": 503}`)
			}
			running.Go(func() { r.carryOut(child, c.phases, c.waiting) })
			judges = append(judges, func() {
				t.Run(name+"/"+c.name, func(t *testing.T) {
					r.judge(t, readTrail(t, at.trail()), c.waiting)
				})
			})
		}
	}
	running.Wait()
	for _, judge := range judges {
		judge()
	}
}

// clockRun is a host whose clock is set.
type clockRun struct {
	t     *testing.T
	board *simulator.Server
	right time.Duration // the true time minus this machine's
	end   time.Time     // end of the slot, by this machine's clock
	alone bool          // a processor, whose clock no server confirms: it waits for 5 minutes after a step
	said  []byte
}

func (r *clockRun) carryOut(child *exec.Cmd, phases []phase, waiting int) {
	in, err := child.StdinPipe()
	assert.NoError(r.t, err)
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	clock, err := wallclock.Start(child, r.right+phases[0].off)
	if !assert.NoError(r.t, err) {
		return
	}
	defer clock.Close()
	for i, p := range phases {
		if i > 0 { // meanwhile no reading is in flight
			fmt.Fprintln(in, 0)
			time.Sleep(500 * time.Millisecond)
			clock.Set(r.right + p.off)
		}
		fmt.Fprintln(in, p.value)
		time.Sleep(p.long)
	}
	r.fault("")
	time.Sleep(time.Until(r.end.Add(3 * time.Second)))
	for last := time.Now().Add(20 * time.Second); !r.alone && len(board.Received(r.t, r.board).Readings) <= waiting && time.Now().Before(last); {
		time.Sleep(100 * time.Millisecond)
	}
	assert.NoError(r.t, in.Close())
	assert.NoError(r.t, child.Wait())
	r.said = said.Bytes()
}

func (r *clockRun) judge(t *testing.T, trail []audit.Entry, waiting int) {
	live, readings := 0, board.Received(t, r.board).Readings
	for _, x := range readings {
		if x.Value == "7" {
			continue
		}
		live++
		assert.Equal(t, "1", x.Value.String())
		assert.WithinDuration(t, r.end.Add(r.right), time.UnixMilli(x.Timestamp), 2*time.Second)
	}
	assert.Equal(t, !r.alone, live == 1)
	assert.Len(t, readings, waiting+live, "%s", r.said)
	wrong, refused := 0, 0
	_, err := fmt.Sscanf(string(r.said[max(0, bytes.Index(r.said, []byte("wrong: "))):]), "wrong: %d", &wrong)
	require.NoError(t, err, "%s", r.said)
	for _, e := range trail {
		assert.NotEqual(t, audit.Expired, e.Outcome)
		assert.NotEqual(t, audit.Late, e.Outcome)
		if e.Outcome == audit.Refused {
			assert.Equal(t, "clock", e.Reason)
			refused += e.Count
		}
	}
	assert.NotZero(t, wrong)
	if r.alone { // readings of an unconfirmed clock still wait
		wrong = 0
	}
	assert.Equal(t, wrong, refused)
}

func (r *clockRun) fault(text string) {
	method := http.MethodPost
	if text == "" {
		method = http.MethodDelete
	}
	r.board.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "http://localhost/faults", strings.NewReader(text)))
}

func clockPlant() plant {
	return plant{devices: []device{{id: "clocked", parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}}}}}
}

// clockBoard starts a board whose clock is wrong by off.
func clockBoard(t *testing.T, off time.Duration) (s *simulator.Server, url, publicKey string) {
	const keys = "../../ocems/seal/testdata/industry_test_"
	text, err := os.ReadFile(keys + "private.pem")
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	s, err = simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: clockPlant().stations()},
		Now: func() time.Time { return time.Now().Add(off) }})
	require.NoError(t, err)
	listening := httptest.NewServer(s)
	t.Cleanup(listening.Close)
	t.Cleanup(s.Close)
	public, err := filepath.Abs(keys + "public.pem")
	require.NoError(t, err)
	return s, listening.URL + board.Path, public
}

// TestClockHost is the process of TestClocks. It runs one adapter and sends it a reading every 200 ms, with the value that it
// got last.
func TestClockHost(t *testing.T) {
	args := strings.Split(os.Getenv(clockHost), "|")
	if len(args) != 5 {
		t.Skip("only TestClocks runs it")
	}
	at := place{url: args[2], publicKey: args[3], dir: args[1]}
	h := newAdapter(t, at, adapters[args[0]](clockPlant(), at))
	waiting, err := strconv.Atoi(args[4])
	require.NoError(t, err)
	send := func(at time.Time, value float64) {
		h.send([]reading{{name: "analyser.cod", value: value, at: at}})
	}
	for i := range waiting {
		send(time.Now().Truncate(15*time.Minute).Add(-time.Duration(i+2)*15*time.Minute), 7)
	}
	var value, wrong, ended atomic.Int64
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			n, _ := strconv.Atoi(lines.Text())
			value.Store(int64(n))
		}
		ended.Store(1)
	}()
	for ended.Load() == 0 {
		if v := value.Load(); v != 0 {
			if v == 9 {
				wrong.Add(1)
			}
			send(time.Now(), float64(v))
		}
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Printf("wrong: %d\n", wrong.Load())
}
