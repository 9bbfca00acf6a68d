package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// place identifies one value at the board.
type place struct {
	device, parameter, flag string
	stamp                   int64 // Unix ms
}

func (p place) String() string {
	return fmt.Sprintf("%s %s %s %s", p.device, p.parameter, p.flag, time.UnixMilli(p.stamp).UTC().Format(time.RFC3339))
}

// number is a sample with its position in the order of feeding. The same sample may occur several times, and a later one may
// have another value for the same time.
type number struct {
	fed   int
	at    time.Time
	value float64
	flag  string // another than the first's, or ""
}

// windows groups the fed samples by window.
func (v *victim) windows() map[place][]number {
	out := map[place][]number{}
	for i, m := range v.fed {
		length := 15 * time.Minute
		if m.flag == "Z" {
			length = 30 * time.Second
		}
		end := m.at.Truncate(length).Add(length).UnixMilli()
		for _, x := range []struct {
			parameter string
			value     float64
		}{{"cod", m.cod}, {"bod", m.bod}} {
			p := place{m.device, x.parameter, m.flag, end}
			out[p] = append(out[p], number{i, m.at, x.value, m.as})
		}
	}
	return out
}

// readings returns the distinct readings of a window, in the order of first arrival. which has the index of each fed sample
// in values, or -1 if it contradicts the first one.
func readings(fed []number) (values []float64, which []int) {
	known := map[time.Time]int{}
	for _, n := range fed {
		i, found := known[n.at]
		if !found {
			i = len(values)
			known[n.at] = i
			values = append(values, n.value)
		}
		if values[i] != n.value || n.flag != "" {
			i = -1
		}
		which = append(which, i)
	}
	return values, which
}

// readingSet is a set of readings of a window. It has more bits than a window has readings.
type readingSet [4]uint64

func (s readingSet) with(i int) readingSet {
	s[i/64] |= 1 << (i % 64)
	return s
}

func (s readingSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s readingSet) mean(values []float64) float64 {
	sum, n := 0.0, 0
	for i, v := range values {
		if s.has(i) {
			sum += v
			n++
		}
	}
	return sum / float64(n)
}

// whole returns the mean of all readings of a window.
func whole(fed []number) float64 {
	values, _ := readings(fed)
	var all readingSet
	for i := range values {
		all = all.with(i)
	}
	return all.mean(values)
}

func near(a, b float64) bool { return math.Abs(a-b) <= 5e-7*math.Abs(b) }

// anyNumber says that any number of readings may have come late.
const anyNumber = math.MaxInt

// may returns all means that are right for the window, and whether the window may be missing. A reading counts once, with the
// first value. Metrics at the end of a gap may be lost, independently for each gap. The last metrics may have come late, as
// many as the trail says.
func (v *victim) may(fed []number, late int) (means []float64, none bool) {
	values, which := readings(fed)
	sets := map[readingSet]bool{}
	surely := 0 // number of certainly accepted ones from end on
	for end := len(fed); end >= 0; end-- {
		if end < len(fed) && v.gapOf(fed[end].fed) < 0 {
			surely++
		}
		if surely > late {
			break
		}
		for s := range v.taken(fed[:end], which) {
			if s != (readingSet{}) {
				sets[s] = true
			} else if end == len(fed) { // late readings came after the first value
				none = true
			}
		}
	}
	for s := range sets {
		means = append(means, s.mean(values))
	}
	return means, none
}

// taken returns all sets of fed readings that the host may have.
func (v *victim) taken(fed []number, which []int) map[readingSet]bool {
	var sure readingSet
	var gaps [][]int // readings of each gap in their order
	of := map[int]int{}
	for i, n := range fed {
		if g := v.gapOf(n.fed); which[i] >= 0 && g < 0 {
			sure = sure.with(which[i])
		} else if which[i] >= 0 {
			if _, known := of[g]; !known {
				of[g] = len(gaps)
				gaps = append(gaps, nil)
			}
			gaps[of[g]] = append(gaps[of[g]], which[i])
		}
	}
	sets := map[readingSet]bool{sure: true}
	for _, list := range gaps {
		next := map[readingSet]bool{}
		for s := range sets {
			next[s] = true
			for _, i := range list {
				s = s.with(i)
				next[s] = true
			}
		}
		sets = next
	}
	return sets
}

