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

// telegrafReader reads Telegraf's files.
type telegrafReader struct {
	*reader
	agent     *config.AgentConfig
	stores    map[string]telegraf.SecretStore
	outputs   []telegrafOutput
	found     bool // there is an output for the board, or a faulty file that may have one
	unchecked map[string]bool
	pages     []page
	execds    *models.RunningOutput // whose ocems-telegraf is being read
}

// telegrafOutput is an [[outputs.ocems]] as Telegraf has loaded it.
type telegrafOutput struct {
	*Output
	running *models.RunningOutput
	buffer  *models.RunningOutput // the output whose buffer applies: itself, or the outputs.execd before it
}

// telegraf reads Telegraf's files, and those of an ocems-telegraf that outputs.execd starts.
func (r *reader) telegraf() {
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // Telegraf logs its deprecations there
	logger.RedirectLogging(io.Discard)
	t := &telegrafReader{reader: r, agent: config.NewConfig().Agent, stores: map[string]telegraf.SecretStore{}, unchecked: map[string]bool{}}
	for _, s := range r.sources {
		t.file(s)
	}
	for _, o := range t.outputs {
		t.finish(o)
	}
	t.inputs()
	if !t.found {
		r.cfg.Faults.fault(Failed, "give all files that Telegraf is started with", "there is no [[outputs.ocems]] and no [[outputs.execd]] that starts ocems-telegraf")
	}
	for key, v := range map[string]config.Duration{"interval": t.agent.Interval, "flush_interval": t.agent.FlushInterval} {
		if v <= 0 { // Telegraf's command refuses it, but not its loader
			r.cfg.Faults.fault(Failed, "edit [agent]", "agent %s must be positive; found %v", key, time.Duration(v))
		}
	}
	if len(t.unchecked) > 0 {
		r.cfg.Faults.fault(Unchecked, "", "not checked: %s", strings.Join(slices.Sorted(maps.Keys(t.unchecked)), ", "))
	}
}

// diskBuffer matches a buffer_strategy with which Telegraf's loader would write files, or a variable that may hold it.
var diskBuffer = regexp.MustCompile(`(?m)^\s*buffer_strategy\s*=.*(disk|\$).*$`)

// file has Telegraf load a file. Stubs stand for plugins that are not compiled in, and accept any key.
func (t *telegrafReader) file(s source) {
	s.data = diskBuffer.ReplaceAll(bytes.TrimPrefix(s.data, []byte("\uFEFF")), nil)
	root, err := toml.Parse(s.data)
	if err != nil {
		t.cfg.Faults.fault(Failed, "edit "+s.row(err.Error()), "%s: %v", s.name, err)
		t.cfg.Host, t.found = cmp.Or(t.cfg.Host, Telegraf), true
		return
	}
	t.variables(s)
	if t.cfg.Host == "" && len(t.sources) == 1 && isOwn(root) {
		t.cfg.Host = External
	}
	t.cfg.Host = cmp.Or(t.cfg.Host, Telegraf)
	host := t.cfg.Host
	if slices.Contains(t.cfg.Files[len(t.sources):], s.name) {
		host = External
	}
	t.pages = append(t.pages, page{s.name, root, host == External})
	plugins := pluginsOf(root)
	for _, plugin := range plugins {
		if register(plugin); plugin != "outputs.ocems" && plugin != "outputs.execd" {
			t.unchecked[plugin] = true
		}
	}
	if host == External && (len(root.Fields) != 1 || !slices.Equal(plugins, []string{"outputs.ocems"})) {
		t.cfg.Faults.fault(Failed, "edit "+s.name, "%s: a file of ocems-telegraf may have only [[outputs.ocems]]", s.name)
	}
	c := t.load(s, root)
	if c == nil {
		t.cfg.Faults.fault(Unchecked, "", "%s: its outputs are not checked because Telegraf's loader stops before them", s.name)
		t.found = true
		return
	}
	for _, a := range c.Aggregators {
		if a.Config.DropOriginal {
			t.cfg.Faults.fault(Warning, "give it a namepass without the metrics for the board",
				"%s: aggregators.%s has drop_original: the output does not get the metrics that it aggregates", s.name, a.Config.Name)
		}
	}
	slices.SortStableFunc(c.Outputs, func(a, b *models.RunningOutput) int { return strings.Compare(b.Config.Name, a.Config.Name) })
	own, execd := tablesOf(root, "outputs", "ocems"), tablesOf(root, "outputs", "execd")
	for _, o := range c.Outputs {
		switch x := o.Output.(type) {
		case *ocems.OCEMS:
			t.output(fmt.Sprintf("%s:%d", s.name, own[0].Line), host, o, own[0])
			own = own[1:]
		case *execdStub:
			t.execds = o
			t.execd(fmt.Sprintf("%s:%d", s.name, execd[0].Line), x)
			t.execds = nil
			execd = execd[1:]
		}
	}
}

