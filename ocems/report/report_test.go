package report_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
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
func trail(tb testing.TB, days int, lineAReading bool) (path string) {
	tb.Helper()
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
	path = filepath.Join(tb.TempDir(), "audit.jsonl")
	write(tb, path, list)
	return path
}

// write appends to a trail, each list to a file of its own.
func write(tb testing.TB, path string, lists ...[]audit.Entry) {
	tb.Helper()
	t, err := audit.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer t.Close()
	for i, list := range lists {
		if i > 0 {
			t.Rotate(audit.Rotation{Size: 1, Failed: func(err error) { tb.Error(err) }})
			for raw := true; raw; time.Sleep(time.Millisecond) {
				if err := t.Check(); err != nil {
					tb.Fatal(err)
				}
				text, _ := os.ReadFile(path)
				closed, _ := filepath.Glob(path + ".0*")
				raw = bytes.Count(text, []byte("\n")) > 1 || len(closed) < i || slices.ContainsFunc(closed, func(s string) bool { return filepath.Ext(s) != ".zst" })
			}
			t.Rotate(audit.Rotation{})
		}
		if err := t.Append(list...); err != nil {
			tb.Fatal(err)
		}
	}
}

func read(tb testing.TB, path string, o report.Options) *report.Report {
	tb.Helper()
	b, err := report.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	files, err := audit.Files(path)
	if err == nil {
		err = b.Add([][]string{files}, nil)
	}
	if err != nil {
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
		path := trail(b, benchDays, lines == "reading")
		text, _ := os.ReadFile(path)
		count := bytes.Count(text, []byte("\n"))
		for name, write := range map[string]func(*report.Report, io.Writer) error{"text": (*report.Report).Text, "html": (*report.Report).HTML} {
			b.Run("a line a "+lines+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if err := write(read(b, path, report.Options{Readings: name == "html"}), io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}

// A month of 20,000 devices takes less than a minute on 2 cores. It is measured with a twentieth of the devices, in files of
// as many slots as there: the time is in proportion, since each file is read on its own.
func BenchmarkMonthOfAHub(b *testing.B) {
	const devices, of, days = 1000, 20_000, 30
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	var lists [][]audit.Entry
	status := 1
	for d := range days {
		var list []audit.Entry
		for i := range 96 {
			stamp := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST).Add(time.Duration(96*d+i+1) * spec.SlotLength)
			for n := range devices {
				e := audit.Entry{Time: stamp.Add(12 * time.Second), Outcome: audit.Delivered, Station: fmt.Sprintf("station_%d", n/2), Device: fmt.Sprintf("device_%05d", n),
					Stamp: stamp.UnixMilli(), Status: &status}
				for p := range 7 {
					e.Readings = append(e.Readings, audit.Reading{Parameter: fmt.Sprintf("parameter_%d", p), Value: float64(i+p+n%17) / 8, Unit: "mg/L", Flag: "U"})
				}
				if rand.IntN(500) > 0 {
					list = append(list, e)
				}
			}
		}
		lists = append(lists, list[:len(list)/2], list[len(list)/2:])
	}
	write(b, path, append(lists, nil)...)
	lists = nil
	runtime.GC()
	for name, write := range map[string]func(*report.Report) error{
		"text": func(r *report.Report) error { return r.Text(io.Discard) },
		"csv":  func(r *report.Report) error { return r.CSV(io.Discard) },
		"html": func(r *report.Report) error { return r.Site(filepath.Join(b.TempDir(), "report.html"), nil) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := write(read(b, path, report.Options{})); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*of/devices, "s/month")
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/1e6, "MB")
		})
	}
}

