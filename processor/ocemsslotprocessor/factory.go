package ocemsslotprocessor

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/processor/ocemsslotprocessor/internal/metadata"
)

// NewFactory returns the factory of the ocems_slot processor. All instances of one id, one per pipeline, share an engine.
func NewFactory() processor.Factory {
	f := &factory{shared: map[component.Config]*shared{}}
	return processor.NewFactory(metadata.Type, createDefaultConfig, processor.WithMetrics(f.create, metadata.MetricsStability))
}

func (f *factory) create(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	set.Logger = set.Logger.WithOptions(zap.AddStacktrace(zap.DPanicLevel)) // an error is about the plant, so a stack trace does not help
	return f.instance(set, cfg.(*Config), next)
}
