//go:build !linux

package clock

import "time"

// KernelBoot is unknown on this system.
func KernelBoot() (id string, since time.Duration) { return "", 0 }
