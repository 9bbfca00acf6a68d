package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

var t0 = time.Date(2026, 3, 10, 4, 30, 0, 0, time.UTC) // on the grid

func aligner(t testing.TB, o Options) *Aligner[string] {
	t.Helper()
	a, err := New(o, StringCodec{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func add(t testing.TB, a *Aligner[string], key string, stat Statistic, at time.Time, v float64, f spec.Flag, now time.Time) {
	t.Helper()
	if err := a.Add(key, stat, at, v, f, now); err != nil {
		t.Fatalf("Add(%s, %s, %v): %v", key, at, v, err)
	}
}

func refused(t testing.TB, err error, want Reason) {
	t.Helper()
	var r *RefusedError
	if !errors.As(err, &r) || r.Reason != want {
		t.Fatalf("error is %v, want %s", err, want)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		`stamp = "edn"`:        {Stamp: "edn"},
		"grace = -1s":          {Grace: -time.Second},
		"calibration_grace = ": {CalibrationGrace: -1},
		"settle = ":            {Settle: -1},
		"max_skew = ":          {MaxSkew: 200 * 24 * time.Hour},
		"min_samples = -2":     {MinSamples: -2},
		"max_series = -1":      {MaxSeries: -1},
	} {
		if _, err := New(o, StringCodec{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v, want %s...", err, want)
		}
	}
	if _, err := ParseStatistic("meen"); err == nil || !strings.Contains(err.Error(), "mean") {
		t.Errorf("error is %v", err)
	}
	for i, name := range statistics {
		if s, err := ParseStatistic(" " + strings.ToUpper(name)); err != nil || s != Statistic(i) || s.String() != name {
			t.Errorf("ParseStatistic(%q) = %v, %v", name, s, err)
		}
	}
}

func TestGraceAndSettle(t *testing.T) {
	a := aligner(t, Options{})
	end := t0.Add(15 * time.Minute)
	add(t, a, "x", Mean, t0, 1, 'U', t0)
	add(t, a, "x", Mean, end.Add(-1), 3, 'U', end)
	add(t, a, "x", Mean, end, 100, 'U', end) // half-open: the next window's
	if got := a.Close(end.Add(30*time.Second - 1)); got != nil {
		t.Fatal("closed within the grace", got)
	}
	add(t, a, "x", Mean, t0.Add(time.Minute), 5, 'U', end.Add(28*time.Second))
	if got := a.Close(end.Add(33*time.Second - 1)); got != nil {
		t.Fatal("closed before it settled", got)
	}
	got := a.Close(end.Add(33 * time.Second))
	want := []Closed[string]{{Seq: 1, Key: "x", Start: t0, End: end, Stamp: end, Flag: 'U', Value: 3, Samples: 3}}
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(a.Pending(), want) {
		t.Fatalf("closed %+v, want %+v", got, want)
	}
	refused(t, a.Add("x", Mean, t0, 1, 'U', end.Add(34*time.Second)), Late)
	a.Taken(1, 99)
	if s := a.Stats(); s.Pending != 0 || s.Open != 1 || s.Series != 1 || s.Refused[Late] != 1 || s.Taken != 4 || s.Closed != 1 {
		t.Fatalf("stats %+v", s)
	}

	b := aligner(t, Options{Stamp: "start"})
	add(t, b, "x", Mean, t0, 1, 'U', t0)
	if got := b.Close(end.Add(time.Minute)); len(got) != 1 || !got[0].Stamp.Equal(t0) {
		t.Fatalf("closed %+v", got)
	}
}

// A source whose clock stands still gives every sample the same stamp: its window closes all the same.
func TestStampThatRepeats(t *testing.T) {
	a := aligner(t, Options{})
	due := t0.Add(15*time.Minute + 30*time.Second)
	for now := t0; now.Before(t0.Add(time.Hour)); now = now.Add(time.Second) {
		_ = a.Add("x", Mean, t0, 1, 'U', now)
		if closed := a.Close(now); len(closed) > 0 {
			if held := now.Sub(due); held != 15*time.Minute {
				t.Errorf("it was held open for %s", held)
			}
			return
		}
	}
	t.Error("it is open for ever")
}

func TestOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	exact, values := new(big.Rat), make([]float64, 5000)
	for i := range values {
		values[i] = r.NormFloat64() * math.Pow(10, float64(r.IntN(12)))
		exact.Add(exact, new(big.Rat).SetFloat64(values[i]))
	}
	want, _ := exact.Quo(exact, big.NewRat(int64(len(values)), 1)).Float64()
	for range 20 {
		a := aligner(t, Options{})
		for _, i := range r.Perm(len(values)) {
			add(t, a, "x", Mean, t0.Add(time.Duration(i)*time.Millisecond), values[i], 'U', t0.Add(time.Minute))
		}
		got := a.Close(t0.Add(time.Hour))[0].Value
		if math.Abs(got-want) > 1e-15*math.Abs(want) {
			t.Fatalf("mean %v, want %v", got, want)
		}
	}
}

func TestHistoryOfADay(t *testing.T) {
	a := aligner(t, Options{})
	now := t0.Add(24*time.Hour + 5*time.Minute)
	r := rand.New(rand.NewPCG(3, 4))
	for _, m := range r.Perm(24 * 60) {
		add(t, a, "x", Mean, t0.Add(time.Duration(m)*time.Minute), float64(m), 'U', now)
	}
	if got := a.Close(now.Add(4 * time.Second)); got != nil {
		t.Fatal("closed before it settled")
	}
	got := a.Close(now.Add(5 * time.Second))
	if len(got) != 96 {
		t.Fatalf("closed %d slots, want 96", len(got))
	}
	for i, c := range got {
		if !c.Start.Equal(t0.Add(time.Duration(i)*15*time.Minute)) || c.Value != float64(15*i+7) || c.Samples != 15 {
			t.Fatalf("slot %d is %+v", i, c)
		}
	}
}

func TestLateAndNeverSeen(t *testing.T) {
	a := aligner(t, Options{})
	now := t0.Add(15*time.Minute + 30*time.Second)
	add(t, a, "x", Mean, t0, 1, 'U', t0)
	a.Close(now)
	refused(t, a.Add("x", Mean, t0, 1, 'M', now), Late)
	oldest := t0.Add(-7 * 24 * time.Hour).Add(15 * time.Minute)
	refused(t, a.Add("x", Mean, oldest.Add(-1), 1, 'U', now), TooOld)
	add(t, a, "x", Mean, oldest, 1, 'U', now)
	if got := a.Close(now.Add(5 * time.Second)); len(got) != 1 || !got[0].Start.Equal(oldest) {
		t.Fatalf("closed %+v", got)
	}
	refused(t, a.Add("x", Mean, oldest, 1, 'U', now.Add(5*time.Second)), Late)
	refused(t, a.Add("x", Mean, t0, 1, 'U', now.Add(5*time.Second)), Late)
	// Every window of the week closes once, whatever the order.
	now = now.Add(time.Minute)
	for pass := range 2 {
		for i := range spec.SlotsKept - 1 {
			err := a.Add("x", Mean, t0.Add(-time.Duration(i)*15*time.Minute), 1, 'U', now)
			if pass == 0 && i > 0 && i < spec.SlotsKept-1 && err != nil {
				t.Fatal(i, err)
			}
			if pass == 1 {
				refused(t, err, Late)
			}
		}
		now = now.Add(5 * time.Second)
		a.Close(now)
	}
}

func TestRefusals(t *testing.T) {
	a := aligner(t, Options{})
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64} {
		refused(t, a.Add("x", Mean, t0, v, 'U', t0), NotANumber)
	}
	refused(t, a.Add("x", Mean, t0, 1, 'x', t0), BadFlag)
	refused(t, a.Add("x", 17, t0, 1, 'U', t0), BadStatistic)
	refused(t, a.Add("x", Mean, t0.Add(time.Minute+1), 1, 'U', t0), Future)
	refused(t, a.Add("x", Mean, time.Time{}, 1, 'U', t0), TooOld)
	add(t, a, "x", Mean, t0.Add(time.Minute), 1, 'U', t0)
	if s := a.Stats(); s.Refused[NotANumber] != 4 || s.Series != 1 {
		t.Fatalf("stats %+v", s)
	}
	for i := range maxMedian {
		add(t, a, "m", Median, t0, float64(i), 'U', t0)
	}
	refused(t, a.Add("m", Median, t0, 1, 'U', t0), MaxSamples)
}

func TestCalibration(t *testing.T) {
	a := aligner(t, Options{})
	for s := range 60 {
		at := t0.Add(time.Duration(s) * time.Second)
		add(t, a, "x", Mean, at, 1, 'U', at)
		add(t, a, "x", Mean, at, 10, 'C', at)
		add(t, a, "x", Mean, at, 20, 'Z', at)
	}
	first := t0.Add(30 * time.Second)
	if got := a.Close(first.Add(10*time.Second - 1)); got != nil {
		t.Fatal("closed within the grace")
	}
	got := a.Close(first.Add(10 * time.Second))
	if len(got) != 2 || got[0].Flag != 'C' || got[0].Value != 10 || got[0].Samples != 30 || got[1].Flag != 'Z' ||
		got[1].Value != 20 || !got[1].Stamp.Equal(first) {
		t.Fatalf("closed %+v", got)
	}
	refused(t, a.Add("x", Mean, t0, 1, 'C', first.Add(11*time.Second)), Late)
	add(t, a, "x", Mean, t0, 1, 'U', first.Add(11*time.Second))
	got = a.Close(t0.Add(16 * time.Minute))
	if len(got) != 3 || got[2].Value != 1 || got[2].Samples != 61 || got[2].Flag != 'U' {
		t.Fatalf("closed %+v", got)
	}
}

func TestFlagChoice(t *testing.T) {
	for _, c := range []struct {
		name, flags string
		min         int
		want        spec.Flag
	}{
		{"one U is enough", "UMMM", 1, 'U'},
		{"too few U", "UMMM", 2, 'M'},
		{"enough U", "MMUMU", 2, 'U'},
		{"only U, too few", "UU", 5, 'U'},
		{"most", "DFDMD", 1, 'D'},
		{"equal: order of the document", "DDFFUU", 3, 'U'},
		{"equal: without U", "DDFF", 1, 'F'},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := aligner(t, Options{MinSamples: c.min})
			for _, f := range []byte(c.flags) {
				add(t, a, "x", Mean, t0, float64(f), spec.Flag(f), t0)
			}
			got := a.Close(t0.Add(time.Hour))[0]
			if got.Flag != c.want || got.Value != float64(c.want) || got.Samples != strings.Count(c.flags, c.want.String()) {
				t.Fatalf("closed %+v, want flag %s", got, c.want)
			}
		})
	}
}

