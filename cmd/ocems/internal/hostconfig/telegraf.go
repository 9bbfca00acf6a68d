package hostconfig

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
)

// telegrafReader is one reading of Telegraf's files.
type telegrafReader struct {
	*reader
	agent     config.AgentConfig
	stores    map[string]telegraf.SecretStore
	outputs   []*telegrafPlugin
	unchecked map[string]bool
	dropping  string // an aggregator that keeps readings from the outputs
}

// telegrafPlugin is an [[outputs.ocems]] as Telegraf has read it.
type telegrafPlugin struct {
	output  *Output
	plugin  *ocems.OCEMS
	running *models.RunningOutput // nil where Telegraf refuses the block
}

// telegraf reads Telegraf's files, and those that outputs.execd gives to ocems-telegraf.
func (r *reader) telegraf(sources []source) {
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // in which Telegraf says what it deprecates
	logger.RedirectLogging(io.Discard)
	t := &telegrafReader{reader: r, agent: *config.NewConfig().Agent, stores: map[string]telegraf.SecretStore{}, unchecked: map[string]bool{}}
	var roots []*ast.Table
	only := len(sources) == 1 && r.opt.Host == ""
	for _, s := range sources {
		root, err := toml.Parse(bytes.TrimPrefix(s.data, []byte("\uFEFF")))
		if err != nil {
			r.fault(Failed, "edit "+s.name, "%s: %s%s", s.name, tomlError(err), withoutEnd(s.data, err))
		}
		roots = append(roots, root)
		only = only && root != nil && isOwn(root)
	}
	if only && !strings.Contains(string(sources[0].data), "@{") {
		r.cfg.Host = External
	} else if r.cfg.Host == "" {
		r.cfg.Host = Telegraf
	}
	found := slices.Contains(roots, nil) // what cannot be read may be what is missing
	for i, root := range roots {
		if root == nil {
			continue
		}
		if r.cfg.Host == External {
			t.external(sources[i], root)
		} else {
			found = t.file(sources[i], root) || found
		}
	}
	for _, p := range t.outputs {
		t.finish(p)
	}
	if r.cfg.Host == External {
		return
	}
	if !found {
		r.fault(Failed, "give the file, or all the files, that Telegraf is started with", "there is no [[outputs.ocems]] and no [[outputs.execd]] that starts ocems-telegraf")
	} else if t.dropping != "" {
		r.fault(Warning, "give it a namepass that leaves out what the board is to have",
			"%s has drop_original: what it takes is lost before the output sees it", t.dropping)
	}
	for key, v := range map[string]config.Duration{"interval": t.agent.Interval, "flush_interval": t.agent.FlushInterval} {
		if v <= 0 { // which Telegraf's command refuses, not its loader
			r.fault(Failed, "edit [agent]", "agent %s must be positive; found %v", key, time.Duration(v))
		}
	}
	if len(t.unchecked) > 0 {
		r.fault(Unchecked, "", "not checked: %s", strings.Join(slices.Sorted(maps.Keys(t.unchecked)), ", "))
	}
}

// file has Telegraf read a file, a block at a time, so that it names the mistakes of each. It reports whether there is
// an output for the board.
func (t *telegrafReader) file(s source, root *ast.Table) (found bool) {
	t.variables(root)
	for _, b := range blocksOf(root, s.data) {
		if b.kind == "outputs" && b.name == "ocems" {
			t.ownBlock(s, b, Telegraf)
			found = true
			continue
		}
		c, err := t.load(s, b)
		if err != nil && len(c.UnusedFields) == 0 || err != nil && b.kind == "agent" {
			for _, line := range b.errorLines(err, c) {
				t.fault(Failed, "edit "+b.lineIn(s.name, line), "%s: %s", s.name, line)
			}
		}
		switch {
		case b.kind == "agent":
			t.agent = *c.Agent
		case b.name != "":
			t.unchecked[b.kind+"."+b.name] = true
		}
		maps.Copy(t.stores, c.SecretStores)
		for _, a := range c.Aggregators {
			if a.Config.DropOriginal {
				t.dropping = fmt.Sprintf("%s:%d: aggregators.%s", s.name, b.line, b.name)
			}
		}
		for _, o := range c.Outputs {
			if x, ok := o.Output.(*execdStub); ok && x.isOurs() {
				delete(t.unchecked, "outputs.execd")
				t.execd(fmt.Sprintf("%s:%d", s.name, b.line), x, b.table)
				found = true
			}
		}
	}
	return found
}

