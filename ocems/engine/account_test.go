package engine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/status"
)

// seven is a plant of seven parameters, some of which are in trouble.
func seven(c *engine.Config) {
	d := registry.DeviceConfig{StationID: "s-seven", DeviceID: "seven", TokenID: "token-of-device-seven"}
	for _, p := range []struct{ field, parameter string }{{"cod", "cod"}, {"bodd", "bod"}, {"ph", "ph"}, {"tss", "tss"}, {"toc", "toc"}, {"do", "do"}, {"no3-n", "no3-n"}} {
		d.Parameters = append(d.Parameters, registry.ParameterConfig{Metric: "modbus", Field: p.field, Parameter: p.parameter, Unit: "mg/L"})
	}
	d.Parameters[5].Attributes = map[string]string{"slave": "7"}
	c.Names.Devices = []registry.DeviceConfig{d}
}

// field makes a reading of a field of a Telegraf metric.
func field(name string, at time.Time, value float64, attributes ...string) engine.Reading {
	r := reading("", "modbus", at, value, attributes...)
	r.Field = name
	r.Source = engine.Source{ID: 1, Text: func() string { return "host=plc slave=1" }}
	return r
}

func (p *plant) status() *status.Host {
	p.t.Helper()
	h, err := status.Read(status.Path(filepath.Join(p.dir, "state.db")))
	require.NoError(p.t, err)
	return h
}

// verdicts returns what the status says of each parameter.
func verdicts(h *status.Host, now time.Time) map[string]string {
	out := map[string]string{}
	for i := range h.Devices {
		for j := range h.Devices[i].Parameters {
			v := h.Judge(&h.Devices[i], &h.Devices[i].Parameters[j], now)
			out[h.Devices[i].Parameters[j].Parameter] = fmt.Sprintf("%s %s: %s", v.Level, v.Class, v.Text)
		}
	}
	return out
}

