package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	protocol "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/ocems-io/ocems/ocems/operator"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", ".", "`folder` for the pictures")
	program := flag.String("chromium", cmp.Or(os.Getenv("CHROMIUM"), "/usr/bin/chromium"), "`program` to start")
	flag.Parse()
	if err := pictures(*program, *out); err != nil {
		log.Fatal(err)
	}
}

// picture is one file. Its steps run in the page after the week is loaded.
type picture struct {
	file          string
	report, dark  bool
	operator      bool // the operator's page
	print         bool // as printed on A4
	width, height int64
	steps         string // JavaScript
	until         string // JavaScript condition after the steps
}

var tip = `document.querySelector('[aria-label*="Tue 17 Nov, 18:00"]').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))`

var all = []picture{
	{file: "console.png", width: 1360, height: 1010, steps: tip, until: "!document.querySelector('#tip').hidden"},
	{file: "console-dark.png", width: 1360, height: 1010, dark: true,
		steps: `document.querySelector('[aria-label*="Mon 23 Nov, 11:15"]').click()`, until: "document.querySelector('dialog').open"},
	{file: "console-phone.png", width: 390, height: 1500},
	{file: "serve.png", operator: true, width: 1280, height: 1180, until: drawn},
	{file: "serve-dark.png", operator: true, dark: true, width: 1280, height: 1010,
		steps: `document.querySelector('[aria-label*="Tue 24 Nov, 14:00"]').click()`, until: "document.querySelector('.slot td') && (scrollTo(0, 250), true)"},
	{file: "serve-phone.png", operator: true, width: 390, height: 1500, until: drawn},
	{file: "serve-print.png", operator: true, print: true, width: 1047, height: 718, until: drawn},
	{file: "report.png", report: true, width: 1360, height: 830},
	{file: "report-dark.png", report: true, dark: true, width: 1360, height: 830},
	{file: "report-phone.png", report: true, width: 390, height: 1100},
	{file: "report-print.png", report: true, print: true, width: 1039, height: 720}, // the size of A4
}

const drawn = "document.querySelectorAll('.cell.d').length > 100 && document.querySelector('svg.trend')"

func pictures(program, out string) error {
	dir, err := os.MkdirTemp("", "ocems-week")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	trail, page := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "report.html")
	w, err := newWeek(key, trail)
	if err != nil {
		return err
	}
	server := httptest.NewServer(w.board)
	defer server.Close()
	defer w.board.Close()
	w.url = server.URL
	if err := w.play(); err != nil {
		return err
	}
	if err := w.report(trail, page); err != nil {
		return err
	}
	if err := w.fault(`{"device":"` + stack2 + `","count":3,"http_status":429,"retry_after":30}`); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	source, err := fiveTroubles(filepath.Join(dir, "plant"), weekEnds)
	if err != nil {
		return err
	}
	handler, err := operator.New(operator.Config{Now: func() time.Time { return weekEnds }, Sources: func() ([]operator.Source, error) { return []operator.Source{source}, nil }})
	if err != nil {
		return err
	}
	served := httptest.NewServer(handler)
	defer served.Close()
	for _, p := range all {
		url := server.URL + "/#device=" + etp
		switch {
		case p.report:
			url = "file://" + page
		case p.operator:
			url = served.URL
		}
		if err := p.take(program, url, filepath.Join(out, p.file)); err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
	}
	return nil
}

func (q picture) take(program, url, path string) error {
	p, err := open(program, q.width, q.height, q.dark)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.do(chromedp.Navigate(url)); err != nil {
		return err
	}
	if q.print {
		if err := p.paper(); err != nil {
			return err
		}
	}
	if q.operator {
		if err := p.until(drawn); err != nil {
			return err
		}
	}
	if !q.report && !q.operator {
		if err := p.until("document.querySelectorAll('.cell.d').length > 100 && document.querySelectorAll('#requests tbody tr').length > 20"); err != nil {
			return err
		}
	}
	if q.print {
		err := p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
			_, err = cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
			return none, err
		})
		if err != nil {
			return err
		}
	}
	if q.steps != "" {
		if _, err := evaluate[bool](p, q.steps+"; true"); err != nil {
			return err
		}
	}
	if q.until != "" {
		if err := p.until(q.until); err != nil {
			return err
		}
	}
	var shot []byte
	err = p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		r, err := cdp.Call(ctx, t, protocol.CaptureScreenshot, protocol.CaptureScreenshotParams{})
		if err == nil {
			shot = r.Data
		}
		return none, err
	})
	if err != nil {
		return err
	}
	small, err := compress(shot)
	if err != nil {
		return err
	}
	if len(small) > 200_000 {
		return fmt.Errorf("%d bytes are too many for a picture of the documentation; the limit is 200000", len(small))
	}
	log.Printf("%s: %d KB", path, len(small)/1000)
	return os.WriteFile(path, small, 0o644)
}

// compress writes a PNG with the 256 most frequent colours. Each other colour is replaced by the nearest of these. A page has
// few colours, but many shades at the edges of letters.
func compress(shot []byte) ([]byte, error) {
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, err
	}
	counts, b := map[color.Color]int{}, picture.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			counts[picture.At(x, y)]++
		}
	}
	palette := color.Palette(slices.Collect(maps.Keys(counts)))
	slices.SortFunc(palette, func(a, b color.Color) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	palette = palette[:min(256, len(palette))]
	nearest := map[color.Color]uint8{}
	for c := range counts {
		nearest[c] = uint8(palette.Index(c))
	}
	small := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			small.SetColorIndex(x, y, nearest[picture.At(x, y)])
		}
	}
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small)
	return out.Bytes(), err
}
