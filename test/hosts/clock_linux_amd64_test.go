package hosts

import (
	"bufio"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// phase is a time in which the machine's clock is off, and the analyser shows a value.
type phase struct {
	long, off time.Duration
	value     float64
}

// stepping are clocks that are set while a host runs. The last phase is right and goes on beyond the end of the slot.
var stepping = []struct {
	name    string
	phases  []phase
	waiting int // finished slots, which the board does not take before the last phase
}{
	{"boot-clock", []phase{{8 * time.Second, -3 * time.Hour, 9}, {0, 0, 1}}, 0},
	{"future-slot", []phase{{8 * time.Second, time.Hour, 9}, {0, 0, 1}}, 0},
	{"all-gone", []phase{{4 * time.Second, 0, 1}, {4 * time.Second, 9 * 24 * time.Hour, 9}, {0, 0, 1}}, 40},
}

const (
	clockHost   = "OCEMS_TEST_CLOCK_HOST" // name, directory, URL and public key of the host that a process runs
	untilWindow = 28 * time.Second        // from the start to the end of the slot
)

// TestClocks runs each adapter in a process whose clock is set. The board's is right. Neither is this machine's: a slot
// ends soon after the start.
func TestClocks(t *testing.T) {
	for name := range adapters {
		for _, c := range stepping {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				now := time.Now()
				right := now.Truncate(15 * time.Minute).Add(15*time.Minute - untilWindow).Sub(now).Truncate(time.Second)
				s, url, key := clockBoard(t, right)
				at := newPlace(t, url, key)
				if c.waiting > 0 {
					fault(t, s, `{"http_status": 503}`)
				}
				child := exec.Command(os.Args[0], "-test.run=^TestClockHost$")
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%s|%d", clockHost, name, at.dir, url, key, c.waiting))
				in, err := child.StdinPipe()
				require.NoError(t, err)
				out, err := child.StdoutPipe()
				require.NoError(t, err)
				child.Stderr = os.Stderr
				clock, err := wallclock.Start(child, right+c.phases[0].off)
				require.NoError(t, err)
				defer clock.Close()
				for i, p := range c.phases {
					if i > 0 {
						clock.Set(right + p.off)
					}
					_, err := fmt.Fprintln(in, p.value)
					require.NoError(t, err)
					time.Sleep(p.long)
				}
				if c.waiting > 0 {
					fault(t, s, "")
				}
				end := now.Add(right).Add(untilWindow)
				time.Sleep(time.Until(end.Add(-right)))
				arrived := func() bool { return len(board.Received(t, s).Readings) > c.waiting }
				alone := name == "processor-exporter" // nobody confirms a processor's clock: it would wait for 5 minutes
				if alone {
					time.Sleep(3 * time.Second)
				} else {
					board.Until(t, "the slot is at the board", arrived)
				}
				require.NoError(t, in.Close())
				said, _ := io.ReadAll(out)
				require.NoError(t, child.Wait(), "%s", said)

				live := 0
				for _, r := range board.Received(t, s).Readings {
					if r.Value == "7" {
						continue
					}
					live++
					assert.Equal(t, "1", r.Value.String())
					assert.WithinDuration(t, end, time.UnixMilli(r.Timestamp), 2*time.Second)
				}
				assert.Equal(t, !alone, live == 1)
				assert.Len(t, board.Received(t, s).Readings, c.waiting+live)
				wrong, refused := 0, 0
				for _, line := range strings.Split(string(said), "\n") {
					if n, ok := strings.CutPrefix(line, "9: "); ok {
						wrong, _ = strconv.Atoi(n)
					}
				}
				for _, e := range readTrail(t, at.trail()) {
					assert.NotEqual(t, audit.Expired, e.Outcome)
					assert.NotEqual(t, audit.Late, e.Outcome)
					if e.Outcome == audit.Refused {
						assert.Equal(t, "clock", e.Reason)
						refused += e.Count
					}
				}
				assert.NotZero(t, wrong)
				if !alone || c.name != "all-gone" { // there it is in the first 2 minutes, of which the step takes all back
					assert.Equal(t, wrong, refused)
				}
			})
		}
	}
}

func clockPlant() plant {
	return plant{devices: []device{{id: "clocked", parameters: []parameter{{name: "analyser.cod", unit: "mg/L"}}}}}
}

// clockBoard is a board whose clock is off.
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

func fault(t *testing.T, s *simulator.Server, text string) {
	method := "POST"
	if text == "" {
		method = "DELETE"
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, "/faults", strings.NewReader(text)))
	require.Less(t, w.Code, 300, w.Body)
}

// TestClockHost is the process of TestClocks: it runs one adapter and sends it a reading each 200 ms, of the value that was
// given last.
func TestClockHost(t *testing.T) {
	args := strings.Split(os.Getenv(clockHost), "|")
	if len(args) != 5 {
		t.Skip("TestClocks runs it")
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
	fmt.Printf("9: %d\n", wrong.Load())
}
