package ocems

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

func TestMain(m *testing.M) { // Telegraf's secrets keep one goroutine for the life of the process
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/awnumar/memguard/core.NewCoffer.func1"))
}

const token = "token-of-dev-1"

// board is the board's server, which can be down.
type board struct {
	*httptest.Server
	down atomic.Bool
}

func startBoard(t testing.TB) *board {
	text, err := os.ReadFile("../../../ocems/seal/testdata/industry_test_private.pem")
	require.NoError(t, err)
	key, err := seal.ParsePrivateKey(string(text))
	require.NoError(t, err)
	sim, err := simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: []simulator.Station{
		{ID: "station_1", Devices: []simulator.Device{{ID: "dev_1", Token: token, Calibrations: []simulator.Calibration{
			{From: hoursAgo(4), To: hoursAgo(4).Add(time.Hour)}}}}}}}})
	require.NoError(t, err)
	b := &board{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			sim.ServeHTTP(w, r)
			return
		}
		if b.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		sim.ServeHTTP(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *board) received(t testing.TB) (got simulator.Received) {
	resp, err := b.Client().Get(b.URL + "/received")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	return got
}

// await waits until the board has accepted n readings, and returns them as text.
func (b *board) await(t testing.TB, n int) []string {
	t.Helper()
	require.Eventually(t, func() bool { return b.received(t).Accepted >= n }, 15*time.Second, 20*time.Millisecond)
	return b.words(t)
}

func (b *board) words(t testing.TB) (got []string) {
	for _, r := range b.received(t).Readings {
		text := fmt.Sprintf("%s %s %s %s %s", r.Parameter, r.Value, r.Unit, r.Flag, clock(time.UnixMilli(r.Timestamp)))
		if r.Diagnostic {
			text += " diagnostic"
		}
		got = append(got, text)
	}
	slices.Sort(got)
	return got
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05") }

const oneDevice = `
[[outputs.ocems.device]]
  station_id = "station_1"
  device_id = "dev_1"
  token_id = "` + token + `"
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "cod"
    unit = "mg/l"
`

// settings returns the options of a test, with short waits and all state in dir.
func settings(b *board, dir string) string {
	return fmt.Sprintf(`
[[outputs.ocems]]
  endpoint = "%s/v1.0/industry/data"
  state_directory = '%s'
  public_key_file = "../../../ocems/seal/testdata/industry_test_public.pem"
  grace = "1s"
  settle = "1s"
  coalesce = "0s"
  spread = "0s"
  initial_backoff = "10ms"
  max_backoff = "50ms"
`, b.URL, dir)
}

func load(t testing.TB, text string) (*OCEMS, *captured) {
	c := config.NewConfig()
	require.NoError(t, c.LoadConfigData([]byte(text), "test.conf"))
	require.Len(t, c.Outputs, 1)
	o := c.Outputs[0].Output.(*OCEMS)
	l := &captured{}
	o.Log = l
	return o, l
}

func open(t testing.TB, text string) (*OCEMS, *captured) {
	t.Helper()
	o, l := load(t, text)
	require.NoError(t, o.Init())
	require.NoError(t, o.Connect())
	t.Cleanup(func() { _ = o.Close() })
	return o, l
}

// hoursAgo returns the start of a window that ended long ago.
func hoursAgo(n int) time.Time {
	start, _ := spec.Window(time.Now().Add(-time.Duration(n)*time.Hour), spec.SlotLength)
	return start
}

func modbus(at time.Time, field string, v any, tags ...string) telegraf.Metric {
	m := metric.New("modbus", nil, map[string]any{field: v}, at)
	for i := 0; i < len(tags); i += 2 {
		m.AddTag(tags[i], tags[i+1])
	}
	return m
}

func trail(t testing.TB, dir string) (entries []audit.Entry) {
	text, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var e audit.Entry
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		entries = append(entries, e)
	}
	return entries
}

