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
	"github.com/ocems-io/ocems/ocems/slot"
)

// stats are what inputs.internal shows as internal_ocems and internal_ocems_held.
type stats struct {
	all      []selfstat.Stat
	outcomes map[audit.Outcome]selfstat.Stat
	heldFor  map[string]selfstat.Stat // by delivery.HoldReasons

	samples, late, refused, ignored, closed selfstat.Stat
	series, open, pending                   selfstat.Stat
	slots, oldest, held, skew               selfstat.Stat
	tries, failed, took                     selfstat.Stat
}

func newStats(tags map[string]string) *stats {
	s := &stats{outcomes: map[audit.Outcome]selfstat.Stat{}, heldFor: map[string]selfstat.Stat{}}
	register := func(field string) selfstat.Stat {
		stat := selfstat.Register("ocems", field, tags)
		s.all = append(s.all, stat)
		return stat
	}
	s.samples, s.late, s.refused, s.ignored = register("samples"), register("samples_late"), register("samples_refused"), register("fields_ignored")
	s.closed, s.series, s.open, s.pending = register("slots_closed"), register("series"), register("slots_open"), register("slots_pending")
	for _, o := range []audit.Outcome{audit.Delivered, audit.AlreadyStored, audit.Rejected, audit.Expired} {
		s.outcomes[o] = register("readings_" + string(o))
	}
	s.outcomes[audit.Refused] = register("readings_refused")
	s.slots, s.oldest, s.held = register("outbox_slots"), register("outbox_oldest_age_ns"), register("devices_held")
	for _, reason := range delivery.HoldReasons() {
		with := maps.Clone(tags)
		with["reason"] = reason
		s.heldFor[reason] = selfstat.Register("ocems_held", "devices", with)
		s.all = append(s.all, s.heldFor[reason])
	}
	s.skew, s.tries, s.failed = register("clock_skew_ns"), register("requests"), register("requests_failed")
	s.took = selfstat.RegisterTiming("ocems", "request_time_ns", tags)
	s.all = append(s.all, s.took)
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

func (s *stats) observe(d delivery.Stats, a slot.Stats, age time.Duration) {
	s.slots.Set(int64(d.Slots))
	s.oldest.Set(age.Nanoseconds())
	s.held.Set(int64(len(d.Held)))
	for reason, stat := range s.heldFor {
		stat.Set(int64(d.HeldFor[reason]))
	}
	s.skew.Set(d.Skew.Nanoseconds())
	s.series.Set(int64(a.Series))
	s.open.Set(int64(a.Open))
	s.pending.Set(int64(a.Pending))
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
	said := collectorsWords.Replace(b.String())
	if said != "" {
		said = strings.ToUpper(said[:1]) + said[1:]
	}
	switch {
	case r.Level >= slog.LevelError:
		h.log.Error(said)
	case r.Level >= slog.LevelWarn:
		h.log.Warn(said)
	case r.Level >= slog.LevelInfo:
		h.log.Info(said)
	default:
		h.log.Debug(said)
	}
	return nil
}

// collectorsWords are the core's names of keys that Telegraf's clients call otherwise.
var collectorsWords = strings.NewReplacer("as ca_file", "as tls_ca", "in proxy_url", "in http_proxy_url")

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
