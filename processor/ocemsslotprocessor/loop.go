package ocemsslotprocessor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/slot"
)

// maxPoints is the most that one call of the next consumer carries.
const maxPoints = 5000

func (p *slotProcessor) run(ctx context.Context) {
	defer close(p.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if ctx.Err() == nil { // both may have come
				p.step(ctx, time.Now())
			}
		}
	}
}

// step closes, saves and sends, in this order: a slot that was sent but not saved would close a second time, with
// other samples, after a crash.
func (p *slotProcessor) step(ctx context.Context, now time.Time) {
	if p.health.saving.err != nil {
		p.closeFrom = now.Add(comeAgain)
	}
	if !now.Before(p.closeFrom) { // what is refused comes again, and belongs into the windows that are open now
		if closed := p.aligner.Close(now); len(closed) > 0 {
			p.telemetry.SlotsClosed.Add(ctx, int64(len(closed)), metric.WithAttributes(p.telemetry.Processor))
			p.unsaved = p.client != nil
		}
	}
	checkpoint := now.Sub(p.lastSave) >= p.cfg.CheckpointInterval
	if p.unsaved || checkpoint || p.health.saving.err != nil {
		p.saveAndNote(ctx)
	}
	if checkpoint {
		p.lastSave = now
		p.health.trail.note(ctx, p.log, p.writeRefusals(),
			"The audit trail cannot be written; what belongs into it is kept and tried again", "The audit trail is written again")
	}
	if !p.unsaved && !now.Before(p.retryAt) && p.send(ctx) && ctx.Err() == nil {
		p.saveAndNote(ctx) // at once: after a crash, what was sent would be sent again
	}
	p.health.report(ctx, p.host)
}

func (p *slotProcessor) saveAndNote(ctx context.Context) {
	err := p.save(ctx)
	if err == nil {
		p.unsaved = false
	}
	p.health.saving.note(ctx, p.log, err, "Saving failed; samples are refused and slots held until it works again: "+mendStorage, "Saving works again")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = p.health.saving.err
}

// save stores what changed, in one batch.
func (p *slotProcessor) save(ctx context.Context) error {
	if p.client == nil {
		return nil
	}
	select {
	case p.saving <- struct{}{}:
		defer func() { <-p.saving }()
	case <-ctx.Done():
		return fmt.Errorf("saving the slots' state: the storage is still busy with the save before: %w", ctx.Err())
	}
	entries := p.aligner.Save()
	if len(entries) == 0 {
		return nil
	}
	ops := make([]*storage.Operation, 0, len(entries))
	for k, v := range entries {
		ops = append(ops, storage.SetOperation(k, v))
	}
	if err := p.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("saving the slots' state to storage %q: %w", p.cfg.Storage, err)
	}
	p.aligner.Saved()
	return nil
}

// send hands over what is pending, oldest first, and reports whether any of it was taken. Whatever the error, the slots
// are kept and tried again.
func (p *slotProcessor) send(ctx context.Context) (some bool) {
	pending := p.aligner.Pending()
	slices.SortFunc(pending, func(a, b slot.Closed[string]) int {
		return cmp.Or(a.Stamp.Compare(b.Stamp), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
	})
	for part := range slices.Chunk(pending, maxPoints) {
		if ctx.Err() != nil {
			return some
		}
		err := p.next.ConsumeMetrics(ctx, p.metrics(part))
		p.health.next.note(ctx, p.log, err, "The next consumer refused slots; they are kept and tried again",
			"The next consumer takes slots again", zap.Int("slots", len(pending)))
		if err != nil {
			p.backoff = min(max(2*p.backoff, tick), maxBackoff)
			p.retryAt = time.Now().Add(p.backoff) // a time-out of the next consumer is no pause of it
			return some
		}
		p.backoff = 0
		seqs := make([]uint64, len(part))
		for i, c := range part {
			seqs[i] = c.Seq
		}
		p.aligner.Taken(seqs...)
		some = true
	}
	return some
}

// metrics writes slots, which are in order of stamp and key. Neighbours of one resource and scope share them.
func (p *slotProcessor) metrics(slots []slot.Closed[string]) pmetric.Metrics {
	md := pmetric.NewMetrics()
	var sm pmetric.ScopeMetrics
	prefix := ""
	for i, c := range slots {
		id, err := decodeKey(c.Key)
		if err != nil { // encoded here, or checked when it was restored
			p.log.DPanic("A slot's series cannot be read", zap.Error(err))
			continue
		}
		if own := c.Key[:id.prefixLen]; i == 0 || own != prefix {
			prefix = own
			rm := md.ResourceMetrics().AppendEmpty()
			id.resource.MoveTo(rm.Resource().Attributes())
			sm = rm.ScopeMetrics().AppendEmpty()
			sm.Scope().SetName(id.scope)
			sm.Scope().SetVersion(id.scopeVersion)
			id.scopeAttributes.MoveTo(sm.Scope().Attributes())
		}
		m := sm.Metrics().AppendEmpty()
		m.SetName(id.metric)
		m.SetUnit(id.unit)
		dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
		id.attributes.MoveTo(dp.Attributes())
		dp.Attributes().PutStr(flagAttribute, c.Flag.String())
		dp.Attributes().PutInt(samplesAttribute, int64(c.Samples))
		dp.SetStartTimestamp(pcommon.NewTimestampFromTime(c.Start))
		dp.SetTimestamp(pcommon.NewTimestampFromTime(c.Stamp))
		dp.SetDoubleValue(c.Value)
	}
	return md
}
