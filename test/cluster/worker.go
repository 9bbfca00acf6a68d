package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ocems-io/ocems/ocems/audit"
)

// Worker is one of the two Telegrafs of a partition.
type Worker struct {
	process
	Partition int
	State     string // its directory
	mounted   bool   // on it is a disk of its own
}

func newWorker(c *Cluster, partition int, id string, variables []string) (*Worker, error) {
	w := &Worker{process: process{name: fmt.Sprintf("worker-%d-%s", partition, id), dir: c.Dir}, Partition: partition}
	w.State = filepath.Join(c.Dir, w.name)
	w.argv = []string{filepath.Join(c.Root, "examples/cluster/worker.sh")}
	w.env = append(c.environment(), append(variables, fmt.Sprintf("OCEMS_PARTITION=%d", partition), "OCEMS_WORKER="+id, "OCEMS_STATE="+w.State)...)
	return w, c.authority.issue(w.name)
}

// Wipe takes its disk. It must not run.
func (w *Worker) Wipe() error {
	list, err := os.ReadDir(w.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(w.State, e.Name())))
	}
	return err
}

func (w *Worker) ballast() string { return filepath.Join(w.State, "ballast") }

// Fill leaves no room on its disk, which must be one of its own.
func (w *Worker) Fill() error {
	f, err := os.Create(w.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// Free makes room again.
func (w *Worker) Free() error { return os.Remove(w.ballast()) }

// Outcomes are how many readings of slots a worker has an outcome of, as its trail says, and of samples that came too late.
type Outcomes struct{ Delivered, Stored, Late int }

// Outcomes reads the trail, which it may be writing.
func (w *Worker) Outcomes() (o Outcomes, err error) {
	f, err := os.Open(filepath.Join(w.State, "audit.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	} else if err != nil {
		return o, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e audit.Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // it is being written
		}
		switch e.Outcome {
		case audit.Delivered:
			o.Delivered += len(e.Readings)
		case audit.AlreadyStored:
			o.Stored += len(e.Readings)
		case audit.Late:
			o.Late += max(e.Count, 1)
		}
	}
	return o, lines.Err()
}
