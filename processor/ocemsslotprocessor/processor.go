package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

const (
	tick        = time.Second
	maxBackoff  = 30 * time.Second
	comeAgain   = time.Minute      // within which a sender of OTLP tries again, by its defaults
	reportAfter = time.Minute      // of refusals by the next consumer: a short one is no trouble worth a status
	leaveWithin = time.Second      // of the loop at a shutdown that has no time left
	saveWithin  = 10 * time.Second // of a shutdown, whatever time it has left, since what is not saved is lost

	mendStorage = "see that the directory of the storage can be written and has free space"
)

type slotProcessor struct {
	cfg        *Config
	id         component.ID
	log        *zap.Logger
	next       consumer.Metrics
	aligner    *slot.Aligner[string]
	statistics map[string]slot.Statistic
	telemetry  *metadata.Telemetry

	mu       sync.Mutex // of what follows
	enc      *keyEncoder
	known    map[string]string // keys, so that a known series needs no new string
	refusals refusals
	full     error // why nothing can be saved, and so is taken

	saving  chan struct{} // holds one while a save runs
	host    component.Host
	client  storage.Client
	trail   *audit.Trail
	cancel  context.CancelFunc
	done    chan struct{}
	stopped bool

	// of the loop
	unsaved   bool // something closed that is not saved: it must not be sent
	lastSave  time.Time
	backoff   time.Duration
	retryAt   time.Time
	closeFrom time.Time // when windows may close again after samples were refused
	health    health
}

func newProcessor(set processor.Settings, cfg *Config, next consumer.Metrics) (*slotProcessor, error) {
	statistics, err := cfg.statistics()
	if err != nil {
		return nil, err
	}
	aligner, err := slot.New(slot.Options{
		Stamp: cfg.Stamp, Grace: cfg.Grace, CalibrationGrace: cfg.CalibrationGrace, Settle: cfg.Settle,
		MaxSkew: cfg.MaxSkew, MinSamples: cfg.MinSamples, MaxSeries: cfg.MaxSeries,
	}, keyCodec{})
	if err != nil {
		return nil, err
	}
	p := &slotProcessor{
		cfg: cfg, id: set.ID, log: set.Logger.WithOptions(zap.AddStacktrace(zap.DPanicLevel)), next: next, aligner: aligner, statistics: statistics,
		enc: newKeyEncoder(), known: map[string]string{}, refusals: newRefusals(), saving: make(chan struct{}, 1),
	}
	p.telemetry, err = metadata.NewTelemetry(set.TelemetrySettings, set.ID, func() (int, int) {
		s := aligner.Stats()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.full != nil { // they are held open
			s.Pending += s.Open
		}
		return s.Pending, s.Series
	})
	return p, err
}

// Capabilities implements consumer.Metrics. What passes through is copied out, so the raw readings stay as they are
// for other pipelines.
func (p *slotProcessor) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start loads the state and starts the clock.
func (p *slotProcessor) Start(ctx context.Context, host component.Host) error {
	if p.cfg.AuditFile != "" {
		trail, err := audit.Open(p.cfg.AuditFile)
		if err != nil {
			return fmt.Errorf("audit_file = %q: %w", p.cfg.AuditFile, err)
		}
		if damage := trail.Damage(); damage != "" {
			p.log.Error(damage)
		}
		p.trail = trail
	}
	if p.cfg.Storage == nil {
		p.log.Warn("storage is not set: a restart loses the open windows and the slots that were not sent")
	} else if err := p.load(ctx, host); err != nil {
		return err
	}
	p.host, p.lastSave = host, time.Now()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel, p.done = cancel, make(chan struct{})
	go p.run(run)
	return nil
}

func (p *slotProcessor) load(ctx context.Context, host component.Host) error {
	ext, ok := host.GetExtensions()[*p.cfg.Storage]
	if !ok {
		return fmt.Errorf("storage = %q: no such extension is configured and listed under service.extensions", p.cfg.Storage)
	}
	store, ok := ext.(storage.Extension)
	if !ok {
		return fmt.Errorf("storage = %q: this extension is not a storage, such as ocems_storage", p.cfg.Storage)
	}
	client, err := store.GetClient(ctx, component.KindProcessor, p.id, "")
	if err != nil {
		return fmt.Errorf("opening storage %q: %w", p.cfg.Storage, err)
	}
	p.client = client
	keys := p.aligner.Keys()
	ops := make([]*storage.Operation, len(keys))
	for i, k := range keys {
		ops[i] = storage.GetOperation(k)
	}
	if err := client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("loading the slots' state from storage %q: %w", p.cfg.Storage, err)
	}
	entries := make(map[string][]byte, len(keys))
	for _, op := range ops {
		entries[op.Key] = op.Value
	}
	if err := p.aligner.Restore(entries, time.Now()); err != nil {
		p.log.Error("A part of the saved state is damaged and left out; the rest is restored", zap.Error(err))
	}
	return nil
}

