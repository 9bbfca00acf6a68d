// Package ocemsexporter is the collector's exporter of type `ocems`. It maps metrics to parameters of registered devices,
// averages their readings to slots, and delivers every slot to the board's server. Finished slots of the ocems_slot
// processor go directly to delivery.
package ocemsexporter
