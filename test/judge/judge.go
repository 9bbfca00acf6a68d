// Package judge computes, by simple arithmetic, the expected values at the board after an example's run, and compares them with
// the values at the simulated board. It shares no code with the components that it checks.
package judge

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"
)

// Lengths of windows.
const (
	Slot  = 15 * time.Minute
	Point = 30 * time.Second // during calibration
)

// Sample is the value of one parameter of a device at one time.
type Sample struct {
	Station, Device, Parameter, Unit string
	Totalizer                        bool
	At                               time.Time
	Value                            float64
	Flag                             string
}

// Length returns the length of the sample's window.
func (s Sample) Length() time.Duration {
	if s.Flag == "C" || s.Flag == "Z" {
		return Point
	}
	return Slot
}

type place struct {
	device, parameter string
	stamp             int64 // Unix ms
	flag              string
}

type want struct {
	station, unit string
	value         float64
	due           bool
}

// Wants are the expected values at the board.
type Wants map[place]want

// Expect returns the mean of the samples of each window, or the last sample of a totalizer, stamped at the window's end. A
// window that ends by due must have a value. A later window may have one, which must be right.
func Expect(samples []Sample, due func(Sample) time.Time) Wants {
	windows := map[place][]Sample{}
	for _, s := range samples {
		end := s.At.Truncate(s.Length()).Add(s.Length())
		p := place{s.Device, s.Parameter, end.UnixMilli(), s.Flag}
		windows[p] = append(windows[p], s)
	}
	wants := Wants{}
	for p, list := range windows {
		value, last := 0.0, list[0]
		for _, s := range list {
			value += s.Value
			if s.At.After(last.At) {
				last = s
			}
		}
		value /= float64(len(list))
		if last.Totalizer {
			value = last.Value
		}
		wants[p] = want{last.Station, last.Unit, value, p.stamp <= due(last).UnixMilli()}
	}
	return wants
}

// Value returns one expected value. The stamp is in milliseconds since the Unix epoch.
func (wants Wants) Value(device, parameter string, stamp int64, flag string) (value float64, ok bool) {
	w, ok := wants[place{device, parameter, stamp, flag}]
	return w.value, ok
}

// Received is the data that the simulator has received.
type Received struct {
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"`
	Readings []struct {
		Station    string  `json:"station"`
		Device     string  `json:"device"`
		Parameter  string  `json:"parameter"`
		Value      float64 `json:"value"`
		Unit       string  `json:"unit"`
		Timestamp  int64   `json:"timestamp"`
		Flag       string  `json:"flag"`
		Diagnostic bool    `json:"diagnostic"`
		ReceivedAt int64   `json:"received_at"`
	} `json:"readings"`
}

// Fetch asks the simulator for the received data.
func Fetch(ctx context.Context, url string) (*Received, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking what was received: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking what was received: %w", err)
	}
	defer resp.Body.Close()
	out := &Received{}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("reading what was received: %w", err)
	}
	return out, nil
}

// Count is a device's row in the table.
type Count struct {
	Station                            string
	Expected, Received, Wrong, Missing int
}

// Verdict is the result of the comparison.
type Verdict struct {
	Devices            map[string]*Count
	Faults             []string
	Accepted, Rejected int
}

// Compare compares the received values with the expected ones.
func (wants Wants) Compare(got *Received) *Verdict {
	v := &Verdict{Devices: map[string]*Count{}, Accepted: got.Accepted, Rejected: got.Rejected}
	of := func(device, station string) *Count {
		if v.Devices[device] == nil {
			v.Devices[device] = &Count{Station: station}
		}
		return v.Devices[device]
	}
	seen := map[place]bool{}
	for _, r := range got.Readings {
		p := place{r.Device, r.Parameter, r.Timestamp, r.Flag}
		w, known := wants[p]
		c := of(r.Device, r.Station)
		c.Received++
		fault := ""
		switch {
		case !known:
			fault = "unexpected"
		case seen[p]:
			fault = "there twice"
		case r.Station != w.station || r.Unit != w.unit || r.Diagnostic:
			fault = fmt.Sprintf("must be %s %s", w.station, w.unit)
		case math.Abs(r.Value-w.value) > 5e-7*math.Abs(w.value):
			fault = fmt.Sprintf("must be %v", w.value)
		}
		seen[p] = true
		if fault != "" {
			c.Wrong++
			v.Faults = append(v.Faults, fmt.Sprintf("%s %s %s %s: %v %s %s: %s", r.Station, r.Device, r.Parameter, clock(r.Timestamp), r.Value, r.Unit, r.Flag, fault))
		}
	}
	for p, w := range wants {
		if !w.due {
			continue
		}
		c := of(p.device, w.station)
		c.Expected++
		if !seen[p] {
			c.Missing++
			v.Faults = append(v.Faults, fmt.Sprintf("%s %s %s %s: %v %s %s: missing", w.station, p.device, p.parameter, clock(p.stamp), w.value, w.unit, p.flag))
		}
	}
	slices.Sort(v.Faults)
	return v
}

func clock(stamp int64) string {
	return time.UnixMilli(stamp).In(time.FixedZone("IST", 19800)).Format("2006-01-02 15:04:05 MST")
}

// Up to mostShown devices are all shown. Of more devices, only those with a fault are shown.
const mostShown = 20

// Print writes the first faults, a table of the devices, and the last line of a demo. It reports whether there is no fault.
func (v *Verdict) Print() bool {
	for i, f := range v.Faults {
		if i == 20 {
			fmt.Printf("and %d more\n", len(v.Faults)-i)
			break
		}
		fmt.Println(f)
	}
	ids := make([]string, 0, len(v.Devices))
	for id := range v.Devices {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	wrong, missing := 0, 0
	fmt.Printf("%-12s %-16s %9s %9s %6s %8s\n", "device", "station", "expected", "received", "wrong", "missing")
	for _, id := range ids {
		c := v.Devices[id]
		wrong, missing = wrong+c.Wrong, missing+c.Missing
		if len(ids) > mostShown && c.Wrong+c.Missing == 0 {
			continue
		}
		fmt.Printf("%-12s %-16s %9d %9d %6d %8d\n", id, c.Station, c.Expected, c.Received, c.Wrong, c.Missing)
	}
	fmt.Printf("demo: devices=%d accepted=%d rejected=%d missing=%d wrong=%d\n", len(ids), v.Accepted, v.Rejected, missing, wrong)
	return len(v.Faults) == 0 && v.Rejected == 0
}
