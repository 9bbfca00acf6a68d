package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// File is what a scan of one file of a trail has found.
type File struct {
	Name       string
	First      uint64 // numbers of its first and last line; 0 if there is none
	Last       uint64
	Previous   string // SHA-256 of the line before the first, which is in another file
	Sum        string // SHA-256 of the last line
	Lines      int
	Verified   int // lines from the beginning that are verified
	Unreadable int // lines that are not entries
	// Fault describes the first place that was altered, cut or damaged. Lines after it are read but not verified.
	Fault string
	// Totals are those of a closed file. Summed says that only its summary lines were read.
	Totals *Totals
	Summed bool
}

// Scan reads one file of a trail, compressed or not, and calls visit for each line. It returns an error only if reading
// fails.
func Scan(path string, visit func(e *Entry, verified bool)) (File, error) {
	s := &scanner{visit: visit, file: File{Name: path}}
	if err := scanFile(path, s); err != nil {
		return s.file, fmt.Errorf("reading the audit trail %s: %w", path, err)
	}
	return s.end(), nil
}

func scanFile(path string, s *scanner) error {
	f, err := openClosed(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !isPacked(f.Name()) {
		_, err = io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{f}, make([]byte, 256<<10))
		return err
	}
	blocks, err := readBlocks(f)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		text, err := b.text(f)
		if errors.Is(err, errDamaged) {
			s.damaged(fmt.Errorf("%d bytes from byte %d on cannot be read: %w", b.length, b.at, err))
			continue
		}
		if err != nil {
			return err
		}
		if _, err := s.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// Verify reads an uncompressed file of a trail, checks its chain and calls visit for each line. The error names the
// first line that was altered, removed or inserted.
func Verify(r io.Reader, visit func(Entry)) error {
	s := &scanner{visit: func(e *Entry, verified bool) {
		if verified && visit != nil {
			visit(*e)
		}
	}}
	if _, err := io.Copy(struct{ io.Writer }{s}, r); err != nil {
		return fmt.Errorf("line %d: %w", s.file.Lines+1, err)
	}
	if f := s.end(); f.Fault != "" {
		return errors.New(f.Fault)
	}
	return nil
}

// scanner checks the lines that are written to it. A line is verified by the next one or by the end.
type scanner struct {
	file  File
	visit func(e *Entry, verified bool)
	chain chain
	part  []byte // beginning of a line
	held  *Entry
}

func (s *scanner) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = append(s.part, p...)
			return n, nil
		}
		line := p[:i]
		if len(s.part) > 0 {
			line = append(s.part, line...)
		}
		s.line(line, nil)
		s.part, p = s.part[:0], p[i+1:]
	}
}

var errUnfinished = errors.New("unfinished")

func (s *scanner) line(line []byte, err error) {
	s.file.Lines++
	var e *Entry
	if s.file.Fault == "" {
		if err == nil {
			e, err = s.chain.next(line)
		}
		if err == nil {
			s.passOn(true)
			s.held = e
			s.note(e, s.chain.prev)
			return
		}
		s.fault(fmt.Errorf("line %d: %w", s.file.Lines, err))
	}
	if e = new(Entry); json.Unmarshal(line, e) != nil {
		s.file.Unreadable++
		return
	}
	s.note(e, hash(line))
	s.visit(e, false)
}

// note records where the file begins and ends.
func (s *scanner) note(e *Entry, sum string) {
	if s.file.First == 0 {
		s.file.First, s.file.Previous = e.Number, e.Previous
	}
	s.file.Last, s.file.Sum, s.file.Totals = e.Number, sum, e.Totals
}

// fault ends the verified part. A broken chain may be the fault of the line before, so that line is not verified
// either.
func (s *scanner) fault(err error) {
	if s.file.Fault != "" {
		return
	}
	s.file.Fault = err.Error()
	s.file.Verified = max(0, s.file.Lines-1)
	if s.held != nil {
		s.file.Verified--
	}
	s.passOn(false)
}

func (s *scanner) passOn(verified bool) {
	if s.held != nil {
		s.visit(s.held, verified)
	}
	s.held = nil
}

// damaged records that a part of the file is unreadable.
func (s *scanner) damaged(err error) {
	if len(s.part) > 0 {
		s.line(s.part, errUnfinished)
		s.part = nil
	}
	s.file.Lines++ // at least one line
	s.fault(fmt.Errorf("after line %d: %w", s.file.Lines-1, err))
	s.file.Lines--
}

