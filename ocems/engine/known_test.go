package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/store"
)

// A cached reading has the same meaning as naming it again, whatever its sender sends, in any order, and after each
// change of the devices. Readings of no parameter are not cached.
func TestKnownIsAsNamedAnew(t *testing.T) {
	list := filepath.Join(t.TempDir(), "devices.yaml")
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	configure := func() {
		var text strings.Builder
		text.WriteString("devices:\n")
		for i := range 2 + r.IntN(2) {
			fmt.Fprintf(&text, "  - station_id: s\n    device_id: d%d\n    timestamps: %s\n", i, pick("auto", "source"))
			if i == 0 {
				continue
			}
			text.WriteString("    parameters:\n")
			for _, p := range []string{"cod", "bod", "ph"}[:1+r.IntN(3)] {
				fmt.Fprintf(&text, "      - {metric: %s, parameter: %s, diagnostic: %t, attributes: {line: '%d'%s}", pick("cod", "m"), p, r.IntN(4) == 0, i, pick("", ", kind: a"))
				text.WriteString(pick("", ", unit: mg/L") + pick("", ", statistic: max") + "}\n")
			}
		}
		require.NoError(t, os.WriteFile(list, []byte(text.String()), 0o600))
		long := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(list, long, long))
	}
	configure()
	e, err := Open(t.Context(), Config{
		Slots: options.DefaultSlots(), Store: store.NewMemory(), Logger: slog.New(slog.DiscardHandler),
		Names: registry.Config{DevicesFile: list, Words: registry.Collector, NamesOnly: true},
		Next:  func(context.Context, uint8, []slot.Slot) error { return nil },
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close(context.Background())) }()

	// reading makes a reading and its two keys.
	reading := func() (x Reading, metric, point string) {
		attributes := map[string]string{}
		for key, values := range map[string][]string{"ocems.device.id": {"d0", "d1", "d2", "d9"}, "ocems.flag": {"U", "C", "X"}, "ocems.unit": {"mg/L", "pH", "furlong"},
			"line": {"1", "2", "3"}, "kind": {"a", "b"}, "other": {"x", "y"}} {
			if r.IntN(3) == 0 {
				attributes[key] = pick(values...)
			}
		}
		x.Name, x.Unit, x.Statistic = pick("cod", "m", "foreign"), pick("", "mg/L", "ug/L", "nothing"), slot.Statistic(r.IntN(2))
		x.Attr = func(key string) (string, bool) { v, ok := attributes[key]; return v, ok }
		for key, value := range attributes {
			x.Source.ID += SourcePart(key, value)
		}
		x.Time, x.Value, x.Exit = time.Now().Add(time.Duration(r.IntN(7200)-7200)*time.Second), r.Float64(), uint8(r.IntN(3))
		x.Fault = pick("", "", "no number")
		return x, fmt.Sprint(x.Name, "\x00", x.Unit, "\x00", x.Statistic), fmt.Sprint(attributes)
	}
	type said struct {
		Reading
		metric, point string
	}
	hits, reloads := 0, 0
	var all []said
	for round := range 2000 {
		if round%50 == 49 {
			configure()
			for range 3 {
				changed, err := e.names.Reload(t.Context())
				require.NoError(t, err)
				if changed {
					reloads++
				}
			}
		}
		batch := all
		if round%5 == 0 {
			batch = nil
			for range r.IntN(60) {
				x, metric, point := reading()
				batch = append(batch, said{x, metric, point})
			}
			all = batch
		}
		if round%7 == 6 {
			slices.SortFunc(batch, func(a, b said) int { return strings.Compare(a.metric, b.metric) })
		}
		anew, known := e.NewBatch(), e.NewBatch()
		known.take.moment = anew.take.moment
		var names []bool
		for _, x := range batch {
			names = append(names, anew.Add(x.Reading))
		}
		known.Fill(func() {
			for i, x := range batch {
				if i == 0 || batch[i-1].metric != x.metric {
					known.Metric([]byte(x.metric))
				}
				if known.points[x.point] != nil {
					hits++
				}
				named := known.AddAs([]byte(x.point), x.Time, x.Value, x.Fault, x.Exit, func() Reading { return x.Reading })
				require.Equal(t, names[i], named)
			}
		})
		require.Equal(t, anew.ignored, known.ignored)
		require.Len(t, known.samples, len(anew.samples))
		for i := range anew.samples {
			a, b := anew.samples[i], known.samples[i]
			require.Equal(t, *a.head, *b.head)
			a.head, b.head = nil, nil
			require.Equal(t, a, b)
		}
		require.LessOrEqual(t, e.known.entries, most(e.names))
	}
	require.Greater(t, hits, 1000)
	require.Greater(t, reloads, 5)
	for range 3 * most(e.names) { // a sender with new attributes each time
		b := e.NewBatch()
		b.Fill(func() {
			b.Metric([]byte(fmt.Sprint(r.Uint64())))
			b.AddAs(nil, time.Now(), 1, "", 0, func() Reading {
				return Reading{Metric: registry.Metric{Name: "cod", Unit: "mg/L", Attr: func(key string) (string, bool) { return "d0", key == "ocems.device.id" }}}
			})
		})
	}
	require.LessOrEqual(t, e.known.entries, most(e.names))
	require.LessOrEqual(t, len(e.known.metrics), most(e.names))
}
