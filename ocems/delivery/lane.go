package delivery

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// lane is the queue of one device. Delivery.mu guards it, but for offenders, which only its one attempt touches.
type lane struct {
	device    string
	slots     []*slot // waiting, oldest first
	busy      bool
	again     bool      // Retry came while busy
	next      time.Time // no attempt before
	probe     time.Time // no attempt of what was put aside before
	failures  int       // since the last success
	down      bool      // the last attempt found no server
	unheard   uint64    // Delivery.answers, plus one, when it last counted as unheard
	held      string    // why a person is needed, or ""
	reason    string    // the same, one of HoldReasons
	offenders map[string]string
	due       time.Time
	index     int // in the queue, -1 outside
}

// slot is one stamp's readings in the outbox.
type slot struct {
	stamp    int64
	ready    time.Time
	aside    bool   // what is left of it is refused for now: tried slowly, apart
	logged   bool   // by a dry run
	failures int    // answered, without success
	unknown  string // readings whose request may have been stored
}

func (d *Delivery) lane(device string) *lane {
	l := d.lanes[device]
	if l == nil {
		l = &lane{device: device, index: -1, offenders: map[string]string{}}
		d.lanes[device] = l
	}
	return l
}

func (l *lane) stamps() []int64 {
	out := make([]int64, len(l.slots))
	for i, s := range l.slots {
		out[i] = s.stamp
	}
	return out
}

func (l *lane) find(stamp int64) (int, bool) {
	return slices.BinarySearchFunc(l.slots, stamp, func(s *slot, t int64) int { return int(max(-1, min(1, s.stamp-t))) })
}

// pick returns the slot to try next and when: the oldest that is not aside, or the oldest aside when its time is
// nearer.
func (l *lane) pick() (s *slot, due time.Time) {
	for _, c := range l.slots {
		if !c.aside && !c.logged {
			s, due = c, later(c.ready, l.next)
			break
		}
	}
	for _, c := range l.slots {
		if c.aside {
			if at := later(l.probe, l.next); s == nil || at.Before(due) {
				s, due = c, at
			}
			break
		}
	}
	return s, due
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// laneQueue is a heap of lanes by due time.
type laneQueue []*lane

func (q laneQueue) Len() int           { return len(q) }
func (q laneQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q laneQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *laneQueue) Push(x any) {
	l := x.(*lane)
	l.index = len(*q)
	*q = append(*q, l)
}
func (q *laneQueue) Pop() any {
	old := *q
	l := old[len(old)-1]
	l.index = -1
	*q = old[:len(old)-1]
	return l
}

// schedule puts the lane where it belongs in the queue. Delivery.mu is held.
func (d *Delivery) schedule(l *lane) {
	s, due := l.pick()
	if l.busy || s == nil {
		if l.index >= 0 {
			heap.Remove(&d.queue, l.index)
		}
		return
	}
	l.due = due
	if l.index >= 0 {
		heap.Fix(&d.queue, l.index)
	} else {
		heap.Push(&d.queue, l)
	}
}

// digestTries is how often one slot may fail, answered, before the lane goes on without it.
const digestTries = 5

// The server counts as silent once so many lanes got no answer in a row, and then one at a time asks for the others;
// or after a minute without any, since a plant with one device has no others.
const (
	silentLanes = 8
	silentAfter = time.Minute
)

func (d *Delivery) dispatch() {
	defer d.running.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		wait := time.Hour
		for len(d.queue) > 0 && !d.closing {
			if limit := d.cfg.MaxConcurrency; d.active >= limit || (d.unheard >= silentLanes && d.active >= 1) {
				break
			}
			l := d.queue[0]
			if wait = time.Until(l.due); wait > 0 {
				break
			}
			heap.Pop(&d.queue)
			s, _ := l.pick()
			l.busy = true
			d.active++
			d.running.Add(1)
			go d.attempt(l, s, s.aside)
			wait = time.Hour
		}
		if !d.silent.IsZero() && d.silence == "" {
			if left := time.Until(d.silent.Add(silentAfter)); left > 0 {
				wait = min(wait, left)
			} else {
				d.fallSilent()
				d.running.Add(1)
				go func() {
					defer d.running.Done()
					d.report()
				}()
			}
		}
		d.mu.Unlock()
		timer.Reset(min(wait, time.Hour))
		select {
		case <-d.wake:
		case <-timer.C:
		case <-d.stop:
			return
		}
	}
}