// final are the outcomes with which a slot leaves a host. stati are the board's statuses for them. Except for expired, the
// board has the slot. Expired slots are older than 7 days; there are none here.
var final = []string{"delivered", "already_stored", "rejected", "expired"}

var stati = map[string]int{"delivered": 1, "already_stored": 111, "rejected": 111}

type verdict struct {
	slots, delivered, lost, wrong, twice, again, secrets int
	waited                                               int // at the board, although false answers said otherwise
	damaged                                              int // lost with a damaged state
	faults                                               []string
}

func (v *verdict) add(o verdict) {
	v.slots += o.slots
	v.lost += o.lost
	v.wrong += o.wrong
	v.twice += o.twice
	v.waited += o.waited
	v.secrets += o.secrets
}

type entry struct {
	Outcome  string  `json:"outcome"`
	Status   *int    `json:"status"`
	Device   string  `json:"device"`
	Stamp    int64   `json:"stamp"`
	Previous *string `json:"prev"`
	hash     string
	Readings []struct {
		Parameter string  `json:"parameter"`
		Value     float64 `json:"value"`
		Flag      string  `json:"flag"`
	} `json:"readings"`
	// For readings that are in no slot.
	Parameter string `json:"parameter"`
	Reason    string `json:"reason"`
	Count     int    `json:"count"`
}

// trailText returns the content of the files of a trail, the closed files first.
func trailText(path string) (text []byte, err error) {
	files, err := filepath.Glob(path + ".[0-9]*")
	if err != nil {
		return nil, err
	}
	for i, name := range files { // sorted: a compressed file comes after its uncompressed file, which should have been removed
		if filepath.Ext(name) == ".anew" || i+1 < len(files) && files[i+1] == name+".zst" {
			continue
		}
		b, err := os.ReadFile(name)
		if err == nil && filepath.Ext(name) == ".zst" {
			b, err = unpacker.DecodeAll(b, nil)
			b = withPrevious(b)
		}
		if err != nil {
			return nil, err
		}
		text = append(text, b...)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // there are no outcomes yet
	}
	return append(text, b...), err
}

// withPrevious adds the hash of the line before to the lines of a compressed file, where only the first line of a block has it.
func withPrevious(text []byte) (out []byte) {
	previous := ""
	for line := range bytes.Lines(text) {
		if !bytes.Contains(line, []byte(`,"prev":"`)) {
			line = bytes.Replace(line, []byte(`,"sum":"`), []byte(`,"prev":"`+previous+`","sum":"`), 1)
		}
		sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
		out, previous = append(out, line...), hex.EncodeToString(sum[:])
	}
	return out
}

var unpacker, _ = zstd.NewReader(nil) // fails only for wrong options

// trail reads an audit trail and checks that each line has the hash of the line before.
func trail(path string) (out []entry, faults []string) {
	text, err := trailText(path)
	if err != nil {
		return nil, []string{err.Error()}
	}
	lines := bytes.Split(text, []byte("\n"))
	before := ""
	for i, l := range lines {
		if len(l) == 0 && i == len(lines)-1 {
			break
		}
		var e entry
		if err := json.Unmarshal(l, &e); err != nil || e.Previous == nil {
			if i < len(lines)-1 {
				faults = append(faults, fmt.Sprintf("%s:%d: not a line of a trail", path, i+1))
			}
			continue
		}
		if i > 0 && *e.Previous != before {
			faults = append(faults, fmt.Sprintf("%s:%d: the chain is broken", path, i+1))
		}
		sum := sha256.Sum256(l)
		e.hash = hex.EncodeToString(sum[:])
		before = e.hash
		out = append(out, e)
	}
	return out, faults
}

// beforeDamage is a copy of the trail from before any damage.
const beforeDamage = "before-damage.jsonl"

// noteLines records that the new lines of the trail were written in the run that has ended.
func (v *victim) noteLines() {
	entries, _ := trail(filepath.Join(v.disk, "audit.jsonl"))
	for _, e := range entries {
		if _, known := v.lived[e.hash]; !known {
			v.lived[e.hash] = v.lives
		}
	}
}

