package spec

import (
	"errors"
	"fmt"
	"time"
)

const (
	// SlotLength is the time between two readings of one parameter in normal operation (spec 2.4.3).
	SlotLength = 15 * time.Minute
	// CalibrationLength is the time between two readings during calibration and zero calibration (spec 2.4.3).
	CalibrationLength = 30 * time.Second
	// MaxAge is the largest age of a reading when it is sent (spec 2.4.3, status 117).
	MaxAge = 7 * 24 * time.Hour
	// SlotsKept is the number of slots within MaxAge.
	SlotsKept = int(MaxAge / SlotLength)
)

// IST is Indian Standard Time, UTC+5:30 all year. The difference to UTC is 22 slots, so both have the same slots.
var IST = time.FixedZone("IST", 5*3600+30*60)

// Window returns the half-open window [start, start+length) that contains t, aligned to the Unix epoch.
func Window(t time.Time, length time.Duration) (start, end time.Time) {
	ms, n := t.UnixMilli(), length.Milliseconds()
	s := ms - mod(ms, n)
	return time.UnixMilli(s), time.UnixMilli(s + n)
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Length returns the time between two readings with this flag.
func (f Flag) Length() time.Duration {
	if f.Calibration() {
		return CalibrationLength
	}
	return SlotLength
}

// Aligned reports whether t falls on the grid of the given length, to the millisecond.
func Aligned(t time.Time, length time.Duration) bool {
	return t.Nanosecond()%int(time.Millisecond) == 0 && mod(t.UnixMilli(), length.Milliseconds()) == 0
}

func mod(a, n int64) int64 { return ((a % n) + n) % n }

// The reasons why a stamp is refused. CheckStamp wraps them.
var (
	ErrTooOld     = errors.New("older than 7 days")
	ErrFuture     = errors.New("in the future")
	ErrNotAligned = errors.New("not on the grid of slots")
)

// CheckStamp applies the three rules of spec 2.4.3 to a reading's stamp: on the grid of its flag, not older than 7 days, not
// in the future. The error wraps ErrNotAligned, ErrTooOld or ErrFuture and has the nearest valid stamp.
func CheckStamp(stamp time.Time, flag Flag, now time.Time) error {
	length := flag.Length()
	switch {
	case !Aligned(stamp, length):
		before, after := Window(stamp, length)
		return fmt.Errorf("timestamp %s is %w of %s: nearest %s and %s", ISTString(stamp), ErrNotAligned, length,
			ISTString(before), ISTString(after))
	case stamp.Before(now.Add(-MaxAge)):
		return fmt.Errorf("timestamp %s is %w: the oldest valid timestamp is now %s", ISTString(stamp), ErrTooOld, ISTString(now.Add(-MaxAge)))
	case stamp.After(now):
		return fmt.Errorf("timestamp %s is %w: now is %s", ISTString(stamp), ErrFuture, ISTString(now))
	}
	return nil
}

// StampStatus returns the status code of the server's answer for an error of CheckStamp.
func StampStatus(err error) Status {
	switch {
	case errors.Is(err, ErrTooOld):
		return StatusTooOld
	case errors.Is(err, ErrFuture):
		return StatusFuture
	case errors.Is(err, ErrNotAligned):
		return StatusNotSlot
	}
	return StatusFailed
}
