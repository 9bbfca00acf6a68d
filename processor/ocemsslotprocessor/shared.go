package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap/exp/zapslog"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/version"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

const patience = time.Minute // an OTLP sender with default settings retries within this time

type factory struct {
	mu     sync.Mutex
	shared map[component.Config]*shared // the collector makes one configuration for all instances of an id
}

// shared is the state that the instances of one id share, so that all pipelines fill the same windows. A slot leaves by the
// pipeline that received the first reading of its window.
type shared struct {
	cfg      *Config
	settings processor.Settings
	forget   func() // called when the last instance stops

	life    sync.Mutex // held while the engine opens and closes
	started int
	engine  atomic.Pointer[engine.Engine]
	storage ocemsstorage.Store
	gauges  metric.Registration

	mu    sync.Mutex       // never wait for life while mu is held
	exits []*slotProcessor // index is exit - 1
}

func (f *factory) instance(set processor.Settings, cfg *Config, next consumer.Metrics) (*slotProcessor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shared[cfg]
	if s == nil {
		s = &shared{cfg: cfg, settings: set, forget: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.shared, cfg)
		}}
		f.shared[cfg] = s
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.exits) == math.MaxUint8 {
		return nil, fmt.Errorf("%s: it is in more than %d pipelines; give some of them another id", set.ID, math.MaxUint8)
	}
	p := &slotProcessor{shared: s, next: next}
	s.exits = append(s.exits, p)
	p.exit = uint8(len(s.exits))
	return p, nil
}

// set records whether an instance runs, and reports whether this has changed.
func (p *slotProcessor) set(host component.Host, running bool) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed = p.running != running
	p.host, p.running = host, running
	return changed
}

// start opens the engine when the first instance starts.
func (s *shared) start(ctx context.Context, host component.Host, p *slotProcessor) (err error) {
	s.life.Lock()
	defer s.life.Unlock()
	if !p.set(host, true) {
		return nil
	}
	if s.started++; s.started > 1 {
		return nil
	}
	log := s.settings.Logger
	if s.storage, err = ocemsstorage.OpenOrMemory(ctx, host, s.cfg.Storage, component.KindProcessor, s.settings.ID, log); err != nil {
		return err
	}
	e, err := engine.Open(ctx, engine.Config{
		Slots: s.cfg.Slots, Names: s.cfg.Config, Store: s.storage, Patience: patience,
		Logger:   slog.New(zapslog.NewHandler(log.Core(), zapslog.AddStacktraceAt(slog.Level(100)))),
		OnHealth: s.report, Next: s.send,
	})
	if err != nil {
		return err
	}
	s.engine.Store(e)
	s.gauges, err = points.Observe(s.settings.MeterProvider.Meter(metadata.ScopeName, metric.WithInstrumentationVersion(version.Read().Version)), metadata.Prefix,
		attribute.String("processor", s.settings.ID.String()), e)
	return err
}

// stop closes the engine when the last instance stops. Open windows stay open for the next start.
func (s *shared) stop(ctx context.Context, p *slotProcessor) error {
	s.life.Lock()
	defer s.life.Unlock()
	if !p.set(nil, false) {
		return nil
	}
	if s.started--; s.started > 0 {
		return nil
	}
	s.forget()
	var errs []error
	if s.gauges != nil {
		errs = append(errs, s.gauges.Unregister())
	}
	if e := s.engine.Swap(nil); e != nil {
		errs = append(errs, e.Close(ctx))
	}
	if s.storage != nil {
		errs = append(errs, s.storage.Close())
	}
	s.gauges, s.storage = nil, nil
	return errors.Join(errs...)
}

// send passes slots to the next consumer of their pipeline, or of any pipeline if theirs is unknown, as after a restart.
// Slots of a pipeline that is shut down wait for the next start.
func (s *shared) send(ctx context.Context, exit uint8, slots []slot.Slot) error {
	p := s.leaving(exit)
	if p == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return p.next.ConsumeMetrics(ctx, points.FromSlots(slots))
}

func (s *shared) leaving(exit uint8) *slotProcessor {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.exits {
		if p.running && (exit == 0 || exit == p.exit) {
			return p
		}
	}
	return nil
}

// report reports changes of health to the host. Trouble is always recoverable: no data is lost until a person corrects it.
func (s *shared) report(err error) {
	event := componentstatus.NewEvent(componentstatus.StatusOK)
	if err != nil {
		event = componentstatus.NewRecoverableErrorEvent(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.exits {
		if p.running {
			componentstatus.ReportStatus(p.host, event)
		}
	}
}
