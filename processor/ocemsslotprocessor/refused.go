package ocemsslotprocessor

import (
	"context"
	"fmt"
	"maps"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Bounds of what is remembered of refused samples.
const (
	maxRefusals = 10000
	maxWarned   = 1000
	warnEvery   = time.Minute
)

// refusal is what refused samples are counted by. Beyond maxRefusals only the reason is kept.
type refusal struct {
	key    string
	stamp  int64 // milliseconds
	reason slot.Reason
}

type warning struct {
	key    string
	reason slot.Reason
}

type refusals struct {
	counts map[refusal]int // since the last line of the audit trail
	warned map[warning]time.Time
	swept  time.Time // when warned was last rid of what is old
}

func newRefusals() refusals {
	return refusals{counts: map[refusal]int{}, warned: map[warning]time.Time{}}
}

func (r *refusals) count(x refusal, n int) {
	if _, known := r.counts[x]; !known && len(r.counts) >= maxRefusals {
		x = refusal{reason: x.reason}
	}
	r.counts[x] += n
}

// warn says whether to name the series now. Beyond maxWarned all further ones share a warning, whose key is empty.
func (r *refusals) warn(key string, reason slot.Reason, now time.Time) (string, bool) {
	w := warning{key, reason}
	if _, known := r.warned[w]; !known && len(r.warned) >= maxWarned {
		if now.Sub(r.swept) >= warnEvery { // not for each sample of a flood
			maps.DeleteFunc(r.warned, func(_ warning, last time.Time) bool { return now.Sub(last) >= warnEvery })
			r.swept = now
		}
		if len(r.warned) >= maxWarned {
			w.key = ""
		}
	}
	if last, known := r.warned[w]; known && now.Sub(last) < warnEvery {
		return "", false
	}
	r.warned[w] = now
	return w.key, true
}

// refuse counts and names a sample that was not taken. cause is what is wrong with its flag, if that is.
func (p *slotProcessor) refuse(ctx context.Context, key string, at time.Time, flag spec.Flag, reason slot.Reason, cause error, now time.Time) {
	if reason == slot.Late {
		p.telemetry.LateSamples.Add(ctx, 1, metric.WithAttributes(p.telemetry.Processor))
	} else {
		p.telemetry.RefusedSamples.Add(ctx, 1, metric.WithAttributes(p.telemetry.Processor, attribute.String("reason", string(reason))))
	}
	start, end := spec.Window(at, flag.Length())
	stamp := end
	if p.cfg.Stamp == "start" {
		stamp = start
	}
	if p.cfg.AuditFile != "" {
		p.refusals.count(refusal{key, stamp.UnixMilli(), reason}, 1)
	}
	key, due := p.refusals.warn(key, reason, now)
	if !due {
		return
	}
	name, _, _ := describe(key)
	p.log.Warn("Sample refused", zap.String("reason", string(reason)), zap.String("series", name),
		zap.Time("time", at), zap.NamedError("flag", cause))
}

// describe names a series for people.
func describe(key string) (name, station, device string) {
	id, err := decodeKey(key)
	if key == "" || err != nil {
		return "further series", "", ""
	}
	attributes := id.resource.AsRaw()
	maps.Copy(attributes, id.attributes.AsRaw())
	text := func(names ...string) string {
		for _, n := range names {
			if v, ok := attributes[n]; ok {
				return fmt.Sprint(v)
			}
		}
		return ""
	}
	return fmt.Sprintf("%s %v", id.metric, attributes), // fmt sorts the keys of a map
		text("ocems.station.id", "ocems_station_id"), text("ocems.device.id", "ocems_device_id")
}

// writeRefusals writes what was refused since it was last called. What cannot be written is kept.
func (p *slotProcessor) writeRefusals() error {
	p.mu.Lock()
	counts := p.refusals.counts
	if p.trail == nil || len(counts) == 0 {
		p.mu.Unlock()
		return nil
	}
	p.refusals.counts = map[refusal]int{}
	p.mu.Unlock()
	entries := make([]audit.Entry, 0, len(counts))
	for r, n := range counts {
		e := audit.Entry{Outcome: audit.Refused, Stamp: r.stamp}
		if r.reason == slot.Late {
			e.Outcome = audit.Late
		}
		var name string
		name, e.Station, e.Device = describe(r.key)
		e.Detail = fmt.Sprintf("%d samples of %s: %s", n, name, r.reason)
		entries = append(entries, e)
	}
	err := p.trail.Append(entries...)
	if err != nil {
		p.mu.Lock()
		for r, n := range counts {
			p.refusals.count(r, n)
		}
		p.mu.Unlock()
	}
	return err
}
