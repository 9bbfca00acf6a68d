package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestLostWorkerKeepsNoConsumer starts a worker without a state. It must not start with the old consumer, whatever the
// brokers answer, even if its log is on a full disk.
func TestLostWorkerKeepsNoConsumer(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cli := write("nats", `while [ "${1#--}" != "$1" ]; do shift 2; done
case $2 in
rm) [ -z "$REMOVE" ] || { echo "nats: error: $REMOVE" >&2; exit 1; } ;;
*) exit "${ADD:-0}" ;;
esac
`)
	telegraf := write("telegraf", `touch "$OCEMS_STATE/started"`)
	for _, c := range []struct {
		name, remove, add string
		starts            bool
	}{
		{name: "removed", starts: true},
		{name: "there was none", remove: "consumer not found (10014)", starts: true},
		{name: "removed, and not added", add: "1"},
		{name: "there was none, and it is not added", remove: "consumer not found (10014)", add: "1"},
		{name: "brokers cannot answer", remove: "context deadline exceeded"},
		{name: "no stream", remove: "stream not found (10059)"},
	} {
		for _, log := range []string{"/dev/null", "/dev/full"} {
			t.Run(c.name+", log to "+log, func(t *testing.T) {
				state := t.TempDir()
				errors, err := os.OpenFile(log, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer errors.Close()
				cmd := exec.Command("../../examples/cluster/worker.sh")
				cmd.Stderr = errors
				cmd.Env = append(os.Environ(), "OCEMS_NATS_CLI="+cli, "OCEMS_NATS=x", "OCEMS_CERTS=x", "OCEMS_PARTITION=0", "OCEMS_WORKER=a", "OCEMS_STATE="+state,
					"OCEMS_DEVICES_FILE=x", "OCEMS_TELEGRAF="+telegraf, "REMOVE="+c.remove, "ADD="+c.add)
				if err := cmd.Run(); (err == nil) != c.starts {
					t.Errorf("it ended with %v", err)
				}
				if _, err := os.Stat(filepath.Join(state, "started")); (err == nil) != c.starts {
					t.Errorf("started: %v, want %v", err == nil, c.starts)
				}
			})
		}
	}
}
