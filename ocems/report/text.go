package report

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text writes the report for a terminal, without colour, 110 columns wide.
func (r *Report) Text(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s\n", r.headline())
	for _, t := range r.Trails {
		fmt.Fprintf(out, "  %s: %s\n", plain(t.Name), plain(t.verdict()))
		if t.Last != "" {
			fmt.Fprintf(out, "    last line's SHA-256 %s\n", t.Last)
		}
	}
	for _, note := range r.notes() {
		fmt.Fprintln(out, note)
	}
	for _, d := range r.Devices {
		fmt.Fprintf(out, "\n%s\n", plain(d.title()))
		d.table(out)
		for _, note := range d.notes() {
			fmt.Fprintln(out, "  "+plain(note))
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

// blocks are the cells of a terminal.
var blocks = func() *strings.Replacer {
	pairs := []string{string(cellOutside), " "}
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

func (r *Report) headline() string {
	if r.Period == nil {
		return "No slot is in the period."
	}
	return fmt.Sprintf("Slots stamped %s to %s IST, %d of each parameter", r.Period.First.Format("2006-01-02 15:04"), r.Period.Last.Format("2006-01-02 15:04"), r.Period.Slots)
}

func (r *Report) notes() []string {
	var list []string
	if r.OffGrid > 0 {
		list = append(list, count(r.OffGrid, "reading")+" stamped off the grid of slots, and counted in none.")
	}
	if r.Unnamed != (Samples{}) {
		list = append(list, fmt.Sprintf("Samples that name no device: %d late, %d refused.", r.Unnamed.Late, r.Unnamed.Refused))
	}
	return list
}

func (d *Device) title() string {
	if d.Station == "" {
		return "Device " + d.ID
	}
	return "Device " + d.ID + " of station " + d.Station
}

func (d *Device) notes() []string {
	var list []string
	if d.Other != (Samples{}) {
		list = append(list, fmt.Sprintf("Samples that name no parameter: %d late, %d refused.", d.Other.Late, d.Other.Refused))
	}
	for _, p := range d.Parameters {
		if p.Points != (Points{}) {
			list = append(list, fmt.Sprintf("%s, 30-second points of calibrations: %d delivered, %d rejected, %d expired.", p.name(), p.Points.Delivered, p.Points.Rejected, p.Points.Expired))
		}
	}
	for _, p := range d.Parameters {
		if p.Unverified > 0 {
			list = append(list, fmt.Sprintf("%s: for %s only lines speak that are not verified.", p.name(), count(p.Unverified, "slot")))
		}
		if p.Expected == 0 && p.Samples != (Samples{}) {
			list = append(list, p.name()+": the trails have no slot of it, only samples.")
		}
	}
	return list
}

func (p *Parameter) name() string {
	if p.Diagnostic {
		return p.Parameter + " (diagnostic)"
	}
	return p.Parameter
}

func (d *Device) table(w io.Writer) {
	rows := [][]string{{"parameter", "expected", "delivered", "stored", "rejected", "expired", "missing", "calib.", "share", "late", "refused", "longest gap"}}
	for _, p := range d.Parameters {
		row := []string{plain(p.name())}
		for _, n := range []int{p.Expected, p.Delivered, p.AlreadyStored, p.Rejected, p.Expired, p.Missing, p.Calibration} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, append(row, percent(p.Share), strconv.Itoa(p.Samples.Late), strconv.Itoa(p.Samples.Refused), p.LongestGap.String()))
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

// plain keeps an altered trail from writing to the terminal what it would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