func TestStatistics(t *testing.T) {
	now := t0.Add(time.Minute)
	for stat, want := range map[Statistic]float64{Mean: 4, Last: 2, Min: -1, Max: 9, Sum: 16, Median: 4} {
		a := aligner(t, Options{})
		add(t, a, "x", stat, t0.Add(2*time.Second), 6, 'U', now)
		add(t, a, "x", stat, t0.Add(2*time.Second), 2, 'U', now) // same time, arrives later
		add(t, a, "x", stat, t0.Add(1*time.Second), 9, 'U', now)
		add(t, a, "x", stat, t0, -1, 'U', now)
		if got := a.Close(t0.Add(time.Hour))[0]; got.Value != want || got.Statistic != stat {
			t.Errorf("%s is %v, want %v", stat, got.Value, want)
		}
	}
	a := aligner(t, Options{})
	for _, v := range []float64{9, 1, 5} {
		add(t, a, "x", Median, t0, v, 'U', t0)
	}
	if got := a.Close(t0.Add(time.Hour))[0].Value; got != 5 {
		t.Errorf("median is %v, want 5", got)
	}
}

// TestRestoreAnywhere interrupts a run at random points and wants the slots of the run that was not interrupted.
func TestRestoreAnywhere(t *testing.T) {
	run := func(seed uint64, interrupt bool) (out []Closed[string], final *Aligner[string]) {
		r, cut := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		o := Options{MinSamples: 1 + int(seed%3)}
		a, now := aligner(t, o), t0
		store := map[string][]byte{}
		for range 1500 {
			now = now.Add(time.Duration(r.IntN(20000)) * time.Millisecond)
			at := now.Add(-time.Duration(r.ExpFloat64() * float64(10*time.Minute)))
			i := r.IntN(12)
			a.Add(fmt.Sprint("series", i), Statistic(i%6), at, r.NormFloat64()*1e6, spec.Flag(spec.Flags[r.IntN(6)]), now)
			if r.IntN(5) == 0 {
				out = append(out, a.Close(now)...)
			}
			if p := a.Pending(); r.IntN(50) == 0 && len(p) > 0 {
				a.Taken(p[r.IntN(len(p))].Seq, p[0].Seq)
			}
			if interrupt && cut.IntN(30) == 0 {
				maps.Copy(store, a.Save())
				a.Saved()
				a = aligner(t, o)
				if err := a.Restore(store, now); err != nil {
					t.Fatal(err)
				}
			}
		}
		return append(out, a.Close(now.Add(time.Hour))...), a
	}
	for seed := range uint64(20) {
		want, a := run(seed, false)
		got, b := run(seed, true)
		order := func(x, y Closed[string]) int {
			return strings.Compare(fmt.Sprint(x.Stamp, x.Key, x.Start, x.Flag), fmt.Sprint(y.Stamp, y.Key, y.Start, y.Flag))
		}
		for _, l := range [][]Closed[string]{want, got} {
			slices.SortFunc(l, order)
		}
		if len(want) < 100 || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %d slots after restores, %d without", seed, len(got), len(want))
		}
		if !reflect.DeepEqual(a.Pending(), b.Pending()) {
			t.Fatalf("seed %d: pending differ", seed)
		}
	}
}

