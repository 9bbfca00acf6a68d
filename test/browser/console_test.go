package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

func TestConsoleShowsWhatWasSent(t *testing.T) {
	b := simulate(t)
	const delivered = 20
	for n := delivered; n >= 1; n-- {
		b.want(t, spec.StatusSuccess, effluents(slot(n), 90+float64(n)/4))
	}
	refused := effluents(slot(delivered+2), 91)
	refused.Readings[1].Unit = "mg/l"
	b.want(t, spec.StatusInvalidUnit, refused)
	part := effluents(slot(delivered+3), 91)
	part.Readings = part.Readings[:2]
	b.want(t, spec.StatusSuccess, part)
	calibrated := time.Now().Add(-2 * time.Hour).Truncate(spec.SlotLength).Add(spec.CalibrationLength)
	points := effluents(calibrated, 100)
	for i := range points.Readings {
		points.Readings[i].Flag = spec.FlagZeroCalibration
	}
	b.want(t, spec.StatusSuccess, points)

	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	p.wait(t, fmt.Sprintf("%s === %d", count("d"), delivered))
	for letter, want := range map[string]int{"r": 1, "p": 1, "m": 1} { // a new device has gaps only after its first slot
		if got := value[int](t, p, count(letter)); got != want {
			t.Errorf("%d cells %s, want %d", got, letter, want)
		}
	}
	if n := value[int](t, p, "document.querySelectorAll('.cell').length"); n != 8*96 {
		t.Errorf("%d cells", n)
	}
	if got := value[string](t, p, cell(slot(delivered+2))+".textContent + getComputedStyle("+cell(slot(delivered+2))+").backgroundColor"); got != "Rrgb(180, 35, 24)" {
		t.Errorf("the refused slot is %s", got)
	}
	// The slot of the calibration was delivered too; the tip has both.
	tip := "document.querySelector('#tip').innerText"
	p.point(t, cell(calibrated.Truncate(spec.SlotLength).Add(spec.SlotLength)))
	p.wait(t, tip+".includes('flag Z, zero calibration')")

	p.point(t, cell(slot(3)))
	p.wait(t, tip+".includes('90.75 mg/L')")
	for _, want := range []string{"delivered", "cod", "7.25 pH", "flag U", "arrived "} {
		if got := value[string](t, p, tip); !strings.Contains(got, want) {
			t.Errorf("no %q in the tip %q", want, got)
		}
	}
	p.point(t, cell(slot(delivered+2)))
	p.wait(t, tip+".includes('status 110')")

	p.click(t, cell(slot(3)))
	p.wait(t, "document.querySelector('dialog').open && document.querySelector('dialog pre')")
	shown := value[string](t, p, "document.querySelector('dialog pre').textContent")
	for _, want := range []string{`"stationId": "` + effluent + `"`, `{ "parameter": "cod", "value": 90.75, "unit": "mg/L", "timestamp": ` + fmt.Sprint(slot(3).UnixMilli()) + `, "flag": "U" }`} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %s in %s", want, shown)
		}
	}
	if strings.Contains(value[string](t, p, "document.documentElement.outerHTML"), b.tokens[etp]) {
		t.Error("the page has the token")
	}
	p.keys(t, kb.Escape)
	p.wait(t, "!document.querySelector('dialog').open")

	// One parameter: the slot with only bod and cod is delivered for cod, and missing for ph.
	for parameter, want := range map[string]string{"cod": "D", "ph": "M"} {
		value[bool](t, p, `(() => { const s = document.querySelector('#parameter'); s.value = '`+parameter+`'; s.dispatchEvent(new Event('change')); return true })()`)
		p.wait(t, cell(slot(delivered+3))+".textContent === '"+want+"'")
	}
	rows := "document.querySelectorAll('#requests tbody tr')"
	if n := value[int](t, p, rows+".length"); n != delivered+3 {
		t.Errorf("%d requests are listed", n)
	}
	p.click(t, "document.querySelector('#only-refused')")
	p.wait(t, rows+".length === 1")
	if row := value[string](t, p, rows+"[0].innerText"); !strings.Contains(row, "110") || !strings.Contains(row, `unit "mg/l" is not accepted for this device: nearest mg/L`) {
		t.Errorf("the refused request: %s", row)
	}
}