func outcomes(entries []audit.Entry, o audit.Outcome) (of []audit.Entry) {
	for _, e := range entries {
		if e.Outcome == o {
			of = append(of, e)
		}
	}
	return of
}

func TestWholePath(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, logs := open(t, settings(b, dir)+"bools_as_numbers = true\nstrings_as_numbers = true\n"+oneDevice+`
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "ph"
    unit = "pH"
    decimals = 2
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "valve"
    parameter = "do"
    unit = "mg/L"
    diagnostic = true
    statistic = "max"
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "temp"
    parameter = "temperature"
    [outputs.ocems.device.parameter.tags]
      line = "a"
`)
	at := hoursAgo(3)
	end := clock(at.Add(spec.SlotLength))
	second := func(n int) time.Time { return at.Add(time.Duration(n) * time.Second) }
	both := metric.New("plant", map[string]string{"ocems_device_id": "dev_1", "ocems_unit": "mg/L"}, map[string]any{"bod": 3.5, "ocems_flag": "M"}, at)
	require.NoError(t, o.Write([]telegraf.Metric{
		modbus(second(0), "cod", int64(10)),
		modbus(second(899), "cod", uint64(30)),
		modbus(second(5), "cod", 23.0),
		modbus(second(6), "cod", " 41 "),
		modbus(second(900), "cod", 7.0), // the next window
		modbus(second(7), "cod", math.NaN()),
		modbus(second(8), "cod", math.Inf(1)),
		modbus(second(9), "cod", "broken"),
		modbus(second(0), "ph", 7.123),
		modbus(second(1), "ph", 7.125),
		modbus(second(2), "valve", false),
		modbus(second(3), "valve", true),
		modbus(second(0), "temp", 20.0, "line", "a", "ocems_unit", "degC", "ocems_flag", "M"),
		modbus(second(0), "temp", 99.0, "line", "b", "ocems_unit", "degC"),
		both,
		metric.New("tss", map[string]string{"ocems_device_id": "dev_1", "ocems_unit": "mg/l"}, map[string]any{"value": 9}, at),
		metric.New("plant", map[string]string{"ocems_device_id": "dev_2", "ocems_unit": "mg/L"}, map[string]any{"bod": 1.0}, at),
		metric.New("plant", map[string]string{"ocems_device_id": "dev_1", "ocems_unit": "furlong"}, map[string]any{"bod": 1.25}, at),
		metric.New("plant", map[string]string{"ocems_device_id": "dev_1", "ocems_unit": "mg/L", "ocems_flag": "Q"}, map[string]any{"bod": 1.5}, at),
		metric.New("cpu", nil, map[string]any{"usage": 1.0}, at),
	}))
	assert.Equal(t, []string{
		"bod 3.5 mg/L M " + end,
		"cod 26 mg/L U " + end,
		"cod 7 mg/L U " + clock(at.Add(2*spec.SlotLength)),
		"do 1 mg/L U " + end + " diagnostic",
		"ph 7.12 pH U " + end,
		"temperature 20 °C M " + end,
		"tss 9 mg/L U " + end,
	}, b.await(t, 7))

	nan := refusedBy(t, dir, "not_a_number")
	assert.Equal(t, audit.Entry{Outcome: audit.Refused, Station: "station_1", Device: "dev_1", Parameter: "cod", Reason: "not_a_number", Count: 3,
		Stamp: at.Add(spec.SlotLength).UnixMilli(), Detail: fmt.Sprintf("taken from %s to %s: the value is NaN", utc(second(7)), utc(second(9)))}, nan)
	unit := refusedBy(t, dir, "unit")
	assert.Contains(t, unit.Detail, `"furlong"`)
	assert.Equal(t, []audit.Reading{{Parameter: "bod", Value: 1.25, Unit: "furlong", Flag: "U"}}, unit.Readings)
	flag := refusedBy(t, dir, "bad_flag")
	assert.Contains(t, flag.Detail, `"Q"`)
	assert.Equal(t, []audit.Reading{{Parameter: "bod", Value: 1.5}}, flag.Readings)
	assert.Len(t, outcomes(trail(t, dir), audit.Refused), 3)
	assert.Contains(t, logs.text("W"), `unknown device "dev_2"; nearest: dev_1`)
	n := o.engine.Stats()
	assert.EqualValues(t, 12, n.Taken)
	assert.Equal(t, map[slot.Reason]uint64{"duplicate": 0, "not_a_number": 3, "unit": 1, "bad_flag": 1}, n.Refused)
	assert.EqualValues(t, 3, n.Ignored, "cpu, temp of line b, dev_2")

	begun := time.Now()
	require.NoError(t, o.Close())
	assert.Less(t, time.Since(begun), 5*time.Second)
	assert.NotContains(t, logs.text(""), token)
}

