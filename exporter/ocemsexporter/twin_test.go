package ocemsexporter

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

const twinDevices = `
devices:
  - station_id: station_1
    device_id: dev_1
    token_id: token-of-dev-1
    parameters:
      - {metric: effluent.cod, parameter: cod, unit: mg/l, decimals: 2}
      - {metric: effluent.ph, attributes: {outlet: main}, parameter: ph, unit: pH, statistic: max}
      - {metric: meter, parameter: flow_totalizer}
      - {metric: cabinet, parameter: temperature, unit: Cel, diagnostic: true}
  - {station_id: station_1, device_id: dev_2, token_id: token-of-dev-2}
`

// slots starts an ocems_slot processor in front of the exporter, with the same devices and the same audit_file.
func (b *board) slots(text string, next consumer.Metrics) consumer.Metrics {
	f := ocemsslotprocessor.NewFactory()
	all := fromYAML(b, fmt.Sprintf("audit_file: %q\nstorage: ocems_storage", b.auditFile))
	require.NoError(b, all.Merge(fromYAML(b, text)))
	cfg := f.CreateDefaultConfig()
	require.NoError(b, all.Unmarshal(cfg))
	require.NoError(b, xconfmap.Validate(cfg))
	set := processortest.NewNopSettings(f.Type())
	set.ID = component.NewID(f.Type())
	set.Logger = b.logger
	p, err := f.CreateMetrics(b.Context(), set, cfg, next)
	require.NoError(b, err)
	require.NoError(b, p.Start(b.Context(), b))
	b.Cleanup(func() { assert.NoError(b, p.Shutdown(context.Background())) })
	return p
}

// The exporter behind a processor sends the same requests as the exporter alone.
func TestProcessorChangesNoRequest(t *testing.T) {
	run := func(t *testing.T, withProcessor bool) (requests []request, refused []string) {
		withBoard(t, func(t *testing.T, b *board) {
			b.withStorage(t.TempDir())
			e := b.start("storage: ocems_storage\n" + twinDevices)
			var first consumer.Metrics = e
			if withProcessor {
				first = b.slots(twinDevices, e)
			}
			for i := range 120 {
				at := time.Now()
				md := pmetric.NewMetrics()
				raw(md, "dev_1", "effluent.cod", "", float64(i)/7, at)
				raw(md, "dev_1", "effluent.ph", "", 7+float64(i%13)/10, at, "outlet", "main")
				raw(md, "dev_1", "meter", "m^3", 1e9+float64(i), at)
				raw(md, "", "cabinet", "", 30+float64(i%5), at)
				flag := "U"
				if 20 <= i && i < 30 {
					flag = "Z"
				}
				raw(md, "dev_2", "so2", "mg/Nm^3", float64(i), at, "ocems.flag", flag)
				s := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
				s.SetName("cod")
				s.SetUnit("mg/L")
				sum := s.SetEmptySum()
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
				p := sum.DataPoints().AppendEmpty()
				p.SetTimestamp(pcommon.NewTimestampFromTime(at))
				p.SetIntValue(int64(i))
				p.Attributes().PutStr("ocems.device.id", "dev_2")
				raw(md, "dev_2", "co", "furlong", 1, at)
				raw(md, "dev_2", "cpu", "1", 1, at)
				md.MarkReadOnly()
				require.NoError(t, first.ConsumeMetrics(t.Context(), md))
				pass(15 * time.Second)
			}
			pass(16 * time.Minute)
			require.Zero(t, b.number("outbox_slots"))
			requests = b.asked()
			slices.SortStableFunc(requests, func(x, y request) int { return cmp.Compare(x.device, y.device) })
			for _, x := range b.trail(audit.Refused, audit.Late, audit.Rejected, audit.Expired) {
				refused = append(refused, line(t, x))
			}
		})
		return requests, refused
	}
	alone, refusedAlone := run(t, false)
	behind, refusedBehind := run(t, true)
	require.NotEmpty(t, alone)
	require.Equal(t, alone, behind)
	require.NotEmpty(t, refusedAlone)
	require.Equal(t, refusedAlone, refusedBehind)
}