func TestConsoleFollows(t *testing.T) {
	b := simulate(t)
	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	p.wait(t, "document.querySelectorAll('.cell').length === 768")
	value[bool](t, p, "window.same = true")
	b.want(t, spec.StatusSuccess, effluents(slot(2), 88))
	p.wait(t, cell(slot(2))+".textContent === 'D' && document.querySelectorAll('#requests tbody tr').length === 1")
	p.wait(t, "document.querySelector('#total-accepted').textContent === '4'")
	b.want(t, spec.StatusNotSlot, effluents(slot(2), 88))
	p.wait(t, "document.querySelectorAll('#requests tbody tr').length === 2 && document.querySelector('#total-duplicates').textContent === '1'")
	p.wait(t, "[...document.querySelectorAll('#devices button')].some(b => b.innerText.includes('2 requests'))")
	b.want(t, spec.StatusSuccess, effluents(slot(3), 89)) // after all requests of the first loading
	p.wait(t, cell(slot(3))+".textContent === 'D' && document.querySelectorAll('#requests tbody tr').length === 3")
	if !value[bool](t, p, "window.same === true && "+cell(slot(2))+".textContent === 'D'") {
		t.Error("the page was loaded again, or the slot is no longer delivered")
	}
}

func TestFaultsByClick(t *testing.T) {
	b := simulate(t)
	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	active := "document.querySelectorAll('#active li')"
	n := 1
	send := func() (int, error) { n++; return b.send(effluents(slot(n), 80), time.Now()) }
	for _, c := range []struct{ kind, about, want string }{
		{"500", "HTTP 500 Internal Server Error", "HTTP 500"}, {"429", "HTTP 429 Too Many Requests, Retry-After 30 s", "HTTP 429"}, {"html", "answers HTML", "<h1>200 OK</h1>"},
		{"half", "sends half of the answer", "unexpected EOF"}, {"close", "closes the connection", "EOF"}, {"lost", "stores first, closes the connection", "EOF"},
		{"status", "status 10 (", "10"}, {"clock", "clock -3600 s", "118"}, {"slow", "waits 1s", "1 <nil>"},
	} {
		value[bool](t, p, "(document.querySelector('#slow').value = 1) === 1")
		p.click(t, `document.querySelector('[data-fault="`+c.kind+`"]')`)
		p.wait(t, active+".length === 1")
		if got := value[string](t, p, active+"[0].innerText"); !strings.Contains(got, c.about) || !strings.Contains(got, "all devices") || !strings.Contains(got, "until it is switched off") {
			t.Errorf("%s: the list has %q", c.kind, got)
		}
		if c.kind == "clock" {
			n = 0
		}
		begin := time.Now()
		status, err := send()
		if got := fmt.Sprint(status, " ", err); !strings.Contains(got, c.want) || c.kind == "slow" && time.Since(begin) < time.Second {
			t.Errorf("%s: the next request got %s after %s", c.kind, got, time.Since(begin))
		}
		kept := "R"
		if c.kind == "half" || c.kind == "lost" || c.kind == "slow" {
			kept = "D"
		}
		p.wait(t, cell(slot(n))+".textContent === '"+kept+"'")
		p.click(t, "document.querySelector('#active button')")
		p.wait(t, active+".length === 0 && !document.querySelector('#no-faults').hidden")
	}
	n = 40
	if status, err := send(); status != 1 || err != nil {
		t.Errorf("with all switched off: %d %v", status, err)
	}
	p.click(t, `document.querySelector('[data-fault="html"]')`)
	p.wait(t, active+".length === 1 && document.querySelector('#clear').hidden")
	p.click(t, `document.querySelector('[data-fault="half"]')`)
	p.wait(t, active+".length === 2")
	p.click(t, "document.querySelector('#clear')")
	p.wait(t, active+".length === 0")
	// For one device and one request.
	value[bool](t, p, `(() => { document.querySelector('#scope').value = '`+etp+`'; document.querySelector('#count').value = '1'; return true })()`)
	p.click(t, `document.querySelector('[data-fault="500"]')`)
	p.wait(t, active+".length === 1 && "+active+"[0].innerText.includes('"+etp+"') && "+active+"[0].innerText.includes('1 request left')")
	other := payload.Record{StationID: boilers, DeviceID: stack1, Readings: []payload.Reading{{Parameter: "pm", Value: 3, Unit: "mg/Nm³", Stamp: slot(2), Flag: spec.FlagNormal}}}
	b.want(t, spec.StatusSuccess, other)
	if _, err := send(); err == nil || !strings.Contains(err.Error(), "HTTP 500") {
		t.Errorf("the device's request: %v", err)
	}
	p.wait(t, active+".length === 0")
	p.wait(t, cell(slot(n))+".textContent === 'R'")
	if _, err := send(); err != nil {
		t.Error(err)
	}
}

