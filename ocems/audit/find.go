package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// clockMargin is by how much the clock may have been behind a slot when it was delivered.
const clockMargin = time.Hour

// Delivered returns the readings of a device and stamp that the trail has as delivered or already stored. It reads from the
// end back to an hour before the stamp. Of a compressed file it reads the blocks that have the stamp.
func (t *Trail) Delivered(device string, stamp int64) (found []Reading, err error) {
	t.mu.Lock()
	file, end := t.file, t.size
	t.mu.Unlock()
	q := query{device: device, stamp: stamp, mark: fmt.Appendf(nil, `"stamp":%d,`, stamp), oldest: time.UnixMilli(stamp).Add(-clockMargin)}
	over, err := q.lines(file, end)
	if err != nil || over {
		return q.found, wrapRead(err)
	}
	files, err := Files(t.name)
	for _, path := range slices.Backward(files) {
		if path == t.name {
			continue
		}
		if over, err = q.closed(path); err != nil || over {
			break
		}
	}
	return q.found, wrapRead(err)
}

func wrapRead(err error) error {
	if err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	return nil
}

type query struct {
	device string
	stamp  int64
	mark   []byte // of the lines that may be meant
	oldest time.Time
	found  []Reading
}

// lines reads a file from its end back. It is over once a line is older than what is looked for. A hole and other damage
// is part of the line after it.
func (q *query) lines(file *os.File, end int64) (over bool, err error) {
	var rest []byte // the end of a line whose beginning is in the block before
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
		if q.search(block[begin:]); q.before(block[begin:]) {
			return true, nil
		}
	}
	return false, nil
}

// longestSought is more than a line takes that has readings, in bytes. Nothing longer is kept.
const longestSought = 1 << 20

// before reports that the first of some lines is older than what is looked for.
func (q *query) before(lines []byte) bool {
	line, _, _ := bytes.Cut(lines, []byte("\n"))
	e, ok := entry(line)
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
		e, ok := entry(bytes.TrimLeft(text[begin:i+end], "\x00"))
		if ok && (e.Outcome == Delivered || e.Outcome == AlreadyStored) && e.Device == q.device && e.Stamp == q.stamp {
			q.found = append(q.found, e.Readings...)
		}
		text = text[i+end:]
	}
}

// openClosed opens a file, which may have been compressed since it was listed.
func openClosed(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !isPacked(path) {
		if f, err := os.Open(path + packed); err == nil {
			return f, nil
		}
	}
	return f, err
}

// closed looks into a closed file. What is damaged in it is not found: the slot waits.
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
		over = over || b.latest > 0 && b.latest < q.oldest.UnixMilli()
		if q.stamp < b.low || q.stamp > b.high || b.summary {
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
