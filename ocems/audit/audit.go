// Package audit keeps the trail of the final outcome of every reading: JSON lines, one for each outcome. Each line has
// the SHA-256 of the line before it, and of its own beginning, so that a change or a gap is detected, even in the last
// line.
//
// A trail is a set of files with one chain over all of them. Lines are appended to the file that has the trail's name.
// The file is closed when it is large or its month is over: one summary line is added for each device and day, the
// number of its first line is appended to its name, and it is compressed. The next file begins with the hash of its
// last line.
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
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/place"
)

// Outcome is what happened to readings.
type Outcome string

// The outcomes. Unreachable, Reachable, Held and Released tell what kept slots from the board: its server did not
// answer, and answered again; the board refused a device, and accepted it again. The last six are about the trail
// itself: the host was started; it was stopped cleanly; damage was repaired; the file continues an earlier one, whose
// last hash is Previous; and at the end of a closed file its summary, one line for each device and day, and their
// number.
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
	Samples    int     `json:"samples,omitempty"` // number of samples in the value, if known
	// Range has the smallest and the largest of the samples if they differ, see [spread].
	Range [2]float64 `json:"range,omitzero"`
}

// String is the form of a reading in logs.
func (r Reading) String() string {
	return fmt.Sprintf("{%s %v %s %s %t}", r.Parameter, r.Value, r.Unit, r.Flag, r.Diagnostic)
}

// Calibration reports whether the value is a 30-second point of a calibration.
func (r *Reading) Calibration() bool { return len(r.Flag) == 1 && spec.Flag(r.Flag[0]).Calibration() }

// Readings converts the readings of a record.
func Readings(rs []payload.Reading) []Reading {
	out := make([]Reading, len(rs))
	for i, r := range rs {
		out[i] = Reading{r.Parameter, r.Value, r.Unit, r.Flag.String(), r.Diagnostic, r.Samples, spread(r.Min, r.Max)}
	}
	return out
}

// longestExact is how many digits a smallest or largest sample may have before it is rounded.
const longestExact = 6

// spread rounds two numbers with many digits away from each other, to the first digit of their difference. Random
// digits would take most of the space in a trail of years.
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
		if math.Abs(x) >= 1<<53 || unit > 1e15 { // too large or too small to round
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
	return len(text) <= longestExact+1 // the point counts too
}

