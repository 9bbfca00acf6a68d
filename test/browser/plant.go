package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/operator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

// fiveTroubles writes the files of a host with seven mapped parameters: one is misspelt, one is refused by the board, one is
// flat, one has no readings since noon, one measures -9999. The week before had an outage of the link with delivery
// afterwards, a standstill, and a calibration.
func fiveTroubles(dir string, now time.Time) (operator.Source, error) {
	path := filepath.Join(dir, "ocems.status.json")
	trail, err := audit.Open(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		return operator.Source{}, err
	}
	day := func(back, hour, minute int) time.Time {
		t := now.In(spec.IST).AddDate(0, 0, -back)
		return time.Date(t.Year(), t.Month(), t.Day(), hour, minute, 0, 0, spec.IST)
	}
	within := func(t, from, to time.Time) bool { return !t.Before(from) && !t.After(to) }
	noise := rand.New(rand.NewPCG(11, 24))
	ok := 1
	last := now.Add(-2 * time.Minute).Truncate(spec.SlotLength)
	var entries []audit.Entry
	for stamp := day(7, 16, 30); !stamp.After(last); stamp = stamp.Add(spec.SlotLength) {
		wave := math.Sin(float64(stamp.Unix()%86400)/86400*2*math.Pi - .8)
		value := func(middle, swing, shake float64, decimals int) float64 {
			p := math.Pow10(decimals)
			return math.Round((middle+swing*wave+shake*noise.NormFloat64())*p) / p
		}
		e := audit.Entry{Time: stamp.Add(41 * time.Second), Outcome: audit.Delivered, Station: effluent, Device: etp, Stamp: stamp.UnixMilli(), Status: &ok}
		add := func(parameter, unit string, v float64) {
			e.Readings = append(e.Readings, audit.Reading{Parameter: parameter, Unit: unit, Value: v, Flag: "U"})
		}
		add("cod", "mg/L", value(92, 14, 3, 1))
		add("ph", "pH", value(7.4, .2, .05, 2))
		if stamp.Before(day(0, 9, 0)) {
			add("tss", "mg/L", value(31, 5, 2, 1))
		} else {
			add("tss", "mg/L", 28.4)
		}
		if !stamp.After(day(0, 12, 0)) {
			add("flow", "m3/hr", value(118, 30, 4, 0))
		}
		if stamp.Before(day(0, 13, 15)) {
			add("toc", "mg/L", value(24, 3, .7, 1))
		}
		if stamp.Before(day(0, 10, 15)) {
			add("nh3-n", "mg/L", value(4.2, .8, .2, 2))
		}
		switch {
		case within(stamp, day(3, 13, 15), day(3, 14, 30)): // the plant stands still
			continue
		case within(stamp, day(5, 2, 15), day(5, 4, 45)):
			e.Time = day(5, 5, 1)
		case within(stamp, day(2, 11, 15), day(2, 11, 45)):
			readings := e.Readings
			for at := stamp.Add(-spec.SlotLength + spec.CalibrationLength); !at.After(stamp); at = at.Add(spec.CalibrationLength) {
				point := e
				point.Time, point.Stamp, point.Readings = at.Add(4*time.Second), at.UnixMilli(), nil
				for _, r := range readings {
					r.Flag = "Z"
					point.Readings = append(point.Readings, r)
				}
				entries = append(entries, point)
			}
			continue
		}
		entries = append(entries, e)
		if !stamp.Before(day(0, 13, 15)) {
			entries = append(entries, audit.Entry{Time: stamp.Add(35 * time.Second), Outcome: audit.Refused, Station: effluent, Device: etp, Stamp: stamp.UnixMilli(), Parameter: "toc", Reason: "invalid_value", Count: 90,
				Readings: []audit.Reading{{Parameter: "toc", Unit: "mg/L", Value: -9999, Flag: "U"}}})
		}
	}
	if err := trail.Append(entries...); err != nil {
		return operator.Source{}, err
	}
	if err := trail.Close(); err != nil {
		return operator.Source{}, err
	}

	utc := func(t time.Time) *time.Time { t = t.UTC(); return &t }
	due := day(1, 10, 30).UTC()
	parameter := func(name, unit string, value float64, slot time.Time) status.Parameter {
		p := status.Parameter{Parameter: name, Unit: unit, Due: due, Reading: &status.Reading{At: now.Add(-9 * time.Second).UTC(), Value: value},
			Slot: &status.Slot{Stamp: slot.UTC(), Value: value, Flag: "U", Samples: 90}, Delivered: utc(slot)}
		if slot.Before(last) {
			p.Reading.At = slot.UTC()
		}
		return p
	}
	bod := status.Parameter{Parameter: "bod", Unit: "mg/L", Due: due, Never: `modbus has the fields cod, flow, nh3, ph, toc, tss; "bodd" is not among them; nearest: cod`}
	flow := parameter("flow", "m3/hr", 97, day(0, 12, 0))
	refused := parameter("nh3-n", "mg/L", 4.41, last)
	refused.Delivered = utc(day(0, 10, 0))
	refused.Refused = &status.Refusal{Reason: "119", Since: day(0, 10, 16).UTC()}
	flat := parameter("tss", "mg/L", 28.4, last)
	flat.Flat = &status.Flat{Since: day(0, 8, 46).UTC(), Slots: 30, Alert: 4 * 3600}
	toc := parameter("toc", "mg/L", -9999, day(0, 13, 0))
	toc.Reading.At = now.Add(-9 * time.Second).UTC()
	toc.Excluded = []status.Excluded{{Reason: "invalid_value", Count: 90, Stamp: last.UTC(), Detail: "-9999 is one of invalid_values"}}
	waiting := int(last.Sub(day(0, 10, 15))/spec.SlotLength) + 1
	h := &status.Host{Written: now.Add(-20 * time.Second).UTC(), Started: day(6, 9, 0).UTC(), Software: "ocems/1.0", Endpoint: "https://cems.cpcb.gov.in/v1.0/industry/data",
		Trail: filepath.Join(dir, "audit.jsonl"), Stamp: "end", Grace: 35, Within: 95, Clock: status.Clock{Trusted: true, Skew: .2},
		Board: status.Board{Reachable: true, Answered: utc(last.Add(41 * time.Second)), Latency: .24}, Waiting: waiting,
		Devices: []status.Device{{Station: effluent, ID: etp, Waiting: waiting, Oldest: utc(day(0, 10, 15)), Runs: [][2]int64{{day(0, 10, 15).UnixMilli(), last.UnixMilli()}}, Answered: utc(last.Add(41 * time.Second)),
			Parameters: []status.Parameter{bod, parameter("cod", "mg/L", 88.2, last), flow, refused, parameter("ph", "pH", 7.31, last), flat, toc}}}}
	if err := h.Write(path); err != nil {
		return operator.Source{}, fmt.Errorf("writing the plant: %w", err)
	}
	return operator.Source{Name: "outputs.ocems", Path: path}, nil
}
