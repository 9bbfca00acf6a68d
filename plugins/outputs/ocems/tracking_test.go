package ocems

import (
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/spec"
)

// In TestTracked Telegraf's own buffer reports the delivery of metrics to the input: never before they are durable, and once
// after. An ignored or refused metric delays no other.
func TestTracked(t *testing.T) {
	b, dir := startBoard(t), t.TempDir()+"/state"
	c := config.NewConfig()
	require.NoError(t, c.LoadConfigData([]byte(settings(b, dir)+oneDevice), "test.conf"))
	output := c.Outputs[0]
	o := output.Output.(*OCEMS)
	o.Log = &captured{}
	require.NoError(t, output.Init())
	require.NoError(t, output.Connect())
	t.Cleanup(output.Close)

	at := hoursAgo(2)
	told := map[telegraf.TrackingID][]bool{}
	tell := func(info telegraf.DeliveryInfo) { told[info.ID()] = append(told[info.ID()], info.Delivered()) }
	want := map[telegraf.TrackingID][]bool{}
	for _, m := range []telegraf.Metric{
		modbus(at, "cod", 1.0), modbus(at.Add(time.Second), "cod", 3.0), modbus(at, "cod", "no number"), modbus(at, "other", 1.0),
	} {
		tracked, id := metric.WithTracking(m, tell)
		want[id] = []bool{true}
		output.AddMetricNoCopy(tracked)
	}
	require.NoError(t, o.file.Close()) // as if the disk were removed
	for range 2 {
		require.ErrorContains(t, output.Write(), "the readings stay with Telegraf")
	}
	assert.Empty(t, told)
	_ = o.Close()
	require.NoError(t, o.Connect())
	require.NoError(t, output.Write())
	assert.Equal(t, want, told)
	require.NoError(t, output.Write())
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	output.Close()
	assert.Equal(t, want, told)
	assert.Nil(t, o.engine)
}