// load has Telegraf's loader read a file, again without the lines of unknown keys, so that it reports the next mistake too.
func (t *telegrafReader) load(s source, root *ast.Table) *config.Config {
	for {
		c := config.NewConfig()
		c.Agent, c.SecretStores = t.agent, t.stores
		c.Agent.Quiet = true
		err := c.LoadConfigData(s.data, s.name)
		if err == nil {
			return c
		}
		if len(c.UnusedFields) == 0 {
			text := strings.ReplaceAll(err.Error(), "\n", " ")
			if strings.Contains(text, "error parsing data: processing ") { // of a variable; the text around it shows values
				text = innermost(err).Error()
			}
			t.cfg.Faults.fault(Failed, doFor(text, s.row(text)), "%s: %s", s.name, text)
			return nil
		}
		rows := bytes.Split(s.data, []byte("\n"))
		for _, key := range slices.Sorted(maps.Keys(c.UnusedFields)) {
			line, among := 0, reflect.TypeFor[ocems.OCEMS]()
			seen := func(at int, options reflect.Type) { line, among = at, options }
			for _, table := range tablesOf(root, "agent") {
				find(table, reflect.TypeFor[config.AgentConfig](), key, seen)
			}
			for _, table := range tablesOf(root, "outputs", "ocems") {
				find(table, among, key, seen)
			}
			text := fmt.Sprintf("line %d: configuration specified the field %q, but it was not used%s", line, shownKey(key), nearest(key, among, "toml"))
			t.cfg.Faults.fault(Failed, "edit "+s.row(text), "%s: %s", s.name, text)
			if line == 0 || bytes.HasPrefix(bytes.TrimSpace(rows[line-1]), []byte("[")) {
				return nil // without its first line a table would be part of the previous one
			}
			rows[line-1] = nil
		}
		s.data = bytes.Join(rows, []byte("\n"))
		if _, err := toml.Parse(s.data); err != nil { // its value has more lines
			return nil
		}
	}
}

// output adds one [[outputs.ocems]].
func (t *telegrafReader) output(where string, host Host, running *models.RunningOutput, table *ast.Table) {
	t.found = true
	o := &Output{Name: "outputs.ocems", Where: where, Host: host}
	if alias := running.Config.Alias; alias != "" {
		o.Name += "::" + alias
	}
	t.cfg.Outputs = append(t.cfg.Outputs, o)
	t.outputs = append(t.outputs, telegrafOutput{o, running, t.execds})
	for _, key := range hostOptions {
		if host == External && table.Fields[key] != nil {
			o.Faults.fault(Failed, "edit "+o.Where, "%q is Telegraf's own: set it in the [[outputs.execd]] block", key)
		}
	}
}

// finish puts stand-ins for secrets in stores, and has the plugin check its keys.
func (t *telegrafReader) finish(o telegrafOutput) {
	plugin := o.running.Output.(*ocems.OCEMS)
	stored := o.link(t.stores, "public_key", &plugin.PublicKey, standInKey())
	for i, d := range plugin.Devices {
		stored += o.link(t.stores, fmt.Sprintf("device[%d].token_id", i), &d.TokenID, standInToken)
		stored += o.link(t.stores, fmt.Sprintf("device[%d].public_key", i), &d.PublicKey, standInKey())
	}
	if stored > 0 {
		o.Faults.fault(Unchecked, "", "%d of the tokens and keys are in a secret store that only Telegraf can open: not read", stored)
	}
	if err := o.running.Init(); err != nil {
		o.refused(strings.Split(err.Error(), "\n"), func(string) string { return o.Where })
	}
	o.takePlugin(plugin)
	if o.Host == Telegraf {
		o.buffer = o.running
	}
	if b := o.buffer; b != nil {
		o.Buffer = &Buffer{Flush: time.Duration(cmp.Or(b.Config.FlushInterval, time.Duration(t.agent.FlushInterval))),
			Jitter: cmp.Or(b.Config.FlushJitter, time.Duration(t.agent.FlushJitter)), Interval: time.Duration(t.agent.Interval),
			Limit: b.MetricBufferLimit, Batch: b.MetricBatchSize}
	}
}