// The log and the status name each parameter in trouble, from the first whole slot on.
func TestEachParameterIsAccountedFor(t *testing.T) {
	run(t, "seven parameters", seven, func(p *plant) {
		feed := func(from, to time.Time) {
			for at := from; at.Before(to); at = at.Add(time.Minute) {
				until(at)
				n := float64(at.Minute())
				p.mustTake(field("cod", at, n), field("bod", at, n), field("ph", at, 7+n/100), field("toc", at, n), field("do", at, n), field("no3-n", at, n),
					field("status", at, 1, "ocems.flag", "U"))
				if at.Before(clock(2, 0, 0)) {
					p.mustTake(field("tss", at, n))
				}
			}
		}
		until(clock(1, 0, 10))
		feed(clock(1, 1, 0), clock(1, 7, 0))
		assert.Equal(t, "ok begins: no reading yet; its first whole slot is 06:45", verdicts(p.status(), clock(1, 7, 0))["bod"])
		feed(clock(1, 7, 0), clock(1, 20, 0))
		assert.Equal(t, map[string]string{
			"cod": "ok reporting: 06:45 delivered", "tss": "ok reporting: 06:45 delivered", "toc": "ok reporting: 06:45 delivered", "no3-n": "ok reporting: 06:45 delivered",
			"bod": `failed never: no reading ever came: modbus has the fields bod, cod, do, no3-n, ph, status, toc, tss; "bodd" is not among them; nearest: bod`,
			"do":  `failed never: no reading ever came: modbus do came with "host=plc slave=1", and its entry asks for "slave=7"`,
			"ph":  "failed refused: the board has refused it since 06:45: 119 invalid parameter; its slots wait",
		}, verdicts(p.status(), clock(1, 20, 0)))
		assert.Len(t, p.log.lines("06:45 delivered 4 of 7 parameters of seven; never: bod, do; refused: ph"), 1)
		assert.Len(t, p.log.lines("a parameter needs a person: no reading ever came: modbus has the fields"), 1)
		assert.Len(t, p.log.lines("a parameter needs a person"), 3)

		feed(clock(1, 20, 0), clock(2, 20, 0))
		assert.Equal(t, "failed silent: no reading since 07:29", verdicts(p.status(), clock(2, 20, 0))["tss"])
		assert.Len(t, p.log.lines("a parameter needs a person: no reading since 07:29"), 1)
		assert.Equal(t, [][2]int64{{clock(1, 15, 0).UnixMilli(), clock(2, 15, 0).UnixMilli()}}, p.status().Devices[0].Runs, "those of ph wait")
		assert.Len(t, p.log.lines("06:45 delivered"), 1)
		assert.Len(t, p.log.lines("07:45 delivered 3 of 7 parameters of seven; never: bod, do; refused: ph; silent: tss"), 1)

		p.mustTake(field("tss", clock(2, 20, 0), 1))
		feed(clock(2, 21, 0), clock(2, 35, 0))
		assert.Len(t, p.log.lines("a parameter is well again"), 1)

		before := p.status()
		p.restart()
		until(clock(2, 35, 10))
		assert.Equal(t, before.Devices[0].Parameters[0].Due, p.status().Devices[0].Parameters[0].Due, "a restart begins nothing anew")
		p.close()
		h := p.status()
		assert.True(t, h.Stopped)
		assert.Equal(t, "The host was stopped at 08:05.", h.JudgeAll(clock(2, 36, 0)).Text)
	})
	run(t, "a flag on a metric without a reported field", seven, func(p *plant) {
		for minute := range 15 {
			at := clock(1, minute, 0)
			until(at)
			coil := field("maintenance", at, 1, "ocems_flag", "M")
			coil.Source = engine.Source{ID: 2, Text: func() string { return "host=plc type=coil" }}
			p.mustTake(field("cod", at, 1), coil)
		}
		until(clock(1, 17, 0))
		lines := p.log.lines("a flag or unit is on a metric without a reported field")
		assert.Len(t, lines, 1)
		assert.Contains(t, lines[0], `metric=modbus attribute=ocems_flag of="host=plc type=coil"`)
	})
	run(t, "a flag on a metric with a reported field", seven, func(p *plant) {
		p.mustTake(field("cod", clock(1, 0, 0), 1, "ocems_flag", "U"), field("status", clock(1, 0, 0), 1, "ocems_flag", "U"))
		until(clock(1, 32, 0))
		assert.Empty(t, p.log.lines("a flag or unit is on"))
	})
	run(t, "a source that is behind", seven, func(p *plant) {
		const want = "warning behind: its readings arrive 40m after their time, the last is from "
		for at := clock(1, 0, 0); at.Before(clock(2, 24, 0)); at = at.Add(time.Minute) {
			until(at)
			p.mustTake(field("cod", at.Add(-40*time.Minute), 1))
			if at.After(clock(1, 50, 0)) { // also when a slot has just been closed
				time.Sleep(30 * time.Second)
				assert.Equal(t, want+status.Time(at.Add(-40*time.Minute), at), verdicts(p.status(), at)["cod"])
			}
		}
		assert.Len(t, p.log.lines("a parameter needs a person: its readings arrive"), 1)
		assert.Len(t, p.log.lines("07:30 delivered 0 of 7 parameters of seven; behind: cod; never: bod"), 1)
	})
	run(t, "all readings are left out, and then none comes", seven, func(p *plant) {
		for minute := range 30 {
			until(clock(1, minute, 0))
			p.mustTake(field("cod", clock(1, minute, 0), 1, "ocems.unit", "mg/Lx"))
		}
		until(clock(1, 31, 0))
		p.close()
		until(clock(27, 0, 0))
		p.open()
		until(clock(27, 1, 0))
		assert.Equal(t, "failed silent: no reading since 2000-01-01 06:59", verdicts(p.status(), clock(27, 1, 0))["cod"])
	})
	run(t, "nothing comes", seven, func(p *plant) {
		until(clock(1, 17, 0))
		h := p.status()
		assert.Equal(t, `failed never: no reading ever came: no metric "modbus" came, and no metric without an entry`, verdicts(h, clock(1, 17, 0))["cod"])
		assert.Contains(t, h.JudgeAll(clock(1, 17, 0)).Text, "7 of 7 parameters need a person")
	})
}