// load has Telegraf read one block. What the block names must be registered: a stub takes the place of other plugins.
func (t *telegrafReader) load(s source, b *telegrafBlock) (*config.Config, error) {
	register(b.kind, b.name)
	c := config.NewConfig()
	*c.Agent = t.agent
	c.Agent.Quiet = true
	if strings.HasPrefix(c.Agent.BufferStrategy, "disk") {
		c.Agent.BufferStrategy = "memory" // nothing is written here
	}
	maps.Copy(c.SecretStores, t.stores)
	return c, c.LoadConfigData(b.text, s.name)
}

// ownBlock reads one [[outputs.ocems]].
func (t *telegrafReader) ownBlock(s source, b *telegrafBlock, host Host) {
	o := &Output{Name: "outputs.ocems", Where: fmt.Sprintf("%s:%d", s.name, b.line), Host: host}
	if alias, ok := textOf(b.table, "alias"); ok && alias != "" {
		o.Name += "::" + alias
	}
	t.cfg.Outputs = append(t.cfg.Outputs, o)
	p := &telegrafPlugin{output: o}
	original := outputs.Outputs["ocems"]
	outputs.Outputs["ocems"] = func() telegraf.Output { // kept where Telegraf refuses it, for what else is wrong with it
		x := original()
		p.plugin = x.(*ocems.OCEMS)
		return x
	}
	c, err := t.load(s, b)
	outputs.Outputs["ocems"] = original
	if len(c.Outputs) > 0 {
		p.running = c.Outputs[0]
	}
	if err != nil {
		for _, line := range b.errorLines(err, c) {
			key := unusedKey.FindStringSubmatch(line)
			if key == nil {
				o.refused(line, b.lineIn(s.name, line))
				continue
			}
			eachKey(b.table, reflect.TypeFor[ocems.OCEMS](), func(line int, k string, options reflect.Type) {
				if k == key[1] && keysOf(options, "toml")[k] == nil {
					o.fault(Failed, fmt.Sprintf("edit %s:%d; nearest: %s", s.name, line, nearest(k, options, "toml")), "configuration specified the field %q, but it was not used", shownKey(k))
				}
			})
		}
	}
	b.ignored(o, s.name, p.running)
	if p.running == nil && !p.refusedTLS(err) {
		o.Unread = true
		return
	}
	t.outputs = append(t.outputs, p)
}

// refusedTLS reports that the files of TLS are what Telegraf refuses: all keys were read then.
func (p *telegrafPlugin) refusedTLS(err error) bool {
	if p.plugin == nil {
		return false
	}
	_, wrong := p.plugin.TLSConfig()
	return wrong != nil && strings.HasSuffix(err.Error(), wrong.Error())
}

