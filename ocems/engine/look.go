package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/ocems-io/ocems/ocems/clock"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// OpenWindows returns the open windows of a stored state, as the slots that they would be without further readings. The
// store must not change meanwhile: use a copy while the host runs.
func OpenWindows(ctx context.Context, stored store.Store, rules slot.Options) ([]slot.Slot, error) {
	e := &Engine{cfg: Config{Store: stored}, log: slog.New(slog.DiscardHandler), rules: rules, aligner: slot.New(rules), clock: clock.New(clock.Config{}), looks: true}
	e.loop.refusals = newRefusals()
	if err := e.restore(ctx); err != nil {
		return nil, err
	}
	return e.aligner.Close(time.Now().Add(2 * spec.MaxAge)), nil
}