// attempt tries one slot of a lane and decides when the lane comes again.
func (d *Delivery) attempt(l *lane, s *slot, aside bool) {
	defer d.running.Done()
	a := &attempt{d: d, l: l, s: s, aside: aside}
	out := a.run()
	d.mu.Lock()
	defer func() {
		l.busy = false
		d.active--
		d.schedule(l)
		d.poke()
		d.mu.Unlock()
		d.report()
	}()
	now := time.Now()
	switch out.verdict {
	case accepted:
		if l.held != "" {
			d.cfg.Logger.Info("the server takes the device's readings again", "device", l.device)
		}
		d.stale = d.stale || l.held != ""
		l.failures, l.held, l.next, l.down = 0, "", now, false
	case holdDevice:
		if l.held != out.detail {
			d.cfg.Logger.Error("the server refuses the device: its readings wait; check station id, device id, token and key",
				"device", l.device, "waiting_slots", len(l.slots), "reason", out.detail, "next_try_in", d.cfg.HoldInterval.String())
		}
		d.stale = d.stale || l.held != out.detail
		l.held, l.reason, l.next = out.detail, out.reason(), now.Add(max(d.cfg.HoldInterval, out.wait))
	case future:
		wait := max(time.Until(time.UnixMilli(s.stamp))-d.skew, d.cfg.InitialBackoff)
		l.next = now.Add(min(wait, d.cfg.MaxBackoff))
		d.cfg.Logger.Warn("the server says the slot is in the future: waiting", "device", l.device,
			"slot", spec.ISTString(time.UnixMilli(s.stamp)), "server_ahead_by", d.skew.String())
	default:
		l.failures++
		wait := d.backoff(l.failures)
		l.next = now.Add(max(wait, out.wait))
		if l.down = out.transport; !l.down {
			s.failures++
			// One slot that the server cannot digest must not hold up the rest until it expires.
			if s.failures >= digestTries && len(l.slots) > 1 && !s.aside {
				s.aside = true
				l.probe = now.Add(d.cfg.HoldInterval)
			}
		}
		if l.failures == 1 {
			d.cfg.Logger.Warn("an attempt failed: trying again", "device", l.device, "reason", out.detail, "next_try_in", max(wait, out.wait).String())
		}
	}
	if s.aside && out.verdict != accepted {
		l.probe = now.Add(d.cfg.HoldInterval)
	}
	if l.again { // Retry came while this request, made with what was before, was under way
		l.next, l.probe, l.again = now, now, false
	}
}

// backoff is exponential, with a jitter of a quarter.
func (d *Delivery) backoff(failures int) time.Duration {
	wait := d.cfg.InitialBackoff << min(failures-1, 20)
	if wait <= 0 || wait > d.cfg.MaxBackoff {
		wait = d.cfg.MaxBackoff
	}
	return wait - time.Duration(rand.Int64N(int64(wait)/4+1))
}

// report tells the host when trouble begins and ends.
func (d *Delivery) report() {
	if d.cfg.OnHealth == nil {
		return
	}
	d.telling.Lock() // so that the host hears the changes in their order
	defer d.telling.Unlock()
	d.mu.Lock()
	if !d.stale {
		d.mu.Unlock()
		return
	}
	d.stale = false
	var held []string
	for name, l := range d.lanes {
		if l.held != "" {
			held = append(held, fmt.Sprintf("device %q is held: %s", name, l.held))
		}
	}
	slices.Sort(held)
	if d.silence != "" {
		held = append([]string{"the server does not answer: " + d.silence}, held...)
	}
	text := strings.Join(held, "; ")
	changed := text != d.health
	d.health = text
	d.mu.Unlock()
	switch {
	case changed && text != "":
		d.cfg.OnHealth(errors.New(text))
	case changed:
		d.cfg.OnHealth(nil)
	}
}