// finish opens the secrets, and has the plugin check its keys.
func (t *telegrafReader) finish(p *telegrafPlugin) {
	o := p.output
	stored := 0
	eachSecret("", reflect.ValueOf(p.plugin), func(key string, secret *config.Secret) {
		resolvers := map[string]telegraf.ResolveFunc{}
		for _, ref := range secret.GetUnlinked() {
			store, _, _ := strings.Cut(strings.TrimPrefix(ref, "@{"), ":")
			if t.stores[store] == nil && o.Host == Telegraf {
				o.failed("%s: unknown secret-store for %q", key, ref)
			}
			standIn := standInToken
			if strings.HasSuffix(key, "public_key") {
				standIn = standInKey()
			}
			resolvers[ref] = func() ([]byte, bool, error) { return []byte(standIn), false, nil }
			stored++
		}
		if len(resolvers) > 0 {
			if err := secret.Link(resolvers); err != nil {
				o.failed("%s: %v", key, err)
			}
		}
	})
	if stored > 0 && o.Host == Telegraf {
		o.fault(Unchecked, "", "%d of the tokens and keys are in a secret store, which only Telegraf opens: not read", stored)
	}
	if p.running != nil {
		if err := p.running.Init(); err != nil {
			o.refused(err.Error(), o.Where)
			if strings.HasPrefix(err.Error(), "invalid 'startup_error_behavior'") {
				p.running = nil // which it checks first, and stops
			}
		}
	}
	if p.running == nil {
		if err := p.plugin.Init(); err != nil {
			o.refused(err.Error(), o.Where)
		}
	}
	keys := o.takePlugin(p.plugin)
	if o.Outbox == nil {
		o.fault(Warning, "set state_directory", "state_directory: not set: open slots and what waits to be sent are in memory, and a restart loses them")
	}
	o.checkShort("timeout")
	if o.Host == Telegraf && p.running != nil {
		o.checkFlush(keys, time.Duration(t.agent.FlushInterval), p.running)
	}
}

// checkFlush compares Telegraf's buffering with what the plugin's README asks for.
func (o *Output) checkFlush(keys telegrafOutput, flush time.Duration, running *models.RunningOutput) {
	grace := keys.grace
	if grace == 0 {
		grace = 30 * time.Second
	}
	if running.Config.FlushInterval > 0 {
		flush = running.Config.FlushInterval
	}
	if keys.align && flush >= grace {
		o.fault(Warning, fmt.Sprintf("set flush_interval to 10s, or grace to more than %s", flush),
			"flush_interval: %s is not shorter than grace, %s: readings come after their slot has closed, and are late", flush, grace)
	}
	if limit, batch := running.MetricBufferLimit, running.MetricBatchSize; limit < 10*batch {
		o.fault(Warning, fmt.Sprintf("set metric_buffer_limit to %d or more: metrics a second times the seconds that a repair of the disk may take", 10*batch),
			"metric_buffer_limit: %d holds less than ten batches of %d (metric_batch_size): while the state_directory cannot be written, Telegraf drops the oldest readings", limit, batch)
	}
}

// What Telegraf keeps for every output, and reads only where it has the right type.
var (
	wholeNumbers = []string{"metric_batch_size", "metric_buffer_limit"}
	durations    = []string{"flush_interval", "flush_jitter"}
	texts        = []string{"alias", "log_level", "startup_error_behavior", "name_override", "name_prefix", "name_suffix",
		"namepass_separator", "namedrop_separator", "metricpass"}
)

// hostOptions are those that ocems-telegraf refuses.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator", "namedrop",
	"namedrop_separator", "fieldpass", "fielddrop", "fieldinclude", "fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude",
	"metricpass", "metric_batch_size", "metric_buffer_limit", "flush_interval", "flush_jitter", "startup_error_behavior"}

// ignored finds what Telegraf passes over without a word, or with one in its log only.
func (b *telegrafBlock) ignored(o *Output, file string, running *models.RunningOutput) {
	check := func(keys []string, want string, right func(ast.Value) bool) {
		for _, key := range keys {
			if kv, ok := b.table.Fields[key].(*ast.KeyValue); ok && !right(kv.Value) {
				o.fault(Failed, fmt.Sprintf("edit %s:%d", file, kv.Line), "%s: it is not %s, and Telegraf takes its default", key, want)
			}
		}
	}
	check(wholeNumbers, "a whole number", func(v ast.Value) bool { _, ok := v.(*ast.Integer); return ok })
	check(append(durations, texts...), "text in quotes", func(v ast.Value) bool { _, ok := v.(*ast.String); return ok })
	if running == nil {
		return
	}
	if level := running.Config.LogLevel; level != "" && telegraf.LogLevelFromString(level) == telegraf.None {
		o.failed("log_level: %q is unknown, and Telegraf takes its default; nearest: %s", level, strings.Join(spec.Nearest(level, []string{"error", "warn", "info", "debug", "trace"}), ", "))
	}
}

