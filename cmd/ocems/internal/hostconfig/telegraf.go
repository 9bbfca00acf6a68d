package hostconfig

import (
	"bytes"
	"cmp"
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
	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/ocems-io/ocems/plugins/outputs/ocems"
)

// telegrafReader is one reading of Telegraf's files.
type telegrafReader struct {
	*reader
	common    *config.Config // whose agent and secret stores all blocks have
	outputs   []telegrafOutput
	found     bool // an output for the board
	unchecked map[string]bool
}

// telegrafOutput is an [[outputs.ocems]] as Telegraf has read it.
type telegrafOutput struct {
	*Output
	running *models.RunningOutput
}

// telegraf reads Telegraf's files, and those that outputs.execd gives to ocems-telegraf.
func (r *reader) telegraf() {
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // in which Telegraf says what it deprecates
	logger.RedirectLogging(io.Discard)
	t := &telegrafReader{reader: r, common: config.NewConfig(), unchecked: map[string]bool{}}
	t.common.Agent.Quiet = true
	for _, s := range r.sources {
		t.file(s)
	}
	for _, o := range t.outputs {
		t.finish(o)
	}
	if !t.found {
		r.cfg.Faults.fault(Failed, "give the file, or all the files, that Telegraf is started with", "there is no [[outputs.ocems]] and no [[outputs.execd]] that starts ocems-telegraf")
	}
	if r.cfg.Host == External {
		return
	}
	for key, v := range map[string]config.Duration{"interval": t.common.Agent.Interval, "flush_interval": t.common.Agent.FlushInterval} {
		if v <= 0 { // which Telegraf's command refuses, not its loader
			r.cfg.Faults.fault(Failed, "edit [agent]", "agent %s must be positive; found %v", key, time.Duration(v))
		}
	}
	if len(t.unchecked) > 0 {
		r.cfg.Faults.fault(Unchecked, "", "not checked: %s", strings.Join(slices.Sorted(maps.Keys(t.unchecked)), ", "))
	}
}

// file has Telegraf read a file, a block at a time, so that it names the mistakes of each.
func (t *telegrafReader) file(s source) {
	root, err := toml.Parse(bytes.TrimPrefix(s.data, []byte("\uFEFF")))
	if err != nil {
		t.cfg.Faults.fault(Failed, "edit "+rowOf(s, err.Error(), 1), "%s: %v", s.name, err)
		t.found = true // what cannot be read may be what is missing
	} else if t.cfg.Host == "" && len(t.sources) == 1 && isOwn(root) {
		t.cfg.Host = External
	}
	if t.cfg.Host = cmp.Or(t.cfg.Host, Telegraf); err != nil {
		return
	}
	if t.cfg.Host == External {
		t.external(s, root)
		return
	}
	t.variables(s)
	for _, b := range blocksOf(root, s.data) {
		if b.plugin == "outputs.ocems" {
			t.output(s, b, Telegraf)
			continue
		}
		c, lines := t.load(s, b)
		for _, line := range lines {
			t.cfg.Faults.fault(Failed, "edit "+rowOf(s, line, b.line), "%s: %s", s.name, line)
		}
		if b.plugin != "" {
			t.unchecked[b.plugin] = true
		}
		for _, a := range c.Aggregators {
			if a.Config.DropOriginal {
				t.cfg.Faults.fault(Warning, "give it a namepass that leaves out what the board is to have",
					"%s:%d: %s has drop_original: what it takes is lost before the output sees it", s.name, b.line, b.plugin)
			}
		}
		for _, o := range c.Outputs {
			if x, ok := o.Output.(*execdStub); ok && x.isOurs() {
				delete(t.unchecked, b.plugin)
				t.execd(fmt.Sprintf("%s:%d", s.name, b.line), x, b.table)
			}
		}
	}
}

