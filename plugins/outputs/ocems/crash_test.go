package ocems

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// TestKilledOnTheWayOut copies the state at each step of a slot from window to board, and lets both the plugin and the
// copy go on. The board has the slot once, with the value of the samples at its closing.
func TestKilledOnTheWayOut(t *testing.T) {
	for _, tt := range []struct {
		name string
		sent bool // the first plugin delivers before the copy starts
	}{{"copy alone", false}, {"after the first has delivered", true}} {
		for _, step := range []string{"before closing", "closed but not saved", "closed and saved", "handed over but not saved", "handed over and saved"} {
			t.Run(tt.name+", "+step, func(t *testing.T) {
				t.Parallel()
				b := startBoard(t)
				b.down.Store(true)
				o, _ := open(t, settings(b, t.TempDir())+oneDevice)
				at := hoursAgo(2)
				write(t, o, at, 1, 2, 6)
				o.mu.Lock() // keeps the ticker out: the steps are taken one by one
				var killed string
				take := func(name string) {
					if step == name {
						killed = asKilledLocked(t, o)
					}
				}
				take("before closing")
				deadline := time.Now().Add(10 * time.Second)
				for len(o.aligner.Close(time.Now())) == 0 && len(o.aligner.Pending()) == 0 {
					require.True(t, time.Now().Before(deadline))
					time.Sleep(10 * time.Millisecond)
				}
				o.unsaved = true
				take("closed but not saved")
				require.NoError(t, o.checkpoint())
				take("closed and saved")
				var seqs []uint64
				index := map[string]int{}
				for _, c := range o.aligner.Pending() {
					require.NoError(t, o.delivery.Put(context.Background(), o.reading(nil, index, c.Key, c.Stamp, c.Value, c.Flag)))
					seqs = append(seqs, c.Seq)
				}
				take("handed over but not saved")
				o.aligner.Taken(seqs...)
				require.NoError(t, o.checkpoint())
				take("handed over and saved")
				o.mu.Unlock()
				want := []string{"cod 3 mg/L U " + clock(at.Add(spec.SlotLength))}
				if tt.sent {
					b.down.Store(false)
					assert.Equal(t, want, b.await(t, 1))
				}
				require.NoError(t, o.Close())

				b.down.Store(false)
				o, _ = open(t, settings(b, killed)+oneDevice)
				write(t, o, at.Add(time.Minute), 100) // late for whatever had closed
				require.Eventually(t, func() bool {
					s := o.aligner.Stats()
					return s.Open+s.Pending+o.delivery.Stats().Slots == 0 && b.received(t).Accepted > 0
				}, 15*time.Second, 20*time.Millisecond)
				entries := trail(t, killed)
				switch open := step == "before closing" || step == "closed but not saved"; {
				case open && !tt.sent: // not closed for anyone: the further sample still counts
					want[0] = "cod 27.25 mg/L U " + clock(at.Add(spec.SlotLength))
				case open:
					assert.Len(t, outcomes(entries, audit.AlreadyStored), 1)
				case tt.sent: // twice where it is both in the outbox and among the closed: each is asked for
					assert.NotEmpty(t, outcomes(entries, audit.AlreadyStored))
					assert.Len(t, outcomes(entries, audit.Late), 1)
				default:
					assert.Len(t, outcomes(entries, audit.Delivered), 1)
					assert.Len(t, outcomes(entries, audit.Late), 1)
				}
				assert.Equal(t, want, b.words(t))
				assert.Equal(t, 1, b.received(t).Accepted)
				require.NoError(t, o.Close())
			})
		}
	}
}