func (s *scanner) end() File {
	if len(s.part) > 0 {
		s.line(s.part, errUnfinished)
	}
	s.passOn(true)
	if s.file.Fault == "" {
		s.file.Verified = s.file.Lines
	}
	return s.file
}

// chain is the state of a chain after a line.
type chain struct {
	number uint64
	prev   string
	begun  bool
	summed bool // lines have sums; those of the first trails had none
}

func (c *chain) next(line []byte) (*Entry, error) {
	e := new(Entry)
	if err := json.Unmarshal(line, e); err != nil {
		return nil, fmt.Errorf("not an audit line: %w", err)
	}
	if !c.begun && e.Outcome == Continued && e.Number > 0 {
		c.number, c.prev = e.Number-1, e.Previous
	}
	c.begun = true
	if e.Previous != c.prev || e.Number != c.number+1 {
		return nil, errors.New("the chain is broken: the line before it, or this one, was altered, removed or inserted")
	}
	switch text, ok := withoutSum(line); {
	case ok && bytes.HasSuffix(line, []byte(sumEnd(text))):
		c.summed = true
	case c.summed || !bytes.HasSuffix(line, []byte(`"prev":"`+c.prev+`"}`)):
		return nil, errors.New("the line was altered: its content does not match its sum")
	}
	c.number, c.prev = e.Number, hash(line)
	return e, nil
}

// Follows returns why a file does not continue the one before it in a set, or "". whole is true if the file's own lines
// are intact and only others are missing. After damage in the file before, the continuation cannot be checked.
func (f *File) Follows(before *File) (fault string, whole bool) {
	switch {
	case f.First == 0 || before.Last == 0 || before.Fault != "":
		return "", true
	case f.First > before.Last+1:
		return fmt.Sprintf("lines %d to %d of the trail are missing: a file between %s and this one is not here, or its end was cut", before.Last+1, f.First-1, before.Name), true
	case f.First != before.Last+1 || f.Previous != before.Sum:
		return fmt.Sprintf("it does not continue the last line of %s: that file or this one was altered or cut", before.Name), false
	}
	return "", true
}

// ScanSummary reads the summary lines of a closed file and checks their chain. ok is false if there are none, or if
// they have a fault: then the file has to be scanned.
func ScanSummary(path string) (f File, days []*Day, ok bool, err error) {
	if !isPacked(path) {
		return f, nil, false, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return f, nil, false, fmt.Errorf("reading the audit trail: %w", err)
	}
	defer file.Close()
	blocks, err := readBlocks(file)
	if err != nil {
		return f, nil, false, fmt.Errorf("reading the audit trail %s: %w", path, err)
	}
	at := 0
	for ; at < len(blocks) && !blocks[at].summary; at++ {
	}
	if at == 0 || at == len(blocks) {
		return f, nil, false, nil
	}
	s := &scanner{file: File{Name: path}, visit: func(e *Entry, _ bool) {
		if e.Day != nil {
			e.Day.Station, e.Day.Device = e.Station, e.Device
			days = append(days, e.Day)
		}
	}}
	for i, b := range blocks {
		if i > 0 && i < at {
			continue
		}
		text, err := b.text(file)
		if errors.Is(err, errDamaged) {
			return f, nil, false, nil
		}
		if err != nil {
			return f, nil, false, fmt.Errorf("reading the audit trail %s: %w", path, err)
		}
		if i == 0 { // this block has the first line
			e, _ := firstEntry(text)
			f.First, f.Previous = e.Number, e.Previous
			continue
		}
		if i == at {
			e, ok := firstEntry(text)
			if !ok {
				return f, nil, false, nil
			}
			s.chain = chain{number: e.Number - 1, prev: e.Previous, begun: true, summed: true}
		}
		if _, err := s.Write(text); err != nil {
			return f, nil, false, err
		}
	}
	end := s.end()
	if end.Fault != "" || end.Totals == nil || end.Totals.Days != len(days) || end.Totals.First != f.First || end.Lines != len(days)+1 {
		return f, nil, false, nil
	}
	f.Name, f.Last, f.Sum, f.Totals, f.Summed = path, end.Last, end.Sum, end.Totals, true
	f.Lines, f.Verified = int(f.Last-f.First+1), end.Lines
	return f, days, true, nil
}
