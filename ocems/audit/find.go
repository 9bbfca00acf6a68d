package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"time"
)

// clockMargin is how far the clock may have been behind when a slot was delivered.
const clockMargin = time.Hour

// Delivered returns the readings of a device and stamp that the trail has as delivered or already stored. It reads
// backwards to one hour before the stamp. Of a compressed file it reads only blocks that contain the stamp.
func (t *Trail) Delivered(device string, stamp int64) (found []Reading, err error) {
	t.mu.Lock()
	file, end := t.file, t.size
	t.mu.Unlock()
	q := query{mark: fmt.Appendf(nil, `"stamp":%d,`, stamp), low: stamp, high: stamp, oldest: time.UnixMilli(stamp).Add(-clockMargin), visit: func(e *Entry) {
		if (e.Outcome == Delivered || e.Outcome == AlreadyStored) && e.Device == device && e.Stamp == stamp {
			found = append(found, e.Readings...)
		}
	}}
	over, err := q.lines(file, end)
	if err == nil && !over {
		err = q.before(t.name)
	}
	return found, wrapRead(err)
}

// Position is how far a trail was read. The zero Position is its beginning.
type Position struct {
	file os.FileInfo
	size int64
}

// Recent visits the lines of the trail at path about a device: from the zero Position those written since a time, in no
// fixed order; from a later Position the new ones. It returns the next Position. If the trail has started another file
// meanwhile, or was replaced, it calls anew and visits all of them again.
func Recent(path, device string, since time.Time, from Position, anew func(), visit func(*Entry)) (next Position, err error) {
	f, err := os.Open(path)
	if err != nil {
		return from, wrapRead(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return from, wrapRead(err)
	}
	name, err := json.Marshal(device)
	if err != nil {
		return from, wrapRead(err)
	}
	q := query{mark: append([]byte(`"device":`), name...), low: math.MinInt64, high: math.MaxInt64, oldest: since, visit: func(e *Entry) {
		if e.Device == device {
			visit(e)
		}
	}}
	goOn := from.file != nil && os.SameFile(from.file, info) && info.Size() >= from.size
	begin := int64(0)
	if goOn {
		begin = from.size
	} else {
		anew()
	}
	end, err := lastBreak(f, begin, info.Size())
	if err != nil {
		return from, wrapRead(err)
	}
	over, err := q.lines(io.NewSectionReader(f, begin, end-begin), end-begin)
	if err == nil && !over && !goOn {
		err = q.before(path)
	}
	return Position{info, end}, wrapRead(err)
}

// lastBreak returns where the last whole line of a part of a file ends, or the part's beginning. What follows is being
// written.
func lastBreak(f *os.File, begin, end int64) (int64, error) {
	block := make([]byte, 64<<10)
	for end > begin {
		n := min(end-begin, int64(len(block)))
		if _, err := f.ReadAt(block[:n], end-n); err != nil {
			return begin, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return begin, nil
}

// before searches the files before the one at path, newest first, until the query is over.
func (q *query) before(path string) error {
	files, err := Files(path)
	for _, closed := range slices.Backward(files) {
		if closed == path {
			continue
		}
		over, err := q.closed(closed)
		if err != nil || over {
			return err
		}
	}
	return err
}

func wrapRead(err error) error {
	if err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	return nil
}

type query struct {
	mark      []byte // text that is in each line searched for
	low, high int64  // stamps
	oldest    time.Time
	visit     func(*Entry)
}

// lines reads a file backwards. It is over at a line older than the query needs. A hole or other damage belongs to the
// line after it.
func (q *query) lines(file io.ReaderAt, end int64) (over bool, err error) {
	var rest []byte // end of a line that begins in the previous block
	for at := end; at > 0; {
		n := min(at, 256<<10)
		at -= n
		block := make([]byte, n, int(n)+len(rest))
		if _, err := file.ReadAt(block, at); err != nil {
			return false, err
		}
		block = append(block, rest...)
		begin := 0
		if at > 0 {
			if begin = bytes.IndexByte(block[:n], '\n') + 1; begin == 0 {
				if rest = bytes.TrimLeft(block, "\x00"); len(rest) > longestSought {
					rest = nil
				}
				continue
			}
			rest = bytes.TrimLeft(block[:begin], "\x00")
		}
		if q.search(block[begin:]); q.older(block[begin:]) {
			return true, nil
		}
	}
	return false, nil
}

// longestSought is an upper bound of the length of a line with readings, in bytes. Longer ones are skipped.
const longestSought = 1 << 20

// older reports that the first of some lines is older than the query needs.
func (q *query) older(lines []byte) bool {
	e, ok := firstEntry(lines)
	return ok && e.Time.Before(q.oldest)
}

func (q *query) search(text []byte) {
	for {
		i := bytes.Index(text, q.mark)
		if i < 0 {
			return
		}
		begin, end := bytes.LastIndexByte(text[:i], '\n')+1, bytes.IndexByte(text[i:], '\n')
		if end < 0 {
			end = len(text) - i
		}
		if e, ok := entry(bytes.TrimLeft(text[begin:i+end], "\x00")); ok {
			q.visit(&e)
		}
		text = text[i+end:]
	}
}

// openClosed opens a file that may have been compressed since it was listed.
func openClosed(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !isPacked(path) {
		if f, err := os.Open(path + packed); err == nil {
			return f, nil
		}
	}
	return f, err
}

// closed searches a closed file. It skips damaged parts: a slot that was in one then waits.
func (q *query) closed(path string) (over bool, err error) {
	f, err := openClosed(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !isPacked(f.Name()) {
		info, err := f.Stat()
		if err != nil {
			return false, err
		}
		return q.lines(f, info.Size())
	}
	blocks, err := readBlocks(f)
	if err != nil {
		return false, err
	}
	for _, b := range blocks {
		old := b.latest > 0 && b.latest < q.oldest.UnixMilli()
		over = over || old
		if old || q.high < b.low || q.low > b.high || b.summary {
			continue
		}
		text, err := b.packed(f)
		if errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return false, err
		}
		q.search(text)
	}
	return over, nil
}
