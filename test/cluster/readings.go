package cluster

import (
	"context"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/test/judge"
)

// What each device measures. One unit for both, so that a line holds both.
var parameters = []string{"so2", "pm"}

const unit = "mg/Nm³"

// Interval is between two readings of a device, and PerMessage how many of them a logger sends at once.
const (
	Interval   = time.Minute
	PerMessage = 5
)

// value is of two decimals, as instruments have.
func value(device, parameter int, at time.Time) float64 {
	return float64(4000+(device%50)*20+parameter*300+int(at.Unix()/60)%97*25) / 100
}

// after is how long readings go on behind what was asked for: the workers close no slot before they have newer ones.
const after = PerMessage * Interval

// Feed publishes the readings of all devices from one time to another, evenly within the given time, and calls at with the
// share that is published. It returns when all are acknowledged, with the readings. Those of the next slot begin.
func (c *Cluster) Feed(ctx context.Context, from, to time.Time, within time.Duration, at func(share float64)) ([]judge.Sample, error) {
	f, err := c.NewFeeder(ctx)
	if err != nil {
		return nil, err
	}
	var samples []judge.Sample
	began, step := time.Now(), Interval*PerMessage
	for t := from; t.Before(to.Add(after)) && ctx.Err() == nil; t = t.Add(step) {
		share := min(float64(t.Sub(from))/float64(to.Sub(from)), 1)
		at(share)
		select {
		case <-time.After(time.Until(began.Add(time.Duration(share * float64(within))))):
		case <-ctx.Done():
		}
		samples = append(samples, f.Readings(t, t.Add(step))...)
	}
	f.Close()
	return samples, ctx.Err()
}

// Readings publishes those of all devices, and returns them once they are acknowledged: no device is ahead of another by
// more than a message, as with loggers of one clock.
func (f *Feeder) Readings(from, to time.Time) (samples []judge.Sample) {
	for i, d := range f.cluster.Devices {
		lines, list := f.cluster.readings(i, from, to)
		f.Publish(d.ID, lines)
		samples = append(samples, list...)
	}
	f.Flush()
	return samples
}

// Again publishes the readings of a minute once more: with wait_for_newer windows settle only while readings come. What is
// not stored is not published again.
func (c *Cluster) Again(minute time.Time) error {
	conn, err := c.Connect("gateway")
	if err != nil {
		return err
	}
	defer conn.Close()
	for i, d := range c.Devices[:min(20, len(c.Devices))] { // of both partitions
		lines, _ := c.readings(i, minute, minute.Add(time.Minute))
		if err := conn.Publish("readings."+d.ID, lines); err != nil {
			return err
		}
	}
	return conn.FlushTimeout(ackWait)
}

// readings are those of a device, a line each time.
func (c *Cluster) readings(device int, from, to time.Time) (lines []byte, samples []judge.Sample) {
	d := c.Devices[device]
	for t := from; t.Before(to); t = t.Add(Interval) {
		lines = append(lines, "stack,ocems_device_id="+d.ID+",ocems_unit="+unit+" "...)
		for i, parameter := range parameters {
			if i > 0 {
				lines = append(lines, ',')
			}
			lines = strconv.AppendFloat(append(lines, parameter+"="...), value(device, i, t), 'f', -1, 64)
			samples = append(samples, judge.Sample{Station: d.Station, Device: d.ID, Parameter: parameter, Unit: unit, At: t, Value: value(device, i, t), Flag: "U"})
		}
		lines = append(strconv.AppendInt(append(lines, ' '), t.UnixNano(), 10), '\n')
	}
	return lines, samples
}
