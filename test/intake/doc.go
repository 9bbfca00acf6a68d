// Package intake measures what it costs to take readings, each host beside what its users run otherwise, in one run: make
// bench-intake.
package intake
