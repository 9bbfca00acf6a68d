package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/slot"
)

// Beyond what is remembered, readings share a line a reason: none goes uncounted.
func TestRefusalsAreBounded(t *testing.T) {
	r := newRefusals()
	now := time.Unix(1_700_000_000, 0)
	const n = mostRefusals + 500
	for i := range n {
		x := sample{Sample: slot.Sample{Series: slot.Series{Device: fmt.Sprint("dev_", i), Parameter: "cod"}, Time: now, Value: 1}}
		r.add(refusal{x.Series, now.UnixMilli(), slot.Late}, x, "", now)
	}
	assert.LessOrEqual(t, len(r.lines), mostRefusals+1)
	again := newRefusals()
	require.NoError(t, again.restore(r.save()))
	due := again.due(now.Add(time.Minute), func(time.Time) bool { return true })
	count := 0
	for _, l := range due {
		count += l.Count
	}
	assert.Equal(t, n, count)
	again.written(due, now)
	assert.Empty(t, again.lines)
}

// A flood of one thing to say neither fills the log nor silences another.
func TestOnceIsBounded(t *testing.T) {
	var o once
	for i := range 2 * mostKinds {
		assert.Equal(t, i < mostKinds, o.first("ignored", fmt.Sprint(i)))
	}
	assert.True(t, o.first("device", "dev_2"))
	assert.False(t, o.first("device", "dev_2"))
	assert.Len(t, o.seen["ignored"], mostKinds)
}
