package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ocems-io/ocems/ocems/store/place"
)

// A compressed file is a zstd file (RFC 8878) of many frames, so that damage affects one frame and a search reads few.
// Before each frame there is a skippable frame that describes it. The summary lines are in separate frames at the end.
// Only the first line of a frame has "prev", the hash of the line before, because these hashes take a quarter of the
// space.

const (
	packed    = ".zst"
	blockSize = 1 << 20 // bytes of lines in a frame
	headSize  = int64(8 + len(headMark) + 1 + 4 + 3*8 + 4)
	headMagic = 0x184D2A5F
	headMark  = "ocems trail\n"
)

// block is a frame and a description of its lines.
type block struct {
	at, length int64 // position in the file, without its head
	summary    bool
	short      bool  // without the hashes of previous lines
	low, high  int64 // stamps, in milliseconds since the Unix epoch
	latest     int64 // latest time of a line, likewise
	damage     bool  // not a block but unreadable bytes
}

func (b *block) head() []byte {
	h := binary.LittleEndian.AppendUint32(nil, headMagic)
	h = binary.LittleEndian.AppendUint32(h, uint32(headSize-8))
	h = append(h, headMark...)
	h = append(h, 0)
	if b.summary {
		h[len(h)-1] |= 1
	}
	if b.short {
		h[len(h)-1] |= 2
	}
	h = binary.LittleEndian.AppendUint32(h, uint32(b.length))
	for _, v := range []int64{b.low, b.high, b.latest} {
		h = binary.LittleEndian.AppendUint64(h, uint64(v))
	}
	return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(h))
}

func readHead(h []byte) (b block, ok bool) {
	if int64(len(h)) < headSize || binary.LittleEndian.Uint32(h) != headMagic || string(h[8:8+len(headMark)]) != headMark ||
		binary.LittleEndian.Uint32(h[headSize-4:]) != crc32.ChecksumIEEE(h[:headSize-4]) {
		return b, false
	}
	v := h[8+len(headMark):]
	b.summary, b.short, b.length = v[0]&1 > 0, v[0]&2 > 0, int64(binary.LittleEndian.Uint32(v[1:]))
	for i, to := range []*int64{&b.low, &b.high, &b.latest} {
		*to = int64(binary.LittleEndian.Uint64(v[5+8*i:]))
	}
	return b, true
}

// readBlocks lists the blocks of a file by their heads, and the unreadable parts between them.
func readBlocks(f *os.File) (list []block, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := info.Size()
	head := make([]byte, headSize)
	for at := int64(0); at < end; {
		n, err := f.ReadAt(head, at)
		if err != nil && err != io.EOF {
			return nil, err
		}
		b, ok := readHead(head[:n])
		if b.at = at + headSize; ok && b.at+b.length <= end {
			list = append(list, b)
			at = b.at + b.length
			continue
		}
		next, err := nextHead(f, at+1, end)
		if err != nil {
			return nil, err
		}
		list = append(list, block{at: at, length: next - at, damage: true})
		at = next
	}
	return list, nil
}

// nextHead searches for the next valid head.
func nextHead(f *os.File, at, end int64) (int64, error) {
	chunk, least := make([]byte, 1<<20), at
	for at < end {
		n, err := f.ReadAt(chunk, at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		text := chunk[:n]
		for from := 0; ; {
			i := bytes.Index(text[from:], []byte(headMark))
			if i < 0 {
				break
			}
			from += i + 1
			start := at + int64(from-1) - 8
			if start < least {
				continue
			}
			head := make([]byte, headSize)
			n, _ := f.ReadAt(head, start)
			if _, ok := readHead(head[:n]); ok {
				return start, nil
			}
		}
		if n < len(chunk) {
			break
		}
		at += int64(n - len(headMark))
	}
	return end, nil
}

// text returns the lines of a block, or errDamaged.
func (b *block) text(f *os.File) ([]byte, error) {
	text, err := b.packed(f)
	if err == nil && b.short {
		text = lengthen(text)
	}
	return text, err
}

// packed returns the content of a block, or errDamaged.
func (b *block) packed(f *os.File) ([]byte, error) {
	if b.damage {
		return nil, errDamaged
	}
	frame := make([]byte, b.length)
	if _, err := f.ReadAt(frame, b.at); err != nil && err != io.EOF {
		return nil, err
	}
	text, err := unpacker().DecodeAll(frame, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return text, nil
}

var unpacker = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(8*longestLine))
	if err != nil {
		panic(err) // the options are wrong
	}
	return d
})

func isPacked(path string) bool { return strings.HasSuffix(path, packed) }

// pack compresses a closed file, reads the result back, and removes the file. The result gets its name only when it is
// complete.
func pack(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("compressing %s: %w", path, err)
		}
	}()
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	summary, err := summaryAt(from)
	if err != nil {
		return err
	}
	anew := path + packed + ".anew"
	to, err := os.OpenFile(anew, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = packLines(to, io.TeeReader(reader{ctx, from}, sum), summary)
	if err == nil {
		err = to.Sync()
	}
	if err == nil {
		err = readBack(ctx, to, sum.Sum(nil))
	}
	if err = errors.Join(err, to.Close()); err == nil {
		err = os.Rename(anew, path+packed)
	}
	if err != nil {
		return errors.Join(err, os.Remove(anew))
	}
	if err := place.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	from.Close() // Windows does not remove an open file
	return os.Remove(path)
}

