package ocems

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
)

// internal returns the metrics that inputs.internal shows for the plugin with this directory.
func internal(dir string) map[string]any {
	for _, m := range selfstat.Metrics() {
		if v, _ := m.GetTag("state_directory"); m.Name() == "internal_ocems" && v == dir {
			return m.Fields()
		}
	}
	return nil
}

// byReason returns a field of a measurement by its tag reason.
func byReason(measurement, field, dir string) map[string]any {
	out := map[string]any{}
	for _, m := range selfstat.Metrics() {
		if v, _ := m.GetTag("state_directory"); m.Name() == measurement && v == dir {
			reason, _ := m.GetTag("reason")
			out[reason] = m.Fields()[field]
		}
	}
	return out
}

func TestInternalMetrics(t *testing.T) {
	b, dir := startBoard(t), t.TempDir()
	o, _ := open(t, settings(b, dir)+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{
		modbus(at, "cod", 1.0), modbus(at, "cod", 1.0), modbus(at, "cod", "no"), modbus(at, "other", 1.0), modbus(at.Add(-24*8*time.Hour), "cod", 1.0),
	}))
	b.await(t, 1)
	require.Eventually(t, func() bool {
		return internal(dir)["readings_delivered"] == int64(1) && internal(dir)["slots_open"] == int64(0)
	},
		15*time.Second, 20*time.Millisecond)
	write(t, o, at, 2)
	require.Eventually(t, func() bool { return internal(dir)["samples_late"] == int64(1) }, 15*time.Second, 20*time.Millisecond)
	fields := internal(dir)
	for field, want := range map[string]int64{
		"samples": 1, "samples_duplicate": 1, "samples_late": 1, "samples_refused": 2, "fields_ignored": 1, "slots_closed": 1, "series": 1, "slots_open": 0,
		"readings_delivered": 1, "readings_already_stored": 0, "readings_rejected": 0, "readings_refused": 0, "readings_expired": 0,
		"devices_held": 0, "requests": 1, "requests_failed": 0,
	} {
		assert.EqualValues(t, want, fields[field], field)
	}
	assert.Positive(t, fields["request_time_ns"])
	want := map[string]any{}
	for _, reason := range engine.Reasons() {
		want[string(reason)] = int64(0)
	}
	want["not_a_number"], want["too_old"], want["late"] = int64(1), int64(1), int64(1)
	assert.Equal(t, want, byReason("internal_ocems_refused", "samples", dir))

	parameter := func() map[string]any {
		for _, m := range selfstat.Metrics() {
			_, trouble := m.GetTag("class") // some readings of its last slot were left out
			if v, _ := m.GetTag("state_directory"); m.Name() == "internal_ocems_parameter" && v == dir && !trouble {
				tags := m.Tags()
				delete(tags, "endpoint")
				assert.Equal(t, map[string]string{"state_directory": dir, "station": "station_1", "device": "dev_1", "parameter": "cod", "diagnostic": "false"}, tags)
				return m.Fields()
			}
		}
		return nil
	}
	stamp := at.Truncate(15 * time.Minute).Add(15 * time.Minute).Unix()
	require.Eventually(t, func() bool { return parameter()["last_delivered_timestamp"] == stamp }, 15*time.Second, 20*time.Millisecond)
	assert.Equal(t, map[string]any{"expected": int64(0), "last_delivered_timestamp": stamp}, parameter())
	troubled := map[string]any{}
	for _, m := range selfstat.Metrics() {
		if v, _ := m.GetTag("state_directory"); m.Name() == "internal_ocems_trouble" && v == dir {
			troubled[m.Tags()["class"]] = m.Fields()["parameters"]
		}
	}
	assert.Len(t, troubled, len(engine.Troubles()))
	assert.Equal(t, int64(0), troubled["silent"])

	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, metrics, _ := strings.Cut(string(readme), "\n## Metrics\n")
	metrics, _, _ = strings.Cut(metrics, "\n## ")
	var documented, shown []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_]+`.*?) \\|").FindAllStringSubmatch(metrics, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, name[1])
		}
	}
	for field := range fields {
		shown = append(shown, field)
	}
	slices.Sort(shown)
	for _, field := range shown {
		assert.Contains(t, documented, field)
	}
	for _, field := range documented {
		if slices.Contains(engine.Reasons(), slot.Reason(field)) {
			continue
		}
		if field != "ocems_flag" && field != "ocems_unit" && field != "ocems_device_id" {
			assert.Contains(t, shown, field)
		}
	}
	for _, reason := range engine.Reasons() {
		assert.True(t, strings.Contains(string(readme), "\n| `"+string(reason)+"` | "), reason)
	}
	require.NoError(t, o.Close())
	assert.Nil(t, internal(dir), "Close removes them")
	assert.Nil(t, parameter())
	assert.Empty(t, byReason("internal_ocems_refused", "samples", dir))
}

func TestHeldByReason(t *testing.T) {
	b, dir := startBoard(t), t.TempDir()
	o, _ := open(t, strings.Replace(settings(b, dir), token, "another", 1)+strings.Replace(oneDevice, token, "another", 1))
	held := func() map[string]any { return byReason("internal_ocems_held", "devices", dir) }
	write(t, o, hoursAgo(2), 1)
	require.Eventually(t, func() bool { return internal(dir)["devices_held"] == int64(1) }, 15*time.Second, 20*time.Millisecond)
	want := map[string]any{}
	for _, reason := range delivery.HoldReasons() {
		want[reason] = int64(0)
	}
	want["10"] = int64(1)
	assert.Equal(t, want, held())
	require.NoError(t, o.Close())
	assert.Empty(t, held(), "Close removes them")
}

func TestDryRunShowsTheJSONAsItIs(t *testing.T) {
	b := startBoard(t)
	o, logs := open(t, settings(b, t.TempDir())+"  dry_run = true\n"+oneDevice)
	write(t, o, hoursAgo(2), 7.25)
	require.Eventually(t, func() bool { return strings.Contains(logs.text("I"), "Dry run: this would be sent") }, 15*time.Second, 20*time.Millisecond)
	require.Contains(t, logs.text("I"), `json={"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1",`)
	require.Zero(t, b.received(t).Requests)
	require.NoError(t, o.Close())
}
