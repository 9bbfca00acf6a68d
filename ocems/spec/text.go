package spec

import (
	"fmt"
	"time"
)

// ISTString formats a time in IST for the plant.
func ISTString(t time.Time) string { return t.In(IST).Format("2006-01-02 15:04:05.999 IST") }

// Counted is a number with its noun in singular or plural.
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