// load has Telegraf read one block, and returns what it refuses. What the block names must be registered: a stub takes the
// place of other plugins, whose keys are not known.
func (t *telegrafReader) load(s source, b *telegrafBlock) (c *config.Config, lines []string) {
	register(b.plugin)
	c = config.NewConfig()
	c.Agent, c.SecretStores = t.common.Agent, t.common.SecretStores
	err := c.LoadConfigData(b.text, s.name)
	if strings.HasPrefix(c.Agent.BufferStrategy, "disk") {
		c.Agent.BufferStrategy = "memory" // nothing is written here
	}
	unused := slices.Sorted(maps.Keys(c.UnusedFields))
	switch {
	case err == nil:
	case len(unused) > 0 && (b.plugin == "outputs.ocems" || b.plugin == ""):
		for _, key := range unused {
			lines = append(lines, b.unused(key))
		}
	case len(unused) > 0:
	case strings.Contains(err.Error(), "error parsing data: processing "): // of a variable; what stands around it shows values
		lines = []string{innermost(err).Error()}
	default:
		lines = []string{strings.ReplaceAll(err.Error(), "\n", " ")}
	}
	return c, lines
}

// output reads one [[outputs.ocems]].
func (t *telegrafReader) output(s source, b *telegrafBlock, host Host) {
	t.found = true
	o := &Output{Name: "outputs.ocems", Where: fmt.Sprintf("%s:%d", s.name, b.line), Host: host}
	t.cfg.Outputs = append(t.cfg.Outputs, o)
	c, lines := t.load(s, b)
	for _, line := range lines {
		o.refused(line, rowOf(s, line, b.line))
	}
	if o.Unread = len(c.Outputs) == 0; o.Unread {
		return
	}
	if alias := c.Outputs[0].Config.Alias; alias != "" {
		o.Name += "::" + alias
	}
	t.outputs = append(t.outputs, telegrafOutput{o, c.Outputs[0]})
}

// finish puts in what is in secret stores, and has the plugin check its keys.
func (t *telegrafReader) finish(o telegrafOutput) {
	plugin := o.running.Output.(*ocems.OCEMS)
	stored := o.link(t.common.SecretStores, "public_key", &plugin.PublicKey, standInKey())
	for i, d := range plugin.Devices {
		stored += o.link(t.common.SecretStores, fmt.Sprintf("device[%d].token_id", i), &d.TokenID, standInToken)
		stored += o.link(t.common.SecretStores, fmt.Sprintf("device[%d].public_key", i), &d.PublicKey, standInKey())
	}
	if stored > 0 {
		o.Faults.fault(Unchecked, "", "%d of the tokens and keys are in a secret store, which only Telegraf opens: not read", stored)
	}
	if err := o.running.Init(); err != nil {
		o.refused(err.Error(), o.Where)
	}
	o.takePlugin(plugin)
	if o.Host == Telegraf {
		o.checkBuffer(plugin, time.Duration(t.common.Agent.FlushInterval))
	}
}

// link puts a stand-in in the place of what only Telegraf can open, and returns how many secrets that are.
func (o *telegrafOutput) link(stores map[string]telegraf.SecretStore, key string, secret *config.Secret, standIn string) (stored int) {
	resolvers := map[string]telegraf.ResolveFunc{}
	for _, ref := range secret.GetUnlinked() {
		store, _, _ := strings.Cut(strings.TrimPrefix(ref, "@{"), ":")
		switch {
		case o.Host == External:
			o.Faults.fault(Failed, "use ${VARIABLE} or a key that ends with _file", "%s: %q: secret stores are Telegraf's and not available to an external plugin", key, ref)
		case stores[store] == nil:
			o.Faults.fault(Failed, "edit "+o.Where, "%s: unknown secret-store for %q", key, ref)
		default:
			stored++
		}
		resolvers[ref] = func() ([]byte, bool, error) { return []byte(standIn), false, nil }
	}
	if len(resolvers) > 0 {
		if err := secret.Link(resolvers); err != nil {
			o.Faults.fault(Failed, "edit "+o.Where, "%s: %v", key, err)
		}
	}
	return stored
}

// checkBuffer compares Telegraf's buffering with what the plugin's README asks for.
func (o *telegrafOutput) checkBuffer(plugin *ocems.OCEMS, flush time.Duration) {
	if own := o.running.Config.FlushInterval; own > 0 {
		flush = own
	}
	if grace := plugin.Grace.Duration; plugin.Align && flush >= grace {
		o.Faults.fault(Warning, fmt.Sprintf("set flush_interval to 10s, or grace to more than %s", flush),
			"flush_interval: %s is not shorter than grace, %s: readings come after their slot has closed, and are late", flush, grace)
	}
	if limit, batch := o.running.MetricBufferLimit, o.running.MetricBatchSize; limit < 10*batch {
		o.Faults.fault(Warning, fmt.Sprintf("set metric_buffer_limit to %d or more: metrics a second times the seconds that a repair of the disk may take", 10*batch),
			"metric_buffer_limit: %d holds less than ten batches of %d (metric_batch_size): while the state_directory cannot be written, Telegraf drops the oldest readings", limit, batch)
	}
}

