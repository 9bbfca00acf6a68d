package ocems

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// asKilled copies the state of a running plugin. This is the state that a kill -9 leaves, because the page cache has every
// write. The copy of state.db is a snapshot. The trail is never older, because it is written first.
func asKilled(t testing.TB, o *OCEMS) string {
	from, err := store.Snapshot(filepath.Join(o.StateDirectory, stateFile))
	require.NoError(t, err)
	defer from.Close()
	trail, err := os.ReadFile(filepath.Join(o.StateDirectory, "audit.jsonl"))
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "state")
	to, err := store.Open(filepath.Join(dir, stateFile))
	require.NoError(t, err)
	var ops []store.Op
	require.NoError(t, from.Range(context.Background(), "", func(key string, value []byte) error {
		ops = append(ops, store.Op{Key: key, Value: bytes.Clone(value)})
		return nil
	}))
	require.NoError(t, to.Batch(context.Background(), ops...))
	require.NoError(t, to.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "audit.jsonl"), trail, 0o600))
	return dir
}

// slow keeps windows open for as long as the test takes.
func slow(text string) string { return strings.Replace(text, `settle = "1s"`, `settle = "1h"`, 1) }

func change(t testing.TB, name string, f func(b []byte) []byte) {
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, f(b), 0o600))
}

func files(t testing.TB, dir string) map[string]string {
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(b)
	}
	return all
}

func write(t testing.TB, o *OCEMS, at time.Time, values ...float64) {
	t.Helper()
	for i, v := range values {
		require.NoError(t, o.Write([]telegraf.Metric{modbus(at.Add(time.Duration(i)*time.Second), "cod", v)}))
	}
}

// In each copy, TestKilledWhileTaking finds every sample that Write had accepted, and no sample that it had not been given.
func TestKilledWhileTaking(t *testing.T) {
	t.Parallel()
	b := startBoard(t)
	const sum = oneDevice + "    statistic = \"sum\"\n"
	o, _ := open(t, slow(settings(b, t.TempDir()))+sum)
	at := hoursAgo(2)
	var given, taken atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			given.Add(1)
			if err := o.Write([]telegraf.Metric{modbus(at.Add(time.Duration(i)*time.Millisecond), "cod", 1.0)}); err != nil {
				t.Error(err)
				return
			}
			taken.Add(1)
			time.Sleep(2 * time.Millisecond) // a copy needs a moment without a write
		}
	}()
	type copied struct {
		dir         string
		least, most int64
	}
	var copies []copied
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		least := taken.Load()
		dir := asKilled(t, o)
		copies = append(copies, copied{dir, least, given.Load()})
	}
	close(stop)
	<-done
	require.NoError(t, o.Close())
	for _, c := range copies {
		b := startBoard(t)
		o, logs := open(t, settings(b, c.dir)+sum)
		words := strings.Fields(b.await(t, 1)[0])
		n, err := strconv.ParseInt(words[1], 10, 64)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, n, c.least)
		assert.LessOrEqual(t, n, c.most)
		assert.Empty(t, logs.text("E"))
		require.NoError(t, o.Close())
	}
}

