// Package metadata holds the processor's type and stability, as metadata.yaml declares them.
package metadata

import "go.opentelemetry.io/collector/component"

// Type is the processor's name in a configuration.
var Type = component.MustNewType("ocems_slot")

const (
	// ScopeName is the name of the meter's scope.
	ScopeName = "github.com/ocems-io/ocems/processor/ocemsslotprocessor"
	// MetricsStability is the stability level of the processor.
	MetricsStability = component.StabilityLevelAlpha
	// Prefix is the prefix of the names of its metrics.
	Prefix = "otelcol_processor_ocems_slot_"
)
