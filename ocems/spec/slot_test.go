package spec_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

const midnightIST = int64(1726857000000) // 21-09-2024 00:00:00 IST

func TestMidnightInIndiaIsASlot(t *testing.T) {
	midnight := time.Date(2024, 9, 21, 0, 0, 0, 0, spec.IST)
	if midnight.UnixMilli() != midnightIST {
		t.Fatalf("midnight is %d, want %d", midnight.UnixMilli(), midnightIST)
	}
	for i := range 24 * 4 {
		quarter := midnight.Add(time.Duration(i) * spec.SlotLength)
		if !spec.Aligned(quarter, spec.SlotLength) || quarter.In(spec.IST).Minute()%15 != 0 {
			t.Errorf("%s is not a slot", spec.ISTString(quarter))
		}
	}
	// The examples in the spec (2.4.3) are not on a slot.
	if spec.Aligned(time.UnixMilli(1726838400000), spec.SlotLength) {
		t.Error("1726838400000 is taken for a slot")
	}
	if got := spec.ISTString(time.UnixMilli(midnightIST).UTC()); got != "2024-09-21 00:00:00 IST" {
		t.Errorf("ISTString = %q", got)
	}
	if spec.SlotsKept != 672 {
		t.Errorf("SlotsKept = %d", spec.SlotsKept)
	}
}

func TestWindow(t *testing.T) {
	const slot, half = 900_000, 30_000
	for _, c := range []struct {
		name   string
		at     time.Time
		length time.Duration
		start  int64
	}{
		{"on the boundary", time.UnixMilli(midnightIST), spec.SlotLength, midnightIST},
		{"last millisecond", time.UnixMilli(midnightIST + slot - 1), spec.SlotLength, midnightIST},
		{"last nanosecond", time.UnixMilli(midnightIST + slot).Add(-1), spec.SlotLength, midnightIST},
		{"a nanosecond before", time.UnixMilli(midnightIST).Add(-1), spec.SlotLength, midnightIST - slot},
		{"epoch", time.UnixMilli(0), spec.SlotLength, 0},
		{"before the epoch", time.UnixMilli(-1), spec.SlotLength, -slot},
		{"a nanosecond before the epoch", time.Unix(0, -1), spec.SlotLength, -slot},
		{"a slot before the epoch", time.UnixMilli(-slot), spec.SlotLength, -slot},
		{"more than a slot before", time.UnixMilli(-slot - 1), spec.SlotLength, -2 * slot},
		{"calibration", time.UnixMilli(midnightIST + 59_999), spec.CalibrationLength, midnightIST + half},
		{"calibration before the epoch", time.UnixMilli(-half - 1), spec.CalibrationLength, -2 * half},
	} {
		t.Run(c.name, func(t *testing.T) {
			start, end := spec.Window(c.at, c.length)
			if start.UnixMilli() != c.start || end.Sub(start) != c.length {
				t.Errorf("Window = %d to %d, want it from %d for %s", start.UnixMilli(), end.UnixMilli(), c.start, c.length)
			}
			if c.at.Before(start) || !c.at.Before(end) || !spec.Aligned(start, c.length) || !spec.Aligned(end, c.length) {
				t.Errorf("%s to %s does not hold %s or is not on the grid", start, end, c.at)
			}
			if spec.Aligned(c.at, c.length) != c.at.Equal(start) {
				t.Errorf("Aligned(%s) = %v", c.at, spec.Aligned(c.at, c.length))
			}
		})
	}
}

func TestCheckStamp(t *testing.T) {
	now := time.UnixMilli(midnightIST)
	week := now.Add(-spec.MaxAge)
	for _, c := range []struct {
		name       string
		stamp, now time.Time
		flag       spec.Flag
		want       error
		status     spec.Status
		says       string
	}{
		{"now", now, now, 'U', nil, 0, ""},
		{"a slot ago", now.Add(-spec.SlotLength), now, 'U', nil, 0, ""},
		{"now is a nanosecond earlier", now, now.Add(-1), 'U', spec.ErrFuture, spec.StatusFuture, "now is"},
		{"next slot", now.Add(spec.SlotLength), now, 'U', spec.ErrFuture, spec.StatusFuture, "00:15:00 IST"},
		{"exactly 7 days", week, now, 'U', nil, 0, ""},
		{"7 days and a nanosecond", week, now.Add(1), 'U', spec.ErrTooOld, spec.StatusTooOld, "2024-09-14 00:00:00 IST"},
		{"7 days and a slot", week.Add(-spec.SlotLength), now, 'U', spec.ErrTooOld, spec.StatusTooOld, "oldest"},
		{"a millisecond off", now.Add(-time.Millisecond), now, 'U', spec.ErrNotAligned, spec.StatusNotSlot, "nearest 2024-09-20 23:45:00 IST and 2024-09-21 00:00:00 IST"},
		{"a nanosecond off", now.Add(-1), now, 'U', spec.ErrNotAligned, spec.StatusNotSlot, "15m0s"},
		{"off the grid and in the future", now.Add(time.Second), now, 'U', spec.ErrNotAligned, spec.StatusNotSlot, "grid"},
		{"30 seconds normal", now.Add(-30 * time.Second), now, 'D', spec.ErrNotAligned, spec.StatusNotSlot, "15m0s"},
		{"30 seconds calibration", now.Add(-30 * time.Second), now, 'C', nil, 0, ""},
		{"30 seconds zero calibration", now.Add(-30 * time.Second), now, 'Z', nil, 0, ""},
		{"15 seconds calibration", now.Add(-15 * time.Second), now, 'C', spec.ErrNotAligned, spec.StatusNotSlot, "30s"},
		{"in another zone", now.In(time.FixedZone("", 3600)), now.UTC(), 'U', nil, 0, ""},
		{"before the epoch", time.UnixMilli(-900_000), now, 'U', spec.ErrTooOld, spec.StatusTooOld, "1970"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := spec.CheckStamp(c.stamp, c.flag, c.now)
			if !errors.Is(err, c.want) {
				t.Fatalf("CheckStamp = %v, want %v", err, c.want)
			}
			if err == nil {
				return
			}
			if got := spec.StampStatus(err); got != c.status {
				t.Errorf("status %v, want %v", got, c.status)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
	if got := spec.StampStatus(errors.New("else")); got != spec.StatusFailed {
		t.Errorf("status %v of another error", got)
	}
}
