package ocems

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ocems-io/ocems/ocems/store"
)

// A journal is a directory of segments, each a file of frames. A frame is durable before append returns. A checkpoint
// of what the frames made begins a new segment, and then the older ones are removed.
//
// Segment: magic, version, number of the segment before and how much of that is valid, so that a frame that failed
// half-way is never read though the disk may hold it, CRC-32C of all these. Frame: magic, length, CRC-32C, content.
type journal struct {
	dir    string
	number uint64 // of the segment in use
	size   int64  // of it, valid
	file   *os.File
	torn   int64 // bytes of a frame cut short, at the end of what was there before
}

const (
	segmentMagic  = "OCEMSWAL"
	frameMagic    = "OCMf"
	journalFormat = 1
	headerSize    = len(segmentMagic) + 1 + 8 + 8 + 4
	frameHead     = len(frameMagic) + 4 + 4
	maxFrame      = 1 << 28
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func segmentName(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("journal-%012d", number))
}

// segments returns the numbers of the segments in dir, in order.
func segments(dir string) (numbers []uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	for _, e := range entries {
		var n uint64
		if _, err := fmt.Sscanf(e.Name(), "journal-%d", &n); err == nil && segmentName(dir, n) == filepath.Join(dir, e.Name()) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// openJournal calls visit with the frames of all segments from number `from` on, in order. Damaged bytes are passed over,
// and a copy of their segment is set aside and named in damage. A frame cut short at the end of the newest segment is
// no damage: a crash leaves it, and its sender was never told that it was taken. The error is that of reading, or a
// segment of a newer format. Nothing is written but those copies: the first append begins a segment of its own.
func openJournal(dir string, from uint64, visit func(content []byte)) (j *journal, damage []string, err error) {
	numbers, err := segments(dir)
	if err != nil {
		return nil, nil, err
	}
	numbers = slices.DeleteFunc(numbers, func(n uint64) bool { return n < from })
	j = &journal{dir: dir, number: from}
	valid := map[uint64]int64{} // of a segment, as the one after it says
	for _, n := range numbers {
		before, size, err := readHeader(segmentName(dir, n))
		if err != nil {
			return nil, nil, err
		}
		if size > 0 {
			valid[before] = size
		}
	}
	for i, n := range numbers {
		b, err := os.ReadFile(segmentName(dir, n))
		if err != nil {
			return nil, damage, fmt.Errorf("reading the journal: %w", err)
		}
		whole, size := b, int64(len(b))
		if v, ok := valid[n]; ok {
			size = v
			b = b[:min(size, int64(len(b)))]
		}
		end, clean := frames(b, visit)
		last := i == len(numbers)-1
		if last && end == 0 && len(b) <= headerSize {
			break // it was being begun, and is begun again: the one before it is the newest
		}
		j.number, j.size, j.torn = n, int64(end), 0
		if torn := last && isTorn(b[end:]); torn {
			j.torn = int64(len(b) - end)
		} else {
			clean = clean && int64(end) == size
		}
		if clean {
			continue
		}
		aside := segmentName(dir, n) + ".damaged"
		if err := os.WriteFile(aside, whole, 0o600); err != nil {
			return nil, damage, fmt.Errorf("setting a damaged journal segment aside: %w", err)
		}
		damage = append(damage, aside)
	}
	return j, damage, nil
}

// readHeader reads what a segment says of the one before it: nothing, where the header is damaged.
func readHeader(name string) (before uint64, size int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the journal: %w", err)
	}
	defer file.Close()
	b := make([]byte, headerSize)
	switch _, err := io.ReadFull(file, b); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 0, 0, nil
	case err != nil:
		return 0, 0, fmt.Errorf("reading the journal: %w", err)
	}
	if string(b[:len(segmentMagic)]) == segmentMagic && b[len(segmentMagic)] > journalFormat {
		return 0, 0, fmt.Errorf("reading the journal %s: %w", name, errNewer)
	}
	if !isHeader(b) {
		return 0, 0, nil
	}
	return binary.LittleEndian.Uint64(b[len(segmentMagic)+1:]), int64(binary.LittleEndian.Uint64(b[len(segmentMagic)+9:])), nil
}

