package report

import (
	"bufio"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/calendar"
	"github.com/ocems-io/ocems/ocems/spec"
)

//go:embed report.html
var page string

var pages = template.Must(template.New("report").Parse(page))

// OnePage is how many devices one page has at most.
const OnePage = 50

// HTML writes one self-contained page: no script, no other host. The cells' titles have the readings if the Builder kept
// them.
func (r *Report) HTML(w io.Writer) error {
	v := r.view()
	for i := range r.Devices {
		v.Devices = append(v.Devices, deviceView{&r.Devices[i], r})
	}
	return write(w, v)
}

// Site writes an index at path, and a page for each device into the folder with the same name without .html. After each page
// it calls done, which may be nil.
func (r *Report) Site(path string, done func(pages int)) error {
	v := r.view()
	folder := strings.TrimSuffix(path, filepath.Ext(path))
	if folder == path {
		return fmt.Errorf("%s: the name of an index must end with .html", path)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	names := map[string]bool{}
	for i := range r.Devices {
		d := &r.Devices[i]
		name := strings.Map(func(c rune) rune {
			if c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_.", c)) {
				return c
			}
			return '_'
		}, d.ID)
		for n, given := 2, name; names[strings.ToLower(name)]; n++ { // file systems may ignore case
			name = fmt.Sprintf("%s-%d", given, n)
		}
		names[strings.ToLower(name)] = true
		v.Index = append(v.Index, indexView{deviceView{d, r}, filepath.Base(folder) + "/" + name + ".html"})
	}
	errs := make([]error, len(v.Index))
	var written atomic.Int64
	inParallel(len(v.Index), func(i int) {
		one := r.view()
		one.Verdict, one.Trails, one.Notes, one.Devices, one.Up = v.Index[i].Summary(), nil, nil, []deviceView{v.Index[i].deviceView}, "../"+filepath.Base(path)
		errs[i] = writeFile(filepath.Join(filepath.Dir(path), filepath.FromSlash(v.Index[i].Link)), one)
		if n := written.Add(1); done != nil {
			done(int(n))
		}
	})
	return cmp.Or(errors.Join(errs...), writeFile(path, v))
}

func writeFile(path string, v view) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f, v), f.Close())
}

func write(w io.Writer, v view) error {
	out := bufio.NewWriterSize(w, 64<<10)
	if err := pages.Execute(out, v); err != nil {
		return fmt.Errorf("writing HTML: %w", err)
	}
	return out.Flush()
}

func (r *Report) view() view {
	v := view{Report: r, Verdict: r.Verdict, Headline: r.headline(), MadeBy: r.made(), Notes: r.notes()}
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
	return v
}

type view struct {
	*Report
	Verdict  string
	Headline string
	MadeBy   string
	Notes    []string
	Hours    []string
	Legend   []cellView
	Trails   []trailView
	Devices  []deviceView
	Notice   *Notice
	Whole    string
	Index    []indexView // of many devices, each with its own page
	Up       string      // link to the index
}

// CalibrationColumns are the column names of [deviceView.Calibrations].
func (v view) CalibrationColumns() []string {
	return []string{"parameter", "unit", "zero", "zero drift", "span", "span drift", "stamps of the points"}
}