// link replaces secrets that only Telegraf can open by a stand-in, and returns their number.
func (o *telegrafOutput) link(stores map[string]telegraf.SecretStore, key string, secret *config.Secret, standIn string) (stored int) {
	resolvers := map[string]telegraf.ResolveFunc{}
	for _, ref := range secret.GetUnlinked() {
		store, _, _ := strings.Cut(strings.TrimPrefix(ref, "@{"), ":")
		switch {
		case o.Host == External:
			o.Faults.fault(Failed, "use ${VARIABLE} or a key that ends with _file", "%s: %q: secret stores are not available to an external plugin", key, ref)
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

// tablesOf returns the tables at a path of names.
func tablesOf(t *ast.Table, path ...string) []*ast.Table {
	for i, name := range path {
		switch v := t.Fields[name].(type) {
		case *ast.Table:
			t = v
		case []*ast.Table:
			return v
		default:
			return nil
		}
		if i == len(path)-1 {
			return []*ast.Table{t}
		}
	}
	return nil
}

// pluginsOf returns the plugins in a file, such as inputs.modbus.
func pluginsOf(root *ast.Table) (plugins []string) {
	for _, kind := range []string{"inputs", "plugins", "outputs", "processors", "aggregators", "secretstores"} {
		for _, group := range tablesOf(root, kind) {
			for name := range group.Fields {
				plugins = append(plugins, kind+"."+name)
			}
		}
	}
	return plugins
}

// find visits each place of a key in a table and its subtables where the options do not have the key.
func find(t *ast.Table, options reflect.Type, key string, visit func(line int, among reflect.Type)) {
	if options = element(options); options.Kind() != reflect.Struct {
		return
	}
	known := keysOf(options, "toml")
	for name, v := range t.Fields {
		kv, _ := v.(*ast.KeyValue)
		tables := tablesOf(t, name)
		switch {
		case name == key && known[key] == nil && kv != nil:
			visit(kv.Line, options)
		case name == key && known[key] == nil && tables != nil:
			visit(tables[0].Line, options)
		case known[name] != nil:
			for _, sub := range tables {
				find(sub, known[name], key, visit)
			}
		}
	}
}

var (
	atLine   = regexp.MustCompile(`line (\d+)`)
	comment  = regexp.MustCompile(`(?m)^\s*#.*$`)
	variable = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)`)
)

// row is the file and line in an error text of Telegraf.
func (s source) row(text string) string {
	if m := atLine.FindStringSubmatch(text); m != nil {
		return s.name + ":" + m[1]
	}
	return s.name
}

// variables notes variables that have no default and are not set.
func (t *telegrafReader) variables(s source) {
	for _, m := range variable.FindAllSubmatch(comment.ReplaceAll(s.data, nil), -1) {
		name := string(m[1]) + string(m[2])
		if _, set := os.LookupEnv(name); name != "" && !set {
			t.cfg.Unset = append(t.cfg.Unset, name)
		}
	}
}

// execd reads the file of the ocems-telegraf that an [[outputs.execd]] starts.
func (t *telegrafReader) execd(where string, x *execdStub) {
	if !slices.ContainsFunc(x.Command, func(s string) bool { return strings.HasPrefix(filepath.Base(s), "ocems-telegraf") }) {
		t.unchecked["outputs.execd"] = true
		return
	}
	t.found = true
	fault := func(s Severity, do, format string, args ...any) {
		t.cfg.Faults.fault(s, do, where+": outputs.execd: "+format, args...)
	}
	if x.DataFormat != "influx" {
		fault(Failed, `set data_format = "influx"`, "data_format: ocems-telegraf cannot read %q", x.DataFormat)
	}
	if !x.UseBatchFormat {
		fault(Warning, "set use_batch_format = true", "use_batch_format is not set: a batch with a metric that has only NaN is written again and again, and its readings count each time")
	}
	if x.RestartDelay == nil {
		fault(Warning, `set restart_delay = "10s"`, "restart_delay is not set: a program that fails at start is restarted without a pause")
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
	case slices.Contains(t.cfg.Files, path): // it was given with --config too
	case err != nil:
		fault(Failed, "use an absolute path, or correct the file's permissions", "the file of ocems-telegraf: %v", err)
	default:
		t.cfg.Files = append(t.cfg.Files, path)
		t.file(source{name: path, data: data})
	}
}

// hostOptions are Telegraf's common keys of outputs, which ocems-telegraf refuses.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator", "namedrop",
	"namedrop_separator", "fieldpass", "fielddrop", "fieldinclude", "fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude",
	"metricpass", "metric_batch_size", "metric_buffer_limit", "flush_interval", "flush_jitter", "startup_error_behavior", "labels"}

// isOwn reports whether a file has only [[outputs.ocems]], without Telegraf's own options.
func isOwn(root *ast.Table) bool {
	return len(root.Fields) == 1 && slices.Equal(pluginsOf(root), []string{"outputs.ocems"}) &&
		!slices.ContainsFunc(tablesOf(root, "outputs", "ocems"), func(t *ast.Table) bool {
			return slices.ContainsFunc(hostOptions, func(key string) bool { return t.Fields[key] != nil })
		})
}
