package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/slot"
)

// A restart loses the exit of a window. Its device's readings still go in one request.
func TestSlotsOfADeviceLeaveTogether(t *testing.T) {
	s := func(device, parameter string, exit uint8) slot.Slot {
		return slot.Slot{Series: slot.Series{Device: device, Parameter: parameter}, Exit: exit}
	}
	before := []slot.Slot{s("a", "bod", 0), s("a", "cod", 2), s("a", "ph", 0), s("b", "cod", 1), s("c", "cod", 0)}
	got := together(before)
	require.Equal(t, []slot.Slot{s("a", "bod", 2), s("a", "cod", 2), s("a", "ph", 2), s("b", "cod", 1), s("c", "cod", 0)}, got)
	require.EqualValues(t, 0, before[0].Exit)
}

// TestParting names the keys that only one of two sources has, on either side.
func TestParting(t *testing.T) {
	for _, c := range [][3]string{{"host=a plc=1", "host=a plc=2", "plc"}, {"host=a", "host=a name=x", "name"}, {"host=a name=x", "host=a", "name"}, {"host=a", "host=a", ""}} {
		require.Equal(t, c[2], parting(c[0], c[1]), c)
	}
}
