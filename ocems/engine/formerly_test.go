package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/ocems/store"
)

// called gives device a an id and former ids.
func (p *plant) called(id string, formerly ...string) {
	p.cfg.Names.Devices = slices.Clone(p.cfg.Names.Devices)
	d := &p.cfg.Names.Devices[0]
	d.DeviceID, d.Formerly = id, formerly
	d.Parameters = []registry.ParameterConfig{{Metric: "flow", Parameter: "cod", Unit: "mg/L"}}
	if formerly != nil {
		d.Parameters[0].Formerly = []string{"bod"}
	} else {
		d.Parameters[0].Parameter = "bod"
	}
}

func flow(at time.Time, value float64) engine.Reading {
	return engine.Reading{Metric: registry.Metric{Name: "flow"}, Time: at, Value: value}
}

// renamed runs a plant with one slot in the outbox, one open window in the saved aligner and further samples of it, all
// under a wrong id and a wrong key; then both are corrected.
func renamed(t *testing.T, name string, f func(p *plant)) {
	run(t, name, nil, func(p *plant) {
		p.close()
		p.called("wrong")
		p.open()
		p.mustTake(flow(clock(1, 0, 0), 1))
		until(clock(1, 16, 0))
		p.mustTake(flow(clock(1, 15, 0), 10), flow(clock(1, 15, 30), 20))
		p.restart()
		p.mustTake(flow(clock(1, 16, 0), 30))
		p.kill()
		p.called("a", "wrong")
		f(p)
		until(clock(1, 32, 0))
		assert.Equal(t, []string{"a/cod@01:15=1U", "a/cod@01:30=25U"}, p.received())
		assert.Zero(t, p.e.Stats().Outbox.Slots)
	})
}

func TestFormerly(t *testing.T) {
	renamed(t, "at the start", func(p *plant) {
		p.open()
		assert.Len(t, p.log.lines("open slots continue under their current names\" open_slots=1"), 1)
		p.mustTake(flow(clock(1, 16, 0), 30), flow(clock(1, 16, 30), 40), flow(clock(1, 14, 0), 9)) // a repeat, two new readings, and a late one
		time.Sleep(time.Second)
		assert.Len(t, p.log.lines("moved waiting slots from former names to the current ones\" device=a slots=1"), 1)
	})
	renamed(t, "killed at once, and the names are back", func(p *plant) {
		p.open()
		p.kill()
		p.called("wrong")
		p.open()
		p.close()
		p.called("a", "wrong")
		p.open()
		p.mustTake(flow(clock(1, 16, 30), 40))
	})
	for n := range 6 {
		for _, written := range []bool{false, true} {
			renamed(t, fmt.Sprintf("killed at write %d, written %v", n, written), func(p *plant) {
				p.disk.before = func(i int, _ []store.Op) error {
					if i > n || i == n && !written {
						return errDisk
					}
					return nil
				}
				p.disk.after = func(i int) error {
					if i >= n {
						return errDisk
					}
					return nil
				}
				p.disk.batches = 0
				p.open()
				time.Sleep(2 * time.Second)
				p.close()
				p.disk.before, p.disk.after = nil, nil
				p.open()
				p.mustTake(flow(clock(1, 16, 30), 40))
			})
		}
	}
}

// A changed devices_file renames what waits, and a finished slot under a former id finds its device.
func TestFormerlyInTheDevicesFile(t *testing.T) {
	run(t, "reload", nil, func(p *plant) {
		p.close()
		file := filepath.Join(p.dir, "devices.csv")
		write := func(id, formerly string) {
			text := "station_id,device_id,token_id,formerly\ns-a," + id + "," + tokenA + "," + formerly + "\n"
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		}
		write("wrong", "")
		p.cfg.Names.Devices, p.cfg.Names.DevicesFile = nil, file
		p.open()
		p.mustTake(reading("wrong", "cod", clock(1, 0, 0), 1))
		until(clock(1, 16, 0))
		p.mustTake(reading("wrong", "cod", clock(1, 15, 0), 2))
		write("a", "wrong;older")
		until(clock(1, 17, 0))
		p.mustTake(finished("older", "bod", clock(1, 15, 0), 3), reading("wrong", "cod", clock(1, 17, 0), 4))
		until(clock(1, 33, 0))
		assert.Equal(t, []string{"a/bod@01:15=3U", "a/cod@01:15=1U", "a/cod@01:30=3U"}, p.received())
		assert.Empty(t, p.trail())
	})
}

