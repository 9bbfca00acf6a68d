// Package registry holds the plant's devices with their credentials, and says which device and parameter a metric of
// the host is: the station, device, parameter key and unit key that the board has registered (spec 2.1, 3.1, 3.2).
//
// Names come from the configuration, where New finds every mistake at once, or from the metric itself: its attribute
// ocems.device.id (ocems_device_id in Telegraf) with a name that is a catalogue key. Hubs keep thousands of devices in a
// devices_file, which is read again when it changes. Tokens and keys go in and are never printed.
package registry