// Shutdown saves the state, also when ctx has expired. Open windows stay open for the next start. A next consumer that
// does not return leaves the loop behind, which then does nothing more; so the loop's fields stay as they are.
func (p *slotProcessor) Shutdown(ctx context.Context) error {
	if p.stopped { // the file of a trail that is closed twice may be another's by now
		return nil
	}
	p.stopped = true
	var errs []error
	if p.cancel != nil {
		p.cancel()
		select {
		case <-p.done:
		case <-ctx.Done():
			select {
			case <-p.done:
			case <-time.After(leaveWithin):
				errs = append(errs, fmt.Errorf("waiting for the next consumer at shutdown: %w", ctx.Err()))
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveWithin)
	defer cancel()
	if p.cancel != nil {
		errs = append(errs, p.save(ctx), p.writeRefusals())
	}
	if p.client != nil {
		errs = append(errs, p.client.Close(ctx))
	}
	if p.trail != nil {
		errs = append(errs, p.trail.Close())
	}
	return errors.Join(append(errs, p.telemetry.Close())...)
}

// ConsumeMetrics takes gauges and sums and passes everything else on. That goes first: were it refused after the
// samples were taken, the sender's second attempt would count them twice. While the state cannot be saved it refuses
// all, so that the sender keeps it and a crash costs no more than at other times.
func (p *slotProcessor) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	p.mu.Lock()
	full := p.full
	p.mu.Unlock()
	if full != nil {
		return fmt.Errorf("%w; the samples stay with the sender: "+mendStorage, full)
	}
	if rest, some := others(md); some {
		if err := p.next.ConsumeMetrics(ctx, rest); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	taken := int64(0)
	e := p.enc
	for i := range md.ResourceMetrics().Len() {
		rm := md.ResourceMetrics().At(i)
		e.b = e.b[:0]
		e.attributes(rm.Resource().Attributes(), 0)
		resourceLen := len(e.b)
		resourceFlag, _ := flagOf(rm.Resource().Attributes())
		for j := range rm.ScopeMetrics().Len() {
			sm := rm.ScopeMetrics().At(j)
			e.b = e.b[:resourceLen]
			e.string(sm.Scope().Name())
			e.string(sm.Scope().Version())
			e.attributes(sm.Scope().Attributes(), 0)
			scopeLen := len(e.b)
			for k := range sm.Metrics().Len() {
				m := sm.Metrics().At(k)
				points, ok := pointsOf(m)
				if !ok {
					continue
				}
				e.b = e.b[:scopeLen]
				e.string(m.Name())
				e.string(m.Unit())
				metricLen := len(e.b)
				stat := p.statistic(m)
				for l := range points.Len() {
					e.b = e.b[:metricLen]
					if p.take(ctx, points.At(l), stat, resourceFlag, now) {
						taken++
					}
				}
			}
		}
	}
	if taken > 0 {
		p.telemetry.Samples.Add(ctx, taken, metric.WithAttributes(p.telemetry.Processor))
	}
	return nil
}

// take adds one point to the series whose identity, but for the point's attributes, the encoder holds.
func (p *slotProcessor) take(ctx context.Context, dp pmetric.NumberDataPoint, stat slot.Statistic, flagText string, now time.Time) bool {
	if dp.Flags().NoRecordedValue() {
		return false
	}
	if own, ok := flagOf(dp.Attributes()); ok {
		flagText = own
	}
	p.enc.attributes(dp.Attributes(), 0)
	key, known := p.known[string(p.enc.b)]
	if !known {
		key = string(p.enc.b)
	}
	value := math.NaN()
	switch dp.ValueType() {
	case pmetric.NumberDataPointValueTypeInt:
		value = float64(dp.IntValue())
	case pmetric.NumberDataPointValueTypeDouble:
		value = dp.DoubleValue()
	}
	at := time.Unix(0, int64(dp.Timestamp()))
	flag, err := spec.ParseFlag(flagText)                                                       // a bad one is 0, which the aligner refuses and counts
	if refused, ok := p.aligner.Add(key, stat, at, value, flag, now).(*slot.RefusedError); ok { // errors.As would allocate
		p.refuse(ctx, key, at, flag, refused.Reason, err, now)
		return false
	}
	if !known {
		if len(p.known) >= p.cfg.MaxSeries { // some of them are gone from the aligner
			clear(p.known)
		}
		p.known[key] = key
	}
	return true
}

func (p *slotProcessor) statistic(m pmetric.Metric) slot.Statistic {
	if s, ok := p.statistics[m.Name()]; ok {
		return s
	}
	if m.Type() == pmetric.MetricTypeSum {
		if m.Sum().AggregationTemporality() == pmetric.AggregationTemporalityDelta {
			return slot.Sum
		}
		if m.Sum().IsMonotonic() && m.Sum().AggregationTemporality() == pmetric.AggregationTemporalityCumulative {
			return slot.Last
		}
	}
	if spec.IsTotalizer(m.Name()) {
		return slot.Last
	}
	return slot.Mean
}

func flagOf(m pcommon.Map) (string, bool) {
	v, ok := m.Get(flagAttribute)
	if !ok {
		v, ok = m.Get(flagAttributeAlt)
	}
	if !ok {
		return "", false
	}
	return v.AsString(), true
}

func pointsOf(m pmetric.Metric) (pmetric.NumberDataPointSlice, bool) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints(), true
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints(), true
	}
	return pmetric.NumberDataPointSlice{}, false
}

// others copies what is neither gauge nor sum.
func others(md pmetric.Metrics) (pmetric.Metrics, bool) {
	some := false
	for i := range md.ResourceMetrics().Len() {
		for j := range md.ResourceMetrics().At(i).ScopeMetrics().Len() {
			metrics := md.ResourceMetrics().At(i).ScopeMetrics().At(j).Metrics()
			for k := range metrics.Len() {
				_, ours := pointsOf(metrics.At(k))
				some = some || !ours
			}
		}
	}
	if !some {
		return md, false
	}
	rest := pmetric.NewMetrics()
	md.CopyTo(rest)
	rest.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool { _, ours := pointsOf(m); return ours })
			return sm.Metrics().Len() == 0
		})
		return rm.ScopeMetrics().Len() == 0
	})
	return rest, true
}
