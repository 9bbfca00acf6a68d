package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// entry is a line of a trail, written 20 s after its stamp.
func entry(o audit.Outcome, device string, stamp time.Time, rs ...audit.Reading) audit.Entry {
	return audit.Entry{Time: stamp.Add(20 * time.Second), Outcome: o, Station: "station_1", Device: device, Stamp: stamp.UnixMilli(), Readings: rs}
}

// twoDays has every outcome: a gap over midnight, a refused and an expired slot, calibrations of two slots and of a third
// of one, samples that came late, a device that falls silent.
func twoDays() []audit.Entry {
	var list []audit.Entry
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, spec.IST)
	for i := range 192 {
		stamp := day.Add(time.Duration(i) * spec.SlotLength)
		bod := audit.Reading{Parameter: "bod", Value: 12 + float64(i%7)/10, Unit: "mg/L", Flag: "U"}
		cod := audit.Reading{Parameter: "cod", Value: 80 + float64(i%11)/4, Unit: "mg/L", Flag: "U"}
		volt := audit.Reading{Parameter: "voltage", Value: 229.5, Unit: "V", Flag: "U", Diagnostic: true}
		switch {
		case i >= 94 && i < 99:
		case i == 30:
			list = append(list, entry(audit.AlreadyStored, "dev_1", stamp, bod, cod))
		case i == 31:
			list = append(list, entry(audit.Rejected, "dev_1", stamp, cod), entry(audit.Delivered, "dev_1", stamp, bod))
		case i == 33:
			list = append(list, entry(audit.Rejected, "dev_1", stamp, bod, cod))
		case i == 35:
			list = append(list, entry(audit.Expired, "dev_1", stamp, bod, cod))
		case i >= 50 && i < 53:
			for point := range 30 {
				if i == 52 && point >= 10 {
					break
				}
				at := stamp.Add(time.Duration(point-29) * spec.CalibrationLength)
				bod, cod := bod, cod
				bod.Flag, cod.Flag = "Z", "C"
				list = append(list, entry(audit.Delivered, "dev_1", at, bod, cod))
			}
		default:
			if i == 60 {
				cod.Flag = "M"
			}
			list = append(list, entry(audit.Delivered, "dev_1", stamp, bod, cod))
		}
		if i < 120 {
			list = append(list, entry(audit.Delivered, "dev_2", stamp, audit.Reading{Parameter: "ph", Value: 7.2, Unit: "pH", Flag: "U", Samples: 15, Range: [2]float64{7.1, 7.3}}, volt))
		}
		if i == 70 {
			late := entry(audit.Late, "dev_1", stamp, cod)
			late.Parameter, late.Reason, late.Count = "cod", "late", 3
			counted := entry(audit.Late, "dev_1", stamp)
			counted.Parameter, counted.Reason, counted.Count = "bod", "late", 4
			unknown := entry(audit.Refused, "dev_2", stamp)
			unknown.Reason, unknown.Count = "not_a_number", 7
			only := entry(audit.Refused, "dev_2", stamp, audit.Reading{Parameter: "tss", Value: 3, Unit: "ppm"})
			list = append(list, late, counted, unknown, only, audit.Entry{Time: stamp, Outcome: audit.Refused, Stamp: stamp.UnixMilli(), Detail: "no device"})
		}
	}
	return list
}

// trail writes a trail into the working folder.
func trail(t *testing.T, name string, list []audit.Entry) {
	t.Helper()
	file, err := audit.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Append(list...); err != nil {
		t.Fatal(err)
	}
}

