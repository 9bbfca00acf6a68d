package delivery

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// maxNamed is how many held devices a report names. A hub may have thousands.
const maxNamed = 10

// reportHealth tells the host when trouble begins, changes and ends. It combines changes that occur during a call.
func (d *Delivery) reportHealth() {
	last := ""
	for {
		select {
		case <-d.changed:
		case <-d.stop:
			return
		}
		text := d.trouble()
		switch {
		case text == last:
		case text == "":
			d.cfg.OnHealth(nil)
		default:
			d.cfg.OnHealth(errors.New(text))
		}
		last = text
	}
}

// trouble describes the trouble: first the server, then the devices that wait for a person, ordered by id.
func (d *Delivery) trouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var text []string
	if d.server.unreachable {
		text = append(text, "the server does not answer: "+d.server.reason)
	}
	named := min(len(d.held), maxNamed)
	for _, q := range d.held[:named] {
		what := "has readings that wait"
		if q.condition.state == held {
			what = "is held"
		}
		if q.trouble == notConfigured {
			what = fmt.Sprintf("is held (waiting slots: %d)", q.stamps.n)
		}
		text = append(text, fmt.Sprintf("device %q %s: %s", q.device, what, cmp.Or(cures[q.heldFor], q.trouble)))
	}
	if more := len(d.held) - named; more > 0 {
		text = append(text, fmt.Sprintf("other devices in trouble: %d", more))
	}
	return strings.Join(text, "; ")
}
