package hostconfig

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/ocems-io/ocems/ocems/spec"
)

// page is a parsed file of Telegraf's.
type page struct {
	name string
	root *ast.Table
	own  bool // of ocems-telegraf
}

// plugin is one table of a plugin, and where it is.
type plugin struct {
	name, where string
	*ast.Table
}

// all returns the tables of a kind, such as inputs, ordered by name.
func (t *telegrafReader) all(kind string) (list []plugin) {
	for _, p := range t.pages {
		for _, group := range tablesOf(p.root, kind) {
			for _, name := range slices.Sorted(maps.Keys(group.Fields)) {
				for _, table := range tablesOf(group, name) {
					list = append(list, plugin{kind + "." + name, fmt.Sprintf("%s:%d", p.name, table.Line), table})
				}
			}
		}
	}
	return list
}

// decode reads the keys for which v has fields. Telegraf's loader reports the faults.
func (p plugin) decode(v any) {
	c := toml.DefaultConfig
	c.MissingField = func(reflect.Type, string) error { return nil }
	_ = c.UnmarshalTable(p.Table, v)
}

// modbusField is one field of an inputs.modbus.
type modbusField struct {
	Name, Measurement, Register string
	DataType                    string `toml:"data_type"`
	Type, Output                string // of the request and metric styles
	Scale                       float64
}

type modbus struct {
	NameOverride           string `toml:"name_override"`
	ExcludeRegisterTypeTag bool   `toml:"exclude_register_type_tag"`
	Coils                  []modbusField
	DiscreteInputs         []modbusField `toml:"discrete_inputs"`
	HoldingRegisters       []modbusField `toml:"holding_registers"`
	InputRegisters         []modbusField `toml:"input_registers"`
	Request, Metric        []struct {
		Register, Measurement string
		Fields                []modbusField
	}
}

// registers are all fields, each with the kind of its register.
func (m *modbus) registers() (list []modbusField) {
	for kind, fields := range map[string][]modbusField{"coil": m.Coils, "discrete": m.DiscreteInputs, "holding": m.HoldingRegisters, "input": m.InputRegisters} {
		for _, f := range fields {
			f.Register = kind
			list = append(list, f)
		}
	}
	for _, r := range slices.Concat(m.Request, m.Metric) {
		for _, f := range r.Fields {
			f.Register, f.Measurement = cmp.Or(f.Register, r.Register, "holding"), cmp.Or(r.Measurement, f.Measurement)
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b modbusField) int { return cmp.Compare(a.Register, b.Register) })
	return list
}

// cut reports whether Telegraf turns the scaled value back into an integer, and how to prevent it.
func (r modbusField) cut() (cure string, cut bool) {
	integer := func(s string) bool { return strings.HasPrefix(s, "INT") || strings.HasPrefix(s, "UINT") }
	switch {
	case r.Scale == 0 || r.Scale == 1:
	case strings.HasPrefix(r.DataType, "INT8") || strings.HasPrefix(r.DataType, "UINT8"):
		return `set configuration_type = "request", with output = "FLOAT64" for the field`, true
	case strings.HasPrefix(r.DataType, "UINT"):
		return `set data_type = "UFIXED"`, true
	case strings.HasPrefix(r.DataType, "INT"):
		return `set data_type = "FIXED"`, true
	case r.DataType == "" && integer(r.Output):
		return `set output = "FLOAT64", or leave output out`, true
	}
	return "", false
}

// group is the key by which an input splits its fields into metrics.
func (m *modbus) group(r modbusField) string {
	if m.ExcludeRegisterTypeTag {
		return r.Measurement
	}
	return r.Measurement + "\x00" + r.Register
}

type enumMapping struct {
	Tag, Field, Dest string
	Tags, Fields     []string
	Default          any
	ValueMappings    map[string]any `toml:"value_mappings"`
}

