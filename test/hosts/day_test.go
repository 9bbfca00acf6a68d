package hosts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

// TestTheDemosDayThroughTheExporterAlone removes the processor from the pipeline of examples/collector. The exporter makes the
// same slots, and the plant's check finds every value of the day right.
func TestTheDemosDayThroughTheExporterAlone(t *testing.T) {
	binary, dir := board.Built(t, "OCEMS_COLLECTOR"), t.TempDir()
	plant := filepath.Join(dir, "plant")
	out, err := exec.Command("go", "build", "-o", plant, "../plant").CombinedOutput()
	require.NoError(t, err, "%s", out)
	registry, err := simulator.LoadRegistry("../../examples/collector/registry.yaml")
	require.NoError(t, err)
	b := board.New(t, registry.Stations...)
	config := board.Config(t, "../../examples/collector/config.yaml", dir, "      processors: [ocems_slot]\n", "",
		"    devices: *devices\n", "    devices: *devices\n    grace: 2s\n    spread: 0s\n")

	otlp, health := loopback.Addr(t), loopback.Addr(t)
	_, otlpPort, _ := strings.Cut(otlp, ":")
	_, healthPort, _ := strings.Cut(health, ":")
	variables := []string{"OCEMS_OTLP_PORT=" + otlpPort, "OCEMS_HEALTH_PORT=" + healthPort, "OCEMS_STATE=" + dir,
		"OCEMS_PUBLIC_KEY_FILE=" + b.PublicKey, "OCEMS_ENDPOINT=" + b.URL}
	for _, s := range registry.Stations {
		for _, d := range s.Devices {
			name := map[string]string{"etp_dev_1": "ETP", "stack_dev_1": "STACK_1", "stack_dev_2": "STACK_2"}[d.ID]
			variables = append(variables, "OCEMS_TOKEN_"+name+"="+d.Token)
		}
	}
	if left := time.Until(time.Now().Truncate(15 * time.Minute).Add(15 * time.Minute)); left < 5*time.Second {
		time.Sleep(left) // a slot that ends during the test would be missing
	}
	board.Start(t, dir, variables, binary, "--config", config)
	board.Listens(t, otlp)
	judge := exec.Command(plant, "-otlp", "http://"+otlp+"/v1/metrics", "-received", strings.TrimSuffix(b.URL, board.Path)+"/received", "-live", "0s", "-deadline", "50s")
	judge.Env = os.Environ()
	said, err := judge.CombinedOutput()
	require.NoError(t, err, "%s", said)
	t.Logf("%s", said)
}
