package hosts

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// arrival is a reading with the time of its arrival at the host.
type arrival struct {
	reading
	came time.Time
}

// expect returns the expected readings at the board, one line each, for readings in the order of arrival. It is a separate
// implementation of the rules: a window has each timestamp once, and closes half a minute after its end. Invalid readings are
// in no window.
func expect(p plant, all []arrival) (lines []string) {
	type key struct {
		device, parameter string
		calibration       string
		end               int64 // Unix seconds
	}
	type window struct {
		began time.Time // arrival of its first reading
		unit  string
		seen  map[string]bool
		taken []arrival
	}
	windows := map[key]*window{}
	entries, devices := map[key]parameter{}, map[string]device{}
	kept, keptFlag := map[key]arrival{}, map[key]string{} // the last accepted reading of a parameter
	for _, d := range p.devices {
		devices[d.id] = d
	}
	for _, a := range all {
		for _, n := range named(devices[cmp.Or(a.device, a.tags["device"])], a.reading) {
			flag := strings.ToUpper(a.flag)
			if math.IsNaN(a.value) || flag == "?" || !n.believes(a.value) {
				continue
			}
			a := a
			if cmp.Or(n.rule("reading_stamp"), p.options["reading_stamp"]) == "end" {
				a.at = a.at.Add(-1)
			}
			k, length := key{n.device, n.key, "", 0}, int64(900)
			if flag == "C" || flag == "Z" {
				k.calibration, length = flag, 30
			}
			k.end = a.at.Unix()/length*length + length
			w := windows[k]
			series := key{device: n.device, parameter: n.key}
			last, some := kept[series]
			minutes := a.at.Sub(last.at).Abs().Minutes()
			step, limited := n.rule("max_step").(float64)
			leaps := limited && some && length == 900 && minutes <= 15 && cmp.Or(flag, "U") == keptFlag[series] &&
				math.Abs(a.value-last.value) > step*max(minutes, 1)+1e-6*max(math.Abs(a.value), math.Abs(last.value))
			if w == nil && leaps {
				continue
			}
			if w == nil {
				w = &window{a.came, n.unit, map[string]bool{}, nil}
				windows[k], entries[k] = w, n.parameter
			}
			if w.began.Before(a.came) && k.end+30 <= a.came.Truncate(time.Minute).Unix() || n.unit != w.unit {
				continue
			}
			at := strconv.FormatInt(a.at.UnixMicro(), 10)
			if n.statistic == "sum" {
				at += fmt.Sprint(a.tags, a.resource)
			}
			if !w.seen[at] && !leaps {
				w.seen[at] = true
				w.taken = append(w.taken, a)
				if limited && length == 900 {
					kept[series], keptFlag[series] = a, cmp.Or(flag, "U")
				}
			}
		}
	}
	for k, w := range windows {
		flag, chosen := choose(w.taken, p.options["min_samples"].(int))
		value, decimals := compute(entries[k].statistic, chosen), -1
		covered := map[int64]bool{}
		for _, a := range w.taken {
			covered[a.at.Unix()/60] = true
		}
		if entries[k].statistic == "time_weighted" {
			before := windows[key{k.device, k.parameter, "", k.end - 900}]
			var held []arrival
			if k.calibration == "" && before != nil && before.unit == w.unit {
				closed := later(time.Unix(k.end+30, 0), w.began.Add(time.Second))
				held = slices.DeleteFunc(slices.Clone(before.taken), func(a arrival) bool { return a.came.After(closed) })
			}
			value, covered = weigh(w.taken, held, flag, k.end, k.calibration != "")
		}
		least, _ := cmp.Or(entries[k].rule("min_coverage"), p.options["min_coverage"]).(float64)
		if k.calibration == "" && float64(len(covered))/15 < least {
			continue
		}
		if d := entries[k].decimals; d != nil {
			decimals = *d
		}
		if magnitude := math.Abs(value); decimals < 0 && magnitude > 0 { // seven digits, and at least three decimals
			decimals = max(3, 6-int(math.Floor(math.Log10(magnitude))))
		}
		text := strconv.FormatFloat(value, 'f', decimals, 64)
		if value, _ = strconv.ParseFloat(text, 64); value == 0 {
			text = "0"
		} else {
			text = strconv.FormatFloat(value, 'f', -1, 64)
		}
		stamp := k.end
		if p.options["stamp"] == "start" {
			if stamp -= 900; k.calibration != "" {
				stamp = k.end - 30
			}
		}
		list := "params"
		if entries[k].diagnostic {
			list = "diag_params"
		}
		lines = append(lines, fmt.Sprintf(`%s %s {"parameter":"%s","value":%s,"unit":"%s","timestamp":%d,"flag":"%s"}`,
			k.device, list, k.parameter, text, w.unit, stamp*1000, flag))
	}
	slices.Sort(lines)
	return lines
}

