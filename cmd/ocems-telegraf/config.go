package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/template"
	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
)

// block is one [[outputs.ocems]].
type block struct {
	plugin *ocems.OCEMS
	line   int
	alias  string
	level  telegraf.LogLevel
}

// hostOptions are Telegraf's common keys of outputs. Its loader accepts them, but this program has no buffer and no filter to
// which they could apply.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator",
	"namedrop", "namedrop_separator", "fieldpass", "fielddrop", "fieldinclude",
	"fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude", "metricpass", "metric_batch_size", "metric_buffer_limit",
	"flush_interval", "flush_jitter", "startup_error_behavior", "labels"}

const noStores = "secret stores are not available to an external plugin; use ${VARIABLE} or a key that ends with _file"

// load reads a file that has only [[outputs.ocems]], with Telegraf's own loader. Before that it checks for mistakes that the
// loader ignores or reports without the line.
func load(data []byte, file string) ([]block, error) {
	tables, err := tablesOf(data)
	if err != nil {
		return nil, err
	}
	var found mistakes
	for _, t := range tables {
		found.block(t)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	c := config.NewConfig()
	c.Agent.OmitHostname = true
	if err := c.LoadConfigData(data, file); err != nil {
		if missing := new(template.MissingRequiredError); errors.As(err, &missing) { // the rest of the error may have a value
			return nil, fmt.Errorf("%s%w", whereIs("{"+missing.Variable, data), missing)
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "error parsing ocems array, "))
	}
	if err := c.LinkSecrets(); err != nil {
		return nil, fmt.Errorf("%s%w: %s", whereIs("@{", data), err, noStores)
	}
	var blocks []block
	for i, o := range c.Outputs {
		b := block{plugin: o.Output.(*ocems.OCEMS), line: tables[i].Line, alias: o.Config.Alias, level: telegraf.LogLevelFromString(o.Config.LogLevel)}
		if b.level == telegraf.None && o.Config.LogLevel != "" {
			found.add(lineOf(tables[i].Fields["log_level"]), "log_level: %q is unknown; nearest: %s", o.Config.LogLevel,
				strings.Join(spec.Nearest(o.Config.LogLevel, []string{"error", "warn", "info", "debug", "trace"}), ", "))
		}
		blocks = append(blocks, b)
	}
	return blocks, found.err()
}

// tablesOf returns the blocks with their lines, which Telegraf's loader does not keep.
func tablesOf(data []byte) ([]*ast.Table, error) {
	root, err := toml.Parse(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(root.Fields)) {
		if key != "outputs" {
			return nil, fmt.Errorf("line %d: %q does not belong here; only [[outputs.%s]] does", lineOf(root.Fields[key]), key, name)
		}
	}
	if group, ok := root.Fields["outputs"].(*ast.Table); ok {
		for _, key := range slices.Sorted(maps.Keys(group.Fields)) {
			if key != name {
				return nil, fmt.Errorf("line %d: [[outputs.%s]] does not belong here; only [[outputs.%s]] does", lineOf(group.Fields[key]), key, name)
			}
		}
		if tables, ok := group.Fields[name].([]*ast.Table); ok {
			return tables, nil
		}
	}
	return nil, fmt.Errorf("there is no [[outputs.%s]]", name)
}

type mistake struct {
	line int
	text string
}

type mistakes []mistake

func (m *mistakes) add(line int, format string, args ...any) {
	*m = append(*m, mistake{line, fmt.Sprintf(format, args...)})
}

// err returns all mistakes, in file order.
func (m mistakes) err() error {
	slices.SortFunc(m, func(a, b mistake) int { return cmp.Or(a.line-b.line, strings.Compare(a.text, b.text)) })
	var errs []error
	for _, x := range m {
		errs = append(errs, fmt.Errorf("line %d: %s", x.line, x.text))
	}
	return errors.Join(errs...)
}

func (m *mistakes) block(t *ast.Table) {
	own := map[string]any{}
	for key, v := range t.Fields {
		switch {
		case slices.Contains(hostOptions, key):
			m.add(lineOf(v), "%q is Telegraf's own: set it in the [[outputs.execd]] block", key)
		case key == "alias" || key == "log_level":
			kv, _ := v.(*ast.KeyValue)
			if kv == nil || reflect.TypeOf(kv.Value) != reflect.TypeFor[*ast.String]() {
				m.add(lineOf(v), "%s: the value is not a string", key)
			}
		default:
			own[key] = v
		}
	}
	m.unknown(own, reflect.TypeFor[ocems.OCEMS]())
}

// unknown reports keys that the options do not have, with the nearest valid keys.
func (m *mistakes) unknown(fields map[string]any, options reflect.Type) {
	known := keys(options)
	for key, v := range fields {
		field, ok := known[key]
		if !ok {
			m.add(lineOf(v), "unknown key %q; nearest: %s", key, strings.Join(spec.Nearest(key, slices.Sorted(maps.Keys(known))), ", "))
			continue
		}
		if field.Kind() != reflect.Slice {
			continue
		}
		entry := field.Elem()
		if entry.Kind() == reflect.Pointer {
			entry = entry.Elem()
		}
		if entry.Kind() != reflect.Struct {
			continue
		}
		tables, ok := v.([]*ast.Table)
		if !ok {
			m.add(lineOf(v), "%s is a list: write [[...%s]]", key, key)
		}
		for _, sub := range tables {
			m.unknown(sub.Fields, entry)
		}
	}
}

// keys are the TOML keys of a struct and of those embedded in it.
func keys(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("toml")
		switch {
		case f.Anonymous && tag == "":
			maps.Copy(out, keys(f.Type))
		case f.IsExported() && tag != "" && tag != "-":
			out[tag] = f.Type
		}
	}
	return out
}

func lineOf(v any) int {
	switch v := v.(type) {
	case *ast.KeyValue:
		return v.Line
	case *ast.Table:
		return v.Line
	case []*ast.Table:
		return v[0].Line
	}
	return 0
}

// whereIs is the first line with a text outside comments; it is empty for a text from a variable.
func whereIs(text string, data []byte) string {
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if strings.Contains(line, text) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			return fmt.Sprintf("line %d: ", n)
		}
	}
	return ""
}
