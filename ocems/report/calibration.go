package report

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Calibration is one calibration of an instrument, zero and span. Means are of all 30-second points, whatever their outcome at
// the board. A drift is the difference from the mean of the previous calibration, which may be before the period.
type Calibration struct {
	First      time.Time `json:"first"` // stamps of its first and last point
	Last       time.Time `json:"last"`
	ZeroPoints int       `json:"zero_points"`
	Zero       *float64  `json:"zero"`
	ZeroDrift  *float64  `json:"zero_drift"`
	SpanPoints int       `json:"span_points"`
	Span       *float64  `json:"span"`
	SpanDrift  *float64  `json:"span_drift"`
}

// together is how far apart zero and span of one calibration may be.
const together = time.Hour

// run is an [audit.Calibration] with its stamps.
type run struct {
	audit.Calibration
	first, last time.Time
}

func (s *series) calibrated(date audit.Date, list []audit.Calibration) {
	for _, c := range list {
		stamp := func(point int) time.Time {
			return time.UnixMilli(date.Millis() + int64(point)*pointMillis).In(spec.IST)
		}
		s.calibrations = append(s.calibrations, run{c, stamp(c.First), stamp(c.Last)})
	}
}

// compare lists the calibrations that begin in the period, newest first.
func (s *series) compare(first, last int64) (list []Calibration, newest *time.Time) {
	slices.SortStableFunc(s.calibrations, func(a, b run) int { return a.first.Compare(b.first) })
	var all []Calibration
	for _, c := range s.calibrations {
		n := len(all) - 1
		if n < 0 || c.first.Sub(all[n].Last) > together {
			all = append(all, Calibration{First: c.first})
			n++
		}
		x := &all[n]
		if c.last.After(x.Last) {
			x.Last = c.last
		}
		mean, points := &x.Span, &x.SpanPoints
		if c.Flag == "Z" {
			mean, points = &x.Zero, &x.ZeroPoints
		}
		*points += c.Points
		value := c.Mean
		if *mean != nil {
			value = **mean + (c.Mean-**mean)*float64(c.Points)/float64(*points)
		}
		*mean = &value
	}
	var zero, span *float64
	for _, c := range all {
		c.ZeroDrift, c.SpanDrift = drift(c.Zero, &zero), drift(c.Span, &span)
		slot := floor(c.First.UnixMilli()-1, slotMillis) + 1
		if first <= slot && slot <= last {
			list = append(list, c)
		}
		if slot <= last {
			newest = &c.Last
		}
	}
	slices.Reverse(list)
	return list, newest
}

func drift(now *float64, before **float64) *float64 {
	old := *before
	if now == nil {
		return nil
	}
	*before = now
	if old == nil {
		return nil
	}
	d := *now - *old
	return &d
}

// String is a calibration for a person.
func (c *Calibration) String() string {
	text := span(c.First, c.Last)
	for _, x := range []struct {
		name        string
		mean, drift *float64
		points      int
	}{{"zero", c.Zero, c.ZeroDrift, c.ZeroPoints}, {"span", c.Span, c.SpanDrift, c.SpanPoints}} {
		if x.mean != nil {
			text += fmt.Sprintf("; %s %s, mean of %s", x.name, number(*x.mean), spec.Counted(x.points, "point"))
		}
		if x.drift != nil {
			text += ", drift " + signed(*x.drift)
		}
	}
	return text
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func signed(v float64) string {
	if v < 0 {
		return number(v)
	}
	return "+" + number(v)
}

// span is a period, with the date once if it is the same.
func span(first, last time.Time) string {
	if last.Equal(first) {
		return clock(first)
	}
	to := clock(last)
	if to[:10] == first.Format(time.DateOnly) {
		to = to[11:]
	}
	return clock(first) + " – " + to
}
