package report

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Notice answers a notice of the board: unusual runs in the period, with their lines in the trails.
type Notice struct {
	*Report
	Findings []Finding `json:"findings"`
}

// Finding is a run of slots of one parameter. First and Last are stamps.
type Finding struct {
	Kind       string    `json:"kind"` // gap, flat line, delivered late or calibration
	Station    string    `json:"station"`
	Device     string    `json:"device"`
	Parameter  string    `json:"parameter"`
	Diagnostic bool      `json:"diagnostic,omitempty"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Slots      int       `json:"slots,omitempty"`
	Text       string    `json:"text"`
	Outages    []Outage  `json:"outages,omitempty"` // that explain it
	Lines      []Line    `json:"lines"`
	More       int       `json:"lines_not_shown,omitempty"`

	made  bool      // slots were made
	waits bool      // some still wait
	until time.Time // when the last of the others had its outcome
	trail int       // of the device; negative: none or several
}

// Line is one line of a trail, of one parameter.
type Line struct {
	Trail   string         `json:"trail"`
	Number  uint64         `json:"n"`
	Written time.Time      `json:"written"`
	Stamp   time.Time      `json:"stamp"`
	Outcome audit.Outcome  `json:"outcome"`
	Reading *audit.Reading `json:"reading,omitempty"`
	Status  *int           `json:"status,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Count   int            `json:"count,omitempty"`
	Detail  string         `json:"detail,omitempty"`
}

// mostEvidence is how many lines a finding has at most.
const mostEvidence = 1000

// Notice finds gaps, flat lines of at least flat slots, late deliveries and calibrations, and reads the trails again for their
// lines. It needs Options.Readings and Options.Verify.
func (b *Builder) Notice(flat int) (*Notice, error) {
	r, err := b.Report()
	if err != nil {
		return nil, err
	}
	n := &Notice{Report: r, Findings: []Finding{}}
	for i := range r.Devices {
		d := &r.Devices[i]
		for j, s := range d.series {
			p := &d.Parameters[j]
			for _, f := range append(b.runs(s, flat), calibrationsOf(p)...) {
				f.Station, f.Device, f.Parameter, f.Diagnostic, f.Lines, f.trail = d.Station, d.ID, p.Parameter, p.Diagnostic, []Line{}, b.devices[d.ID].trail
				n.Findings = append(n.Findings, f)
			}
		}
	}
	return n, n.collect()
}

func calibrationsOf(p *Parameter) (list []Finding) {
	for i := range p.Calibrations {
		c := &p.Calibrations[i]
		list = append(list, Finding{Kind: "calibration", First: c.First, Last: c.Last, Text: c.String()})
	}
	return list
}

// runs returns the gaps, flat lines and late deliveries of a parameter, in order.
func (b *Builder) runs(s *series, flat int) (list []Finding) {
	if !s.closed {
		return nil
	}
	hostOff := s.hostOff
	var gap, late, equal struct{ from, n int64 }
	var value reading
	var counts calendar.Counts
	off, before, asked, begun := 0, 0, 0, b.firstWindow()
	end := func(x *struct{ from, n int64 }, kind, text string) {
		list = append(list, Finding{Kind: kind, First: at(x.from), Last: at(x.from + x.n - 1), Slots: int(x.n), Text: text})
	}
	for slot := s.first; slot <= s.last+1; slot++ {
		class, now := calendar.Outside, reading{}
		if slot <= s.last {
			n, at := split(slot)
			today := s.day(n)
			class, _ = s.state(today, n, at)
			if class > calendar.Excluded && class != calendar.Calibration && today.readings != nil {
				now = today.readings[at]
			}
		}
		if class > calendar.Outside && class < calendar.Stored {
			if gap.n == 0 {
				gap.from, counts, off, before, asked = slot, calendar.Counts{}, 0, 0, 0
			}
			gap.n++
			counts[class]++
			switch {
			case class == calendar.Waiting && s.undecided[slot]:
				asked++
			case class != calendar.Missing:
			case hostOff[slot]:
				off++
			case slot < begun:
				before++
			}
		} else if gap.n > 0 {
			end(&gap, "gap", gapText(counts, off, before, asked, b.marked))
			f := &list[len(list)-1]
			f.waits = counts[calendar.Waiting]+counts[calendar.Refused] > 0
			f.made = f.waits || counts[calendar.Expired]+counts[calendar.Rejected] > 0
			gap.n = 0
		}
		if class == calendar.Late {
			if late.n == 0 {
				late.from = slot
			}
			late.n++
		} else if late.n > 0 {
			end(&late, "delivered late", "delivered more than 30 minutes after the stamp")
			list[len(list)-1].made = true
			late.n = 0
		}
		if now != (reading{}) && now == value {
			equal.n++
			continue
		}
		if equal.n >= int64(flat) {
			end(&equal, "flat line", fmt.Sprintf("each slot has the value %s %s", strconv.FormatFloat(value.value, 'f', -1, 64), b.unitNames[value.unit]))
		}
		equal.from, equal.n, value = slot, 0, now
		if now != (reading{}) {
			equal.n = 1
		}
	}
	return list
}

