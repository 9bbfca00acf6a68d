package report

import (
	"bufio"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Parse(page))

// HTML writes one page that needs nothing else: no script, no other host. The cells' titles have the readings if the
// Builder was told to keep them.
func (r *Report) HTML(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	v := view{Report: r, Headline: r.headline(), Notes: r.notes()}
	for hour := range 24 {
		v.Hours = append(v.Hours, fmt.Sprintf("%02d", hour))
	}
	for _, c := range cells {
		v.Legend = append(v.Legend, cellView{Class: classes[byte(c.Letter)], Letter: letter(byte(c.Letter)), Title: c.Name})
	}
	for i := range r.Trails {
		t := &r.Trails[i]
		v.Trails = append(v.Trails, trailView{t.Name, t.verdict(), t.Last, t.Fault == ""})
	}
	for i := range r.Devices {
		v.Devices = append(v.Devices, deviceView{&r.Devices[i], r})
	}
	if err := pageTemplate.Execute(out, v); err != nil {
		return fmt.Errorf("writing HTML: %w", err)
	}
	return out.Flush()
}

type view struct {
	*Report
	Headline string
	Notes    []string
	Hours    []string
	Legend   []cellView
	Trails   []trailView
	Devices  []deviceView
}

type trailView struct {
	Name, Verdict, Last string
	Verified            bool
}

type deviceView struct {
	*Device
	r *Report
}

type cellView struct{ Class, Letter, Title string }

var classes = map[byte]string{cellDelivered: "d", cellPartly: "p", cellMissing: "m", cellRejected: "r", cellExpired: "e",
	cellCalibration: "c", cellUnverified: "u", cellOutside: "o"}

// letter tells the cells apart where colours do not.
func letter(c byte) string {
	if c == cellOutside {
		return ""
	}
	return string(rune(c))
}

func (d deviceView) Title() string   { return d.title() }
func (d deviceView) Notes() []string { return d.notes() }

// Summary is one sentence on all of the device's parameters.
func (d deviceView) Summary() string {
	reached, due, lost := 0, 0, 0
	for _, p := range d.Parameters {
		reached += p.Delivered + p.AlreadyStored
		due += p.Expected - p.Calibration
		lost += p.Rejected + p.Expired + p.Missing
	}
	if due == 0 {
		return "no slot"
	}
	share := float64(reached*10000/due) / 100
	return fmt.Sprintf("%s delivered, %d of %d values missing, rejected or expired", percent(&share), lost, due)
}

type field struct {
	Label, Text string
	Bad         bool
}

// Pieces are what stays on one line.
func (f field) Pieces() []string {
	return strings.Split(strings.NewReplacer("– ", "–\n", ", ", ",\n").Replace(f.Text), "\n")
}

// Rows are the table of parameters. Labels are shown where a row becomes a card.
func (d deviceView) Rows() (rows []struct {
	Name   string
	Fields []field
}) {
	for _, p := range d.Parameters {
		n := func(label string, n int, bad bool) field { return field{label, strconv.Itoa(n), bad && n > 0} }
		rows = append(rows, struct {
			Name   string
			Fields []field
		}{p.name(), []field{
			n("expected", p.Expected, false), n("delivered", p.Delivered, false), n("already stored", p.AlreadyStored, false),
			n("rejected", p.Rejected, true), n("expired", p.Expired, true), n("missing", p.Missing, true), n("calibration", p.Calibration, false),
			{"share", percent(p.Share), false}, n("late samples", p.Samples.Late, true), n("refused samples", p.Samples.Refused, true),
			{"longest gap", p.LongestGap.String(), false}}})
	}
	return rows
}

// Cells are those of one day.
func (d deviceView) Cells(day Day) []cellView {
	out := make([]cellView, len(day.Slots))
	for i := range out {
		c := day.Slots[i]
		out[i] = cellView{Class: classes[c], Letter: letter(c)}
		if c != cellOutside {
			out[i].Title = d.says(day, i)
		}
	}
	return out
}

var outcomeNames = [...]string{missing: "missing", expired: "expired", rejected: "rejected", stored: "already stored", delivered: "delivered"}

func (d deviceView) says(day Day, at int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %02d:%02d", day.Date, at/4, at%4*15)
	for i, s := range d.series {
		if !s.closed {
			continue
		}
		outcome, calibration, verified := s.state(day.day, at)
		b.WriteString("\n" + d.Parameters[i].name() + " ")
		name := outcomeNames[outcome]
		if calibration {
			name = "calibration"
		}
		if s := s.days[day.day]; outcome != missing && s.readings != nil {
			x := s.readings[at]
			b.WriteString(strconv.FormatFloat(x.value, 'f', -1, 64) + " " + d.r.unitNames[x.unit])
			if x.flag != 'U' {
				b.WriteString(" flag " + string(rune(x.flag)))
			}
			if outcome != delivered {
				b.WriteString(", " + name)
			}
		} else {
			b.WriteString(name)
		}
		if !verified {
			b.WriteString(", not verified")
		}
	}
	return b.String()
}
