package engine

import (
	"time"

	"github.com/ocems-io/ocems/ocems/status"
)

// ParameterState is what a parameter is doing, as gauges show it.
type ParameterState struct {
	Station, Device, Parameter string
	Diagnostic                 bool
	Expected                   bool         // a slot of it is due
	Delivered                  time.Time    // newest stamp that the board has, or in a processor the next consumer; zero: none
	Trouble                    status.Class // one of Troubles, or "" where it reports or its first slot is not due
}

// Troubles are the classes of a parameter that needs a person, or a look.
func Troubles() []status.Class {
	return []status.Class{status.Never, status.Silent, status.Excludes, status.Refuses, status.Asks, status.Waits, status.FlatLine, status.Limit, status.Partly}
}

// Parameters tells what each parameter is doing now. It is empty where they are more than parameter_metrics.
func (e *Engine) Parameters() []ParameterState {
	a := e.account
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, d := range a.devices {
		n += len(d.parameters)
	}
	if n > e.cfg.Slots.ParameterMetrics {
		return nil
	}
	now, list := a.now(), make([]ParameterState, 0, n)
	h := a.describe(now, false)
	for _, id := range a.ids {
		d := a.describeDevice(a.devices[id], now, false)
		for i := range d.Parameters {
			p := &d.Parameters[i]
			s := ParameterState{Station: d.Station, Device: d.ID, Parameter: p.Parameter, Diagnostic: p.Diagnostic, Expected: h.Due(p, now)}
			if p.Delivered != nil {
				s.Delivered = *p.Delivered
			}
			if v := h.Judge(&d, p, now); v.Level != status.OK {
				s.Trouble = v.Class
			}
			list = append(list, s)
		}
	}
	return list
}

// troubledBy counts the parameters in trouble by class, as of the end of the last slot: that costs a hub nothing.
func (a *account) troubledBy() map[status.Class]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.classes // which never changes
}
