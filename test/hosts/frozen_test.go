//go:build unix

package hosts

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/test/board"
)

// TestFrozenProcess stops each program in the middle of a slot for longer than grace and settle, as when a machine's disk or
// hypervisor freezes. Readings that are sent in this time wait in the kernel, and belong to the slot.
func TestFrozenProcess(t *testing.T) {
	t.Parallel()
	for name, start := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := row{name: "frozen"}
			x.complete()
			p := plant{devices: x.devices, options: map[string]any{"grace": "1s", "settle": "9s"}}
			b := board.New(t, p.stations()...)
			h := start(t, p, newPlace(t, b.URL, b.PublicKey)).(*process)
			h.send(tagged(each(1, times(7, 10)...), tag, x.name))
			h.flush()
			h.program.Signal(syscall.SIGSTOP)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				h.send(tagged(each(8, times(7, 20)...), tag, x.name))
			}()
			time.Sleep(14 * time.Second)
			h.program.Signal(syscall.SIGCONT)
			<-sent
			board.Until(t, "the slot is at the board", func() bool { return len(b.Received().Readings) > 0 })
			require.Equal(t, []string{want{device: x.name, parameter: "cod", stamp: base.Add(15 * time.Minute), value: 15, unit: "mg/L", flag: "U"}.String()}, received(b))
		})
	}
}