// Everything can be reached without a mouse, and the focus is visible.
func TestKeyboardOnly(t *testing.T) {
	b := simulate(t)
	for n := 6; n >= 1; n-- {
		b.want(t, spec.StatusSuccess, effluents(slot(n), 90+float64(n)))
	}
	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	p.wait(t, count("d")+" === 6")
	focused := "document.activeElement"
	seen := func(what string) {
		t.Helper()
		if outline := value[string](t, p, "getComputedStyle("+focused+").outlineStyle + parseFloat(getComputedStyle("+focused+").outlineWidth)"); !strings.HasPrefix(outline, "solid") || outline == "solid0" {
			t.Errorf("the focus on %s is not visible: %s", what, outline)
		}
	}
	var walk []string
	for range 60 {
		p.keys(t, kb.Tab)
		name := value[string](t, p, `(e => e.id || e.dataset.device || e.dataset.fault || (e.matches('.cell') ? 'cell' : e.tagName))(`+focused+`)`)
		if name == "BODY" || len(walk) > 0 && name == walk[0] {
			break
		}
		seen(name)
		walk = append(walk, name)
	}
	want := "A search " + strings.Join([]string{stack1, stack2, etp, "parameter", "cell", "only-device", "only-refused"}, " ")
	end := " scope count slow slow status status 500 429 retry html half close lost clock clock"
	if got := strings.Join(walk, " "); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, end) {
		t.Errorf("Tab goes %s", got)
	}

	value[bool](t, p, "document.querySelector('#parameter').focus() || true")
	p.keys(t, kb.Tab)
	p.wait(t, focused+" === "+cell(slot(1)))
	p.wait(t, "!document.querySelector('#tip').hidden && document.querySelector('#tip').innerText.includes('91 mg/L')")
	if by := value[string](t, p, focused+".getAttribute('aria-describedby')"); by != "tip" {
		t.Errorf("the readings do not describe the cell: %q", by)
	}
	label := func() string { t.Helper(); return value[string](t, p, focused+".getAttribute('aria-label')") }
	at := slot(1)
	for _, step := range []struct {
		key string
		by  time.Duration
	}{{kb.ArrowLeft, -spec.SlotLength}, {kb.ArrowDown, -24 * time.Hour}, {kb.ArrowUp, 24 * time.Hour}, {kb.PageDown, -24 * time.Hour}, {kb.ArrowRight, spec.SlotLength}, {kb.PageUp, 24 * time.Hour}} {
		if next := at.Add(step.by).In(spec.IST); step.by > -time.Hour && step.by < time.Hour && next.YearDay() != at.In(spec.IST).YearDay() {
			continue // a row ends at midnight
		}
		p.keys(t, step.key)
		at = at.Add(step.by)
		if got := label(); !strings.HasPrefix(got, at.In(spec.IST).Format("Mon 2 Jan, 15:04")) {
			t.Errorf("after %q the focus is on %s, want %s", step.key, got, at.In(spec.IST))
		}
	}
	seen("a cell")
	if n := value[int](t, p, `document.querySelectorAll('.cell[tabindex="0"]').length`); n != 1 {
		t.Errorf("Tab reaches %d cells", n)
	}
	p.keys(t, kb.Home)
	if got := label(); !strings.Contains(got, ", 00:00,") {
		t.Errorf("Home goes to %s", got)
	}
	p.keys(t, kb.End)
	if got := label(); !strings.Contains(got, ", 23:45,") {
		t.Errorf("End goes to %s", got)
	}
	value[bool](t, p, cell(slot(2))+".focus() || true")
	p.keys(t, kb.Escape)
	p.wait(t, "document.querySelector('#tip').hidden")
	p.keys(t, kb.Enter)
	p.wait(t, "document.querySelector('dialog').open && document.querySelector('dialog pre').textContent.includes('\"value\": 92,')")
	if at := value[string](t, p, focused+".id"); at != "detail-body" { // there the arrow keys scroll, and Enter does nothing
		t.Errorf("a slot opens with the focus on %q", at)
	}
	value[bool](t, p, "document.querySelector('#earlier').focus() || true")
	p.keys(t, kb.Enter)
	p.wait(t, "document.querySelector('dialog pre').textContent.includes('\"value\": 93,')")
	p.keys(t, kb.Escape)
	p.wait(t, "!document.querySelector('dialog').open && "+focused+" === "+cell(slot(3)))

	value[bool](t, p, `document.querySelector('[data-fault="html"]').focus() || true`)
	p.keys(t, kb.Enter)
	p.wait(t, "document.querySelectorAll('#active li').length === 1")
	value[bool](t, p, `document.querySelector('#active button').focus() || true`)
	p.keys(t, " ")
	p.wait(t, "document.querySelectorAll('#active li').length === 0")
}

