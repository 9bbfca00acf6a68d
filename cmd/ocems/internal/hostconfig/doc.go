// Package hostconfig reads the part of a host's configuration that concerns OCEMS: Telegraf's TOML, the file of the
// external plugin ocems-telegraf, and the collector's YAML. The host's own code reads the files, so faults have the host's
// own words. This package adds the line to edit and the nearest valid key, and stubs for plugins that are not in this
// program. It writes and sends nothing.
package hostconfig
