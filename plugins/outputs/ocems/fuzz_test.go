package ocems

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

func someSamples() []sample {
	one, two := series{"dev_1", "cod", "mg/L", false}, series{"dev_2", "temperature", "°C", true}
	return []sample{
		{one, slot.Mean, time.Unix(1_700_000_000, 5), 1.5, spec.FlagNormal},
		{two, slot.Last, time.Unix(1_600_000_000, 0), math.NaN(), spec.FlagNormal},
		{one, slot.Median, time.Unix(-1, 999), math.MaxFloat64, spec.FlagNormal},
	}
}

func TestSamplesComeBack(t *testing.T) {
	now := time.Unix(1_700_000_001, 7)
	for _, want := range [][]sample{nil, someSamples()} {
		at, got, err := decodeSamples(encodeSamples(now, want))
		require.NoError(t, err)
		assert.True(t, now.Equal(at))
		require.Len(t, got, len(want))
		for i := range want {
			assert.Equal(t, want[i].series, got[i].series)
			assert.Equal(t, want[i].statistic, got[i].statistic)
			assert.Equal(t, want[i].flag, got[i].flag)
			assert.True(t, want[i].at.Equal(got[i].at))
			assert.Equal(t, math.Float64bits(want[i].value), math.Float64bits(got[i].value))
		}
	}
}

func FuzzDecodeSamples(f *testing.F) {
	f.Add(encodeSamples(time.Unix(0, 0), someSamples()))
	f.Add(encodeSamples(time.Unix(0, 0), nil))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		now, samples, err := decodeSamples(b)
		if err != nil {
			return
		}
		again, err := encodeAgain(now, samples)
		if err != nil || len(again) != len(samples) {
			t.Fatalf("%d samples came back as %d: %v", len(samples), len(again), err)
		}
	})
}

func encodeAgain(now time.Time, samples []sample) ([]sample, error) {
	_, again, err := decodeSamples(encodeSamples(now, samples))
	return again, err
}

func FuzzSeries(f *testing.F) {
	for _, x := range someSamples() {
		f.Add(seriesCodec{}.Append(nil, x.series))
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := seriesCodec{}.Read(b)
		if err != nil {
			return
		}
		if back, err := (seriesCodec{}).Read(seriesCodec{}.Append(nil, s)); err != nil || back != s {
			t.Fatalf("%+v came back as %+v: %v", s, back, err)
		}
	})
}

func framed(content []byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(frameMagic), uint32(len(content)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content, castagnoli))
	return append(b, content...)
}

// FuzzFrames puts garbage between two frames. Both are found, unless the garbage ends as the head of a frame would.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("garbage"))
	f.Add([]byte(frameMagic))
	f.Add([]byte("OCMfOCMf"))
	f.Add([]byte{})
	f.Add(framed([]byte("a third"))[:14])
	f.Add(framed([]byte("a third")))
	f.Add(append([]byte(frameMagic), 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, garbage []byte) {
		frames(garbage, func([]byte) {})
		first, second := []byte("the first"), []byte("the second")
		head := make([]byte, headerSize)
		copy(head, segmentMagic)
		whole := append(append(append(head, framed(first)...), garbage...), framed(second)...)
		var got [][]byte
		end, clean := frames(whole, func(content []byte) { got = append(got, content) })
		if len(got) == 0 || !bytes.Equal(got[0], first) || !bytes.Equal(got[len(got)-1], second) || end != len(whole) {
			t.Fatalf("found %q up to %d of %d", got, end, len(whole))
		}
		if clean && len(garbage) > 0 && len(got) == 2 {
			t.Fatal("garbage passes for a clean journal")
		}
	})
}