// telegrafBlock is a plugin's table, or another that a file has at its top.
type telegrafBlock struct {
	kind, name string
	line       int
	table      *ast.Table // nil for a key that is in no table
	text       []byte     // the file with nothing but this block, each line where it was
}

// blocksOf are those of a file, in the order in which they stand there, but the agent's first, as Telegraf reads them.
func blocksOf(root *ast.Table, data []byte) (blocks []*telegrafBlock) {
	starts := map[int]*telegrafBlock{}
	add := func(kind, name string, line int, t *ast.Table) {
		b := &telegrafBlock{kind: kind, name: name, line: line, table: t}
		blocks = append(blocks, b)
		starts[line] = b
		eachTable(t, func(sub *ast.Table) { starts[sub.Line] = b })
	}
	plugins := func(kind, name string, v any) {
		switch v := v.(type) {
		case *ast.KeyValue:
			add(kind, "", v.Line, nil)
		case *ast.Table:
			add(kind, name, v.Line, v)
		case []*ast.Table:
			for _, t := range v {
				add(kind, name, t.Line, t)
			}
		}
	}
	for kind, v := range root.Fields {
		if group, ok := v.(*ast.Table); ok && slices.Contains([]string{"inputs", "plugins", "outputs", "processors", "aggregators", "secretstores"}, kind) {
			for name, x := range group.Fields {
				plugins(kind, name, x)
			}
		} else {
			plugins(kind, "", v)
		}
	}
	lines := bytes.Split(bytes.TrimPrefix(data, []byte("\uFEFF")), []byte("\n"))
	var of *telegrafBlock
	for i, line := range lines {
		if b := starts[i+1]; b != nil {
			of = b
		}
		for _, b := range blocks {
			if b == of {
				b.text = append(b.text, line...)
			}
			b.text = append(b.text, '\n')
		}
	}
	slices.SortFunc(blocks, func(a, b *telegrafBlock) int {
		first := func(b *telegrafBlock) int {
			if b.kind == "agent" {
				return 0
			}
			return 1
		}
		return cmp.Or(first(a)-first(b), a.line-b.line)
	})
	return blocks
}

// eachTable visits the tables inside of one.
func eachTable(t *ast.Table, visit func(*ast.Table)) {
	if t == nil {
		return
	}
	for _, v := range t.Fields {
		tables, _ := v.([]*ast.Table)
		if sub, ok := v.(*ast.Table); ok {
			tables = []*ast.Table{sub}
		}
		for _, sub := range tables {
			visit(sub)
			eachTable(sub, visit)
		}
	}
}

var (
	unusedKey = regexp.MustCompile(`^unused (.*)$`)
	wrapped   = regexp.MustCompile(`^error parsing (data: |\w+( array)?, )`)
	position  = regexp.MustCompile(`(line \d+):\{\d+ \d+\}`)
)

