package ocemsexporter

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/ocems/audit"
)

// reading returns one reading of dev_1 at the current time.
func reading(name, unit string, v float64, attributes ...string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	raw(md, "dev_1", name, unit, v, time.Now(), attributes...)
	return md
}

// mapped returns a configuration of one device with the given parameters.
func mapped(parameters ...string) string {
	return "devices: [{station_id: station_1, device_id: dev_1, token_id: token-of-dev-1, parameters: [" + strings.Join(parameters, ", ") + "]}]"
}

const cod = `{metric: effluent.cod, parameter: cod, unit: mg/L}`

// A slot leaves when the grace after its window's end is over and no reading came for the settle time, not before.
func TestClosesAfterGraceAndSettle(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start("spread: 0s\ncoalesce: 0s\n" + oneDevice)
		pass(14 * time.Minute)
		b.consume(e, reading("cod", "mg/L", 40))
		tail := reading("ph", "pH", 7) // belongs to this window, and is sent in the next
		pass(time.Minute + 28*time.Second)
		b.consume(e, tail)
		pass(3 * time.Second)
		require.Empty(t, b.asked(), "the grace is over, and the device has not settled")
		pass(4 * time.Second)
		require.Equal(t, []string{"dev_1 cod 40 mg/L U --15", "dev_1 ph 7 pH U --15"}, b.received())
		require.Len(t, b.asked(), 1, "a window closes as a whole")
		require.Zero(t, b.number("pending_slots"))
		require.EqualValues(t, 2, b.number("slots_closed"))
		require.EqualValues(t, 2, b.number("samples"))
	})
}

func TestStatistics(t *testing.T) {
	const cumulative, delta = pmetric.AggregationTemporalityCumulative, pmetric.AggregationTemporalityDelta
	sum := func(temporality pmetric.AggregationTemporality, monotonic bool) func(pmetric.Metric) pmetric.NumberDataPoint {
		return func(m pmetric.Metric) pmetric.NumberDataPoint {
			s := m.SetEmptySum()
			s.SetAggregationTemporality(temporality)
			s.SetIsMonotonic(monotonic)
			return s.DataPoints().AppendEmpty()
		}
	}
	gauge := func(m pmetric.Metric) pmetric.NumberDataPoint { return m.SetEmptyGauge().DataPoints().AppendEmpty() }
	for name, c := range map[string]struct {
		entry string
		kind  func(pmetric.Metric) pmetric.NumberDataPoint
		want  string // from 1, 10 and 4
	}{
		"gauge":                                     {`parameter: cod, unit: mg/L`, gauge, "dev_1 cod 5 mg/L U --15"},
		"gauge of a totalizer":                      {`parameter: flow_totalizer, unit: m3`, gauge, "dev_1 flow_totalizer 4 m³ U --15"},
		"cumulative sum":                            {`parameter: cod, unit: mg/L`, sum(cumulative, true), "dev_1 cod 4 mg/L U --15"},
		"cumulative sum that may fall":              {`parameter: cod, unit: mg/L`, sum(cumulative, false), "dev_1 cod 5 mg/L U --15"},
		"delta sum":                                 {`parameter: cod, unit: mg/L`, sum(delta, true), "dev_1 cod 15 mg/L U --15"},
		"delta sum of a totalizer":                  {`parameter: flow_totalizer, unit: m3`, sum(delta, true), "dev_1 flow_totalizer 15 m³ U --15"},
		"statistic of the entry":                    {`parameter: cod, unit: mg/L, statistic: max`, sum(cumulative, true), "dev_1 cod 10 mg/L U --15"},
		"statistic before the totalizer's":          {`parameter: flow_totalizer, unit: m3, statistic: min`, gauge, "dev_1 flow_totalizer 1 m³ U --15"},
		"median":                                    {`parameter: cod, unit: mg/L, statistic: median`, gauge, "dev_1 cod 4 mg/L U --15"},
		"decimals of the mean, not of the readings": {`parameter: cod, unit: mg/L, decimals: 0`, gauge, "dev_1 cod 5 mg/L U --15"},
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				e := b.start(mapped("{metric: meter, " + c.entry + "}"))
				for _, v := range []float64{1, 10, 4} {
					md := pmetric.NewMetrics()
					m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
					m.SetName("meter")
					p := c.kind(m)
					p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
					p.SetIntValue(int64(v))
					b.consume(e, md)
					pass(time.Minute)
				}
				pass(15 * time.Minute)
				require.Equal(t, []string{c.want}, b.received())
			})
		})
	}
}

