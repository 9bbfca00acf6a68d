package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Outage is a time when the board's server did not answer, or when the board refused a device, in IST. It proves that the host
// tried to deliver.
type Outage struct {
	Trail    string     `json:"trail"`
	Device   string     `json:"device,omitempty"` // "": the server
	From     time.Time  `json:"from"`
	To       *time.Time `json:"to,omitempty"`       // nil: it is not over
	Attempts int        `json:"attempts,omitempty"` // 0: not known
	Status   *int       `json:"status,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Detail   string     `json:"detail,omitempty"`
	Lines    []Line     `json:"lines,omitempty"` // of a Notice

	trail int
}

type outageKey struct {
	device string
	from   int64
}

// goOn adds the outages of the next file of a trail, which also ends outages of the files before.
func (h *hostTimes) goOn(x *sums, device string) {
	if h.outages == nil {
		h.outages = map[outageKey]*audit.Outage{}
	}
	for _, o := range h.outages {
		if o.To.IsZero() && !x.over.IsZero() {
			o.To = x.over
		}
	}
	take := func(device string, list []*audit.Outage) {
		for _, o := range list {
			key := outageKey{device, o.From.UnixMilli()}
			if known := h.outages[key]; known == nil || !o.To.IsZero() {
				one := *o
				h.outages[key] = &one
			}
		}
	}
	take("", x.outages)
	for _, days := range [][]*audit.Day{x.verified, x.unverified} {
		for _, d := range days {
			if device == "" || device == d.Device {
				take(d.Device, d.Held)
			}
		}
	}
}

// outages returns the outages in the period: of the servers and of each device.
func (b *Builder) outages(first, last int64) (server []Outage, held map[string][]Outage) {
	server, held = []Outage{}, map[string][]Outage{}
	for i := range b.hosts {
		for key, o := range b.hosts[i].outages {
			if first > last || o.From.After(at(last+1)) || !o.To.IsZero() && o.To.Before(at(first-1)) {
				continue
			}
			x := Outage{Trail: b.files[i], Device: key.device, From: o.From.In(spec.IST), Attempts: o.Attempts, Status: o.Status, Reason: o.Reason, Detail: o.Detail, trail: i}
			if !o.To.IsZero() {
				to := o.To.In(spec.IST)
				x.To = &to
			}
			if key.device == "" {
				server = append(server, x)
			} else {
				held[key.device] = append(held[key.device], x)
			}
		}
	}
	sort := func(list []Outage) {
		slices.SortFunc(list, func(a, b Outage) int { return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.trail, b.trail)) })
	}
	sort(server)
	for _, list := range held {
		sort(list)
	}
	return server, held
}

// Text is one sentence.
func (o Outage) Text() string {
	what, now := "The board's server did not answer", "The board's server does not answer"
	if o.Device != "" {
		what, now = "The device was held", "The device is held"
	}
	text := fmt.Sprintf("%s since %s", now, clock(o.From))
	if o.To != nil {
		text = fmt.Sprintf("%s from %s to %s", what, clock(o.From), clock(*o.To))
	}
	if o.Attempts > 0 {
		text += ", " + spec.Counted(o.Attempts, "attempt")
	}
	if o.Detail != "" {
		text += ": " + plain(o.Detail)
	}
	return text + "."
}

// Proof is the sentence with its lines in the trail.
func (o Outage) Proof() string {
	var places []string
	for _, l := range o.Lines {
		places = append(places, l.Place())
	}
	return fmt.Sprintf("%s (%s)", o.Text(), plain(strings.Join(places, ", ")))
}

// outageTexts returns a sentence for each of the first outages.
func outageTexts(list []Outage, what string) (texts []string) {
	for i, o := range list {
		if i == mostOff {
			return append(texts, fmt.Sprintf("%s %d more times.", what, len(list)-i))
		}
		texts = append(texts, o.Text())
	}
	return texts
}

// prove adds to each late or undelivered run the outages that explain it.
func (n *Notice) prove(lines map[outageKey][]Line) {
	held := map[string][]Outage{}
	for i := range n.Devices {
		held[n.Devices[i].ID] = n.Devices[i].Held
	}
	for i := range n.Findings {
		f := &n.Findings[i]
		if !f.made {
			continue
		}
		until := f.until
		if f.waits {
			until = n.Made
		}
		for _, o := range slices.Concat(n.Outages, held[f.Device]) {
			if o.From.After(until) || o.To != nil && o.To.Before(f.First) || f.trail >= 0 && f.trail != o.trail {
				continue
			}
			o.Lines = lines[outageKey{o.Device, o.From.UnixMilli()}]
			f.Outages = append(f.Outages, o)
		}
	}
}
