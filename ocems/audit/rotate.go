package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/place"
)

// Rotation says when a trail closes its file and starts another.
type Rotation struct {
	Size    int64       // bytes; 0: no limit
	Monthly bool        // in IST
	Failed  func(error) // gets the error when that, or compressing a closed file, has failed: it is tried again; may be nil
}

// turns is the work in parallel to Append.
type turns struct {
	by    Rotation // Trail.mu guards this and the next three fields
	busy  bool
	left  bool // closed files may wait to be compressed
	again time.Time
	work  sync.WaitGroup
	ctx   context.Context
	stop  context.CancelFunc
}

// turnAgain is the wait after a failure. It is long because closing reads the whole file.
const turnAgain = 10 * time.Minute

// Rotate sets the rotation. If several components share a trail, the last call counts.
func (t *Trail) Rotate(by Rotation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turns.by, t.turns.left = by, true
}

// end stops the work and waits for it.
func (w *turns) end() {
	if w.stop != nil {
		w.stop()
	}
	w.work.Wait()
}

// turnIfDue starts a turn if one is due. Trail.mu is held.
func (t *Trail) turnIfDue(now time.Time) {
	w := &t.turns
	due := t.due(now)
	if w.busy || now.Before(w.again) || !due && !w.left {
		return
	}
	if w.ctx == nil {
		w.ctx, w.stop = context.WithCancel(context.Background())
	}
	w.busy = true
	w.work.Go(func() {
		err := t.turn(w.ctx, due)
		t.mu.Lock()
		w.busy, w.left = false, err != nil
		failed := w.by.Failed
		if err != nil {
			w.again = time.Now().Add(turnAgain)
		}
		t.mu.Unlock()
		if err != nil && w.ctx.Err() == nil && failed != nil {
			failed(fmt.Errorf("the audit trail %s: %w", t.name, err))
		}
	})
}

// due reports that the file is full, or from another month. A file that has only its Continued line counts as new.
func (t *Trail) due(now time.Time) bool {
	by, month := t.turns.by, func(at time.Time) string { return at.In(spec.IST).Format("2006-01") }
	return (t.last > t.first || t.first == 1) && (t.ended || by.Size > 0 && t.size >= by.Size || by.Monthly && !t.begun.IsZero() && month(t.begun) != month(now))
}

// turn closes the file if it is due, and compresses closed files. The files form one chain after each step: the summary
// lines, the new file under the trail's name, the compressed file, the removal of the original. After a crash the next
// start continues from any of these steps.
func (t *Trail) turn(ctx context.Context, due bool) error {
	var errs []error
	if due {
		old, err := t.close(ctx)
		if old != nil {
			defer old.Close() // a search may still read it
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot begin a new file: %w", err))
		}
	}
	files, err := closedFiles(t.name)
	errs = append(errs, err)
	for _, f := range files {
		if isPacked(f.path) {
			continue
		}
		errs = append(errs, pack(ctx, f.path))
	}
	return errors.Join(errs...)
}

