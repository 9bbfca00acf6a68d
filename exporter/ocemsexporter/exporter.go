package ocemsexporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/store"
)

const (
	closeWithin = 5 * time.Second  // of Shutdown, for requests in flight
	shortest    = 30 * time.Second // timeout below which the server may store what counts as failed here
)

type ocemsExporter struct {
	cfg       *Config
	set       exporter.Settings
	telemetry *metadata.Telemetry

	registry *registry.Registry
	delivery *delivery.Delivery
	trail    *audit.Trail
	backlog  *audit.Backlog // of what was refused; nil without a trail
	storage  storage.Client
	gauges   metric.Registration
	unwatch  context.CancelFunc
	watching sync.WaitGroup

	mu      sync.Mutex // guards all below
	said    map[string]bool
	trouble bool
}

func (e *ocemsExporter) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (e *ocemsExporter) Start(ctx context.Context, host component.Host) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Shutdown(ctx))
		}
	}()
	log := e.set.Logger
	if e.registry, err = registry.New(e.cfg.registry()); err != nil {
		return err
	}
	if e.cfg.HTTP.Timeout < shortest {
		log.Warn("http.timeout is short: the server is slow after a boundary, and a request given up may be stored all the same; set 30s or more",
			zap.Duration("timeout", e.cfg.HTTP.Timeout))
	}
	httpCfg := e.cfg.HTTP
	if httpCfg.MaxIdleConnsPerHost == 0 {
		httpCfg.MaxIdleConnsPerHost = e.cfg.MaxConcurrency // net/http keeps 2, the others would connect anew for each request
	}
	client, err := httpCfg.ToClient(ctx, host.GetExtensions(), e.set.TelemetrySettings)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	var outbox store.Store
	if e.cfg.Storage == nil {
		log.Warn("no storage is set: what waits in the outbox is lost when the collector stops; set `storage` to an extension such as ocems_storage")
		outbox = store.NewMemory()
	} else {
		if e.storage, err = storageClient(ctx, host, *e.cfg.Storage, e.set.ID); err != nil {
			return err
		}
		outbox = outboxOf(e.storage)
	}
	if e.cfg.AuditFile == "" {
		log.Warn("no audit_file is set: final outcomes go to the log only")
	} else {
		if e.trail, err = audit.Open(e.cfg.AuditFile); err != nil {
			return fmt.Errorf("audit_file: %w", err)
		}
		if damage := e.trail.Damage(); damage != "" {
			log.Error(damage)
		}
		e.backlog = &audit.Backlog{Trail: e.trail}
	}
	e.delivery, err = delivery.New(ctx, delivery.Config{
		Endpoint: e.cfg.Endpoint, Client: client, Store: outbox, Trail: e.trail, Lookup: e.lookup,
		Logger:   slog.New(zapslog.NewHandler(log.Core(), zapslog.AddStacktraceAt(slog.Level(100)))),
		OnResult: e.onResult, OnTry: e.onTry, OnHealth: func(err error) { e.onHealth(host, err) },
		Coalesce: orNoWait(e.cfg.Coalesce), Spread: orNoWait(e.cfg.Spread),
		InitialBackoff: e.cfg.InitialBackoff, MaxBackoff: e.cfg.MaxBackoff, HoldInterval: e.cfg.HoldInterval,
		MaxConcurrency: e.cfg.MaxConcurrency, DryRun: e.cfg.DryRun,
	})
	if err != nil {
		return err
	}
	if e.gauges, err = e.telemetry.Observe(e.observe); err != nil {
		return err
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.unwatch = cancel
	e.watching.Go(func() {
		e.registry.Watch(watch, e.cfg.DevicesFileInterval, func() {
			log.Info("the devices_file was read again", zap.Int("devices", len(e.registry.Devices())))
			e.delivery.Retry()
		}, func(err error) { log.Error("the devices of before stay in force", zap.Error(err)) })
	})
	return nil
}

// Shutdown sends nothing more. What waits stays in the storage.
func (e *ocemsExporter) Shutdown(ctx context.Context) error {
	var errs []error
	if e.unwatch != nil {
		e.unwatch()
		e.watching.Wait()
	}
	if e.delivery != nil {
		ctx, cancel := context.WithTimeout(ctx, closeWithin)
		errs = append(errs, e.delivery.Close(ctx))
		cancel()
	}
	if e.gauges != nil {
		errs = append(errs, e.gauges.Unregister())
	}
	if e.trail != nil {
		errs = append(errs, e.backlog.Append(), e.trail.Close())
	}
	if e.storage != nil {
		errs = append(errs, e.storage.Close(ctx))
	}
	e.unwatch, e.gauges, e.trail, e.backlog, e.storage = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

func orNoWait(d time.Duration) time.Duration {
	if d == 0 {
		return delivery.NoWait
	}
	return d
}

func (e *ocemsExporter) lookup(id string) (delivery.Target, bool) {
	d, ok := e.registry.Device(id)
	if !ok {
		return delivery.Target{}, false
	}
	return delivery.Target{StationID: d.StationID, Latitude: d.Latitude, Longitude: d.Longitude, Sealer: d}, true
}

func (e *ocemsExporter) onResult(o audit.Outcome, readings int) {
	if readings == 0 { // a note of the trail about itself
		return
	}
	e.telemetry.Readings.Add(context.Background(), int64(readings), metric.WithAttributes(e.telemetry.Exporter, attribute.String("outcome", string(o))))
}

func (e *ocemsExporter) onTry(took time.Duration, ok bool) {
	e.telemetry.Attempts.Add(context.Background(), 1, metric.WithAttributes(e.telemetry.Exporter, attribute.Bool("ok", ok)))
	e.telemetry.RequestDuration.Record(context.Background(), took.Seconds(), metric.WithAttributes(e.telemetry.Exporter))
}

func (e *ocemsExporter) observe() metadata.Observed {
	s := e.delivery.Stats()
	o := metadata.Observed{Slots: int64(s.Slots), Held: map[string]int64{}, Skew: s.Skew.Seconds()}
	for _, reason := range delivery.HoldReasons() { // also those of no device: an alert needs the 0
		o.Held[reason] = int64(s.HeldFor[reason])
	}
	if !s.Oldest.IsZero() {
		o.Oldest = time.Since(s.Oldest).Seconds()
	}
	return o
}

// onHealth reports the transitions only, and never as permanent: nothing is lost while a person mends it.
func (e *ocemsExporter) onHealth(host component.Host, err error) {
	e.mu.Lock()
	changed := e.trouble != (err != nil)
	e.trouble = err != nil
	e.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		componentstatus.ReportStatus(host, componentstatus.NewRecoverableErrorEvent(err))
	default:
		componentstatus.ReportStatus(host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

const mostSaid = 10_000 // names remembered, so that a flood of series takes no memory

// once logs the first time that a key is seen.
func (e *ocemsExporter) once(level zapcore.Level, key, text string, fields ...zap.Field) {
	e.mu.Lock()
	first := !e.said[key] && len(e.said) < mostSaid
	if first {
		e.said[key] = true
	}
	e.mu.Unlock()
	if first {
		e.set.Logger.Log(level, text, fields...)
	}
}
