package engine

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store/frame"
)

func someSamples() []sample {
	one := sample{head: &head{Series: slot.Series{Device: "dev_1", Parameter: "cod"}, Unit: "mg/L", Source: 7},
		Reading: slot.Reading{Time: time.Unix(1_700_000_000, 5), Value: 1.5, Flag: spec.FlagNormal}}
	two := sample{head: &head{Series: slot.Series{Device: "dev_2", Parameter: "temperature", Diagnostic: true}, Unit: "°C", Statistic: slot.Last},
		Reading: slot.Reading{Time: time.Unix(1_600_000_000, 0), Value: math.NaN(), Flag: spec.FlagNormal}, live: true}
	two.fault = fault{reason: slot.NotANumber, detail: "the value is NaN", stamped: true}
	far := one
	far.head = &head{Series: one.Series, Unit: one.Unit, Statistic: slot.TimeWeighted, Source: 7, MaxStep: 0.5}
	far.Time, far.Value = time.Unix(math.MinInt64/4, 999), math.MaxFloat64
	list := []sample{one, two, far, one, two, far}
	for i, v := range []float64{0, math.Copysign(0, -1), 1, -2.5, 0.1, 31.27, 1e-7, 1e12, 1e300, math.Inf(-1), 0.1 + 0.2, 123456.123456} {
		one.Value, one.Time = v, one.Time.Add(time.Duration(i%4)*1500*time.Millisecond)
		list = append(list, one)
	}
	return list
}

func TestSamplesComeBack(t *testing.T) {
	now := moment{time.Unix(1_700_000_001, 7), 3, -time.Hour}
	for _, want := range [][]sample{nil, someSamples()} {
		d, err := frame.Open(sealed(append(new(coder).encode(now, want), "next"...)), formatVersion)
		require.NoError(t, err)
		at, got, err := decodeSamples(d)
		require.NoError(t, err)
		assert.Equal(t, "next", string(d.Rest()))
		assert.True(t, now.now.Equal(at.now))
		at.now = now.now
		assert.Equal(t, now, at)
		require.Len(t, got, len(want))
		for i := range want {
			assert.Equal(t, *want[i].head, *got[i].head)
			assert.Equal(t, want[i].fault, got[i].fault)
			assert.Equal(t, want[i].Flag, got[i].Flag)
			assert.Equal(t, want[i].live, got[i].live)
			assert.True(t, want[i].Time.Equal(got[i].Time))
			assert.Equal(t, math.Float64bits(want[i].Value), math.Float64bits(got[i].Value))
		}
	}
}

func FuzzDecodeSamples(f *testing.F) {
	f.Add(new(coder).encode(moment{now: time.Unix(0, 0)}, someSamples()))
	f.Add(new(coder).encode(moment{now: time.Unix(0, 0)}, nil))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, _ := frame.Open(sealed(b), formatVersion)
		now, samples, err := decodeSamples(d)
		if err != nil {
			return
		}
		if d.Left() >= len(b) {
			t.Fatal("nothing was read, and a replay would not end")
		}
		d, _ = frame.Open(sealed(new(coder).encode(now, samples)), formatVersion)
		again, back, err := decodeSamples(d)
		if err != nil || len(back) != len(samples) || !again.now.Equal(now.now) || again.skew != now.skew {
			t.Fatalf("%d samples came back as %d: %v", len(samples), len(back), err)
		}
		for i, x := range samples {
			if y := back[i]; *x.head != *y.head || x.fault != y.fault || !x.Time.Equal(y.Time) || x.Flag != y.Flag || math.Float64bits(x.Value) != math.Float64bits(y.Value) {
				t.Fatalf("%+v came back as %+v", x, y)
			}
		}
	})
}

// sealed returns values with correct checksums.
func sealed(b []byte) []byte {
	e := frame.New(formatVersion)
	e.Append(b)
	return e.Seal()
}

func FuzzDecodeSlots(f *testing.F) {
	start := time.Unix(1_700_000_100, 0).UTC()
	s := slot.Slot{Series: slot.Series{Device: "dev_1", Parameter: "cod"}, Unit: "mg/L", Start: start, End: start.Add(spec.SlotLength), Stamp: start,
		Flag: spec.FlagNormal, Value: 1.5, Min: 1, Max: 2, Samples: 9, Statistic: slot.Last}
	whole := encodeSlots([]slot.Slot{s, s})
	f.Add(whole[1 : len(whole)-4])
	f.Add([]byte(`[{"Flag":99,"Samples":-1}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeSlots(b)
		slots, err := decodeSlots(sealed(b))
		if err != nil {
			return
		}
		back, err := decodeSlots(encodeSlots(slots))
		if err != nil || len(back) != len(slots) {
			t.Fatalf("%d slots came back as %d: %v", len(slots), len(back), err)
		}
		for i := range slots {
			if slots[i].Value != back[i].Value || slots[i].Series != back[i].Series || !slots[i].Stamp.Equal(back[i].Stamp) || slots[i].Samples < 0 {
				t.Fatalf("%+v came back as %+v", slots[i], back[i])
			}
		}
	})
}

func FuzzRestoreRefusals(f *testing.F) {
	r := newRefusals()
	for _, x := range someSamples() {
		r.add(refusal{x.Series, 1_700_000_100_000, slot.Late}, x, func() string { return "why" }, time.Unix(1_700_000_000, 0))
	}
	whole := r.save()
	f.Add(whole[1 : len(whole)-4])
	f.Add([]byte("[null]"))
	f.Add([]byte(`[{"Device":"a","Count":-1}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRefusals()
		_ = r.restore(b)
		if r.restore(sealed(b)) != nil {
			return
		}
		again := newRefusals()
		if len(r.lines) > 0 {
			if err := again.restore(r.save()); err != nil || len(again.lines) != len(r.lines) {
				t.Fatalf("%d lines came back as %d: %v", len(r.lines), len(again.lines), err)
			}
		}
		for _, l := range r.due(time.Unix(1_800_000_000, 0), func(time.Time) bool { return true }) {
			l.entry("station")
		}
	})
}