type indexView struct {
	deviceView
	Link string
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

var classes = map[byte]string{calendar.LetterDelivered: "d", calendar.LetterPartly: "p", calendar.LetterMissing: "m", calendar.LetterRejected: "r", calendar.LetterExpired: "e",
	calendar.LetterExcluded: "x", calendar.LetterWaiting: "w", calendar.LetterRefused: "b", calendar.LetterCalibration: "c", calendar.LetterUnverified: "u", calendar.LetterOutside: "o"}

// letter distinguishes the cells without colours.
func letter(c byte) string {
	if c == calendar.LetterOutside {
		return ""
	}
	return string(rune(c))
}

func (d deviceView) Title() string   { return d.title() }
func (d deviceView) Notes() []string { return d.notes() }

// Share is the part of the device's due values that reached the board.
func (d deviceView) Share() string {
	share, _, _ := d.sum()
	return percent(share)
}

// Lost is how many due values did not reach the board.
func (d deviceView) Lost() int {
	_, lost, _ := d.sum()
	return lost
}

func (d deviceView) sum() (share *float64, lost, due int) {
	reached := 0
	for i := range d.Parameters {
		p := &d.Parameters[i]
		reached += p.Delivered + p.AlreadyStored
		due += p.Expected - p.Calibration
		lost += p.lost()
	}
	return shareOf(reached, due), lost, due
}

// Summary is one sentence on all parameters of the device.
func (d deviceView) Summary() string {
	share, lost, due := d.sum()
	if due == 0 {
		return "no slot"
	}
	return fmt.Sprintf("%s delivered, %d of %d values not at the board", percent(share), lost, due)
}

// Calibrations lists the calibrations of all parameters, newest first for each.
func (d deviceView) Calibrations() (rows [][]string) {
	text := func(v *float64, points int) string {
		if v == nil {
			return "–"
		}
		return fmt.Sprintf("%s (%s)", number(*v), spec.Counted(points, "point"))
	}
	drift := func(v *float64) string {
		if v == nil {
			return "–"
		}
		return signed(*v)
	}
	for _, p := range d.Parameters {
		for _, c := range p.Calibrations {
			rows = append(rows, []string{p.name(), p.Unit, text(c.Zero, c.ZeroPoints), drift(c.ZeroDrift), text(c.Span, c.SpanPoints), drift(c.SpanDrift), span(c.First, c.Last)})
		}
	}
	return rows
}

type field struct {
	Label, Text string
	Bad         bool
}

// Pieces are the parts of a text between which it may wrap.
func (f field) Pieces() []string {
	return strings.Split(strings.NewReplacer("– ", "–\n", ", ", ",\n").Replace(f.Text), "\n")
}

// Rows is the table of parameters. Labels are shown on narrow screens, where a row becomes a card.
func (d deviceView) Rows() (rows []struct {
	Name   string
	Fields []field
}) {
	for _, p := range d.Parameters {
		var fields []field
		for _, c := range columns {
			n := c.count(&p)
			fields = append(fields, field{c.name, strconv.Itoa(n), c.bad && n > 0})
		}
		rows = append(rows, struct {
			Name   string
			Fields []field
		}{p.name(), append(fields, field{"share", percent(p.Share), false}, field{"longest gap", p.LongestGap.String(), false})})
	}
	return rows
}

// Cells is the cells of one day. It is not a template, since a page of a month has thousands of cells.
func (d deviceView) Cells(day Day) template.HTML {
	var b strings.Builder
	for i := range len(day.Slots) {
		c := day.Slots[i]
		b.WriteString(`<td class="` + classes[c] + `"`)
		if c != calendar.LetterOutside && (d.r.Readings || c != calendar.LetterDelivered) {
			b.WriteString(` title="` + template.HTMLEscapeString(d.says(day, i)) + `"`)
		}
		b.WriteString(">" + letter(c) + "</td>")
	}
	return template.HTML(b.String())
}

func (d deviceView) says(day Day, at int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %02d:%02d", day.Date, at/4, at%4*15)
	for i, s := range d.series {
		if !s.closed {
			continue
		}
		today := s.day(day.day)
		class, verified := s.state(today, day.day, at)
		if class == calendar.Outside {
			continue
		}
		b.WriteString("\n" + d.Parameters[i].name() + " ")
		if value := d.value(today, at); value != "" && class != calendar.Calibration {
			b.WriteString(value)
			if class != calendar.Delivered {
				b.WriteString(", " + class.String())
			}
		} else {
			b.WriteString(class.String())
		}
		if !verified {
			b.WriteString(", not verified")
		}
	}
	return b.String()
}

// Values is the table of one day: four lines of 24 hours for each parameter.
func (d deviceView) Values(day Day) template.HTML {
	var b strings.Builder
	for i, s := range d.series {
		today := s.day(day.day)
		from := firstOf(day.day)
		if !s.closed || from > s.last || from+slotsADay <= s.first {
			continue
		}
		p := &d.Parameters[i]
		b.WriteString(`<tbody>`)
		for quarter := range 4 {
			b.WriteString(`<tr>`)
			if quarter == 0 {
				fmt.Fprintf(&b, `<th scope="rowgroup" rowspan="4">%s<br>%s</th>`, template.HTMLEscapeString(p.name()), template.HTMLEscapeString(p.Unit))
			}
			fmt.Fprintf(&b, `<th scope="row">:%02d</th>`, quarter*15)
			for hour := range 24 {
				class, text := s.shown(today, day.day, hour*4+quarter)
				b.WriteString(`<td class="` + class + `">` + text + `</td>`)
			}
			b.WriteString(`</tr>`)
		}
		b.WriteString(`</tbody>`)
	}
	return template.HTML(b.String())
}

// shown is a slot in the table of values: a slot at the board has no letter. Readings that were left out are not shown.
func (s *series) shown(today *day, n int64, at int) (class, text string) {
	c, verified := s.state(today, n, at)
	l := c.Letter()
	if !verified {
		l = calendar.LetterUnverified
	}
	if class = classes[l]; l != calendar.LetterDelivered {
		text = letter(l)
	}
	if c == calendar.Outside || c == calendar.Excluded || c == calendar.Calibration || today == nil || today.readings == nil || today.readings[at] == (reading{}) {
		return class, text
	}
	x := today.readings[at]
	if text != "" {
		text += " "
	}
	text += strconv.FormatFloat(x.value, 'f', -1, 64)
	if x.flag != byte(spec.FlagNormal) {
		text += " " + template.HTMLEscapeString(string(rune(x.flag)))
	}
	return class, text
}

// value is a slot's value, or "" if it is not known.
func (d deviceView) value(day *day, at int) string {
	if day == nil || day.readings == nil || day.readings[at] == (reading{}) {
		return ""
	}
	x := day.readings[at]
	text := strconv.FormatFloat(x.value, 'f', -1, 64) + " " + d.r.unitNames[x.unit]
	if x.flag != byte(spec.FlagNormal) {
		text += " flag " + string(rune(x.flag))
	}
	return text
}
