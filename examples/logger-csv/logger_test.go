// Package logger_test runs Telegraf on the files of a data logger. The logger writes bad rows, and Telegraf is stopped, killed and
// restarted.
package logger_test

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
)

const quarter = 15 * time.Minute

var (
	ist    = time.FixedZone("IST", 19800)
	header = "Time,Status,COD,pH,Inlet total\n"
)

// plant is a logger's folder, the board, and a configuration of this folder.
type plant struct {
	*board.Board
	t           *testing.T
	dir, config string
	binary      string
}

func newPlant(t *testing.T, config string) *plant {
	binary := board.Built(t, "OCEMS_TELEGRAF")
	t.Parallel()
	p := &plant{t: t, dir: t.TempDir(), binary: binary}
	p.Board = board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: "8d97c71e68c2f4eee5fb254fccb49773",
		Calibrations: []simulator.Calibration{{From: time.Now().Add(-3 * time.Hour), To: time.Now()}}}}})
	board.Write(t, filepath.Join(p.dir, "token"), "8d97c71e68c2f4eee5fb254fccb49773")
	p.config = board.Config(t, config, p.dir, "/srv/logger", p.dir, "/var/lib/ocems", p.dir, "/etc/ocems/public.pem", p.PublicKey,
		"/etc/ocems/tokens/device_5678", filepath.Join(p.dir, "token"),
		// Shorter waits for the test, and the address of its board.
		`flush_interval = "5s"`, `flush_interval = "500ms"`, "[[outputs.ocems]]",
		"[[outputs.ocems]]\n  spread = \"0s\"\n  coalesce = \"1s\"\n  settle = \"8s\"\n  endpoint = \""+p.URL+`"`)
	return p
}

func (p *plant) start() *board.Program {
	return board.Start(p.t, p.dir, nil, p.binary, "--debug", "--config", p.config)
}

