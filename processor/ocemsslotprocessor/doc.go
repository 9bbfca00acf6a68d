// Package ocemsslotprocessor turns the gauges and sums of a pipeline into the slots of the OCEMS API: one value a series
// and 15-minute window, or 30-second window during calibration. It keeps what it holds through restarts and failures of
// the next consumer, and never sends a partial window.
package ocemsslotprocessor