// contrast returns the texts whose contrast to the background is too low for WCAG 2.2 AA, 1.4.3.
const contrast = `(() => {
  const channels = c => (c.match(/[\d.]+/g) ?? []).map(Number)
  const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b }
  const ground = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c } return channels(getComputedStyle(document.documentElement).backgroundColor) }
  const bad = new Set()
  let n = 0
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(c => c.nodeType === 3 && c.data.trim()) || !e.checkVisibility() || e.matches('option, noscript, [disabled]')) continue
    const a = light(channels(getComputedStyle(e).color)), b = light(ground(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
    n++
    if (ratio < 4.5) bad.add(ratio.toFixed(2) + ' ' + e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 30))
  }
  return n < 50 ? ['only ' + n + ' texts'] : [...bad]
})()`

const sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"

func TestColoursAndWidths(t *testing.T) {
	b := simulate(t)
	for n := 30; n >= 4; n-- {
		b.want(t, spec.StatusSuccess, effluents(slot(n), 90))
	}
	refused := effluents(slot(3), 91)
	refused.Readings[1].Unit = "mg/l"
	b.want(t, spec.StatusInvalidUnit, refused)
	part := effluents(slot(2), 91)
	part.Readings = part.Readings[:2]
	b.want(t, spec.StatusSuccess, part)
	b.want(t, spec.StatusNotSlot, part)
	grounds := map[string]bool{}
	for _, c := range []struct {
		width int64
		dark  bool
	}{{360, false}, {360, true}, {800, false}, {1366, true}} {
		t.Run(fmt.Sprintf("%d px, dark %v", c.width, c.dark), func(t *testing.T) {
			p := visit(t, b.url+"/#device="+etp, c.width, 800, c.dark)
			p.chosen(t)
			p.wait(t, count("d")+" > 20 && document.querySelectorAll('#requests tbody tr').length > 20")
			p.click(t, `document.querySelector('[data-fault="429"]')`)
			p.wait(t, "document.querySelectorAll('#active li').length === 1")
			for _, bad := range value[[]string](t, p, contrast) {
				t.Errorf("contrast %s", bad)
			}
			grounds[value[string](t, p, "getComputedStyle(document.body).backgroundColor")] = true
			if value[bool](t, p, sideways) {
				t.Errorf("the page is wider than %d px: %v", c.width, value[[]string](t, p, `[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility()).map(e => e.tagName + '#' + e.id + '.' + e.className).slice(0, 9)`))
			}
			p.point(t, cell(slot(5)))
			p.wait(t, "!document.querySelector('#tip').hidden")
			p.click(t, cell(slot(5)))
			p.wait(t, "document.querySelector('dialog').open && document.querySelector('dialog pre')")
			for _, bad := range value[[]string](t, p, contrast) {
				t.Errorf("with a dialog: contrast %s", bad)
			}
			if value[bool](t, p, sideways) || value[bool](t, p, "document.querySelector('#detail-body').scrollWidth > document.querySelector('#detail-body').clientWidth") {
				t.Error("the dialog is too wide")
			}
			p.keys(t, kb.Escape)
			p.wait(t, "!document.querySelector('dialog').open")
			// If the day has several lines, the down arrow goes to the line below.
			value[bool](t, p, cell(slot(5))+".focus() || true")
			x := "document.activeElement.getBoundingClientRect().x"
			before := value[float64](t, p, x)
			p.keys(t, kb.ArrowDown)
			if after := value[float64](t, p, x); after-before > 1 || before-after > 1 {
				t.Errorf("arrow down goes from x %v to %v", before, after)
			}
			p.click(t, "document.querySelector('#active button')")
			p.wait(t, "document.querySelectorAll('#active li').length === 0")
		})
	}
	if !grounds["rgb(255, 255, 255)"] || !grounds["rgb(20, 24, 28)"] {
		t.Errorf("grounds %v", grounds)
	}
}

