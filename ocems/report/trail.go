package report

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Trail is one file of a trail, with the result of checking its hash chain.
type Trail struct {
	Name       string `json:"name"`
	Lines      int    `json:"lines"`
	Verified   int    `json:"verified_lines"`
	Summed     bool   `json:"summed_up,omitempty"` // a closed file of which only the summary lines were read, and verified
	Unreadable int    `json:"unreadable_lines"`
	Recovered  int    `json:"recovered_lines"`        // notes about repaired damage
	Fault      string `json:"fault,omitempty"`        // the first altered, removed or inserted line
	Before     uint64 `json:"lines_before,omitempty"` // earlier lines of the trail, in files that were not given
	// Last is the SHA-256 of the last line. A hash chain does not show that its end was cut off. An older report does: its
	// hash is then no longer in the trail.
	Last string `json:"last_line_sha256,omitempty"`
}

// sums are the counts of one file.
type sums struct {
	file       audit.File
	verified   []*audit.Day
	unverified []*audit.Day
	recovered  int
	unreadable int
	times      hostTimes
	outages    []*audit.Outage
	over       time.Time // when the outages of earlier files ended
	first      time.Time
	marked     bool
	err        error
}

// Add reads trails, each with its files in order, several files in parallel. Its error is that of reading; a broken chain is
// not an error but part of the Report. After each file it calls read, which may be nil.
func (b *Builder) Add(trails [][]string, read func(files int)) error {
	var paths []string
	for _, files := range trails {
		paths = append(paths, files...)
	}
	results := make([]chan sums, len(paths))
	for i := range results {
		results[i] = make(chan sums, 1)
	}
	ahead := make(chan struct{}, 2*runtime.GOMAXPROCS(0)) // files read ahead are in memory until their turn
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i, path := range paths {
			select {
			case ahead <- struct{}{}:
			case <-stop:
				return
			}
			go func() { results[i] <- b.sumUp(path) }()
		}
	}()
	i := 0
	for trail, files := range trails {
		b.hosts, b.files = append(b.hosts, hostTimes{}), append(b.files, strings.Join(files[max(len(files)-1, 0):], ""))
		var before *audit.File
		for range files {
			x := <-results[i]
			<-ahead
			if i++; x.err != nil {
				return x.err
			}
			b.add(trail, &x, before)
			before = &x.file
			if read != nil {
				read(i)
			}
		}
	}
	return nil
}

func (b *Builder) sumUp(path string) (x sums) {
	if !b.o.Verify {
		var ok bool
		if x.file, x.verified, ok, x.err = audit.ScanSummary(path); x.err != nil || ok {
			if ok {
				t := x.file.Totals
				x.times.off, x.outages, x.over = t.Off, t.Outages, t.Over
			}
			return x
		}
	}
	var verified, unverified audit.Tally
	x.file, x.err = audit.Scan(path, func(e *audit.Entry, whole bool) {
		to := &verified
		if !whole {
			to = &unverified
		}
		to.Values = b.o.Readings && (b.o.Device == "" || b.o.Device == e.Device)
		to.Add(e)
	})
	x.verified, x.unverified = verified.Days(), unverified.Days()
	x.times.off, x.times.stopped, x.first = slices.Concat(verified.Off, unverified.Off), verified.Stopped(), verified.First()
	if !unverified.First().IsZero() {
		x.times.stopped = unverified.Stopped()
	}
	x.outages, x.over = slices.Concat(verified.Outages, unverified.Outages), cmp.Or(verified.Over, unverified.Over)
	x.marked = verified.Marked || unverified.Marked
	x.recovered, x.unreadable = verified.Recovered+unverified.Recovered, verified.Unreadable+unverified.Unreadable
	return x
}

func (b *Builder) add(trail int, x *sums, before *audit.File) {
	f := &x.file
	t := Trail{Name: f.Name, Lines: f.Lines, Verified: f.Verified, Summed: f.Summed, Unreadable: f.Unreadable + x.unreadable, Recovered: x.recovered, Fault: f.Fault}
	if f.Summed {
		t.Recovered, t.Unreadable = f.Totals.Recovered, f.Totals.Unreadable
	}
	switch {
	case before != nil:
		fault, whole := f.Follows(before)
		if fault != "" && t.Fault == "" {
			t.Fault, t.Summed = "line 1: "+fault, false
		}
		if !whole {
			t.Verified, x.unverified, x.verified = 0, append(x.unverified, x.verified...), nil
		}
	case f.First > 1 && t.Fault == "":
		t.Before = f.First - 1
	}
	if t.Fault == "" {
		t.Last = f.Sum
	}
	b.trails = append(b.trails, t)
	h := &b.hosts[trail]
	h.off, h.stopped = append(h.off, x.times.off...), x.times.stopped
	h.goOn(x, b.o.Device)
	b.marked = b.marked || x.marked
	if b.begun.IsZero() || !x.first.IsZero() && x.first.Before(b.begun) {
		b.begun = x.first
	}
	for _, d := range x.verified {
		b.take(trail, d, true)
	}
	for _, d := range x.unverified {
		b.take(trail, d, false)
	}
}

// inParallel calls do with each of 0 to n-1.
func inParallel(n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
}

// verdict is a sentence on a file.
func (t *Trail) verdict() string {
	text := ""
	switch {
	case t.Fault != "":
		text = fmt.Sprintf("NOT VERIFIED: %s. Only the first %d of %s are verified", t.Fault, t.Verified, spec.Counted(t.Lines, "line"))
	case t.Lines == 0:
		return "empty"
	case t.Summed:
		text = fmt.Sprintf("its summary is verified, %s (--verify reads every line)", spec.Counted(t.Lines, "line"))
	default:
		text = "verified, " + spec.Counted(t.Lines, "line")
	}
	if t.Before > 0 {
		text += fmt.Sprintf("; earlier lines of the trail that were not given: %d", t.Before)
	}
	if t.Unreadable > 0 {
		text += fmt.Sprintf("; unreadable lines: %d", t.Unreadable)
	}
	if t.Recovered > 0 {
		text += fmt.Sprintf("; %s of repaired damage", spec.Counted(t.Recovered, "note"))
	}
	return text
}
