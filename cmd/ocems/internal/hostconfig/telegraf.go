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
}

// telegrafPlugin is an [[outputs.ocems]] as Telegraf has read it.
type telegrafPlugin struct {
	output  *Output
	plugin  *ocems.OCEMS
	running *models.RunningOutput // nil where Telegraf refuses the block
	block   telegrafBlock
}

// telegraf reads Telegraf's files, and those that outputs.execd gives to ocems-telegraf.
func (r *reader) telegraf(sources []source) {
	log.SetOutput(io.Discard) // in which Telegraf says what it deprecates
	defer log.SetOutput(os.Stderr)
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
	}
	if len(t.unchecked) > 0 {
		r.fault(Unchecked, "", "not checked: %s", strings.Join(slices.Sorted(maps.Keys(t.unchecked)), ", "))
	}
}

// file has Telegraf read a file, a block at a time, so that it names the mistakes of each. It reports whether there is
// an output for the board.
func (t *telegrafReader) file(s source, root *ast.Table) (found bool) {
	t.variables(root)
	blocks := blocksOf(root)
	if i := slices.IndexFunc(blocks, func(b telegrafBlock) bool { return b.kind == "agent" }); i > 0 { // which Telegraf reads first
		agent := blocks[i]
		blocks = slices.Insert(slices.Delete(blocks, i, i+1), 0, agent)
	}
	dropping := ""
	for _, b := range blocks {
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
				dropping = fmt.Sprintf("%s:%d: aggregators.%s", s.name, b.line, b.name)
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
	if dropping != "" && found {
		t.fault(Warning, "give it a namepass that leaves out what the board is to have",
			"%s has drop_original: what it takes is lost before the output sees it", dropping)
	}
	return found
}

// load has Telegraf read one block. What the block names must be registered: a stub takes the place of other plugins.
func (t *telegrafReader) load(s source, b telegrafBlock) (*config.Config, error) {
	register(b.kind, b.name)
	c := config.NewConfig()
	*c.Agent = t.agent
	c.Agent.Quiet = true
	if strings.HasPrefix(c.Agent.BufferStrategy, "disk") {
		c.Agent.BufferStrategy = "memory" // nothing is written here
	}
	maps.Copy(c.SecretStores, t.stores)
	return c, c.LoadConfigData(b.alone(s.data), s.name)
}

// ownBlock reads one [[outputs.ocems]].
func (t *telegrafReader) ownBlock(s source, b telegrafBlock, host Host) {
	o := &Output{Name: "outputs.ocems", Where: fmt.Sprintf("%s:%d", s.name, b.line), Host: host}
	if alias, ok := textOf(b.table, "alias"); ok && alias != "" {
		o.Name += "::" + alias
	}
	t.cfg.Outputs = append(t.cfg.Outputs, o)
	p := &telegrafPlugin{output: o, block: b}
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
			line, near := findTOML(b.table, key[1], reflect.TypeFor[ocems.OCEMS]())
			o.fault(Failed, fmt.Sprintf("edit %s:%d; nearest: %s", s.name, line, near), "configuration specified the field %q, but it was not used", shownKey(key[1]))
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
func (b telegrafBlock) ignored(o *Output, file string, running *models.RunningOutput) {
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
	others     []int      // lines at which other blocks begin, or go on
	own        []int      // lines at which this one does
}

// blocksOf are those of a file, in the order in which they stand there.
func blocksOf(root *ast.Table) (blocks []telegrafBlock) {
	add := func(kind, name string, v any) {
		tables, _ := v.([]*ast.Table)
		switch v := v.(type) {
		case *ast.Table:
			tables = []*ast.Table{v}
		case *ast.KeyValue:
			blocks = append(blocks, telegrafBlock{kind: kind, line: v.Line, own: []int{v.Line}})
		}
		for _, t := range tables {
			blocks = append(blocks, telegrafBlock{kind, name, t.Line, t, nil, linesOf(t, nil)})
		}
	}
	for kind, v := range root.Fields {
		group, ok := v.(*ast.Table)
		if !ok || !slices.Contains([]string{"inputs", "plugins", "outputs", "processors", "aggregators", "secretstores"}, kind) {
			add(kind, "", v)
			continue
		}
		for name, x := range group.Fields {
			add(kind, name, x)
		}
	}
	slices.SortFunc(blocks, func(a, b telegrafBlock) int { return a.line - b.line })
	for i := range blocks {
		for j := range blocks {
			if i != j {
				blocks[i].others = append(blocks[i].others, blocks[j].own...)
			}
		}
	}
	return blocks
}

// linesOf are the lines at which a table and those in it begin.
func linesOf(t *ast.Table, lines []int) []int {
	lines = append(lines, t.Line)
	for _, v := range t.Fields {
		switch v := v.(type) {
		case *ast.Table:
			lines = linesOf(v, lines)
		case []*ast.Table:
			for _, sub := range v {
				lines = linesOf(sub, lines)
			}
		}
	}
	return lines
}

// alone is the file with nothing but this block, each line where it was.
func (b telegrafBlock) alone(data []byte) []byte {
	lines := bytes.Split(bytes.TrimPrefix(data, []byte("\uFEFF")), []byte("\n"))
	own := false
	for i := range lines {
		if slices.Contains(b.own, i+1) {
			own = true
		} else if slices.Contains(b.others, i+1) {
			own = false
		}
		if !own {
			lines[i] = nil
		}
	}
	return bytes.Join(lines, []byte("\n"))
}

var (
	unusedKey = regexp.MustCompile(`^unused (.*)$`)
	wrapped   = regexp.MustCompile(`^error parsing (data: |\w+( array)?, )`)
	position  = regexp.MustCompile(`(line \d+):\{\d+ \d+\}`)
)

// errorLines is what Telegraf says of the block, an unknown key each by itself.
func (b telegrafBlock) errorLines(err error, c *config.Config) (lines []string) {
	if len(c.UnusedFields) > 0 {
		for _, key := range slices.Sorted(maps.Keys(c.UnusedFields)) {
			line := "unused " + key
			if b.kind == "agent" {
				line = fmt.Sprintf("agent: configuration specified the field %q, but it was not used; nearest: %s", shownKey(key), nearest(key, reflect.TypeFor[config.AgentConfig](), "toml"))
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
		line, _ := strconv.Atoi(m[1])
		if key := keyAt(b.table, line); key != "" && !strings.Contains(text, key) {
			text = key + ": " + text
		}
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

// lineIn is the place in a file that a text of Telegraf names, or where the block begins.
func (b telegrafBlock) lineIn(file, text string) string {
	if m := atLine.FindStringSubmatch(text); m != nil {
		return file + ":" + m[1]
	}
	return fmt.Sprintf("%s:%d", file, b.line)
}

// keyAt is the key on a line, "" for none.
func keyAt(t *ast.Table, line int) (key string) {
	for name, v := range t.Fields {
		switch v := v.(type) {
		case *ast.KeyValue:
			if v.Line == line {
				return name
			}
		case *ast.Table:
			key = cmp.Or(key, keyAt(v, line))
		case []*ast.Table:
			for _, sub := range v {
				key = cmp.Or(key, keyAt(sub, line))
			}
		}
	}
	return key
}

// findTOML is the line of a key that is not known, and the nearest that are known where it stands.
func findTOML(t *ast.Table, key string, options reflect.Type) (line int, near string) {
	for options.Kind() == reflect.Pointer || options.Kind() == reflect.Slice {
		options = options.Elem()
	}
	if options.Kind() != reflect.Struct {
		return 0, ""
	}
	fields := keysOf(options, "toml")
	if v, ok := t.Fields[key]; ok && fields[key] == nil {
		return lineOf(v), nearest(key, options, "toml")
	}
	for name, v := range t.Fields {
		tables, _ := v.([]*ast.Table)
		if sub, ok := v.(*ast.Table); ok {
			tables = []*ast.Table{sub}
		}
		for _, sub := range tables {
			if fields[name] == nil {
				continue
			}
			if line, near := findTOML(sub, key, fields[name]); line > 0 {
				return line, near
			}
		}
	}
	return 0, ""
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