// Entry is one line. It never holds a token or a key.
type Entry struct {
	Number  uint64    `json:"n"`
	Time    time.Time `json:"time"`
	Outcome Outcome   `json:"outcome"`
	Station string    `json:"station,omitempty"`
	Device  string    `json:"device,omitempty"`
	// Stamp is in milliseconds since the Unix epoch. For Started it is when the previous run was last known to run. For
	// an outage, in its first and its last line, it is when the outage began.
	Stamp    int64     `json:"stamp,omitempty"`
	Readings []Reading `json:"readings,omitempty"`
	Status   *int      `json:"status,omitempty"` // the server's status, if it gave one
	// For readings that are in no slot: their parameter, the reason and their number. Readings then has the first of
	// them, if it is a number. At the end of an outage, Count is its number of attempts.
	Parameter string  `json:"parameter,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	Count     int     `json:"count,omitempty"`
	Detail    string  `json:"detail,omitempty"`
	Day       *Day    `json:"day,omitempty"`    // only in a Summary
	Totals    *Totals `json:"totals,omitempty"` // only in Closed; without them the file has no summary
	Previous  string  `json:"prev"`             // SHA-256 of the line before, without its line break
}

// Trail appends to one file, and closes it according to its [Rotation]. It is safe for concurrent use. The file is
// locked, because two writers would break its chain. Within a process there is one Trail for each path.
type Trail struct {
	users int // guarded by opened.mu
	turns turns

	mu     sync.Mutex
	file   *os.File
	name   string
	size   int64
	first  uint64    // number of the first line of the file
	begun  time.Time // when that line was written
	last   uint64
	prev   string
	ended  bool    // the last line is Closed
	totals *Totals // totals of that line, read by findEnd
	later  []*Later
	lost   error // why Append is refused, or nil
	found  error // what Append has repaired, for the next Check

	damage string
}

// opened has the open trails of this process by absolute path. The file lock keeps other processes away.
var opened = struct {
	mu     sync.Mutex
	trails map[string]*Trail
}{trails: map[string]*Trail{}}

// Open opens or creates the trail at path, mode 0600, and continues its chain. It removes a last line that a crash cut
// short, and records that in a line. A trail with a damaged first or last line cannot be continued: it is kept under
// another name and a new one is started, see [Trail.Damage]. A file that is not a trail is refused, and so is one that
// another process has open. All who open the same path in one process share one Trail.
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
	defer t.file.Close() // this also releases its lock; until then no other process can move the new file aside
	if runtime.GOOS == "windows" {
		t.file.Close() // on Windows an open file keeps its name
	}
	// The new file gets the name while the old one is locked: other processes always find a file under the name.
	kept, anew := place.Aside(path, "damaged"), path+".anew"
	damage := fmt.Sprintf("%v; it is kept as %s, and a new one is started", err, kept)
	if err := os.Remove(anew); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
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
	if err != nil { // the damaged file keeps its name, so the next start finds the damage again
		return nil, errors.Join(fmt.Errorf("%s: %w", damage, err), os.Remove(anew))
	}
	fresh.damage = damage
	return fresh, nil
}

// Path is the trail's absolute path.
func (t *Trail) Path() string { return t.name }

// Damage says what Open found damaged and where it is kept, or "".
func (t *Trail) Damage() string { return t.damage }

var errDamaged = errors.New("is damaged")

// open returns a damaged trail open and locked, together with the error. name is the name that the file has or will
// get.
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

// longestLine is an upper bound of the length of a line, in bytes.
const longestLine = 16 << 20

// findEnd reads the first and the last whole line, and returns how many bytes follow the last one.
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

// isTorn reports whether b is what a crash may leave of a line: its beginning, or zeros that were never filled.
func isTorn(b []byte) bool {
	begun := []byte(`{"n":`)
	return len(bytes.TrimLeft(b, "\x00")) == 0 || bytes.HasPrefix(b, begun[:min(len(begun), len(b))])
}

var (
	errForeign = errors.New("it is not an audit trail: give the trail a file of its own")
	errInUse   = errors.New("it is in use by another process: each needs a file of its own")
)

// whatItIs distinguishes a damaged trail, in which some line is whole, from another file. If no line is whole, a .jsonl
// file without any JSON was a trail. A hole in the file belongs to the line after it.
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

// entry decodes a line of a trail.
func entry(line []byte) (e Entry, ok bool) {
	ok = json.Unmarshal(line, &e) == nil && e.Number > 0
	return e, ok
}

// firstEntry decodes the first of some lines.
func firstEntry(lines []byte) (e Entry, ok bool) {
	line, _, _ := bytes.Cut(lines, []byte("\n"))
	return entry(line)
}

// Check verifies that the trail is at its path, where readers and the next start look for it. If it was removed,
// renamed or replaced while the host ran, it is written there again from the open file. If it was cut, a new one is
// started. The error says what was found and done. Append is refused until the fault is repaired. Call Check about
// every second; it also starts a new file when one is due.
func (t *Trail) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := cmp.Or(t.look(), t.found)
	t.found = nil
	if t.lost == nil {
		if now := time.Now(); slices.ContainsFunc(t.later, func(l *Later) bool { return !now.Before(l.due) }) {
			_ = t.write() // if this fails, the next Append fails too
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
	if info.Size() < t.size { // for example by logrotate's copytruncate
		why, lines = fmt.Errorf("it was cut from %d to %d bytes while the host ran", t.size, info.Size()), 0
	}
	t.lost = nil
	if why != nil {
		t.lost = t.renew(why, lines)
	}
	return t.lost
}

// renew writes a new file at the path, with the first lines bytes of the open one.
func (t *Trail) renew(why error, lines int64) (err error) {
	fresh := &Trail{name: t.name, size: lines, first: t.first, begun: t.begun, last: t.last, prev: t.prev, ended: t.ended}
	detail := fmt.Sprintf("%v; the whole file is written there again", why)
	cut := lines < t.size
	if cut {
		fresh.last, fresh.prev, fresh.ended, detail = 0, "", false, fmt.Sprintf("%v; a new one is started", why)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w, and it cannot be written there again: %w", why, err)
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
	_ = t.file.Close() // no longer in use
	t.replace(fresh)
	t.found = place.Mended(detail)
	_ = t.append(Entry{Outcome: Recovered, Detail: detail}) // if this fails, the log still has it
	return nil
}

// replace continues in another file.
func (t *Trail) replace(fresh *Trail) {
	t.file, t.size, t.first, t.begun, t.last, t.prev, t.ended = fresh.file, fresh.size, fresh.first, fresh.begun, fresh.last, fresh.prev, fresh.ended
}

// give gives a new file the trail's name, which the open one may still have.
func (t *Trail) give(fresh string) (kept string, err error) {
	if info, err := t.file.Stat(); err != nil || place.Lost(info, t.name) != nil {
		return place.Take(fresh, t.name)
	}
	kept = place.Aside(t.name, "cut")
	return kept, place.Put(fresh, t.name, kept)
}

// Append writes the entries and syncs them to disk before it returns. After an error none of them is in the file.
func (t *Trail) Append(entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.lost
	if info, wrong := t.file.Stat(); wrong == nil && info.Size() < t.size { // else the write would leave a hole
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

// Later writes an entry right before the next one, or in the first Check after a while.
func (t *Trail) Later(e Entry, after time.Duration) *Later {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Time = cmp.Or(e.Time, time.Now())
	l := &Later{t, e, time.Now().Add(after)}
	t.later = append(t.later, l)
	return l
}

// Drop cancels the entry, and reports whether it was written already.
func (l *Later) Drop() (written bool) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	i := slices.Index(l.t.later, l)
	if i >= 0 {
		l.t.later = slices.Delete(l.t.later, i, i+1)
	}
	return i < 0
}

// write appends the waiting entries and then these.
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

// Close closes the file when all who opened it have closed it. A file whose closing or compression is unfinished is
// left to the next start.
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

// sumEnd returns the end of a line: the hash of the line as its last key, in place of its closing brace.
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