// A person's click takes 0.1 s. A busy board changes every list in this time. The click still hits its target.
func TestClicksOnABusyBoard(t *testing.T) {
	b := simulate(t)
	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	sent := 0
	send := func() { t.Helper(); sent++; b.want(t, spec.StatusSuccess, effluents(slot(sent), 80)) }
	send()
	send()
	row := func(n int) string { return fmt.Sprintf("document.querySelectorAll('#requests tbody tr')[%d]", n) }
	first := row(0) + "?.dataset.id"
	p.wait(t, first+" === '2'")

	// The rows stay while the mouse is over them, and while one is open.
	button := row(0) + ".querySelector('button')"
	at := p.point(t, button)
	send()
	p.wait(t, "document.querySelector('#newer').textContent.startsWith('1 newer request ')")
	p.mouse(t, input.DispatchMouseEventTypeMousePressed, at)
	p.mouse(t, input.DispatchMouseEventTypeMouseReleased, at)
	p.wait(t, "document.querySelector('dialog').open && document.querySelector('dialog pre').textContent.includes('"+fmt.Sprint(slot(2).UnixMilli())+"')")
	send()
	p.wait(t, "document.querySelector('#newer').textContent.startsWith('2 newer requests ')")
	if got := value[string](t, p, first); got != "2" {
		t.Errorf("under the open request the first row is %s", got)
	}
	p.keys(t, kb.Escape)
	value[bool](t, p, "document.activeElement.blur() || true")
	p.point(t, "document.querySelector('h1')")
	p.wait(t, first+" === '4' && document.querySelector('#newer').textContent === ''")
	// The same with the keyboard, whose focus is not where the mouse is.
	value[bool](t, p, "document.querySelector('#only-refused').focus() || true")
	p.keys(t, kb.Tab)
	send()
	p.wait(t, "document.querySelector('#newer').textContent.startsWith('1 newer request ')")
	if got := value[string](t, p, "document.activeElement.closest('tr').dataset.id"); got != "4" {
		t.Errorf("the focus is in row %s", got)
	}
	value[bool](t, p, "document.activeElement.blur() || true")
	p.wait(t, first+" === '5'")

	// Switch a fault off while requests count it down.
	value[bool](t, p, "(document.querySelector('#count').value = 50) === 50")
	p.click(t, `document.querySelector('[data-fault="500"]')`)
	left := func(n int) string {
		return fmt.Sprintf("document.querySelector('#active').innerText.includes('%d requests left')", n)
	}
	p.wait(t, left(50))
	at = p.point(t, "document.querySelector('#active button')")
	p.mouse(t, input.DispatchMouseEventTypeMousePressed, at)
	_, _ = b.send(effluents(slot(30), 80), time.Now())
	p.wait(t, "document.querySelector('#total-requests').textContent === '6'")
	p.mouse(t, input.DispatchMouseEventTypeMouseReleased, at)
	p.wait(t, "document.querySelectorAll('#active li').length === 0")

	at = p.point(t, `document.querySelector('[data-device="`+stack1+`"]')`)
	p.mouse(t, input.DispatchMouseEventTypeMousePressed, at)
	value[bool](t, p, "window.before = document.querySelector('#devices').innerHTML, performance.clearResourceTimings() || true")
	send()
	p.wait(t, "performance.getEntriesByType('resource').some(e => e.name.includes('/console/devices'))")
	p.mouse(t, input.DispatchMouseEventTypeMouseReleased, at)
	p.wait(t, "document.querySelector('#calendar-title').textContent.startsWith('"+stack1+"') && document.querySelector('#devices').innerText.includes('7 requests')")
}

