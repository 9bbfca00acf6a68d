// Package registry holds the plant's devices with their credentials, and maps a metric of the host to the station, device,
// parameter key and unit key that the board has registered (spec 2.1, 3.1, 3.2).
//
// Names come from the configuration, or from the metric itself: its attribute ocems.device.id (ocems_device_id in Telegraf)
// together with a name that is a catalogue key. New returns all mistakes of a configuration together. Hubs have thousands of
// devices in a devices_file, which is read again when it changes. Tokens and keys are never printed.
package registry
