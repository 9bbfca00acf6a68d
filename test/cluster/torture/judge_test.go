//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/cluster"
	"github.com/ocems-io/ocems/test/judge"
)

func TestJudge(t *testing.T) {
	start := time.Date(2026, 2, 10, 12, 0, 0, 0, time.UTC)
	stamp := start.Add(judge.Slot)
	var samples []judge.Sample
	for i, parameter := range []string{"pm", "so2"} {
		for m := range 3 {
			samples = append(samples, judge.Sample{Station: "s", Device: "d", Parameter: parameter, Unit: "mg/Nm³", At: start.Add(time.Duration(m) * time.Minute),
				Value: float64(10*(i+1) + m), Flag: "U"})
		}
	}
	wants := judge.Expect(samples, func(judge.Sample) time.Time { return stamp })
	// request returns a request of a worker, seconds after the start, with these values of the parameters.
	request := func(worker string, status spec.Status, seconds int, values map[string]float64) cluster.Request {
		r := cluster.Request{Worker: worker, Device: "d", Status: status, At: start.Add(time.Duration(seconds) * time.Second)}
		for _, parameter := range []string{"pm", "so2"} {
			if v, ok := values[parameter]; ok {
				r.Points = append(r.Points, payload.Point{Parameter: parameter, Value: json.RawMessage(fmt.Sprintf("%q", fmt.Sprintf("%.2f", v))), Unit: "mg/Nm³",
					Timestamp: json.RawMessage(fmt.Sprint(stamp.UnixMilli())), Flag: "U"})
			}
		}
		return r
	}
	a, b := "worker-0-a", "worker-0-b"
	right := map[string]float64{"pm": 11, "so2": 21}
	stored, repeated := request(a, spec.StatusSuccess, 30, right), request(b, spec.StatusNotSlot, 60, right)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

	for _, tc := range []struct {
		name     string
		requests []cluster.Request
		events   []event
		want     string // lost wrong twice standby alone
	}{
		{"one stores, the other is told 111", []cluster.Request{stored, repeated}, nil, "0 0 0 1 0"},
		{"nobody sent it", nil, nil, "2 0 0 0 0"},
		{"a reading is missing", []cluster.Request{request(a, spec.StatusSuccess, 30, map[string]float64{"pm": 11}), request(b, spec.StatusNotSlot, 60, map[string]float64{"pm": 11})}, nil, "1 0 0 1 0"},
		{"a wrong value is stored", []cluster.Request{request(a, spec.StatusSuccess, 30, map[string]float64{"pm": 11.5, "so2": 21}), repeated}, nil, "0 1 0 1 0"},
		{"the standby's value is wrong", []cluster.Request{stored, request(b, spec.StatusNotSlot, 60, map[string]float64{"pm": 11, "so2": 20.5})}, nil, "0 1 0 1 0"},
		{"the board stores it twice", []cluster.Request{stored, request(b, spec.StatusSuccess, 60, right)}, nil, "0 0 2 1 0"},
		{"the board refuses", []cluster.Request{stored, repeated, request(b, spec.StatusInvalidDetails, 61, right)}, nil, "0 1 0 1 0"},
		{"the other is never answered", []cluster.Request{stored}, nil, "0 0 0 0 1"},
		{"the standby asks for each reading", []cluster.Request{stored, repeated, request(b, spec.StatusNotSlot, 61, map[string]float64{"pm": 11}),
			request(b, spec.StatusNotSlot, 61, map[string]float64{"so2": 21})}, nil, "0 0 0 1 0"},
		{"sent again without need", []cluster.Request{stored, repeated, request(a, spec.StatusNotSlot, 90, right)}, nil, "0 0 1 1 0"},
		{"sent again after a kill", []cluster.Request{stored, repeated, request(a, spec.StatusNotSlot, 90, right)}, []event{{worker: a, begin: at(31), mended: at(40)}}, "0 0 0 1 0"},
		{"sent again long after a kill", []cluster.Request{stored, repeated, request(a, spec.StatusNotSlot, 900, right)}, []event{{worker: a, begin: at(100), mended: at(110)}}, "0 0 1 1 0"},
		{"sent again after a kill of the other", []cluster.Request{stored, repeated, request(a, spec.StatusNotSlot, 90, right)}, []event{{worker: b, begin: at(31), mended: at(40)}}, "0 0 1 1 0"},
		{"sent again without a disk", []cluster.Request{stored, repeated, request(a, spec.StatusNotSlot, 900, right)}, []event{{worker: a, takes: true, begin: at(100), mended: at(110)}}, "0 0 0 1 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var readings []string
			for _, r := range tc.requests {
				if r.Status != spec.StatusSuccess {
					continue
				}
				for _, p := range r.Points {
					readings = append(readings, fmt.Sprintf(`{"station":"s","device":"d","parameter":%q,"value":%s,"unit":%q,"timestamp":%s,"flag":"U"}`,
						p.Parameter, strings.Trim(string(p.Value), `"`), p.Unit, p.Timestamp))
				}
			}
			got := &judge.Received{}
			if err := json.Unmarshal([]byte(`{"readings":[`+strings.Join(readings, ",")+`]}`), got); err != nil {
				t.Fatal(err)
			}
			run := &torture{events: tc.events, from: start, start: start}
			v := run.judge(wants, got, tc.requests)
			if have := fmt.Sprint(v.lost, v.wrong, v.twice, v.standby, v.alone); have != tc.want {
				t.Errorf("lost, wrong, twice, standby, alone are %s, want %s: %v", have, tc.want, v.faults)
			}
		})
	}
}
