package slot

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

// whole returns every entry of the state, not only the changed ones.
func whole(a *Aligner) map[string][]byte {
	for i := range a.shards {
		a.shards[i].mark.dirty = true
	}
	return store{}.save(a)
}

// store keeps the entries.
type store map[string][]byte

func (s store) save(a *Aligner) store {
	for key, b := range a.Save() {
		if b == nil {
			delete(s, key)
		} else {
			s[key] = b
		}
	}
	a.Saved()
	return s
}

func (s store) restore(t testing.TB, o Options, now time.Time) *Aligner {
	t.Helper()
	a := New(o)
	if damaged, err := a.Restore(s, now); err != nil || len(damaged) > 0 {
		t.Fatalf("damaged %v, error %v", damaged, err)
	}
	return a
}

// reopened returns the aligner after a restart of its host.
func reopened(t testing.TB, a *Aligner, now time.Time) *Aligner {
	t.Helper()
	return store(whole(a)).restore(t, a.opt, now)
}

// After a restart nothing closes for one grace, so that senders can resend what was refused.
func TestRestoreWaits(t *testing.T) {
	a := aligner()
	add(t, a, of("x", t0, 1, 'U'), t0)
	add(t, a, of("x", t0, 1, 'C'), t0)
	now := t0.Add(3 * time.Hour)
	b := reopened(t, a, now)
	if got := b.Close(now); got != nil {
		t.Fatalf("closed %+v at the start", got)
	}
	refused(t, b.Add(of("x", t0, 1, 'U'), now.Add(10*time.Second)), Duplicate)
	add(t, b, of("x", t0.Add(time.Second), 3, 'U'), now.Add(10*time.Second))
	if got := b.Close(now.Add(30*time.Second - 1)); got != nil {
		t.Fatalf("closed %+v within the grace", got)
	}
	got := b.Close(now.Add(30 * time.Second))
	if len(got) != 2 || got[0].Flag != 'C' || got[1].Value != 2 || got[1].Samples != 2 {
		t.Fatalf("closed %+v", got)
	}
	refused(t, b.Add(of("x", t0.Add(2*time.Second), 3, 'U'), now.Add(31*time.Second)), Late)
	if got := reopened(t, b, now.Add(time.Minute)).Close(now.Add(time.Hour)); got != nil {
		t.Fatalf("closed %+v twice", got)
	}
}

// TestRestoreAnywhere interrupts a run at random points and expects the slots of the uninterrupted run.
func TestRestoreAnywhere(t *testing.T) {
	run := func(seed uint64, interrupt bool) (out []Slot, final *Aligner) {
		r, cut := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		a := aligner(func(o *Options) { o.MinSamples = 1 + int(seed%3) })
		now, waits, entries := t0, t0, store{}
		for range 1500 {
			now = now.Add(time.Duration(r.IntN(20000)) * time.Millisecond)
			at := now.Add(-time.Duration(r.ExpFloat64() * float64(10*time.Minute)))
			i := r.IntN(12)
			x := of(fmt.Sprint("parameter ", i), at, r.NormFloat64()*1e6, spec.Flag(spec.Flags[r.IntN(6)]))
			x.Device, x.Source = fmt.Sprint("device ", i%3), r.Uint64N(3)
			for range 1 + r.IntN(2) { // half of them twice
				a.Add(with(Statistic(i%6), x), now)
			}
			if r.IntN(5) == 0 && !now.Before(waits) { // both runs have the same grace after a restart
				out = append(out, a.Close(now)...)
			}
			if cut.IntN(30) == 0 {
				waits = now.Add(a.opt.Grace)
				if interrupt {
					a = entries.save(a).restore(t, a.opt, now)
				}
			}
		}
		return append(out, a.Close(now.Add(time.Hour))...), a
	}
	for seed := range uint64(20) {
		want, a := run(seed, false)
		got, b := run(seed, true)
		if len(want) < 100 || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %d slots after restores, %d without", seed, len(got), len(want))
		}
		if a, b := a.Stats(), b.Stats(); a.Series != b.Series || a.Open != b.Open {
			t.Fatalf("seed %d: %+v after restores, %+v without", seed, b, a)
		}
	}
}

func TestSaveOnlyWhatChanged(t *testing.T) {
	a := aligner()
	device := func(i int) Sample {
		x := of("x", t0, 1, 'U')
		x.Device = fmt.Sprint(i)
		return x
	}
	for i := range 1000 {
		add(t, a, device(i), t0)
	}
	if n := len(a.Save()); n != shardCount {
		t.Fatalf("saved %d entries, want %d", n, shardCount)
	}
	if n := len(a.Save()); n != shardCount {
		t.Fatalf("saved %d entries without confirmation, want %d", n, shardCount)
	}
	a.Saved()
	x := device(7)
	refused(t, a.Add(x, t0), Duplicate)
	if n := len(a.Save()); n != 0 {
		t.Fatalf("saved %d entries after a duplicate, want none", n)
	}
	x.Time = t0.Add(time.Second)
	add(t, a, x, t0)
	if n := len(a.Save()); n != 1 {
		t.Fatalf("saved %d entries, want 1", n)
	}
	a.Saved()
	if n := len(a.Save()); n != 0 {
		t.Fatalf("saved %d entries, want none", n)
	}
	a.Close(t0.Add(time.Hour))
	if n := len(a.Save()); n != shardCount {
		t.Errorf("saved %d entries, want all %d", n, shardCount)
	}
	a.Saved()
	a.Close(t0.Add(8 * 24 * time.Hour)) // no sample can be accepted any more
	entries := a.Save()
	for key, b := range entries {
		if b != nil {
			t.Errorf("entry %q is kept", key)
		}
	}
	if len(entries) != shardCount || a.Stats().Series != 0 {
		t.Errorf("%d entries are deleted, and %d series held", len(entries), a.Stats().Series)
	}
}