// attempt is the work on one slot.
type attempt struct {
	d      *Delivery
	l      *lane
	s      *slot
	aside  bool // when the attempt began: new readings bring a slot back meanwhile
	target Target
}

func (a *attempt) run() answer {
	d := a.d
	rs, _, err := d.load(d.ctx, place{a.l.device, a.s.stamp})
	nothing := &work{device: a.l.device, leave: []payload.Reading{{Stamp: time.UnixMilli(a.s.stamp)}}}
	switch {
	case errors.Is(err, errDamaged):
		nothing.audited = true // by the writer, with what it keeps
		d.remove(nothing)
		return answer{verdict: accepted}
	case err != nil:
		return answer{verdict: tryAgain, detail: err.Error()}
	case len(rs) == 0:
		nothing.entry = audit.Entry{Outcome: audit.Recovered, Device: a.l.device, Stamp: a.s.stamp, Detail: "the store's index named a slot that it does not hold"}
		d.remove(nothing)
		return answer{verdict: accepted}
	}
	target, ok := d.cfg.Lookup(a.l.device)
	a.target = target
	if rs[0].Stamp.Before(d.clock().Add(-spec.MaxAge)) {
		a.finish(rs, audit.Expired, nil, "not delivered within 7 days of its stamp: "+a.l.held)
		return answer{verdict: accepted}
	}
	if !ok {
		return answer{verdict: holdDevice, detail: "the configuration has no such device any more: its readings wait until they expire"}
	}
	if d.cfg.DryRun {
		for _, one := range requests(rs) {
			text, err := a.record(one).Marshal()
			if err != nil {
				return answer{verdict: tryAgain, detail: err.Error()}
			}
			d.cfg.Logger.Info("dry run: this would be sent", "device", a.l.device, "json", string(text))
		}
		d.mu.Lock()
		a.s.logged = true
		d.mu.Unlock()
		return answer{verdict: accepted}
	}
	if !a.aside {
		good := slices.DeleteFunc(slices.Clone(rs), func(r payload.Reading) bool { return a.l.offenders[offender(r)] != "" })
		if len(good) == 0 {
			d.putAside(a.l, a.s)
			return answer{verdict: accepted}
		}
		return a.deliver(good)
	}
	// What was put aside is tried one reading at a time: the oldest tells whether it is taken again.
	probe := rs[:1]
	if a.l.offenders[offender(rs[0])] == "" {
		probe = slices.DeleteFunc(slices.Clone(rs), func(r payload.Reading) bool { return a.l.offenders[offender(r)] != "" })
	}
	out := a.deliver(probe)
	if out.verdict == accepted && a.l.offenders[offender(rs[0])] == "" {
		d.mu.Lock()
		for _, s := range a.l.slots {
			s.aside, s.failures = false, 0
		}
		d.mu.Unlock()
	}
	return out
}

func (d *Delivery) putAside(l *lane, s *slot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.aside = true
	if now := time.Now(); !l.probe.After(now) {
		l.probe = now.Add(d.cfg.HoldInterval)
	}
}

func offender(r payload.Reading) string { return r.Parameter + "\x00" + r.Unit }

func (a *attempt) record(rs []payload.Reading) payload.Record {
	return payload.Record{StationID: a.target.StationID, DeviceID: a.l.device, Latitude: a.target.Latitude,
		Longitude: a.target.Longitude, Readings: rs}
}

func (a *attempt) finish(rs []payload.Reading, o audit.Outcome, status *int, detail string) {
	a.d.finish(a.l.device, a.target.StationID, rs, o, status, detail)
}