// change rewrites a trail with changed lines.
func change(t *testing.T, name string, edit func(lines []string) []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Join(edit(strings.SplitAfter(string(text), "\n")), "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReportGolden(t *testing.T) {
	golden, err := filepath.Abs("testdata/report")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	trail(t, "audit.jsonl", twoDays())
	trail(t, "altered.jsonl", twoDays())
	change(t, "altered.jsonl", func(lines []string) []string {
		lines[200] = strings.Replace(lines[200], `"value":`, `"value":1`, 1)
		return lines
	})
	for _, c := range []struct {
		file string
		code int
		args string
	}{
		{"days.txt", 0, "audit.jsonl"},
		{"days.csv", 0, "--format csv audit.jsonl"},
		{"days.json", 0, "--format json audit.jsonl"},
		{"days.html", 0, "--format html audit.jsonl"},
		{"notice.txt", 0, "--notice --device dev_1 --to 2026-11-20 audit.jsonl"},
		{"notice.html", 0, "--notice --format html --device dev_2 --from 2026-11-21 audit.jsonl"},
		{"altered.txt", 1, "--device dev_1 altered.jsonl"},
		{"altered.html", 1, "--format html --device dev_1 --from 2026-11-20 --to 2026-11-20 altered.jsonl"},
	} {
		t.Run(c.file, func(t *testing.T) {
			code, out, errs := ocems("", append([]string{"report"}, strings.Fields(c.args)...)...)
			if code != c.code || (code == 0) != (errs == "") {
				t.Fatalf("exit %d, want %d: %s", code, c.code, errs)
			}
			out = made.ReplaceAllString(out, "${1}TIME${2}PROGRAM")
			path := filepath.Join(golden, c.file)
			if *update {
				if err := os.MkdirAll(golden, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out != string(want) {
				t.Errorf("differs from %s; it is\n%s", path, out)
			}
		})
	}
}

// made matches the time and the software of a report.
var made = regexp.MustCompile(`(Made |"made": "|,)\d[^,"<\n]*( IST by |",\s*"software": "|,)ocems/[^,"<\n]*`)

// row is the part of a parameter that the table tests check.
type row struct {
	Parameter     string   `json:"parameter"`
	Expected      int      `json:"expected"`
	Delivered     int      `json:"delivered"`
	AlreadyStored int      `json:"already_stored"`
	Rejected      int      `json:"rejected"`
	Expired       int      `json:"expired"`
	Missing       int      `json:"missing"`
	Calibration   int      `json:"calibration"`
	Unverified    int      `json:"unverified"`
	Share         *float64 `json:"delivered_percent"`
	Gap           *struct {
		Slots int `json:"slots"`
	} `json:"longest_gap"`
}

func (r row) String() string {
	share, gap := "none", 0
	if r.Share != nil {
		share = fmt.Sprint(*r.Share)
	}
	if r.Gap != nil {
		gap = r.Gap.Slots
	}
	return fmt.Sprintf("%s %d = %d+%d+%d+%d+%d+%d, unverified %d, %s %%, gap %d", r.Parameter, r.Expected, r.Delivered, r.AlreadyStored, r.Rejected,
		r.Expired, r.Missing, r.Calibration, r.Unverified, share, gap)
}

func TestReportCounts(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, spec.IST)
	cod := func(o audit.Outcome, slots ...int) (list []audit.Entry) {
		for _, n := range slots {
			list = append(list, entry(o, "d", noon.Add(time.Duration(n)*spec.SlotLength), audit.Reading{Parameter: "cod", Value: float64(n), Unit: "mg/L", Flag: "U"}))
		}
		return list
	}
	points := func(shift time.Duration, n int) (list []audit.Entry) {
		for i := range n {
			list = append(list, entry(audit.Delivered, "d", noon.Add(shift+time.Duration(i)*spec.CalibrationLength),
				audit.Reading{Parameter: "cod", Value: 1, Unit: "mg/L", Flag: "C"}))
		}
		return list
	}
	join := func(parts ...[]audit.Entry) (list []audit.Entry) {
		for _, p := range parts {
			list = append(list, p...)
		}
		return list
	}
	type edit = func([]string) []string
	for _, c := range []struct {
		name  string
		files [][]audit.Entry
		edit  edit // of the first file
		flags string
		want  string // of each parameter
		errs  string // exit code 1 if there is one
	}{
		{name: "all delivered", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2)}, want: "cod 3 = 3+0+0+0+0+0, unverified 0, 100 %, gap 0"},
		{name: "a hole is missing", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 5)}, want: "cod 6 = 3+0+0+0+3+0, unverified 0, 50 %, gap 3"},
		{name: "share is rounded down", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2, 4, 5, 6)}, want: "cod 7 = 6+0+0+0+1+0, unverified 0, 85.71 %, gap 1"},
		{name: "the best outcome counts", files: [][]audit.Entry{join(cod(audit.Rejected, 0, 1), cod(audit.AlreadyStored, 0), cod(audit.Delivered, 0))},
			want: "cod 2 = 1+0+1+0+0+0, unverified 0, 50 %, gap 1"},
		{name: "expired", files: [][]audit.Entry{join(cod(audit.Delivered, 0), cod(audit.Expired, 1))}, want: "cod 2 = 1+0+0+1+0+0, unverified 0, 50 %, gap 1"},
		{name: "several files are one report", files: [][]audit.Entry{cod(audit.Delivered, 2, 3), cod(audit.Delivered, 0, 1), cod(audit.AlreadyStored, 3)},
			want: "cod 4 = 4+0+0+0+0+0, unverified 0, 100 %, gap 0"},
		{name: "empty", files: [][]audit.Entry{nil}},
		{name: "empty, with days", files: [][]audit.Entry{nil}, flags: "--from 2026-11-20 --to 2026-11-20"},
		{name: "a silent device is missing", files: [][]audit.Entry{cod(audit.Delivered, 0)}, flags: "--from 2026-11-21 --to 2026-11-21",
			want: "cod 96 = 0+0+0+0+96+0, unverified 0, 0 %, gap 96"},
		{name: "from alone", files: [][]audit.Entry{cod(audit.Delivered, 0)}, flags: "--from 2026-11-20", want: "cod 49 = 1+0+0+0+48+0, unverified 0, 2.04 %, gap 48"},
		{name: "to alone", files: [][]audit.Entry{cod(audit.Delivered, 0)}, flags: "--to 2026-11-20", want: "cod 48 = 1+0+0+0+47+0, unverified 0, 2.08 %, gap 47"},
		{name: "calibration, stamped by its end", files: [][]audit.Entry{join(cod(audit.Delivered, 0, 2), points(30*time.Second, 30))},
			want: "cod 3 = 2+0+0+0+0+1, unverified 0, 100 %, gap 0"},
		{name: "calibration, stamped by its start", files: [][]audit.Entry{join(cod(audit.Delivered, 0, 2), points(15*time.Minute, 30))}, flags: "--stamp start",
			want: "cod 3 = 2+0+0+0+0+1, unverified 0, 100 %, gap 0"},
		{name: "29 points cover no slot", files: [][]audit.Entry{join(cod(audit.Delivered, 0, 2), points(30*time.Second, 29))},
			want: "cod 3 = 2+0+0+0+1+0, unverified 0, 66.66 %, gap 1"},
		{name: "refused points cover no slot", files: [][]audit.Entry{join(cod(audit.Delivered, 0, 2), func() []audit.Entry {
			list := points(30*time.Second, 30)
			list[7].Outcome = audit.Rejected
			return list
		}())}, want: "cod 3 = 2+0+0+0+1+0, unverified 0, 66.66 %, gap 1"},
		{name: "a value altered", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2, 3)},
			edit: func(l []string) []string { l[2] = strings.Replace(l[2], `"value":2`, `"value":9`, 1); return l },
			want: "cod 4 = 4+0+0+0+0+0, unverified 3, 100 %, gap 0", errs: "a0.jsonl: line 3: the line was altered"},
		{name: "a line taken out", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2, 3)},
			edit: func(l []string) []string { return append(l[:1], l[2:]...) },
			want: "cod 4 = 3+0+0+0+1+0, unverified 3, 75 %, gap 1", errs: "a0.jsonl: line 2: the chain is broken"},
		{name: "the beginning cut off", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2, 3)},
			edit: func(l []string) []string { return l[2:] },
			want: "cod 2 = 2+0+0+0+0+0, unverified 2, 100 %, gap 0", errs: "a0.jsonl: line 1: the chain is broken"},
		{name: "cut in a line", files: [][]audit.Entry{cod(audit.Delivered, 0, 1, 2, 3)},
			edit: func(l []string) []string { l[3] = l[3][:40]; return l },
			want: "cod 3 = 3+0+0+0+0+0, unverified 1, 100 %, gap 0", errs: "a0.jsonl: line 4: unfinished"},
		{name: "not a trail", files: [][]audit.Entry{nil, cod(audit.Delivered, 0)},
			edit: func([]string) []string { return []string{"hello\n", "{}\n", "[]"} },
			want: "cod 1 = 1+0+0+0+0+0, unverified 0, 100 %, gap 0", errs: "a0.jsonl: line 1: not an audit line"},
		{name: "another trail vouches for a slot", files: [][]audit.Entry{cod(audit.Delivered, 0), cod(audit.AlreadyStored, 0)},
			edit: func(l []string) []string { l[0] = strings.Replace(l[0], `"value":0`, `"value":9`, 1); return l },
			want: "cod 1 = 0+1+0+0+0+0, unverified 0, 100 %, gap 0", errs: "a0.jsonl: line 1: the line was altered"},
		{name: "senseless stamps", files: [][]audit.Entry{cod(audit.Delivered, 0)},
			edit: func(l []string) []string {
				for _, stamp := range []string{"-9223372036854775808", "9223372036854775807", "-1"} {
					for _, flag := range []string{"U", "C"} {
						l = append(l, `{"n":1,"outcome":"delivered","device":"d","stamp":`+stamp+`,"readings":[{"parameter":"cod","flag":"`+flag+`"}]}`+"\n")
					}
				}
				return l
			},
			want: "cod 1 = 1+0+0+0+0+0, unverified 1, 100 %, gap 0", errs: "a0.jsonl: line 2: the chain is broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			args := append([]string{"report", "--format", "json"}, strings.Fields(c.flags)...)
			for i, list := range c.files {
				name := fmt.Sprintf("a%d.jsonl", i)
				trail(t, name, list)
				args = append(args, name)
			}
			if c.edit != nil {
				change(t, "a0.jsonl", c.edit)
			}
			code, out, errs := ocems("", args...)
			if (code == 1) != (c.errs != "") || !strings.Contains(errs, c.errs) {
				t.Fatalf("exit %d: %s", code, errs)
			}
			var r struct {
				Verified bool
				Devices  []struct{ Parameters []row }
			}
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range r.Devices {
				for _, p := range d.Parameters {
					got = append(got, p.String())
				}
			}
			if strings.Join(got, "\n") != c.want || r.Verified != (c.errs == "") {
				t.Errorf("verified %t\n%s\nwant\n%s", r.Verified, strings.Join(got, "\n"), c.want)
			}
			for _, format := range []string{"text", "json", "csv", "html"} {
				if code2, out, errs := ocems("", append([]string{"report", "--format", format}, args[3:]...)...); code2 != code || out == "" {
					t.Errorf("%s: exit %d, %q, %s", format, code2, out, errs)
				}
			}
		})
	}
}