// firstWindow is the first slot for which the trails can show whether the host ran.
func (b *Builder) firstWindow() int64 {
	return floor(b.begun.UnixMilli(), slotMillis) + b.shift()
}

func gapText(counts calendar.Counts, off, before, asked int, known bool) string {
	var list []string
	for i, n := range counts {
		class := calendar.Class(i)
		if n == 0 {
			continue
		}
		text := fmt.Sprintf("%s %d", class.String(), n)
		switch {
		case class == calendar.Waiting && asked > 0:
			text += fmt.Sprintf(", %d of them for a person to decide, because of min_coverage", asked)
		case class != calendar.Missing:
		case off == n:
			text += ", because the host was off"
		case off > 0:
			text += fmt.Sprintf(", %d of them while the host was off", off)
		case before == n:
			text += ", before the first line of the trail"
		case before > 0:
			text += fmt.Sprintf(", %d of them before the first line of the trail", before)
		case known:
			text += ", although the host ran: it got no reading"
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}

// collect reads the lines of the findings, and of the outages.
func (n *Notice) collect() error {
	byDevice := map[string][]*Finding{}
	for i := range n.Findings {
		f := &n.Findings[i]
		byDevice[f.Device] = append(byDevice[f.Device], f)
	}
	outages := map[outageKey][]Line{}
	for i := range n.Trails {
		name := n.Trails[i].Name
		_, err := audit.Scan(name, func(e *audit.Entry, _ bool) {
			stamp := time.UnixMilli(e.Stamp).In(spec.IST)
			switch e.Outcome {
			case audit.Unreachable, audit.Reachable, audit.Held, audit.Released:
				key := outageKey{e.Device, e.Stamp}
				outages[key] = append(outages[key], lineOf(name, e, stamp))
				return
			}
			for _, f := range byDevice[e.Device] {
				if e.Stamp == 0 || stamp.Before(f.First) || stamp.After(f.Last) {
					continue
				}
				f.take(name, e, stamp)
			}
		})
		if err != nil {
			return err
		}
	}
	n.prove(outages)
	return nil
}

func lineOf(trail string, e *audit.Entry, stamp time.Time) Line {
	return Line{Trail: trail, Number: e.Number, Written: e.Time.In(spec.IST), Stamp: stamp, Outcome: e.Outcome, Status: e.Status, Reason: e.Reason, Count: e.Count, Detail: e.Detail}
}

func (f *Finding) take(trail string, e *audit.Entry, stamp time.Time) {
	line := lineOf(trail, e, stamp)
	for i := range e.Readings {
		if x := &e.Readings[i]; x.Parameter == f.Parameter && x.Diagnostic == f.Diagnostic {
			if x.Calibration() != (f.Kind == "calibration") {
				return
			}
			line.Reading = x
		}
	}
	if line.Reading == nil && e.Parameter != f.Parameter {
		return
	}
	if line.Written.After(f.until) {
		f.until = line.Written
	}
	if len(f.Lines) == mostEvidence {
		f.More++
		return
	}
	f.Lines = append(f.Lines, line)
}

// Title has the kind, parameter and time.
func (f *Finding) Title() string {
	text := f.Kind + ": " + (&Parameter{Parameter: f.Parameter, Diagnostic: f.Diagnostic}).name()
	if f.Slots > 0 {
		text += ", " + span(f.First, f.Last) + ", " + spec.Counted(f.Slots, "slot")
	}
	return text
}

// Value is the reading of a line, with the number and range of its samples if they are known.
func (l Line) Value() string {
	if l.Reading == nil {
		return ""
	}
	text := strings.TrimSpace(strconv.FormatFloat(l.Reading.Value, 'f', -1, 64) + " " + l.Reading.Unit)
	if l.Reading.Flag != "U" && l.Reading.Flag != "" {
		text += " flag " + l.Reading.Flag
	}
	if n := l.Reading.Samples; n > 0 {
		text += ", of " + spec.Counted(n, "reading")
	}
	if r := l.Reading.Range; r != [2]float64{} {
		text += fmt.Sprintf(", %s to %s", strconv.FormatFloat(r[0], 'f', -1, 64), strconv.FormatFloat(r[1], 'f', -1, 64))
	}
	return text
}

// Result is the outcome.
func (l Line) Result() string {
	text := strings.ReplaceAll(string(l.Outcome), "_", " ")
	if l.Reason != "" {
		text += ", " + strings.ReplaceAll(l.Reason, "_", " ")
	}
	if l.Count > 0 {
		text += ", " + spec.Counted(l.Count, "reading")
	}
	if l.Status != nil {
		text += fmt.Sprintf(", status %d", *l.Status)
	}
	return text
}

// Place is the line's file and number.
func (l Line) Place() string { return fmt.Sprintf("%s line %d", filepath.Base(l.Trail), l.Number) }

// StampText and WrittenText are times in the board's format.
func (l Line) StampText() string   { return l.Stamp.Format(time.DateTime) }
func (l Line) WrittenText() string { return l.Written.Format(time.DateTime) }

// whole says whether the trails are verified.
func (n *Notice) whole() string {
	if n.Verified {
		return "Every line of the trails was read, and their hash chain is intact. Each line has its number as n. If the board's server did not answer, or the device was held, for 5 minutes or more, the trail has the number of attempts. The host's log has every attempt."
	}
	return "The hash chain is NOT intact, see the trails."
}

// Text writes it for a terminal.
func (n *Notice) Text(w io.Writer) error {
	out := bufio.NewWriter(w)
	n.head(out)
	fmt.Fprintln(out, n.whole())
	device := ""
	for i := range n.Findings {
		f := &n.Findings[i]
		if d := (&Device{Station: f.Station, ID: f.Device}).title(); d != device {
			device = d
			fmt.Fprintf(out, "\n%s\n", plain(d))
		}
		fmt.Fprintf(out, "\n  %s\n  %s\n", plain(f.Title()), plain(f.Text))
		for _, o := range f.Outages {
			fmt.Fprintf(out, "  %s\n", o.Proof())
		}
		if len(f.Lines) == 0 {
			fmt.Fprintln(out, "    no line in the trails")
		}
		for _, l := range f.Lines {
			fmt.Fprintf(out, "    %s  %-14s %s, written %s, %s\n", l.StampText(), plain(l.Value()), plain(l.Result()), l.WrittenText(), plain(l.Place()))
			if l.Detail != "" {
				fmt.Fprintf(out, "      %s\n", plain(l.Detail))
			}
		}
		if f.More > 0 {
			fmt.Fprintf(out, "    and %d more lines\n", f.More)
		}
	}
	if len(n.Findings) == 0 {
		fmt.Fprintln(out, "No gap, no flat line, no late delivery and no calibration.")
	}
	return out.Flush()
}

// JSON writes it as one object.
func (n *Notice) JSON(w io.Writer) error { return writeJSON(w, n) }

// HTML writes it as a page.
func (n *Notice) HTML(w io.Writer) error {
	v := n.view()
	v.Notice, v.Whole = n, n.whole()
	return write(w, v)
}
