// Package ocemsslotprocessor is the collector's processor of type `ocems_slot`. It replaces the readings of registered
// devices in a pipeline by slots of the OCEMS API: one value per parameter and 15-minute window, or 30-second window during
// calibration. All other data passes on unchanged. Readings and slots survive restarts and failures of the next consumer.
// A partial window is never sent.
package ocemsslotprocessor
