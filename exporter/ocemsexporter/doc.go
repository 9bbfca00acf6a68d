// Package ocemsexporter is the collector's exporter of type `ocems`: it names the finished slots of the ocems_slot
// processor as parameters of registered devices, and delivers every one of them to the board's server.
package ocemsexporter