// judge compares the values at the board with the fed metrics.
func (v *victim) judge() (r verdict) {
	got, err := v.board.received()
	if err != nil {
		if got = v.last; got == nil {
			r.faults, r.lost = []string{err.Error()}, 1
			return r
		}
	}
	v.last = got
	r.again = got.Duplicates
	at := map[place]float64{}
	for _, x := range got.Readings {
		p := place{x.Device, x.Parameter, x.Flag, x.Timestamp}
		if _, there := at[p]; there {
			r.twice++
			r.faults = append(r.faults, fmt.Sprintf("%s: twice", p))
		}
		at[p] = x.Value
		if x.Unit != "mg/L" || x.Station != "station_"+x.Device[len(x.Device)-1:] {
			r.wrong++
			r.faults = append(r.faults, fmt.Sprintf("%s: unit %s, station %s", p, x.Unit, x.Station))
		}
	}
	type key struct { // identifies a line of readings that are in no slot
		device, parameter string
		stamp             int64
	}
	windows := v.windows()
	forgotten := func(p place) bool { return len(windows[p]) > 0 && windows[p][0].fed < v.broken }
	late, conflicts, refused, repeats := map[key]int{}, map[key]int{}, map[key]int{}, map[key]int{}
	ended, told := map[place]string{}, map[place]bool{}
	in := map[place]int{}     // the run in which a place had its last outcome
	between := map[int]bool{} // runs after a kill between making and sending
	seen := map[string]bool{}
	for _, path := range []string{filepath.Join(v.dir, beforeDamage), filepath.Join(v.disk, "audit.jsonl")} {
		entries, faults := trail(path)
		if len(faults) > 0 && !(v.untrue && filepath.Base(path) == "audit.jsonl") {
			r.wrong += len(faults)
			r.faults = append(r.faults, faults...)
		}
		for _, e := range entries {
			if seen[e.hash] {
				continue // a copy
			}
			seen[e.hash] = true
			life, known := v.lived[e.hash]
			if !known {
				life = v.lives
			}
			if slices.Contains(final, e.Outcome) {
				if status, known := stati[e.Outcome]; !known || e.Status == nil || *e.Status != status {
					r.wrong++
					r.faults = append(r.faults, fmt.Sprintf("%s %s: %s without this answer of the board", e.Device, time.UnixMilli(e.Stamp).UTC().Format(time.RFC3339), e.Outcome))
				}
				for _, x := range e.Readings {
					p := place{e.Device, x.Parameter, x.Flag, e.Stamp}
					switch {
					case in[p] != life || forgotten(p) && life > v.brokenLife:
					case e.Outcome == "already_stored" && v.host.handsOver:
						between[life] = true
					default:
						r.twice++
						r.faults = append(r.faults, fmt.Sprintf("%s: two outcomes in one run", p))
					}
					in[p] = life
					if e.Outcome == "delivered" {
						told[p] = true
						continue
					}
					ended[p] = e.Outcome
					if stored, ok := at[p]; ok && stored != x.Value && !v.excused[p] && !(forgotten(p) && life > v.brokenLife) {
						r.wrong++
						r.faults = append(r.faults, fmt.Sprintf("%s: %v is at the board, and %v was sent after it", p, stored, x.Value))
					}
				}
			}
			switch k := (key{e.Device, e.Parameter, e.Stamp}); {
			case e.Outcome == "late":
				late[k] += e.Count
			case e.Outcome == "refused" && e.Reason == "conflict":
				conflicts[k] += e.Count
			case e.Outcome == "refused" && e.Reason != "":
				late[k] += e.Count
				refused[k] += e.Count
			}
		}
	}
	for p, samples := range windows {
		value, there := at[p]
		k := key{p.device, p.parameter, p.stamp}
		distinct, _ := readings(samples)
		repeats[k] += len(samples) - len(distinct)
		_, before := v.untold[p] // at the board when the state was damaged, so later metrics changed nothing
		if before {
			samples = slices.DeleteFunc(samples, func(n number) bool { return n.fed >= v.broken })
		}
		atMost := late[k]
		if forgotten(p) { // a line that waited in the state is lost with it
			atMost = anyNumber
		}
		if n := v.contradictions(samples); n > late[k]+conflicts[k] && !forgotten(p) && v.over {
			r.wrong++
			r.faults = append(r.faults, fmt.Sprintf("%s: %d readings contradict another, and the trail has %d late and %d conflicts", p, n, late[k], conflicts[k]))
		}
		r.slots++
		switch {
		case there:
			r.delivered++
			if v.board.lies.told[p] {
				r.waited++
			}
			if !told[p] && ended[p] == "" && !v.excused[p] && !v.untold[p] {
				r.lost++
				r.faults = append(r.faults, fmt.Sprintf("%s: at the board, but not in the trail", p))
			}
			if v.excused[p] || near(value, whole(samples)) {
				break
			}
			if means, _ := v.may(samples, atMost); !slices.ContainsFunc(means, func(m float64) bool { return near(value, m) }) {
				r.wrong++
				r.faults = append(r.faults, fmt.Sprintf("%s: %v, must be %v", p, value, means[:min(len(means), 10)]))
			}
		case told[p]:
			r.lost++
			r.faults = append(r.faults, fmt.Sprintf("%s: not at the board, but delivered in the trail", p))
		case ended[p] != "":
			r.lost++
			r.faults = append(r.faults, fmt.Sprintf("%s: not at the board, but %s in the trail", p, ended[p]))
		default:
			switch _, none := v.may(samples, late[k]); {
			case none:
			case v.excused[p]:
				r.damaged++
			default:
				r.lost++
				r.faults = append(r.faults, fmt.Sprintf("%s: lost", p))
			}
		}
	}
	for k, n := range refused { // a repeat that came while the host's clock was wrong
		if n > repeats[k] {
			r.wrong++
			r.faults = append(r.faults, fmt.Sprintf("%s %s %s: %d readings are refused, and %d were fed again", k.device, k.parameter, time.UnixMilli(k.stamp).UTC().Format(time.RFC3339), n, repeats[k]))
		}
	}
	for p := range at {
		if windows[p] == nil {
			r.wrong++
			r.faults = append(r.faults, fmt.Sprintf("%s: never fed", p))
		}
	}
	if r.damaged > 0 {
		text, _ := os.ReadFile(filepath.Join(v.dir, "host.log"))
		text = text[min(v.logged, len(text)):]
		if !strings.Contains(string(text), "damaged") && !strings.Contains(string(text), "cut short") {
			r.wrong++
			r.faults = append(r.faults, fmt.Sprintf("%d slots are lost with the damaged state, but the log does not have the damage", r.damaged))
		}
	}
	if aside, _ := filepath.Glob(v.cut + ".damaged-*"); v.cut != "" && v.over && len(aside) == 0 {
		r.wrong++
		r.faults = append(r.faults, fmt.Sprintf("%s was cut in half, but is not kept aside", v.cut))
	}
	if n := len(between); n > 1+v.kills/20 { // a kill between passing a slot on and saving this: some ms of each second
		r.twice += n
		r.faults = append(r.faults, fmt.Sprintf("%d runs of %d began with slots that had already been sent", n, v.kills))
	}
	if n := v.board.old.Load(); n > 0 {
		r.wrong++
		r.faults = append(r.faults, fmt.Sprintf("%d requests came over TLS 1.1", n))
	}
	for _, f := range v.secrets() {
		r.secrets++
		r.faults = append(r.faults, f)
	}
	slices.Sort(r.faults)
	return r
}