// name is the parameter to which a reading is mapped.
type name struct {
	parameter
	device, key, unit string
}

// named returns the entries of a device that a reading fits, or the name in the reading itself.
func named(d device, r reading) (list []name) {
	unit := map[string]string{"": "", "mg/l": "mg/L", "mg/L": "mg/L", "ppm": "ppm"}
	for _, x := range d.parameters {
		if x.name == r.name {
			n := name{x, d.id, x.parameter, cmp.Or(unit[x.unit], unit[r.unit])}
			n.statistic = cmp.Or(n.statistic, usual(x.parameter))
			list = append(list, n)
		}
	}
	if d.id == r.device {
		list = append(list, name{parameter{statistic: usual(r.name)}, d.id, r.name, unit[r.unit]})
	}
	return list
}

// rule returns a further key of an entry, or nil.
func (p parameter) rule(key string) any { return p.rules[key] }

// believes reports whether a value is valid. An analyser may send the limit of its range, or its value for a fault, as a 32-bit float.
func (p parameter) believes(v float64) bool {
	short := func(limit any) float64 { return float64(float32(limit.(float64))) }
	least, most := p.rule("valid_min"), p.rule("valid_max")
	invalid, _ := p.rule("invalid_values").([]any)
	return !slices.ContainsFunc(invalid, func(x any) bool { return v == x || v == short(x) }) &&
		(least == nil || v >= min(least.(float64), short(least))) && (most == nil || v <= max(most.(float64), short(most)))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// weigh returns the time-weighted mean of a flag's readings in a window, and the minutes with a valid reading.
func weigh(taken, before []arrival, flag string, end int64, calibration bool) (value float64, minutes map[int64]bool) {
	byTime := func(a, b arrival) int { return a.at.Compare(b.at) }
	list := slices.SortedFunc(slices.Values(taken), byTime)
	if len(before) > 0 {
		held := slices.MaxFunc(before, byTime)
		held.at = time.Unix(end-900, 0)
		list = append([]arrival{held}, list...)
	}
	minutes = map[int64]bool{}
	for m := list[0].at.Unix() / 60; m < end/60; m++ {
		minutes[m] = true
	}
	sum, total, low, high := 0.0, 0.0, math.Inf(1), math.Inf(-1)
	for i, a := range list {
		until := time.Unix(end, 0)
		if i+1 < len(list) {
			until = list[i+1].at
		}
		lasts := float64(until.UnixMicro() - a.at.UnixMicro())
		if lasts > 0 && (strings.ToUpper(a.flag) == flag || a.flag == "" && flag == "U") {
			sum, total = sum+lasts*a.value, total+lasts
			low, high = min(low, a.value), max(high, a.value)
		}
	}
	return min(max(sum/total, low), high), minutes
}

func usual(parameter string) string {
	if strings.HasSuffix(parameter, "totalizer") {
		return "last"
	}
	return "mean"
}

// choose returns the flag of a window and its readings with this flag.
func choose(taken []arrival, minSamples int) (flag string, chosen []arrival) {
	for _, f := range []string{"U", "C", "M", "F", "Z", "D"} {
		var of []arrival
		for _, a := range taken {
			if strings.ToUpper(a.flag) == f || f == "U" && a.flag == "" {
				of = append(of, a)
			}
		}
		if f == "U" && len(of) >= minSamples {
			return f, of
		}
		if len(of) > len(chosen) {
			flag, chosen = f, of
		}
	}
	return flag, chosen
}

func compute(statistic string, list []arrival) float64 {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b arrival) int { return a.at.Compare(b.at) })
	last := list[len(list)-1].value
	sum := new(big.Float).SetPrec(2000)
	var values []float64
	for _, a := range list {
		sum.Add(sum, big.NewFloat(a.value))
		values = append(values, a.value)
	}
	slices.Sort(values)
	n := len(values)
	total, _ := sum.Float64()
	switch statistic {
	case "last":
		return last
	case "min":
		return values[0]
	case "max":
		return values[n-1]
	case "sum":
		return total
	case "median":
		return (values[(n-1)/2] + values[n/2]) / 2
	}
	return min(max(total/float64(n), values[0]), values[n-1])
}
