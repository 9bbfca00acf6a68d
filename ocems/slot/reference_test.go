package slot

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

// reference is the aligner without its optimisations: a list of the readings that count, which is searched for each
// question.
type reference struct {
	opt       Options
	readings  []arrived
	done      map[span]bool
	due       map[span]time.Time // when a window of a device was first due
	restarted time.Time
	tempos    map[Series]*tempo
	kept      map[Series]Sample      // last sample taken of series with a MaxStep
	held      map[Series][][]arrived // recently closed 15-minute windows
}

// tempo is how the samples of a series arrive.
type tempo struct {
	seen, newest, from time.Time // from is the newest before the last arrival
	pause, longest     time.Duration
	natural            bool
}

func (r *reference) pass(s span, x Sample, now time.Time) {
	p := r.tempos[x.Series]
	if p == nil {
		p = &tempo{seen: now}
		r.tempos[x.Series] = p
	}
	if !now.Equal(p.seen) {
		p.pause, p.seen = now.Sub(p.seen), now
		advance := p.newest.Sub(p.from)
		p.natural = !p.from.IsZero() && advance > 0 && advance <= 3*p.pause
		p.from = p.newest
	}
	further := !p.newest.IsZero() && x.Time.After(p.newest)
	if now.Before(s.end.Add(r.grace(s))) {
		p.longest = 0
	} else if further && p.pause <= 6*time.Minute && (p.natural || p.pause > r.opt.Settle) {
		p.longest = max(p.longest, p.pause)
	}
	if x.Time.After(p.newest) {
		p.newest = x.Time
	}
}

func (r *reference) grace(s span) time.Duration {
	if s.kind != 0 {
		return r.opt.CalibrationGrace
	}
	return r.opt.Grace
}

// span is a window of a series, or of a device if the parameter is empty.
type span struct {
	Series
	kind spec.Flag // C, Z or 0
	end  time.Time
}

func (s span) earlier() span { return span{s.Series, s.kind, s.end.Add(-15 * time.Minute)} }

func (s span) device() span { return span{Series{Device: s.Device}, s.kind, s.end} }

type arrived struct {
	Sample
	span
	at time.Time
}

func (r *reference) add(x Sample, now time.Time) Result {
	s := span{x.Series, 0, x.Time.Truncate(x.Flag.Length()).Add(x.Flag.Length())}
	if x.Flag.Calibration() {
		s.kind = x.Flag
	}
	switch {
	case x.Time.After(now.Add(r.opt.MaxSkew)):
		return Result{Reason: Future}
	case s.end.Before(now.Add(-7 * 24 * time.Hour)):
		return Result{Reason: TooOld}
	case r.done[s]:
		r.pass(s, x, now)
		return Result{Reason: Late}
	}
	last, some := r.kept[x.Series]
	minutes := math.Abs(x.Time.Sub(last.Time).Minutes())
	leaps := x.MaxStep > 0 && s.kind == 0 && some && minutes <= 15 && x.Flag == last.Flag &&
		math.Abs(x.Value-last.Value) > x.MaxStep*max(minutes, 1)+1e-6*max(math.Abs(x.Value), math.Abs(last.Value))
	var first *arrived
	for i := range r.readings {
		o := &r.readings[i]
		if o.end != s.end || o.span != s {
			continue
		}
		if first == nil {
			first = o
		}
		switch {
		case x.Unit != first.Unit:
			return Result{Reason: BadUnit}
		case x.Time.UnixMicro() != o.Time.UnixMicro(), first.Statistic == Sum && x.Source != o.Source:
		case x.Value == o.Value && x.Flag == o.Flag:
			return Result{Reason: Duplicate}
		default:
			return Result{Conflict, o.Source}
		}
	}
	if leaps {
		return Result{Reason: TooFar}
	}
	if x.MaxStep > 0 && s.kind == 0 {
		r.kept[x.Series] = x
	}
	r.pass(s, x, now)
	r.readings = append(r.readings, arrived{x, s, now})
	return Result{}
}

