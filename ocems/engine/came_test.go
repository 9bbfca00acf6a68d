package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ocems-io/ocems/ocems/registry"
)

// The names that come with a device are kept while it is configured without entries. The account learns of each name at once,
// and hourly that names still come.
func TestOtherNames(t *testing.T) {
	var c came
	now := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	c.keepOthers([]string{"a", "b"})
	assert.True(t, c.other("a", "codd", now))
	assert.False(t, c.other("a", "codd", now.Add(time.Minute)))
	assert.True(t, c.other("a", "uptime", now.Add(time.Minute)))
	assert.False(t, c.other("with entries", "codd", now))
	c.keepOthers([]string{"a", "c"})
	assert.Equal(t, "names codd, uptime came with ocems_device_id=a; no parameter key is among them", c.ofDevice("a", registry.Telegraf))
	assert.False(t, c.other("a", "codd", now.Add(time.Hour)))
	assert.True(t, c.other("a", "codd", now.Add(time.Hour+time.Minute)))
	assert.False(t, c.other("b", "codd", now), "no longer configured")
	learned := 0
	for i := range 100 {
		if c.other("c", fmt.Sprint("x", i), now) {
			learned++
		}
	}
	assert.Equal(t, mostOthers, learned)
	assert.Len(t, c.others, 2)
}