// telegrafBlock is a plugin's table, or another that a file has at its top.
type telegrafBlock struct {
	plugin string // such as outputs.ocems; "" for a table that is no plugin's
	line   int
	table  *ast.Table // nil for a key that is in no table
	text   []byte     // the file with nothing but this block, each line where it was
}

// blocksOf are those of a file, in the order in which they stand there, but the agent's first, as Telegraf reads them.
func blocksOf(root *ast.Table, data []byte) (blocks []*telegrafBlock) {
	starts := map[int]*telegrafBlock{}
	add := func(plugin string, v any) {
		for _, t := range tablesOf(v) {
			b := &telegrafBlock{plugin: plugin, line: t.Line, table: t}
			blocks = append(blocks, b)
			starts[t.Line] = b
			eachTable(t, func(sub *ast.Table) { starts[sub.Line] = b })
		}
		if kv, ok := v.(*ast.KeyValue); ok {
			starts[kv.Line] = &telegrafBlock{line: kv.Line}
			blocks = append(blocks, starts[kv.Line])
		}
	}
	for kind, v := range root.Fields {
		if group, ok := v.(*ast.Table); ok && slices.Contains([]string{"inputs", "plugins", "outputs", "processors", "aggregators", "secretstores"}, kind) {
			for name, x := range group.Fields {
				add(kind+"."+name, x)
			}
		} else {
			add("", v)
		}
	}
	var of *telegrafBlock
	for i, line := range bytes.Split(bytes.TrimPrefix(data, []byte("\uFEFF")), []byte("\n")) {
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
	slices.SortFunc(blocks, func(a, b *telegrafBlock) int { return a.line - b.line })
	slices.SortStableFunc(blocks, func(a, b *telegrafBlock) int { return min(len(a.plugin), 1) - min(len(b.plugin), 1) })
	return blocks
}

// tablesOf are the tables that a name has, one or a list.
func tablesOf(v any) []*ast.Table {
	if t, ok := v.(*ast.Table); ok {
		return []*ast.Table{t}
	}
	tables, _ := v.([]*ast.Table)
	return tables
}

// eachTable visits the tables inside of one.
func eachTable(t *ast.Table, visit func(*ast.Table)) {
	for _, v := range t.Fields {
		for _, sub := range tablesOf(v) {
			visit(sub)
			eachTable(sub, visit)
		}
	}
}

// unused is what Telegraf says of a key that it does not know, with the line and the nearest that it knows.
func (b *telegrafBlock) unused(key string) string {
	options := reflect.TypeFor[ocems.OCEMS]()
	if b.plugin == "" {
		options = reflect.TypeFor[config.AgentConfig]()
	}
	line, of := b.line, options
	find(b.table, options, key, func(at int, among reflect.Type) { line, of = at, among })
	return fmt.Sprintf("line %d: configuration specified the field %q, but it was not used%s", line, shownKey(key), nearest(key, of, "toml"))
}

// find visits a key in a table and in those in it, where the options do not have it.
func find(t *ast.Table, options reflect.Type, key string, visit func(line int, among reflect.Type)) {
	if options = element(options); t == nil || options.Kind() != reflect.Struct {
		return
	}
	known := keysOf(options, "toml")
	for name, v := range t.Fields {
		if kv, ok := v.(*ast.KeyValue); ok && name == key && known[key] == nil {
			visit(kv.Line, options)
		}
		for _, sub := range tablesOf(v) {
			if name == key && known[key] == nil {
				visit(sub.Line, options)
			} else if known[name] != nil {
				find(sub, known[name], key, visit)
			}
		}
	}
}

var (
	atLine   = regexp.MustCompile(`line (\d+)`)
	keyOfRow = regexp.MustCompile(`^\s*([A-Za-z_]+)\s*=`)
)

// rowOf is the line that a text of Telegraf names, with the key that stands there, or where the block begins.
func rowOf(s source, text string, begins int) string {
	m := atLine.FindStringSubmatch(text)
	if m == nil {
		return fmt.Sprintf("%s:%d", s.name, begins)
	}
	at := s.name + ":" + m[1]
	rows := bytes.Split(s.data, []byte("\n"))
	if n, _ := strconv.Atoi(m[1]); n > 0 && n <= len(rows) {
		if key := keyOfRow.FindSubmatch(rows[n-1]); key != nil {
			at += ": " + shownKey(string(key[1]))
		}
	}
	return at
}

var variable = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)`)

// variables notes those that are named, have no default and are not set.
func (t *telegrafReader) variables(s source) {
	for line := range strings.Lines(string(s.data)) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, m := range variable.FindAllStringSubmatch(line, -1) {
			name := m[1] + m[2]
			if _, set := os.LookupEnv(name); name != "" && !set {
				t.cfg.Unset = append(t.cfg.Unset, name)
			}
		}
	}
}

// isOurs reports that an [[outputs.execd]] starts ocems-telegraf.
func (x *execdStub) isOurs() bool {
	return slices.ContainsFunc(x.Command, func(s string) bool { return strings.HasPrefix(filepath.Base(s), "ocems-telegraf") })
}

// execd follows an [[outputs.execd]] to the file of ocems-telegraf.
func (t *telegrafReader) execd(where string, x *execdStub, table *ast.Table) {
	t.found = true
	fault := func(s Severity, do, format string, args ...any) {
		t.cfg.Faults.fault(s, do, where+": outputs.execd: "+format, args...)
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
		if flag, value, joined := strings.Cut(a, "="); flag == "--config" || flag == "-config" {
			if path = value; !joined && i+1 < len(x.Command) {
				path = x.Command[i+1]
			}
		}
	}
	data, err := os.ReadFile(path)
	switch {
	case path == "":
		fault(Failed, "give ocems-telegraf its file: --config FILE", "command: there is no --config")
		return
	case slices.Contains(t.cfg.Files, path): // given to us by itself too
		return
	case err != nil:
		fault(Failed, "give the path that Telegraf's working directory makes of it, or mend the file's permissions", "the file of ocems-telegraf: %v", err)
		return
	}
	t.cfg.Files = append(t.cfg.Files, path)
	root, err := toml.Parse(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if err != nil {
		t.cfg.Faults.fault(Failed, "edit "+rowOf(source{path, "", data}, err.Error(), 1), "%s: %v", path, err)
		return
	}
	t.external(source{name: path, data: data}, root)
}

// hostOptions are those that Telegraf keeps for every output, and ocems-telegraf refuses.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator", "namedrop",
	"namedrop_separator", "fieldpass", "fielddrop", "fieldinclude", "fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude",
	"metricpass", "metric_batch_size", "metric_buffer_limit", "flush_interval", "flush_jitter", "startup_error_behavior", "labels"}

// isOwn reports that a file holds nothing but [[outputs.ocems]] without Telegraf's own options.
func isOwn(root *ast.Table) bool {
	blocks := blocksOf(root, nil)
	return len(blocks) > 0 && !slices.ContainsFunc(blocks, func(b *telegrafBlock) bool {
		return b.plugin != "outputs.ocems" || slices.ContainsFunc(hostOptions, func(key string) bool { return b.table.Fields[key] != nil })
	})
}

// external reads a file of ocems-telegraf, which Telegraf's loader reads there too.
func (t *telegrafReader) external(s source, root *ast.Table) {
	t.variables(s)
	for _, b := range blocksOf(root, s.data) {
		if b.plugin != "outputs.ocems" {
			t.cfg.Faults.fault(Failed, fmt.Sprintf("edit %s:%d", s.name, b.line), "%s: only [[outputs.ocems]] belongs into a file of ocems-telegraf", s.name)
			continue
		}
		t.output(s, b, External)
		o := t.cfg.Outputs[len(t.cfg.Outputs)-1]
		for _, key := range hostOptions {
			if b.table.Fields[key] != nil {
				o.Faults.fault(Failed, "edit "+o.Where, "%q is Telegraf's own: set it in the [[outputs.execd]] block", key)
			}
		}
	}
}
