//go:build !(linux && amd64)

package main

import (
	"os/exec"
	"time"
)

// clock is the machine's own: how another machine's code is changed is not known here.
type clock struct{}

func startWithClock(c *exec.Cmd, _ time.Duration) (*clock, error) { return &clock{}, c.Start() }

func (*clock) set(time.Duration) {}

func (*clock) close() {}
