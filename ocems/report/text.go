package report

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Text writes the report for a terminal, without colour, 110 columns wide.
func (r *Report) Text(w io.Writer) error {
	out := bufio.NewWriter(w)
	r.head(out)
	for _, d := range r.Devices {
		fmt.Fprintf(out, "\n%s\n", plain(d.title()))
		d.table(out)
		for _, note := range d.notes() {
			fmt.Fprintln(out, "  "+plain(note))
		}
		for i := range d.Parameters {
			p := &d.Parameters[i]
			for j := range p.Calibrations {
				fmt.Fprintf(out, "  %s, calibration: %s\n", plain(p.name()), p.Calibrations[j].String())
			}
		}
	}
	if c := r.Board; c != nil {
		fmt.Fprintf(out, "\n%s\n", plain(c.Verdict()))
		for _, d := range c.Shown() {
			fmt.Fprintf(out, "  %s %s\n", plain(d.Device), plain(d.String()))
		}
		if n := c.More(); n > 0 {
			fmt.Fprintf(out, "  and %d more: --format json has all\n", n)
		}
	}
	if legend := r.legend(); legend != "" {
		fmt.Fprintf(out, "\nSlots by their stamp in IST: %s\n", legend)
	}
	for _, d := range r.Devices {
		if len(d.Days) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%-12s", plain(d.ID))
		if utf8.RuneCountInString(d.ID) > 11 {
			fmt.Fprintf(out, "\n%12s", "")
		}
		for hour := range 24 {
			fmt.Fprintf(out, "%02d", hour)
			if hour < 23 {
				fmt.Fprint(out, "  ")
			}
		}
		fmt.Fprintln(out)
		for _, day := range d.Days {
			fmt.Fprintf(out, "%-12s%s\n", day.Date, strings.TrimRight(blocks.Replace(day.Slots), " "))
		}
	}
	return out.Flush()
}

// head writes the part before the devices.
func (r *Report) head(out io.Writer) {
	fmt.Fprintf(out, "%s\n%s\n%s\n", r.Verdict, r.headline(), r.made())
	for _, t := range r.Trails {
		fmt.Fprintf(out, "  %s: %s\n", plain(t.Name), plain(t.verdict()))
		if t.Last != "" {
			fmt.Fprintf(out, "    last line's SHA-256 %s\n", t.Last)
		}
	}
	for _, note := range r.notes() {
		fmt.Fprintln(out, note)
	}
}

// blocks are the cells of a terminal.
var blocks = func() *strings.Replacer {
	pairs := []string{string(calendar.LetterOutside), " "}
	for _, c := range cells {
		pairs = append(pairs, string(c.Letter), c.Block)
	}
	return strings.NewReplacer(pairs...)
}()

func (r *Report) legend() string {
	var list []string
	for _, c := range cells {
		for _, d := range r.Devices {
			if d.has(c.Letter) {
				list = append(list, c.Block+" "+c.Name)
				break
			}
		}
	}
	return strings.Join(list, ", ")
}

func (d *Device) has(letter rune) bool {
	for _, day := range d.Days {
		if strings.ContainsRune(day.Slots, letter) {
			return true
		}
	}
	return false
}

type column struct {
	name  string
	count func(p *Parameter) int
	bad   bool
}

// columns are the counts of a parameter. Delivered includes late, and missing includes host off.
var columns = []column{
	{"expected", func(p *Parameter) int { return p.Expected }, false},
	{"delivered", func(p *Parameter) int { return p.Delivered }, false},
	{"late", func(p *Parameter) int { return p.Late }, false},
	{"already stored", func(p *Parameter) int { return p.AlreadyStored }, false},
	{"waiting", func(p *Parameter) int { return p.Waiting }, true},
	{"refused", func(p *Parameter) int { return p.Refused }, true},
	{"rejected", func(p *Parameter) int { return p.Rejected }, true},
	{"expired", func(p *Parameter) int { return p.Expired }, true},
	{"excluded", func(p *Parameter) int { return p.Excluded }, true},
	{"missing", func(p *Parameter) int { return p.Missing }, true},
	{"host off", func(p *Parameter) int { return p.HostOff }, true},
	{"calibration", func(p *Parameter) int { return p.Calibration }, false},
}

