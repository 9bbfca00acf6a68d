package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/slot"
)

// A flood makes no more lines than the configuration allows and each reading is counted. A flood of unknown names takes
// no lines from the plant's own.
func TestRefusalsAreBounded(t *testing.T) {
	r := newRefusals()
	now := time.Unix(1_700_000_000, 0)
	const foreign, stamps, series = 50_000, 30_000, 500
	add := func(device string, stamp int, reason slot.Reason) {
		x := sample{head: &head{Series: slot.Series{Device: device, Parameter: "cod"}}, Reading: slot.Reading{Time: now, Value: 1}}
		r.add(refusal{x.Series, int64(stamp), reason}, x, func() string { return "" }, now)
	}
	for i := range foreign {
		add(fmt.Sprint("foreign_", i), 1, unknown)
	}
	for i := range stamps {
		add("dev_1", 1+i, slot.TooOld)
	}
	for i := range series {
		add(fmt.Sprint("dev_", i), 1, slot.Late)
	}
	assert.LessOrEqual(t, len(r.lines), mostRefusals+1+series)
	again := newRefusals()
	require.NoError(t, again.restore(r.save()))
	due := again.due(now.Add(2*time.Minute), func(time.Time) bool { return true })
	count, named := map[slot.Reason]int{}, map[slot.Reason]int{}
	for _, l := range due {
		count[l.Reason] += l.Count
		if l.Device != "" && l.Stamp != 0 {
			named[l.Reason] += l.Count
		} else if l.Reason != unknown {
			assert.Equal(t, "dev_1", l.Device)
		}
	}
	assert.Equal(t, map[slot.Reason]int{unknown: foreign, slot.TooOld: stamps, slot.Late: series}, count)
	assert.Equal(t, mostForeign, named[unknown])
	assert.Equal(t, series, named[slot.Late], "each with its slot")
	assert.Equal(t, mostRefusals-mostForeign-1, named[slot.TooOld])
	again.written(due, now)
	assert.Empty(t, again.lines)
	assert.Empty(t, again.series)
}

// A flood of one kind of message does not fill the log, does not silence other kinds, and is reported again later.
func TestOnceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o once
		for i := range 2 * mostForeign {
			assert.Equal(t, i < mostForeign, o.first(foreignName, fmt.Sprint(i)))
			assert.True(t, o.first(refusedOwn, fmt.Sprint(i)))
		}
		assert.True(t, o.first(foreignDevice, "dev_2"))
		time.Sleep(2 * forgetAfter)
		assert.False(t, o.first(foreignDevice, "dev_2"), "no flood: once for all")
		assert.True(t, o.first(foreignName, "1"))
	})
}