func TestSaveOnlyWhatChanged(t *testing.T) {
	a := aligner(t, Options{})
	for i := range 1000 {
		add(t, a, fmt.Sprint(i), Mean, t0, 1, 'U', t0)
	}
	if n := len(a.Save()); n != shardCount {
		t.Fatalf("saved %d entries, want %d", n, shardCount)
	}
	if n := len(a.Save()); n != shardCount {
		t.Fatalf("saved %d entries without confirmation, want %d", n, shardCount)
	}
	a.Saved()
	add(t, a, "7", Mean, t0, 1, 'U', t0)
	if n := len(a.Save()); n != 1 {
		t.Fatalf("saved %d entries, want 1", n)
	}
	a.Saved()
	if n := len(a.Save()); n != 0 {
		t.Fatalf("saved %d entries, want none", n)
	}
	a.Close(t0.Add(time.Hour))
	all := a.Save()
	for key := range all {
		if !slices.Contains(a.Keys(), key) {
			t.Errorf("key %q is not among Keys", key)
		}
	}
	if len(all) != len(a.Keys()) {
		t.Errorf("saved %d entries, want all %d", len(all), len(a.Keys()))
	}
}

func TestRestoreDamaged(t *testing.T) {
	a := aligner(t, Options{})
	for i := range 1000 {
		add(t, a, fmt.Sprint(i), Median, t0, 1, 'U', t0)
	}
	entries := a.Save()
	lost := len(a.shards[3].series) + len(a.shards[5].series) + len(a.shards[9].series)
	entries["shard-03"] = bytes.Clone(entries["shard-03"])
	entries["shard-03"][20] ^= 1
	entries["shard-05"] = entries["shard-05"][:9]
	entries["shard-09"][3] = 200
	entries["shard-10"], entries["stray"] = nil, []byte("x")
	lost += len(a.shards[10].series)
	b := aligner(t, Options{})
	err := b.Restore(entries, t0)
	for _, want := range []string{`"shard-03"`, `"shard-05"`, `"shard-09": version 200`, `"stray"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if n := b.Stats().Series; n != 1000-lost {
		t.Errorf("restored %d series, want %d", n, 1000-lost)
	}
	if b.Restore(entries, t0) == nil {
		t.Error("a second Restore passed")
	}
}

func TestBoundedMemory(t *testing.T) {
	a := aligner(t, Options{MaxSeries: 10})
	for i := range 10 {
		add(t, a, fmt.Sprint(i), Mean, t0, 1, 'U', t0)
	}
	refused(t, a.Add("new", Mean, t0, 1, 'U', t0), MaxSeries)
	now := t0.Add(6 * 24 * time.Hour)
	a.Close(now)
	add(t, a, "3", Mean, now, 1, 'U', now)
	refused(t, a.Add("new", Mean, now, 1, 'U', now), MaxSeries)
	now = t0.Add(7*24*time.Hour + time.Hour)
	add(t, a, "new", Mean, now, 1, 'U', now)
	if n := a.Stats().Series; n != 2 {
		t.Fatalf("%d series are held, want 2", n)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	a := aligner(t, Options{})
	add(t, a, "x", Mean, t0, 1, 'U', t0)
	if n := testing.AllocsPerRun(100, func() { a.Add("x", Mean, t0, 1, 'U', t0) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzRestore(f *testing.F) {
	a := aligner(f, Options{})
	for i, flag := range []byte(spec.Flags) {
		add(f, a, "x", Statistic(i), t0, 1, spec.Flag(flag), t0)
		add(f, a, "x", Median, t0.Add(time.Minute), 1, spec.Flag(flag), t0)
	}
	a.Close(t0.Add(41 * time.Second))
	shard := shardKey(int(a.shardOf("x")))
	seeds := a.Save()
	f.Add(seeds[shard], seeds[pendingKey])
	f.Add([]byte("OSL\x02...."), []byte{})
	f.Fuzz(func(t *testing.T, s, p []byte) {
		for _, seal := range []bool{false, true} {
			if seal { // past the checksum
				s, p = reseal(s), reseal(p)
			}
			b := aligner(t, Options{})
			b.Restore(map[string][]byte{shard: s, pendingKey: p}, t0)
			b.Add("x", Mean, t0, 1, 'C', t0)
			for _, closed := range []bool{false, true} {
				if closed {
					b.Close(t0.Add(time.Hour))
				}
				again := aligner(t, Options{})
				saved := whole(b)
				if err := again.Restore(saved, t0.Add(time.Hour)); err != nil {
					if !strings.Contains(err.Error(), "not a number") {
						t.Fatal(err)
					}
				} else if back := whole(again); !maps.EqualFunc(back, saved, bytes.Equal) {
					t.Fatalf("saved %x, and restored %x", saved, back)
				}
			}
		}
	})
}

// whole is every entry of the state, and not only what changed.
func whole(a *Aligner[string]) map[string][]byte {
	for i := range a.shards {
		a.shards[i].mark.dirty = true
	}
	a.changed.dirty = true
	return a.Save()
}

func reseal(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	b = bytes.Clone(b[:len(b)-4])
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := aligner(b, Options{})
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprint("device-", i)
				add(b, a, keys[i], Mean, t0, 1, 'U', t0)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				a.Add(keys[i], Mean, t0, 1, 'U', t0)
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
