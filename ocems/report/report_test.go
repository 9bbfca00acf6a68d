package report_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"html"
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

// trail makes days of 10 parameters of one device, with a line for each slot or for each reading.
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

// write appends to a trail, each list to its own file.
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

// A month of 20,000 devices takes less than a minute on 2 cores. The test measures a twentieth of the devices in files of the
// same size: the time is proportional, since each file is read separately.
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

// A slot in several trails counts once.
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

// random is a trail with every kind of line.
func random(n int) (list []audit.Entry) {
	pick := func(of ...string) string { return of[rand.IntN(len(of))] }
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST)
	for range n {
		stamp := day.Add(time.Duration(rand.IntN(400)-50) * spec.SlotLength)
		e := audit.Entry{Time: stamp.Add(time.Minute), Device: pick("a", "b", "c", ""), Station: pick("s", "t", ""), Stamp: stamp.UnixMilli(),
			Outcome: audit.Outcome(pick("delivered", "delivered", "delivered", "already_stored", "rejected", "expired", "late", "refused", "recovered", "started", "stopped", "unknown", "unreachable", "reachable", "held", "released"))}
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

// The summary lines of a closed file give the same report as all its lines.
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

// A fault between the files of a trail is reported for the file that shows it; lines that do not depend on it stay verified.
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
		}, []string{"", "it does not continue the last line of", "lines 4 to 7", ""}, 3, 3, 0},
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

// An index has a page for each of many devices, whatever their names.
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

// A name in an altered trail does not become a spreadsheet formula, and a number stays a number.
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

// The trail records when the server did not answer and when a device was held. A report has these periods over all files and
// restarts. An answer to a notice has them too, with their lines, beside the slots that they delayed.
func TestOutages(t *testing.T) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST)
	clock := func(hour, minute int) time.Time { return day.Add(time.Duration(60*hour+minute) * time.Minute) }
	line := func(o audit.Outcome, written, since time.Time, attempts int) []audit.Entry {
		e := audit.Entry{Time: written, Outcome: o, Stamp: since.UnixMilli(), Count: attempts, Detail: "no answer: \x1bconnection refused"}
		if status := 102; o == audit.Held || o == audit.Released {
			e.Station, e.Device, e.Status, e.Detail = "s", "d", &status, "status 102"
		}
		return []audit.Entry{e}
	}
	host := func(o audit.Outcome, at, ran time.Time) []audit.Entry {
		e := audit.Entry{Time: at, Outcome: o}
		if !ran.IsZero() {
			e.Stamp = ran.UnixMilli()
		}
		return []audit.Entry{e}
	}
	slots := func(o audit.Outcome, written time.Time, from, to time.Time) (list []audit.Entry) {
		for at := from; !at.After(to); at = at.Add(spec.SlotLength) {
			e := audit.Entry{Time: written, Outcome: o, Station: "s", Device: "d", Stamp: at.UnixMilli(), Readings: []audit.Reading{{Parameter: "cod", Value: float64(at.Unix()), Unit: "mg/L", Flag: "U"}}}
			if written.IsZero() {
				e.Time = at.Add(time.Minute)
			}
			list = append(list, e)
		}
		return list
	}
	whole := slots(audit.Delivered, time.Time{}, clock(0, 0), clock(10, 0))
	const down, held = "The board's server did not answer from 2026-01-01 10:02 to 2026-01-01 ", "The device was held from 2026-01-01 10:02 to 2026-01-01 "
	for _, c := range []struct {
		name  string
		files [][]audit.Entry
		want  string   // of the report
		texts []string // of the findings
	}{
		{"the server, in one file", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0), line(audit.Reachable, clock(13, 40), clock(10, 2), 37),
			slots(audit.Delivered, clock(13, 41), clock(10, 15), clock(13, 30)))}, down + "13:40, 37 attempts: no answer: \ufffdconnection refused.",
			[]string{"delivered late 10:15, 12 slots: audit.jsonl line 42, audit.jsonl line 43"}},
		{"over two files", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0)), line(audit.Reachable, clock(13, 40), clock(10, 2), 37)},
			down + "13:40, 37 attempts", nil},
		{"its beginning is in a file that was not given", [][]audit.Entry{slices.Concat(whole, line(audit.Reachable, clock(13, 40), clock(10, 2), 37))}, down + "13:40, 37 attempts", nil},
		{"stopped meanwhile", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0), host(audit.Stopped, clock(11, 0), time.Time{}))}, down + "11:00: no", nil},
		{"stopped in the next file", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0)), host(audit.Stopped, clock(11, 0), time.Time{})}, down + "11:00: no", nil},
		{"killed meanwhile", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0), host(audit.Started, clock(12, 0), clock(11, 30)))}, down + "11:30: no", nil},
		{"killed, and started in the next file", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0)), slices.Concat(whole[:1], host(audit.Started, clock(12, 0), clock(11, 30)),
			slots(audit.Delivered, clock(12, 1), clock(10, 15), clock(10, 15)))}, down + "11:30: no", []string{"delivered late 10:15, 1 slot: audit.jsonl.000000000001.zst line 42"}},
		{"not over", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0))}, "The board's server does not answer since 2026-01-01 10:02: no", nil},
		{"the device", [][]audit.Entry{slices.Concat(whole, line(audit.Held, clock(10, 7), clock(10, 2), 0)), slices.Concat(line(audit.Released, clock(13, 40), clock(10, 2), 22),
			slots(audit.Expired, clock(13, 41), clock(10, 15), clock(13, 30)), slots(audit.Delivered, time.Time{}, clock(13, 45), clock(13, 45)))}, held + "13:40, 22 attempts: status 102.",
			[]string{"gap 10:15, 14 slots: audit.jsonl.000000000001.zst line 42, audit.jsonl line 46"}},
		{"no slot was late", [][]audit.Entry{slices.Concat(whole, line(audit.Unreachable, clock(10, 7), clock(10, 2), 0), line(audit.Reachable, clock(10, 12), clock(10, 2), 5),
			slots(audit.Delivered, time.Time{}, clock(10, 15), clock(11, 0)), slots(audit.Delivered, time.Time{}, clock(12, 0), clock(12, 0)))}, down + "10:12, 5 attempts", []string{"gap 11:15, 3 slots: none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "audit.jsonl", c.files...)
			for _, verify := range []bool{false, true} {
				o := report.Options{From: day, To: day, Readings: verify, Verify: verify, Now: clock(20, 0)}
				b, err := report.New(o)
				if err != nil {
					t.Fatal(err)
				}
				files, err := audit.Files("audit.jsonl")
				if err == nil {
					err = b.Add([][]string{files}, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				var out, page bytes.Buffer
				if !verify {
					r, err := b.Report()
					if err == nil {
						err = errors.Join(r.Text(&out), r.HTML(&page))
					}
					if err != nil {
						t.Fatal(err)
					}
					if !strings.Contains(out.String(), c.want) || !strings.Contains(html.UnescapeString(page.String()), c.want) || strings.Count(out.String(), "answer from")+strings.Count(out.String(), "answer since")+strings.Count(out.String(), "held from") != 1 {
						t.Errorf("no %q alone in\n%s", c.want, out.String())
					}
					continue
				}
				n, err := b.Notice(8)
				if err == nil {
					err = errors.Join(n.Text(&out), n.HTML(&page))
				}
				if err != nil {
					t.Fatal(err)
				}
				var texts []string
				for _, f := range n.Findings {
					places := "none"
					for _, o := range f.Outages {
						_, places, _ = strings.Cut(o.Proof(), "(")
						if !strings.Contains(out.String(), "  "+o.Proof()+"\n") || !strings.Contains(html.UnescapeString(page.String()), "<p>"+o.Proof()+"</p>") {
							t.Errorf("no %q in\n%s", o.Proof(), out.String())
						}
					}
					if f.Last.Before(clock(15, 0)) { // later slots are missing in all cases
						texts = append(texts, fmt.Sprintf("%s %s, %s: %s", f.Kind, f.First.Format("15:04"), plural(f.Slots), strings.TrimSuffix(places, ")")))
					}
				}
				if c.texts != nil && !slices.Equal(texts, c.texts) {
					t.Errorf("findings %q, want %q", texts, c.texts)
				}
			}
		})
	}
}

