package registry

import "fmt"

// Words are a host's names of keys and attributes, so that an error uses the names of its configuration.
type Words struct {
	Devices    string // the key of the list of devices
	Parameters string // the key of a device's list of parameters
	Attributes string // the key of a parameter's attributes
	Attribute  string // one of them
	DeviceID   string // the attribute that names a metric's device
	Unit       string // the attribute that gives a metric's unit
	CAFile     string // the key of the authority's certificate
	ProxyURL   string // the key of the proxy
	NoField    string // what to do with `field` if metrics have no fields; otherwise ""
}

// The words of the hosts.
var (
	Collector = Words{"devices", "parameters", "attributes", "attribute", "ocems.device.id", "ocems.unit", "ca_file", "proxy_url",
		"metrics of the collector have no fields: leave it out"}
	Telegraf = Words{"device", "parameter", "tags", "tag", "ocems_device_id", "ocems_unit", "tls_ca",
		"http_proxy_url", ""}
)

// device returns the path of a device's key.
func (w Words) device(i int, key string) string { return fmt.Sprintf("%s[%d].%s", w.Devices, i, key) }

// parameter returns the path of a parameter's key within its device.
func (w Words) parameter(i int, key string) string {
	return fmt.Sprintf("%s[%d].%s", w.Parameters, i, key)
}