func utc(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// refusedBy waits for the trail's line with this reason, which is written some seconds after the first reading.
func refusedBy(t testing.TB, dir, reason string) (found audit.Entry) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, e := range trail(t, dir) {
			if e.Reason == reason {
				e.Number, e.Time, e.Previous = 0, time.Time{}, ""
				found = e
				return true
			}
		}
		return false
	}, 15*time.Second, 50*time.Millisecond, reason)
	return found
}

func TestCounterIsLast(t *testing.T) {
	t.Parallel()
	b := startBoard(t)
	o, _ := open(t, settings(b, t.TempDir())+oneDevice)
	at := hoursAgo(2)
	var list []telegraf.Metric
	for i, v := range []uint64{100, 104, 109} {
		list = append(list, metric.New("modbus", nil, map[string]any{"cod": v}, at.Add(time.Duration(i)*time.Minute), telegraf.Counter))
	}
	slices.Reverse(list) // last means newest, not last received
	require.NoError(t, o.Write(list))
	assert.Equal(t, []string{"cod 109 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
}

// Calibration points do not count in the 15-minute slot in which they fall. If the board has not scheduled the calibration,
// only these points wait.
func TestCalibration(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, _ := open(t, settings(b, dir)+"calibration_grace = \"1s\"\n"+oneDevice)
	at, unscheduled := hoursAgo(4), hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{
		modbus(at, "cod", 10.0), modbus(at.Add(10*time.Minute), "cod", 20.0),
		modbus(at.Add(time.Second), "cod", 100.0, "ocems_flag", "C"), modbus(at.Add(29*time.Second), "cod", 102.0, "ocems_flag", "c"),
		modbus(at.Add(30*time.Second), "cod", 104.0, "ocems_flag", "C"),
		metric.New("modbus", nil, map[string]any{"cod": 0.5, "ocems_flag": "Z"}, at.Add(time.Minute)),
		modbus(at.Add(15*time.Minute-time.Second), "cod", 99.0, "ocems_flag", "C"), // a point that ends with the slot
		modbus(unscheduled, "cod", 1.0, "ocems_flag", "Z"), modbus(unscheduled, "cod", 2.0),
	}))
	after := func(d time.Duration) string { return clock(at.Add(d)) }
	assert.ElementsMatch(t, []string{
		"cod 101 mg/L C " + after(30*time.Second),
		"cod 104 mg/L C " + after(time.Minute),
		"cod 0.5 mg/L Z " + after(90*time.Second),
		"cod 99 mg/L C " + after(15*time.Minute),
		"cod 15 mg/L U " + after(15*time.Minute),
		"cod 2 mg/L U " + clock(unscheduled.Add(spec.SlotLength)),
	}, b.await(t, 6))
	require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 1 }, 15*time.Second, 20*time.Millisecond)
	assert.Zero(t, o.engine.Stats().Outbox.Held)
	require.NoError(t, o.Close())
}

