// Package intake measures the cost of accepting readings. It compares each host, in the same run, with a component that its
// users know: make bench-intake.
package intake
