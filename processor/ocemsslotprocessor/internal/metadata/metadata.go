// Package metadata holds the processor's type and stability, as metadata.yaml declares them.
package metadata

import "go.opentelemetry.io/collector/component"

// Type is the processor's name in a configuration.
var Type = component.MustNewType("ocems_slot")

const (
	// ScopeName is the meter's.
	ScopeName = "github.com/ocems-io/ocems/processor/ocemsslotprocessor"
	// MetricsStability is the processor's.
	MetricsStability = component.StabilityLevelAlpha
	// Prefix is what the names of its metrics begin with.
	Prefix = "otelcol_processor_ocems_slot_"
)