// errorLines is what Telegraf says of the block, an unknown key each by itself.
func (b *telegrafBlock) errorLines(err error, c *config.Config) (lines []string) {
	if len(c.UnusedFields) > 0 {
		for _, key := range slices.Sorted(maps.Keys(c.UnusedFields)) {
			line := "unused " + key
			if b.kind == "agent" {
				line = fmt.Sprintf("agent: configuration specified the field %q, but it was not used; nearest: %s", shownKey(key), nearest(key, b.options(), "toml"))
			}
			lines = append(lines, line)
		}
		return lines
	}
	inner := innermost(err)
	if strings.Contains(err.Error(), "error parsing data: processing ") { // of a variable; what stands around it shows values
		return []string{inner.Error()}
	}
	text := strings.ReplaceAll(tomlError(err), "\n", " ")
	text = position.ReplaceAllString(wrapped.ReplaceAllString(text, ""), "$1")
	if b.name != "" && b.name != "ocems" {
		text = b.kind + "." + b.name + ": " + text
	}
	if strings.HasPrefix(text, "ERROR: <input>") { // of CEL, which does not know what it compiles
		text = "metricpass: " + text
	}
	if m := atLine.FindStringSubmatch(text); m != nil && b.table != nil {
		eachKey(b.table, b.options(), func(line int, key string, _ reflect.Type) {
			if strconv.Itoa(line) == m[1] && !strings.Contains(text, key) {
				text = key + ": " + text
			}
		})
	}
	if strings.Contains(text, "error parsing duration") && b.table != nil {
		for _, key := range durations {
			if v, ok := textOf(b.table, key); ok {
				if _, wrong := time.ParseDuration(v); wrong != nil {
					text = key + ": " + text
				}
			}
		}
	}
	return []string{text}
}

// options are the keys of what is looked into.
func (b *telegrafBlock) options() reflect.Type {
	if b.kind == "agent" {
		return reflect.TypeFor[config.AgentConfig]()
	}
	return reflect.TypeFor[ocems.OCEMS]()
}

// lineIn is the place in a file that a text of Telegraf names, or where the block begins.
func (b *telegrafBlock) lineIn(file, text string) string {
	if m := atLine.FindStringSubmatch(text); m != nil {
		return file + ":" + m[1]
	}
	return fmt.Sprintf("%s:%d", file, b.line)
}

// eachKey visits the keys of a table and of those in it that the options know, with the options that they are among.
func eachKey(t *ast.Table, options reflect.Type, visit func(line int, key string, options reflect.Type)) {
	for options.Kind() == reflect.Pointer || options.Kind() == reflect.Slice {
		options = options.Elem()
	}
	if options.Kind() != reflect.Struct {
		return
	}
	fields := keysOf(options, "toml")
	for _, key := range slices.Sorted(maps.Keys(t.Fields)) {
		v := t.Fields[key]
		tables, _ := v.([]*ast.Table)
		line := 0
		switch v := v.(type) {
		case *ast.KeyValue:
			line = v.Line
		case *ast.Table:
			line, tables = v.Line, []*ast.Table{v}
		case []*ast.Table:
			line = v[0].Line
		}
		visit(line, key, options)
		for _, sub := range tables {
			if fields[key] != nil {
				eachKey(sub, fields[key], visit)
			}
		}
	}
}

// textOf is the value of a key that is a text.
func textOf(t *ast.Table, key string) (string, bool) {
	if kv, ok := t.Fields[key].(*ast.KeyValue); ok {
		if s, ok := kv.Value.(*ast.String); ok {
			return s.Value, true
		}
	}
	return "", false
}

var goTypes = regexp.MustCompile(` ?into (Go )?(type )?\S+\.\S+$|\(\S*\) `)

// tomlError is the decoder's text without the names of types in here.
func tomlError(err error) string { return goTypes.ReplaceAllString(err.Error(), "") }

var (
	atLine   = regexp.MustCompile(`line (\d+)`)
	keyOfRow = regexp.MustCompile(`^\s*([A-Za-z_]+)\s*=`)
)

