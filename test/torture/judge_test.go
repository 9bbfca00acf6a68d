package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// account has the files of a run: one slot of one device with four samples, delivered in the host's second run.
type account struct {
	closed bool // half of the trail is in a closed file
	v      *victim
	lines  []map[string]any // lines of the trail
}

func newAccount(t *testing.T) *account {
	dir := t.TempDir()
	v := &victim{host: hosts["external"], dir: dir, disk: filepath.Join(dir, "disk"), board: &board{url: "http://127.0.0.1:1", lies: newLies()},
		began: time.Unix(1_800_000_000, 0).Truncate(15 * time.Minute), kills: 1, lives: 2, over: true, lived: map[string]int{}}
	v.state = filepath.Join(v.disk, "state")
	if err := os.MkdirAll(v.state, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		v.fed = append(v.fed, metric{device: "dev_a", flag: "U", at: v.began.Add(time.Duration(i) * time.Minute), cod: float64(i), bod: 8})
	}
	stamp := v.began.Add(15 * time.Minute).UnixMilli()
	text := fmt.Sprintf(`{"readings": [
		{"station": "station_a", "device": "dev_a", "parameter": "bod", "value": 8, "unit": "mg/L", "timestamp": %d, "flag": "U"},
		{"station": "station_a", "device": "dev_a", "parameter": "cod", "value": 1.5, "unit": "mg/L", "timestamp": %[1]d, "flag": "U"}]}`, stamp)
	if err := json.Unmarshal([]byte(text), &v.last); err != nil {
		t.Fatal(err)
	}
	a := &account{v: v}
	a.line("recovered", 0)
	a.line("delivered", stamp, "bod", 8, "cod", 1.5)
	return a
}

func (a *account) line(outcome string, stamp int64, readings ...any) {
	l := map[string]any{"outcome": outcome, "device": "dev_a", "stamp": stamp}
	if status, known := stati[outcome]; known {
		l["status"] = status
	}
	var list []map[string]any
	for i := 0; i < len(readings); i += 2 {
		list = append(list, map[string]any{"parameter": readings[i], "value": readings[i+1], "flag": "U"})
	}
	l["readings"] = list
	a.lines = append(a.lines, l)
}

// apart adds a line of readings that are in no slot.
func (a *account) apart(outcome, reason, parameter string, count int) {
	a.line(outcome, a.stamp(), parameter, 3)
	l := a.lines[len(a.lines)-1]
	l["parameter"], l["reason"], l["count"] = parameter, reason, count
}

// again feeds the metric at a position once more.
func (a *account) again(fed int) *metric {
	a.v.fed = append(a.v.fed, a.v.fed[fed])
	return &a.v.fed[len(a.v.fed)-1]
}

func (a *account) stamp() int64 { return a.v.last.Readings[0].Timestamp }

// withoutCOD removes the slot's COD from board and trail.
func (a *account) withoutCOD() (stamp int64) {
	stamp = a.stamp()
	a.v.last.Readings = a.v.last.Readings[:1]
	a.lines = a.lines[:1]
	a.line("delivered", stamp, "bod", 8)
	return stamp
}