// A device without entries is accounted for although nothing says which parameters it has.
func TestDeviceWithoutEntries(t *testing.T) {
	listed := func(p *plant) map[string]string { // of the status, by device and parameter
		h, out := p.status(), map[string]string{}
		for i, d := range h.Devices {
			for j := range d.Parameters {
				v := h.Judge(&h.Devices[i], &d.Parameters[j], time.Now())
				out[d.ID+" "+d.Parameters[j].Parameter] = fmt.Sprintf("%s %s: %s", v.Level, v.Class, v.Text)
			}
		}
		return out
	}
	nothing := func(device string) string {
		return "failed never: no reading of the device: no metric came with ocems_device_id=" + device + " since the start"
	}
	of := func(device, name, unit string, at time.Time) engine.Reading {
		return reading(device, name, at, float64(at.Minute()), "ocems.unit", unit)
	}
	run(t, "names that are no key", nil, func(p *plant) {
		feed := func(from, to time.Time, right bool) {
			for at := from; at.Before(to); at = at.Add(time.Minute) {
				until(at)
				p.mustTake(of("a", "codd", "mg/L", at), of("a", "uptime", "", at))
				if right {
					p.mustTake(of("a", "cod", "mg/L", at))
				}
			}
		}
		feed(clock(1, 0, 0), clock(1, 20, 0), false)
		h := p.status()
		assert.Contains(t, h.JudgeAll(clock(1, 20, 0)).Text, "2 of 2 parameters need a person")
		assert.Equal(t, "names codd, uptime came with ocems_device_id=a; no parameter key is among them; nearest to codd: cod", h.Devices[0].Parameters[0].Never)
		assert.Equal(t, "failed never: no reading of the device: no metric came with ocems_device_id=b since the start", verdicts(h, clock(1, 20, 0))[status.Any])
		lines := p.log.lines("ignored: its device is configured, but its name is not a parameter key and has no entry")
		require.Len(t, lines, 2)
		assert.Contains(t, lines[0], "level=WARN")
		assert.Contains(t, lines[0], "metric=codd field=\"\" device=a nearest=cod")
		assert.Contains(t, lines[1], "level=INFO")
		assert.Len(t, p.log.lines("06:45 delivered 0 of 1 parameter of a; never: (any parameter)"), 1)
		assert.Len(t, p.log.lines("a parameter needs a person: no reading of the device"), 2)

		feed(clock(1, 30, 0), clock(1, 50, 0), true)
		h = p.status()
		require.Len(t, h.Devices[0].Parameters, 1)
		assert.Equal(t, "cod", h.Devices[0].Parameters[0].Parameter)
		assert.Equal(t, "ok", h.Judge(&h.Devices[0], &h.Devices[0].Parameters[0], clock(1, 50, 0)).Level.String())

		due := h.Devices[1].Parameters[0].Due
		p.restart()
		until(clock(1, 50, 10))
		assert.Equal(t, due, p.status().Devices[1].Parameters[0].Due, "a restart begins nothing anew")
		p.close()
		until(clock(1, 50, 0).Add(8 * 24 * time.Hour))
		p.open()
		until(clock(1, 50, 10).Add(8 * 24 * time.Hour))
		assert.Equal(t, map[string]string{"a cod": "failed silent: no reading since 2000-01-01 07:19", "b " + status.Any: nothing("b")}, listed(p))
	})
	hub := func(devices int) func(*engine.Config) {
		return func(c *engine.Config) {
			for i := range devices {
				c.Names.Devices = append(c.Names.Devices, registry.DeviceConfig{StationID: "s-a", DeviceID: fmt.Sprint("hub-", i), TokenID: registry.Secret(fmt.Sprint("token-of-device-", i))})
			}
		}
	}
	run(t, "a hub that lists devices which do not report yet", hub(40), func(p *plant) {
		until(clock(1, 35, 0))
		assert.Equal(t, "No reading of any of 42 devices has come.", p.status().JudgeAll(clock(1, 35, 0)).Text)
		for at := clock(1, 35, 0); at.Before(clock(2, 20, 0)); at = at.Add(time.Minute) {
			until(at)
			p.mustTake(of("a", "cod", "mg/L", at), of("b", "codd", "mg/L", at), of("hub-7", "cod", "mg/Lx", at))
		}
		h := p.status()
		named := map[string]string{}
		for _, d := range h.Devices {
			for _, x := range d.Parameters {
				named[d.ID] = x.Parameter
			}
		}
		assert.Equal(t, map[string]string{"a": "cod", "b": status.Any, "hub-7": status.Any}, named)
		assert.Contains(t, h.JudgeAll(clock(2, 20, 0)).Text, "2 of 3 parameters need a person")
	})
	run(t, "readings that are left out", nil, func(p *plant) {
		for at := clock(1, 0, 0); at.Before(clock(1, 20, 0)); at = at.Add(time.Minute) {
			until(at)
			p.mustTake(of("a", "cod", "mg/Lx", at))
		}
		h := p.status()
		v := h.Judge(&h.Devices[0], &h.Devices[0].Parameters[0], clock(1, 20, 0))
		assert.Contains(t, v.Text, "no slot 06:45: readings left out: ")
		assert.Contains(t, v.Text, "(unit), cod: ")
		assert.Contains(t, v.Text, "mg/Lx")
		p.close()
		for _, later := range []time.Duration{time.Hour, 25 * time.Hour} {
			until(clock(1, 20, 0).Add(later))
			p.open()
			time.Sleep(5 * time.Minute)
			assert.Equal(t, "failed silent: no reading since "+status.Time(clock(1, 19, 0), time.Now()), listed(p)["a "+status.Any])
			p.close()
		}
	})
	every := func(p *plant, from, to time.Time, readings func(at time.Time) []engine.Reading) {
		for at := from; at.Before(to); at = at.Add(time.Minute) {
			until(at)
			p.mustTake(readings(at)...)
		}
	}
	week := 7 * 24 * time.Hour
	run(t, "a name after a thousand devices with other names", hub(1100), func(p *plant) {
		for i := range 1050 {
			p.mustTake(of(fmt.Sprint("hub-", i), "uptime", "", clock(1, 0, 0)))
		}
		p.mustTake(of("hub-1070", "codd", "mg/L", clock(1, 0, 0)))
		until(clock(1, 32, 0))
		assert.Equal(t, "failed never: no reading of the device: name codd came with ocems_device_id=hub-1070; no parameter key is among them; nearest to codd: cod", listed(p)["hub-1070 "+status.Any])
		assert.Len(t, listed(p), 1051)
	})
	run(t, "a hub whose status has several files", hub(600), func(p *plant) {
		until(clock(1, 15, 0))
		for i := range 600 {
			p.mustTake(of(fmt.Sprint("hub-", i), "codd", "mg/L", clock(1, 15, 0)))
		}
		until(clock(1, 15, 10))
		assert.Len(t, listed(p), 600)
		until(clock(1, 50, 0))
		assert.Contains(t, p.status().JudgeAll(clock(1, 50, 0)).Text, "600 of 600 parameters need a person")
	})
	run(t, "slots made upstream whose parameter is unknown", nil, func(p *plant) {
		p.mustTake(finished("b", "codd", clock(1, 0, 0), 1))
		until(clock(1, 20, 0))
		assert.Equal(t, "failed never: no reading of the device: name codd came with ocems_device_id=b; no parameter key is among them; nearest to codd: cod", listed(p)["b "+status.Any])
	})
	run(t, "a hub's device that sends only another name after a week", hub(40), func(p *plant) {
		every(p, clock(1, 0, 0), clock(1, 20, 0), func(at time.Time) []engine.Reading {
			return []engine.Reading{of("a", "cod", "mg/L", at), of("b", "cod", "mg/Lx", at)}
		})
		until(clock(1, 32, 0))
		p.close()
		until(clock(1, 35, 0).Add(week))
		p.open()
		until(clock(2, 9, 0).Add(week))
		assert.Empty(t, listed(p))
		assert.Equal(t, "No reading of any of 42 devices has come within the last 7 days.", p.status().JudgeAll(clock(2, 9, 0).Add(week)).Text)
		every(p, clock(2, 15, 0).Add(week), clock(2, 35, 0).Add(week), func(at time.Time) []engine.Reading {
			return []engine.Reading{of("a", "uptime", "", at), of("b", "uptime", "", at)}
		})
		assert.Equal(t, map[string]string{
			"a " + status.Any: "failed silent: no reading since 2000-01-01 07:00", // the stamp of its last slot
			"b " + status.Any: "failed silent: no reading since 2000-01-01 06:49",
		}, listed(p))
	})
	run(t, "the last parameter is silent for a week", nil, func(p *plant) {
		every(p, clock(1, 0, 0), clock(1, 20, 0), func(at time.Time) []engine.Reading { return []engine.Reading{of("a", "cod", "mg/L", at)} })
		p.close()
		until(clock(1, 10, 0).Add(week))
		p.open()
		for at := clock(1, 11, 0).Add(week); at.Before(clock(2, 0, 0).Add(week)); at = at.Add(5 * time.Minute) {
			until(at)
			assert.Equal(t, "failed silent: no reading since 2000-01-01 06:49", listed(p)["a cod"], at)
		}
	})
	run(t, "few devices become many", nil, func(p *plant) {
		every(p, clock(1, 0, 0), clock(1, 20, 0), func(at time.Time) []engine.Reading { return []engine.Reading{of("a", "cod", "mg/Lx", at)} })
		assert.Equal(t, nothing("b"), listed(p)["b "+status.Any])
		p.close()
		hub(40)(&p.cfg)
		p.open()
		until(clock(1, 20, 10))
		assert.Len(t, listed(p), 1)
		assert.Contains(t, listed(p), "a "+status.Any)
	})
	run(t, "readings that are left out for more than a week", hub(40), func(p *plant) {
		wrong := func(at time.Time) []engine.Reading { return []engine.Reading{of("a", "cod", "mg/Lx", at)} }
		every(p, clock(1, 0, 0), clock(1, 20, 0), wrong)
		for day := range 8 {
			p.close()
			from := clock(1, 5, 0).AddDate(0, 0, day+1)
			until(from)
			p.open()
			for at := from; at.Before(from.Add(45 * time.Minute)); at = at.Add(5 * time.Minute) {
				every(p, at, at.Add(5*time.Minute), wrong)
				if at.After(from) {
					assert.Regexp(t, "^failed excluded: ", listed(p)["a "+status.Any], at)
				}
			}
		}
	})
}

