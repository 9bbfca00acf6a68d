package delivery

import (
	"reflect"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

var testTiming = timing{initialBackoff: 5 * time.Second, maxBackoff: 5 * time.Minute, holdInterval: 10 * time.Minute}

// readings makes readings named by letters: a to z are averages, A to Z calibration points of the same parameters.
func readings(names string) (rs []payload.Reading) {
	for _, n := range names {
		r := payload.Reading{Parameter: string(n), Unit: "mg/L", Flag: 'U'}
		if n < 'a' {
			r.Parameter, r.Flag = string(n-'A'+'a'), 'C'
		}
		rs = append(rs, r)
	}
	return rs
}

func names(rs []payload.Reading) string {
	var out []byte
	for _, r := range rs {
		n := r.Parameter[0]
		if r.Flag.Calibration() {
			n -= 'a' - 'A'
		}
		out = append(out, n)
	}
	return string(out)
}

func requestNames(todo []request) (out []string) {
	for _, r := range todo {
		out = append(out, names(r.readings))
	}
	return out
}

func TestDecide(t *testing.T) {
	one, many, point := request{readings: readings("a")}, request{readings: readings("abcd")}, request{readings: readings("A")}
	for _, c := range []struct {
		name     string
		request  request
		answer   answer
		evidence evidence

		settled string
		outcome audit.Outcome
		suspend string
		next    []string
		state   state
		pause   time.Duration
		park    bool
		trouble bool
		foreign bool
		pausing bool
	}{
		{name: "delivered", request: many, answer: answer{verdict: delivered}, settled: "abcd", outcome: audit.Delivered},

		{name: "stored, and its answer was lost", request: many, answer: answer{verdict: stored}, evidence: evidence{inDoubt: true},
			settled: "abcd", outcome: audit.AlreadyStored},
		{name: "a lost answer is no evidence where another 111 is unexplained", request: many, answer: answer{verdict: stored},
			evidence: evidence{inDoubt: true, unexplained: true}, park: true, trouble: true},
		{name: "stored, and perhaps never sent", request: many, answer: answer{verdict: stored}, evidence: evidence{inDoubt: true, untested: true}, park: true},
		{name: "stored, and perhaps never sent, where another 111 is unexplained", request: many, answer: answer{verdict: stored},
			evidence: evidence{untested: true, unexplained: true}, park: true, trouble: true},
		{name: "stored, perhaps in part", request: many, answer: answer{verdict: stored}, next: []string{"ab", "cd"}},
		{name: "stored alone, without evidence", request: one, answer: answer{verdict: stored}, park: true, trouble: true},
		{name: "a calibration point, without evidence", request: point, answer: answer{verdict: stored}, park: true, trouble: true},
		{name: "a calibration point whose answer was lost", request: point, answer: answer{verdict: stored}, evidence: evidence{inDoubt: true},
			settled: "A", outcome: audit.AlreadyStored},
		{name: "all 111 unexplained", request: many, answer: answer{verdict: stored}, evidence: evidence{unexplained: true}, park: true, trouble: true},
		{name: "stored, and the trail has it", request: one, answer: answer{verdict: stored}, evidence: evidence{unexplained: true, recorded: readings("a")},
			settled: "a", outcome: audit.AlreadyStored},
		{name: "stored, and the trail has a part", request: many, answer: answer{verdict: stored}, evidence: evidence{recorded: readings("bc")},
			settled: "bc", outcome: audit.AlreadyStored, next: []string{"ad"}},
		{name: "stored, and the trail has another value", request: one, answer: answer{verdict: stored}, evidence: evidence{conflict: "the server has 5"},
			settled: "a", outcome: audit.Rejected},
		{name: "stored alone, and nothing of it was sent before", request: one, answer: answer{verdict: stored}, evidence: evidence{fresh: true},
			park: true, trouble: true, foreign: true},
		{name: "stored by another sender, perhaps in part", request: many, answer: answer{verdict: stored}, evidence: evidence{shared: true, unexplained: true, asks: true},
			next: []string{"a", "b", "c", "d"}},
		{name: "stored by another sender, perhaps in part, and an answer was lost", request: many, answer: answer{verdict: stored}, evidence: evidence{shared: true, inDoubt: true, asks: true},
			next: []string{"a", "b", "c", "d"}},
		{name: "stored by another sender, of a hub", request: many, answer: answer{verdict: stored}, evidence: evidence{shared: true},
			settled: "abcd", outcome: audit.AlreadyStored},
		{name: "stored by another sender", request: one, answer: answer{verdict: stored}, evidence: evidence{shared: true, unexplained: true},
			settled: "a", outcome: audit.AlreadyStored},

		{name: "too old by both clocks", request: many, answer: answer{verdict: expired}, evidence: evidence{tooOld: true}, settled: "abcd", outcome: audit.Expired},
		{name: "too old, but a clock disagrees", request: many, answer: answer{verdict: expired}, park: true, trouble: true},
		{name: "in the future", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: time.Minute}, state: waiting, pause: time.Minute},
		{name: "far in the future", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: time.Hour}, state: waiting, pause: 5 * time.Minute},
		{name: "in the future by one clock", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: -time.Hour},
			state: waiting, pause: 5 * time.Second},
		{name: "in the future, but both clocks disagree", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: -time.Hour, passed: true},
			park: true, trouble: true},

		{name: "calibration not scheduled", request: request{readings: readings("aBc")}, answer: answer{verdict: notScheduled}, next: []string{"ac"}, park: true},
		{name: "calibration not scheduled, alone", request: point, answer: answer{verdict: notScheduled}, park: true},
		{name: "calibration not scheduled, but no calibration point sent", request: many, answer: answer{verdict: notScheduled}, park: true, trouble: true},

		{name: "bad parameter, alone", request: one, answer: answer{verdict: badParameter}, suspend: "a"},
		{name: "bad parameter, among others", request: many, answer: answer{verdict: badParameter}, next: []string{"ab", "cd"}},
		{name: "too many bad parameters at once", request: many, answer: answer{verdict: badParameter}, evidence: evidence{searched: mostSearched}, park: true, pausing: true},

		{name: "too large", request: many, answer: answer{verdict: tooLarge}, next: []string{"ab", "cd"}},
		{name: "too large, alone", request: one, answer: answer{verdict: tooLarge}, state: backingOff, pause: 5 * time.Second},

		{name: "refused device", request: many, answer: answer{verdict: refusedDevice}, state: held, pause: 10 * time.Minute},
		{name: "refused device, with Retry-After", request: many, answer: answer{verdict: refusedDevice, wait: time.Hour}, state: held, pause: time.Hour},

		{name: "failed", request: many, answer: answer{verdict: failed}, state: backingOff, pause: 5 * time.Second},
		{name: "failed again", request: many, answer: answer{verdict: failed}, evidence: evidence{failures: 3, jitter: 1}, state: backingOff, pause: 30 * time.Second},
		{name: "failed for long", request: many, answer: answer{verdict: failed}, evidence: evidence{failures: 1000}, state: backingOff, pause: 5 * time.Minute},
		{name: "failed, with Retry-After", request: many, answer: answer{verdict: failed, wait: time.Minute}, state: backingOff, pause: time.Minute},
		{name: "failed four times", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 3}, state: backingOff, pause: 5 * time.Second},
		{name: "failed five times", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 4}, state: backingOff, pause: 5 * time.Second,
			park: true, trouble: true},
		{name: "failed five times, and nothing else waits", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 4, alone: true},
			state: backingOff, pause: 5 * time.Second},
		{name: "HTTP 500 five times, and others accepted", request: many, answer: answer{verdict: failed, unanswered: true, whole: true},
			evidence: evidence{slotFailures: 4, othersTaken: true}, state: unreachable, pause: 5 * time.Second, park: true, trouble: true},
		{name: "HTTP 500 five times, and nothing accepted", request: many, answer: answer{verdict: failed, unanswered: true, whole: true},
			evidence: evidence{slotFailures: 4}, state: unreachable, pause: 5 * time.Second},
		{name: "no answer", request: many, answer: answer{verdict: failed, unanswered: true}, evidence: evidence{slotFailures: 9, othersTaken: true}, state: unreachable, pause: 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testTiming.decide(c.request, c.answer, c.evidence)
			if names(d.settled) != c.settled || d.outcome != c.outcome || names(d.suspend) != c.suspend || !reflect.DeepEqual(requestNames(d.next), c.next) ||
				d.state != c.state || d.pause != c.pause || d.park != c.park || d.trouble != c.trouble || d.foreign != c.foreign || d.pausing != c.pausing {
				t.Errorf("%+v, next %q", d, requestNames(d.next))
			}
			if d.state == ready && !d.progress() && !d.park && len(d.next) == 0 {
				t.Error("nothing follows from it")
			}
		})
	}
}