// The flag is U if enough readings have it, otherwise the most frequent one. Calibration has its own 30-second points.
func TestFlags(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start("min_samples: 3\n" + strings.ReplaceAll(oneDevice, "dev_1, token_id: token-of-dev-1", "dev_2, token_id: token-of-dev-2"))
		for i := range 12 { // every 10 s
			md := pmetric.NewMetrics()
			for parameter, flags := range map[string]string{"so2": "UUUZZZCCCCCC", "co": "MMUUMMMMMMMM", "cod": "MMMMMMMMMUUU"} {
				unit := "mg/Nm3"
				if parameter == "cod" {
					unit = "mg/L"
				}
				raw(md, "dev_2", parameter, unit, float64(i), time.Now(), "ocems.flag", flags[i:i+1])
			}
			b.consume(e, md)
			pass(10 * time.Second)
		}
		pass(15 * time.Minute)
		require.ElementsMatch(t, []string{
			"dev_2 so2 4 mg/Nm³ Z --1", "dev_2 so2 7 mg/Nm³ C --1.5", "dev_2 so2 10 mg/Nm³ C --2",
			"dev_2 so2 1 mg/Nm³ U --15",
			"dev_2 co 6.1 mg/Nm³ M --15", // from 0, 1 and 4 to 11: two readings with U are not enough
			"dev_2 cod 10 mg/L U --15",
		}, b.received())
	})
}

// Only device and parameter identify a series. The right value is 120.
func TestNothingSplitsAParameter(t *testing.T) {
	for name, change := range map[string]func(rm pmetric.ResourceMetrics){
		"service.instance.id": func(rm pmetric.ResourceMetrics) { rm.Resource().Attributes().PutStr("service.instance.id", "another") },
		"host":                func(rm pmetric.ResourceMetrics) { rm.Resource().Attributes().PutStr("host.name", "another") },
		"scope":               func(rm pmetric.ResourceMetrics) { rm.ScopeMetrics().At(0).Scope().SetName("another") },
		"scope version":       func(rm pmetric.ResourceMetrics) { rm.ScopeMetrics().At(0).Scope().SetVersion("v2") },
		"attribute of the point": func(rm pmetric.ResourceMetrics) {
			rm.ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).Attributes().PutStr("pid", "4711")
		},
		"unit of the metric": func(rm pmetric.ResourceMetrics) { rm.ScopeMetrics().At(0).Metrics().At(0).SetUnit("ppm") },
	} {
		t.Run(name, func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				e := b.start(mapped(cod))
				for i := range 10 {
					md := reading("effluent.cod", "", 100)
					if i >= 8 {
						md = reading("effluent.cod", "", 200)
						change(md.ResourceMetrics().At(0))
					}
					b.consume(e, md)
					pass(time.Second)
				}
				pass(16 * time.Minute)
				require.Equal(t, []string{"dev_1 cod 120 mg/L U --15"}, b.received())
				require.Empty(t, b.said("warn: two sources"), "one change of source is a restart")
			})
		})
	}
}

func TestSourcesThatTakeTurns(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(mapped(cod))
		for i := range 20 {
			stack, v := "a", 100.
			if i%2 == 1 {
				stack, v = "b", 300
			}
			b.consume(e, reading("effluent.cod", "", v, "stack", stack))
			pass(time.Second)
		}
		pass(16 * time.Minute)
		require.Equal(t, []string{"dev_1 cod 200 mg/L U --15"}, b.received())
		require.Equal(t, []string{"warn: two sources take turns as one parameter, and their readings are averaged together: if they are two instruments, " +
			"tell them apart in its entry map[device:dev_1 one:stack=a other:stack=b parameter:cod tell_apart_by:stack]"}, b.said("two sources"))
	})
}

func TestTheSameAgain(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(mapped(cod, `{metric: pulses, parameter: flow_inlet, unit: m3/hr}`))
		send := func(at time.Time, v float64, delta int64) {
			md := pmetric.NewMetrics()
			raw(md, "dev_1", "effluent.cod", "", v, at)
			m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
			m.SetName("pulses")
			s := m.SetEmptySum()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
			p := s.DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(at))
			p.SetIntValue(delta)
			b.consume(e, md)
		}
		now := time.Now()
		send(now, 200, 5)
		send(now.Add(time.Second), 300, 5)
		send(now.Add(2*time.Second), 400, 5)
		send(now, 200, 5)
		send(now.Add(time.Second), 300, 5)
		require.EqualValues(t, 4, b.number("duplicate_samples"))
		send(now, 999, 5) // different value, same time
		require.EqualValues(t, 1, b.number("refused_samples"))
		pass(16 * time.Minute)
		require.Equal(t, []string{"dev_1 cod 300 mg/L U --15", "dev_1 flow_inlet 15 m³/hr U --15"}, b.received())
		refused := b.trail(audit.Refused)
		require.Len(t, refused, 1)
		require.Equal(t, "conflict", refused[0].Reason)
		require.Equal(t, []audit.Reading{{Parameter: "cod", Value: 999, Unit: "mg/L", Flag: "U"}}, refused[0].Readings)
	})
}

