package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// chromium returns the path of the browser. Without a browser the test is skipped.
func chromium(t *testing.T) string {
	t.Helper()
	program := os.Getenv("CHROMIUM")
	if program == "" {
		program = "/usr/bin/chromium"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skipf("no browser: %v (make chromium)", err)
	}
	return program
}

// visit opens a URL in a new browser. At the end the test fails if the console has an error, or if there was a request to
// another host.
func visit(t *testing.T, where string, width, height int64, dark bool) *page {
	t.Helper()
	p, err := open(chromium(t), width, height, dark)
	if err != nil {
		t.Fatal(err)
	}
	home, _ := url.Parse(where)
	t.Cleanup(func() {
		p.mu.Lock()
		requests, errors := p.requests, p.errors
		p.mu.Unlock()
		p.stop()
		for _, e := range errors {
			t.Errorf("in the browser's console: %s", e)
		}
		if len(requests) == 0 {
			t.Error("the browser's requests were not seen")
		}
		for _, r := range requests {
			if u, err := url.Parse(r); err != nil || u.Scheme != home.Scheme || u.Host != home.Host {
				t.Errorf("a request to another host: %s", r)
			}
		}
	})
	p.must(t, chromedp.Navigate(where))
	return p
}

func (p *page) must(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := p.do(actions...); err != nil {
		t.Fatal(err)
	}
}

func (p *page) wait(t *testing.T, expression string) {
	t.Helper()
	if err := p.until(expression); err != nil {
		shot, _ := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		_ = os.WriteFile(filepath.Join(os.TempDir(), "ocems-browser-failed.png"), shot, 0o600)
		t.Fatal(err)
	}
}

func value[T any](t *testing.T, p *page, expression string) T {
	t.Helper()
	v, err := evaluate[T](p, expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func (p *page) keys(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		p.must(t, chromedp.KeyEvent(k))
	}
}

// point waits until nothing covers an element, moves the mouse to its middle, and returns the position.
func (p *page) point(t *testing.T, element string) [2]float64 {
	t.Helper()
	p.wait(t, `(() => { const e = `+element+`; e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); window.at = [b.x + b.width / 2, b.y + b.height / 2]; return e.contains(document.elementFromPoint(...at)) })()`)
	at := value[[2]float64](t, p, "window.at")
	p.mouse(t, input.DispatchMouseEventTypeMouseMoved, at)
	return at
}

func (p *page) mouse(t *testing.T, kind input.DispatchMouseEventType, at [2]float64) {
	t.Helper()
	p.must(t, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: kind, X: at[0], Y: at[1], Button: "left", ClickCount: 1})
		return none, err
	})
}

func (p *page) click(t *testing.T, element string) {
	t.Helper()
	at := p.point(t, element)
	p.mouse(t, input.DispatchMouseEventTypeMousePressed, at)
	p.mouse(t, input.DispatchMouseEventTypeMouseReleased, at)
}

// board is a real `ocems simulate` with the plant's devices, and a sender for them.
type board struct {
	*sender
	command *exec.Cmd
	said    *bytes.Buffer // output on standard error
}

func simulate(t *testing.T) *board {
	t.Helper()
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN is not set: no ocems to start")
	}
	chromium(t)
	quiet()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	private, file := filepath.Join(dir, "private.pem"), filepath.Join(dir, "registry.yaml")
	registry, tokens := plant()
	var text strings.Builder
	text.WriteString("stations:\n")
	for _, s := range registry.Stations {
		fmt.Fprintf(&text, "  - id: %s\n    devices:\n", s.ID)
		for _, d := range s.Devices {
			fmt.Fprintf(&text, "      - {id: %s, token: %s, parameters: {", d.ID, d.Token)
			for name, units := range d.Parameters {
				fmt.Fprintf(&text, "%s: [%s], ", name, units[0])
			}
			text.WriteString("}, calibrations: [{from: -6h, to: -1h}]}\n")
		}
	}
	for path, content := range map[string][]byte{private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), file: []byte(text.String())} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &board{sender: &sender{key: &key.PublicKey, tokens: tokens}, said: &bytes.Buffer{},
		command: exec.Command(filepath.Join(bin, "ocems"), "simulate", "--listen", "127.0.0.1:0", "--registry", file, "--private-key", private)}
	b.command.Stderr = b.said
	out, err := b.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.command.Process.Kill()
		_ = b.command.Wait()
	})
	lines := bufio.NewScanner(out)
	lines.Scan()
	var found bool
	if b.url, found = strings.CutPrefix(lines.Text(), "listening on "); !found {
		t.Fatalf("first line %q", lines.Text())
	}
	return b
}

func (b *board) want(t *testing.T, status spec.Status, r payload.Record) {
	t.Helper()
	got, err := b.send(r, time.Now())
	if err != nil || spec.Status(got) != status {
		t.Fatalf("status %d, want %s: %v", got, status, err)
	}
}

// slot counts backwards. Slot 1 is the last due slot when the test's board was started.
func slot(n int) time.Time { return due.Add(-time.Duration(n-1) * spec.SlotLength) }

var due time.Time

// quiet sets due. A test takes less than a minute, even on a busy machine. If the next slot is due within this time, quiet
// waits for it first.
func quiet() {
	for {
		due = time.Now().Add(-2 * time.Minute).Truncate(spec.SlotLength)
		left := time.Until(due.Add(spec.SlotLength + 2*time.Minute))
		if left > time.Minute {
			return
		}
		time.Sleep(left)
	}
}

// effluents returns the record of the treatment plant's device for a slot.
func effluents(stamp time.Time, cod float64) payload.Record {
	r := payload.Record{StationID: effluent, DeviceID: etp}
	for _, x := range []payload.Reading{{Parameter: "bod", Value: 12.5, Unit: "mg/L"}, {Parameter: "cod", Value: cod, Unit: "mg/L"},
		{Parameter: "tss", Value: 30, Unit: "mg/L"}, {Parameter: "ph", Value: 7.25, Unit: "pH"}} {
		x.Stamp, x.Flag = stamp, spec.FlagNormal
		r.Readings = append(r.Readings, x)
	}
	return r
}

// cell returns the JavaScript expression for a slot's cell.
func cell(stamp time.Time) string {
	return fmt.Sprintf(`document.querySelector('.cell[aria-label^="%s,"]')`, stamp.In(spec.IST).Format("Mon 2 Jan, 15:04"))
}

func count(letter string) string {
	return fmt.Sprintf(`document.querySelectorAll('.cell.%s').length`, letter)
}

func (p *page) chosen(t *testing.T) {
	t.Helper()
	p.wait(t, `document.querySelector('#calendar-title').textContent === '`+etp+`, `+effluent+`' && document.querySelector('#link').textContent === 'live' && document.querySelector('#devices [aria-current]')`)
}