func (r *reference) close(now time.Time) (out []Slot) {
	if now.Before(r.restarted.Add(r.opt.Grace)) {
		return nil
	}
	last, old, closing := map[span]time.Time{}, map[span]time.Duration{}, map[span][]arrived{}
	for _, x := range r.readings { // in the order of arrival
		last[x.device()] = x.at
		if p := r.tempos[x.Series]; p.newest.Before(x.end) {
			wait := r.opt.SettleOld
			if p.longest > 0 {
				wait = max(wait, r.opt.SettleSlow, p.longest*3/2)
			}
			old[x.device()] = max(old[x.device()], wait)
		}
	}
	r.readings = slices.DeleteFunc(r.readings, func(x arrived) bool {
		grace, d := r.grace(x.span), x.device()
		if now.Before(x.end.Add(grace)) {
			return false
		}
		if r.due[d].IsZero() {
			r.due[d] = now
		}
		settle := r.opt.Settle
		if !last[d].Before(x.end.Add(grace)) && r.opt.SettleOld > 0 {
			settle = max(settle, old[d])
		}
		if now.Before(last[d].Add(settle)) && now.Before(r.due[d].Add(15*time.Minute)) {
			return false
		}
		closing[x.span] = append(closing[x.span], x)
		return true
	})
	for _, s := range slices.SortedFunc(maps.Keys(closing), func(a, b span) int { return a.end.Compare(b.end) }) {
		readings := closing[s]
		r.done[s] = true
		delete(r.due, s.device())
		before := []arrived(nil)
		for _, w := range r.held[s.Series][max(0, len(r.held[s.Series])-mostHeld):] {
			if w[0].span == s.earlier() {
				before = w
			}
		}
		if of := slices.DeleteFunc(slices.Clone(r.readings), func(x arrived) bool { return x.span != s.earlier() }); len(of) > 0 {
			before = of
		}
		if before != nil && before[0].Unit != readings[0].Unit {
			before = nil
		}
		out = append(out, r.slot(s, readings, before))
		if readings[0].Statistic == TimeWeighted && s.kind == 0 {
			r.held[s.Series] = append(r.held[s.Series], readings)
		}
	}
	slices.SortFunc(out, Slot.Compare)
	return out
}

func (r *reference) slot(s span, all, before []arrived) Slot {
	x, of, best, most, minutes := all[0], map[spec.Flag][]arrived{}, spec.Flag(0), 0, map[time.Time]bool{}
	for _, o := range all {
		of[o.Flag] = append(of[o.Flag], o)
		minutes[o.Time.Truncate(time.Minute)] = true
	}
	for _, f := range []spec.Flag("UCMFZD") {
		if len(of[f]) > most && (best != 'U' || most < r.opt.MinSamples) {
			best, most = f, len(of[f])
		}
	}
	readings, sum, start := of[best], 0.0, s.end.Add(-best.Length())
	byTime := func(o, p arrived) int { return o.Time.Compare(p.Time) }
	slices.SortFunc(readings, byTime)
	last := readings[most-1].Value
	slices.SortFunc(readings, func(o, p arrived) int { return cmp.Compare(o.Value, p.Value) })
	for _, o := range readings {
		sum += o.Value
	}
	low, high, median := readings[0].Value, readings[most-1].Value, (readings[(most-1)/2].Value+readings[most/2].Value)/2
	weighted := 0.0
	if x.Statistic == TimeWeighted {
		list := slices.Clone(all)
		if before != nil && s.kind == 0 {
			held := slices.MaxFunc(before, byTime)
			held.Time = start
			list = append([]arrived{held}, list...)
		}
		slices.SortStableFunc(list, byTime)
		for m := list[0].Time; m.Before(s.end); m = m.Add(time.Minute) {
			minutes[m.Truncate(time.Minute)] = true
		}
		time_, whole := 0.0, 0.0
		for i, o := range list {
			until := s.end
			if i+1 < len(list) {
				until = list[i+1].Time
			}
			if o.Flag == best {
				us := float64(until.UnixMicro() - o.Time.UnixMicro())
				time_, whole = time_+us, whole+us*o.Value
			}
		}
		weighted = whole / time_
	}
	if s.kind != 0 {
		minutes = nil
	}
	value := []float64{Mean: sum / float64(most), Last: last, Min: low, Max: high, Sum: sum, Median: median, TimeWeighted: weighted}[x.Statistic]
	return Slot{Series: x.Series, Unit: x.Unit, Start: start, End: s.end, Stamp: s.end, Flag: best, Value: value,
		Min: low, Max: high, Samples: most, Minutes: len(minutes), Statistic: x.Statistic, Exit: 1}
}