// A value that does not change, or exceeds a limit, is reported once. The data is not changed.
func TestFlatLinesAndLimits(t *testing.T) {
	change := func(c *engine.Config) {
		seven(c)
		high, after := registry.Number(50), registry.Duration{Duration: time.Hour}
		c.Names.Devices[0].Parameters[0].LimitHigh = &high
		c.Names.Devices[0].Parameters[3].FlatLineAfter = &after
	}
	run(t, "told", change, func(p *plant) {
		for at := clock(1, 0, 0); at.Before(clock(3, 4, 0)); at = at.Add(time.Minute) {
			until(at)
			tss, cod := 5.0, 10.0
			switch {
			case at.Before(clock(1, 30, 0)):
				tss = float64(at.Minute())
			case at.After(clock(2, 44, 0)):
				tss = 6
			}
			if at.After(clock(1, 29, 0)) && at.Before(clock(1, 45, 0)) {
				cod = 60
			}
			p.mustTake(field("cod", at, cod), field("tss", at, tss))
		}
		high := p.log.lines("above limit_high 50")
		assert.Len(t, high, 1)
		assert.Contains(t, high[0], `2000-01-01 07:15:00 IST: 60 mg/L, above limit_high 50`)
		assert.Len(t, p.log.lines("all readings are equal since 07:00"), 1)
		assert.Len(t, p.log.lines("a parameter is well again"), 2)
		assert.Contains(t, p.received(), "seven/tss@02:45=5U")
		assert.Contains(t, p.received(), "seven/cod@01:45=60U")
	})
}

