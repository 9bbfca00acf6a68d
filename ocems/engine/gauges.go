package engine

import (
	"time"

	"github.com/ocems-io/ocems/ocems/status"
)

// ParameterState is the state of a parameter for gauges.
type ParameterState struct {
	Station, Device, Parameter string
	Diagnostic                 bool
	Expected                   bool         // a slot is due
	Delivered                  time.Time    // newest stamp that the board has, or in a processor the next consumer; zero: none
	Trouble                    status.Class // one of Troubles; "" if it reports or its first slot is not due
}

// Troubles are the classes of a parameter that a person must act on or check.
func Troubles() []status.Class {
	return []status.Class{status.Never, status.Silent, status.Excludes, status.Refuses, status.Asks, status.Waits, status.Behind, status.FlatLine, status.Limit, status.Partly}
}

// Parameters returns the current state of each parameter. It is empty if there are more than parameter_metrics.
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
	h := a.describe(false)
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

// troubledBy counts the parameters in trouble by class at the end of the last slot. It computes nothing, so it is cheap
// for a hub.
func (a *account) troubledBy() map[status.Class]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.classes // the map is never changed, only replaced
}
