package registry

import (
	"math"
	"strconv"
)

// wide is where 7 significant digits and 3 decimals are the same.
const wide = 10_000

// Round rounds a value to decimals. Where they are less than 0, it keeps 7 significant digits, which are as many as a
// register of 32 bits holds (110.1 comes from it as 110.0999984741211), and at least 3 decimals, so that a totalizer loses
// nothing. It rounds in decimal, so that what is sent is what strconv prints.
func Round(value float64, decimals int) float64 {
	text := ""
	switch {
	case decimals >= 0:
		text = strconv.FormatFloat(value, 'f', decimals, 64)
	case math.Abs(value) < wide:
		text = strconv.FormatFloat(value, 'e', 6, 64)
	default:
		text = strconv.FormatFloat(value, 'f', 3, 64)
	}
	value, _ = strconv.ParseFloat(text, 64)
	return value
}

// Decimals are those of the device's entry for the parameter, or -1.
func (d *Device) Decimals(parameter string) int {
	if m := d.parameters[parameter]; m != nil {
		return m.decimals
	}
	return -1
}