// Situations that look like trouble but are not, and the reverse.
func TestVerdictsOfSeven(t *testing.T) {
	feed := func(p *plant, from, to time.Time, attributes ...string) {
		for at := from; at.Before(to); at = at.Add(20 * time.Second) {
			until(at)
			p.mustTake(field("cod", at, float64(at.Minute()), attributes...))
		}
	}
	run(t, "a calibration of half an hour", seven, func(p *plant) {
		feed(p, clock(1, 0, 0), clock(1, 30, 0))
		feed(p, clock(1, 30, 0), clock(2, 2, 0), "ocems_flag", "C")
		assert.Regexp(t, "^ok calibration: ", verdicts(p.status(), clock(2, 2, 0))["cod"])
		assert.Empty(t, p.log.lines("no reading since"))
	})
	run(t, "it reads again after hours", seven, func(p *plant) {
		feed(p, clock(1, 0, 0), clock(1, 30, 0))
		until(clock(5, 1, 0))
		feed(p, clock(5, 1, 0), clock(5, 5, 0))
		assert.Equal(t, "ok begins: readings arrive again: its next slot is 10:45", verdicts(p.status(), clock(5, 5, 0))["cod"])
	})
	run(t, "a reading by a wrong clock has no lasting effect", seven, func(p *plant) {
		p.mustTake(field("cod", clock(1, 0, 0).AddDate(3, 0, 0), 1))
		feed(p, clock(1, 0, 10), clock(1, 32, 0))
		assert.Equal(t, "ok reporting: 07:00 delivered", verdicts(p.status(), clock(1, 32, 0))["cod"])
	})
	run(t, "an outage is seen between two slots", seven, func(p *plant) {
		feed(p, clock(1, 0, 0), clock(1, 20, 0))
		p.net.unplug(true)
		p.board.CloseIdleConnections()
		feed(p, clock(1, 20, 0), clock(2, 1, 0))
		for _, second := range []int{0, 30, 40, 50} {
			until(clock(2, 1, second))
			assert.Regexp(t, "^warning waiting: slots wait for the board: [23]", verdicts(p.status(), clock(2, 1, second))["cod"], second)
		}
		p.net.unplug(false)
	})
}