// log appends to the logger's file.
func (p *plant) log(text string) {
	p.t.Helper()
	f, err := os.OpenFile(filepath.Join(p.dir, "day.csv"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

func row(at time.Time, status string, cod any, ph, total float64) string {
	return fmt.Sprintf("%s,%s,%v,%v,%v\n", at.In(ist).Format("02/01/2006 15:04:05"), status, cod, ph, total)
}

// audited counts the lines of the trail that contain a text.
func (p *plant) audited(text string) int {
	trail, _ := os.ReadFile(filepath.Join(p.dir, "telegraf", "audit.jsonl"))
	return strings.Count(string(trail), text)
}

func (p *plant) compare(want map[string]float64) {
	p.t.Helper()
	same := func(a, b float64) bool { return math.Abs(a-b) <= 5e-7*math.Abs(b) }
	if got := p.Values(); !maps.EqualFunc(got, want, same) {
		p.t.Errorf("the board has %v, want %v", got, want)
	}
	if n := p.Received().Rejected; n != 0 {
		p.t.Errorf("%d requests were rejected", n)
	}
}

// quarters are the starts of the two 15-minute windows before the last one.
func quarters() (a, b time.Time) {
	b = time.Now().Truncate(quarter).Add(-2 * quarter)
	return b.Add(-quarter), b
}

func TestRowAMinuteThroughARestart(t *testing.T) {
	p := newPlant(t, "telegraf.conf")
	a, b := quarters()
	minute := func(i int) time.Time { return a.Add(time.Duration(i) * time.Minute) }
	p.log(header)
	sums := [2]float64{}
	write := func(from, to int) {
		for i := from; i < to; i++ {
			sums[i/15] += 80 + float64(i)
			p.log(row(minute(i), "OK", 80+float64(i), 7.5, 1000+float64(i)))
		}
	}
	write(0, 15)
	// Rows that are not readings, in the same 15-minute window.
	p.log(row(minute(3), "FAULT", 999.0, 99, 9))              // an unknown status
	p.log(row(minute(4), "OK", "---", 7.5, 1004))             // only the other two cells count
	p.log("24/11/20")                                         // the logger was switched off
	p.log("\n" + row(minute(5), "OK", "over", 99, 9))         // no number
	p.log("32/13/2026 10:00:00,OK,999,99,9\n" + "#,$,\x00\n") // an invalid time, and a line that is not a row
	p.log(row(minute(2).Add(7*time.Second), "ZERO", 0.5, 0.5, 1002))
	write(15, 22)
	half := row(minute(22), "OK", 80+22.0, 7.5, 1022)
	p.log(half[:25]) // the logger has written half of the row
	sums[1] += 80 + 22
	program := p.start()
	board.Until(t, "what there is has been read", func() bool { return strings.Contains(program.Log(), "Wrote batch") })
	program.Stop()
	p.log(half[25:])
	write(23, 30)
	p.start()
	end, zero := b.Add(quarter), minute(2).Truncate(30*time.Second).Add(30*time.Second)
	p.Arrive(9)
	p.compare(map[string]float64{
		board.Key("cod", b, "U"): sums[0] / 15, board.Key("ph", b, "U"): 7.5, board.Key("flow_inlet_totalizer", b, "U"): 1014,
		board.Key("cod", end, "U"): sums[1] / 15, board.Key("ph", end, "U"): 7.5, board.Key("flow_inlet_totalizer", end, "U"): 1029,
		board.Key("cod", zero, "Z"): 0.5, board.Key("ph", zero, "Z"): 0.5, board.Key("flow_inlet_totalizer", zero, "Z"): 1002,
	})
	if n := p.audited(`"late"`); n != 0 {
		t.Errorf("%d rows were read again after a clean stop", n)
	}
}

// A row that cannot be read, or is read wrongly, is in the log or in the trail, and in no slot.
func TestBadRowsAreSeen(t *testing.T) {
	p := newPlant(t, "telegraf.conf")
	a, _ := quarters()
	minute := func(i int) time.Time { return a.Add(time.Duration(i) * time.Minute).In(ist) }
	const clock = "02/01/2006 15:04:05"
	for i := range 5 {
		p.log(row(minute(i), "OK", 80, 7.5, 120031))
	}
	bad := []struct{ name, text, log, trail string }{
		{"another date form", minute(5).Format("2006-01-02 15:04:05") + ",OK,999,9,9\n", minute(5).Format("2006-01-02 15:04:05"), ""},
		{"the month first", minute(6).Format("01/") + "24" + minute(6).Format("/2006 15:04:05") + ",OK,999,9,9\n", minute(6).Format("01/") + "24", ""},
		{"a 12-hour clock", minute(7).Format("02/01/2006 03:04:05 PM") + ",OK,999,9,9\n", minute(7).Format("03:04:05 PM"), ""},
		{"decimal commas", minute(8).Format(clock) + ",OK,81,2,7,4,120031\n", "does not have 5 cells", ""},
		{"a number with commas", minute(9).Format(clock) + ",OK,999,9,1,20,031\n", `"inlet_total": "1"`, ""},
		{"a number with commas in quotes", minute(10).Format(clock) + `,OK,80,7.5,"1,20,031"` + "\n", "", `"parameter":"flow_inlet_totalizer","reason":"not_a_number","count":1`},
		{"a decimal comma in quotes", minute(11).Format(clock) + `,OK,"81,2",7.5,120031` + "\n", "", `"parameter":"cod","reason":"not_a_number","count":2`},
		{"a text", minute(12).Format(clock) + ",OK,over,7.5,120031\n", "", `the text \"81,2\"`},
		{"half a row", minute(13).Format(clock) + ",OK,9\n", `"cod": "9"`, ""},
		{"an unknown status", minute(14).Format(clock) + ",FAULT,999,9,9\n", "", `unknown flag \"not mapped\"`},
		{"no status", minute(14).Format(clock) + ",,999,9,9\n", "", `"reason":"bad_flag","count":2`},
	}
	for _, x := range bad {
		p.log(x.text)
	}
	program := p.start()
	p.Arrive(3)
	p.compare(map[string]float64{board.Key("cod", a.Add(quarter), "U"): 80, board.Key("ph", a.Add(quarter), "U"): 7.5, board.Key("flow_inlet_totalizer", a.Add(quarter), "U"): 120031})
	program.Stop()
	var errors []string
	for line := range strings.Lines(program.Log()) {
		if strings.Contains(line, " E! ") {
			errors = append(errors, line)
		}
	}
	trail, _ := os.ReadFile(filepath.Join(p.dir, "telegraf", "audit.jsonl"))
	for _, x := range bad {
		if !strings.Contains(strings.Join(errors, ""), x.log) || !strings.Contains(string(trail), x.trail) {
			t.Errorf("%s: it is not reported: want %q in the log, %q in the trail\n%s%s", x.name, x.log, x.trail, strings.Join(errors, ""), trail)
		}
	}
}

// After a kill Telegraf continues at the file position of the last clean stop, and reads rows again. Rows of closed slots are
// late, and change nothing.
func TestRowsReadAgainAfterAKill(t *testing.T) {
	p := newPlant(t, "telegraf.conf")
	a, b := quarters()
	p.log(header)
	for i := range 15 {
		p.log(row(a.Add(time.Duration(i)*time.Minute), "OK", 80+float64(i), 7.5, 1000))
	}
	program := p.start()
	p.Arrive(3)
	program.Kill()
	for i := range 15 {
		p.log(row(b.Add(time.Duration(i)*time.Minute), "OK", 90+float64(i), 7.5, 1000))
	}
	p.start()
	p.Arrive(6)
	want := map[string]float64{}
	for end, cod := range map[time.Time]float64{b: 87, b.Add(quarter): 97} {
		want[board.Key("cod", end, "U")], want[board.Key("ph", end, "U")], want[board.Key("flow_inlet_totalizer", end, "U")] = cod, 7.5, 1000
	}
	p.compare(want)
	if p.audited(`"late"`) == 0 {
		t.Error("the audit file has no line for the rows that were read again")
	}
}

func TestRowAQuarterOfAnHour(t *testing.T) {
	p := newPlant(t, "telegraf-15min.conf")
	_, b := quarters()
	p.log(header + row(b, "OK", 81.5, 7.5, 1000) + row(b.Add(time.Minute), "OK", 999.0, 99, 9) + row(b.Add(-quarter), "CAL", 999.0, 99, 9))
	want := map[string]float64{board.Key("cod", b, "U"): 81.5, board.Key("ph", b, "U"): 7.5, board.Key("flow_inlet_totalizer", b, "U"): 1000}
	program := p.start()
	p.Arrive(3)
	p.compare(want)
	for end := time.Now().Add(30 * time.Second); p.audited("not on the grid") == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the audit file has no line for the row off the grid")
		}
	}
	program.Kill() // all rows are read again
	p.log(row(b.Add(quarter), "OK", 82.5, 7.5, 1010))
	p.start()
	p.Arrive(6)
	end := b.Add(quarter)
	maps.Copy(want, map[string]float64{board.Key("cod", end, "U"): 82.5, board.Key("ph", end, "U"): 7.5, board.Key("flow_inlet_totalizer", end, "U"): 1010})
	values := p.Values()
	if fmt.Sprint(values) != fmt.Sprint(want) {
		t.Errorf("the board has %v, want %v", values, want)
	}
}
