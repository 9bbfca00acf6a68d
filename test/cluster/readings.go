package cluster

import (
	"context"
	"strconv"
	"time"

	"github.com/ocems-io/ocems/test/judge"
)

// The parameters of each device. Both have the same unit, so that one line holds both.
var parameters = []string{"so2", "pm"}

const unit = "mg/Nm³"

// Interval is the time between two readings of a device. PerMessage is the number of readings in one message of a logger.
const (
	Interval   = time.Minute
	PerMessage = 5
)

// value returns a value with two decimals, as instruments send it.
func value(device, parameter int, at time.Time) float64 {
	return float64(4000+(device%50)*20+parameter*300+int(at.Unix()/60)%97*25) / 100
}

// after is the time for which readings continue after the requested end, because the workers close a slot only when they have
// newer readings.
const after = PerMessage * Interval

// Feed publishes the readings of all devices between two times, evenly within the given time, and calls at with the published
// share. It returns the readings when all are acknowledged. It also publishes the first readings of the next slot.
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

// Readings publishes the readings of all devices, and returns them when they are acknowledged. No device is ahead of another
// by more than one message, as with loggers whose clocks agree.
func (f *Feeder) Readings(from, to time.Time) (samples []judge.Sample) {
	for i, d := range f.cluster.Devices {
		lines, list := f.cluster.readings(i, from, to)
		f.Publish(d.ID, lines)
		samples = append(samples, list...)
	}
	f.Flush()
	return samples
}

// Again publishes the readings of a minute once more, because with wait_for_newer windows settle only while readings come. It
// does not repeat messages that are not stored.
func (c *Cluster) Again(minute time.Time) error {
	conn, err := c.Connect("gateway")
	if err != nil {
		return err
	}
	defer conn.Close()
	for i, d := range c.Devices[:min(20, len(c.Devices))] { // devices of both partitions
		lines, _ := c.readings(i, minute, minute.Add(time.Minute))
		if err := conn.Publish("readings."+d.ID, lines); err != nil {
			return err
		}
	}
	return conn.FlushTimeout(ackWait)
}

// readings returns the readings of a device, one line per time.
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