// withoutEnd names the key whose text has no end, at or before the line of a fault in the syntax.
func withoutEnd(data []byte, err error) string {
	m := atLine.FindStringSubmatch(err.Error())
	if m == nil {
		return ""
	}
	line, _ := strconv.Atoi(m[1])
	rows := strings.Split(string(data), "\n")
	for n := max(line-1, 1); n <= min(line, len(rows)); n++ {
		if key := keyOfRow.FindStringSubmatch(rows[n-1]); key != nil && strings.Count(rows[n-1], `"`)%2 == 1 {
			return fmt.Sprintf("; the text of %s in line %d has no end", shownKey(key[1]), n)
		}
	}
	return ""
}

var setVariable = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)`)

// variables notes those that are named, have no default and are not set.
func (t *telegrafReader) variables(root any) {
	_ = eachString(root, func(s *ast.String) error {
		for _, m := range setVariable.FindAllStringSubmatch(s.Value, -1) {
			if name := m[1] + m[2]; name != "" {
				if _, ok := os.LookupEnv(name); !ok {
					t.cfg.Unset = append(t.cfg.Unset, name)
				}
			}
		}
		return nil
	})
}

// eachString visits the strings among the values, and says at which line and key it failed.
func eachString(v any, visit func(*ast.String) error) error {
	var errs []error
	switch v := v.(type) {
	case *ast.Table:
		for _, key := range slices.Sorted(maps.Keys(v.Fields)) {
			errs = append(errs, eachString(v.Fields[key], visit))
		}
	case []*ast.Table:
		for _, t := range v {
			errs = append(errs, eachString(t, visit))
		}
	case *ast.KeyValue:
		if err := eachString(v.Value, visit); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %s: %w", v.Line, v.Key, err))
		}
	case *ast.Array:
		for _, x := range v.Value {
			errs = append(errs, eachString(x, visit))
		}
	case *ast.String:
		return visit(v)
	}
	return errors.Join(errs...)
}

// isOurs reports that an [[outputs.execd]] starts ocems-telegraf.
func (x *execdStub) isOurs() bool {
	return slices.ContainsFunc(x.Command, func(s string) bool { return strings.HasPrefix(filepath.Base(s), "ocems-telegraf") })
}

// execd follows an [[outputs.execd]] to the file of ocems-telegraf.
func (t *telegrafReader) execd(where string, x *execdStub, table *ast.Table) {
	fault := func(s Severity, do, format string, args ...any) {
		t.fault(s, do, where+": outputs.execd: "+format, args...)
	}
	if x.DataFormat != "influx" {
		fault(Failed, `set data_format = "influx"`, "data_format: %q is not what ocems-telegraf reads", x.DataFormat)
	}
	if !x.UseBatchFormat {
		fault(Warning, "set use_batch_format = true", "use_batch_format is not set: a batch with a metric of nothing but NaN is written again and again, and its readings count each time")
	}
	if _, ok := table.Fields["restart_delay"]; !ok {
		fault(Warning, `set restart_delay = "10s"`, "restart_delay is not set: a program that cannot start is started again and again without a pause")
	}
	path := ""
	for i, a := range x.Command {
		flag, value, joined := strings.Cut(a, "=")
		if flag = strings.TrimPrefix(flag, "-"); flag != "-config" && flag != "config" || !strings.HasPrefix(a, "-") {
			continue
		}
		if !joined && i+1 < len(x.Command) {
			value = x.Command[i+1]
		}
		path = value
	}
	if path == "" {
		fault(Failed, "give ocems-telegraf its file: --config FILE", "command: there is no --config")
		return
	}
	if slices.Contains(t.cfg.Files, path) {
		return // given to us by itself too
	}
	data, err := os.ReadFile(path)
	if err != nil {
		fault(Failed, "give the path that Telegraf's working directory makes of it, or mend the file's permissions", "the file of ocems-telegraf: %v", err)
		return
	}
	t.cfg.Files = append(t.cfg.Files, path)
	root, err := toml.Parse(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if err != nil {
		t.fault(Failed, "edit "+path, "%s: %s", path, tomlError(err))
		return
	}
	t.external(source{name: path, data: data}, root)
}