// contradictions counts the readings that a host certainly got after another value for the same time.
func (v *victim) contradictions(fed []number) (n int) {
	_, which := readings(fed)
	for i, x := range fed {
		if which[i] < 0 && v.gapOf(x.fed) < 0 {
			n++
		}
	}
	return n
}

// secrets searches all files of the host for tokens and keys, in every form in which they may be written, and for state that
// other users can read.
func (v *victim) secrets() (faults []string) {
	var forms [][]byte
	for _, d := range devices {
		key := sha256.Sum256([]byte(d.token)) // AES key
		for _, secret := range []string{d.token, string(key[:])} {
			forms = append(forms, []byte(secret), []byte(hex.EncodeToString([]byte(secret))), []byte(base64.StdEncoding.EncodeToString([]byte(secret))[:40]))
		}
	}
	if public, err := os.ReadFile(filepath.Join(v.dir, "keys", "public.pem")); err == nil {
		forms = append(forms, bytes.Split(public, []byte("\n"))[2])
	}
	_ = filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || name == "config" || name == "registry.yaml" || name == "balloon" || strings.Contains(path, "/keys/") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if info.Mode().Perm()&0o077 != 0 && strings.HasPrefix(path, v.disk) {
			faults = append(faults, fmt.Sprintf("%s can be read by other users: %s", path, info.Mode()))
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, form := range forms {
			if bytes.Contains(text, form) {
				faults = append(faults, fmt.Sprintf("%s holds a token or a key", path))
			}
		}
		return nil
	})
	return faults
}
