package ocemsslotprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

// NewFactory returns the factory of the ocems_slot processor.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type, createDefaultConfig,
		processor.WithMetrics(createMetrics, metadata.MetricsStability))
}

func createDefaultConfig() component.Config {
	return &Config{
		Stamp:              "end",
		Grace:              30 * time.Second,
		CalibrationGrace:   10 * time.Second,
		Settle:             5 * time.Second,
		MaxSkew:            time.Minute,
		MinSamples:         1,
		MaxSeries:          100000,
		CheckpointInterval: 10 * time.Second,
	}
}

func createMetrics(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return newProcessor(set, cfg.(*Config), next)
}
