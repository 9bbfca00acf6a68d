package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// The page of `ocems report` is self-contained: it requests no other file and no host.
func TestReport(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN is not set: no ocems to start")
	}
	chromium(t)
	dir := t.TempDir()
	trail, page := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "report.html")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWeek(key, trail)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(w.board)
	defer server.Close()
	w.url = server.URL
	if err := w.play(); err != nil {
		t.Fatal(err)
	}
	if err := w.trail.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "ocems"), "report", "--from", "2026-11-18", "--to", "2026-11-23", "--format", "html", "--out", page, trail).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, dark := range []bool{false, true} {
		for _, width := range []int64{360, 1280} {
			t.Run(fmt.Sprintf("%d px, dark %v", width, dark), func(t *testing.T) {
				p := visit(t, "file://"+page, width, 800, dark)
				p.mu.Lock()
				if len(p.requests) != 1 {
					t.Errorf("the page requests %v", p.requests)
				}
				p.mu.Unlock()
				// 6 days of 96 slots, of the 3 devices.
				section := "document.querySelectorAll('section')"
				for letter, want := range map[string]int{"d": 6*96 - 6 - 10 - 3, "p": 6, "m": 10, "c": 3, "r": 0} {
					if got := value[int](t, p, section+"[2].querySelectorAll('.days td."+letter+"').length"); got != want {
						t.Errorf("%d cells %s, want %d", got, letter, want)
					}
				}
				if !value[bool](t, p, section+"[2].innerText.includes('cod, 30-second points of calibrations: 90 delivered, 4 rejected, 0 expired')") {
					t.Error("the refused points are missing")
				}
				if title := value[string](t, p, "document.querySelector('.days td.d[title]').title"); len(title) < 20 {
					t.Errorf("a cell says %q", title)
				}
				for _, bad := range value[[]string](t, p, contrast) {
					t.Errorf("contrast %s", bad)
				}
				if value[bool](t, p, sideways) {
					t.Errorf("the page is wider than %d px", width)
				}
			})
		}
	}
	// The print from a narrow window has the table, with the values as text.
	t.Run("print", func(t *testing.T) {
		p := visit(t, "file://"+page, 360, 800, false)
		p.must(t, func(ctx context.Context, tab *chromedp.Target) (none chromedp.Void, err error) {
			_, err = cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
			return none, err
		})
		if display := value[string](t, p, "getComputedStyle(document.querySelector('.counts tbody tr')).display"); display != "table-row" {
			t.Errorf("a row of the table is a %s", display)
		}
		if text := value[string](t, p, "document.querySelector('.values td.d').innerText"); text == "" {
			t.Error("a delivered slot has no value")
		}
	})
}
