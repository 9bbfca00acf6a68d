// Package audit keeps the trail of what became of every reading: JSON lines, one line a final outcome, each line with the
// SHA-256 of the line before it and of its own beginning, so that a change or a gap shows, in the last line too.
//
// A trail is a set of files and one chain over all of them. Lines are appended to the file that the trail is named after.
// When that is large or its month is over it is closed: it gets a line a device and day that sums it up, and a name with
// the number of its first line behind; then it is compressed. The next file begins with the hash of its last line.
package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/store/place"
)

// Outcome is what became of readings.
type Outcome string

// The outcomes. Four tell what kept slots from the board: its server did not answer, and answered again; it refused a
// device, and took it again. The last six are notes of the trail about itself: that its host was started, and stopped in
// order; damage that was mended; a file that goes on from the one before it, whose last hash is its Previous; and at the end
// of a file that was closed what it says, a line a device and day, and how many these are.
const (
	Delivered     Outcome = "delivered"
	AlreadyStored Outcome = "already_stored"
	Rejected      Outcome = "rejected"
	Expired       Outcome = "expired"
	Refused       Outcome = "refused"
	Late          Outcome = "late"
	Unreachable   Outcome = "unreachable"
	Reachable     Outcome = "reachable"
	Held          Outcome = "held"
	Released      Outcome = "released"
	Started       Outcome = "started"
	Stopped       Outcome = "stopped"
	Recovered     Outcome = "recovered"
	Continued     Outcome = "continued"
	Summary       Outcome = "day"
	Closed        Outcome = "closed"
)

// Reading is one value in a line.
type Reading struct {
	Parameter  string  `json:"parameter"`
	Value      float64 `json:"value"`
	Unit       string  `json:"unit"`
	Flag       string  `json:"flag"`
	Diagnostic bool    `json:"diagnostic,omitempty"`
	Samples    int     `json:"samples,omitempty"` // that the value was made of, where that is known
	// Range are the least and the greatest of them, where they differ, see [spread].
	Range [2]float64 `json:"range,omitzero"`
}

// String is the reading as a log has it.
func (r Reading) String() string {
	return fmt.Sprintf("{%s %v %s %s %t}", r.Parameter, r.Value, r.Unit, r.Flag, r.Diagnostic)
}

// Readings takes over the readings of a record.
func Readings(rs []payload.Reading) []Reading {
	out := make([]Reading, len(rs))
	for i, r := range rs {
		out[i] = Reading{r.Parameter, r.Value, r.Unit, r.Flag.String(), r.Diagnostic, r.Samples, spread(r.Min, r.Max)}
	}
	return out
}

// longestExact is how many digits the least and the greatest of samples have at most as they are.
const longestExact = 6

// spread rounds two numbers of many digits away from each other, to the first digit of their difference: random digits take
// more room in a trail of years than all else.
func spread(low, high float64) [2]float64 {
	if few(low) && few(high) || !(high-low > 0) {
		return [2]float64{low, high}
	}
	places := -int(math.Floor(math.Log10(high - low)))
	unit := math.Pow(10, math.Abs(float64(places)))
	round := func(v float64, to func(float64) float64) float64 {
		x := v / unit
		if places > 0 {
			x = v * unit
		}
		if math.Abs(x) >= 1<<53 || unit > 1e15 { // all its digits count
			return v
		}
		if x = to(x); places > 0 {
			return x / unit
		}
		return x * unit
	}
	return [2]float64{round(low, math.Floor), round(high, math.Ceil)}
}

func few(v float64) bool {
	text := strconv.AppendFloat(nil, math.Abs(v), 'g', -1, 64)
	return len(text) <= longestExact+1 // with a point
}

