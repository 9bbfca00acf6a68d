package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// page is the only tab of a new browser with an empty profile.
type page struct {
	ctx  context.Context
	stop func()

	mu       sync.Mutex
	requests []string // every URL that the page requested
	errors   []string // of the console: errors, warnings and exceptions
}

// open starts Chromium with an empty profile, which is removed at the end.
func open(program string, width, height int64, dark bool) (*page, error) {
	profile, err := os.MkdirTemp("", "ocems-browser")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(profile))
	for _, name := range []string{"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "disable-lcd-text"} {
		options = append(options, chromedp.Flag(name, true))
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopTab := chromedp.NewContext(allocator)
	p := &page{ctx: ctx}
	p.stop = func() {
		stopTab()
		stopAllocator()
		for range 50 { // Chromium's processes may still write
			if os.RemoveAll(profile) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	err = chromedp.Do(ctx, chromedp.EmulateViewport(width, height), func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		_, a := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
		_, b := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return none, errors.Join(a, b)
	})
	if err == nil {
		err = chromedp.Listen(ctx, p.note)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	return p, nil
}

// paper shows the page as it is printed.
func (p *page) paper() error {
	return p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
		return none, err
	})
}

func (p *page) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	case *network.EventWebSocketCreated:
		p.requests = append(p.requests, e.URL)
	case *runtime.EventExceptionThrown:
		p.errors = append(p.errors, "exception: "+e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			p.errors = append(p.errors, fmt.Sprintf("console.%s: %s %s", e.Type, a.Value, a.Description))
		}
	case *log.EventEntryAdded:
		p.errors = append(p.errors, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	}
}

// do runs actions, for at most 20 seconds.
func (p *page) do(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

// until waits for a JavaScript expression to be true.
func (p *page) until(expression string) error {
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		var ok bool
		if ok, err = evaluate[bool](p, "Boolean("+expression+")"); err == nil && ok {
			return nil
		}
	}
	return fmt.Errorf("not within 15 s: %s (%v)", expression, err)
}

func evaluate[T any](p *page, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}
