package ocems

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// TestSameBytesAsTheCollector sends the same samples through both hosts: the board cannot tell which of them a plant has.
func TestSameBytesAsTheCollector(t *testing.T) {
	at := hoursAgo(5)
	type point struct {
		parameter, unit, flag string
		after                 time.Duration
		value                 float64
	}
	var points []point
	for i := range 270 {
		after, v := time.Duration(i)*10*time.Second, float64(i)
		points = append(points, point{"cod", "mg/l", "", after, 40.1 + v/7})
		points = append(points, point{"ph", "pH", []string{"U", "M"}[i/100%2], after, 7 + v/1000})
		points = append(points, point{"flow_totalizer", "m3", "", after, 1e6 + v*0.1})
	}

	ours := startBoard(t)
	o, _ := open(t, strings.Replace(settings(ours, t.TempDir()), `coalesce = "0s"`, `coalesce = "2s"`, 1)+`
[[outputs.ocems.device]]
  station_id = "station_1"
  device_id = "dev_1"
  token_id = "`+token+`"
  latitude = 19.076
  longitude = 72.8777
`)
	var list []telegraf.Metric
	for _, p := range points {
		tags := []string{"ocems_device_id", "dev_1", "ocems_unit", p.unit}
		if p.flag != "" {
			tags = append(tags, "ocems_flag", p.flag)
		}
		list = append(list, modbus(at.Add(p.after), p.parameter, p.value, tags...))
	}
	require.NoError(t, o.Write(list))

	theirs := startBoard(t)
	ef, pf := ocemsexporter.NewFactory(), ocemsslotprocessor.NewFactory()
	ecfg := ef.CreateDefaultConfig().(*ocemsexporter.Config)
	ecfg.Endpoint = theirs.URL + "/v1.0/industry/data"
	ecfg.Coalesce, ecfg.Spread = 2*time.Second, 0
	ecfg.PublicKeyFile = "../../../ocems/seal/testdata/industry_test_public.pem"
	latitude, longitude := 19.076, 72.8777
	ecfg.Devices = []registry.DeviceConfig{{StationID: "station_1", DeviceID: "dev_1", TokenID: token, Latitude: &latitude, Longitude: &longitude}}
	require.NoError(t, ecfg.Validate())
	exp, err := ef.CreateMetrics(t.Context(), exportertest.NewNopSettings(ef.Type()), ecfg)
	require.NoError(t, err)
	pcfg := pf.CreateDefaultConfig().(*ocemsslotprocessor.Config)
	pcfg.Grace, pcfg.Settle = time.Second, time.Second
	pcfg.Statistics = []ocemsslotprocessor.StatisticConfig{{Metric: "flow_totalizer", Statistic: "last"}}
	require.NoError(t, pcfg.Validate())
	proc, err := pf.CreateMetrics(t.Context(), processortest.NewNopSettings(pf.Type()), pcfg, exp)
	require.NoError(t, err)
	require.NoError(t, exp.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, proc.Start(t.Context(), componenttest.NewNopHost()))
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("ocems.device.id", "dev_1")
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	for _, p := range points {
		m := metrics.AppendEmpty()
		m.SetName(p.parameter)
		m.SetUnit(p.unit)
		dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
		dp.SetTimestamp(pcommon.NewTimestampFromTime(at.Add(p.after)))
		dp.SetDoubleValue(p.value)
		if p.flag != "" {
			dp.Attributes().PutStr("ocems.flag", p.flag)
		}
	}
	require.NoError(t, proc.ConsumeMetrics(t.Context(), md))

	n := 3 * int(270*10*time.Second/spec.SlotLength)
	ours.await(t, n)
	theirs.await(t, n)
	require.NoError(t, proc.Shutdown(t.Context()))
	require.NoError(t, exp.Shutdown(t.Context()))
	require.NoError(t, o.Close())
	a, b := ours.sent(), theirs.sent()
	slices.Sort(a)
	slices.Sort(b)
	assert.Equal(t, b, a)
	require.NotEmpty(t, a)
	t.Logf("%d payloads, the first: %s", len(a), a[0])
}