// TestKilledOnTheWayOut copies the state several times while a slot goes from its window to the board. A host is started on
// each copy. Then the board of that moment has the slot once, with the same value, and the trail says so.
func TestKilledOnTheWayOut(t *testing.T) {
	t.Parallel()
	b := startBoard(t)
	o, _ := open(t, settings(b, t.TempDir())+oneDevice)
	write(t, o, hoursAgo(4), 1) // the board knows the device
	require.Eventually(t, func() bool {
		s := o.engine.Stats()
		return b.received(t).Accepted == 1 && s.Open+s.Pending+s.Outbox.Slots == 0
	}, 15*time.Second, 20*time.Millisecond)
	before := b.words(t)
	b.down.Store(true)
	at := hoursAgo(2)
	write(t, o, at, 1, 2, 6)
	var killed []string
	for range 6 { // the window closes after 2 s
		killed = append(killed, asKilled(t, o))
		time.Sleep(600 * time.Millisecond)
	}
	require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 1 }, 15*time.Second, 20*time.Millisecond)
	b.down.Store(false)
	want := []string{"cod 3 mg/L U " + clock(at.Add(spec.SlotLength))}
	assert.Equal(t, append(before, want...), b.await(t, 2))
	sent := len(killed)
	killed = append(killed, asKilled(t, o)) // maybe before the outcome is stored
	require.NoError(t, o.Close())
	killed = append(killed, asKilled(t, o))
	for i, dir := range killed {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b, want := b, append(before, want...)
			if i < sent {
				b, want = startBoard(t), want[1:]
			}
			o, logs := open(t, settings(b, dir)+oneDevice)
			require.Eventually(t, func() bool {
				s := o.engine.Stats()
				return s.Open+s.Pending+s.Outbox.Slots == 0
			}, 15*time.Second, 20*time.Millisecond)
			write(t, o, at.Add(time.Minute), 100) // late, because the window is closed
			require.NoError(t, o.Close())
			assert.Equal(t, want, b.words(t))
			entries := trail(t, dir)
			assert.NotEmpty(t, append(outcomes(entries, audit.Delivered), outcomes(entries, audit.AlreadyStored)...))
			assert.Len(t, outcomes(entries, audit.Late), 1)
			assert.Empty(t, logs.text("E"))
		})
	}
	assert.Equal(t, 2, b.received(t).Accepted)
}

// In TestRestarts an open window survives normal restarts, crashes and failed starts.
func TestRestarts(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	at := hoursAgo(2)
	config := slow(settings(b, dir)) + oneDevice
	o, _ := open(t, config)
	write(t, o, at, 1, 2)
	require.NoError(t, o.Close())

	o, _ = open(t, config)
	write(t, o, at.Add(10*time.Second), 3)
	dir = asKilled(t, o)
	require.NoError(t, o.Close())

	config = slow(settings(b, dir)) + oneDevice
	o, _ = open(t, config)
	write(t, o, at.Add(20*time.Second), 4)
	dir = asKilled(t, o)
	require.NoError(t, o.Close())

	// After a failure Telegraf calls Connect of the same plugin again.
	in, _ := load(t, settings(b, dir)+oneDevice)
	require.NoError(t, in.Init())
	state, err := store.Open(filepath.Join(dir, stateFile))
	require.NoError(t, err)
	require.ErrorContains(t, in.Connect(), "is in use by another process or plugin; give each its own")
	require.NoError(t, state.Close())
	require.NoError(t, in.Connect())
	assert.Equal(t, []string{"cod 2.5 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	require.NoError(t, in.Close())
	require.NoError(t, in.Close())
}

// After a kill the trail still has every refused reading. It may have one twice.
func TestRefusedIsNotedOverAKill(t *testing.T) {
	t.Parallel()
	b := startBoard(t)
	o, _ := open(t, slow(settings(b, t.TempDir()))+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(at, "cod", 1.0), modbus(at, "cod", 5.0)}))
	before := asKilled(t, o)
	require.Empty(t, outcomes(trail(t, before), audit.Refused))
	refusedBy(t, o.StateDirectory, "conflict")
	after := asKilled(t, o)
	require.NoError(t, o.Close())
	for _, dir := range []string{before, after} {
		o, _ := open(t, slow(settings(b, dir))+oneDevice)
		refusedBy(t, dir, "conflict")
		require.NoError(t, o.Close())
		refused := outcomes(trail(t, dir), audit.Refused)
		require.LessOrEqual(t, len(refused), 2)
		for _, e := range refused {
			assert.Equal(t, []audit.Reading{{Parameter: "cod", Value: 5, Unit: "mg/L", Flag: "U"}}, e.Readings)
		}
	}
}