// A 111 for two slots that were never sent from here has one of two causes, depending on what else the server has
// accepted.
func TestWhose111(t *testing.T) {
	for _, c := range []struct {
		name, before string
		foreign      int
		taken        bool
		want         string
	}{
		{"one slot", "", 1, true, "111"},
		{"slots that were sent before, as after a kill", "111", 0, true, "111"},
		{"two slots, and others accepted", "111", 2, true, anotherSender},
		{"two slots, and nothing ever accepted", "111", 2, false, offGrid},
		{"later the server accepts a slot", offGrid, 1, true, anotherSender},
		{"after a restart, which resets the count", anotherSender, 0, true, anotherSender},
		{"after a restart, and nothing ever accepted", offGrid, 0, false, offGrid},
		{"after another trouble", "117", 2, true, anotherSender},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := whose(c.before, c.foreign, c.taken); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// A plant sends each reading alone; a standby hub sends as many as the limit allows.
func TestAsks(t *testing.T) {
	var a asks
	now := time.Now()
	allowed := 0
	for range 2000 {
		if a.allow(7, 1, now) {
			allowed += 7
		}
	}
	if most := int(askBurst / askInterval); allowed < most || allowed > most+7 {
		t.Errorf("%d requests at once, want about %d", allowed, most)
	}
	for slot := range 96 {
		now = now.Add(spec.SlotLength)
		for range 600 {
			if !a.allow(7, 600, now) {
				t.Fatalf("slot %d: 600 devices are too many", slot)
			}
		}
	}
	const devices = 15_000 // readings of 643 can be sent alone; the last devices of a turn are chosen as often as the first
	now = now.Add(spec.SlotLength)
	var thirds [3]int
	for device := range devices {
		if a.allow(7, devices, now) {
			thirds[device*3/devices]++
		}
	}
	for i, n := range thirds {
		if n < 140 || n > 290 {
			t.Errorf("%d devices are asked for in third %d of a turn, want about 214", n, i+1)
		}
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name, readings, suspended, suspects string
		parked, pausing                     bool
		want                                []string
	}{
		{"one request", "abc", "", "", false, false, []string{"abc"}},
		{"a point beside its average", "aAb", "", "", false, false, []string{"ab", "A"}},
		{"a point of another parameter", "aB", "", "", false, false, []string{"aB"}},
		{"without suspended parameters", "abc", "b", "", false, false, []string{"ac"}},
		{"only suspended parameters", "ab", "ab", "", false, false, nil},
		{"parked: the suspended one that has waited longest, then the rest", "abcd", "db", "", true, false, []string{"d", "ac"}},
		{"parked, and nothing suspended", "ab", "", "", true, false, []string{"ab"}},
		{"suspects in halves", "abcdef", "b", "cdef", false, false, []string{"a", "cd", "ef"}},
		{"a suspect alone", "ab", "", "b", false, false, []string{"a", "b"}},
		{"suspects wait while the search pauses", "abc", "", "bc", false, true, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &newQueue("d").memory
			for i, r := range readings(c.suspended) {
				m.suspended[unitOf{r.Parameter, r.Unit}] = &suspension{tried: time.Unix(int64(i), 0)}
			}
			for _, r := range readings(c.suspects) {
				m.suspects[unitOf{r.Parameter, r.Unit}] = true
			}
			if got := requestNames(plan(readings(c.readings), m, c.parked, c.pausing)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestConditionAfterADecision(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	status := 102
	refused := answer{verdict: refusedDevice, status: &status, detail: "status 102"}
	onHold := condition{state: held, failures: 2, until: now, reason: "102", detail: "status 102"}
	failing := condition{state: backingOff, failures: 3, until: now, detail: "HTTP 500"}
	for _, c := range []struct {
		name     string
		before   condition
		decision decision
		answer   answer
		want     condition
	}{
		{"a success ends a hold", onHold, decision{settled: readings("a")}, answer{}, condition{}},
		{"a suspended parameter is an answer too", onHold, decision{suspend: readings("a")}, answer{}, condition{}},
		{"a split changes nothing", failing, decision{next: halve(request{readings: readings("ab")}, nil)}, answer{}, failing},
		{"a slot put aside says that the device is known", onHold, decision{park: true, trouble: true}, answer{}, condition{}},
		{"refused", failing, decision{state: held, pause: time.Minute}, refused,
			condition{state: held, failures: 3, until: now.Add(time.Minute), reason: "102", detail: "status 102"}},
		{"failed", failing, decision{state: unreachable, pause: time.Minute}, answer{detail: "no answer"},
			condition{state: unreachable, failures: 4, until: now.Add(time.Minute), detail: "no answer"}},
		{"a failure does not end a hold", onHold, decision{state: backingOff, pause: time.Minute}, answer{detail: "HTTP 500"},
			condition{state: held, failures: 3, until: now.Add(time.Minute), reason: "102", detail: "status 102"}},
		{"waiting is no failure", condition{}, decision{state: waiting, pause: time.Minute}, answer{detail: "status 118"},
			condition{state: waiting, until: now.Add(time.Minute), detail: "status 118"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.before.after(c.decision, c.answer, now); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
