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

// OpenWindows returns what the open windows of a stored state hold, as the slots that they would be if nothing more came.
// What it reads must not change meanwhile, so a host that runs is looked at in a copy.
func OpenWindows(ctx context.Context, stored store.Store, rules slot.Options) ([]slot.Slot, error) {
	e := &Engine{cfg: Config{Store: stored}, log: slog.New(slog.DiscardHandler), rules: rules, aligner: slot.New(rules), clock: clock.New(clock.Config{}), looks: true}
	e.loop.refusals = newRefusals()
	if err := e.restore(ctx); err != nil {
		return nil, err
	}
	return e.aligner.Close(time.Now().Add(2 * spec.MaxAge)), nil
}