// A trail of several files gives one report. A page with few devices has the values of closed files too; many devices give an
// index.
func TestReportOfClosedFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	list := twoDays()
	for i, part := range [][]audit.Entry{list[:200], list[200:]} {
		trail(t, "audit.jsonl", part)
		if i > 0 {
			break
		}
		file, err := audit.Open("audit.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		file.Rotate(audit.Rotation{Size: 1})
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if err := file.Check(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat("audit.jsonl.000000000001.zst"); err == nil {
				break
			}
		}
		file.Close()
	}
	trail(t, "one.jsonl", list)
	many := []audit.Entry{}
	for n := range 60 {
		many = append(many, entry(audit.Delivered, fmt.Sprintf("d%d", n), time.UnixMilli(1795132800000), audit.Reading{Parameter: "cod", Value: 5.25, Unit: "mg/L", Flag: "U"}))
	}
	trail(t, "many.jsonl", many)
	report := func(code int, args ...string) string {
		t.Helper()
		got, out, errs := ocems("", append([]string{"report"}, args...)...)
		if got != code {
			t.Fatalf("%v: exit %d: %s", args, got, errs)
		}
		return out + errs
	}
	for _, format := range []string{"csv", "html"} {
		of := func(name string) string {
			out := report(0, "--format", format, name)
			if _, rest, ok := strings.Cut(out, `<p>Samples without`); ok {
				return rest
			}
			return out
		}
		if got, want := of("audit.jsonl"), of("one.jsonl"); got != want {
			t.Errorf("%s of two files differs from that of one:\n%s", format, got)
		}
	}
	text := report(0, "audit.jsonl")
	for _, want := range []string{"audit.jsonl.000000000001.zst: its summary is verified, 203 lines (--verify reads every line)", "audit.jsonl: verified, "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := report(0, "--verify", "audit.jsonl"); !strings.Contains(text, ".zst: verified, 203 lines") {
		t.Error(text)
	}
	if text := report(0, "audit.jsonl", "audit.jsonl.000000000001.zst"); strings.Count(text, ".zst: ") != 1 {
		t.Errorf("a closed file counts twice:\n%s", text)
	}
	if text := report(3, "--format", "html", "many.jsonl"); !strings.Contains(text, "--out: 60 devices are too many for one page: give a file for the index") {
		t.Error(text)
	}
	report(0, "--format", "html", "--out", "many.html", "many.jsonl")
	if page, err := os.ReadFile("many/d59.html"); err != nil || strings.Contains(string(page), "5.25") {
		t.Error(err, string(page))
	}
	report(0, "--format", "html", "--device", "d59", "--out", "d59.html", "many.jsonl")
	if page, err := os.ReadFile("d59.html"); err != nil || !strings.Contains(string(page), "5.25 mg/L") {
		t.Error(err, string(page))
	}
}

// A host appends to a trail and closes it during the report: the report has all lines from before its start.
func TestReportOfARunningHost(t *testing.T) {
	t.Chdir(t.TempDir())
	file, err := audit.Open("audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	file.Rotate(audit.Rotation{Size: 30_000})
	var appended atomic.Int64
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, spec.IST)
	stop, stopped := make(chan bool), make(chan error)
	go func() {
		for n := int64(0); ; n++ {
			select {
			case <-stop:
				stopped <- file.Close()
				return
			default:
			}
			stamp := first.Add(time.Duration(n) * spec.SlotLength)
			err := file.Append(entry(audit.Delivered, "d", stamp, audit.Reading{Parameter: "cod", Unit: "mg/L", Flag: "U"}))
			if err := errors.Join(err, file.Check()); err != nil {
				stopped <- err
				return
			}
			appended.Store(n + 1)
			time.Sleep(time.Millisecond)
		}
	}()
	files := 0
	for end := time.Now().Add(20 * time.Second); files < 8 && time.Now().Before(end); {
		list, err := audit.Files("audit.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		files = len(list)
		least := appended.Load()
		code, out, errs := ocems("", "report", "--format", "json", "audit.jsonl")
		var r struct {
			Devices []struct{ Parameters []row }
		}
		if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
			t.Fatal(code, errs, err)
		}
		if len(r.Devices) == 1 && int64(r.Devices[0].Parameters[0].Delivered) < least || len(r.Devices) == 0 && least > 0 {
			t.Fatalf("%+v of %d", r.Devices, least)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if files < 8 {
		t.Errorf("%d files", files)
	}
}

// No slot after now is expected, so the test passes on any day.
func TestReportExpectsNothingOfTheFuture(t *testing.T) {
	t.Chdir(t.TempDir())
	now := time.Now()
	start, _ := spec.Window(now, spec.SlotLength)
	trail(t, "a.jsonl", []audit.Entry{entry(audit.Delivered, "d", start, audit.Reading{Parameter: "cod", Unit: "mg/L", Flag: "U"})})
	today, tomorrow := now.In(spec.IST).Format(time.DateOnly), now.Add(24*time.Hour).In(spec.IST).Format(time.DateOnly)
	code, out, errs := ocems("", "report", "--format", "csv", "--from", today, "--to", tomorrow, "a.jsonl")
	if code != 0 {
		t.Fatal(errs)
	}
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if last, err := time.Parse(time.RFC3339, lines[1][6]); err != nil || last.Before(start) || last.After(time.Now()) {
		t.Errorf("the last slot is %s, now is %s: %v", lines[1][6], now, err)
	}
}

func TestReportOut(t *testing.T) {
	t.Chdir(t.TempDir())
	trail(t, "audit.jsonl", twoDays())
	code, out, errs := ocems("", "report", "--format", "html", "--out", "slots.html", "audit.jsonl")
	text, err := os.ReadFile("slots.html")
	if code != 0 || out != "" || errs != "" || err != nil {
		t.Fatal(code, out, errs, err)
	}
	for _, outside := range []string{"http:", "https:", "<script", "url(", "@import", "<link", "src="} {
		if strings.Contains(string(text), outside) {
			t.Errorf("the page has %q", outside)
		}
	}
}

// With a configuration each of its parameters has a row, even if the trail does not name it. Each slot until now reached the
// board, waits, is refused, was left out, or is missing.
func TestReportOfAConfiguration(t *testing.T) {
	end := (&status.Host{Stamp: "end", Within: 95}).Expected(time.Now())
	slot := func(n int) time.Time { return end.Add(time.Duration(n-9) * spec.SlotLength) } // of the ten slots 0 to 9
	in := func(o audit.Outcome, written time.Duration, n int, parameter string) audit.Entry {
		return audit.Entry{Time: slot(n).Add(written), Outcome: o, Station: "station_1", Device: "dev_1", Stamp: slot(n).UnixMilli(),
			Readings: []audit.Reading{{Parameter: parameter, Value: 5, Unit: "mg/L", Flag: "U"}}}
	}
	left := func(n int, reason string) audit.Entry {
		e := in(audit.Refused, time.Minute, n, "cod")
		e.Parameter, e.Reason, e.Count = "cod", reason, 15
		return e
	}
	point, point2 := reading("cod", 5, "mg/L", slot(5).Add(-time.Minute)), reading("cod", 5, "mg/L", slot(5).Add(spec.CalibrationLength))
	point.Flag, point2.Flag = spec.FlagCalibration, spec.FlagCalibration
	few := reading("cod", 5, "mg/L", slot(9))
	few.Minutes = 4
	decided := few
	decided.Minutes = 8
	host := func(o audit.Outcome, at time.Time) audit.Entry { return audit.Entry{Time: at, Outcome: o} }
	for _, test := range []struct {
		name   string
		trail  []audit.Entry
		waits  []payload.Reading
		change func(h *status.Host, cod *status.Parameter)
		want   string   // of cod
		text   []string // parts of the text
		not    string   // no part of it
		notice string   // part of the notice
	}{
		{name: "nothing ever came", change: func(_ *status.Host, cod *status.Parameter) { cod.Never = `no metric "modbus" came` }, want: "due 10: missing 10",
			text: []string{"0 of 10 values that were due reached the board, 0.00 %: missing 10.", `cod: no reading ever came: no metric "modbus" came. Do: correct metric`}},
		{name: "the first slot is due", change: func(_ *status.Host, cod *status.Parameter) { cod.Due = slot(8) }, want: "due 1: missing 1"},
		{name: "silent since then", trail: []audit.Entry{in(audit.Delivered, time.Minute, 0, "cod")}, want: "due 10: delivered 1, missing 9"},
		{name: "the trail is older than the status", trail: []audit.Entry{in(audit.Delivered, time.Minute, 0, "cod")},
			change: func(_ *status.Host, cod *status.Parameter) { cod.Due = slot(8) }, want: "due 10: delivered 1, missing 9"},
		{name: "late", trail: []audit.Entry{in(audit.Delivered, 31*time.Minute, 0, "cod"), in(audit.Delivered, 29*time.Minute, 1, "cod"), in(audit.AlreadyStored, time.Hour, 2, "cod")},
			want: "due 10: delivered 2, late 1, already stored 1, missing 7"},
		{name: "waits", waits: []payload.Reading{reading("cod", 5, "mg/L", slot(8)), reading("cod", 5, "mg/L", slot(9)), reading("bod", 5, "mg/L", slot(7))},
			trail: []audit.Entry{in(audit.Delivered, time.Minute, 8, "cod")}, want: "due 10: delivered 1, waiting 1, missing 8"},
		{name: "waits for a person", waits: []payload.Reading{few}, want: "due 10: waiting 1, missing 9",
			text:   []string{"cod, slots that wait for a person to decide because their readings cover fewer minutes than min_coverage requires: 1."},
			notice: "waiting 1, 1 of them for a person to decide, because of min_coverage"},
		{name: "waits for a person, as the status says", waits: []payload.Reading{few}, want: "due 10: waiting 1, missing 9",
			change: func(_ *status.Host, cod *status.Parameter) {
				cod.Slot, cod.Undecided = &status.Slot{Stamp: slot(9)}, &status.Undecided{Slots: 1, Oldest: slot(9), Why: "readings in 4 of 15 minutes"}
			},
			text: []string{"cod: 1 slot waits for a person to decide"}, not: "cod, slots that wait"},
		{name: "a person has decided, and it waits for the board", waits: []payload.Reading{decided}, want: "due 10: waiting 1, missing 9", not: "a person"},
		{name: "a calibration waits", waits: []payload.Reading{point, point2}, want: "due 10: waiting 2, missing 8"},
		{name: "refused by the board", waits: []payload.Reading{reading("cod", 5, "mg/L", slot(9))},
			change: func(_ *status.Host, cod *status.Parameter) {
				cod.Slot, cod.Refused = &status.Slot{Stamp: slot(9)}, &status.Refusal{Reason: "119", Since: slot(8)}
			},
			want: "due 10: refused 1, missing 9, code 119", text: []string{"cod: the board has refused it since", ": 119 invalid parameter; its slots wait. Do: ask the board which key"}},
		{name: "refused by the board, and the host is stopped", waits: []payload.Reading{reading("cod", 5, "mg/L", slot(9))},
			change: func(h *status.Host, cod *status.Parameter) {
				h.Stopped, cod.Refused = true, &status.Refusal{Reason: "119"}
			},
			want: "due 10: refused 1, missing 9, code 119", text: []string{"cod: the board refuses it with 119, invalid parameter; its slots wait."}},
		{name: "the device is refused", waits: []payload.Reading{reading("cod", 5, "mg/L", slot(9))},
			change: func(h *status.Host, _ *status.Parameter) { h.Devices[0].Held = "102" }, want: "due 10: refused 1, missing 9, code 102"},
		{name: "left out", trail: []audit.Entry{left(3, "below_valid_min"), left(4, "below_valid_min"), left(5, "late"), in(audit.Delivered, time.Minute, 5, "cod")},
			want: "due 10: delivered 1, excluded 2, missing 7", text: []string{"cod, readings in no slot: below valid min 30, late 15."}},
		{name: "stopped", trail: []audit.Entry{host(audit.Started, slot(0)), host(audit.Stopped, slot(2)), host(audit.Started, slot(4)), in(audit.Delivered, time.Minute, 5, "cod")},
			want: "due 10: delivered 1, missing 9, host off 2", text: []string{"The host was off from " + slot(2).In(spec.IST).Format("2006-01-02 15:04")}},
		{name: "killed", trail: []audit.Entry{host(audit.Started, slot(0)), in(audit.Delivered, 0, 1, "cod"), host(audit.Started, slot(4))},
			want: "due 10: delivered 1, missing 9, host off 3", text: []string{"The host was off: it ran at least until " + slot(1).In(spec.IST).Format("2006-01-02 15:04")}},
		{name: "killed, and the status was newer than the trail", trail: []audit.Entry{host(audit.Started, slot(0)), in(audit.Delivered, 0, 1, "cod"),
			{Time: slot(6), Outcome: audit.Started, Stamp: slot(3).UnixMilli()}},
			want: "due 10: delivered 1, missing 9, host off 3", text: []string{"it ran at least until " + slot(3).In(spec.IST).Format("2006-01-02 15:04")}},
		{name: "killed in the midst of a line", trail: []audit.Entry{host(audit.Started, slot(0)), in(audit.Delivered, 0, 1, "cod"), host(audit.Recovered, slot(4)), host(audit.Started, slot(4))},
			want: "due 10: delivered 1, missing 9, host off 3"},
		{name: "off now", trail: []audit.Entry{host(audit.Started, slot(0)), host(audit.Stopped, slot(6))}, want: "due 10: missing 10, host off 3"},
		{name: "killed and not started", trail: []audit.Entry{host(audit.Started, slot(0))}, change: func(h *status.Host, _ *status.Parameter) { h.Written = slot(6) },
			want: "due 10: missing 10, host off 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			text := telegrafText(t, fmt.Sprintf("audit_file = %q", path), "min_coverage = 0.5", `below_min_coverage = "wait"`)
			trail(t, path, test.trail)
			require.NoError(t, os.MkdirAll(stateOf(text), 0o700))
			if test.waits != nil {
				outbox(t, text, payload.Record{StationID: "station_1", DeviceID: "dev_1", Readings: test.waits})
			}
			h := &status.Host{Written: time.Now(), Stamp: "end", Within: 95, Devices: []status.Device{{ID: "dev_1", Parameters: []status.Parameter{{Parameter: "cod", Due: slot(0).Add(-spec.SlotLength)}}}}}
			if test.change != nil {
				test.change(h, &h.Devices[0].Parameters[0])
			}
			require.NoError(t, h.Write(status.Path(filepath.Join(stateOf(text), "state.db"))))
			config := write(t, "telegraf.conf", text)
			code, out, errs := quiet(t, "report", "--format", "json", "--config", config)
			require.Equal(t, 0, code, errs)
			require.Empty(t, errs)
			var r struct {
				Devices []struct {
					Parameters []struct {
						Parameter     string
						Expected      int
						Delivered     int
						Late          int `json:"delivered_late"`
						AlreadyStored int `json:"already_stored"`
						Waiting       int
						Refused       int
						Code          string `json:"refused_code"`
						Excluded      int
						Missing       int
						HostOff       int `json:"missing_host_off"`
					}
				}
			}
			require.NoError(t, json.Unmarshal([]byte(out), &r))
			p := r.Devices[0].Parameters[len(r.Devices[0].Parameters)-1]
			require.Equal(t, "cod", p.Parameter)
			var got []string
			for _, x := range []struct {
				name string
				n    int
			}{{"delivered", p.Delivered}, {"late", p.Late}, {"already stored", p.AlreadyStored}, {"waiting", p.Waiting}, {"refused", p.Refused},
				{"excluded", p.Excluded}, {"missing", p.Missing}, {"host off", p.HostOff}} {
				if x.n > 0 {
					got = append(got, fmt.Sprint(x.name, " ", x.n))
				}
			}
			if p.Code != "" {
				got = append(got, "code "+p.Code)
			}
			require.Equal(t, test.want, fmt.Sprintf("due %d: %s", p.Expected, strings.Join(got, ", ")))
			code, out, errs = quiet(t, "report", "--config", config)
			require.Equal(t, 0, code, errs)
			for _, want := range test.text {
				require.Contains(t, out, want)
			}
			if test.not != "" {
				require.NotContains(t, out, test.not)
			}
			code, out, errs = quiet(t, "report", "--notice", "--config", config)
			require.Equal(t, 0, code, errs)
			require.Contains(t, out, test.notice)
			if test.not != "" {
				require.NotContains(t, out, test.not)
			}
		})
	}
}

// Zero and span are the means of the points of each calibration. The drift is the difference from the previous calibration,
// even if that is in a closed file or before the period.
func TestReportCalibrations(t *testing.T) {
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, spec.IST)
	points := func(from time.Time, flag string, first float64, n int, o audit.Outcome) (list []audit.Entry) {
		for i := range n {
			list = append(list, entry(o, "d", from.Add(time.Duration(i+1)*spec.CalibrationLength), audit.Reading{Parameter: "so2", Value: first + float64(i%2), Unit: "mg/Nm3", Flag: flag}))
		}
		return list
	}
	late := day.Add(23*time.Hour + 50*time.Minute) // over midnight
	list := slices.Concat(
		points(day.Add(10*time.Hour), "Z", 0, 30, audit.Delivered), points(day.Add(10*time.Hour+15*time.Minute), "C", 80, 30, audit.Delivered),
		points(late, "Z", 0.25, 60, audit.Delivered), points(late.Add(30*time.Minute), "C", 78, 10, audit.Rejected),
		points(day.Add(40*time.Hour), "C", 79, 30, audit.Expired))
	for _, test := range []struct {
		flags string
		want  []string
	}{
		{"", []string{
			"2026-11-21 16:00 – 16:15; span 79.5, mean of 30 points, drift +1",
			"2026-11-20 23:50 – 2026-11-21 00:25; zero 0.75, mean of 60 points, drift +0.25; span 78.5, mean of 10 points, drift -2",
			"2026-11-20 10:00 – 10:30; zero 0.5, mean of 30 points; span 80.5, mean of 30 points"}},
		{"--from 2026-11-21", []string{ // whose first slot is stamped 00:00
			"2026-11-21 16:00 – 16:15; span 79.5, mean of 30 points, drift +1",
			"2026-11-20 23:50 – 2026-11-21 00:25; zero 0.75, mean of 60 points, drift +0.25; span 78.5, mean of 10 points, drift -2"}},
		{"--to 2026-11-20", []string{
			"2026-11-20 10:00 – 10:30; zero 0.5, mean of 30 points; span 80.5, mean of 30 points"}},
	} {
		t.Run(test.flags, func(t *testing.T) {
			t.Chdir(t.TempDir())
			trail(t, "a.jsonl", list)
			code, out, errs := ocems("", append(append([]string{"report"}, strings.Fields(test.flags)...), "a.jsonl")...)
			require.Equal(t, 0, code, errs)
			var got []string
			for line := range strings.Lines(out) {
				if _, text, ok := strings.Cut(line, "so2, calibration: "); ok {
					got = append(got, strings.TrimSuffix(text, "\n"))
				}
			}
			require.Equal(t, test.want, got)
		})
	}
}

// The board's page is compared slot by slot, whatever its columns are called.
func TestReportBoard(t *testing.T) {
	t.Chdir(t.TempDir())
	trail(t, "audit.jsonl", twoDays())
	for _, test := range []struct {
		name, flags, csv string
		code             int
		want             []string
	}{
		{name: "the same", csv: "device,parameter,time,value\ndev_1,bod,2026-11-20 00:00,12\ndev_1,bod,2026-11-20 00:15,12.1\n",
			want: []string{"The board's page from 2026-11-20 00:00 – 00:15: same 2, only there 0, only here 0, other value 0. Not in the export: dev_1/cod, dev_2/ph."}},
		{name: "another order, other names, Excel's separator and dates, rounded values", csv: "\ufeffAvg. Value;Date Time;Parameter Name;Unit;Device ID\n12.0;20-11-2026 00:00;B.O.D.;mg/L;dev_1\n12;20/11/2026 00:15;BOD;mg/L;dev_1\n\n",
			want: []string{"same 2, only there 0"}},
		{name: "differs", csv: "device,parameter,time,value\ndev_1,bod,2026-11-20 00:00,12.04\ndev_1,bod,2026-11-20 00:30,--\ndev_1,bod,2026-11-20 23:30,5\n",
			want: []string{"same 0, only there 1, only here 88", "other value 1", "dev_1 bod 2026-11-20 00:00: other value; here 12 delivered, there 12.04",
				"dev_1 bod 2026-11-20 00:15: only here; here 12.1 delivered, there nothing", "dev_1 bod 2026-11-20 00:30: only here",
				"dev_1 bod 2026-11-20 23:30: only there; here missing, there 5"}},
		{name: "no device", csv: "parameter,time,value\nbod,2026-11-20 00:00,12\n", code: 3, want: []string{"it has no device column, but the report has 2 devices: add a column deviceid, or give --device"}},
		{name: "no device, and one is named", flags: "--device dev_1", csv: "parameter,time,value\nbod,2026-11-20 00:00,12\n", want: []string{"same 1, only there 0"}},
		{name: "date and time apart", csv: "device,parameter,date,time,value\ndev_1,bod,2026-11-20,00:15,12.1\n", want: []string{"same 1, only there 0"}},
		{name: "no value", csv: "device,parameter,time\n", code: 3, want: []string{"--board: board.csv: the header has no column for the value: it has device, parameter, time; name one \"value\""}},
		{name: "a time that is none", csv: "device,parameter,time,value\ndev_1,bod,yesterday,1\n", code: 3, want: []string{`line 2: time "yesterday" is not a time such as 2026-11-23 10:15`}},
		{name: "off the grid", csv: "device,parameter,time,value\ndev_1,bod,2026-11-20 00:10,1\n", code: 3, want: []string{"is not on the grid of 15 minutes"}},
		{name: "no number", csv: "device,parameter,time,value\ndev_1,bod,2026-11-20 00:15,good\n", code: 3, want: []string{`line 2: value "good" is not a number`}},
		{name: "empty", csv: "device,parameter,time,value\n", code: 3, want: []string{"it has a header only"}},
		{name: "nothing", csv: "", code: 3, want: []string{"--board: board.csv: reading its header"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile("board.csv", []byte(test.csv), 0o600))
			for _, format := range []string{"text", "json", "csv", "html"} {
				args := append([]string{"report", "--board", "board.csv", "--format", format}, strings.Fields(test.flags)...)
				code, out, errs := ocems("", append(args, "audit.jsonl")...)
				require.Equal(t, test.code, code, errs)
				for _, want := range test.want {
					if format == "text" || code != 0 {
						require.Contains(t, out+errs, want)
					}
				}
			}
		})
	}
}

