package ocems

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
)

// stats are what inputs.internal shows as internal_ocems, internal_ocems_held and internal_ocems_refused.
type stats struct {
	all      []selfstat.Stat
	outcomes map[audit.Outcome]selfstat.Stat
	heldFor  map[string]selfstat.Stat      // by delivery.HoldReasons
	reasons  map[slot.Reason]selfstat.Stat // by engine.Reasons

	samples, duplicate, late, refused, ignored selfstat.Stat
	closed, series, open, pending              selfstat.Stat
	slots, oldest, held, skew                  selfstat.Stat
	tries, failed, took                        selfstat.Stat
}

func newStats(tags map[string]string) *stats {
	s := &stats{outcomes: map[audit.Outcome]selfstat.Stat{}, heldFor: map[string]selfstat.Stat{}, reasons: map[slot.Reason]selfstat.Stat{}}
	keep := func(stat selfstat.Stat) selfstat.Stat {
		s.all = append(s.all, stat)
		return stat
	}
	register := func(field string) selfstat.Stat { return keep(selfstat.Register("ocems", field, tags)) }
	by := func(measurement, field, reason string) selfstat.Stat {
		with := maps.Clone(tags)
		with["reason"] = reason
		return keep(selfstat.Register(measurement, field, with))
	}
	s.samples, s.duplicate, s.late, s.refused, s.ignored = register("samples"), register("samples_duplicate"), register("samples_late"),
		register("samples_refused"), register("fields_ignored")
	s.closed, s.series, s.open, s.pending = register("slots_closed"), register("series"), register("slots_open"), register("slots_pending")
	for _, o := range []audit.Outcome{audit.Delivered, audit.AlreadyStored, audit.Rejected, audit.Expired, audit.Refused} {
		s.outcomes[o] = register("readings_" + string(o))
	}
	s.slots, s.oldest, s.held = register("outbox_slots"), register("outbox_oldest_age_ns"), register("devices_held")
	for _, reason := range delivery.HoldReasons() {
		s.heldFor[reason] = by("ocems_held", "devices", reason)
	}
	for _, reason := range engine.Reasons() {
		s.reasons[reason] = by("ocems_refused", "samples", string(reason))
	}
	s.skew, s.tries, s.failed = register("clock_skew_ns"), register("requests"), register("requests_failed")
	s.took = keep(selfstat.RegisterTiming("ocems", "request_time_ns", tags))
	return s
}

func (s *stats) close() {
	for _, stat := range s.all {
		stat.Unregister()
	}
}

func (s *stats) result(o audit.Outcome, readings int) {
	if stat := s.outcomes[o]; stat != nil {
		stat.Incr(int64(readings))
	}
}

func (s *stats) try(took time.Duration, ok bool) {
	s.tries.Incr(1)
	if !ok {
		s.failed.Incr(1)
	}
	s.took.Incr(took.Nanoseconds())
}

func (s *stats) observe(e engine.Stats) {
	s.samples.Set(int64(e.Taken + e.Finished))
	s.duplicate.Set(int64(e.Refused[slot.Duplicate]))
	refused := uint64(0)
	for _, reason := range engine.Reasons() {
		n := e.Refused[reason]
		s.reasons[reason].Set(int64(n))
		if reason != slot.Late {
			refused += n
		}
	}
	s.late.Set(int64(e.Refused[slot.Late]))
	s.refused.Set(int64(refused))
	s.ignored.Set(int64(e.Ignored))
	s.closed.Set(int64(e.Closed))
	s.series.Set(int64(e.Series))
	s.open.Set(int64(e.Open))
	s.pending.Set(int64(e.Pending))
	o := e.Outbox
	s.slots.Set(int64(o.Slots))
	s.oldest.Set(e.OldestAge().Nanoseconds())
	s.held.Set(int64(len(o.Held)))
	for reason, stat := range s.heldFor {
		stat.Set(int64(o.HeldFor[reason]))
	}
	s.skew.Set(o.Skew.Nanoseconds())
}

// logHandler lets the core log through Telegraf.
type logHandler struct {
	log   telegraf.Logger
	attrs string
}

func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level > slog.LevelDebug || h.log.Level() >= telegraf.Debug
}

func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(text(a))
		return true
	})
	line := b.String()
	if line != "" {
		line = strings.ToUpper(line[:1]) + line[1:]
	}
	switch {
	case r.Level >= slog.LevelError:
		h.log.Error(line)
	case r.Level >= slog.LevelWarn:
		h.log.Warn(line)
	case r.Level >= slog.LevelInfo:
		h.log.Info(line)
	default:
		h.log.Debug(line)
	}
	return nil
}

func text(a slog.Attr) string {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindString && a.Key != "json" { // which has its own escapes
		return fmt.Sprintf(" %s=%q", a.Key, v.String())
	}
	return fmt.Sprintf(" %s=%v", a.Key, v)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += text(a)
	}
	return h
}

func (h logHandler) WithGroup(string) slog.Handler { return h }
