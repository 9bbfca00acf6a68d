package hosts

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/test/board"
)

// stateFiles returns the files with the state of the hosts.
func (p place) stateFiles(t *testing.T) (list []string) {
	require.NoError(t, filepath.WalkDir(p.state(), func(path string, d fs.DirEntry, err error) error {
		if name := filepath.Base(path); err == nil && d.Type().IsRegular() && !strings.HasPrefix(name, "audit.jsonl") && !strings.Contains(name, ".replaced-") && !strings.HasSuffix(name, ".anew") && !strings.Contains(name, ".status.json") {
			list = append(list, path)
		}
		return err
	}))
	return list
}

func forEach(t *testing.T, list []string, do func(path string) error) {
	require.NotEmpty(t, list)
	for _, path := range list {
		require.NoError(t, do(path))
	}
}

// replace replaces a file by another one.
func replace(path string) error {
	if err := os.WriteFile(path+".other", nil, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".other", path)
}

// taken lists actions of other programs on the files of a running host, and the text in its log. The collector limits the
// number of equal log lines within 10 s; the list is not longer than this limit.
var taken = []struct {
	name string
	do   func(t *testing.T, p place)
	says string
}{
	{"trail removed", func(t *testing.T, p place) { require.NoError(t, os.Remove(p.trail())) }, "it was removed or renamed while the host ran; the whole file is written there again"},
	{"trail cut", func(t *testing.T, p place) { require.NoError(t, os.Truncate(p.trail(), 0)) }, "0 bytes while the host ran; a new one is started"},
	{"directory renamed", func(t *testing.T, p place) { require.NoError(t, os.Rename(p.state(), p.state()+".old")) }, "it was removed or renamed"},
	{"state replaced", func(t *testing.T, p place) { forEach(t, p.stateFiles(t), replace) }, "another file was put in its place while the host ran; the whole file is written there again, and nothing is lost; the other file is kept as "},
	{"trail renamed, and a new one made", func(t *testing.T, p place) {
		require.NoError(t, os.Rename(p.trail(), p.trail()+".1"))
		require.NoError(t, os.WriteFile(p.trail(), nil, 0o600))
	}, "another file was put in its place while the host ran; the whole file is written there again; the file that was there is kept as "},
	{"directory removed", func(t *testing.T, p place) { require.NoError(t, os.RemoveAll(p.state())) }, "it was removed or renamed"},
}

// takeAway applies all these actions to one host, which is then killed. No accepted reading is lost, and no line of the trail
// except those that were cut off.
func takeAway(t *testing.T, start func(t *testing.T, p plant, at place) host) {
	x := row{name: "taken"}
	x.complete()
	p := plant{devices: x.devices, options: map[string]any{"settle": "8s"}}
	b := board.New(t, p.stations()...)
	place := newPlace(t, b.URL, b.PublicKey)
	h := start(t, p, place)
	files := 0
	for i, c := range taken {
		h.send(tagged(each(i, float64(i)), tag, x.name))
		h.flush()
		files = max(files, len(place.stateFiles(t)))
		times := map[string]int{"state": files, "trail": 1, "directory": files + 1}[strings.Fields(c.name)[0]] // each file is in the log
		before := len(h.log())
		c.do(t, place)
		board.Until(t, c.name+": "+c.says, func() bool { return strings.Count(h.log()[before:], c.says) >= times })
	}
	require.Empty(t, b.Received().Readings, "the host was too slow: the window closed before it was killed")
	h.kill()
	board.Until(t, "the slot arrives", func() bool { return len(b.Received().Readings) > 0 })
	outcomes := map[audit.Outcome]int{}
	board.Until(t, "its outcome is in the trail", func() bool {
		clear(outcomes)
		for _, e := range readTrail(t, place.trail()) {
			outcomes[e.Outcome]++
		}
		return outcomes[audit.Delivered] > 0
	})
	h.stop()
	delete(outcomes, audit.Started)
	assert.Equal(t, map[audit.Outcome]int{audit.Delivered: 1, audit.Recovered: 4}, outcomes, "after it was cut")
	assert.Equal(t, "2.5", b.Received().Readings[0].Value.String(), "the mean of the readings before and after")
	assert.Len(t, b.Received().Readings, 1)
}

// everywhere runs a test with every host.
func everywhere(t *testing.T, test func(t *testing.T, start func(t *testing.T, p plant, at place) host)) {
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(t *testing.T, p plant, at place) host { return newAdapter(t, at, start(p, at)) })
		})
	}
	for name, start := range programs {
		t.Run("program "+name, func(t *testing.T) {
			t.Parallel()
			test(t, start)
		})
	}
}

func TestFilesTakenAway(t *testing.T) { everywhere(t, takeAway) }

// TestHoleInTheTrail starts hosts with a trail as logrotate's copytruncate leaves it.
func TestHoleInTheTrail(t *testing.T) {
	everywhere(t, func(t *testing.T, start func(t *testing.T, p plant, at place) host) {
		x := row{name: "hole"}
		x.complete()
		p := plant{devices: x.devices, options: map[string]any{"settle": "1s"}}
		b := board.New(t, p.stations()...)
		at := newPlace(t, b.URL, b.PublicKey)
		f, err := os.Create(at.trail())
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(`{"n":70000,"time":"2026-01-01T00:00:00Z","outcome":"late","prev":"","sum":""}`+"\n"), 256<<20)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		h := start(t, p, at)
		h.send(tagged(each(0, 1), tag, x.name))
		b.Arrive(1)
		h.stop()
		assert.Contains(t, h.log(), " is damaged; it is kept as ")
		assert.Equal(t, audit.Recovered, readTrail(t, at.trail())[0].Outcome)
	})
}

