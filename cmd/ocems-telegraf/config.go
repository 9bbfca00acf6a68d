package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/outputs"
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

// load reads a file that holds [[outputs.ocems]] and nothing else.
func load(data []byte) (blocks []block, err error) {
	root, err := toml.Parse(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(root.Fields)) {
		if v := root.Fields[key]; key != "outputs" {
			return nil, fmt.Errorf("line %d: %q does not belong here; only [[outputs.%s]] does", lineOf(v), key, name)
		}
	}
	group, ok := root.Fields["outputs"].(*ast.Table)
	if !ok {
		return nil, fmt.Errorf("there is no [[outputs.%s]]", name)
	}
	for _, key := range slices.Sorted(maps.Keys(group.Fields)) {
		if v := group.Fields[key]; key != name {
			return nil, fmt.Errorf("line %d: [[outputs.%s]] does not belong here; only [[outputs.%s]] does", lineOf(v), key, name)
		}
	}
	tables, ok := group.Fields[name].([]*ast.Table)
	if !ok {
		return nil, fmt.Errorf("there is no [[outputs.%s]]", name)
	}
	var faults []error
	for _, t := range tables {
		b, err := read(t)
		faults = append(faults, err)
		blocks = append(blocks, b)
	}
	return blocks, errors.Join(faults...)
}

// hostOptions are those that Telegraf itself keeps for every output.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator",
	"namedrop", "namedrop_separator", "fieldpass", "fielddrop", "fieldinclude",
	"fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude", "metricpass", "metric_batch_size", "metric_buffer_limit",
	"flush_interval", "flush_jitter", "startup_error_behavior"}

func read(t *ast.Table) (b block, err error) {
	b = block{plugin: outputs.Outputs[name]().(*ocems.OCEMS), line: t.Line}
	var faults []error
	expandAll(t, &faults)
	for key, v := range t.Fields {
		if slices.Contains(hostOptions, key) {
			faults = append(faults, fmt.Errorf("line %d: %q is Telegraf's own: set it in the [[outputs.execd]] block", lineOf(v), key))
			delete(t.Fields, key)
		}
	}
	text := func(key string) (s string, line int) {
		v, ok := t.Fields[key]
		if !ok {
			return "", 0
		}
		delete(t.Fields, key)
		if kv, ok := v.(*ast.KeyValue); ok {
			if s, ok := kv.Value.(*ast.String); ok {
				return s.Value, kv.Line
			}
		}
		faults = append(faults, fmt.Errorf("line %d: %s: it is not a text", lineOf(v), key))
		return "", 0
	}
	b.alias, _ = text("alias")
	if level, line := text("log_level"); line != 0 {
		if b.level = telegraf.LogLevelFromString(level); b.level == telegraf.None {
			faults = append(faults, fmt.Errorf("line %d: log_level: %q is unknown; nearest: %s", line, level,
				strings.Join(spec.Nearest(level, []string{"error", "warn", "info", "debug", "trace"}), ", ")))
		}
	}
	unknown(t, reflect.TypeFor[ocems.OCEMS](), &faults)
	slices.SortFunc(faults, func(a, b error) int {
		return cmp.Or(cmp.Compare(lineIn(a), lineIn(b)), strings.Compare(a.Error(), b.Error()))
	})
	if err := errors.Join(faults...); err != nil {
		return b, err
	}
	if err := toml.UnmarshalTable(t, b.plugin); err != nil {
		return b, fmt.Errorf("in the block of line %d: %w", t.Line, err)
	}
	return b, nil
}

// unknown names keys that the options do not have, with the nearest that they have.
func unknown(t *ast.Table, options reflect.Type, faults *[]error) {
	fields := keys(options)
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	for key, v := range t.Fields {
		field, ok := fields[key]
		if !ok {
			*faults = append(*faults, fmt.Errorf("line %d: unknown key %q; nearest: %s", lineOf(v), key, strings.Join(spec.Nearest(key, names), ", ")))
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
			*faults = append(*faults, fmt.Errorf("line %d: %s is a list: write [[...%s]]", lineOf(v), key, key))
		}
		for _, sub := range tables {
			unknown(sub, entry, faults)
		}
	}
}

func lineIn(err error) (line int) {
	_, _ = fmt.Sscanf(err.Error(), "line %d:", &line)
	return line
}

// keys are the TOML keys of a struct and of those embedded in it.
func keys(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("toml")
		switch {
		case f.Anonymous && tag == "":
			for k, v := range keys(f.Type) {
				out[k] = v
			}
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

// expandAll expands the strings of a table. They are expanded as values, so that what a variable holds can neither end
// its string nor begin a key.
func expandAll(v any, faults *[]error) {
	switch v := v.(type) {
	case *ast.Table:
		for _, f := range v.Fields {
			expandAll(f, faults)
		}
	case []*ast.Table:
		for _, t := range v {
			expandAll(t, faults)
		}
	case *ast.KeyValue:
		before := len(*faults)
		expandAll(v.Value, faults)
		for i := before; i < len(*faults); i++ {
			(*faults)[i] = fmt.Errorf("line %d: %s: %w", v.Line, v.Key, (*faults)[i])
		}
	case *ast.Array:
		for _, x := range v.Value {
			expandAll(x, faults)
		}
	case *ast.String:
		s, err := expand(v.Value, os.LookupEnv)
		if err != nil {
			*faults = append(*faults, err)
		} else if strings.Contains(s, "@{") {
			*faults = append(*faults, errors.New("secret stores are Telegraf's; use ${VARIABLE} or a key that ends with _file"))
		} else if s != v.Value {
			v.Value, v.Data = s, []rune(strconv.Quote(s))
		}
	}
}

var (
	variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)
	lone     = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)$`)
)

// expand puts in the environment's ${VAR} and ${VAR:-default}. Every other $ is literal, but for what Telegraf's own
// configuration would have expanded: it would go to the board as a wrong token.
func expand(s string, lookup func(string) (string, bool)) (string, error) {
	if m := lone.FindStringSubmatch(s); m != nil {
		return "", fmt.Errorf("write ${%s}; $%s alone is not expanded", m[1], m[1])
	}
	rest := variable.ReplaceAllStringFunc(s, func(found string) string { return "=" + variable.FindStringSubmatch(found)[3] })
	if strings.Contains(rest, "${") {
		return "", errors.New("only ${VARIABLE} and ${VARIABLE:-default} are known; for a text with ${ in it, put it in a variable")
	}
	var missing error
	out := variable.ReplaceAllStringFunc(s, func(found string) string {
		parts := variable.FindStringSubmatch(found)
		if v, ok := lookup(parts[1]); ok && (v != "" || parts[2] == "") {
			return v
		}
		if parts[2] == "" && missing == nil {
			missing = fmt.Errorf("the environment variable %s is not set", parts[1])
		}
		return parts[3]
	})
	return out, missing
}