func TestBoolAndTextAreRefused(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, logs := open(t, settings(b, dir)+oneDevice)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(hoursAgo(2), "cod", true), modbus(hoursAgo(1), "cod", "12")}))
	assert.Zero(t, o.engine.Stats().Open)
	require.NoError(t, o.Close())
	refused := outcomes(trail(t, dir), audit.Refused)
	require.Len(t, refused, 2)
	assert.Contains(t, refused[0].Detail, "the value is true: set bools_as_numbers = true to take it as 0 or 1")
	assert.Contains(t, refused[1].Detail, `the value is the text "12": set strings_as_numbers = true if it is a number`)
	for _, e := range refused {
		assert.Empty(t, e.Readings, "no number was read, so none may be sent")
	}
	assert.Contains(t, logs.text("W"), "set bools_as_numbers = true")
}

func TestLateFutureAndOldAreAudited(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, _ := open(t, settings(b, dir)+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(at, "cod", 5.0)}))
	b.await(t, 1)
	old, ahead := time.Now().Add(-8*24*time.Hour), time.Now().Add(3*time.Hour)
	require.NoError(t, o.Write([]telegraf.Metric{
		modbus(at.Add(time.Minute), "cod", 6.0), modbus(at.Add(2*time.Minute), "cod", 6.5), modbus(old, "cod", 1.0), modbus(ahead, "cod", 2.0),
	}))
	late := refusedBy(t, dir, "late")
	assert.Equal(t, audit.Late, late.Outcome)
	assert.Equal(t, at.Add(spec.SlotLength).UnixMilli(), late.Stamp)
	assert.Equal(t, 2, late.Count)
	assert.Equal(t, []audit.Reading{{Parameter: "cod", Value: 6, Unit: "mg/L", Flag: "U"}}, late.Readings)
	assert.Equal(t, fmt.Sprintf("taken from %s to %s", utc(at.Add(time.Minute)), utc(at.Add(2*time.Minute))), late.Detail)
	assert.Equal(t, "taken at "+utc(old), refusedBy(t, dir, "too_old").Detail)
	assert.Equal(t, "taken at "+utc(ahead), refusedBy(t, dir, "future").Detail)
	n := o.engine.Stats()
	assert.EqualValues(t, 1, n.Taken)
	assert.Equal(t, map[slot.Reason]uint64{"duplicate": 0, "late": 2, "too_old": 1, "future": 1}, n.Refused)
	assert.Equal(t, []string{"cod 5 mg/L U " + clock(at.Add(spec.SlotLength))}, b.words(t))
}

// The same metric twice is one reading. Another value for the same time is refused, and the log names both senders.
func TestRepeatedReadings(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, logs := open(t, settings(b, dir)+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(at, "cod", 1.0, "host", "one"), modbus(at, "cod", 1.0, "host", "one"), modbus(at, "cod", 9.0, "host", "two")}))
	assert.Equal(t, []string{"cod 1 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	conflict := refusedBy(t, dir, "conflict")
	assert.Equal(t, 1, conflict.Count)
	assert.Contains(t, conflict.Detail, "this one is from host=two, the first from host=one")
	assert.Contains(t, logs.text("W"), "this one is from host=two, the first from host=one")
	assert.EqualValues(t, 1, o.engine.Stats().Refused[slot.Duplicate])
}

func TestSlotsMadeUpstream(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	o, _ := open(t, settings(b, dir)+"align = false\n"+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{
		modbus(at, "cod", 5.0), modbus(at.Add(time.Second), "cod", 6.0), modbus(at.Add(spec.SlotLength), "cod", math.NaN()),
		modbus(at.Add(spec.SlotLength), "cod", 8.0, "ocems_flag", "M"),
	}))
	assert.Equal(t, []string{"cod 5 mg/L U " + clock(at), "cod 8 mg/L M " + clock(at.Add(spec.SlotLength))}, b.await(t, 2))
	assert.Contains(t, refusedBy(t, dir, "off_grid").Detail, "set align to true, or make the slots upstream")
	assert.Equal(t, at.Add(spec.SlotLength).UnixMilli(), refusedBy(t, dir, "not_a_number").Stamp)
	assert.EqualValues(t, 2, o.engine.Stats().Finished)
}