// A directory in use may become free, so Telegraf applies startup_error_behavior. A file in its place does not go away.
func TestStartupErrorBehavior(t *testing.T) {
	t.Parallel()
	b, dir, another := startBoard(t), t.TempDir(), filepath.Join(t.TempDir(), "file")
	first, _ := open(t, settings(b, dir)+oneDevice)
	inUse := fmt.Sprintf("the state_directory %q is in use by another process or plugin; give each its own", dir)
	require.NoError(t, os.WriteFile(another, nil, 0o600))
	connect := func(dir, behavior string) (*models.RunningOutput, error) {
		c := config.NewConfig()
		require.NoError(t, c.LoadConfigData([]byte(fmt.Sprintf("%s  startup_error_behavior = %q\n", settings(b, dir), behavior)+oneDevice), "test.conf"))
		r := c.Outputs[0]
		require.NoError(t, r.Init())
		t.Cleanup(r.Close)
		return r, r.Connect()
	}
	for _, behavior := range []string{"", "error"} {
		_, err := connect(dir, behavior)
		require.EqualError(t, err, inUse, behavior)
	}
	_, err := connect(dir, "ignore")
	require.EqualError(t, err, inUse)
	require.Equal(t, "*internal.FatalError", fmt.Sprintf("%T", err), "Telegraf runs without the output")
	r, err := connect(dir, "retry")
	require.NoError(t, err)
	r.AddMetric(modbus(time.Now(), "cod", 1.0))
	require.EqualError(t, r.Write(), "not connected")
	require.NoError(t, first.Close())
	require.NoError(t, r.Write(), "the directory is free")
	require.Zero(t, r.BufferLength(), "Telegraf has written its buffer")
	for _, behavior := range []string{"error", "ignore", "retry"} {
		_, err := connect(another, behavior)
		require.Error(t, err, behavior)
		require.NotEqual(t, "*internal.FatalError", fmt.Sprintf("%T", err))
	}
}

// State of another version is refused and left as it is.
func TestOtherFormats(t *testing.T) {
	b := startBoard(t)
	put := func(t *testing.T, dir string, f func(tx *bolt.Tx) error) {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		db, err := bolt.Open(filepath.Join(dir, stateFile), 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(f))
		require.NoError(t, db.Close())
	}
	format := func(version byte) func(tx *bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("ocems"))
			if err != nil {
				return err
			}
			return bucket.Put([]byte("format"), []byte{version})
		}
	}
	for _, tt := range []struct {
		name, want string
		make       func(t *testing.T, dir string)
	}{
		{"newer", "it was written by a newer version; use that version, or another directory", func(t *testing.T, dir string) {
			o, _ := open(t, settings(b, dir)+oneDevice)
			write(t, o, hoursAgo(2), 1)
			require.NoError(t, o.Close())
			put(t, dir, format(99))
		}},
		{"of the version with a journal", "it was written by an earlier version; let that version deliver what waits in it", func(t *testing.T, dir string) {
			put(t, dir, format(1))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.make(t, dir)
			before := files(t, dir)
			o, _ := load(t, settings(b, dir)+oneDevice)
			require.NoError(t, o.Init())
			err := o.Connect()
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "state_directory: opening the state "+filepath.Join(dir, stateFile))
			assert.Equal(t, before, files(t, dir))
		})
	}
}