// Entry is one line. It never holds a token or a key.
type Entry struct {
	Number  uint64    `json:"n"`
	Time    time.Time `json:"time"`
	Outcome Outcome   `json:"outcome"`
	Station string    `json:"station,omitempty"`
	Device  string    `json:"device,omitempty"`
	// Stamp is in milliseconds since the Unix epoch. Of Started it is when the life before is known to have run; of an
	// outage, in its first line and in its last, when it began.
	Stamp    int64     `json:"stamp,omitempty"`
	Readings []Reading `json:"readings,omitempty"`
	Status   *int      `json:"status,omitempty"` // the server's, where it answered one
	// Of readings that are in no slot: their parameter, why, and how many they are. Readings has the first of them, where it
	// is a number. Of the end of an outage Count is how many attempts there were in it.
	Parameter string  `json:"parameter,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	Count     int     `json:"count,omitempty"`
	Detail    string  `json:"detail,omitempty"`
	Day       *Day    `json:"day,omitempty"`    // of a Summary
	Totals    *Totals `json:"totals,omitempty"` // of Closed; without them the file has no summary
	Previous  string  `json:"prev"`             // SHA-256 of the line before, without its line break
}

// Trail appends to one file, and closes it by its [Rotation]. It is safe for concurrent use. The file is locked, since two
// writers would break its chain; within a process there is one Trail a path.
type Trail struct {
	users int // guarded by opened.mu
	turns turns

	mu     sync.Mutex
	file   *os.File
	name   string
	size   int64
	first  uint64    // number of the file's first line
	begun  time.Time // when that was written
	last   uint64
	prev   string
	ended  bool    // the last line is Closed
	totals *Totals // what findEnd read in it
	later  []*Later
	lost   error // why Append is refused
	found  error // what Append has mended, for the next Check

	damage string
}

// opened holds the trails that this process has open by their absolute paths; lock keeps other processes away.
var opened = struct {
	mu     sync.Mutex
	trails map[string]*Trail
}{trails: map[string]*Trail{}}

// Open opens or makes the trail at path, mode 0600, and continues its chain. A last line that a crash cut short is
// removed, and the trail says so in a line of its own. A trail whose first or last line is damaged cannot be continued: it
// is kept under another name and a new one begun, see [Trail.Damage]. A file that is no trail is refused, and so is one
// that another process has open. Who opens the same path in one process shares its Trail.
func Open(path string) (*Trail, error) {
	name, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the audit trail: %w", err)
	}
	opened.mu.Lock()
	defer opened.mu.Unlock()
	t := opened.trails[name]
	if t == nil {
		if t, err = openOrReplace(name); err != nil {
			if cure := place.Cure(err); cure != "" {
				err = fmt.Errorf("%w; %s", err, cure)
			}
			return nil, err
		}
		opened.trails[name] = t
	}
	t.users++
	return t, nil
}

func openOrReplace(path string) (*Trail, error) {
	t, err := open(path, path)
	if !errors.Is(err, errDamaged) {
		return t, err
	}
	defer t.file.Close() // and with it its lock, so that no other process sets aside what is new there
	if runtime.GOOS == "windows" {
		t.file.Close() // an open file keeps its name there
	}
	// The new one gets the name while the old one is locked: no other process ever finds none there.
	kept, anew := place.Aside(path, "damaged"), path+".anew"
	damage := fmt.Sprintf("%v; it is kept as %s, and a new one is begun", err, kept)
	if err := os.Remove(anew); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return nil, err
	}
	fresh, err := open(anew, path)
	if err == nil {
		err = fresh.Append(Entry{Outcome: Recovered, Detail: damage})
		if runtime.GOOS == "windows" {
			fresh.file.Close()
		}
		if err == nil {
			err = place.Put(anew, path, kept)
		}
		if err == nil && runtime.GOOS == "windows" {
			fresh, err = open(path, path)
		}
		if err != nil && fresh != nil {
			fresh.file.Close()
		}
	}
	if err != nil { // under its name the next start finds the damage again
		return nil, errors.Join(fmt.Errorf("%s: %w", damage, err), os.Remove(anew))
	}
	fresh.damage = damage
	return fresh, nil
}

// Path is where the trail is, absolute.
func (t *Trail) Path() string { return t.name }

// Damage says what Open found damaged and where that is kept, or "".
func (t *Trail) Damage() string { return t.damage }

var errDamaged = errors.New("is damaged")

// open leaves a damaged trail open, and locked, beside the error. The file is or gets the trail's name.
func open(path, name string) (*Trail, error) {
	if err := place.MakeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("opening the audit trail: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit trail: %w", err)
	}
	t := &Trail{file: file, name: name}
	info, err := file.Stat()
	if err == nil && (place.Lock(file) || place.Lost(info, path) != nil) {
		err = errInUse
	}
	cut := int64(0)
	if err == nil {
		cut, err = t.findEnd(info.Size())
	}
	if err == nil && cut > 0 {
		err = file.Truncate(t.size)
	}
	if err == nil && t.size == 0 {
		err = t.resume()
	}
	if err == nil {
		if cut > 0 {
			err = t.append(Entry{Outcome: Recovered, Detail: fmt.Sprintf("removed an unfinished last line of %d bytes", cut)})
		}
	}
	if errors.Is(err, errDamaged) {
		return t, err
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the audit trail %s: %w", path, err)
	}
	return t, nil
}

// longestLine is more than any line has, in bytes.
const longestLine = 16 << 20

// findEnd reads the first and the last whole line and returns how many bytes stand after the last.
func (t *Trail) findEnd(end int64) (cut int64, err error) {
	for n := int64(64 << 10); ; n *= 16 {
		tail := make([]byte, min(n, end))
		if _, err := t.file.ReadAt(tail, end-int64(len(tail))); err != nil {
			return 0, err
		}
		lastBreak := bytes.LastIndexByte(tail, '\n')
		before := bytes.LastIndexByte(tail[:max(lastBreak, 0)], '\n')
		if before < 0 && n < end && n < longestLine {
			continue
		}
		if lastBreak < 0 && n >= end && isTorn(tail) {
			return end, nil
		}
		e, ok := Entry{}, false
		if lastBreak >= 0 {
			e, ok = entry(tail[before+1 : lastBreak])
		}
		if !ok || !isTorn(tail[lastBreak+1:]) {
			return 0, t.whatItIs("the last line of the audit trail %s %w")
		}
		t.size, t.last, t.prev = end-int64(len(tail)-lastBreak-1), e.Number, hash(tail[before+1:lastBreak])
		t.ended, t.totals = e.Outcome == Closed, e.Totals
		break
	}
	first, err := bufio.NewReaderSize(io.NewSectionReader(t.file, 0, t.size), 64<<10).ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return 0, err
	}
	e, _ := entry(first)
	if begun := []byte(`{"n":1,`); !bytes.HasPrefix(first, begun) && e.Outcome != Continued {
		return 0, t.whatItIs("the first line of the audit trail %s %w: another program, such as logrotate, may have cut the file")
	}
	t.first, t.begun = max(e.Number, 1), e.Time
	return end - t.size, nil
}

// isTorn reports whether b is what a crash leaves of a line: its beginning, or space that was never filled.
func isTorn(b []byte) bool {
	begun := []byte(`{"n":`)
	return len(bytes.TrimLeft(b, "\x00")) == 0 || bytes.HasPrefix(b, begun[:min(len(begun), len(b))])
}

var (
	errForeign = errors.New("it is not an audit trail: give the trail a file of its own")
	errInUse   = errors.New("it is in use by another process: each needs a file of its own")
)

// whatItIs tells a damaged trail, of which some line is whole, from another file. Where nothing is whole, what is called
// .jsonl and holds no JSON at all was a trail. A hole in the file is part of the line after it.
func (t *Trail) whatItIs(damage string) error {
	damaged := fmt.Errorf(damage, t.name, errDamaged)
	lines := bufio.NewReaderSize(io.NewSectionReader(t.file, 0, math.MaxInt64), 1<<20)
	for any := false; ; {
		line, err := lines.ReadSlice('\n')
		line = bytes.TrimLeft(line, "\x00")
		if _, ok := entry(line); ok {
			return damaged
		}
		any = any || json.Valid(line)
		switch {
		case err == io.EOF && !any && filepath.Ext(t.name) == ".jsonl":
			return damaged
		case err == io.EOF:
			return errForeign
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// entry reads a line of a trail.
func entry(line []byte) (e Entry, ok bool) {
	return e, json.Unmarshal(line, &e) == nil && e.Number > 0
}

// Check sees that the trail is at its path, where its readers and the next start look for it. One that was removed, renamed
// or replaced while the host ran is written there anew, from the open file. In place of one that was cut a new one begins.
// The error says what was found and done. As long as it cannot be mended, Append is refused. It is to be called every
// second or so, and begins a new file when it is time.
func (t *Trail) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := cmp.Or(t.look(), t.found)
	t.found = nil
	if t.lost == nil {
		if now := time.Now(); slices.ContainsFunc(t.later, func(l *Later) bool { return !now.Before(l.due) }) {
			_ = t.write() // else the next Append fails
		}
		t.turnIfDue(time.Now())
	}
	if err != nil {
		err = fmt.Errorf("looking for the audit trail %s: %w", t.name, err)
	}
	return err
}

func (t *Trail) look() error {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	why, lines := place.Lost(info, t.name), t.size
	if info.Size() < t.size { // such as by logrotate's copytruncate
		why, lines = fmt.Errorf("it was cut from %d to %d bytes while the host ran", t.size, info.Size()), 0
	}
	t.lost = nil
	if why != nil {
		t.lost = t.renew(why, lines)
	}
	return t.lost
}

// renew puts a new file at the path, with the first so many bytes of the open one.
func (t *Trail) renew(why error, lines int64) (err error) {
	fresh := &Trail{name: t.name, size: lines, first: t.first, begun: t.begun, last: t.last, prev: t.prev, ended: t.ended}
	detail := fmt.Sprintf("%v; all of it is written there anew", why)
	cut := lines < t.size
	if cut {
		fresh.last, fresh.prev, fresh.ended, detail = 0, "", false, fmt.Sprintf("%v; a new one is begun", why)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w, and it cannot be written there anew: %w", why, err)
		}
	}()
	if err = place.MakeDir(filepath.Dir(t.name)); err != nil {
		return err
	}
	if fresh.file, err = os.OpenFile(t.name+".anew", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	if _, err = io.Copy(fresh.file, io.NewSectionReader(t.file, 0, lines)); err == nil {
		err = fresh.file.Sync()
	}
	kept := ""
	if err == nil && place.Lock(fresh.file) {
		err = errInUse
	}
	if err == nil && cut {
		err = fresh.resume()
	}
	if err == nil {
		kept, err = t.give(fresh.file.Name())
	}
	if err != nil {
		return errors.Join(err, fresh.file.Close(), os.Remove(fresh.file.Name()))
	}
	if kept != "" {
		detail += "; the file that was there is kept as " + kept
	}
	_ = t.file.Close() // it is nobody's any more
	t.replace(fresh)
	t.found = place.Mended(detail)
	_ = t.append(Entry{Outcome: Recovered, Detail: detail}) // the log has it too
	return nil
}

// replace goes on in another file.
func (t *Trail) replace(fresh *Trail) {
	t.file, t.size, t.first, t.begun, t.last, t.prev, t.ended = fresh.file, fresh.size, fresh.first, fresh.begun, fresh.last, fresh.prev, fresh.ended
}

// give gives a new file the trail's name, which may be that of the open one.
func (t *Trail) give(fresh string) (kept string, err error) {
	if info, err := t.file.Stat(); err != nil || place.Lost(info, t.name) != nil {
		return place.Take(fresh, t.name)
	}
	kept = place.Aside(t.name, "cut")
	return kept, place.Put(fresh, t.name, kept)
}

// Append writes the entries and syncs them to disk before it returns. After an error nothing of them is in the file.
func (t *Trail) Append(entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.lost
	if info, wrong := t.file.Stat(); wrong == nil && info.Size() < t.size { // else a hole would come of it
		err = t.look()
	}
	if err != nil {
		return fmt.Errorf("writing the audit trail: %w", err)
	}
	return t.write(entries...)
}

// Later is an entry that is not written yet.
type Later struct {
	t     *Trail
	entry Entry
	due   time.Time
}

// Later has an entry written right before the next one, or by the first Check after a while.
func (t *Trail) Later(e Entry, after time.Duration) *Later {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Time = cmp.Or(e.Time, time.Now())
	l := &Later{t, e, time.Now().Add(after)}
	t.later = append(t.later, l)
	return l
}

// Drop takes the entry back, and reports whether it was written before.
func (l *Later) Drop() (written bool) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	i := slices.Index(l.t.later, l)
	if i >= 0 {
		l.t.later = slices.Delete(l.t.later, i, i+1)
	}
	return i < 0
}

// write appends entries behind those that wait for them.
func (t *Trail) write(entries ...Entry) error {
	var all []Entry
	for _, l := range t.later {
		all = append(all, l.entry)
	}
	err := t.append(append(all, entries...)...)
	if err == nil {
		t.later = nil
	}
	return err
}

func (t *Trail) append(entries ...Entry) error {
	text := bytes.NewBuffer(make([]byte, 0, len(entries)<<10))
	encoder := json.NewEncoder(text)
	n, prev := t.last, t.prev
	now := time.Now()
	for _, e := range entries {
		n++
		e.Number, e.Previous = n, prev
		if e.Time.IsZero() {
			e.Time = now
		}
		e.Time = e.Time.UTC().Truncate(time.Millisecond)
		begun := text.Len()
		if err := encoder.Encode(e); err != nil {
			return fmt.Errorf("writing the audit trail: %w", err)
		}
		end := text.Len() - len("\n")
		sum := sumEnd(text.Bytes()[begun:end])
		text.Truncate(end - len("}"))
		text.WriteString(sum)
		prev = hash(text.Bytes()[begun:])
		text.WriteByte('\n')
	}
	_, err := t.file.WriteAt(text.Bytes(), t.size)
	if err == nil {
		err = t.file.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the audit trail: %w", err), t.file.Truncate(t.size))
	}
	if t.size == 0 {
		t.first, t.begun = t.last+1, cmp.Or(entries[0].Time, now)
	}
	t.size, t.last, t.prev = t.size+int64(text.Len()), n, prev
	t.ended = entries[len(entries)-1].Outcome == Closed
	return nil
}

// Close closes the file, once all who opened it have. A file that is being closed or compressed is left to the next start.
func (t *Trail) Close() error {
	opened.mu.Lock()
	defer opened.mu.Unlock()
	if t.users--; t.users > 0 {
		return nil
	}
	delete(opened.trails, t.name)
	t.turns.end()
	return t.file.Close()
}

const sumKey = `,"sum":"`

// sumEnd is the hash of a line as the last key of the line, in place of its closing brace.
func sumEnd(line []byte) string { return sumKey + hash(line) + `"}` }

func withoutSum(line []byte) (text []byte, ok bool) {
	at := sumOf(line)
	if at < 1 {
		return nil, false
	}
	return append(slices.Clone(line[:at]), '}'), true
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
