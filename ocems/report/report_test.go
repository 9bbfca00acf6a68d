package report_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/report"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	benchDays       = 90
	benchParameters = 10
)

// trail is days of 10 parameters of one device, with a line for each slot or for each reading of it.
func trail(tb testing.TB, days int, lineAReading bool) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "audit.jsonl")
	file, err := audit.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	var list []audit.Entry
	status := 1
	for i := range days * 96 {
		stamp := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST).Add(time.Duration(i) * spec.SlotLength)
		e := audit.Entry{Time: stamp.Add(12 * time.Second), Outcome: audit.Delivered, Station: "station_1", Device: "dev_1", Stamp: stamp.UnixMilli(), Status: &status}
		for p := range benchParameters {
			e.Readings = append(e.Readings, audit.Reading{Parameter: fmt.Sprintf("parameter_%d", p), Value: float64(i+p) / 8, Unit: "mg/L", Flag: "U"})
		}
		if !lineAReading {
			list = append(list, e)
			continue
		}
		for _, r := range e.Readings {
			e.Readings = []audit.Reading{r}
			list = append(list, e)
		}
	}
	if err := file.Append(list...); err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func read(tb testing.TB, text []byte, o report.Options) *report.Report {
	tb.Helper()
	b, err := report.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.Add("audit.jsonl", bytes.NewReader(text)); err != nil {
		tb.Fatal(err)
	}
	r, err := b.Report()
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func BenchmarkReport(b *testing.B) {
	for _, lines := range []string{"reading", "slot"} {
		text := trail(b, benchDays, lines == "reading")
		count := bytes.Count(text, []byte("\n"))
		for name, write := range map[string]func(*report.Report, io.Writer) error{"text": (*report.Report).Text, "html": (*report.Report).HTML} {
			b.Run("a line a "+lines+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if err := write(read(b, text, report.Options{Readings: name == "html"}), io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}

// Slots that several trails tell of count once.
func TestSlotsCountOnce(t *testing.T) {
	b, err := report.New(report.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const days = 3
	text := trail(t, days, false)
	for range 3 {
		if err := b.Add("audit.jsonl", bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Report()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Devices[0].Parameters {
		if p.Expected != days*96 || p.Delivered != p.Expected || *p.Share != 100 || p.LongestGap != nil {
			t.Errorf("%+v", p)
		}
	}
}

// failing is a disk that breaks.
type failing struct{ *bytes.Reader }

func (f failing) Read(p []byte) (int, error) {
	if f.Len() < 1000 {
		return 0, io.ErrUnexpectedEOF
	}
	return f.Reader.Read(p[:min(len(p), 500)])
}

func TestErrorOfReadingIsNoAlteredTrail(t *testing.T) {
	b, err := report.New(report.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add("audit.jsonl", failing{bytes.NewReader(trail(t, 1, false))}); err == nil {
		t.Error("the error is lost")
	}
}

// A name in an altered trail is no formula in a spreadsheet, and a number stays one.
func TestCellsAreNoFormulas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{"=1+1": "'=1+1", "+cmd|' /C calc'!A0": "'+cmd|' /C calc'!A0", "-2+3": "'-2+3", "@SUM(A1)": "'@SUM(A1)", "\tx": "'\tx", "\rx": "'\rx", "-1.5": "-1.5", "dev=1": "dev=1"}
	for name := range names {
		err := a.Append(audit.Entry{Outcome: audit.Delivered, Station: name, Device: name, Stamp: 1795521600000, Readings: []audit.Reading{{Parameter: name, Unit: name, Flag: "U"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := report.New(report.Options{})
	if err == nil {
		err = b.Add("audit.jsonl", bytes.NewReader(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Report()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.CSV(&out); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(lines) != len(names)+1 {
		t.Fatal(len(lines), err)
	}
	for name, want := range names {
		if !slices.ContainsFunc(lines, func(l []string) bool { return l[0] == want && l[1] == want && l[2] == want && l[4] == want }) {
			t.Errorf("no line of %q as %q", name, want)
		}
	}
}
