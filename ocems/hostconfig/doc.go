// Package hostconfig reads what a host was configured with, as far as it is about OCEMS: from Telegraf's TOML, from the
// file of the external plugin ocems-telegraf, and from the collector's YAML. Environment variables are put in as the host
// does it, and every mistake is found that the host would find, in the host's words. Nothing is written or sent.
package hostconfig