// Ten thousand refusals for one reason are one line.
func TestOneLineASlotAndReason(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start(oneDevice)
		for range 100 {
			md := pmetric.NewMetrics()
			for i := range 100 {
				raw(md, "dev_1", "cod", "mg/L", math.NaN(), time.Now().Add(time.Duration(i)*time.Millisecond))
			}
			b.consume(e, md)
			pass(time.Second)
		}
		b.consume(e, reading("ph", "pH", 7))
		none := reading("ph", "pH", 7)
		none.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).SetTimestamp(0)
		b.consume(e, none)
		pass(16 * time.Minute)
		require.EqualValues(t, 10_001, b.number("refused_samples"))
		var got []string
		for _, x := range b.trail(audit.Refused) {
			got = append(got, fmt.Sprint(x.Parameter, " ", x.Reason, " ", x.Count, " ", x.Detail))
		}
		require.ElementsMatch(t, []string{
			"cod not_a_number 10000 taken from 2000-01-01T00:00:00.25Z to 2000-01-01T00:01:39.349Z: the value is NaN",
			"ph too_old 1 taken at 1970-01-01T00:00:00Z: the sender gives no time: each point must have one (OTLP: time_unix_nano)",
		}, got)
		require.Len(t, b.said("warn: a reading is refused"), 2)
	})
}

// 15-minute values of a logger have no mark of a finished slot. They are named, and not averaged.
func TestAlignFalse(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start("align: false\n" + mapped(cod))
		md := pmetric.NewMetrics()
		for i, v := range []float64{41, 42, 43} {
			raw(md, "dev_1", "effluent.cod", "", v, ago(i))
		}
		raw(md, "dev_1", "effluent.cod", "", 44, ago(0).Add(-time.Minute))
		raw(md, "dev_1", "effluent.cod", "", math.Inf(1), ago(5))
		b.consume(e, md)
		b.consume(e, md) // sent again
		pass(time.Minute)
		require.Equal(t, []string{"dev_1 cod 43 mg/L U -30", "dev_1 cod 42 mg/L U -15", "dev_1 cod 41 mg/L U -0"}, b.received())
		require.Len(t, b.asked(), 3)
		require.EqualValues(t, 0, b.number("samples"))
		for range 20 { // raw readings are a mistake here: one line per slot, not per reading
			b.consume(e, reading("effluent.cod", "", 44))
			pass(time.Second)
		}
		pass(16 * time.Minute)
		refused := b.trail(audit.Refused)
		got := []string{}
		for _, x := range refused {
			got = append(got, fmt.Sprint(time.UnixMilli(x.Stamp).UTC().Format("15:04 "), x.Reason, " ", x.Count))
		}
		require.Equal(t, []string{"22:45 not_a_number 2", "00:00 off_grid 2", "00:15 off_grid 20"}, got)
		require.Equal(t, "taken at 1999-12-31T23:59:00Z: the timestamp is not on the grid of slots of 15m0s: set align to true, or make the slots upstream", refused[1].Detail)
	})
}

// A finished slot goes to the outbox unchanged. The same slot again causes no second request. Another value is a conflict.
func TestFinishedSlots(t *testing.T) {
	withBoard(t, func(t *testing.T, b *board) {
		e := b.start("coalesce: 1m\n" + mapped(`{metric: ph, parameter: ph, unit: pH, statistic: max, decimals: 1}`, cod))
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		b.consume(e, ph("dev_1", 7.25, ago(0)))
		b.consume(e, ph("dev_1", 7.9, ago(0)))
		for range 3 {
			b.consume(e, ph("dev_9", 7, ago(0))) // no error, because it would block the rest
		}
		pass(5 * time.Minute)
		require.Equal(t, []string{"dev_1 ph 7.2 pH U -0"}, b.received())
		require.Len(t, b.asked(), 1)
		refused := b.trail(audit.Refused)
		require.Len(t, refused, 2, "one line per slot")
		require.Equal(t, 7.9, refused[0].Readings[0].Value)
		require.Equal(t, "dev_9", refused[1].Device)
		require.Equal(t, "unknown", refused[1].Reason)
		require.Len(t, b.said("warn: a reading is refused"), 1)
		require.EqualValues(t, 3, b.number("refused_samples"))
	})
}