func TestRestoreDamaged(t *testing.T) {
	a := aligner()
	for i := range 1000 {
		x := with(Median, of("x", t0, 1, 'U'))
		x.Device = fmt.Sprint(i)
		add(t, a, x, t0)
	}
	entries := a.Save()
	lost := 0
	for _, i := range []int{3, 5, 8, 9, 10} {
		lost += len(a.shards[i].devices)
	}
	entries["03"][20] ^= 1
	entries["05"] = entries["05"][:9]
	entries["08"] = []byte{}
	entries["09"] = entries["11"] // devices of another shard
	delete(entries, "10")
	entries["stray"] = []byte("x")
	b := aligner()
	damaged, err := b.Restore(entries, t0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(damaged)), []string{"03", "05", "08", "09", "stray"}; !slices.Equal(got, want) {
		t.Errorf("damaged %v, want %v", damaged, want)
	}
	if n := b.Stats().Series; n != 1000-lost {
		t.Errorf("restored %d series, want %d", n, 1000-lost)
	}
	if n := len(b.Close(t0.Add(time.Hour))); n != 1000-lost {
		t.Errorf("closed %d slots, want %d", n, 1000-lost)
	}
	if _, err := b.Restore(entries, t0); err == nil {
		t.Error("a second Restore passed")
	}
}

func TestRestoreOfAnotherVersion(t *testing.T) {
	a := aligner()
	add(t, a, of("x", t0, 1, 'U'), t0)
	for v, newer := range map[byte]bool{version + 1: true, version - 1: false} {
		entries := whole(a)
		for key, b := range entries {
			b[0] = v
			entries[key] = reseal(b)
		}
		b := aligner()
		damaged, err := b.Restore(entries, t0)
		if errors.Is(err, frame.ErrNewer) != newer || b.Stats().Series != 0 || len(damaged) == 0 && !newer {
			t.Errorf("version %d: damaged %v, error %v", v, damaged, err)
		}
	}
}

// A state that no aligner saves is not restored, even with a correct checksum.
func TestRestoreImpossible(t *testing.T) {
	for name, spoil := range map[string]func(*cell){
		"sources":   func(c *cell) { c.sources = make([]uint64, maxSources+1) },
		"no source": func(c *cell) { c.sources = nil },
		"order":     func(c *cell) { slices.Reverse(c.marks) },
		"count":     func(c *cell) { c.marks = c.marks[:1] },
		"range":     func(c *cell) { c.flags[0].last = 9 },
		"flag":      func(c *cell) { c.flags[0].flag = 'C' },
		"statistic": func(c *cell) { c.stat = Statistic(len(statistics)) },
		"grid":      func(c *cell) { c.window.start++ },
	} {
		a := aligner()
		add(t, a, of("x", t0, 1, 'U'), t0)
		add(t, a, of("x", t0.Add(time.Second), 2, 'U'), t0)
		spoil(a.devices["d"].windows[0].cells[0])
		if damaged, err := aligner().Restore(whole(a), t0); err != nil || len(damaged) != 1 {
			t.Errorf("%s: damaged %v, error %v", name, damaged, err)
		}
	}
}

func FuzzRestore(f *testing.F) {
	a := aligner()
	for i, flag := range []byte(spec.Flags) {
		for p := range 3 {
			at := t0.Add(time.Duration(i) * time.Second)
			add(f, a, from(uint64(i), with(Statistic(i), of(fmt.Sprint(p), at, float64(i), spec.Flag(flag)))), t0)
		}
		add(f, a, with(Median, of("m", t0.Add(time.Duration(i)*time.Second), float64(i), spec.Flag(flag))), t0)
	}
	for i, unit := range []string{"mg/l", "ug/l"} {
		x := in(unit, with(TimeWeighted, of("held", t0.Add(time.Duration(i-1)*15*time.Minute), 1, 'U')))
		x.MaxStep = 50
		add(f, a, x, t0)
	}
	a.Close(t0.Add(41 * time.Second))
	shard := shardKey(int(shardOf("d")))
	f.Add(whole(a)[shard])
	f.Add([]byte("\x01...."))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, s []byte) {
		for _, seal := range []bool{false, true} {
			if seal { // to get past the checksum
				s = reseal(s)
			}
			b := aligner()
			damaged, err := b.Restore(map[string][]byte{shard: s}, t0)
			if n := b.Stats().Series; n > 0 && (err != nil || len(damaged) > 0) {
				t.Fatalf("damaged %v, error %v, and %d series restored", damaged, err, n)
			}
			b.Add(of("0", t0, 1, 'C'), t0)
			b.Add(from(99, with(Sum, of("sum", t0, 1, 'U'))), t0)
			for _, closed := range []bool{false, true} {
				if closed {
					b.Close(t0.Add(time.Hour))
				}
				saved, again := whole(b), aligner()
				damaged, err := again.Restore(saved, t0.Add(time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				if len(damaged) > 0 { // sums without matching samples can exceed the range of a float
					if !strings.Contains(fmt.Sprint(damaged), "not a number") {
						t.Fatal(damaged)
					}
				} else if back := whole(again); !maps.EqualFunc(back, saved, bytes.Equal) {
					t.Fatalf("saved %x, and restored %x", saved, back)
				}
			}
		}
	})
}

func reseal(b []byte) []byte {
	if len(b) < 5 {
		return b
	}
	e := frame.New(b[0])
	e.Append(b[1 : len(b)-4])
	return e.Seal()
}