// A host with a damaged state.db keeps the file aside and continues with the readable part.
func TestDamagedState(t *testing.T) {
	page := os.Getpagesize()
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
		aside  bool
		log    string
		want   int // slots of 200
	}{
		{"empty", func([]byte) []byte { return nil }, false, "is empty: what it held is lost", 0},
		{"cut to one byte", func(b []byte) []byte { return b[:1] }, true, "is damaged", 0},
		{"text", func([]byte) []byte { return bytes.Repeat([]byte("no state "), 10_000) }, true, "is damaged", 0},
		{"one meta page", func(b []byte) []byte { clear(b[:page]); return b }, true, "is damaged", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, dir := startBoard(t), t.TempDir()
			b.down.Store(true)
			o, _ := open(t, settings(b, dir)+oneDevice)
			first := hoursAgo(100)
			var list []telegraf.Metric
			for i := range 200 {
				list = append(list, modbus(first.Add(time.Duration(i)*spec.SlotLength), "cod", float64(i)))
			}
			require.NoError(t, o.Write(list))
			require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 200 }, 15*time.Second, 20*time.Millisecond)
			require.NoError(t, o.Close())
			name := filepath.Join(dir, stateFile)
			change(t, name, tt.damage)
			before, err := os.ReadFile(name)
			require.NoError(t, err)

			b.down.Store(false)
			o, logs := open(t, settings(b, dir)+oneDevice)
			assert.Contains(t, logs.text("E"), tt.log)
			aside, err := filepath.Glob(name + ".damaged-*")
			require.NoError(t, err)
			if tt.aside {
				require.Len(t, aside, 1)
				kept, err := os.ReadFile(aside[0])
				require.NoError(t, err)
				assert.Equal(t, before, kept)
				assert.Contains(t, logs.text("E"), aside[0])
			} else {
				assert.Empty(t, aside)
			}
			write(t, o, hoursAgo(1), 500) // the host still works
			b.await(t, tt.want+1)
			for _, r := range b.received(t).Readings { // nothing is invented
				if r.Value.String() != "500" {
					assert.Equal(t, fmt.Sprint(int(time.UnixMilli(r.Timestamp).Sub(first)/spec.SlotLength)-1), r.Value.String())
				}
			}
			require.NoError(t, o.Close())
		})
	}
}

func TestNotConnected(t *testing.T) {
	b := startBoard(t)
	for _, align := range []string{"true", "false"} {
		o, _ := load(t, settings(b, t.TempDir())+"align = "+align+oneDevice)
		require.NoError(t, o.Init())
		batch := []telegraf.Metric{modbus(hoursAgo(1), "cod", 1.0), modbus(hoursAgo(1), "cod", "x")}
		assert.ErrorContains(t, o.Write(batch), "not connected")
		require.NoError(t, o.Close())
		require.NoError(t, o.Connect())
		require.NoError(t, o.Write(batch))
		require.NoError(t, o.Close())
		assert.ErrorContains(t, o.Write(batch), "not connected")
		require.NoError(t, o.Connect()) // as Telegraf may do; the window is still there
		assert.Equal(t, align == "true", o.engine.Stats().Open == 1)
		require.NoError(t, o.Close())
	}
}

// Without an audit file, refused readings are in the log. No password of a URL is in the log.
func TestRefusalsWithoutATrail(t *testing.T) {
	b := startBoard(t)
	text := strings.Replace(settings(b, ""), "state_directory", "# state_directory", 1)
	o, logs := open(t, strings.Replace(text, "http://", "http://plant:secret-password@", 1)+oneDevice)
	old := time.Now().Add(-8 * 24 * time.Hour)
	for i := range 3 {
		require.NoError(t, o.Write([]telegraf.Metric{modbus(old, "cod", 40+float64(i))}))
	}
	require.Eventually(t, func() bool { return o.engine.Stats().Refused[slot.TooOld] == 3 }, 15*time.Second, 20*time.Millisecond) // the clock is trusted
	for _, m := range selfstat.Metrics() {
		endpoint, _ := m.GetTag("endpoint")
		assert.NotContains(t, endpoint, "secret-password")
	}
	require.NoError(t, o.Close())
	assert.Contains(t, logs.text("W"), "No state_directory is set: open windows and waiting slots are lost when Telegraf stops")
	assert.Contains(t, logs.text("W"), `Readings are in no slot outcome=refused device="dev_1" parameter="cod"`)
	assert.Contains(t, logs.text("W"), `readings=3 reason="too_old"`)
	assert.NotContains(t, logs.text(""), "secret-password")
}