// always are the columns that a terminal shows even if they are all zero.
var always = []string{"expected", "delivered", "missing"}

// verdict is one sentence on the whole report. Trails alone do not show a slot that still waits, nor a parameter that never
// reported.
func (r *Report) verdict(trailsOnly bool) string {
	var all Parameter
	for _, d := range r.Devices {
		for i := range d.Parameters {
			all.add(&d.Parameters[i])
		}
	}
	due, reached := all.Expected-all.Calibration, all.Delivered+all.AlreadyStored
	text := "No slot was due in the period."
	switch {
	case due > 0 && reached == due && trailsOnly:
		text = fmt.Sprintf("All values that are due by the trails reached the board: %d (--config also counts what waits).", due)
	case due > 0 && reached == due:
		text = fmt.Sprintf("All values that were due reached the board: %d.", due)
	case due > 0:
		var lost []string
		for _, c := range columns {
			if n := c.count(&all); c.bad && n > 0 && c.name != "host off" {
				lost = append(lost, fmt.Sprintf("%s %d", c.name, n))
			}
		}
		text = fmt.Sprintf("%d of %d values that were due reached the board, %s: %s.", reached, due, percent(shareOf(reached, due)), strings.Join(lost, ", "))
	case all.Expected > 0:
		text = "All slots of the period are calibrations."
	}
	if !r.Verified {
		text = "NOT VERIFIED, see the trails. " + text
	}
	return text
}

func (p *Parameter) add(x *Parameter) {
	p.Expected += x.Expected
	p.Delivered += x.Delivered
	p.Late += x.Late
	p.AlreadyStored += x.AlreadyStored
	p.Waiting += x.Waiting
	p.Refused += x.Refused
	p.Rejected += x.Rejected
	p.Expired += x.Expired
	p.Excluded += x.Excluded
	p.Missing += x.Missing
	p.HostOff += x.HostOff
	p.Calibration += x.Calibration
}

func (r *Report) made() string {
	return fmt.Sprintf("Made %s IST by %s", clock(r.Made), r.Software)
}

func (r *Report) headline() string {
	if r.Period == nil {
		return "The period is empty."
	}
	return fmt.Sprintf("Slots stamped %s to %s IST, %d of each parameter", clock(r.Period.First), clock(r.Period.Last), r.Period.Slots)
}

// mostOff is how many times of one kind are listed.
const mostOff = 10

func (r *Report) notes() []string {
	var list []string
	for i, x := range r.Off {
		if i == mostOff {
			list = append(list, fmt.Sprintf("The host was off %d more times.", len(r.Off)-i))
			break
		}
		list = append(list, x.text(len(r.Trails) > 1))
	}
	list = append(list, outageTexts(r.Outages, "The board's server did not answer")...)
	if r.OffGrid > 0 {
		list = append(list, spec.Counted(r.OffGrid, "reading")+" stamped off the 15-minute grid, in no slot.")
	}
	if r.Unnamed != (Samples{}) {
		list = append(list, fmt.Sprintf("Samples without a device: %d late, %d refused.", r.Unnamed.Late, r.Unnamed.Refused))
	}
	return list
}

func (x Off) text(several bool) string {
	which := "The host"
	if several {
		which += " of " + plain(x.Trail)
	}
	if x.Killed {
		return fmt.Sprintf("%s was off: it ran at least until %s and was started at %s.", which, clock(x.From), clock(x.To))
	}
	return fmt.Sprintf("%s was off from %s to %s.", which, clock(x.From), clock(x.To))
}

