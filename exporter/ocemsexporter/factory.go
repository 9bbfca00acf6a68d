package ocemsexporter

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
)

// NewFactory returns the factory of the exporter `ocems`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type, createDefaultConfig, exporter.WithMetrics(createMetrics, metadata.MetricsStability))
}

func createMetrics(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	telemetry, err := metadata.NewTelemetry(set.TelemetrySettings, set.ID)
	if err != nil {
		return nil, err
	}
	set.Logger = set.Logger.WithOptions(zap.AddStacktrace(zap.DPanicLevel)) // an error is about the plant or the board, so a stack trace does not help
	return &ocemsExporter{cfg: cfg.(*Config), set: set, telemetry: telemetry}, nil
}
