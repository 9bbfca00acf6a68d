package ocemsexporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
)

const (
	closeWithin = 5 * time.Second // how long Shutdown waits for requests in flight
	patience    = time.Minute     // an OTLP sender with default settings retries within this time
)

type ocemsExporter struct {
	cfg       *Config
	set       exporter.Settings
	telemetry *metadata.Telemetry

	engine  atomic.Pointer[engine.Engine]
	storage ocemsstorage.Store
}

func (e *ocemsExporter) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start opens the state and starts to deliver. It needs no server.
func (e *ocemsExporter) Start(ctx context.Context, host component.Host) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Shutdown(ctx))
		}
	}()
	log := e.set.Logger
	if e.cfg.HTTP.Timeout < options.ShortTimeout {
		log.Warn("http.timeout is short: the server is slow just after a quarter of an hour, and may have stored a request that timed out; set 30s or more",
			zap.Duration("timeout", e.cfg.HTTP.Timeout))
	}
	telemetry := e.set.TelemetrySettings
	telemetry.TracerProvider, telemetry.MeterProvider = nil, nil // no trace header in requests: the board expects exact headers
	client, err := e.cfg.HTTP.ToClient(ctx, host.GetExtensions(), telemetry)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	// Not set in the configuration, where its place depends on the collector's version. With an authenticator it stays 2.
	if t, bare := client.Transport.(*http.Transport); bare {
		t.MaxIdleConnsPerHost = e.cfg.MaxConcurrency // net/http keeps 2 connections; the other requests would each open a new one
	}
	if e.storage, err = ocemsstorage.OpenOrMemory(ctx, host, e.cfg.Storage, component.KindExporter, e.set.ID, log); err != nil {
		return err
	}
	core, err := engine.Open(ctx, engine.Config{
		Slots: e.cfg.Slots, Names: e.cfg.Config, Store: e.storage, Patience: patience,
		Logger:   slog.New(zapslog.NewHandler(log.Core(), zapslog.AddStacktraceAt(slog.Level(100)))),
		OnHealth: func(err error) { report(host, err) },
		Board:    &engine.Board{Delivery: e.cfg.Delivery, Client: client, OnResult: e.onResult, OnTry: e.onTry},
	})
	if err != nil {
		return err
	}
	e.engine.Store(core)
	return e.telemetry.Observe(core)
}

// Shutdown sends nothing more. Waiting slots and open windows stay in the storage.
func (e *ocemsExporter) Shutdown(ctx context.Context) error {
	errs := []error{e.telemetry.Close()}
	if core := e.engine.Swap(nil); core != nil {
		within, cancel := context.WithTimeout(ctx, closeWithin)
		errs = append(errs, core.Close(within))
		cancel()
	}
	if e.storage != nil {
		errs = append(errs, e.storage.Close())
	}
	e.storage = nil
	return errors.Join(errs...)
}

func (e *ocemsExporter) onResult(o audit.Outcome, readings int) {
	if readings == 0 { // the trail's note about itself
		return
	}
	e.telemetry.Result(o, readings)
}

func (e *ocemsExporter) onTry(took time.Duration, ok bool) {
	e.telemetry.Attempts.Add(context.Background(), 1, e.telemetry.Ok[ok])
	e.telemetry.RequestDuration.Record(context.Background(), took.Seconds(), e.telemetry.Own)
}

// report reports changes of health to the host. Trouble is always recoverable: no data is lost until a person corrects it.
func report(host component.Host, err error) {
	if err != nil {
		componentstatus.ReportStatus(host, componentstatus.NewRecoverableErrorEvent(err))
	} else {
		componentstatus.ReportStatus(host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}
