// Package ocemsslotprocessor is the collector's processor of type `ocems_slot`: it takes the readings of registered
// devices out of a pipeline and hands on slots of the OCEMS API in their place, one value a parameter and 15-minute
// window, or 30-second window during calibration. What is no device's parameter passes on unchanged. It keeps what it
// holds through restarts and failures of the next consumer, and never sends a partial window.
package ocemsslotprocessor
