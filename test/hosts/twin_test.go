package hosts

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
)

// TestSameBytes sends one day through every host. The board gets the same bytes from all. In the last way one exporter gets
// finished slots of some devices, and raw readings of the others, which its processor passes on.
func TestSameBytes(t *testing.T) {
	server := newBoards(t)
	warmUp(t, server.publicKey)
	sent := play(t, day(), server.publicKey, append(ways(server), both))
	require.Greater(t, len(sent), 4*96)
	for _, payload := range sent {
		stack := strings.Contains(payload, `"deviceId":"stack_`)
		require.Equal(t, stack, strings.Contains(payload, `"latitude":19.076,"longitude":72.8777`), payload)
		require.Equal(t, stack, strings.Contains(payload, `"diag_params"`), payload)
	}
	t.Logf("%d payloads, the first: %s", len(sent), sent[0])
}

// both is one exporter that makes the slots of some devices itself, and gets the slots of the others from a processor.
var both = way{"both", func(p plant, at place, to *payloads) func(*adapter) life {
	some := p
	some.devices = p.devices[:len(p.devices)/2]
	return collector(to.options(p.exporter(at)), some.processor(at), extensions{component.MustNewID("payloads"): to})
}}

// day returns a day of two stacks and two outlets, with a reading every 30 s, sent every 5 minutes.
func day() script {
	latitude, longitude, two := 19.076, 72.8777, 2
	entry := func(name, unit string) parameter {
		return parameter{name: "plant." + name, parameter: name, unit: unit}
	}
	s := script{plant: plant{options: map[string]any{"grace": "30s", "calibration_grace": "30s", "settle": "1s", "min_samples": 1}}}
	for _, id := range []string{"stack_1", "outlet_1", "stack_2", "outlet_2"} {
		d := device{id: id, latitude: &latitude, longitude: &longitude}
		if id[:5] == "stack" {
			rounded, cell := entry("tss", "mg/L"), entry("ph", "ppm")
			rounded.decimals, cell.diagnostic, cell.statistic = &two, true, "median"
			d.parameters = []parameter{entry("cod", "mg/l"), rounded, cell}
		} else {
			d.latitude, d.longitude = nil, nil
			d.parameters = []parameter{entry("flow_totalizer", "mg/L")}
		}
		for i := range d.parameters {
			d.parameters[i].tags = map[string]string{"device": id}
		}
		s.plant.devices = append(s.plant.devices, d)
	}
	every := 5 * time.Minute
	for now := bubble.Add(every); !now.After(bubble.Add(24 * time.Hour)); now = now.Add(every) {
		var batch []reading
		for at := now.Add(-every); at.Before(now); at = at.Add(30 * time.Second) {
			for i, d := range s.plant.devices {
				batch = append(batch, shown(d, i, at)...)
			}
		}
		s.rounds = append(s.rounds, round{now.Add(15 * time.Second), []step{{batch: batch}}})
	}
	return s
}

// shown returns the readings of a device's instruments at a time. They have a fault from 3 h, and calibrate from 10 h 5 min.
func shown(d device, i int, at time.Time) (list []reading) {
	since := at.Sub(bubble)
	hours := since.Hours()
	flag := ""
	switch {
	case slices.Contains([]int{0, 2}, i) && since >= 605*time.Minute && since < 615*time.Minute:
		flag = "C"
	case slices.Contains([]int{0, 2}, i) && since >= 615*time.Minute && since < 620*time.Minute:
		flag = "Z"
	case hours >= 3 && hours < 4.1:
		flag = "M"
	}
	wave := 40.1 + 10*math.Sin(hours) + float64(i)/7
	for j, p := range d.parameters {
		x := reading{name: p.name, value: wave + float64(j), at: at, flag: flag, tags: map[string]string{"device": d.id}}
		if p.parameter == "flow_totalizer" {
			x.value, x.flag = 1e6+0.1*since.Seconds(), ""
		}
		list = append(list, x)
	}
	if d.latitude == nil {
		list = append(list, reading{name: "cod", value: wave, at: at, unit: "mg/l", flag: flag, device: d.id})
	}
	return list
}