// write chains the lines and writes them for the judge.
func (a *account) write(t *testing.T) {
	var text strings.Builder
	before := ""
	for i, l := range a.lines {
		if a.closed && i == len(a.lines)/2 {
			z, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a.v.disk, "audit.jsonl.000000000001.zst"), z.EncodeAll([]byte(text.String()), nil), 0o600); err != nil {
				t.Fatal(err)
			}
			text.Reset()
		}
		if l["prev"] == nil {
			l["prev"] = before
		}
		b, _ := json.Marshal(l)
		sum := sha256.Sum256(b)
		before = hex.EncodeToString(sum[:])
		text.Write(append(b, '\n'))
	}
	if err := os.WriteFile(filepath.Join(a.v.disk, "audit.jsonl"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The judge finds each possible fault of a host, and nothing else.
func TestJudge(t *testing.T) {
	log := func(text string) func(*testing.T, *account) {
		return func(t *testing.T, a *account) {
			if err := os.WriteFile(filepath.Join(a.v.dir, "host.log"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	key := sha256.Sum256([]byte(devices[0].token))
	for _, c := range []struct {
		name                       string
		change                     func(*testing.T, *account)
		lost, wrong, twice, secret int
	}{
		{"all is well", func(*testing.T, *account) {}, 0, 0, 0, 0},
		{"a slot is not at the board", func(_ *testing.T, a *account) { a.v.last.Readings = a.v.last.Readings[:1] }, 1, 0, 0, 0},
		{"it is rejected instead", func(_ *testing.T, a *account) {
			stamp := a.withoutCOD()
			a.line("rejected", stamp, "cod", 1.5)
		}, 1, 0, 0, 0},
		{"it is said to be stored before", func(_ *testing.T, a *account) {
			stamp := a.withoutCOD()
			a.line("already_stored", stamp, "cod", 1.5)
		}, 1, 0, 0, 0},
		{"a slot is not in the trail", func(_ *testing.T, a *account) { a.lines = a.lines[:1] }, 2, 0, 0, 0},
		{"a sample is missing in the mean", func(_ *testing.T, a *account) { a.v.last.Readings[1].Value = 1 }, 0, 1, 0, 0},
		{"it may have been lost by the kill", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value, a.v.gaps = 1, []gap{{3, 4}}
		}, 0, 0, 0, 0},
		{"one from before the kill was lost", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value, a.v.gaps = 2, []gap{{3, 4}} // of 1, 2, 3
		}, 0, 1, 0, 0},
		{"it came late", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value = 1
			a.apart("late", "late", "cod", 1)
		}, 0, 0, 0, 0},
		{"more came late than the trail says", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value = 0.5
			a.apart("late", "late", "cod", 1)
		}, 0, 1, 0, 0},
		{"another parameter came late", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value = 1
			a.apart("late", "late", "bod", 1)
		}, 0, 1, 0, 0},
		{"fed twice", func(_ *testing.T, a *account) {
			for i := range 4 {
				a.again(i)
			}
		}, 0, 0, 0, 0},
		{"fed twice, and taken twice", func(_ *testing.T, a *account) {
			a.again(3)
			a.v.last.Readings[1].Value = 1.8
		}, 0, 1, 0, 0},
		{"fed twice after the window closed", func(_ *testing.T, a *account) {
			a.again(0)
			a.apart("late", "late", "cod", 1)
			a.apart("late", "late", "bod", 1)
		}, 0, 0, 0, 0},
		{"a repeat was late, and one that was not is missing", func(_ *testing.T, a *account) {
			a.again(0)
			a.apart("late", "late", "cod", 1)
			a.v.last.Readings[1].Value = 1
		}, 0, 1, 0, 0},
		{"readings that the kill may have lost were fed again", func(_ *testing.T, a *account) {
			a.v.gaps = []gap{{3, 4}}
			a.again(3)
		}, 0, 0, 0, 0},
		{"readings that the kill may have lost were fed again, and are missing", func(_ *testing.T, a *account) {
			a.v.gaps = []gap{{3, 4}}
			a.again(3)
			a.v.last.Readings[1].Value = 1
		}, 0, 1, 0, 0},
		{"two kills, two gaps", func(_ *testing.T, a *account) {
			a.v.gaps = []gap{{1, 3}, {3, 5}}
			a.again(1)
			a.v.last.Readings[1].Value = 5.0 / 3 // of 0, 2, 3: 2 occurs only together with 1
		}, 0, 1, 0, 0},
		{"the sender restarts", func(_ *testing.T, a *account) {
			a.v.fed[2].instance, a.v.fed[3].instance = 1, 1
			a.again(1).instance = 1
		}, 0, 0, 0, 0},
		{"the sender restarts, and its readings make a separate slot", func(_ *testing.T, a *account) {
			a.v.fed[2].instance, a.v.fed[3].instance = 1, 1
			a.v.last.Readings[1].Value = 0.5
			a.v.last.Readings = append(a.v.last.Readings, a.v.last.Readings[1])
			a.v.last.Readings[2].Value = 2.5
		}, 0, 1, 1, 0},
		{"another value for the same time", func(_ *testing.T, a *account) {
			a.again(3).cod = 9
			a.apart("refused", "conflict", "cod", 1)
		}, 0, 0, 0, 0},
		{"another value for the same time, after the window closed", func(_ *testing.T, a *account) {
			a.again(3).cod = 9
			a.apart("late", "late", "cod", 1)
			a.apart("late", "late", "bod", 1)
		}, 0, 0, 0, 0},
		{"another value for the same time takes the place of the first", func(_ *testing.T, a *account) {
			a.again(3).cod = 13
			a.apart("refused", "conflict", "cod", 1)
			a.v.last.Readings[1].Value = 4 // of 0, 1, 2, 13
		}, 0, 1, 0, 0},
		{"another value for the same time counts too", func(_ *testing.T, a *account) {
			a.again(3).cod = 13
			a.apart("refused", "conflict", "cod", 1)
			a.v.last.Readings[1].Value = 3.8 // of 0, 1, 2, 3, 13
		}, 0, 1, 0, 0},
		{"another flag for the same time", func(_ *testing.T, a *account) {
			a.again(3).as = "M"
			a.apart("refused", "conflict", "cod", 1)
			a.apart("refused", "conflict", "bod", 1)
		}, 0, 0, 0, 0},
		{"another flag for the same time, and it is taken", func(_ *testing.T, a *account) { a.again(3).as = "M" }, 0, 2, 0, 0},
		{"another value for the same time, not in the trail", func(_ *testing.T, a *account) { a.again(3).cod = 9 }, 0, 1, 0, 0},
		{"another value for the same time, lost by a kill", func(_ *testing.T, a *account) {
			a.again(3).cod = 9
			a.v.gaps = []gap{{4, 5}}
		}, 0, 0, 0, 0},
		{"a repeat is refused", func(_ *testing.T, a *account) {
			a.again(0)
			a.apart("refused", "too_old", "cod", 1)
		}, 0, 0, 0, 0},
		{"more is refused than was fed again", func(_ *testing.T, a *account) {
			a.again(0)
			a.apart("refused", "too_old", "cod", 2)
		}, 0, 1, 0, 0},
		{"refused for a reason that did not occur", func(_ *testing.T, a *account) { a.apart("refused", "future", "cod", 1) }, 0, 1, 0, 0},
		{"another unit", func(_ *testing.T, a *account) { a.v.last.Readings[1].Unit = "mg/l" }, 0, 1, 0, 0},
		{"another station", func(_ *testing.T, a *account) { a.v.last.Readings[1].Station = "station_b" }, 0, 1, 0, 0},
		{"another flag", func(_ *testing.T, a *account) { a.v.last.Readings[1].Flag = "C" }, 1, 1, 0, 0},
		{"another stamp", func(_ *testing.T, a *account) { a.v.last.Readings[1].Timestamp += 900_000 }, 1, 1, 0, 0},
		{"stored twice", func(_ *testing.T, a *account) { a.v.last.Readings = append(a.v.last.Readings, a.v.last.Readings[1]) }, 0, 0, 1, 0},
		{"sent twice in one run", func(_ *testing.T, a *account) { a.line("delivered", a.stamp(), "cod", 1.5) }, 0, 0, 1, 0},
		{"answered 111 in one run", func(_ *testing.T, a *account) { a.line("already_stored", a.stamp(), "cod", 1.5) }, 0, 0, 1, 0},
		{"passed on twice in one run", func(_ *testing.T, a *account) {
			a.v.host = hosts["edge"]
			a.line("already_stored", a.stamp(), "cod", 1.5)
		}, 0, 0, 0, 0},
		{"passed on twice in every run", func(t *testing.T, a *account) {
			a.v.host = hosts["edge"]
			for range 4 {
				a.write(t)
				a.v.noteLines()
				a.v.lives++
				a.line("already_stored", a.stamp(), "cod", 1.5)
				a.line("already_stored", a.stamp(), "cod", 1.5)
			}
		}, 0, 0, 4, 0},
		{"the trail says that it is at the board", func(_ *testing.T, a *account) {
			a.v.last.Readings = a.v.last.Readings[:1]
			a.v.gaps = []gap{{0, 4}}
		}, 1, 0, 0, 0},
		{"expired within 7 days", func(_ *testing.T, a *account) {
			stamp := a.withoutCOD()
			a.line("expired", stamp, "cod", 1.5)
			a.lines[2]["status"] = 117
		}, 1, 1, 0, 0},
		{"delivered by another status", func(_ *testing.T, a *account) { a.lines[1]["status"] = 111 }, 0, 1, 0, 0},
		{"late, and lost", func(_ *testing.T, a *account) {
			a.withoutCOD()
			a.apart("late", "late", "cod", 4)
		}, 1, 0, 0, 0},
		{"sent again after a kill", func(t *testing.T, a *account) {
			a.write(t)
			a.v.noteLines()
			a.v.lives++
			a.line("already_stored", a.stamp(), "cod", 1.5)
		}, 0, 0, 0, 0},
		{"another value sent after a kill", func(t *testing.T, a *account) {
			a.write(t)
			a.v.noteLines()
			a.v.lives++
			a.line("already_stored", a.stamp(), "cod", 1.75)
		}, 0, 1, 0, 0},
		{"a trail of two files", func(_ *testing.T, a *account) { a.closed = true }, 0, 0, 0, 0},
		{"a line of a closed file altered", func(_ *testing.T, a *account) { a.closed, a.lines[1]["prev"] = true, "0" }, 0, 1, 0, 0},
		{"a line of the trail altered", func(_ *testing.T, a *account) { a.lines[1]["prev"] = "0" }, 0, 1, 0, 0},
		{"a slot of before a damage was altered", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value, a.v.broken = 2, len(a.v.fed)
			a.v.untold = map[place]bool{{"dev_a", "cod", "U", a.stamp()}: false}
		}, 0, 1, 0, 0},
		{"a late line was in a state that was damaged", func(_ *testing.T, a *account) {
			a.v.last.Readings[1].Value, a.v.broken = 1, len(a.v.fed)
			a.v.untold = map[place]bool{{"dev_a", "cod", "U", a.stamp()}: false}
		}, 0, 0, 0, 0},
		{"rejected, forgotten with a damaged state and delivered again", func(t *testing.T, a *account) {
			stamp := a.withoutCOD()
			a.line("already_stored", stamp, "cod", 2) // the board's answer, which was false
			a.write(t)
			a.v.noteLines()
			a.v.broken, a.v.brokenLife = len(a.v.fed), a.v.lives
			a.v.excused = map[place]bool{{"dev_a", "cod", "U", stamp}: true}
			a.v.lives++
			a.line("delivered", stamp, "cod", 1.5)
			r := a.v.last.Readings[0]
			r.Parameter, r.Value = "cod", 1.5
			a.v.last.Readings = append(a.v.last.Readings, r)
		}, 0, 0, 0, 0},
		{"a damaged state is not kept aside", func(_ *testing.T, a *account) { a.v.cut = filepath.Join(a.v.state, "state.db") }, 0, 1, 0, 0},
		{"a damaged state is kept aside", func(t *testing.T, a *account) {
			a.v.cut = filepath.Join(a.v.state, "state.db")
			if err := os.WriteFile(a.v.cut+".damaged-1", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, 0, 0, 0},
		{"a token in the log", log("token: " + devices[0].token), 0, 0, 0, 1},
		{"a token in hexadecimal", log(hex.EncodeToString([]byte(devices[0].token))), 0, 0, 0, 1},
		{"a key of AES in the log", log("key: " + string(key[:])), 0, 0, 0, 1},
		{"a state that others can read", func(t *testing.T, a *account) {
			if err := os.Chmod(a.v.state, 0o755); err != nil {
				t.Fatal(err)
			}
		}, 0, 0, 0, 1},
		{"requests over TLS 1.1", func(_ *testing.T, a *account) { a.v.board.old.Add(1) }, 0, 1, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAccount(t)
			c.change(t, a)
			a.write(t)
			r := a.v.judge()
			if r.lost != c.lost || r.wrong != c.wrong || r.twice != c.twice || r.secrets != c.secret {
				t.Errorf("lost=%d wrong=%d twice=%d secrets=%d, must be lost=%d wrong=%d twice=%d secrets=%d:\n%s", r.lost, r.wrong, r.twice, r.secrets,
					c.lost, c.wrong, c.twice, c.secret, strings.Join(r.faults, "\n"))
			}
		})
	}
}

func TestWaited(t *testing.T) {
	a := newAccount(t)
	a.v.board.lies.told[place{"dev_a", "cod", "U", a.stamp()}] = true
	a.write(t)
	if r := a.v.judge(); r.waited != 1 || r.delivered != 2 {
		t.Errorf("waited=%d delivered=%d, must be waited=1 delivered=2", r.waited, r.delivered)
	}
	a.withoutCOD()
	if r := a.v.judge(); r.waited != 0 {
		t.Errorf("waited=%d, but it did not arrive", r.waited)
	}
}
