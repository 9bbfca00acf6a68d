package registry

import "strconv"

// Round rounds a value to the decimals of the device's entry for the parameter, if it has one that says so. It rounds
// in decimal, so that what is sent is what strconv prints.
func (r *Registry) Round(device, parameter string, value float64) float64 {
	d, ok := r.Device(device)
	if !ok {
		return value
	}
	decimals, ok := d.decimals[parameter]
	if !ok {
		return value
	}
	value, _ = strconv.ParseFloat(strconv.FormatFloat(value, 'f', decimals, 64), 64)
	return value
}
