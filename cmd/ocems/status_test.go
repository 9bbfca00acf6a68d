package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/status"
)

// hostStatusOf writes the status of a host that has delivered the last slot, after change.
func hostStatusOf(t *testing.T, change func(*status.Host)) (path string) {
	t.Helper()
	now := time.Now().UTC()
	end := (&status.Host{Stamp: "end", Within: 103}).Expected(now)
	h := &status.Host{Written: now, Started: now.Add(-24 * time.Hour), Software: "ocems/1.0", Endpoint: "https://board.example/data", Stamp: "end", Grace: 33, Within: 103,
		Clock: status.Clock{Trusted: true}, Board: status.Board{Reachable: true, Answered: &end, Latency: 0.25},
		Devices: []status.Device{{Station: "station_1", ID: "device_5678", Parameters: []status.Parameter{{
			Parameter: "cod", Unit: "mg/L", Due: end.Add(-24 * time.Hour), Reading: &status.Reading{At: end, Value: 31.5},
			Slot: &status.Slot{Stamp: end, Value: 30, Flag: "U", Samples: 15}, Delivered: &end}}}}}
	change(h)
	path = filepath.Join(t.TempDir(), "state.status.json")
	require.NoError(t, h.Write(path))
	return path
}

func TestStatus(t *testing.T) {
	parameter := func(h *status.Host) *status.Parameter { return &h.Devices[0].Parameters[0] }
	for _, test := range []struct {
		name   string
		change func(*status.Host)
		code   int
		want   []string // parts of the output, in order
	}{
		{"well", func(*status.Host) {}, 0, []string{"OK      Reporting 1 parameter of 1 device; the next slot", "board answered", "usually in 250ms", "device_5678 at station_1", "ok", "cod", "31.5 mg/L", "delivered"}},
		{"silent", func(h *status.Host) { p := parameter(h); p.Slot.Stamp = p.Slot.Stamp.Add(-time.Hour) }, 2, []string{"FAILED  1 of 1 parameter", "failed", "cod", "no reading since", "do: look at the instrument"}},
		{"refused", func(h *status.Host) { parameter(h).Refused = &status.Refusal{Reason: "119", Since: time.Now()} }, 2, []string{"the board has refused it", "119 invalid parameter", "do: ask the board which key"}},
		{"undecided", func(h *status.Host) {
			p := parameter(h)
			p.Undecided = &status.Undecided{Slots: 2, Oldest: p.Slot.Stamp.Add(-time.Hour), Why: "readings in 4 of 15 minutes, min_coverage is 0.5"}
		}, 2, []string{"FAILED  1 of 1 parameter", "2 slots wait for a person to decide, from ", ": readings in 4 of 15 minutes, min_coverage is 0.5", "do: to send them, lower min_coverage", "set below_min_coverage to leave_out"}},
		{"undecided, and silent since", func(h *status.Host) {
			p := parameter(h)
			p.Undecided, p.Slot.Stamp = &status.Undecided{Slots: 1, Oldest: p.Slot.Stamp, Why: "readings in 4 of 15 minutes"}, p.Slot.Stamp.Add(-time.Hour)
		}, 2, []string{"no reading since", "1 slot waits for a person to decide", "do: look at the instrument", "lower min_coverage"}},
		{"never", func(h *status.Host) {
			p := parameter(h)
			p.Reading, p.Slot, p.Delivered, p.Never = nil, nil, nil, "modbus has the field bod"
		}, 2, []string{"no reading ever came: modbus has the field bod", "do: correct metric"}},
		{"left out", func(h *status.Host) {
			p := parameter(h)
			p.Excluded = []status.Excluded{{Reason: "below_valid_min", Count: 3, Stamp: p.Slot.Stamp}}
		}, 1, []string{"WARNING", "readings left out: 3 (below valid min)"}},
		{"flat", func(h *status.Host) {
			parameter(h).Flat = &status.Flat{Since: time.Now().Add(-5 * time.Hour), Slots: 20, Alert: 3600}
		}, 1, []string{"all readings are equal since"}},
		{"held", func(h *status.Host) { h.Devices[0].Held, h.Devices[0].Detail = "102", "status 102" }, 2, []string{"held: status 102", "the board refuses the device: 102 invalid station"}},
		{"waits", func(h *status.Host) {
			p := parameter(h)
			*p.Delivered = p.Slot.Stamp.Add(-time.Hour)
			h.Board, h.Waiting, h.Devices[0].Waiting = status.Board{Reason: "connection refused"}, 4, 4
			stamp := p.Slot.Stamp
			h.Devices[0].Oldest = &stamp
		}, 2, []string{"FAILED  Not reporting: the board does not answer; slots waiting: 4.", "do: check the connection to the board: connection refused", "slots wait for the board: 4: connection refused"}},
		{"clock", func(h *status.Host) { h.Clock.Trouble = "this machine's clock contradicts the server's" }, 2, []string{"FAILED  Not reporting: this machine's clock contradicts"}},
		{"dry run", func(h *status.Host) { h.DryRun = true }, 1, []string{"WARNING Dry run: nothing is sent."}},
		{"stopped", func(h *status.Host) { h.Stopped = true }, 2, []string{"FAILED  The host was stopped at"}},
		{"killed", func(h *status.Host) { h.Written = h.Written.Add(-time.Hour) }, 2, []string{"FAILED  The host does not run: its last status is from"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := hostStatusOf(t, test.change)
			for _, place := range []string{path, filepath.Dir(path)} {
				code, out, errs := ocems("", "status", place)
				assert.Equal(t, test.code, code, out)
				assert.Empty(t, errs)
				rest := out
				for _, part := range test.want {
					_, after, found := strings.Cut(rest, part)
					require.True(t, found, "%q is not there, or not after the others:\n%s", part, out)
					rest = after
				}
			}
			code, out, _ := ocems("", "status", "--json", path)
			assert.Equal(t, test.code, code)
			assert.Contains(t, out, `"verdict"`)
		})
	}
}

