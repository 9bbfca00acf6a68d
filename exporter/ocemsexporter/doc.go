// Package ocemsexporter is the collector's exporter of type `ocems`: it names metrics as parameters of registered devices,
// averages their readings to slots, and delivers every slot to the board's server. Finished slots of the ocems_slot
// processor go straight to delivery.
package ocemsexporter
