package hostconfig

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"time"

	"github.com/influxdata/telegraf/config"
	"go.opentelemetry.io/collector/component"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// Host is a program that reports to the board.
type Host string

// The hosts. External is the output as an external plugin of an unmodified Telegraf.
const (
	Telegraf  Host = "Telegraf"
	External  Host = "ocems-telegraf"
	Collector Host = "OpenTelemetry collector"
)

// Output is one [[outputs.ocems]], one exporter `ocems` or one processor `ocems_slot`.
type Output struct {
	Name   string // outputs.ocems or exporters.ocems/name
	Where  string // file:line
	Host   Host
	Slots  bool    // a processor: it does not deliver to the board
	Behind []Stage // the components behind a processor

	Endpoint  string
	DryRun    bool
	Signature string // signature_time
	Names     registry.Config
	Client    Client
	State     *State // open windows and waiting slots; nil: in memory
	AuditFile string // "" for none
	Rules     slot.Options
	Align     bool
	Buffer    *Buffer // Telegraf's, before the output

	Faults faults
}

// Stage is a processor or an exporter that gets a processor's slots.
type Stage struct {
	Pipeline, Kind string // Kind is processors or exporters
	ID             component.ID
	Where          string         // file:line of an exporter's sending_queue
	Keys           map[string]any // of an exporter
}

// Buffer has the settings of Telegraf's buffer.
type Buffer struct {
	Flush, Jitter time.Duration // flush_interval, flush_jitter
	Interval      time.Duration // between two collections
	Limit, Batch  int
}

// State is where a host keeps its state on disk.
type State struct {
	Key       string // of the configuration, such as state_directory
	Directory string
	File      string // path of the bbolt file
	Create    bool   // the host makes the directory
}

// Client has the connection settings of the host.
type Client struct {
	Timeout        time.Duration
	TimeoutKey     string
	Proxy          string // URL; may hold a password
	SystemProxy    bool   // use HTTPS_PROXY, HTTP_PROXY and NO_PROXY
	LocalAddress   string
	TLS            func() (*tls.Config, error) // by the host's own code; nil for the default
	CAKey, NameKey string                      // keys of the authority's file and of the server's name
}

func (o *Output) takeExporter(c *ocemsexporter.Config) *component.ID {
	o.Endpoint, o.DryRun, o.Signature, o.Align, o.AuditFile, o.Rules, o.Names = c.Endpoint, c.DryRun, c.SignatureTime, c.Align, c.AuditFile, c.Rules(), c.Config
	o.Client = Client{Timeout: c.HTTP.Timeout, TimeoutKey: "http.timeout", Proxy: c.HTTP.ProxyURL, SystemProxy: c.HTTP.ProxyURL == "",
		TLS:   func() (*tls.Config, error) { return c.HTTP.TLS.LoadTLSConfig(context.Background()) },
		CAKey: "http.tls.ca_file", NameKey: "http.tls.server_name_override"}
	return c.Storage
}

func (o *Output) takeProcessor(c *ocemsslotprocessor.Config) *component.ID {
	o.Slots, o.AuditFile, o.Rules, o.Names = true, c.AuditFile, c.Rules(), c.Config
	return c.Storage
}

// takePlugin takes over the configuration of Telegraf's output after its Init.
func (o *Output) takePlugin(c *ocems.OCEMS) {
	o.Endpoint, o.DryRun, o.Signature, o.Align, o.AuditFile, o.Rules = c.Endpoint, c.DryRun, c.SignatureTime, c.Align, c.AuditFile, c.Rules()
	if c.StateDirectory != "" {
		o.State = &State{Key: "state_directory", Directory: c.StateDirectory, File: filepath.Join(c.StateDirectory, "state.db"), Create: true}
	}
	o.Names = registry.Config{PublicKey: reveal(&c.PublicKey), PublicKeyFile: c.PublicKeyFile, DevicesFile: c.DevicesFile, Common: c.Common, Words: registry.Telegraf}
	for _, d := range c.Devices {
		device := d.DeviceConfig
		device.TokenID, device.PublicKey = reveal(&d.TokenID), reveal(&d.PublicKey)
		o.Names.Devices = append(o.Names.Devices, device)
	}
	o.Client = Client{Timeout: time.Duration(c.Timeout), TimeoutKey: "timeout", Proxy: c.HTTPProxyURL, SystemProxy: c.UseSystemProxy, LocalAddress: c.LocalAddress,
		TLS: c.TLSConfig, CAKey: "tls_ca", NameKey: "tls_server_name"}
	if c.UseSystemProxy {
		o.Client.Proxy = "" // Telegraf then uses the environment
	}
}

func reveal(s *config.Secret) registry.Secret {
	b, err := s.Get()
	if err != nil {
		return ""
	}
	defer b.Destroy()
	return registry.Secret(b.String())
}

// Registry has the devices without their secrets, so it works without the service's environment.
func (o *Output) Registry() (*registry.Registry, error) {
	cfg := o.Names
	cfg.NamesOnly = true
	return registry.New(cfg)
}
