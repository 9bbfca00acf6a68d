package hostconfig

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/influxdata/telegraf/config"
	"go.opentelemetry.io/collector/component"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// This file alone knows the fields of the configurations that the components and the plugin export.

// takeExporter takes over the configuration of the exporter `ocems`, and returns its storage.
func (o *Output) takeExporter(from component.Config) *component.ID {
	c := from.(*ocemsexporter.Config)
	o.Endpoint, o.DryRun, o.AuditFile, o.Stamp, o.Names = c.Endpoint, c.DryRun, c.AuditFile, stamp(c.Stamp), c.Config
	t := c.HTTP.TLS
	o.Client = Client{Timeout: c.HTTP.Timeout, Proxy: c.HTTP.ProxyURL, SystemProxy: c.HTTP.ProxyURL == "",
		CAFile: t.CAFile, CAPEM: string(t.CAPem), CAKey: "http.tls.ca_file", SystemCAs: t.IncludeSystemCACertsPool,
		CertFile: t.CertFile, CertPEM: string(t.CertPem), KeyFile: t.KeyFile, KeyPEM: registry.Secret(t.KeyPem),
		ServerName: t.ServerName, ServerNameKey: "http.tls.server_name_override", SkipVerify: t.InsecureSkipVerify,
		MinVersion: t.MinVersion, MaxVersion: t.MaxVersion}
	return c.Storage
}

// stamp is that of a configuration, also in place of what is refused.
func stamp(given string) string {
	if given == "start" {
		return given
	}
	return "end"
}

// collectorSlots is what of the configuration of an ocems_slot matters here.
type collectorSlots struct {
	stamp, auditFile string
	storage          *component.ID
}

func slotsOf(from component.Config) collectorSlots {
	c := from.(*ocemsslotprocessor.Config)
	return collectorSlots{stamp(c.Stamp), c.AuditFile, c.Storage}
}

// storageOf is the directory of an ocems_storage, and whether it makes that.
func storageOf(from component.Config) (directory string, create bool) {
	c := from.(*ocemsstorage.Config)
	return c.Directory, c.CreateDirectory
}

// telegrafOutput is what of the plugin's configuration matters beyond the output's own fields.
type telegrafOutput struct {
	align bool
	grace time.Duration // 0 for the default
}

// takePlugin takes over the configuration of Telegraf's output after its Init.
func (o *Output) takePlugin(c *ocems.OCEMS) telegrafOutput {
	o.Endpoint, o.DryRun, o.AuditFile, o.Stamp = c.Endpoint, c.DryRun, c.AuditFile, stamp(c.Stamp)
	if c.StateDirectory != "" {
		o.Outbox = &Store{Key: "state_directory", Directory: c.StateDirectory, File: filepath.Join(c.StateDirectory, "state.db"), Create: true}
	}
	o.Names = registry.Config{PublicKey: reveal(&c.PublicKey), PublicKeyFile: c.PublicKeyFile, DevicesFile: c.DevicesFile, Words: registry.Telegraf}
	for _, d := range c.Devices {
		device := d.DeviceConfig
		device.TokenID, device.PublicKey = reveal(&d.TokenID), reveal(&d.PublicKey)
		o.Names.Devices = append(o.Names.Devices, device)
	}
	o.Client = Client{Timeout: time.Duration(c.Timeout), Proxy: c.HTTPProxyURL, SystemProxy: c.UseSystemProxy, LocalAddress: c.LocalAddress, CAKey: "tls_ca",
		ServerNameKey: "tls_server_name", MinVersion: c.TLSMinVersion}
	if c.UseSystemProxy {
		o.Client.Proxy = "" // Telegraf obeys the environment then
	}
	if c.Enable == nil || *c.Enable {
		o.Client.CAFile, o.Client.CertFile, o.Client.KeyFile, o.Client.KeyPassword = c.TLSCA, c.TLSCert, c.TLSKey, registry.Secret(c.TLSKeyPwd)
		o.Client.ServerName, o.Client.SkipVerify = c.ServerName, c.InsecureSkipVerify
	}
	return telegrafOutput{c.Align, c.Grace.Duration}
}

func reveal(s *config.Secret) registry.Secret {
	b, err := s.Get()
	if err != nil {
		return ""
	}
	defer b.Destroy()
	return registry.Secret(b.String())
}

// eachSecret visits the secrets of a plugin's configuration, by their keys, such as device[0].token_id.
func eachSecret(at string, v reflect.Value, visit func(key string, s *config.Secret)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachSecret(at, v.Elem(), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachSecret(fmt.Sprintf("%s[%d].", strings.TrimSuffix(at, "."), i), v.Index(i), visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := f.Tag.Get("toml")
			if !f.IsExported() || key == "-" || key == "" && !f.Anonymous {
				continue
			}
			if s, ok := v.Field(i).Addr().Interface().(*config.Secret); ok {
				visit(at+key, s)
			} else if key == "" {
				eachSecret(at, v.Field(i), visit)
			} else {
				eachSecret(at+key+".", v.Field(i), visit)
			}
		}
	}
}