// deliver sends the readings in as few requests as may be and settles them by the answers. Verdict accepted means: the
// lane may go on; anything else is why it must wait.
func (a *attempt) deliver(rs []payload.Reading) (out answer) {
	for _, one := range requests(rs) {
		if out = a.settle(one, a.send(one)); out.verdict != accepted {
			return out
		}
	}
	return out
}

// requests parts readings of one stamp so that a request names a parameter once: a calibration point and an average may
// end together.
func requests(rs []payload.Reading) [][]payload.Reading {
	points, rest := split(rs)
	if slices.ContainsFunc(points, func(p payload.Reading) bool {
		return slices.ContainsFunc(rest, func(r payload.Reading) bool { return r.Parameter == p.Parameter && r.Diagnostic == p.Diagnostic })
	}) {
		return [][]payload.Reading{rest, points}
	}
	return [][]payload.Reading{rs}
}

func (a *attempt) settle(rs []payload.Reading, ans answer) answer {
	goOn := answer{verdict: accepted}
	switch ans.verdict {
	case accepted:
		for _, r := range rs {
			delete(a.l.offenders, offender(r))
		}
		a.finish(rs, audit.Delivered, ans.status, "")
		return goOn
	case stored:
		switch {
		case a.s.unknown == composition(rs):
			a.finish(rs, audit.AlreadyStored, ans.status, "sent before by this process, whose answer was lost")
			return goOn
		case len(rs) > 1: // some may be new: only alone does each say
			return a.each(rs)
		case rs[0].Flag.Calibration():
			a.finish(rs, audit.Rejected, ans.status, ans.detail)
			return goOn
		}
		delete(a.l.offenders, offender(rs[0]))
		a.finish(rs, audit.AlreadyStored, ans.status, "stored before: by an earlier run, by another sender, or with the slot's other parameters")
		return goOn
	case expired:
		a.finish(rs, audit.Expired, ans.status, ans.detail)
		return goOn
	case notScheduled:
		points, rest := split(rs)
		if len(points) == 0 {
			points, rest = rs, nil
		}
		a.finish(points, audit.Rejected, ans.status, ans.detail)
		if len(rest) > 0 {
			return a.deliver(rest)
		}
		return goOn
	case badParameter:
		return a.isolate(rs, ans)
	case tooLarge:
		if len(rs) > 1 {
			return a.halves(rs)
		}
		ans.verdict = tryAgain
	}
	if ans.unknown {
		a.s.unknown = composition(rs)
	}
	return ans
}

// split parts the calibration points of a request from the rest.
func split(rs []payload.Reading) (points, rest []payload.Reading) {
	for _, r := range rs {
		if r.Flag.Calibration() {
			points = append(points, r)
		} else {
			rest = append(rest, r)
		}
	}
	return points, rest
}

func (a *attempt) each(rs []payload.Reading) answer {
	for i := range rs {
		if out := a.deliver(rs[i : i+1]); out.verdict != accepted {
			return out
		}
	}
	return answer{verdict: accepted}
}

func (a *attempt) halves(rs []payload.Reading) answer {
	if out := a.deliver(rs[:len(rs)/2]); out.verdict != accepted {
		return out
	}
	return a.deliver(rs[len(rs)/2:])
}

// isolate finds the reading for whose parameter or unit a request was refused: first by leaving one out, so that the
// others stay together in one request, then by halves.
func (a *attempt) isolate(rs []payload.Reading, ans answer) answer {
	if len(rs) == 1 {
		r := rs[0]
		if a.l.offenders[offender(r)] == "" {
			a.d.cfg.Logger.Error("the server refuses a parameter: its readings wait, the device's others go on; check the key and the unit with the board",
				"device", a.l.device, "parameter", r.Parameter, "unit", r.Unit, "reason", ans.detail)
		}
		a.l.offenders[offender(r)] = ans.detail
		a.d.putAside(a.l, a.s)
		return answer{verdict: accepted}
	}
	for i, r := range rs {
		rest := slices.Delete(slices.Clone(rs), i, i+1)
		out := a.send(rest)
		if out.verdict == badParameter {
			continue
		}
		if out = a.settle(rest, out); out.verdict == accepted {
			return a.isolate([]payload.Reading{r}, ans)
		}
		return out
	}
	return a.halves(rs)
}

