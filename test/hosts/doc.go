// Package hosts tests that every host reports the same: Telegraf's output, the external plugin, the collector's exporter
// alone, and processor and exporter together. A case is written once, in words that belong to no host, and is carried
// out by the built programs and by the adapters in this process.
package hosts