// Slots that several trails tell of count once.
func TestSlotsCountOnce(t *testing.T) {
	b, err := report.New(report.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const days = 3
	path := trail(t, days, false)
	if err := b.Add([][]string{{path}, {path}, {path}}, nil); err != nil {
		t.Fatal(err)
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

func TestErrorOfReadingIsNoAlteredTrail(t *testing.T) {
	b, err := report.New(report.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add([][]string{{trail(t, 1, false)}, {t.TempDir()}}, nil); err == nil { // a folder cannot be read
		t.Error("the error is lost")
	}
}

// random is a trail with all that may be in one.
func random(n int) (list []audit.Entry) {
	pick := func(of ...string) string { return of[rand.IntN(len(of))] }
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST)
	for range n {
		stamp := day.Add(time.Duration(rand.IntN(400)-50) * spec.SlotLength)
		e := audit.Entry{Time: stamp.Add(time.Minute), Device: pick("a", "b", "c", ""), Station: pick("s", "t", ""), Stamp: stamp.UnixMilli(),
			Outcome: audit.Outcome(pick("delivered", "delivered", "delivered", "already_stored", "rejected", "expired", "late", "refused", "recovered", "started", "stopped", "unknown"))}
		for range rand.IntN(4) {
			e.Readings = append(e.Readings, audit.Reading{Parameter: pick("cod", "bod", "ph"), Value: rand.Float64(), Unit: pick("mg/L", "pH", ""),
				Flag: pick("U", "U", "U", "M", "", "C", "Z"), Diagnostic: rand.IntN(5) == 0})
		}
		switch rand.IntN(12) {
		case 0: // a calibration
			e.Readings = []audit.Reading{{Parameter: "cod", Value: rand.Float64(), Flag: pick("C", "Z"), Unit: "mg/L"}}
			for k := range 30 {
				e.Stamp = stamp.Add(time.Duration(k) * spec.CalibrationLength).UnixMilli()
				list = append(list, e)
			}
		case 1:
			e.Stamp += rand.Int64N(1000)
		case 2:
			e.Stamp = []int64{0, -1, 1 << 60, -1 << 60}[rand.IntN(4)]
		case 3:
			e.Parameter, e.Count, e.Reason = pick("cod", "tss", ""), rand.IntN(9), pick("", "late", "below_valid_min")
		}
		list = append(list, e)
	}
	return list
}

// What the sums of closed files say is what their lines say.
func TestSumsSayWhatLinesSay(t *testing.T) {
	for range 15 {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		var lists [][]audit.Entry
		for range 1 + rand.IntN(4) {
			lists = append(lists, random(1+rand.IntN(300)))
		}
		write(t, path, lists...)
		at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, spec.IST) }
		for _, o := range []report.Options{
			{From: at(-9), To: at(9)}, {From: at(2), To: at(3)}, {From: at(3), To: at(3), Stamp: "start"}, {From: at(-3), To: at(9), Device: "b"}, {From: at(20), To: at(21)},
		} {
			var texts [2]string
			for i, verify := range []bool{false, true} {
				o.Verify = verify
				b, err := report.New(o)
				if err != nil {
					t.Fatal(err)
				}
				files, err := audit.Files(path)
				if err == nil {
					err = b.Add([][]string{files}, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				r, err := b.Report()
				if err != nil {
					texts[i] = err.Error()
					continue
				}
				for k := range r.Trails {
					x := &r.Trails[k]
					if x.Fault != "" || x.Summed != (!verify && k < len(r.Trails)-1) {
						t.Fatalf("%+v", x)
					}
					x.Summed, x.Verified = false, 0
				}
				var out bytes.Buffer
				if err := errors.Join(r.JSON(&out), r.CSV(&out), r.HTML(&out)); err != nil {
					t.Fatal(err)
				}
				texts[i] = out.String()
			}
			if texts[0] != texts[1] {
				for i, line := range strings.Split(texts[0], "\n") {
					if other := strings.Split(texts[1], "\n"); i >= len(other) || other[i] != line {
						t.Fatalf("%+v: sums say in line %d %s, lines %s", o, i, line, other[min(i, len(other)-1)])
					}
				}
			}
		}
	}
}

// What is wrong between the files of a trail is said of the file that shows it, and what does not hang on it stays verified.
func TestFaultsOfASet(t *testing.T) {
	slot := func(n int) []audit.Entry {
		stamp := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST).Add(time.Duration(n) * spec.SlotLength)
		return []audit.Entry{{Time: stamp, Outcome: audit.Delivered, Device: "d", Stamp: stamp.UnixMilli(), Readings: []audit.Reading{{Parameter: "cod", Unit: "mg/L", Flag: "U"}}}}
	}
	for name, c := range map[string]struct {
		do         func(files []string, current string) error
		faults     []string // of the files
		verified   int      // slots of 4
		delivered  int
		linesAhead uint64
	}{
		"whole":          {func([]string, string) error { return nil }, []string{"", "", "", ""}, 4, 4, 0},
		"first archived": {func(f []string, _ string) error { return os.Remove(f[0]) }, []string{"", "", ""}, 3, 3, 3},
		"middle missing": {func(f []string, _ string) error { return os.Remove(f[1]) }, []string{"", "lines 4 to 7 of the trail are missing: a file between", ""}, 3, 3, 0},
		"of another": {func(f []string, _ string) error {
			text, err := os.ReadFile(f[0])
			if err != nil {
				return err
			}
			return os.WriteFile(f[1], text, 0o600)
		}, []string{"", "it does not go on from the last line of", "lines 4 to 7", ""}, 3, 3, 0},
		"damaged": {func(f []string, _ string) error {
			text, err := os.ReadFile(f[1])
			if err != nil {
				return err
			}
			text[70] ^= 1
			return os.WriteFile(f[1], text, 0o600)
		}, []string{"", "cannot be read", "", ""}, 3, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			write(t, path, slot(1), slot(2), slot(3), slot(4))
			files, err := audit.Files(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.do(files, path); err != nil {
				t.Fatal(err)
			}
			r := read(t, path, report.Options{})
			for i, x := range r.Trails {
				if i >= len(c.faults) || (c.faults[i] == "") != (x.Fault == "") || !strings.Contains(x.Fault, c.faults[i]) {
					t.Errorf("file %d: %+v, want %q", i, x, c.faults[i])
				}
			}
			p := r.Devices[0].Parameters[0]
			if p.Delivered-p.Unverified != c.verified || p.Delivered != c.delivered || r.Trails[0].Before != c.linesAhead {
				t.Errorf("%+v %+v", p, r.Trails[0])
			}
		})
	}
}

// An index has a page for each of many devices, whatever they are called.
func TestSite(t *testing.T) {
	var list []audit.Entry
	names := []string{"dev_1", "DEV_1", "../up", "a/b", "a_b", "<img src=x>", "..", "con"}
	for _, name := range names {
		list = append(list, audit.Entry{Outcome: audit.Delivered, Device: name, Stamp: 1795521600000, Readings: []audit.Reading{{Parameter: "cod", Unit: "mg/L", Flag: "U"}}})
	}
	path, dir := filepath.Join(t.TempDir(), "audit.jsonl"), t.TempDir()
	write(t, path, list)
	var pages atomic.Int64
	if err := read(t, path, report.Options{}).Site(filepath.Join(dir, "report.html"), func(int) { pages.Add(1) }); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`<a href="([^"]*)">([^<]*)</a>`).FindAllStringSubmatch(string(index), -1)
	if len(links) != len(names) || int(pages.Load()) != len(names) {
		t.Fatalf("%d links, %d pages in %s", len(links), pages.Load(), index)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "report", "*"))
	if len(files) != len(names) {
		t.Errorf("%v", files)
	}
	for _, l := range links {
		page, err := os.ReadFile(filepath.Join(dir, l[1]))
		if err != nil || !strings.Contains(string(page), ">Device "+l[2]+"<") || !strings.Contains(string(page), `<a href="../report.html">all devices</a>`) {
			t.Errorf("%s: %v", l, err)
		}
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
	r := read(t, path, report.Options{})
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