// The state of a parameter continues under its current name, after a restart and after a change of the devices_file.
func TestAccountOfFormerNames(t *testing.T) {
	account := func(p *plant, device, parameter string) status.Parameter {
		p.t.Helper()
		h := p.status()
		for _, d := range h.Devices {
			for _, x := range d.Parameters {
				if d.ID == device && x.Parameter == parameter {
					return x
				}
			}
		}
		p.t.Fatalf("no %s of %s in %+v", parameter, device, h.Devices)
		return status.Parameter{}
	}
	feed := func(p *plant, upTo time.Time, r func(at time.Time, value float64) engine.Reading) {
		for at := time.Now().Truncate(time.Minute).Add(time.Minute); !at.After(upTo); at = at.Add(time.Minute) {
			until(at)
			p.mustTake(r(at, float64(at.Minute())))
		}
	}
	check := func(p *plant, before status.Parameter) {
		p.t.Helper()
		time.Sleep(8 * time.Second)
		after := account(p, "a", "cod")
		before.Parameter = "cod"
		assert.Equal(p.t, before, after)
		assert.NotNil(p.t, after.Slot)
		assert.NotNil(p.t, after.Reading)
	}
	for _, c := range []struct{ id, formerly, key, formerKey string }{
		{"wrong", "wrong", "bod", "bod"}, {"a", "older", "bod", "bod"}, {"wrong", "wrong", "cod", ""},
	} {
		run(t, fmt.Sprintf("restart, %s and %s", c.id, c.key), nil, func(p *plant) {
			p.close()
			p.called(c.id)
			p.cfg.Names.Devices[0].Parameters[0].Parameter = c.key
			p.open()
			feed(p, clock(2, 3, 0), flow)
			p.close()
			before := account(p, c.id, c.key)
			p.called("a", c.formerly)
			p.cfg.Names.Devices[0].Parameters[0].Formerly = nil
			if c.formerKey != "" {
				p.cfg.Names.Devices[0].Parameters[0].Formerly = []string{c.formerKey}
			}
			p.open()
			check(p, before)
		})
	}
	run(t, "reload", nil, func(p *plant) {
		p.close()
		file := filepath.Join(p.dir, "devices.csv")
		write := func(id, formerly string) {
			text := "station_id,device_id,token_id,formerly\ns-a," + id + "," + tokenA + "," + formerly + "\n"
			require.NoError(p.t, os.WriteFile(file, []byte(text), 0o600))
		}
		write("wrong", "")
		p.cfg.Names.Devices, p.cfg.Names.DevicesFile = nil, file
		p.open()
		feed(p, clock(2, 3, 0), func(at time.Time, value float64) engine.Reading { return reading("wrong", "cod", at, value) })
		time.Sleep(2 * time.Minute)
		before := account(p, "wrong", "cod")
		write("a", "wrong")
		time.Sleep(time.Minute)
		check(p, before)
	})
}

func TestReadySlotsOfFormerNames(t *testing.T) {
	var n next
	run(t, "ready", n.processor, func(p *plant) {
		p.close()
		p.called("wrong")
		p.open()
		n.set(1, errNext)
		n.set(0, errNext)
		p.mustTake(exits(flow(clock(1, 0, 0), 1), 1))
		until(clock(1, 17, 0))
		p.close()
		p.called("a", "wrong")
		p.open()
		p.kill()
		_, values := p.keys("ready/")
		require.Len(t, values, 1)
		assert.NotContains(t, string(values[0]), "wrong")
		n.set(0, nil)
		p.open()
		until(clock(1, 20, 0))
		got, _, _ := n.all()
		assert.Equal(t, []string{"0:a/cod@01:15=1 1x"}, got)
	})
}

// Slots of a device that is no longer configured are reported at the start, at a change of the devices_file, and in the
// health.
func TestRemovedDeviceIsNamed(t *testing.T) {
	var n next
	run(t, "removed", func(c *engine.Config) { c.OnHealth = n.told }, func(p *plant) {
		p.net.unplug(true)
		for i := range 3 {
			p.mustTake(reading("a", "cod", clock(0, 15*i, 0), 1))
		}
		until(clock(1, 2, 0))
		p.close()
		p.cfg.Names.Devices = p.cfg.Names.Devices[1:]
		p.net.unplug(false)
		p.open()
		until(clock(1, 3, 0))
		lines := p.log.lines("slots wait for a device that is not configured: put it back, or name it in `formerly` of the device that replaces it")
		require.Len(t, lines, 1)
		assert.Contains(t, lines[0], "device=a waiting_slots=3")
		assert.Empty(t, p.log.lines("the server refuses the device"))
		_, _, told := n.all()
		require.NotEmpty(t, told)
		assert.ErrorContains(t, told[len(told)-1], `device "a" is held (waiting slots: 3): the device is not configured: put it back`)
	})
}
