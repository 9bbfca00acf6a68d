// Package hosts tests that all hosts report the same: Telegraf's output, the external plugin, the collector's exporter alone,
// and processor and exporter together. Each case is written once, independent of the host. It runs with the built programs
// and with adapters inside this process.
package hosts