// The address selects the device and the parameter, also if it changes while the page is open.
func TestAddress(t *testing.T) {
	b := simulate(t)
	b.want(t, spec.StatusSuccess, effluents(slot(2), 80))
	p := visit(t, b.url+"/#device="+etp+"&parameter=cod", 1280, 900, false)
	p.chosen(t)
	p.wait(t, "document.querySelector('#parameter').value === 'cod'")
	value[bool](t, p, "(location.hash = 'device="+stack2+"') !== ''")
	p.wait(t, "document.querySelector('#calendar-title').textContent.startsWith('"+stack2+"') && document.querySelector('#devices [aria-current]').dataset.device === '"+stack2+"'")
	p.click(t, "document.querySelector('#devices [data-device="+etp+"]')")
	value[bool](t, p, "document.querySelector('.skip').click() || true")
	p.wait(t, "location.hash.includes('"+etp+"') && "+count("d")+" === 1")
}

// Any text from a sender is shown as text, and is never executed.
func TestUntrustedText(t *testing.T) {
	b := simulate(t)
	p := visit(t, b.url+"/#device="+etp, 1280, 900, false)
	p.chosen(t)
	const evil = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`
	r := effluents(slot(2), 3)
	r.Readings[0].Parameter = evil
	r.Readings[1].Parameter = "cod\u202e\U000e0041" // characters that reverse and hide text
	b.want(t, spec.StatusInvalidParameter, r)
	b.tokens[evil] = "token"
	_, _ = b.send(payload.Record{StationID: evil, DeviceID: evil, Readings: r.Readings}, time.Now())
	p.wait(t, "document.querySelector('#requests tbody').innerText.includes('<img src=x') && document.querySelectorAll('#requests tbody tr').length === 2")
	p.point(t, cell(slot(2)))
	p.wait(t, "document.querySelector('#tip').innerText.includes('<img')")
	p.click(t, cell(slot(2)))
	p.wait(t, "document.querySelector('dialog').open && document.querySelector('dialog pre').textContent.includes('<img')")
	if shown := value[string](t, p, "document.querySelector('dialog pre').textContent"); !strings.Contains(shown, `"cod\u202e\udb40\udc41"`) {
		t.Errorf("the characters are not visible in %s", shown)
	}
	if value[bool](t, p, "window.hacked === 1 || document.querySelectorAll('img, script').length !== 1") {
		t.Error("text of a request became part of the page")
	}
}

// The server does not wait for open consoles. A console shows that the board does not answer, and connects to it again.
func TestShutdown(t *testing.T) {
	b := simulate(t)
	program := chromium(t)
	p, err := open(program, 1280, 900, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	p.must(t, chromedp.Navigate(b.url+"/#device="+etp))
	p.chosen(t)
	begin := time.Now()
	if err := b.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := b.command.Wait(); err != nil {
		t.Errorf("%v: %s", err, b.said)
	}
	if took := time.Since(begin); took > 4*time.Second { // the server waits 5 s for requests in flight
		t.Errorf("the stop took %s", took)
	}
	if !strings.Contains(b.said.String(), "the console is at "+b.url+"/\n") {
		t.Errorf("standard error has no address of the console: %s", b.said)
	}
	p.wait(t, "document.querySelector('#link').textContent === 'the board does not answer'")
	args := append([]string{}, b.command.Args[1:]...)
	args[2] = strings.TrimPrefix(b.url, "http://")
	again := exec.Command(b.command.Path, args...)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Process.Kill(); _ = again.Wait() }()
	p.wait(t, "document.querySelector('#link').textContent === 'live' && document.querySelector('#total-requests').textContent === '0'")
	// A device that is no longer in the registry has no slots.
	p.wait(t, "document.querySelectorAll('.cell').length === 8 * 96")
	value[bool](t, p, "(location.hash = 'device=device_etp_7') !== ''")
	p.wait(t, "document.querySelectorAll('.cell').length === 0 && document.querySelector('#summary').textContent.includes('is not in the registry: nearest "+etp+"')")
	p.click(t, "document.querySelector('#devices [data-device="+etp+"]')")
	p.wait(t, "document.querySelectorAll('.cell').length === 8 * 96")
}