// close adds the summary to the file and starts the next one. It reads most of the file while others append.
func (t *Trail) close(ctx context.Context) (old *os.File, err error) {
	t.mu.Lock()
	file, end, ended := t.file, t.size, t.ended
	t.mu.Unlock()
	tally := &Tally{}
	s := &scanner{visit: func(e *Entry, _ bool) { tally.Add(e) }}
	if !ended {
		if _, err := io.Copy(struct{ io.Writer }{s}, reader{ctx, io.NewSectionReader(file, 0, end)}); err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost != nil || t.file != file { // Check repairs that first
		return nil, nil
	}
	if !t.ended {
		if ended { // a line was appended meanwhile
			end = 0
		}
		if _, err := io.Copy(struct{ io.Writer }{s}, io.NewSectionReader(file, end, t.size-end)); err != nil {
			return nil, err
		}
		f := s.end()
		entries := tally.summary(t.first)
		if f.Fault != "" { // the summary would not be reliable: a report has to read the lines
			entries = []Entry{{Outcome: Closed, Detail: "the next line is in another file; this one has no summary: " + f.Fault}}
		}
		if err := t.append(entries...); err != nil {
			return nil, err
		}
	}
	return t.begin()
}

// begin continues in a new file. The old one gets a name of its own.
func (t *Trail) begin() (old *os.File, err error) {
	kept := fmt.Sprintf("%s.%012d", t.name, t.first)
	for _, name := range []string{kept, kept + packed} {
		if other, err := os.Stat(name); err == nil {
			if info, err := t.file.Stat(); err != nil || !os.SameFile(info, other) {
				return nil, fmt.Errorf("%s belongs to another trail: move it away", name)
			}
		}
	}
	anew := t.name + ".anew"
	fresh := &Trail{name: t.name, last: t.last, prev: t.prev}
	if fresh.file, err = os.OpenFile(anew, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if place.Lock(fresh.file) {
		err = errInUse
	}
	if err == nil {
		err = fresh.append(Entry{Outcome: Continued})
	}
	if err == nil && runtime.GOOS == "windows" { // on Windows an open file keeps its name
		err = errors.Join(fresh.file.Close(), t.file.Close())
	}
	if err == nil {
		err = place.Put(anew, t.name, kept)
	}
	if runtime.GOOS == "windows" {
		var again error
		if fresh.file, again = os.OpenFile(t.name, os.O_RDWR, 0o600); again != nil || err != nil {
			t.file = cmp.Or(fresh.file, t.file)
			return nil, errors.Join(err, again)
		}
		place.Lock(fresh.file)
	}
	if err != nil {
		return nil, errors.Join(err, fresh.file.Close(), os.Remove(anew))
	}
	old = t.file
	t.replace(fresh)
	return old, nil
}

// resume begins an empty file. It continues the newest closed one, if there is any.
func (t *Trail) resume() error {
	files, err := closedFiles(t.name)
	if err != nil || len(files) == 0 {
		return err
	}
	newest := files[len(files)-1]
	if t.last, t.prev = endOf(newest.path); t.last < newest.number {
		t.last, t.prev = newest.number, "" // only this number is known of an unreadable file
	}
	return t.append(Entry{Outcome: Continued})
}

// endOf returns the number and the hash of a closed file's last line, or 0 if it is unreadable.
func endOf(path string) (number uint64, sum string) {
	f, err := os.Open(path)
	if err != nil {
		return 0, ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !isPacked(path) {
		t := &Trail{file: f, name: path}
		_, _ = t.findEnd(info.Size())
		return t.last, t.prev
	}
	blocks, err := readBlocks(f)
	if err != nil || len(blocks) == 0 {
		return 0, ""
	}
	text, err := blocks[len(blocks)-1].text(f)
	if err != nil {
		return 0, ""
	}
	text = bytes.TrimSuffix(text, []byte("\n"))
	text = text[bytes.LastIndexByte(text, '\n')+1:]
	e, _ := entry(text)
	return e.Number, hash(text)
}

// closedFile is a closed file of a trail, with the number of its first line.
type closedFile struct {
	path   string
	number uint64
}

// closedFiles lists the closed files of a trail in order. After a crash the current file may still have two names; it
// is left out. A file that was compressed but not yet removed comes after its compressed form.
func closedFiles(name string) (list []closedFile, err error) {
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	current, _ := os.Stat(name)
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(name)+".")
		digits = strings.TrimSuffix(digits, packed)
		n, wrong := strconv.ParseUint(digits, 10, 64)
		if !ok || wrong != nil || len(digits) < 12 {
			continue
		}
		f := closedFile{filepath.Join(filepath.Dir(name), e.Name()), n}
		if info, err := os.Stat(f.path); err == nil && (current == nil || !os.SameFile(info, current)) {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b closedFile) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(b.path, a.path))
	})
	return list, nil
}

// Look returns the number of closed files of the trail at path, and their faults, without reading all lines.
func Look(path string) (closed int, faults []string, err error) {
	files, err := Files(path)
	if err != nil {
		return 0, nil, err
	}
	var before File
	for _, name := range files {
		f := File{Name: name}
		if f.Last, f.Sum = endOf(name); name == path || !isPacked(name) {
			f.First, f.Previous = beginOf(name)
		} else if f.First, f.Previous, f.Fault = lookPacked(name); f.Fault != "" {
			faults = append(faults, name+": "+f.Fault)
		}
		if name != path {
			closed++
		}
		if fault, _ := f.Follows(&before); fault != "" {
			faults = append(faults, name+": "+fault)
		}
		before = f
	}
	return closed, faults, nil
}

func beginOf(path string) (number uint64, previous string) {
	f, err := os.Open(path)
	if err != nil {
		return 0, ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadBytes('\n')
	e, _ := entry(line)
	return e.Number, e.Previous
}

func lookPacked(path string) (number uint64, previous, fault string) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err.Error()
	}
	defer f.Close()
	blocks, err := readBlocks(f)
	if err != nil {
		return 0, "", err.Error()
	}
	for i, b := range blocks {
		if b.damage {
			return 0, "", fmt.Sprintf("%d bytes from byte %d on are damaged: restore the file from a copy", b.length, b.at)
		}
		if i == 0 {
			text, err := b.text(f)
			if err != nil {
				return 0, "", err.Error()
			}
			e, _ := firstEntry(text)
			number, previous = e.Number, e.Previous
		}
	}
	return number, previous, ""
}

// Files lists the files of the trail at path in the order of their lines: the closed ones, then the current one.
func Files(path string) (list []string, err error) {
	closed, err := closedFiles(path)
	if err != nil {
		return nil, fmt.Errorf("looking for the audit trail %s: %w", path, err)
	}
	closed = slices.CompactFunc(closed, func(a, b closedFile) bool { return a.number == b.number })
	for _, f := range closed {
		list = append(list, f.path)
	}
	if _, err := os.Stat(path); err == nil || len(list) == 0 {
		list = append(list, path)
	}
	return list, nil
}