// TestAgainstReference feeds the same random streams to the aligner and to the reference. The values are multiples of a
// quarter, so every sum is exact.
func TestAgainstReference(t *testing.T) {
	streams, closed, reasons := 2000, 0, map[Reason]int{}
	if testing.Short() {
		streams = 300
	}
	for seed := range uint64(streams) {
		r := rand.New(rand.NewPCG(seed, 5))
		opt := Defaults()
		if r.IntN(2) == 0 {
			opt.SettleOld, opt.SettleSlow = 0, 0
		}
		opt.MinSamples, opt.Settle = 1+r.IntN(3), time.Duration(5+r.IntN(2)*r.IntN(120))*time.Second
		a, entries := New(opt), store{}
		ref := &reference{opt: opt, done: map[span]bool{}, due: map[span]time.Time{}, tempos: map[Series]*tempo{}, kept: map[Series]Sample{}, held: map[Series][][]arrived{}}
		now := t0.Add(time.Duration(r.IntN(900)) * time.Second)
		var sent []Sample
		for step := range 100 {
			now = now.Add(elapse(r))
			x := reading(r, now)
			if len(sent) > 0 && r.IntN(3) == 0 { // repeat a sample, perhaps with a change
				x = sent[len(sent)-1-r.IntN(min(len(sent), 20))]
				switch r.IntN(6) {
				case 0:
					x.Value += 0.25
				case 1:
					x.Source = r.Uint64N(3)
				case 2:
					x.Time = x.Time.Add(time.Duration(r.IntN(3000)) * time.Nanosecond)
				case 3:
					x.Flag = spec.Flag(spec.Flags[r.IntN(len(spec.Flags))])
				}
			}
			sent = append(sent, x)
			got, want := a.Add(x, now), ref.add(x, now)
			if got.Reason == Taken {
				got.Other = 0 // the reference does not detect alternating sources
			}
			if got != want {
				t.Fatalf("stream %d, step %d: %+v at %s: %+v, want %+v", seed, step, x, now, got, want)
			}
			reasons[got.Reason]++
			if r.IntN(4) == 0 || step == 99 {
				if step == 99 {
					now = now.Add(time.Hour)
				}
				got, want := a.Close(now), ref.close(now)
				for i := range got {
					got[i].Exit = 1 // a restart loses the exit
					got[i].Last, got[i].LastValue = time.Time{}, 0
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("stream %d, step %d: closed at %s\n%+v, want\n%+v", seed, step, now, got, want)
				}
				closed += len(got)
			}
			if r.IntN(40) == 0 {
				a = entries.save(a).restore(t, opt, now)
				ref.restarted, ref.due = now, map[span]time.Time{}
				for _, p := range ref.tempos {
					p.from, p.natural = time.Time{}, false
				}
			}
		}
		if s := a.Stats(); s.Open != 0 {
			t.Fatalf("stream %d: %d windows are open", seed, s.Open)
		}
	}
	t.Logf("%d slots closed, readings: %v", closed, reasons)
	for _, reason := range []Reason{Taken, Duplicate, Conflict, Late, TooOld, Future, BadUnit, TooFar} {
		if reasons[reason] == 0 {
			t.Errorf("no reading was %q", reason)
		}
	}
}

func elapse(r *rand.Rand) time.Duration {
	switch r.IntN(20) {
	case 0:
		return time.Duration(r.IntN(20)) * time.Minute
	case 1, 2, 3, 4:
		return time.Duration(r.IntN(60)) * time.Second
	}
	return time.Duration(r.IntN(4000)) * time.Millisecond
}

func reading(r *rand.Rand, now time.Time) Sample {
	p := r.IntN(4)
	x := Sample{Head{Series: Series{fmt.Sprint("device ", r.IntN(3)), fmt.Sprint(p), p == 0 && r.IntN(2) == 0}, Unit: "mg/l",
		Statistic: Statistic((p + r.IntN(8)/7*r.IntN(7)) % 7)}, Reading{Value: float64(r.IntN(2000)-1000) / 4, Flag: 'U', Exit: 1}}
	x.Source = r.Uint64N(3)
	if p == 3 {
		x.Statistic = Statistic(3 + r.IntN(4))
	}
	if p == 1 {
		x.Statistic, x.MaxStep = TimeWeighted, 100
	}
	if r.IntN(3) == 0 {
		x.Flag = spec.Flag(spec.Flags[r.IntN(len(spec.Flags))])
	}
	if r.IntN(30) == 0 {
		x.Unit = "ug/l"
	}
	x.Time = now.Add(-time.Duration(r.ExpFloat64() * float64(3*time.Minute))).Truncate(5 * time.Second)
	switch r.IntN(60) {
	case 0:
		x.Time = now.Add(time.Duration(r.IntN(120)) * time.Second)
	case 1:
		x.Time = now.Add(-7*24*time.Hour - time.Duration(r.IntN(1800)-900)*time.Second)
	case 2, 3:
		x.Time = now.Add(-time.Duration(r.IntN(100)) * time.Minute)
	}
	return x
}
