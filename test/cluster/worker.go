package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Worker is one of the two Telegrafs of a partition.
type Worker struct {
	process
	Partition int
	State     string // its directory
}

func newWorker(c *Cluster, partition int, id string, variables []string) (*Worker, error) {
	w := &Worker{process: process{name: fmt.Sprintf("worker-%d-%s", partition, id), dir: c.Dir}, Partition: partition}
	w.State = filepath.Join(c.Dir, w.name)
	w.argv = []string{filepath.Join(c.Root, "examples/cluster/worker.sh")}
	w.env = append(c.environment(), append(variables, fmt.Sprintf("OCEMS_PARTITION=%d", partition), "OCEMS_WORKER="+id, "OCEMS_STATE="+w.State)...)
	return w, c.authority.issue(w.name)
}

// Start starts it by worker.sh.
func (w *Worker) Start() error { return w.start() }

// Wipe takes its disk. It must not run.
func (w *Worker) Wipe() error { return os.RemoveAll(w.State) }

// Outcomes counts readings by what became of them, as its trail says.
func (w *Worker) Outcomes() (map[string]int, error) {
	counts := map[string]int{}
	f, err := os.Open(filepath.Join(w.State, "audit.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return counts, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), `"outcome":"`); ok {
			outcome, _, _ := strings.Cut(rest, `"`)
			counts[outcome]++
		}
	}
	return counts, lines.Err()
}
