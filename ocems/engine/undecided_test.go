package engine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/status"
)

// Slots below min_coverage wait if the configuration says so, also after a kill, and every report says why. The person
// decides by changing the configuration.
func TestSlotsThatWaitForAPerson(t *testing.T) {
	half, less := registry.Number(0.5), registry.Number(0.25)
	cod := func(c *engine.Config) *registry.ParameterConfig { return &c.Names.Devices[0].Parameters[0] }
	for _, decision := range []struct {
		name     string
		decide   func(*engine.Config)
		board    bool // delivered in the end
		outcome  audit.Outcome
		detail   string
		verdict  string
		refusals uint64 // number of refused readings
	}{
		{"lowered", func(c *engine.Config) { cod(c).MinCoverage = &less }, true, audit.Delivered, "", "ok reporting: 07:00 delivered", 0},
		{"left out", func(c *engine.Config) { cod(c).BelowMinCoverage = "" }, false, audit.Refused,
			"readings in 4 of 15 minutes, min_coverage is 0.5; the value is computed from all of them", "ok reporting: 07:00 delivered", 4},
	} {
		run(t, decision.name, func(c *engine.Config) {
			seven(c)
			c.Names.Devices[0].Parameters = c.Names.Devices[0].Parameters[:1]
			cod(c).MinCoverage, cod(c).BelowMinCoverage = &half, "wait"
			c.Names.Devices[0].Parameters = append(c.Names.Devices[0].Parameters, registry.ParameterConfig{Metric: "modbus", Field: "tss", Parameter: "tss", Unit: "mg/L"})
		}, func(p *plant) {
			for at := clock(1, 0, 0); at.Before(clock(1, 32, 0)); at = at.Add(time.Minute) {
				until(at)
				p.mustTake(field("tss", at, float64(at.Minute())))
				if at.Before(clock(1, 4, 0)) || !at.Before(clock(1, 15, 0)) {
					p.mustTake(field("cod", at, 5))
				}
			}
			want := "failed undecided: 1 slot waits for a person to decide, from 06:45: readings in 4 of 15 minutes, min_coverage is 0.5"
			assert.Equal(t, want, verdicts(p.status(), clock(1, 32, 0))["cod"])
			assert.Equal(t, map[status.Class]int{status.Asks: 1}, p.e.Stats().Troubled)
			assert.Equal(t, map[string]string{"cod": "true undecided 01:30", "tss": "true  01:30"}, p.gauges())
			assert.Zero(t, p.e.Stats().Outbox.Held)
			assert.Len(t, p.log.lines("06:45 delivered 1 of 2 parameters of seven; undecided: cod"), 1)
			assert.Len(t, p.log.lines("a parameter needs a person"), 1)
			board := []string{"seven/tss@01:15=7U", "seven/cod@01:30=5U", "seven/tss@01:30=22U"}
			assert.ElementsMatch(t, board, p.received())

			p.kill()
			p.open()
			until(clock(1, 33, 0))
			assert.Equal(t, want, verdicts(p.status(), clock(1, 33, 0))["cod"])
			assert.ElementsMatch(t, board, p.received())

			decision.decide(&p.cfg)
			p.restart()
			until(clock(1, 34, 0))
			if decision.board {
				board = append(board, "seven/cod@01:15=5U")
			}
			assert.ElementsMatch(t, board, p.received())
			assert.Equal(t, decision.verdict, verdicts(p.status(), clock(1, 34, 0))["cod"])
			assert.Equal(t, decision.refusals, p.e.Stats().Refused["min_coverage"])
			found := 0
			for _, e := range p.entries() {
				if e.Stamp == clock(1, 15, 0).UnixMilli() && e.Readings[0].Parameter == "cod" {
					found++
					assert.Equal(t, decision.outcome, e.Outcome)
					assert.Equal(t, decision.detail, e.Detail)
				}
			}
			assert.Equal(t, 1, found, "lines of the trail")
		})
	}
}
