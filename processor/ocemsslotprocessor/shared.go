package ocemsslotprocessor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/points"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

const patience = time.Minute // within which a sender of OTLP tries again, by its defaults

type factory struct {
	mu     sync.Mutex
	shared map[component.Config]*shared // the collector makes one configuration for all instances of an id
}

// shared is what the instances of one id have in common: a reading is in one window, whichever pipeline it comes by. A slot
// leaves by the pipeline that took the window's first reading.
type shared struct {
	cfg *Config
	set processor.Settings

	mu      sync.Mutex
	exits   []*slotProcessor // by exit, from 1 on
	started int
	engine  *engine.Engine
	storage ocemsstorage.Store
	gauges  metric.Registration
}

func (f *factory) instance(set processor.Settings, cfg *Config, next consumer.Metrics) (*slotProcessor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shared[cfg]
	if s == nil {
		s = &shared{cfg: cfg, set: set}
		f.shared[cfg] = s
	}
	if len(s.exits) == math.MaxUint8 {
		return nil, fmt.Errorf("%s: it is in more than %d pipelines; give some of them another id", set.ID, math.MaxUint8)
	}
	p := &slotProcessor{shared: s, next: next}
	s.exits = append(s.exits, p)
	p.exit = uint8(len(s.exits))
	return p, nil
}

// start opens the engine with the first instance.
func (s *shared) start(ctx context.Context, host component.Host, p *slotProcessor) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.running, p.host = true, host
	if s.started++; s.started > 1 {
		return nil
	}
	log := s.set.Logger
	if s.storage, err = ocemsstorage.OpenOrMemory(ctx, host, s.cfg.Storage, component.KindProcessor, s.set.ID, log); err != nil {
		return err
	}
	s.engine, err = engine.Open(ctx, engine.Config{
		Slots: s.cfg.Slots, Names: s.cfg.Config, Store: s.storage, Patience: patience,
		Logger:   slog.New(zapslog.NewHandler(log.Core(), zapslog.AddStacktraceAt(slog.Level(100)))),
		OnHealth: s.report, Next: s.send,
	})
	if err != nil {
		return err
	}
	log.Info("making slots", zap.Int("devices", len(s.engine.Devices())))
	s.gauges, err = points.Observe(s.set.MeterProvider.Meter(metadata.ScopeName), metadata.Prefix,
		attribute.String("processor", s.set.ID.String()), s.engine.Stats)
	return err
}

// stop closes the engine with the last instance. Open windows stay open for the next start.
func (s *shared) stop(ctx context.Context, p *slotProcessor) error {
	s.mu.Lock()
	if !p.running {
		s.mu.Unlock()
		return nil
	}
	p.running = false
	s.started--
	last := s.started == 0
	s.mu.Unlock()
	if !last {
		return nil
	}
	var errs []error
	if s.gauges != nil {
		errs = append(errs, s.gauges.Unregister())
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close(ctx))
	}
	if s.storage != nil {
		errs = append(errs, s.storage.Close())
	}
	s.gauges, s.engine, s.storage = nil, nil, nil
	return errors.Join(errs...)
}

var errStopped = errors.New("its pipeline is shut down")

// send hands slots to the next consumer of their pipeline. Those of before a restart may not know theirs.
func (s *shared) send(ctx context.Context, exit uint8, slots []slot.Slot) error {
	s.mu.Lock()
	p := s.exits[min(max(int(exit), 1), len(s.exits))-1]
	running := p.running
	s.mu.Unlock()
	if !running {
		return errStopped
	}
	return p.next.ConsumeMetrics(ctx, points.FromSlots(slots))
}

// report tells the host of transitions, and never of permanent trouble: nothing is lost while a person mends it.
func (s *shared) report(err error) {
	event := componentstatus.NewEvent(componentstatus.StatusOK)
	if err != nil {
		event = componentstatus.NewRecoverableErrorEvent(err)
	}
	for _, p := range s.exits {
		if p.host != nil {
			componentstatus.ReportStatus(p.host, event)
		}
	}
}
