package ocemsslotprocessor

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/ocems/audit"
)

func TestWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		p := startLogged(t, componenttest.NewNopHost(), consumertest.NewNop(), nil, zap.New(core))
		warnings := func() (out []string) {
			for _, l := range logs.TakeAll() {
				f := l.ContextMap()
				out = append(out, fmt.Sprintf("%s: %s (%v)", f["reason"], f["series"], f["flag"]))
			}
			return out
		}
		logs.TakeAll() // no storage
		send := func(name string, value float64, flag string) {
			require.NoError(t, p.ConsumeMetrics(t.Context(), gauge(name, value, flag)))
		}
		const series = "map[a:1 b:2 ocems.device.id:D1] "
		const cause = `(unknown flag "X"`
		for range 59 {
			send("cod", 1, "X")
			time.Sleep(time.Second)
		}
		got := warnings()
		require.Len(t, got, 1, "one a minute")
		require.Contains(t, got[0], "bad_flag: cod "+series+cause)
		send("cod", math.NaN(), "")
		send("bod", math.NaN(), "")
		require.Equal(t, []string{"not_a_number: cod " + series + "(<nil>)", "not_a_number: bod " + series + "(<nil>)"}, warnings(),
			"each reason and each series has its own")
		time.Sleep(time.Second)
		send("cod", 1, "X")
		send("cod", 1, "X")
		send("cod", math.NaN(), "")
		require.Len(t, warnings(), 1, "the minute of the first is over, that of the others is not")
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func badFlags(n int, prefix string) pmetric.Metrics {
	md := manySeries(n, 0)
	m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0)
	m.SetName(prefix)
	for _, dp := range m.Gauge().DataPoints().All() {
		dp.Attributes().PutStr("ocems.flag", "X")
	}
	return md
}

func TestFloodOfRefusalsTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		p := startLogged(t, componenttest.NewNopHost(), consumertest.NewNop(), func(c *Config) { c.AuditFile = path }, zap.New(core))
		logs.TakeAll() // no storage
		const flood, again = maxRefusals + 2000, maxWarned + 500
		names := func(name string) (n int) {
			for _, l := range logs.All() {
				if series, _ := l.ContextMap()["series"].(string); strings.HasPrefix(series, name) {
					n++
				}
			}
			return n
		}
		held := func() (warned, counts int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.refusals.warned), len(p.refusals.counts)
		}

		require.NoError(t, p.ConsumeMetrics(t.Context(), badFlags(flood, "first")))
		require.Equal(t, maxWarned, names("first"))
		require.Equal(t, 1, names("further series"), "the silence about the others is no secret")
		warned, counts := held()
		require.Equal(t, maxWarned+1, warned)
		require.Equal(t, maxRefusals+1, counts)

		time.Sleep(30 * time.Second)
		require.NoError(t, p.ConsumeMetrics(t.Context(), badFlags(again, "second")))
		require.Zero(t, names("second"))
		require.Equal(t, 1, names("further series"))
		warned, _ = held()
		require.Equal(t, maxWarned+1, warned)

		time.Sleep(warnEvery)
		require.NoError(t, p.ConsumeMetrics(t.Context(), badFlags(again, "third")))
		require.Equal(t, maxWarned, names("third"), "those of before have left")
		require.Equal(t, 2, names("further series"))
		warned, _ = held()
		require.Equal(t, maxWarned+1, warned)
		require.NoError(t, p.Shutdown(t.Context()))

		total, rest := 0, 0
		for _, e := range entriesOf(t, path) {
			var n int
			_, err := fmt.Sscanf(e.Detail, "%d samples of", &n)
			require.NoError(t, err)
			total += n
			if e.Detail == "2000 samples of further series: bad_flag" {
				rest++
			}
		}
		require.Equal(t, flood+2*again, total, "each sample is counted in the trail, named or not")
		require.Equal(t, 1, rest)
	})
}

// The trail names the slot that a sample would have been in, by the stamp that the slot has.
func TestStampOfLateSample(t *testing.T) {
	for stamp, want := range map[string]time.Duration{"start": 0, "end": 15 * time.Minute} {
		t.Run(stamp, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "audit.jsonl")
				p := start(t, componenttest.NewNopHost(), consumertest.NewNop(), func(c *Config) { c.AuditFile, c.Stamp = path, stamp })
				began := time.Now()
				time.Sleep(time.Minute)
				late := gauge("cod", 5, "")
				require.NoError(t, p.ConsumeMetrics(t.Context(), gauge("cod", 1, "")))
				time.Sleep(15 * time.Minute)
				require.NoError(t, p.ConsumeMetrics(t.Context(), late))
				require.NoError(t, p.Shutdown(t.Context()))
				entries := entriesOf(t, path)
				require.Len(t, entries, 1)
				require.Equal(t, audit.Late, entries[0].Outcome)
				require.Equal(t, began.Add(want).UnixMilli(), entries[0].Stamp)
				require.Equal(t, "1 samples of cod map[a:1 b:2 ocems.device.id:D1]: late", entries[0].Detail)
			})
		})
	}
}