// If the status file cannot be replaced, for example on Windows while it is being read, it is written seconds later
// without a log line.
func TestStatusThatCannotBeReplaced(t *testing.T) {
	for _, c := range []struct {
		name  string
		lasts time.Duration
		lines int
	}{{"a moment", 3 * time.Second, 0}, {"hours", 2 * time.Hour, 1}} {
		run(t, c.name, seven, func(p *plant) {
			until(clock(1, 1, 0))
			path := status.Path(filepath.Join(p.dir, "state.db"))
			require.NoError(p.t, os.Remove(path))
			require.NoError(p.t, os.MkdirAll(filepath.Join(path, "in the way"), 0o700))
			p.mustTake(field("cod", clock(1, 1, 0), 1))
			time.Sleep(c.lasts)
			require.NoError(p.t, os.RemoveAll(path))
			time.Sleep(8 * time.Second)
			assert.WithinRange(t, p.status().Written, time.Now().Add(-8*time.Second), time.Now())
			assert.Len(t, p.log.lines("cannot write the parameter status"), c.lines)
		})
	}
}

// A person who has just started a host sees the outcome of its first slots within seconds.
func TestFirstSlotsAreShownSoon(t *testing.T) {
	run(t, "history", seven, func(p *plant) {
		until(clock(1, 1, 0))
		for minute := range 16 { // the last is of the next slot: the first is complete
			p.mustTake(field("cod", clock(0, minute, 0), 1))
		}
		time.Sleep(20 * time.Second)
		assert.Equal(t, "ok reporting: 05:45 delivered", verdicts(p.status(), clock(1, 1, 20))["cod"])
	})
}