// summaryAt returns the number of the first summary line, 0 if there is none.
func summaryAt(f *os.File) (uint64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	t := &Trail{file: f, name: f.Name()}
	if _, err = t.findEnd(info.Size()); err != nil || t.totals == nil {
		return 0, nil // a damaged file is compressed without change
	}
	return t.last - uint64(t.totals.Days), nil
}

// packLines writes blocks of whole lines. From line number summary on, if it is not 0, they are summary lines.
func packLines(to io.Writer, from io.Reader, summary uint64) error {
	out := bufio.NewWriterSize(to, 256<<10)
	level, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(blockSize))
	if err != nil {
		return err
	}
	defer level.Close()
	var text, frame []byte
	var b block
	flush := func() error {
		if len(text) == 0 {
			return nil
		}
		short := shorten(text)
		if b.short = bytes.Equal(lengthen(short), text); !b.short { // damaged lines are kept completely
			short = text
		}
		frame = level.EncodeAll(short, frame[:0])
		b.length = int64(len(frame))
		if _, err := out.Write(b.head()); err != nil {
			return err
		}
		_, err := out.Write(frame)
		text, b = text[:0], block{summary: b.summary}
		return err
	}
	begin := fmt.Appendf(nil, `{"n":%d,`, summary)
	lines := bufio.NewReaderSize(from, 256<<10)
	for {
		part, end := lines.ReadSlice('\n')
		if end != nil && end != io.EOF && !errors.Is(end, bufio.ErrBufferFull) {
			return end
		}
		if summary > 0 && bytes.HasPrefix(part, begin) || len(text)+len(part) > blockSize {
			if err := flush(); err != nil {
				return err
			}
			b.summary = b.summary || summary > 0 && bytes.HasPrefix(part, begin)
		}
		text = append(text, part...)
		b.widen(part)
		if end == io.EOF {
			return errors.Join(flush(), out.Flush())
		}
	}
}

// prevSize is the length of the hash of the line before, as it stands in a line.
const prevSize = len(`,"prev":""`) + 2*sha256.Size

// sumOf returns the position of the sum in a line, or -1.
func sumOf(line []byte) int {
	at := len(line) - len(sumKey) - 2*sha256.Size - len(`"}`)
	if at < 0 || !bytes.HasPrefix(line[at:], []byte(sumKey)) {
		return -1
	}
	return at
}

// shorten removes the hashes of previous lines.
func shorten(text []byte) []byte {
	out := make([]byte, 0, len(text))
	prev := ""
	for whole := range bytes.Lines(text) {
		line := bytes.TrimSuffix(whole, []byte("\n"))
		at := sumOf(line)
		if prev != "" && at >= prevSize && string(line[at-prevSize:at]) == `,"prev":"`+prev+`"` {
			out = append(append(out, line[:at-prevSize]...), whole[at:]...)
		} else {
			out = append(out, whole...)
		}
		prev = hash(line)
	}
	return out
}

// lengthen inserts these hashes again.
func lengthen(text []byte) []byte {
	out := make([]byte, 0, len(text)*6/5)
	prev := ""
	for whole := range bytes.Lines(text) {
		begin, line := len(out), bytes.TrimSuffix(whole, []byte("\n"))
		at := sumOf(line)
		if prev != "" && at >= 0 && (at < prevSize || !bytes.HasPrefix(line[at-prevSize:], []byte(`,"prev":"`))) {
			out = append(out, line[:at]...)
			out = append(append(append(out, `,"prev":"`...), prev...), '"')
			out = append(out, line[at:]...)
		} else {
			out = append(out, line...)
		}
		prev = hash(out[begin:])
		out = append(out, whole[len(line):]...)
	}
	return out
}

// widen adds a line's stamp and time to the block's ranges without decoding the line.
func (b *block) widen(line []byte) {
	if stamp, ok := number(line, `"stamp":`); ok {
		if b.high == 0 {
			b.low = stamp
		}
		b.low, b.high = min(b.low, stamp), max(b.high, stamp)
	}
	if _, text, ok := bytes.Cut(line, []byte(`"time":"`)); ok {
		text, _, _ = bytes.Cut(text, []byte(`"`))
		if at, err := time.Parse(time.RFC3339, string(text)); err == nil {
			b.latest = max(b.latest, at.UnixMilli())
		}
	}
}

func number(line []byte, key string) (int64, bool) {
	_, text, ok := bytes.Cut(line, []byte(key))
	if !ok {
		return 0, false
	}
	n := bytes.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	v, err := strconv.ParseInt(string(text[:max(n, 0)]), 10, 64)
	return v, err == nil
}

var errReadBack = errors.New("the compressed file does not contain the same lines")

func readBack(ctx context.Context, f *os.File, want []byte) error {
	blocks, err := readBlocks(f)
	if err != nil {
		return err
	}
	sum := sha256.New()
	for _, b := range blocks {
		text, err := b.text(f)
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		sum.Write(text)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return errReadBack
	}
	return nil
}

// reader fails when its context ends.
type reader struct {
	ctx  context.Context
	from io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
