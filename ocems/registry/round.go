package registry

import (
	"math"
	"strconv"
)

// From wide on, 3 decimals are more than 7 significant digits.
const wide = 10_000

// Round rounds a value to decimals. If decimals is less than 0, it keeps 7 significant digits and at least 3 decimals. A
// 32-bit register holds 7 digits (110.1 is read as 110.0999984741211), and with 3 decimals a totalizer loses nothing. It
// rounds in decimal, so that the payload has the digits that strconv prints.
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

// Decimals returns the decimals of the device's entry for the parameter, or -1.
func (d *Device) Decimals(parameter string) int {
	if m := d.parameters[parameter]; m != nil {
		return m.decimals
	}
	return -1
}