// A host that gets more devices keeps the account of each, even if it is killed at any time.
func TestHostThatGrows(t *testing.T) {
	devices := func(c *engine.Config, n int) {
		seven(c)
		d := c.Names.Devices[0]
		c.Names.Devices = nil
		for i := range n {
			cod := d.Parameters[0]
			d.DeviceID = fmt.Sprintf("d%04d", i)
			cod.Attributes = map[string]string{"n": d.DeviceID}
			d.Parameters = []registry.ParameterConfig{cod}
			c.Names.Devices = append(c.Names.Devices, d)
		}
	}
	for _, c := range []struct{ before, after int }{{500, 501}, {1000, 1001}, {1001, 400}} {
		run(t, fmt.Sprintf("%d and %d", c.before, c.after), func(cfg *engine.Config) { devices(cfg, c.before) }, func(p *plant) {
			until(clock(1, 0, 10))
			p.close()
			devices(&p.cfg, c.after)
			p.open()
			time.Sleep(time.Second / 2) // between two writes
			for second := range 5 {
				time.Sleep(time.Second)
				ids := map[string]bool{}
				for _, d := range p.status().Devices {
					ids[d.ID] = true
				}
				for i := range min(c.before, c.after) {
					if id := fmt.Sprintf("d%04d", i); !ids[id] {
						p.t.Fatalf("second %d: the status lacks %s", second+1, id)
					}
				}
			}
		})
	}
	run(t, "files that cannot be written for a moment", func(cfg *engine.Config) { devices(cfg, 1000) }, func(p *plant) {
		until(clock(1, 0, 10))
		p.close()
		devices(&p.cfg, 1001)
		third := filepath.Join(p.dir, "state.0002.status.json")
		require.NoError(p.t, os.MkdirAll(filepath.Join(third, "in the way"), 0o700))
		p.open()
		time.Sleep(2500 * time.Millisecond)
		require.NoError(p.t, os.RemoveAll(third))
		time.Sleep(time.Second)
		require.Len(p.t, p.status().Devices, 1001)
	})
}

// For any number of sources, each flag on a metric without a reported field is reported once; other flags are not
// reported.
func TestFlagsOfManySources(t *testing.T) {
	run(t, "many", seven, func(p *plant) {
		const sources = 3000
		from := func(i int, r engine.Reading) engine.Reading {
			r.Source = engine.Source{ID: uint64(i + 100), Text: func() string { return fmt.Sprintf("host=plc unit=%d", i) }}
			return r
		}
		for hour := range 3 {
			until(clock(1+hour, 1, 0))
			b := p.e.NewBatch()
			for i := range sources {
				r := from(i, field(fmt.Sprint("status", i%30), clock(1+hour, 1, 0), 1, "ocems.flag", "U"))
				b.Add(r)
				b.Bare(r)
				b.Add(from(i, field("cod", clock(1+hour, 1, 0).Add(time.Duration(i)*time.Millisecond), 1, "ocems.flag", "U")))
			}
			b.Bare(from(sources+1, field("", clock(1+hour, 1, 0), 1, "ocems.flag", "M")))
			require.NoError(p.t, b.Commit(context.Background()))
			until(clock(1+hour, 50, 0))
		}
		lines := p.log.lines("a flag or unit is on a metric without a reported field")
		require.Len(p.t, lines, 1)
		assert.Contains(t, lines[0], `of="host=plc unit=3001"`)
	})
	run(t, "lost ones", seven, func(p *plant) {
		for hour := range 3 {
			until(clock(1+hour, 1, 0))
			b := p.e.NewBatch()
			for i := range 1200 {
				r := field("", clock(1+hour, 1, 0), 1, "ocems.flag", "M")
				r.Source = engine.Source{ID: uint64(i + 100), Text: func() string { return fmt.Sprint("unit=", i) }}
				b.Bare(r)
			}
			require.NoError(p.t, b.Commit(context.Background()))
			until(clock(1+hour, 50, 0))
		}
		assert.Len(t, p.log.lines("a flag or unit is on a metric without a reported field"), 40)
		more := p.log.lines("more flags or units are on metrics")
		require.Len(p.t, more, 2)
		assert.Contains(t, more[0], "metrics=980")
		assert.Contains(t, more[1], "metrics=180")
	})
}
