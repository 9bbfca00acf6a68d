// Package hostconfig reads what a host was configured with, as far as it is about OCEMS: Telegraf's TOML, the file of the
// external plugin ocems-telegraf, and the collector's YAML. The host's own code reads the files: what it refuses is
// refused here, in its words. This package adds which line to edit and the nearest valid key, and stubs for plugins that
// are not in this program. Nothing is written or sent.
package hostconfig
