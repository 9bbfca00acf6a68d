package delivery

import (
	"reflect"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
)

var testTiming = timing{initialBackoff: 5 * time.Second, maxBackoff: 5 * time.Minute, holdInterval: 10 * time.Minute}

// readings are named by letters: a to z are averages, A to Z calibration points of the same parameters.
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
		name := names(r.readings)
		if r.whole != nil {
			name += " of " + names(r.whole)
		}
		out = append(out, name)
	}
	return out
}

func TestDecide(t *testing.T) {
	one, many := request{readings: readings("a")}, request{readings: readings("abcd")}
	without := func(left int) request { return without(readings("abc"), left, "refused")[0] }
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
	}{
		{name: "delivered", request: many, answer: answer{verdict: delivered}, settled: "abcd", outcome: audit.Delivered},
		{name: "the others are delivered without the refused one", request: without(1), answer: answer{verdict: delivered},
			settled: "ac", outcome: audit.Delivered, suspend: "b"},

		{name: "stored, and its answer was lost", request: many, answer: answer{verdict: stored}, evidence: evidence{inDoubt: true},
			settled: "abcd", outcome: audit.AlreadyStored},
		{name: "stored, perhaps in part", request: many, answer: answer{verdict: stored}, next: []string{"a", "b", "c", "d"}},
		{name: "stored alone", request: one, answer: answer{verdict: stored}, settled: "a", outcome: audit.AlreadyStored},
		{name: "a calibration point off its grid", request: request{readings: readings("A")}, answer: answer{verdict: stored},
			settled: "A", outcome: audit.Rejected},
		{name: "the others are stored without the refused one", request: without(0), answer: answer{verdict: stored},
			suspend: "a", next: []string{"b", "c"}},

		{name: "expired", request: many, answer: answer{verdict: expired}, settled: "abcd", outcome: audit.Expired},
		{name: "in the future", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: time.Minute}, state: waiting, pause: time.Minute},
		{name: "far in the future", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: time.Hour}, state: waiting, pause: 5 * time.Minute},
		{name: "in the future, by a clock that says otherwise", request: one, answer: answer{verdict: future}, evidence: evidence{ahead: -time.Hour},
			state: waiting, pause: 5 * time.Second},

		{name: "calibration not scheduled", request: request{readings: readings("aBc")}, answer: answer{verdict: notScheduled},
			settled: "B", outcome: audit.Rejected, next: []string{"ac"}},
		{name: "calibration not scheduled, and no point there", request: many, answer: answer{verdict: notScheduled}, settled: "abcd", outcome: audit.Rejected},

		{name: "bad parameter, alone", request: one, answer: answer{verdict: badParameter}, suspend: "a"},
		{name: "bad parameter, among others", request: many, answer: answer{verdict: badParameter}, next: []string{"bcd of abcd"}},
		{name: "not the one that was left out", request: without(0), answer: answer{verdict: badParameter}, next: []string{"ac of abc"}},
		{name: "several bad parameters", request: without(2), answer: answer{verdict: badParameter}, next: []string{"a", "bc"}},

		{name: "too large", request: many, answer: answer{verdict: tooLarge}, next: []string{"ab", "cd"}},
		{name: "too large, with one left out", request: without(0), answer: answer{verdict: tooLarge}, next: []string{"a", "bc"}},
		{name: "too large, alone", request: one, answer: answer{verdict: tooLarge}, state: backingOff, pause: 5 * time.Second},

		{name: "refused device", request: many, answer: answer{verdict: refusedDevice}, state: held, pause: 10 * time.Minute},
		{name: "refused device, come later", request: many, answer: answer{verdict: refusedDevice, wait: time.Hour}, state: held, pause: time.Hour},

		{name: "failed", request: many, answer: answer{verdict: failed}, state: backingOff, pause: 5 * time.Second},
		{name: "failed, with one left out", request: without(1), answer: answer{verdict: failed}, state: backingOff, pause: 5 * time.Second},
		{name: "failed again", request: many, answer: answer{verdict: failed}, evidence: evidence{failures: 3, jitter: 1}, state: backingOff, pause: 30 * time.Second},
		{name: "failed for long", request: many, answer: answer{verdict: failed}, evidence: evidence{failures: 1000}, state: backingOff, pause: 5 * time.Minute},
		{name: "failed, come later", request: many, answer: answer{verdict: failed, wait: time.Minute}, state: backingOff, pause: time.Minute},
		{name: "failed four times", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 3}, state: backingOff, pause: 5 * time.Second},
		{name: "failed five times", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 4}, state: backingOff, pause: 5 * time.Second, park: true},
		{name: "failed five times, and nothing else waits", request: many, answer: answer{verdict: failed}, evidence: evidence{slotFailures: 4, alone: true},
			state: backingOff, pause: 5 * time.Second},
		{name: "no answer", request: many, answer: answer{verdict: failed, unanswered: true}, evidence: evidence{slotFailures: 9}, state: unreachable, pause: 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testTiming.decide(c.request, c.answer, c.evidence)
			if names(d.settled) != c.settled || d.outcome != c.outcome || names(d.suspend) != c.suspend || !reflect.DeepEqual(requestNames(d.next), c.next) ||
				d.state != c.state || d.pause != c.pause || d.park != c.park {
				t.Errorf("%+v, next %q", d, requestNames(d.next))
			}
			if d.state == ready && !d.progress() && len(d.next) == 0 {
				t.Error("nothing follows from it")
			}
		})
	}
}