// TestHalfADevicesFile slowly copies a new devices_file over the current one. No device disappears at any time, and at the end
// the new device reports.
func TestHalfADevicesFile(t *testing.T) {
	everywhere(t, func(t *testing.T, start func(t *testing.T, p plant, at place) host) {
		all := plant{devices: []device{{id: "half.1"}, {id: "half.2"}, {id: "half.3"}, {id: "half.4"}}}
		b := board.New(t, all.stations()...)
		at := newPlace(t, b.URL, b.PublicKey)
		file := filepath.Join(at.dir, "devices.csv")
		text := "station_id,device_id,token_id,latitude,longitude\n"
		for _, d := range all.devices[:3] {
			text += fmt.Sprintf("%s,%s,%s,17.25,78.5\n", station, d.id, token)
		}
		board.Write(t, file, text)
		h := start(t, plant{options: map[string]any{"settle": "2s", "devices_file": file, "devices_file_interval": "400ms"}}, at)
		want := 0
		send := func(n int) {
			var batch []reading
			for _, d := range all.devices[:n] {
				batch = append(batch, reading{name: "cod", value: 1, unit: "mg/L", device: d.id, at: base.Add(time.Duration(want) * time.Second)})
			}
			h.send(batch)
			want++
		}
		send(3)
		h.flush()
		text += fmt.Sprintf("%s,%s,%s,17.25,78.5\n", station, all.devices[3].id, token)
		f, err := os.Create(file) // like cp
		require.NoError(t, err)
		defer f.Close()
		for part := []byte(text); len(part) > 0; {
			n := min(len(part), 7)
			_, err := f.Write(part[:n])
			require.NoError(t, err)
			part = part[n:]
			send(3)
			time.Sleep(50 * time.Millisecond)
		}
		assert.NotContains(t, strings.ToLower(h.log()), "the devices_file was read again")
		board.Until(t, "each component uses the file", func() bool {
			log := strings.ToLower(h.log())
			readers := 0
			for _, began := range []string{"reporting", "making slots"} {
				if strings.Contains(log, began) {
					readers++
				}
			}
			return strings.Count(log, "the devices_file was read again") >= readers
		})
		send(4)
		b.Arrive(4)
		h.stop()
		for _, r := range b.Received().Readings {
			assert.Equal(t, "1", r.Value.String())
		}
		assert.NotContains(t, strings.ReplaceAll(h.log(), `\"`, `"`), `unknown device "half`)
	})
}

// TestDamagedState damages one page of the state after an outage. All slots that are not on this page arrive with their
// values.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	const slots, ofAPage = 300, 70
	everywhere(t, func(t *testing.T, start func(t *testing.T, p plant, at place) host) {
		x := row{name: "damaged"}
		x.complete()
		p := plant{devices: x.devices, options: map[string]any{"settle": "1s"}}
		b := board.New(t, p.stations()...)
		answer := httptest.NewRecorder()
		b.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "http://localhost/faults", strings.NewReader(`{"http_status": 503}`)))
		require.Less(t, answer.Code, 300)
		at := newPlace(t, b.URL, b.PublicKey)
		h := start(t, p, at)
		want := map[int64]string{}
		var batch []reading
		for i := range slots {
			r := each(-15*i, float64(i))
			want[r[0].at.Add(15*time.Minute).UnixMilli()] = fmt.Sprint(i)
			batch = append(batch, r...)
		}
		h.send(tagged(batch, tag, x.name))
		file := ""
		board.Until(t, "all slots wait", func() bool {
			for _, f := range at.stateFiles(t) {
				if n := waiting(f); n == slots {
					file = f
				}
			}
			return file != ""
		})
		h.stop()
		sound, err := os.ReadFile(file)
		require.NoError(t, err)
		page := os.Getpagesize()
		for n := 2; n < len(sound)/page; n += 5 {
			board := board.New(t, p.stations()...)
			other := newPlace(t, board.URL, board.PublicKey)
			require.NoError(t, os.RemoveAll(other.state()))
			require.NoError(t, os.CopyFS(other.state(), os.DirFS(at.state())))
			name, err := filepath.Rel(at.state(), file)
			require.NoError(t, err)
			text := bytes.Clone(sound)
			clear(text[n*page : (n+1)*page])
			require.NoError(t, os.WriteFile(filepath.Join(other.state(), name), text, 0o600))
			h := start(t, p, other)
			board.Arrive(slots - ofAPage)
			h.stop()
			for _, r := range board.Received().Readings {
				assert.Equal(t, want[r.Timestamp], r.Value.String(), "page %d: %d", n, r.Timestamp)
			}
		}
	})
}

// waiting returns the number of slots that wait in a state file.
func waiting(file string) (n int) {
	state, err := store.Snapshot(file)
	if err != nil {
		return -1
	}
	defer state.Close()
	_ = state.Range(context.Background(), "outbox/", func(string, []byte) error { n++; return nil })
	return n
}
