package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"
)

// health is what can fail while the processor runs, and what its host was told of it.
type health struct {
	saving, trail, next fault
	trouble             bool
}

type fault struct {
	err   error
	since time.Time
}

// note logs the transitions only. What fails because of a shutdown is no fault.
func (f *fault) note(ctx context.Context, log *zap.Logger, err error, fails, works string, fields ...zap.Field) {
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil && f.err == nil:
		f.since = time.Now()
		log.Error(fails, append(fields, zap.Error(err))...)
	case err == nil && f.err != nil:
		log.Info(works)
	}
	f.err = err
}

// report tells the host the transitions only, and never as permanent: nothing is lost while a person mends it.
func (h *health) report(ctx context.Context, host component.Host) {
	err := errors.Join(h.saving.err, h.trail.err)
	if h.next.err != nil && time.Since(h.next.since) >= reportAfter {
		err = errors.Join(err, fmt.Errorf("the next consumer refuses slots: %w", h.next.err))
	}
	if h.trouble == (err != nil) || ctx.Err() != nil {
		return
	}
	h.trouble = err != nil
	if h.trouble {
		componentstatus.ReportStatus(host, componentstatus.NewRecoverableErrorEvent(err))
	} else {
		componentstatus.ReportStatus(host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}
