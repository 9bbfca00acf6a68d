package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/status"
)

// gauges returns what the gauges say of each parameter.
func (p *plant) gauges() map[string]string {
	out := map[string]string{}
	for _, s := range p.e.Parameters() {
		assert.Equal(p.t, "s-seven seven", s.Station+" "+s.Device)
		text := fmt.Sprint(s.Expected, " ", s.Trouble)
		if !s.Delivered.IsZero() {
			text += s.Delivered.UTC().Format(" 15:04")
		}
		out[s.Parameter] = text
	}
	return out
}

func TestParametersHaveGauges(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit int
		shown bool
	}{
		{"as many parameters as may have gauges", 7, true},
		{"one more", 6, false},
		{"switched off", 0, false},
	} {
		run(t, c.name, func(x *engine.Config) { seven(x); x.Slots.ParameterMetrics = c.limit }, func(p *plant) {
			want := func(states map[string]string, troubled map[status.Class]int) {
				t.Helper()
				if !c.shown {
					states = map[string]string{}
				}
				assert.Equal(p.t, states, p.gauges())
				assert.Equal(p.t, troubled, p.e.Stats().Troubled)
			}
			feed := func(to time.Time, fields ...string) {
				for at := time.Now().Truncate(time.Minute).Add(time.Minute); at.Before(to); at = at.Add(time.Minute) {
					until(at)
					for i, f := range fields {
						p.mustTake(field(f, at, float64(at.Minute()+i)))
					}
				}
			}
			feed(clock(1, 10, 0), "cod", "tss", "toc", "no3-n")
			want(map[string]string{"cod": "false ", "bod": "false ", "ph": "false ", "tss": "false ", "toc": "false ", "do": "false ", "no3-n": "false "}, map[status.Class]int{})
			feed(clock(1, 47, 0), "cod", "tss", "toc", "no3-n")
			want(map[string]string{"cod": "true  01:45", "bod": "true never", "ph": "true never", "tss": "true  01:45", "toc": "true  01:45", "do": "true never",
				"no3-n": "true  01:45"}, map[status.Class]int{status.Never: 3})
			feed(clock(2, 32, 0), "cod", "tss", "no3-n") // one parameter gets no readings
			want(map[string]string{"cod": "true  02:30", "bod": "true never", "ph": "true never", "tss": "true  02:30", "toc": "true silent 02:00", "do": "true never",
				"no3-n": "true  02:30"}, map[status.Class]int{status.Never: 3, status.Silent: 1})
			assert.False(p.t, p.e.Stats().Unreachable)
		})
	}
}

// A value that exceeds a limit, or does not change, is sent anyway.
func TestLimitsAndFlatLinesHaveGauges(t *testing.T) {
	limit := registry.Number(100)
	run(t, "limits", func(c *engine.Config) {
		seven(c)
		c.Names.Devices[0].Parameters[0].LimitHigh = &limit // cod
		c.Names.Devices[0].Parameters[3].LimitLow = &limit  // tss
		c.Names.Devices[0].Parameters[4].FlatLineAfter = &registry.Duration{Duration: 45 * time.Minute}
	}, func(p *plant) {
		want := func(cod, tss, toc, no3 string) {
			t.Helper()
			got := p.gauges()
			assert.Equal(p.t, []string{cod, tss, toc, no3}, []string{got["cod"], got["tss"], got["toc"], got["no3-n"]})
		}
		feed := func(to time.Time, cod, tss, step float64) {
			for at := time.Now().Truncate(time.Minute).Add(time.Minute); at.Before(to); at = at.Add(time.Minute) {
				until(at)
				p.mustTake(field("cod", at, cod), field("tss", at, tss), field("toc", at, 5+step*float64(at.Minute())), field("no3-n", at, 5))
			}
			until(to.Add(2 * time.Minute))
		}
		feed(clock(1, 30, 0), 100.5, 99.5, 0)
		want("true limit 01:30", "true limit 01:30", "true  01:30", "true  01:30")
		feed(clock(1, 45, 0), 100, 100, 0) // a value equal to the limit is within it
		want("true  01:45", "true  01:45", "true flat 01:45", "true  01:45")
		feed(clock(2, 0, 0), 100, 100, 1)
		want("true  02:00", "true  02:00", "true  02:00", "true  02:00")
	})
}

// A finished slot that comes again counts once in the slots of a flat line, and with another value changes nothing.
func TestRepeatedSlotIsOneOfAFlatLine(t *testing.T) {
	run(t, "a processor sends again after its restart", seven, func(p *plant) {
		for range 3 {
			p.mustTake(finished("seven", "cod", clock(0, 45, 0), 1))
		}
		p.mustTake(finished("seven", "cod", clock(1, 0, 0), 1))
		p.mustTake(finished("seven", "cod", clock(1, 0, 0), 2)) // a conflict: the first stays
		until(clock(1, 5, 0))
		for _, x := range p.status().Devices[0].Parameters {
			if x.Parameter == "cod" {
				assert.Equal(p.t, 2, x.Flat.Slots)
				assert.Equal(p.t, 1.0, x.Slot.Value)
			}
		}
	})
}

// Names that a sender invents do not become parameters of a device without entries.
func TestUnknownFinishedSlotsHaveNoGauges(t *testing.T) {
	run(t, "a device without entries", func(*engine.Config) {}, func(p *plant) {
		p.mustTake(finished("a", "cod", clock(0, 45, 0), 1))
		for i := range 20 {
			p.mustTake(finished("a", fmt.Sprint("invented-", i), clock(0, 45, 0), 1))
		}
		until(clock(1, 5, 0))
		states := p.e.Parameters()
		assert.Len(p.t, states, 2)
		assert.Equal(p.t, "a cod", states[0].Device+" "+states[0].Parameter)
		assert.Equal(p.t, "b "+status.Any, states[1].Device+" "+states[1].Parameter)
	})
}
