package ocemsexporter

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ocems-io/ocems/ocems/audit"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func requireGolden(t *testing.T, path, got string) {
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// TestGolden has one folder per case: the exporter's config.yaml, its input metrics.json, and the result want.json. The
// result has the payloads that the server decrypted, by device in the order of arrival, and the readings in no slot.
func TestGolden(t *testing.T) {
	folders, err := filepath.Glob("testdata/golden/*/config.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, path := range folders {
		folder := filepath.Dir(path)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			withBoard(t, func(t *testing.T, b *board) {
				conf, err := confmaptest.LoadConf(path)
				require.NoError(t, err)
				text, err := os.ReadFile(filepath.Join(folder, "metrics.json"))
				require.NoError(t, err)
				md, err := new(pmetric.JSONUnmarshaler).UnmarshalMetrics(text)
				require.NoError(t, err)
				e, err := b.try(conf)
				require.NoError(t, err)
				b.consume(e, md)
				pass(17 * time.Minute)
				require.Zero(t, b.number("outbox_slots"))
				require.Zero(t, b.number("pending_slots"))
				requests := b.asked()
				require.Len(t, requests, int(b.number("attempts")))
				require.Empty(t, b.trail(audit.Rejected, audit.Expired, audit.AlreadyStored))

				slices.SortStableFunc(requests, func(x, y request) int { return cmp.Compare(x.device, y.device) })
				var payloads, refused []string
				for _, r := range requests {
					payloads = append(payloads, r.payload) // compared byte by byte
				}
				for _, x := range b.trail(audit.Refused, audit.Late) {
					refused = append(refused, line(t, x))
				}
				requireGolden(t, filepath.Join(folder, "want.json"), fmt.Sprintf("{\n\"payloads\": [%s],\n\"refused\": [%s],\n\"ignored\": %d\n}\n",
					lines(payloads), lines(refused), b.number("ignored_points")))
			})
		})
	}
}

// line returns an entry of the trail without its position.
func line(t *testing.T, x audit.Entry) string {
	text, err := json.Marshal(struct {
		Device   string          `json:"device"`
		Stamp    time.Time       `json:"stamp"`
		Readings []audit.Reading `json:"readings,omitempty"`
		Reason   string          `json:"reason"`
		Count    int             `json:"count"`
		Detail   string          `json:"detail"`
	}{x.Device, time.UnixMilli(x.Stamp).UTC(), x.Readings, x.Reason, x.Count, x.Detail})
	require.NoError(t, err)
	return string(text)
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "\n  " + strings.Join(list, ",\n  ") + "\n"
}
