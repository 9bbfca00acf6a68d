package ocems

import (
	"bytes"
	"errors"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

func fuzzSamples() []sample {
	now := time.Date(2026, 1, 31, 10, 0, 0, 123456789, time.UTC)
	cod, ph := series{device: "dev_1", parameter: "cod", unit: "mg/L"}, series{device: "dev_1", parameter: "ph", unit: "pH", diagnostic: true}
	return []sample{
		{cod, slot.Mean, now, 41.25, spec.FlagNormal},
		{ph, slot.Last, now.Add(-time.Hour), math.Inf(1), spec.FlagZeroCalibration},
		{cod, slot.Median, now.Add(time.Second), -0.5, spec.FlagM},
		{cod, slot.Mean, time.Time{}, 1, spec.FlagNormal},
		{cod, slot.Mean, now.AddDate(800, 0, 0), 1, spec.FlagNormal},
	}
}

func sameSamples(a, b []sample) bool {
	return slices.EqualFunc(a, b, func(x, y sample) bool {
		return x.series == y.series && x.statistic == y.statistic && x.flag == y.flag && x.at.Equal(y.at) &&
			math.Float64bits(x.value) == math.Float64bits(y.value)
	})
}

func TestSamplesComeBack(t *testing.T) {
	now := time.Now().Round(0)
	back, samples, err := decodeSamples(encodeSamples(now, fuzzSamples()))
	if err != nil || !back.Equal(now) || !sameSamples(samples, fuzzSamples()) {
		t.Fatalf("%v %v %+v", err, back, samples)
	}
}

// A damaged batch is an error, and one that is read is what is written of it again.
func FuzzDecodeSamples(f *testing.F) {
	whole := encodeSamples(time.Now(), fuzzSamples())
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(encodeSamples(time.Now(), nil))
	f.Add(append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff, 0x0f)) // more names than there are bytes
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		now, samples, err := decodeSamples(b)
		if err != nil {
			return
		}
		back, again, err := decodeSamples(encodeSamples(now, samples))
		if err != nil || !back.Equal(now) || !sameSamples(samples, again) {
			t.Fatalf("%v: %+v became %+v", err, samples, again)
		}
	})
}

func FuzzReadSeries(f *testing.F) {
	for _, s := range fuzzSamples() {
		f.Add(seriesCodec{}.Append(nil, s.series))
	}
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := (seriesCodec{}).Read(b)
		if err != nil {
			return
		}
		if again, err := (seriesCodec{}).Read(seriesCodec{}.Append(nil, s)); err != nil || again != s {
			t.Fatalf("%v: %+v became %+v", err, s, again)
		}
	})
}

// Whatever stands between two frames, both are found. Whatever a file holds, it is read without a panic, and it is
// either a newer version's or opened.
func FuzzJournal(f *testing.F) {
	one, two := []byte("the frame before"), []byte("the frame after")
	written := func(contents ...[]byte) []byte {
		dir := f.TempDir()
		j, _, err := openJournal(dir, 0, func([]byte) {})
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range contents {
			if err := j.append(c); err != nil {
				f.Fatal(err)
			}
		}
		if err := j.close(); err != nil {
			f.Fatal(err)
		}
		text, err := os.ReadFile(segmentName(dir, j.number))
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	before, after := written(one), written(two)[headerSize:]
	f.Add([]byte{})
	f.Add([]byte(segmentMagic))
	f.Add([]byte(frameMagic))
	f.Add(before)
	f.Add(after[:len(after)-1])
	f.Add(slices.Concat(after[:frameHead-1], after))
	f.Add(slices.Concat([]byte(frameMagic), []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}))
	f.Add(slices.Concat([]byte(frameMagic), []byte{0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0}))
	f.Add(make([]byte, 5000))
	f.Fuzz(func(t *testing.T, garbage []byte) {
		dir := t.TempDir()
		read := func(text []byte) (contents [][]byte, damage []string) {
			if err := os.WriteFile(segmentName(dir, 1), text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, damage, err := openJournal(dir, 0, func(c []byte) { contents = append(contents, bytes.Clone(c)) })
			if err != nil && !errors.Is(err, errNewer) {
				t.Fatal(err)
			}
			return contents, damage
		}
		read(garbage)
		contents, damage := read(slices.Concat(before, garbage, after))
		n := len(contents)
		if n < 2 || !bytes.Equal(contents[0], one) || !bytes.Equal(contents[n-1], two) {
			t.Fatalf("found %q", contents)
		}
		if n == 2 && len(garbage) > 0 && len(damage) == 0 {
			t.Fatalf("%d bytes between the frames went unnoticed", len(garbage))
		}
	})
}