func (d *Device) title() string {
	if d.Station == "" {
		return "Device " + d.ID
	}
	return "Device " + d.ID + " of station " + d.Station
}

func (d *Device) notes() []string {
	list := outageTexts(d.Held, "The device was held")
	if d.Other != (Samples{}) {
		list = append(list, fmt.Sprintf("Samples without a parameter: %d late, %d refused.", d.Other.Late, d.Other.Refused))
	}
	for _, p := range d.Parameters {
		if p.Points != (Points{}) {
			list = append(list, fmt.Sprintf("%s, 30-second points of calibrations: %d delivered, %d rejected, %d expired.", p.name(), p.Points.Delivered, p.Points.Rejected, p.Points.Expired))
		}
	}
	for i := range d.Parameters {
		p := &d.Parameters[i]
		switch {
		case p.Trouble != "":
			list = append(list, fmt.Sprintf("%s: %s. Do: %s.", p.name(), p.Trouble, p.Cure))
		case p.Refused > 0:
			list = append(list, fmt.Sprintf("%s: the board refuses it%s; its slots wait.", p.name(), meaning(p.Code)))
		}
		if p.Undecided > 0 && !p.asked {
			list = append(list, fmt.Sprintf("%s, slots that wait for a person to decide because their readings cover fewer minutes than min_coverage requires: %d. Lower min_coverage, or set below_min_coverage to leave_out.", p.name(), p.Undecided))
		}
		if left := p.leftOut(); left != "" {
			list = append(list, p.name()+", readings in no slot: "+left+".")
		}
	}
	for _, p := range d.Parameters {
		if p.Unverified > 0 {
			list = append(list, fmt.Sprintf("%s: %s from lines that are not verified.", p.name(), spec.Counted(p.Unverified, "slot")))
		}
		if p.Expected == 0 && p.Samples != (Samples{}) {
			list = append(list, p.name()+": the trails have only samples of it, no slot.")
		}
	}
	return list
}

// meaning is a status code or another hold reason in words.
func meaning(code string) string {
	if n, err := strconv.Atoi(code); err == nil {
		return fmt.Sprintf(" with %s, %s", code, strings.ToLower(spec.Status(n).Description()))
	}
	if code == "" {
		return ""
	}
	return ": " + strings.ReplaceAll(code, "_", " ")
}

// leftOut lists the reasons why readings are in no slot.
func (p *Parameter) leftOut() string {
	var list []string
	for _, reason := range slices.Sorted(maps.Keys(p.LeftOut)) {
		list = append(list, fmt.Sprintf("%s %d", strings.ReplaceAll(reason, "_", " "), p.LeftOut[reason]))
	}
	return strings.Join(list, ", ")
}

func (p *Parameter) name() string {
	if p.Diagnostic {
		return p.Parameter + " (diagnostic)"
	}
	return p.Parameter
}

func (d *Device) table(w io.Writer) {
	shown := slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !slices.Contains(always, c.name) && !slices.ContainsFunc(d.Parameters, func(p Parameter) bool { return c.count(&p) > 0 })
	})
	rows := [][]string{{"parameter"}}
	for _, c := range shown {
		rows[0] = append(rows[0], c.name)
	}
	rows[0] = append(rows[0], "share", "longest gap")
	for i := range d.Parameters {
		p := &d.Parameters[i]
		row := []string{plain(p.name())}
		for _, c := range shown {
			row = append(row, strconv.Itoa(c.count(p)))
		}
		rows = append(rows, append(row, percent(p.Share), p.LongestGap.String()))
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			switch i {
			case 0:
				fmt.Fprint(w, "  ", cell, pad)
			case len(row) - 1:
				fmt.Fprint(w, "  ", cell)
			default:
				fmt.Fprint(w, "  ", pad, cell)
			}
		}
		fmt.Fprintln(w)
	}
}

// plain removes terminal control characters, which an altered trail may have.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
