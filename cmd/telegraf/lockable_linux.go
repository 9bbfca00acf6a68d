package main

import (
	"log"

	"golang.org/x/sys/unix"
)

// lockable is how many bytes the system lets a process keep out of the swap.
func lockable() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		log.Printf("E! Cannot get limit for locked memory: %v", err)
		return 0
	}
	return limit.Max
}