func plural(n int) string {
	if n == 1 {
		return "1 slot"
	}
	return fmt.Sprintf("%d slots", n)
}

// An answer to a notice says that the host ran only for times that the trail covers.
func TestNoticeOfATimeBeforeTheTrail(t *testing.T) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST)
	clock := func(hour, minute int) time.Time { return day.Add(time.Duration(60*hour+minute) * time.Minute) }
	slot := func(at time.Time) audit.Entry {
		return audit.Entry{Time: at.Add(time.Minute), Outcome: audit.Delivered, Device: "d", Stamp: at.UnixMilli(), Readings: []audit.Reading{{Parameter: "cod", Unit: "mg/L", Flag: "U"}}}
	}
	started := audit.Entry{Time: clock(10, 7), Outcome: audit.Started}
	for _, c := range []struct {
		stamp string
		lines []audit.Entry
		want  []string
	}{
		{"end", []audit.Entry{started, slot(clock(10, 15)), slot(clock(11, 0))}, []string{"00:00: missing 41, before the first line of the trail", "10:30: missing 2, although the host ran: it got no reading"}},
		{"end", []audit.Entry{started, slot(clock(11, 0))}, []string{"00:00: missing 44, 41 of them before the first line of the trail"}},
		{"start", []audit.Entry{started, slot(clock(10, 0)), slot(clock(10, 30))}, []string{"00:00: missing 40, before the first line of the trail", "10:15: missing 1, although the host ran: it got no reading"}},
	} {
		t.Chdir(t.TempDir())
		write(t, "audit.jsonl", c.lines)
		b, err := report.New(report.Options{From: day, To: day, Readings: true, Verify: true, Stamp: c.stamp, Now: clock(11, 0)})
		if err == nil {
			err = b.Add([][]string{{"audit.jsonl"}}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := b.Notice(8)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range n.Findings {
			if f.First.Before(clock(10, 45)) {
				got = append(got, f.First.Format("15:04")+": "+f.Text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("stamp %s: got %q, want %q", c.stamp, got, c.want)
		}
	}
}