func isHeader(b []byte) bool {
	const end = headerSize - 4
	return len(b) >= headerSize && string(b[:len(segmentMagic)]) == segmentMagic &&
		crc32.Checksum(b[:end], castagnoli) == binary.LittleEndian.Uint32(b[end:])
}

// frames visits the whole frames of a segment. It returns where the last one ends, and whether there was nothing else
// before that.
func frames(b []byte, visit func(content []byte)) (end int, clean bool) {
	at := 0
	if isHeader(b) {
		at, end = headerSize, headerSize
	}
	clean = true
	for at < len(b) {
		content, ok := frame(b[at:])
		if !ok {
			next := bytes.Index(b[at+1:], []byte(frameMagic))
			if next < 0 {
				break
			}
			at += 1 + next
			continue
		}
		clean = clean && at == end
		visit(content)
		at += frameHead + len(content)
		end = at
	}
	return end, clean
}

// isTorn reports whether b is what a crash leaves of a frame: the beginning of one that goes on past the end, or space
// that was never filled.
func isTorn(b []byte) bool {
	if len(bytes.TrimLeft(b, "\x00")) == 0 {
		return true
	}
	if n := min(len(b), len(frameMagic)); string(b[:n]) != frameMagic[:n] {
		return false
	}
	return len(b) < frameHead || int64(binary.LittleEndian.Uint32(b[len(frameMagic):])) > int64(len(b)-frameHead)
}

func frame(b []byte) (content []byte, ok bool) {
	if len(b) < frameHead || string(b[:len(frameMagic)]) != frameMagic {
		return nil, false
	}
	size := binary.LittleEndian.Uint32(b[len(frameMagic):])
	if size > maxFrame || int(size) > len(b)-frameHead {
		return nil, false
	}
	content = b[frameHead : frameHead+int(size)]
	return content, crc32.Checksum(content, castagnoli) == binary.LittleEndian.Uint32(b[len(frameMagic)+4:])
}

// rotate begins a new segment, unless that in use is still empty, and returns when it is durable. After an error the
// old one stays in use.
func (j *journal) rotate() error {
	if j.file != nil && j.size == int64(headerSize) {
		return nil // or a state that cannot be saved would fill the disk with segments, one a second
	}
	number := j.number + 1
	head := append([]byte(segmentMagic), journalFormat)
	head = binary.LittleEndian.AppendUint64(head, j.number)
	head = binary.LittleEndian.AppendUint64(head, uint64(j.size))
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	name := segmentName(j.dir, number)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		if _, err = file.Write(head); err == nil {
			err = file.Sync()
		}
		if err == nil {
			err = store.SyncDir(j.dir)
		}
		if err != nil {
			err = errors.Join(err, file.Close())
			if kept := os.Remove(name); kept != nil { // it says how much of the old one counts: nothing may be added there
				err = errors.Join(err, kept, j.close())
			}
		}
	}
	if err != nil {
		return fmt.Errorf("beginning a journal segment: %w", err)
	}
	old := j.file
	j.file, j.number, j.size = file, number, int64(len(head))
	if old != nil {
		_ = old.Close() // what was acknowledged is synced
	}
	return nil
}

// append writes one frame and returns when it is durable. After an error it was not written, for whoever reads the
// journal.
func (j *journal) append(content []byte) error {
	if len(content) > maxFrame {
		return fmt.Errorf("writing the journal: %d bytes in one batch are more than %d: lower metric_batch_size", len(content), maxFrame)
	}
	if j.file == nil {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	b := make([]byte, 0, frameHead+len(content))
	b = append(b, frameMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content, castagnoli))
	b = append(b, content...)
	_, err := j.file.WriteAt(b, j.size)
	written := err == nil
	if written {
		err = j.file.Sync()
	}
	if err != nil {
		// Cut the frame off. Where nobody knows what the disk holds all the same, as after a failed sync, the next segment
		// says how much of this one counts.
		if cut := errors.Join(j.file.Truncate(j.size), j.file.Sync()); cut != nil || written {
			_ = j.close()
		}
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.size += int64(len(b))
	return nil
}

// forget removes the segments before number.
func (j *journal) forget(number uint64) error {
	numbers, err := segments(j.dir)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n < number {
			if err := os.Remove(segmentName(j.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing a journal segment: %w", err)
			}
		}
	}
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
