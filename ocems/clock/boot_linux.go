package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KernelBoot returns the kernel's id of the current boot, and the time since boot, suspend included.
func KernelBoot() (id string, since time.Duration) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var at unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &at) != nil {
		return "", 0
	}
	return strings.TrimSpace(string(text)), time.Duration(at.Nano())
}
