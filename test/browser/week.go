package main

import (
	"bytes"
	"crypto/rsa"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

// clock is the clock of board and plant.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) set(t time.Time) { c.mu.Lock(); defer c.mu.Unlock(); c.now = t }

// week is a realistic week of a plant. Most slots arrive half a minute after their time, slots of an outage of the link arrive
// later, instruments stand still, one is calibrated, a calibration is not announced, and units are refused until they are
// corrected.
type week struct {
	*clock
	*sender
	board *simulator.Server
	trail *audit.Trail
	noise *rand.Rand
}

// weekEnds is the time at which the pictures are made.
var weekEnds = time.Date(2026, 11, 24, 16, 21, 40, 0, spec.IST)

func newWeek(key *rsa.PrivateKey, trail string) (*week, error) {
	calibrated := weekEnds.AddDate(0, 0, -2).Truncate(spec.SlotLength).Add(-5 * time.Hour)
	registry, tokens := plant(simulator.Calibration{From: calibrated, To: calibrated.Add(45 * time.Minute)})
	w := &week{clock: &clock{now: weekEnds}, noise: rand.New(rand.NewPCG(11, 24))}
	var err error
	if w.board, err = simulator.New(simulator.Config{PrivateKey: key, Registry: registry, Now: w.Now}); err != nil {
		return nil, err
	}
	if w.trail, err = audit.Open(trail); err != nil {
		return nil, err
	}
	w.sender = &sender{key: &key.PublicKey, tokens: tokens}
	return w, nil
}

// play sends the week in the order of the arrivals.
func (w *week) play() error {
	day := func(back, hour, minute int) time.Time {
		t := weekEnds.AddDate(0, 0, -back)
		return time.Date(t.Year(), t.Month(), t.Day(), hour, minute, 0, 0, spec.IST)
	}
	calibrated := weekEnds.AddDate(0, 0, -2).Truncate(spec.SlotLength).Add(-5 * time.Hour)
	within := func(t, from, to time.Time) bool { return !t.Before(from) && !t.After(to) }
	var late []payload.Record
	first := weekEnds.Add(-spec.MaxAge).Truncate(spec.SlotLength).Add(spec.SlotLength)
	for stamp := first; !stamp.After(weekEnds); stamp = stamp.Add(spec.SlotLength) {
		w.set(stamp.Add(37 * time.Second))
		for _, device := range []string{etp, stack1, stack2} {
			r := w.slot(device, stamp)
			switch {
			case within(stamp, day(5, 2, 15), day(5, 4, 45)) && device != stack2: // the link is down, and slots wait in the outbox
				late = append(late, r)
				continue
			case device == etp && within(stamp, day(3, 13, 15), day(3, 14, 30)): // the analyser stands still
				continue
			case device == etp && within(stamp, day(0, 9, 30), day(0, 10, 0)):
				continue
			case device == etp && within(stamp, day(6, 22, 0), day(6, 23, 15)): // one probe is out for cleaning
				r.Readings = r.Readings[:3]
			case device == etp && within(stamp, calibrated.Add(spec.SlotLength), calibrated.Add(3*spec.SlotLength)):
				for at := stamp.Add(-spec.SlotLength + spec.CalibrationLength); !at.After(stamp); at = at.Add(spec.CalibrationLength) {
					w.set(at.Add(4 * time.Second))
					if err := w.deliver(w.calibration(device, at)); err != nil {
						return err
					}
				}
				continue
			case device == etp && within(stamp, day(1, 11, 0), day(1, 11, 45)): // a new logger uses another spelling of the units
				for i := range r.Readings {
					r.Readings[i].Unit = strings.ToLower(r.Readings[i].Unit)
				}
			case device == etp && stamp.Equal(day(4, 10, 30)): // a calibration that was not announced
				for i := range 4 {
					at := day(4, 10, 20).Add(time.Duration(i) * spec.CalibrationLength)
					w.set(at.Add(4 * time.Second))
					if err := w.deliver(w.calibration(device, at)); err != nil {
						return err
					}
				}
				w.set(stamp.Add(37 * time.Second))
			case device == stack2 && within(stamp, day(4, 6, 0), day(4, 19, 0)): // the boiler is shut down
				continue
			}
			if err := w.deliver(r); err != nil {
				return err
			}
		}
		if stamp.Equal(day(5, 5, 0)) {
			for i, r := range late {
				w.set(stamp.Add(45*time.Second + time.Duration(i)*300*time.Millisecond))
				if err := w.deliver(r); err != nil {
					return err
				}
			}
		}
	}
	w.set(weekEnds)
	return nil
}

func (w *week) slot(device string, stamp time.Time) payload.Record {
	hour := float64(stamp.Unix()%86400) / 3600
	wave := math.Sin((hour - 3) / 24 * 2 * math.Pi)
	value := func(middle, swing, noise float64, decimals int) float64 {
		p := math.Pow10(decimals)
		return math.Round((middle+swing*wave+noise*w.noise.NormFloat64())*p) / p
	}
	r := payload.Record{StationID: boilers, DeviceID: device}
	add := func(parameter, unit string, v float64) {
		r.Readings = append(r.Readings, payload.Reading{Parameter: parameter, Unit: unit, Value: v, Stamp: stamp, Flag: spec.FlagNormal})
	}
	if device == etp {
		r.StationID = effluent
		add("bod", "mg/L", value(14, 2, .5, 1))
		add("cod", "mg/L", value(92, 14, 3, 1))
		add("tss", "mg/L", value(31, 5, 2, 1))
		add("ph", "pH", value(7.4, .2, .05, 2))
		return r
	}
	add("so2", "mg/Nm³", value(310, 40, 9, 0))
	add("pm", "mg/Nm³", value(38, 5, 2, 1))
	return r
}

func (w *week) calibration(device string, at time.Time) payload.Record {
	r := w.slot(device, at)
	for i := range r.Readings {
		r.Readings[i].Flag = spec.FlagCalibration
	}
	return r
}

// deliver sends a record and writes its outcome to the trail, like the exporter and the output. Slots with a refused unit
// still wait at the end of the week.
func (w *week) deliver(r payload.Record) error {
	status, err := w.send(r, w.Now())
	if err != nil {
		return err
	}
	e := audit.Entry{Time: w.Now(), Outcome: audit.Delivered, Station: r.StationID, Device: r.DeviceID,
		Stamp: r.Readings[0].Stamp.UnixMilli(), Readings: audit.Readings(r.Readings), Status: &status}
	switch spec.Status(status) {
	case spec.StatusSuccess:
	case spec.StatusNoCalibration:
		e.Outcome, e.Detail = audit.Rejected, spec.Status(status).String()
	default:
		return nil
	}
	return w.trail.Append(e)
}

// report writes the page of `ocems report`.
func (w *week) report(trail, page string) error {
	b, err := report.New(report.Options{Now: weekEnds, Software: "ocems/1.0", Readings: true, Device: etp})
	if err != nil {
		return err
	}
	if err := b.Add([][]string{{trail}}, nil); err != nil {
		return err
	}
	r, err := b.Report()
	if err != nil {
		return err
	}
	r.Trails[0].Name = filepath.Base(trail)
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		return err
	}
	return os.WriteFile(page, out.Bytes(), 0o600)
}

// fault switches a fault on.
func (w *week) fault(text string) error {
	answer, err := http.Post(w.url+"/faults", "application/json", bytes.NewReader([]byte(text)))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("setting a fault: HTTP %d", answer.StatusCode)
	}
	return nil
}
