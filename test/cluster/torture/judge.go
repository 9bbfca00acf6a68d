//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/cluster"
	"github.com/ocems-io/ocems/test/judge"
)

// verdict is the result of the check of the board's data and of each request.
type verdict struct {
	slots   int // due slots; a slot has all parameters of a device
	lost    int // readings that are missing at the board or are not the mean of the acknowledged samples
	wrong   int // values that a worker sent, and the board accepted or had, that are not this mean
	twice   int // slots that the board has twice or that one worker sent again without need
	standby int // slots of one worker for which the other worker got the answer 111
	alone   int // slots for which only one worker of the partition ever got an answer
	faults  []string
	late    []late
}

// late is the time at which a slot was due and the time at which it was at the board.
type late struct {
	slot
	worker  string // the worker that delivered it
	due, at time.Time
}

// slot identifies a slot of a device.
type slot struct {
	device string
	stamp  int64 // Unix ms
}

// answered is how long after an answer a kill can still make the worker forget it. It is also how long an abandoned request
// can stay in flight.
const answered = 10 * time.Second

func (t *torture) judge(wants judge.Wants, got *judge.Received, requests []cluster.Request) (v verdict) {
	compared := wants.Compare(got)
	v.faults = compared.Faults
	for _, c := range compared.Devices {
		v.lost += c.Missing
	}
	for _, f := range compared.Faults {
		switch {
		case strings.HasSuffix(f, "there twice"):
			v.twice++
		case !strings.HasSuffix(f, "missing"):
			v.wrong++
		}
	}
	first := map[slot]cluster.Request{}  // the request that was stored
	sent := map[slot]map[string]bool{}   // by worker
	same := map[string]cluster.Request{} // the last request of a worker with these readings
	for _, r := range requests {
		if len(r.Points) == 0 || r.Status != spec.StatusSuccess && r.Status != spec.StatusNotSlot {
			v.wrong++
			v.faults = append(v.faults, fmt.Sprintf("%s %s: the board answered %d", r.Worker, r.Device, r.Status))
			continue
		}
		stamp, err := r.Points[0].Stamp()
		if err != nil {
			v.faults = append(v.faults, err.Error())
			v.wrong++
			continue
		}
		s := slot{r.Device, stamp.UnixMilli()}
		if sent[s] == nil {
			sent[s] = map[string]bool{}
		}
		if r.Status == spec.StatusSuccess {
			first[s] = r
		}
		sent[s][r.Worker] = true
		// A worker that gets 111 for several readings sends each of them alone.
		readings := fmt.Sprint(r.Worker, s)
		for _, p := range r.Points {
			readings += " " + p.Parameter
		}
		if before, ok := same[readings]; ok && !t.unknown(r.Worker, before.At, r.At) {
			v.twice++
			v.faults = append(v.faults, fmt.Sprintf("%s at %s and again at %s", readings, before.At.Format(time.TimeOnly), r.At.Format(time.TimeOnly)))
		}
		same[readings] = r
		// The board does not keep a value that it already had, so the check is here: it must be right too.
		for _, p := range r.Points {
			value := 0.0
			if _, err := fmt.Sscan(strings.Trim(string(p.Value), `"`), &value); err != nil {
				v.faults, v.wrong = append(v.faults, fmt.Sprintf("%s %s: %s: %v", r.Worker, r.Device, p.Value, err)), v.wrong+1
			}
			if want, ok := wants.Value(r.Device, p.Parameter, s.stamp, p.Flag); ok && math.Abs(value-want) > 5e-7*want && r.Status != spec.StatusSuccess {
				v.wrong++
				v.faults = append(v.faults, fmt.Sprintf("%s sent %v of %s %s %s, which the board had: must be %v", r.Worker, value, r.Device, p.Parameter, stamp.Format(time.RFC3339), want))
			}
		}
	}
	for s, r := range first {
		v.late = append(v.late, late{s, r.Worker, t.due(time.UnixMilli(s.stamp)), r.At})
		if len(sent[s]) < 2 {
			v.alone++
		} else {
			v.standby++
		}
	}
	v.slots = len(first)
	return v
}

// unknown reports whether a worker may not have known an earlier answer when it sent again.
func (t *torture) unknown(worker string, answer, again time.Time) bool {
	return slices.ContainsFunc(t.events, func(e event) bool {
		return e.worker == worker && e.begin.Before(again) && (e.takes && e.mended.After(answer) ||
			e.begin.Before(answer.Add(answered)) && e.mended.After(answer.Add(-answered)))
	})
}

// partition returns the partition from a worker's name.
func partition(worker string) int { return int(worker[len("worker-")] - '0') }

// row is one row of the table.
type row struct {
	kind            string
	times, slots    int
	median, longest time.Duration
}

// stopped returns how long between two times no stream accepted messages. These faults do not overlap.
func (t *torture) stopped(from, to time.Time) (total time.Duration) {
	for _, e := range t.events {
		begin, end := e.begin, e.mended
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if e.stops && end.After(begin) {
			total += end.Sub(begin)
		}
	}
	return total
}

// lateness returns how late a slot was, without the time in which two or more brokers were away.
func (t *torture) lateness(l late) time.Duration { return l.at.Sub(l.due) - t.stopped(l.due, l.at) }

// The rows of slots that waited during no fault, or during several kinds of fault.
const (
	none    = "no fault"
	several = "several kinds of fault"
)

// table returns for each kind of fault how late the slots were that waited during this kind only.
func (t *torture) table(v verdict) []row {
	times, waited := map[string]int{}, map[string][]time.Duration{}
	for _, e := range t.events {
		times[e.kind]++
	}
	for _, l := range v.late {
		kinds := map[string]bool{}
		for _, e := range t.events {
			if (e.partition < 0 || e.partition == partition(l.worker)) && e.begin.Before(l.at) && e.mended.After(l.due) {
				kinds[e.kind] = true
			}
		}
		row := several
		switch len(kinds) {
		case 0:
			row = none
		case 1:
			for row = range kinds {
			}
		}
		waited[row] = append(waited[row], t.lateness(l))
	}
	var rows []row
	for k, list := range waited {
		slices.Sort(list)
		rows = append(rows, row{k, times[k], len(list), list[len(list)/2], list[len(list)-1]})
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.kind, b.kind) })
	return rows
}
