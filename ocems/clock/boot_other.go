//go:build !linux

package clock

import "time"

// KernelBoot knows nothing here.
func KernelBoot() (id string, since time.Duration) { return "", 0 }
