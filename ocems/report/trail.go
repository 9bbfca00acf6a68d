package report

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ocems-io/ocems/ocems/audit"
)

// Trail is one file and what its chain says of it.
type Trail struct {
	Name       string `json:"name"`
	Lines      int    `json:"lines"`
	Verified   int    `json:"verified_lines"`
	Unreadable int    `json:"unreadable_lines"`
	Recovered  int    `json:"recovered_lines"` // notes of the trail about damage that was mended
	Fault      string `json:"fault,omitempty"` // the first line that was altered, removed or put in
	// Last is the SHA-256 of the last line. No chain shows that its end was taken away; a report from before does, by
	// a hash that the trail no longer has.
	Last string `json:"last_line_sha256,omitempty"`
}

// Add reads one trail. Its error is one of reading; a broken chain is no error here, and the Report has it.
func (b *Builder) Add(name string, file io.ReadSeeker) error {
	t := Trail{Name: name}
	var held audit.Entry
	var end lastLine
	source := &source{Reader: file}
	err := audit.Verify(io.TeeReader(source, &end), func(e audit.Entry) {
		if t.Lines > 0 {
			b.take(&t, &held, true)
		}
		held = e
		t.Lines++
	})
	if source.err != nil {
		return fmt.Errorf("reading %s: %w", name, source.err)
	}
	t.Verified = t.Lines
	if err == nil {
		if t.Lines > 0 {
			b.take(&t, &held, true)
			t.Last = end.hash()
		}
		b.trails = append(b.trails, t)
		return nil
	}
	// A broken chain can be the fault of the line before it, so that this one is not verified either.
	t.Fault, t.Verified = err.Error(), max(0, t.Lines-1)
	if err := b.addUnverified(&t, file); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	b.trails = append(b.trails, t)
	return nil
}

// addUnverified reads on behind the lines that were verified.
func (b *Builder) addUnverified(t *Trail, file io.ReadSeeker) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(file, 64<<10)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(line) > 0 {
			t.Lines = n
			var e audit.Entry
			switch {
			case n <= t.Verified:
			case json.Unmarshal(line, &e) != nil:
				t.Unreadable++
			default:
				b.take(t, &e, false)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// source keeps the error of a file apart from those of its content.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// lastLine keeps the last whole line of what is written to it.
type lastLine struct{ part, whole []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.part = append(l.part, p...)
			return n, nil
		}
		l.part, l.whole = l.whole[:0], append(l.part, p[:i]...)
		p = p[i+1:]
	}
}

func (l *lastLine) hash() string {
	sum := sha256.Sum256(l.whole)
	return hex.EncodeToString(sum[:])
}
