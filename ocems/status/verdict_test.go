package status_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ocems-io/ocems/ocems/status"
)

// TestJudge is what a person reads of a parameter at 10:20 IST. The host started at 09:37 unless the case says otherwise.
func TestJudge(t *testing.T) {
	at := func(hour, minute int) time.Time {
		return time.Date(2026, 11, 27, hour, minute, 0, 0, time.FixedZone("IST", 19800)).UTC()
	}
	now := at(10, 20)
	left := func(reason string, stamp, noted time.Time) []status.Excluded {
		return []status.Excluded{{Reason: reason, Count: 9, Stamp: stamp, Noted: noted}}
	}
	for _, c := range []struct {
		name   string
		change func(*status.Host, *status.Device, *status.Parameter)
		want   string
	}{
		{"no reading before the first slot", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Due = at(10, 15)
		}, "ok begins: no reading yet; its first whole slot is 10:30"},
		{"readings before the first slot", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Due, p.Reading = at(10, 15), &status.Reading{At: at(10, 19)}
		}, "ok begins: its first whole slot is 10:30"},
		{"no reading counts before the first slot", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Due, p.Excluded = at(10, 15), left("unit", at(10, 30), at(10, 19))
		}, "warning partly: readings left out: 9 (unit); its first whole slot is 10:30. set unit of its entry to the unit of the readings"},
		{"the instrument's clock is an hour ahead", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Excluded = left("future", at(11, 30), at(10, 19))
		}, "failed excluded: no slot 10:15: readings left out: 9 (future). compare the clock and the time zone of the instrument with this machine's"},
		{"the instrument's clock is an hour behind", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Slot, p.Reading, p.Excluded = &status.Slot{Stamp: at(9, 15)}, &status.Reading{At: at(9, 15)}, left("late", at(9, 30), at(10, 19))
		}, "failed excluded: no slot 10:15: readings left out: 9 (late). compare the clock and the time zone of the instrument with this machine's; if they agree, raise grace"},
		{"the instrument's clock is 2 hours behind", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Slot, p.Reading = &status.Slot{Stamp: at(8, 15)}, &status.Reading{At: at(8, 19), Behind: 7200}
		}, "warning behind: its readings arrive 2h0m after their time, the last is from 08:19. set the clock of their source by NTP, or find out why they arrive late"},
		{"history came at 09:50, and nothing since", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Slot, p.Reading = &status.Slot{Stamp: at(8, 15)}, &status.Reading{At: at(8, 20), Behind: 5400}
		}, "failed silent: no reading since 08:20. look at the instrument, its cable and the input that reads it"},
		{"all its readings were left out, the last a day ago", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Excluded = left("unit", at(9, 30).Add(-24*time.Hour), at(9, 25).Add(-24*time.Hour))
			p.Due = at(8, 0).Add(-24 * time.Hour)
		}, "failed silent: no reading since 2026-11-26 09:25. look at the instrument, its cable and the input that reads it"},
		{"its last reading was late, and none came since", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Slot, p.Reading, p.Excluded = &status.Slot{Stamp: at(10, 0)}, &status.Reading{At: at(9, 58)}, left("late", at(10, 0), at(10, 1))
		}, "failed silent: no reading since 09:58. look at the instrument, its cable and the input that reads it"},
		{"a dry run", func(h *status.Host, d *status.Device, p *status.Parameter) {
			h.DryRun, d.Waiting, p.Slot, p.Reading = true, 3, &status.Slot{Stamp: at(10, 15)}, &status.Reading{At: at(10, 19)}
		}, "ok begins: 10:15 made, not sent"},
		{"the server has nothing at the endpoint", func(h *status.Host, d *status.Device, p *status.Parameter) {
			d.Waiting, d.Detail, p.Slot, p.Reading = 2, "HTTP 404", &status.Slot{Stamp: at(10, 15)}, &status.Reading{At: at(10, 19)}
		}, "warning waiting: slots wait for the board: 2; its answer: HTTP 404. nothing is lost for 7 days: compare endpoint with the board's; if it is right, wait, or ask the board"},
		{"the same with readings of before the start", func(h *status.Host, d *status.Device, p *status.Parameter) {
			d.Waiting, d.Detail, p.Due, p.Slot, p.Reading = 2, "HTTP 404", at(10, 15), &status.Slot{Stamp: at(10, 15)}, &status.Reading{At: at(10, 19)}
		}, "warning waiting: slots wait for the board: 2; its answer: HTTP 404. nothing is lost for 7 days: compare endpoint with the board's; if it is right, wait, or ask the board"},
		{"no answer yet", func(h *status.Host, d *status.Device, p *status.Parameter) {
			d.Waiting, p.Due, p.Slot, p.Reading = 1, at(10, 15), &status.Slot{Stamp: at(10, 15)}, &status.Reading{At: at(10, 19)}
		}, "ok begins: 10:15 made"},
		{"a device without entries that sends nothing", func(_ *status.Host, _ *status.Device, p *status.Parameter) {
			p.Parameter, p.Never = status.Any, "no metric came with it"
		}, "failed never: no reading of the device: no metric came with it. find out why the input does not have it, or compare its device id with that of the readings"},
		{"the same with other names", func(h *status.Host, d *status.Device, p *status.Parameter) {
			p.Parameter, p.Never, h.Started, d.Other = status.Any, "name codd came with it", at(9, 37), at(9, 40)
		}, "failed never: no reading of the device: name codd came with it. name its readings by the keys of the catalogue, or give it an entry for each parameter"},
		{"the same with other names before the start", func(h *status.Host, d *status.Device, p *status.Parameter) {
			p.Parameter, p.Never, h.Started, d.Other = status.Any, "no metric came with it", at(9, 37), at(9, 30)
		}, "failed never: no reading of the device: no metric came with it. find out why the input does not have it, or compare its device id with that of the readings"},
		{"the same with other names now, and readings before", func(h *status.Host, d *status.Device, p *status.Parameter) {
			p.Parameter, h.Started, d.Other, d.Read = status.Any, at(9, 37), at(10, 19), at(8, 2)
		}, "failed silent: no reading since 08:02. look at the instrument, its cable and the input that reads it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &status.Host{Stamp: "end", Grace: 35, Within: 105, Board: status.Board{Reachable: true}}
			d := &status.Device{ID: "device_1"}
			p := &status.Parameter{Parameter: "cod", Due: at(9, 45)}
			c.change(h, d, p)
			v := h.Judge(d, p, now)
			got := v.Level.String() + " " + string(v.Class) + ": " + v.Text
			if v.Cure != "" {
				got += ". " + v.Cure
			}
			assert.Equal(t, c.want, got)
		})
	}
}

// Without any parameter the verdict does not blame the device ids if one of them is known to be right.
func TestJudgeWithoutParameters(t *testing.T) {
	now := time.Date(2026, 11, 27, 10, 20, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		device status.Device
		want   string
	}{
		{"nothing ever came", status.Device{}, "No reading of any of 2 devices has come. compare the device ids of the readings with those of the configuration"},
		{"a reading came before", status.Device{Read: now.AddDate(0, 0, -8)}, "No reading of any of 2 devices has come within the last 7 days. look at the inputs that read the devices"},
		{"another name came before", status.Device{Other: now.AddDate(0, 0, -8)}, "No reading of any of 2 devices has come within the last 7 days. look at the inputs that read the devices"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &status.Host{Written: now, Started: now.Add(-time.Hour), Devices: []status.Device{{}, c.device}}
			v := h.JudgeAll(now)
			assert.Equal(t, c.want, v.Text+" "+v.Cure)
		})
	}
}
