package ocems

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
)

// observed lists the fields of internal_ocems that are read from the engine.
var observed = map[string]func(engine.Stats) uint64{
	"samples":              func(s engine.Stats) uint64 { return s.Taken + s.Finished },
	"samples_duplicate":    func(s engine.Stats) uint64 { return s.Refused[slot.Duplicate] },
	"samples_late":         func(s engine.Stats) uint64 { return s.Refused[slot.Late] },
	"samples_refused":      refused,
	"fields_ignored":       func(s engine.Stats) uint64 { return s.Ignored },
	"slots_closed":         func(s engine.Stats) uint64 { return s.Closed },
	"series":               func(s engine.Stats) uint64 { return uint64(s.Series) },
	"slots_open":           func(s engine.Stats) uint64 { return uint64(s.Open) },
	"slots_pending":        func(s engine.Stats) uint64 { return uint64(s.Pending) },
	"outbox_slots":         func(s engine.Stats) uint64 { return uint64(s.Outbox.Slots) },
	"outbox_oldest_age_ns": func(s engine.Stats) uint64 { return uint64(s.OldestAge()) },
	"devices_held":         func(s engine.Stats) uint64 { return uint64(s.Outbox.Held) },
	"server_unreachable": func(s engine.Stats) uint64 {
		if s.Unreachable {
			return 1
		}
		return 0
	},
	"clock_skew_ns": func(s engine.Stats) uint64 { return uint64(s.Outbox.Skew) },
}

func refused(s engine.Stats) (n uint64) {
	for _, reason := range engine.Reasons() {
		if reason != slot.Late {
			n += s.Refused[reason]
		}
	}
	return n
}

// stats are the metrics of inputs.internal: internal_ocems, and internal_ocems_held, _refused, _trouble and _parameter.
type stats struct {
	tags                map[string]string
	all                 []selfstat.Stat
	parameters          map[gauge]selfstat.Stat
	read                map[selfstat.Stat]func(engine.Stats) uint64
	outcomes            map[audit.Outcome]selfstat.Stat
	tries, failed, took selfstat.Stat
}

func newStats(tags map[string]string) *stats {
	s := &stats{tags: tags, outcomes: map[audit.Outcome]selfstat.Stat{}, parameters: map[gauge]selfstat.Stat{}, read: map[selfstat.Stat]func(engine.Stats) uint64{}}
	register := func(measurement, field string, tag ...string) selfstat.Stat {
		with := maps.Clone(tags)
		if len(tag) > 0 {
			with[tag[0]] = tag[1]
		}
		s.all = append(s.all, selfstat.Register(measurement, field, with))
		return s.all[len(s.all)-1]
	}
	for field, of := range observed {
		s.read[register("ocems", field)] = of
	}
	for _, reason := range delivery.HoldReasons() {
		s.read[register("ocems_held", "devices", "reason", reason)] = func(s engine.Stats) uint64 { return uint64(s.Outbox.HeldFor[reason]) }
	}
	for _, reason := range engine.Reasons() {
		s.read[register("ocems_refused", "samples", "reason", string(reason))] = func(s engine.Stats) uint64 { return s.Refused[reason] }
	}
	for _, class := range engine.Troubles() {
		s.read[register("ocems_trouble", "parameters", "class", string(class))] = func(s engine.Stats) uint64 { return uint64(s.Troubled[class]) }
	}
	for _, o := range []audit.Outcome{audit.Delivered, audit.AlreadyStored, audit.Rejected, audit.Expired, audit.Refused} {
		s.outcomes[o] = register("ocems", "readings_"+string(o))
	}
	s.tries, s.failed = register("ocems", "requests"), register("ocems", "requests_failed")
	s.took = selfstat.RegisterTiming("ocems", "request_time_ns", tags)
	s.all = append(s.all, s.took)
	return s
}

func (s *stats) close() {
	s.observeParameters(nil)
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
	for stat, of := range s.read {
		stat.Set(int64(of(e)))
	}
}

// gauge identifies one gauge of a parameter.
type gauge struct {
	field, station, device, parameter, class string
	diagnostic                               bool
}

// observeParameters sets the gauges of parameters, and removes those that are not in the list.
func (s *stats) observeParameters(list []engine.ParameterState) {
	before := maps.Clone(s.parameters)
	set := func(g gauge, v int64) {
		delete(before, g)
		stat := s.parameters[g]
		if stat == nil {
			tags := maps.Clone(s.tags)
			tags["station"], tags["device"], tags["parameter"], tags["diagnostic"] = g.station, g.device, g.parameter, strconv.FormatBool(g.diagnostic)
			if g.class != "" {
				tags["class"] = g.class
			}
			stat = selfstat.Register("ocems_parameter", g.field, tags)
			s.parameters[g] = stat
		}
		stat.Set(v)
	}
	for _, p := range list {
		g := gauge{"expected", p.Station, p.Device, p.Parameter, "", p.Diagnostic}
		due := int64(0)
		if p.Expected {
			due = 1
		}
		set(g, due)
		if g.field = "last_delivered_timestamp"; !p.Delivered.IsZero() {
			set(g, p.Delivered.Unix())
		}
		if g.field, g.class = "trouble", string(p.Trouble); p.Trouble != "" {
			set(g, 1)
		}
	}
	for g, stat := range before {
		stat.Unregister()
		delete(s.parameters, g)
	}
}

// logHandler writes the core's log to Telegraf's log.
type logHandler struct {
	log   telegraf.Logger
	attrs string
}

func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level > slog.LevelDebug || h.log.Level() >= telegraf.Debug
}

func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	line := r.Message + h.attrs
	r.Attrs(func(a slog.Attr) bool {
		line += text(a)
		return true
	})
	line = strings.ToUpper(line[:1]) + line[1:]
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
	if v.Kind() == slog.KindString && a.Key != "json" { // JSON has its own escapes
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