// composition names the readings of a request.
func composition(rs []payload.Reading) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, "%s\x00%v\x00", r.Parameter, r.Diagnostic)
	}
	return b.String()
}

// send makes one request: sealed, signed anew, answered or not.
func (a *attempt) send(rs []payload.Reading) answer {
	d := a.d
	text, err := a.record(rs).Marshal()
	if err != nil {
		return answer{verdict: tryAgain, detail: err.Error()}
	}
	sent := time.Now()
	signature, err := a.target.Sealer.Sign(sent)
	if err != nil {
		return answer{verdict: holdDevice, detail: err.Error()}
	}
	req, err := http.NewRequestWithContext(d.ctx, http.MethodPost, d.cfg.Endpoint, bytes.NewReader(a.target.Sealer.Seal(text)))
	if err != nil {
		return answer{verdict: tryAgain, detail: err.Error()}
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header["signature"] = []string{signature} // as the document writes it (spec 2.3)
	req.Header.Set("X-Device-Id", a.l.device)
	ans := d.exchange(req, sent)
	d.heard(a.l, ans, sent)
	if d.cfg.OnTry != nil {
		d.cfg.OnTry(time.Since(sent), ans.verdict == accepted)
	}
	return ans
}

func (d *Delivery) exchange(req *http.Request, sent time.Time) answer {
	resp, err := d.cfg.Client.Do(req)
	if err != nil {
		return answer{verdict: tryAgain, detail: "no answer: " + hint(err), transport: true, unknown: true}
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return answer{verdict: tryAgain, detail: "half an answer: " + hint(err), transport: true, unknown: true}
	}
	ans := judge(resp, body)
	if ans.status != nil {
		d.measureSkew(resp, sent)
	}
	return ans
}

// hint adds what usually mends the error. The text can hold what the server sent, a certificate's names for one.
func hint(err error) string {
	text := printable(err.Error(), 400)
	switch {
	case strings.Contains(text, "x509:") || strings.Contains(text, "certificate"):
		return text + " (the server's certificate is not trusted: give the authority's file as ca_file; do not turn verification off)"
	case strings.Contains(text, http.StatusText(http.StatusProxyAuthRequired)):
		return text + " (the proxy wants another user or password in proxy_url)"
	case errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, "timeout"):
		return text + " (the board's server may answer to Indian addresses only; check the route and the proxy)"
	}
	return text
}

// heard notes whether there is a server at all. The first answer after silence wakes the lanes that waited for one.
func (d *Delivery) heard(l *lane, ans answer, sent time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ans.transport {
		if d.silent.IsZero() {
			d.silent = sent
		}
		d.why = ans.detail
		if l.unheard != d.answers+1 {
			l.unheard = d.answers + 1
			if d.unheard++; d.unheard == silentLanes && d.silence == "" {
				d.fallSilent()
			}
		}
		return
	}
	d.answers++
	d.silent, d.unheard = time.Time{}, 0
	if d.silence == "" {
		return
	}
	d.silence, d.stale = "", true
	d.cfg.Logger.Info("the server answers again")
	now := time.Now()
	for _, l := range d.lanes {
		if l.down {
			l.down, l.failures = false, 0
			l.next = now.Add(d.offset(l.device))
			d.schedule(l)
		}
	}
}

// fallSilent notes that the server does not answer, with the last reason.
func (d *Delivery) fallSilent() {
	d.silence, d.stale = d.why, true
	d.cfg.Logger.Error("the server does not answer: the readings wait in the outbox", "since", d.silent, "reason", d.why)
}
