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

// arrival is a reading and when it came to the host.
type arrival struct {
	reading
	came time.Time
}

// expect says what the board must have of readings, in the order in which they came: one line a reading. It is written
// from the rules and shares nothing with the hosts: a window takes each time once, and is closed half a minute after its end.
func expect(p plant, all []arrival) (lines []string) {
	type key struct {
		device, parameter string
		calibration       string
		end               int64 // Unix seconds
	}
	type window struct {
		began time.Time // when its first reading came
		unit  string
		seen  map[string]bool
		taken []arrival
	}
	windows := map[key]*window{}
	entries, devices := map[key]parameter{}, map[string]device{}
	for _, d := range p.devices {
		devices[d.id] = d
	}
	for _, a := range all {
		for _, n := range named(devices[cmp.Or(a.device, a.tags["device"])], a.reading) {
			flag := strings.ToUpper(a.flag)
			if math.IsNaN(a.value) || flag == "?" {
				continue
			}
			k, length := key{n.device, n.key, "", 0}, int64(900)
			if flag == "C" || flag == "Z" {
				k.calibration, length = flag, 30
			}
			k.end = a.at.Unix()/length*length + length
			w := windows[k]
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
			if !w.seen[at] {
				w.seen[at] = true
				w.taken = append(w.taken, a)
			}
		}
	}
	for k, w := range windows {
		flag, chosen := choose(w.taken, p.options["min_samples"].(int))
		value, decimals := compute(entries[k].statistic, chosen), -1
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

// name is what a reading is.
type name struct {
	parameter
	device, key, unit string
}

// named finds the entries of a device that a reading fits, or else takes its own word for it.
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

func usual(parameter string) string {
	if strings.HasSuffix(parameter, "totalizer") {
		return "last"
	}
	return "mean"
}

// choose takes the readings of the flag that speaks for a window.
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
