package delivery

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/ocems-io/ocems/ocems/clock"
)

const (
	askTick   = time.Second
	askWithin = 10 * time.Second
)

// askTime asks the server for its time by a GET of the endpoint, while the clock needs it.
func (d *Delivery) askTime() {
	ticker := time.NewTicker(askTick)
	defer ticker.Stop()
	failed := false
	for {
		if d.cfg.Clock.Ask() {
			err := d.ask()
			if err != nil && !failed {
				d.cfg.Logger.Warn("an attempt failed: trying again", "reason", err.Error(), "next_try_in", clock.AskEvery.String())
			}
			failed = err != nil
		}
		select {
		case <-ticker.C:
		case <-d.stop:
			return
		}
	}
}

func (d *Delivery) ask() error {
	ctx, cancel := context.WithTimeout(d.ctx, askWithin)
	defer cancel()
	go func() {
		select {
		case <-d.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.cfg.Endpoint, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("User-Agent", d.agent)
	sent := time.Now()
	resp, err := d.cfg.Client.Do(req)
	if err != nil {
		select {
		case <-d.stop:
			return nil
		default:
		}
		ans := answer{unanswered: true, detail: "no answer: " + d.cfg.Words.hint(err, d.cfg.Hide)}
		d.noteAnswer(nil, ans, sent)
		d.wake.send()
		return errors.New(ans.detail)
	}
	body, _ := readAnswer(resp.Body)
	_ = resp.Body.Close()
	ans := answer{}
	if speaks(resp) {
		d.observe(resp.Header, sent, false, time.Time{})
	} else {
		ans = answer{unanswered: true, detail: judge(resp, d.cfg.Hide(body)).detail}
		err = errors.New(ans.detail)
	}
	d.noteAnswer(nil, ans, sent)
	d.wake.send()
	return err
}

// speaks reports that an answer without an API status may come from the server itself. An error page may come from a
// proxy on this machine, whose Date cannot confirm this machine's clock.
func speaks(resp *http.Response) bool {
	return resp.StatusCode < http.StatusInternalServerError && resp.StatusCode != http.StatusProxyAuthRequired
}

// observe passes an answer to the clock. sure says that it had an API status; accepted is the stamp of the slot that
// the server has accepted.
func (d *Delivery) observe(h http.Header, sent time.Time, sure bool, accepted time.Time) {
	if d.cfg.Clock.Observe(h, time.Since(sent), sure, accepted) {
		d.cfg.Logger.Warn("this machine's clock differs from the server's: correct it with NTP", "server_ahead_by", d.cfg.Clock.Skew().String())
	}
}
