package ocemsexporter

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"

	"github.com/ocems-io/ocems/exporter/ocemsexporter/internal/metadata"
)

// NewFactory makes the factory of the exporter `ocems`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type, createDefaultConfig, exporter.WithMetrics(createMetrics, metadata.MetricsStability))
}

func createMetrics(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	telemetry, err := metadata.NewTelemetry(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &ocemsExporter{cfg: cfg.(*Config), set: set, telemetry: telemetry, said: map[string]bool{}}, nil
}