// Names in a trail are neither markup nor terminal commands.
func TestReportOfHostileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	reading := audit.Reading{Parameter: "<script>\x1b[2J", Unit: "\"><b>", Flag: "U"}
	trail(t, "a.jsonl", []audit.Entry{entry(audit.Delivered, "<img src=x>\x1b]0;", time.UnixMilli(1795132800000), reading)})
	for _, format := range []string{"text", "html"} {
		code, out, errs := ocems("", "report", "--format", format, "a.jsonl")
		if code != 0 || errs != "" {
			t.Fatal(errs)
		}
		for _, bad := range map[string][]string{"text": {"\x1b"}, "html": {"<script", "<img", "\"><b>"}}[format] {
			if strings.Contains(out, bad) {
				t.Errorf("%s has %q:\n%s", format, bad, out)
			}
		}
	}
}

func TestReportMistakes(t *testing.T) {
	t.Chdir(t.TempDir())
	trail(t, "audit.jsonl", twoDays())
	trail(t, "empty.jsonl", nil)
	today := time.Now().In(spec.IST).Format(time.DateOnly)
	trail(t, "long.jsonl", []audit.Entry{entry(audit.Delivered, "d", time.UnixMilli(0), audit.Reading{Parameter: "cod"}),
		entry(audit.Delivered, "d", time.UnixMilli(1795132800000), audit.Reading{Parameter: "cod"})})
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "no audit trail: give --config, or one file or more"},
		{"--form json x", "unknown flag --form: nearest --format"},
		{"--format htlm audit.jsonl", `--format: "htlm" is unknown: nearest html`},
		{"--stamp begin audit.jsonl", `--stamp: "begin" is unknown: one of end, start`},
		{"--from 23-11-2026 audit.jsonl", `--from: "23-11-2026" is not a day such as 2026-11-23: nearest 2026-11-23`},
		{"--to 2026-11-31 audit.jsonl", `--to: "2026-11-31" is not a day such as 2026-11-23: nearest 2026-11-30`},
		{"--to 2026/13/0 audit.jsonl", "nearest 2026-12-01"},
		{"--to yesterday audit.jsonl", "nearest " + today},
		{"--notice --format csv audit.jsonl", "--format: csv is not available with --notice: nearest text, json, html"},
		{"--notice --flat-slots 1 audit.jsonl", "--flat-slots: 1 is too small: nearest 2"},
		{"--notice --board x.csv audit.jsonl", "both --board and --notice are given; keep one"},
		{"--board no-such-file audit.jsonl", "--board: open no-such-file"},
		{"--config x.conf audit.jsonl", "both --config and audit.jsonl are given; keep one"},
		{"--from 2026-11-22 --to 2026-11-21 audit.jsonl", "--from: 2026-11-22 is after --to 2026-11-21: nearest 2026-11-21"},
		{"--from 1990-01-01 --to 2026-11-21 audit.jsonl", "but a report covers at most 3660: nearest 2000-01-08"},
		{"long.jsonl", "--from, --to: the trails have slots from 1970-01-01 05:30 to "},
		{"--device dev1 audit.jsonl", `--device: "dev1" is not in the trails: nearest dev_1`},
		{"--device dev_1 empty.jsonl", `--device: "dev_1" is not in the trails, which name no device`},
		{"audit.jsonl ./audit.jsonl", "audit.jsonl and ./audit.jsonl are the same file"},
		{"--out audit.jsonl audit.jsonl", "--out: audit.jsonl is the audit trail audit.jsonl, which is never overwritten"},
		{"--out no-such-folder/x audit.jsonl", "--out: open no-such-folder/x"},
		{"no-such-file", "reading the audit trail: "},
		{".", ". is a folder: give the files in it"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, errs := ocems("", append([]string{"report"}, strings.Fields(c.args)...)...)
			if code != 3 || out != "" || !strings.Contains(errs, c.want) {
				t.Errorf("exit %d, out %q, err %q", code, out, errs)
			}
		})
	}
}
