package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ocems-io/ocems/ocems/audit"
)

// Worker is one of the two Telegrafs of a partition.
type Worker struct {
	process
	disk      // for its state
	Partition int
}

func newWorker(c *Cluster, partition int, id string, variables []string) (*Worker, error) {
	w := &Worker{process: process{name: fmt.Sprintf("worker-%d-%s", partition, id), dir: c.Dir}, Partition: partition}
	w.path = filepath.Join(c.Dir, w.name)
	if _, err := c.Network.join(&w.process); err != nil {
		return nil, err
	}
	w.argv = []string{filepath.Join(c.Root, "examples/cluster/worker.sh")}
	w.env = append(c.environment(), append(variables, fmt.Sprintf("OCEMS_PARTITION=%d", partition), "OCEMS_WORKER="+id, "OCEMS_STATE="+w.path, "OCEMS_ENDPOINT="+c.Board.of(w.name))...)
	return w, c.authority.issue(w.name)
}

// Outcomes counts, from a worker's trail, the readings by outcome and the samples that came too late.
type Outcomes struct{ Delivered, Stored, Late int }

// Outcomes reads the trail while the worker may write it.
func (w *Worker) Outcomes() (o Outcomes, err error) {
	f, err := os.Open(filepath.Join(w.path, "audit.jsonl"))
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
			continue // the worker is writing this line
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
