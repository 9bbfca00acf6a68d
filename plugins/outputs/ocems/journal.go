package ocems

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A journal is a directory of segments, each a file of frames. A frame is durable before append returns. A checkpoint
// of what the frames made begins a new segment, and then the older ones are removed.
//
// Segment: magic, version, number of the segment before and how much of that is valid, so that a frame that failed
// half-way is never read though the disk may hold it. Frame: magic, length, CRC-32C, content.
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
	headerSize    = len(segmentMagic) + 1 + 8 + 8
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
	j = &journal{dir: dir, number: from}
	data := make([][]byte, len(numbers))
	valid := map[uint64]int64{}
	for i, n := range numbers {
		j.number = max(j.number, n)
		if n < from {
			continue
		}
		b, err := os.ReadFile(segmentName(dir, n))
		if err != nil {
			return nil, damage, fmt.Errorf("reading the journal: %w", err)
		}
		data[i] = b
		if len(b) < headerSize || string(b[:len(segmentMagic)]) != segmentMagic {
			continue
		}
		if b[len(segmentMagic)] > journalFormat {
			return nil, damage, fmt.Errorf("reading the journal %s: %w", segmentName(dir, n), errNewer)
		}
		valid[binary.LittleEndian.Uint64(b[len(segmentMagic)+1:])] = int64(binary.LittleEndian.Uint64(b[len(segmentMagic)+9:]))
	}
	for i, n := range numbers {
		if n < from {
			continue
		}
		b := data[i]
		if size, ok := valid[n]; ok && size < int64(len(b)) {
			b = b[:size]
		}
		last := i == len(numbers)-1
		end, clean := frames(b, visit)
		if last {
			j.size, j.torn = int64(end), int64(len(b)-end)
		}
		if clean && (last || end == len(b)) {
			continue
		}
		aside := segmentName(dir, n) + ".damaged"
		if err := os.WriteFile(aside, data[i], 0o600); err != nil {
			return nil, damage, fmt.Errorf("setting a damaged journal segment aside: %w", err)
		}
		damage = append(damage, aside)
	}
	return j, damage, nil
}

// frames visits the whole frames of a segment. It returns where the last one ends, and whether there was nothing else
// before that.
func frames(b []byte, visit func(content []byte)) (end int, clean bool) {
	at := 0
	if len(b) >= headerSize && string(b[:len(segmentMagic)]) == segmentMagic {
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
	name := segmentName(j.dir, number)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		if _, err = file.Write(head); err == nil {
			err = file.Sync()
		}
		if err == nil {
			err = syncDir(j.dir)
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
// journal, and the next append tries a new segment.
func (j *journal) append(content []byte) error {
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
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// After a failed sync nobody knows what the disk holds: the next segment says how much of this one counts. Until
		// there is one, cut the frame off as well as may be.
		_ = j.file.Truncate(j.size)
		_ = j.file.Sync()
		_ = j.file.Close()
		j.file = nil
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

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
