package registry

import "strconv"

// Round rounds a value to decimals, or leaves it as it is where they are less than 0. It rounds in decimal, so that what
// is sent is what strconv prints.
func Round(value float64, decimals int) float64 {
	if decimals >= 0 {
		value, _ = strconv.ParseFloat(strconv.FormatFloat(value, 'f', decimals, 64), 64)
	}
	return value
}

// Round rounds a value to the decimals of the device's entry for the parameter, if it has one that says so.
func (d *Device) Round(parameter string, value float64) float64 {
	if m := d.parameters[parameter]; m != nil {
		return Round(value, m.decimals)
	}
	return value
}