func TestStatusOfAHub(t *testing.T) {
	path := hostStatusOf(t, func(h *status.Host) {
		d := h.Devices[0]
		h.Devices = nil
		for i := range 100 {
			d.ID = "device_" + string(rune('a'+i/26)) + string(rune('a'+i%26))
			d.Held = map[bool]string{true: "102"}[i < 60]
			h.Devices = append(h.Devices, d)
		}
		h.Trouble = `device "device_aa" is held: status 102`
	})
	_, out, _ := ocems("", "status", path)
	assert.Contains(t, out, "other devices that need a person: 10 (--all shows them)")
	assert.Contains(t, out, "devices that report: 40 (--all shows them)")
	code, out, _ := ocems("", "status", "--device", "device_dv", path)
	assert.Equal(t, 0, code, "of this device")
	assert.Contains(t, out, "device_dv at")
	assert.NotContains(t, out, "device_aa")
	code, _, errs := ocems("", "status", "--device", "device_zz", path)
	assert.Equal(t, 3, code)
	assert.Contains(t, errs, `there is no device "device_zz": nearest`)
}

func TestStatusUnknown(t *testing.T) {
	for _, args := range [][]string{{}, {t.TempDir()}, {"/nowhere"}, {"--al", "x"}, {"a", "b"}} {
		code, out, errs := ocems("", append([]string{"status"}, args...)...)
		assert.Equal(t, 3, code, args)
		assert.Empty(t, out)
		assert.Contains(t, errs, "ocems: status: ")
	}
	path := hostStatusOf(t, func(*status.Host) {})
	require.NoError(t, os.WriteFile(path, []byte(`{"version":2}`), 0o600))
	code, out, _ := ocems("", "status", path)
	assert.Equal(t, 2, code)
	assert.Contains(t, out, "has version 2, this program reads version 1")
}

func TestDirectoryThatMayNotBeRead(t *testing.T) {
	if os.Geteuid() <= 0 {
		t.Skip("root may read all, and Windows has other permissions")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o300); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status", dir}, {"report", filepath.Join(dir, "audit.jsonl")}} {
		if code, _, errs := quiet(t, args...); code != 3 || !strings.Contains(errs, "permission denied: run it as the host's user") {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
}