// inputs warns of inputs and processors that lose or change readings before they reach the output.
func (t *telegrafReader) inputs() {
	warn := func(p plugin, do, format string, args ...any) {
		t.cfg.Faults.fault(Warning, do, "%s: %s: %s", p.where, p.name, fmt.Sprintf(format, args...))
	}
	reported := t.reported()
	var flags []string // fields that become the flag
	for _, p := range t.all("processors") {
		var x struct{ Mapping []enumMapping }
		if p.name != "processors.enum" {
			continue
		}
		p.decode(&x)
		for _, m := range x.Mapping {
			from := slices.DeleteFunc(append(append(m.Fields, m.Tags...), m.Field, m.Tag), func(s string) bool { return s == "" })
			if dest := cmp.Or(m.Dest, strings.Join(from, "")); dest != "ocems_flag" {
				continue
			}
			flags = append(append(flags, m.Fields...), m.Field)
			whole, isText := m.Default.(string)
			flag, err := spec.ParseFlag(whole)
			switch {
			case m.Default == nil && !t.guarded():
				warn(p, `set default = "not mapped": it is not a valid flag, so such a reading is refused and recorded in the audit trail`,
					"the mapping of %s to ocems_flag has no default: an unmapped value gives no flag, and its readings count as U", strings.Join(from, ", "))
			case m.Default != nil && isText && err == nil:
				warn(p, `set default = "not mapped": it is not a valid flag, so such a reading is refused and recorded in the audit trail`,
					"the mapping of %s to ocems_flag has the default %q: readings with an unmapped value count as %s", strings.Join(from, ", "), whole, flag)
			}
		}
	}
	for _, p := range t.all("inputs") {
		if kv, ok := p.Fields["csv_skip_errors"].(*ast.KeyValue); ok && kv.Value.Source() == "true" {
			warn(p, "remove csv_skip_errors: the log then names each such row", "csv_skip_errors is set: unreadable rows are lost, and only --debug shows them")
		}
		switch p.name {
		case "inputs.modbus":
			var m modbus
			p.decode(&m)
			list := m.registers()
			for _, r := range list {
				if cure, cut := r.cut(); cut && reported(r.Name) {
					warn(p, cure, "%q is an integer with scale = %v: Telegraf makes an integer of the scaled value, so 7.4 becomes 7", r.Name, r.Scale)
				}
			}
			for _, r := range list {
				if !slices.Contains(flags, r.Name) {
					continue
				}
				inGroup := func(x modbusField) bool { return m.group(x) == m.group(r) && reported(x.Name) }
				elsewhere := func(x modbusField) bool { return m.group(x) != m.group(r) && reported(x.Name) }
				if !slices.ContainsFunc(list, inGroup) && slices.ContainsFunc(list, elsewhere) {
					do := "set exclude_register_type_tag = true: the registers of one slave are then one metric"
					if i := slices.IndexFunc(list, elsewhere); list[i].Measurement != r.Measurement {
						do = "give its registers one measurement, and set exclude_register_type_tag = true: they are then one metric"
					}
					warn(p, do, "ocems_flag comes from %q, which is in a separate metric (%s registers) without a reported field: the flag reaches no reading", r.Name, r.Register)
				}
			}
		case "inputs.mqtt_consumer":
			if format := text(p.Table, "data_format"); slices.Contains([]string{"json", "json_v2", "value", "csv"}, format) && !hasTime(p.Table) {
				warn(p, "take the time from the message, such as timestamp_path of json_v2, or publish without the retain flag",
					"messages get their time of arrival: the broker sends a retained message again at each connection, and it counts as a new reading even if the analyser is silent")
			}
		}
	}
}

// reported tells whether a field is mapped. If a device has no mapping here, any key of the catalogue may be.
func (t *telegrafReader) reported() func(field string) bool {
	mapped, any := map[string]bool{}, false
	for _, o := range t.cfg.Outputs {
		any = any || o.Names.DevicesFile != ""
		for _, d := range o.Names.Devices {
			any = any || len(d.Parameters) == 0
			for _, p := range d.Parameters {
				mapped[p.Field] = true
			}
		}
	}
	return func(field string) bool { return mapped[field] || any && spec.IsParameter(field) }
}

// guarded reports whether the filters of the outputs let only metrics with a flag pass. With a script and a namepass the
// output may get only the script's metrics, which cannot be checked here; that counts as guarded.
func (t *telegrafReader) guarded() bool {
	some := false
	script := slices.ContainsFunc(t.all("processors"), func(p plugin) bool { return p.name == "processors.starlark" })
	for _, p := range t.all("outputs") {
		external := p.name == "outputs.execd" && strings.Contains(text(p.Table, "command"), "ocems-telegraf")
		if p.name != "outputs.ocems" && !external || t.isOwnFile(p) {
			continue
		}
		pass := tablesOf(p.Table, "tagpass")
		if script && p.Fields["namepass"] != nil {
			some = true
			continue
		}
		if !slices.ContainsFunc(pass, func(t *ast.Table) bool { return t.Fields["ocems_flag"] != nil }) && !strings.Contains(text(p.Table, "metricpass"), "ocems_flag") {
			return false
		}
		some = true
	}
	return some
}

func (t *telegrafReader) isOwnFile(p plugin) bool {
	return slices.ContainsFunc(t.pages, func(x page) bool { return x.own && strings.HasPrefix(p.where, x.name+":") })
}

// text is the value of a key as written; "" if it is not set.
func text(t *ast.Table, key string) string {
	kv, _ := t.Fields[key].(*ast.KeyValue)
	if kv == nil {
		return ""
	}
	return strings.Trim(kv.Value.Source(), `"'`)
}

// hasTime reports whether a parser's keys name a time in the message.
func hasTime(t *ast.Table) bool {
	for key := range t.Fields {
		if strings.Contains(key, "timestamp") || strings.HasSuffix(key, "time_key") {
			return true
		}
		if slices.ContainsFunc(tablesOf(t, key), hasTime) {
			return true
		}
	}
	return false
}