// Whatever the server refuses: each reading is either taken or suspended, and the refused ones are.
func TestIsolateFindsEveryBadParameter(t *testing.T) {
	for mask := range 1 << 6 {
		all := readings("abcdef")
		bad := func(rs []payload.Reading) bool {
			for _, r := range rs {
				if mask&(1<<(r.Parameter[0]-'a')) != 0 {
					return true
				}
			}
			return false
		}
		var taken, suspended []payload.Reading
		sent := 0
		for todo := plan(all, nil, false); len(todo) > 0; sent++ {
			a := answer{verdict: delivered}
			if bad(todo[0].readings) {
				a.verdict = badParameter
			}
			d := testTiming.decide(todo[0], a, evidence{})
			taken, suspended = append(taken, d.settled...), append(suspended, d.suspend...)
			todo = append(d.next, todo[1:]...)
		}
		if len(taken)+len(suspended) != len(all) || bad(taken) {
			t.Errorf("bad %06b: taken %s, suspended %s", mask, names(taken), names(suspended))
		}
		for _, r := range suspended {
			if !bad([]payload.Reading{r}) {
				t.Errorf("bad %06b: %s is suspended", mask, r.Parameter)
			}
		}
		if sent > 40 {
			t.Errorf("bad %06b: %d requests", mask, sent)
		}
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name, readings, suspended string
		parked                    bool
		want                      []string
	}{
		{"one request", "abc", "", false, []string{"abc"}},
		{"a point beside its average", "aAb", "", false, []string{"ab", "A"}},
		{"a point of another parameter", "aB", "", false, []string{"aB"}},
		{"without what is suspended", "abc", "b", false, []string{"ac"}},
		{"nothing but what is suspended", "ab", "ab", false, nil},
		{"parked: each suspended one alone, then the rest", "abcd", "bd", true, []string{"b", "d", "ac"}},
		{"parked, and nothing suspended", "ab", "", true, []string{"ab"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			suspended := map[unitOf]bool{}
			for _, r := range readings(c.suspended) {
				suspended[unitOf{r.Parameter, r.Unit}] = true
			}
			if got := requestNames(plan(readings(c.readings), suspended, c.parked)); !reflect.DeepEqual(got, c.want) {
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
		{"a split changes nothing", failing, decision{next: each(readings("ab"))}, answer{}, failing},
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

func TestReachability(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type step struct {
		at       time.Duration
		event    string // "answer", "check", or the device that got none
		change   bool   // it is reported
		down     bool   // after it
		oneAtime bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"one device, for a minute", []step{{0, "a", false, false, false}, {59 * time.Second, "check", false, false, false},
			{60 * time.Second, "check", true, true, false}, {61 * time.Second, "check", false, true, false},
			{70 * time.Second, "a", false, true, false}, {80 * time.Second, "answer", true, false, false}}},
		{"a short break", []step{{0, "a", false, false, false}, {30 * time.Second, "answer", false, false, false},
			{90 * time.Second, "check", false, false, false}}},
		{"an answer begins a new minute", []step{{0, "a", false, false, false}, {50 * time.Second, "answer", false, false, false},
			{55 * time.Second, "a", false, false, false}, {100 * time.Second, "check", false, false, false},
			{115 * time.Second, "check", true, true, false}}},
		{"many devices", []step{{0, "a", false, false, false}, {0, "b", false, false, false}, {0, "c", false, false, false}, {0, "d", false, false, false},
			{0, "e", false, false, false}, {0, "f", false, false, false}, {0, "g", false, false, false}, {0, "g", false, false, false},
			{0, "h", true, true, true}, {time.Second, "i", false, true, true}, {time.Minute, "check", false, true, true},
			{2 * time.Minute, "answer", true, false, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r reachability
			for i, s := range c.steps {
				now, changed := start.Add(s.at), false
				switch s.event {
				case "answer":
					changed = r.answered(now)
				case "check":
					_, changed = r.check(now)
				default:
					changed = r.failed(s.event, "refused", now)
				}
				if changed != s.change || r.unreachable != s.down || r.probing() != s.oneAtime {
					t.Errorf("step %d, %s: changed %v, %+v", i+1, s.event, changed, r)
				}
			}
		})
	}
	t.Run("a request of before the last answer", func(t *testing.T) {
		var r reachability
		r.answered(start.Add(40 * time.Second))
		r.failed("a", "timeout", start)
		if wait, _ := r.check(start.Add(45 * time.Second)); wait != 55*time.Second {
			t.Errorf("the server counts as unreachable in %s, want 55 s", wait)
		}
	})
}
