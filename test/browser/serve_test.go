package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	protocol "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/ocems-io/ocems/ocems/operator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/status"
)

// served returns the URL of the operator's page of a host. Its clock starts at the time of the pictures.
func served(t *testing.T, source operator.Source) string {
	t.Helper()
	chromium(t)
	began := time.Now()
	handler, err := operator.New(operator.Config{Now: func() time.Time { return weekEnds.Add(time.Since(began)) },
		Sources: func() ([]operator.Source, error) { return []operator.Source{source}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func plantPage(t *testing.T) (url string, source operator.Source) {
	t.Helper()
	source, err := fiveTroubles(t.TempDir(), weekEnds)
	if err != nil {
		t.Fatal(err)
	}
	return served(t, source), source
}

func rowOf(parameter string) string {
	return `[...document.querySelectorAll('.parameters tbody tr')].find(r => r.cells[1].textContent === '` + parameter + `')`
}

func TestOperatorSeesFiveTroubles(t *testing.T) {
	url, _ := plantPage(t)
	for _, width := range []int64{1280, 390} {
		for _, dark := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d px, dark %v", width, dark), func(t *testing.T) {
				p := visit(t, url, width, 900, dark)
				p.wait(t, drawn)
				if got := value[string](t, p, "document.querySelector('#light').dataset.level + ': ' + document.querySelector('#sentence').textContent"); got != "failed: 4 of 7 parameters need a person; the next slot, 16:30, is made at 16:30:35." {
					t.Errorf("the light says %q", got)
				}
				for parameter, want := range map[string][]string{
					"bod":   {"failed", "none", `no reading ever came: modbus has the fields`, `nearest: cod`, "Do: correct metric, field or tags"},
					"nh3-n": {"failed", "4.41 mg/L", "the board has refused it since 10:16: 119 invalid parameter", "Do: ask the board which key"},
					"tss":   {"warning", "28.4 mg/L", "all readings are equal since 08:46", "Do: check that the instrument measures"},
					"flow":  {"failed", "97 m3/hr", "12:00:00", "no reading since 12:00", "Do: look at the instrument, its cable"},
					"toc":   {"failed", "-9999 mg/L", "readings left out: 90 (invalid value), -9999 is one of invalid_values", "Do: look at the instrument, or correct"},
					"cod":   {"ok", "88.2 mg/L", "16:21:31", "72.1 to 111.9 mg/L", "16:15 delivered"},
				} {
					said := value[string](t, p, rowOf(parameter)+".innerText")
					for _, part := range want {
						if !strings.Contains(said, part) {
							t.Errorf("%s: no %q in %q", parameter, part, said)
						}
					}
				}
				for _, want := range []string{"25 slots waiting, from 10:15; nh3-n refused by the board", "81.31 % of 669 slots delivered, 10 of them late, 119 with some parameters only, 6 missing, 3 in calibration."} {
					if !strings.Contains(value[string](t, p, "document.querySelector('.device').innerText"), want) {
						t.Errorf("no %q", want)
					}
				}
				p.click(t, cell(time.Date(2026, 11, 24, 14, 0, 0, 0, spec.IST)))
				p.wait(t, "document.querySelectorAll('.slot td').length > 20")
				for _, bad := range value[[]string](t, p, contrast) {
					t.Errorf("contrast %s", bad)
				}
				if value[bool](t, p, sideways) {
					t.Errorf("the page is wider than %d px", width)
				}
			})
		}
	}
}

// The calendar shows all parameters or one. The keyboard reaches everything that the mouse reaches.
func TestOperatorLooksAtSlots(t *testing.T) {
	url, _ := plantPage(t)
	p := visit(t, url, 1280, 900, false)
	p.wait(t, drawn)
	two := time.Date(2026, 11, 24, 14, 0, 0, 0, spec.IST)
	for _, c := range [][2]string{{"bod", "M"}, {"nh3-n", "B"}, {"flow", "M"}, {"toc", "X"}, {"cod", "D"}, {"", "P"}} {
		parameter, want := c[0], c[1]
		value[bool](t, p, `(() => { const s = document.querySelector('.device select'); s.value = '`+parameter+`'; s.dispatchEvent(new Event('change')); return true })()`)
		p.wait(t, cell(two)+".textContent === '"+want+"'")
	}
	value[bool](t, p, cell(two)+".focus(), true")
	p.keys(t, kb.ArrowDown, kb.ArrowRight, kb.Enter)
	p.wait(t, "document.querySelector('.slot h3')?.textContent === 'Mon 23 Nov, 14:15: some parameters delivered'")
	said := strings.Join(strings.Fields(value[string](t, p, "document.querySelector('.slot').innerText")), " ")
	for _, want := range []string{"bod missing – –", "toc delivered 27.4 mg/L U Mon 23 Nov 14:15:41"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	p.click(t, "document.querySelector('.slot button')")
	p.wait(t, "document.querySelector('.slot').hidden && document.activeElement.matches('.cell')")
	p.click(t, "document.querySelector('.device summary')")
	p.wait(t, "document.querySelectorAll('.values tbody tr').length === 96")
	if row := strings.Join(strings.Fields(value[string](t, p, "document.querySelector('.values tbody tr').innerText")), " "); row != "16:15 – 99.2 – – 7.52 28.4 –" {
		t.Errorf("the newest values are %q", row)
	}
}

// Changes are visible within seconds. Unchanged elements stay and keep the keyboard's focus.
func TestOperatorPageFollows(t *testing.T) {
	url, source := plantPage(t)
	p := visit(t, url, 1280, 900, false)
	p.wait(t, drawn)
	h, err := status.Read(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	value[bool](t, p, "window.row = "+rowOf("cod")+", document.querySelector('.device select').focus(), true")
	i := slices.IndexFunc(h.Devices[0].Parameters, func(p status.Parameter) bool { return p.Parameter == "cod" })
	h.Devices[0].Parameters[i].Reading.Value = 91.75
	if err := h.Write(source.Path); err != nil {
		t.Fatal(err)
	}
	p.wait(t, rowOf("cod")+".innerText.includes('91.75 mg/L')")
	if !value[bool](t, p, "window.row === "+rowOf("cod")+" && document.activeElement === document.querySelector('.device select')") {
		t.Error("the row was drawn again, or the focus is lost")
	}
	h.Stopped = true
	if err := h.Write(source.Path); err != nil {
		t.Fatal(err)
	}
	p.wait(t, "document.querySelector('#sentence').textContent.startsWith('The host was stopped at') && document.querySelector('#cure').textContent === 'Do: start it'")
}

func TestOperatorPageOnPaper(t *testing.T) {
	url, _ := plantPage(t)
	p := visit(t, url, 1280, 900, true)
	p.wait(t, drawn)
	var pdf []byte
	p.must(t, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		yes := true
		r, err := cdp.Call(ctx, target, protocol.PrintToPDF, protocol.PrintToPDFParams{PreferCSSPageSize: &yes})
		if err == nil {
			pdf = r.Data
		}
		return none, err
	})
	if n := len(regexp.MustCompile(`/Type /Page\b`).FindAll(pdf, -1)); n != 1 {
		t.Errorf("%d pages, want 1", n)
	}
	if !regexp.MustCompile(`/MediaBox \[0 0 84[12](\.\d+)? 59[45](\.\d+)?\]`).Match(pdf) {
		t.Error("the paper is not A4, landscape")
	}
	if err := p.paper(); err != nil {
		t.Fatal(err)
	}
	if got := value[string](t, p, "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('#link')).display + getComputedStyle("+rowOf("bod")+").display"); got != "rgb(255, 255, 255)nonetable-row" {
		t.Errorf("on paper: %s", got)
	}
	for _, bad := range value[[]string](t, p, contrast) {
		t.Errorf("contrast %s", bad)
	}
}

// A hub's page shows the devices that need a person first. It reads the days of a device only when a person opens them.
func TestOperatorOfAHub(t *testing.T) {
	dir := t.TempDir()
	source, err := fiveTroubles(dir, weekEnds)
	if err != nil {
		t.Fatal(err)
	}
	h, err := status.Read(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	ill := h.Devices[0]
	well := ill
	well.Waiting, well.Runs, well.Oldest, well.Parameters = 0, nil, nil, slices.Clone(ill.Parameters[1:2])
	h.Devices = []status.Device{ill}
	for i := range 400 {
		well.ID = fmt.Sprintf("device_%03d", i)
		h.Devices = append(h.Devices, well)
	}
	if err := h.Write(source.Path); err != nil {
		t.Fatal(err)
	}
	p := visit(t, served(t, source), 1280, 900, false)
	p.wait(t, "document.querySelectorAll('.device').length === 20")
	if got := value[string](t, p, "document.querySelector('.device h2').innerText + '; ' + document.querySelector('#count').textContent"); got != etp+" at "+effluent+"; 401 devices, 1 need a person; page 1 of 21" {
		t.Errorf("the page says %q", got)
	}
	asked := func() (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range p.requests {
			if strings.Contains(r, "/history.json") {
				n++
			}
		}
		return n
	}
	if n := asked(); n != 0 {
		t.Errorf("the days of %d devices were read before a person opened them", n)
	}
	p.click(t, "document.querySelector('.device > button')")
	p.wait(t, "document.querySelectorAll('.cell.d').length > 100")
	if n := asked(); n != 1 {
		t.Errorf("the days were read %d times", n)
	}
	p.click(t, "document.querySelector('#next')")
	p.wait(t, "document.querySelector('#count').textContent.endsWith('page 2 of 21')")
	p.click(t, "document.querySelector('#find')")
	p.must(t, chromedp.KeyEvent("device_39"))
	p.wait(t, "document.querySelectorAll('.device').length === 10 && document.querySelector('#count').textContent.startsWith('10 of 401 devices')")
	if !value[bool](t, p, "document.activeElement.id === 'find' && document.querySelector('#find').value === 'device_39'") {
		t.Error("the filter has lost the focus")
	}
}
