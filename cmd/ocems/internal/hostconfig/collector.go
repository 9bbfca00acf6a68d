package hostconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/pipeline"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/exporter/ocemsexporter"
	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/processor/ocemsslotprocessor"
)

// collectorFile is what the collector makes of its files before the components read their parts.
type collectorFile struct {
	Receivers  map[component.ID]map[string]any `mapstructure:"receivers"`
	Processors map[component.ID]map[string]any `mapstructure:"processors"`
	Exporters  map[component.ID]map[string]any `mapstructure:"exporters"`
	Connectors map[component.ID]map[string]any `mapstructure:"connectors"`
	Extensions map[component.ID]map[string]any `mapstructure:"extensions"`
	Service    struct {
		Telemetry  map[string]any                   `mapstructure:"telemetry"`
		Extensions []component.ID                   `mapstructure:"extensions"`
		Pipelines  map[pipeline.ID]*collectorStages `mapstructure:"pipelines"`
	} `mapstructure:"service"`
}

// collectorStages are the components of a pipeline.
type collectorStages struct {
	Receivers  []component.ID `mapstructure:"receivers"`
	Processors []component.ID `mapstructure:"processors"`
	Exporters  []component.ID `mapstructure:"exporters"`
}

func (f *collectorFile) groups() []collectorGroup {
	return []collectorGroup{{"receivers", f.Receivers}, {"processors", f.Processors}, {"exporters", f.Exporters}, {"connectors", f.Connectors}, {"extensions", f.Extensions}}
}

type collectorGroup struct {
	name       string
	components map[component.ID]map[string]any
}

// compiledIn are the components that are read by their own code.
var compiledIn = map[string][]component.Factory{
	"exporters":  {ocemsexporter.NewFactory()},
	"processors": {ocemsslotprocessor.NewFactory()},
	"extensions": {ocemsstorage.NewFactory()},
}

// collectorReader is one reading of a collector's files.
type collectorReader struct {
	*reader
	places  places
	conf    *confmap.Conf
	file    collectorFile
	configs map[string]component.Config // of what is compiled in, by group and id
	refused map[string]string           // the host's words of each
	used    map[string]bool             // what service names
}

// collector reads the collector's files, of which a later one changes the ones before.
func (r *reader) collector(sources []source) {
	r.cfg.Host = Collector
	c := &collectorReader{reader: r, configs: map[string]component.Config{}, refused: map[string]string{}, used: map[string]bool{}}
	if !c.parse(sources) || !c.resolve(sources) {
		return
	}
	wrong := c.conf.Unmarshal(&c.file)
	if wrong != nil {
		for _, line := range decodeLines(wrong) {
			r.fault(Failed, c.mend(line, reflect.TypeFor[collectorFile]()), "%s", line)
		}
	}
	c.decode()
	c.references()
	for _, id := range sortedIDs(c.file.Exporters) {
		if id.Type() == ocemsexporter.NewFactory().Type() {
			c.output(id)
		}
	}
	if len(r.cfg.Outputs) == 0 && wrong == nil {
		r.fault(Failed, "give the file, or all the files, that the collector is started with", "there is no exporter `ocems`")
	}
	c.leftOut()
}

// parse reads each file by itself, so that a mistake in the YAML is said of the file that it is in.
func (c *collectorReader) parse(sources []source) (ok bool) {
	ok = true
	for _, s := range sources {
		if s.uri != "" {
			c.places = append(c.places, place{s.name, &yaml.Node{}})
			continue
		}
		retrieved, err := confmap.NewRetrievedFromYAML(s.data)
		if err == nil {
			_, err = retrieved.AsConf()
		}
		var root yaml.Node
		if err == nil {
			err = yaml.Unmarshal(s.data, &root)
		}
		if err != nil {
			for line := range strings.SplitSeq(yamlError(err), "\n") {
				c.fault(Failed, "edit "+s.name, "%s: %s", s.name, line)
			}
			ok = false
		}
		c.places = append(c.places, place{s.name, &root})
	}
	return ok
}

// resolve merges the files and puts in what ${...} stands for.
func (c *collectorReader) resolve(sources []source) bool {
	core, logs := observer.New(zap.WarnLevel)
	set := confmap.ResolverSettings{DefaultScheme: "env", ProviderSettings: confmap.ProviderSettings{Logger: zap.New(core)},
		ProviderFactories: []confmap.ProviderFactory{envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory()}}
	for _, s := range sources {
		set.URIs = append(set.URIs, s.uri)
		if s.uri == "" {
			set.URIs[len(set.URIs)-1] = "file:" + s.name
		}
	}
	resolver, err := confmap.NewResolver(set)
	if err == nil {
		c.conf, err = resolver.Resolve(context.Background())
		err = errors.Join(err, resolver.Shutdown(context.Background()))
	}
	for _, entry := range logs.All() {
		if name, ok := entry.ContextMap()["name"].(string); ok {
			c.cfg.Unset = append(c.cfg.Unset, name)
		}
	}
	if err == nil {
		return true
	}
	text := resolveSecrets.ReplaceAllString(yamlQuote.ReplaceAllString(err.Error(), "the value"), "$1$2...")
	do := "edit " + c.cfg.Files[0]
	if m := unsupportedScheme.FindStringSubmatch(text); m != nil {
		do = "have the collector check it: the providers here are env, file and yaml"
		if name := m[1] + m[2]; name != strings.ToLower(name) {
			do = fmt.Sprintf("write ${env:%[1]s} or ${env:%[1]s:-default}", name)
		}
	}
	c.fault(Failed, do, "%s", text)
	return false
}

var (
	resolveSecrets    = regexp.MustCompile(`(:-|yaml:)[^"]*|(representation: ).*`) // a default, or a value
	unsupportedScheme = regexp.MustCompile(`scheme "([^"]*)" is not supported|invalid uri: "(\w+):`)
)

// decode has each component that is compiled in read its part, and check it.
func (c *collectorReader) decode() {
	for _, group := range c.file.groups() {
		for _, id := range sortedIDs(group.components) {
			i := slices.IndexFunc(compiledIn[group.name], func(f component.Factory) bool { return f.Type() == id.Type() })
			if i < 0 {
				continue
			}
			cfg := compiledIn[group.name][i].CreateDefaultConfig()
			key := group.name + "." + id.String()
			var lines []string
			section, err := c.conf.Sub(group.name)
			if err == nil {
				section, err = section.Sub(id.String())
			}
			if err == nil {
				err = section.Unmarshal(&cfg)
			}
			if err != nil {
				lines = decodeLines(err)
			}
			if err := xconfmap.Validate(cfg); err != nil {
				unread := lines
				for line := range strings.SplitSeq(err.Error(), "\n") {
					path, _, _ := strings.Cut(line, ": ")
					if !slices.ContainsFunc(unread, func(s string) bool { return strings.HasPrefix(s, "'"+path+"' ") }) { // or it is missing for that
						lines = append(lines, line)
					}
				}
			}
			c.configs[key], c.refused[key] = cfg, strings.Join(lines, "\n")
			if group.name == "exporters" {
				continue // said of the output
			}
			for _, line := range lines {
				c.fault(Failed, c.mend(line, reflect.TypeOf(cfg), group.name, id.String()), "%s: %s", key, line)
			}
		}
	}
}

// decodeLines are the faults of an error of decoding, an unknown key each by itself.
func decodeLines(err error) (lines []string) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		line = ofRoot.ReplaceAllString(line, "")
		where, list, unknown := strings.Cut(line, "has invalid keys: ")
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "decoding failed due to"):
		case unknown:
			for key := range strings.SplitSeq(list, ", ") {
				lines = append(lines, where+"has invalid keys: "+shownKey(key))
			}
		default:
			lines = append(lines, shortQuotes.ReplaceAllStringFunc(line, func(quoted string) string {
				return quoted[:1] + shownKey(quoted[1:len(quoted)-1]) + quoted[len(quoted)-1:]
			}))
		}
	}
	return lines
}

// ofRoot is what the decoder calls a component's configuration as a whole.
var ofRoot = regexp.MustCompile(`^'(hostconfig\.collectorFile|\w+\.[A-Z]\w*)?' `)

// shortQuotes finds quoted words that are longer than any key, or are no key.
var shortQuotes = regexp.MustCompile(`"[^"]{32,}"|'[^'\[]{32,}'`)

var (
	wantedType = regexp.MustCompile(` expected type '(?:registry\.)?(\w+)', got unconvertible type`)
	inQuotes   = regexp.MustCompile(`'([^']*)'`)
	pathStep   = regexp.MustCompile(`[^.:\[\] =]+`)
)

// mend says which line of which file to edit for a fault, and the nearest key to one that is not known.
func (c *collectorReader) mend(line string, t reflect.Type, base ...string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(line, "has invalid keys: "), ": ")
	if quoted := inQuotes.FindStringSubmatch(line); quoted != nil {
		path = quoted[1]
	}
	steps := pathStep.FindAllString(path, -1)
	of, key, unknown := strings.Cut(line, "has invalid keys: ")
	if of == "" {
		steps = nil
	}
	if !unknown {
		do := "edit " + c.places.find(append(base, steps...)...)
		if wants := wantedType.FindStringSubmatch(line); wants != nil {
			do += map[string]string{"string": ": put it in quotes", "int": ": write a whole number, without quotes", "bool": ": write true or false",
				"float64": ": write a number, without quotes", "Number": ": write a number, without quotes"}[wants[1]]
		}
		return do
	}
	do := "edit " + c.places.find(append(append(base, steps...), key)...)
	if near := nearest(key, typeAt(t, steps), "mapstructure"); near != "" {
		do += "; nearest: " + near
	}
	return do
}

// typeAt is the type of what a path leads to, nil where that is not known.
func typeAt(t reflect.Type, path []string) reflect.Type {
	for _, step := range path {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Slice:
			t = t.Elem()
		case reflect.Struct:
			if t = keysOf(t, "mapstructure")[step]; t == nil {
				return nil
			}
		default:
			return nil
		}
	}
	return t
}

// references checks that what is named is there, as the collector does in its words, but all of it.
func (c *collectorReader) references() {
	f := &c.file
	fault := func(at []string, format string, args ...any) {
		c.fault(Failed, "edit "+c.places.find(at...), format, args...)
	}
	if len(f.Receivers) == 0 {
		fault(nil, "no receiver configuration specified in config")
	}
	if len(f.Exporters) == 0 {
		fault(nil, "no exporter configuration specified in config")
	}
	if len(f.Service.Pipelines) == 0 {
		fault([]string{"service"}, "service::pipelines: service must have at least one pipeline")
	}
	for _, id := range sortedIDs(f.Connectors) {
		for _, group := range f.groups() {
			if _, both := group.components[id]; both && (group.name == "exporters" || group.name == "receivers") {
				fault([]string{"connectors", id.String()}, "connectors::%s: ambiguous ID: there is a %q in %s too; rename one", id, id, group.name)
			}
		}
	}
	check := func(at []string, where, kind string, ids []component.ID, among ...string) {
		for _, id := range ids {
			var known []string
			found := false
			for _, group := range f.groups() {
				if !slices.Contains(among, group.name) {
					continue
				}
				if _, ok := group.components[id]; ok {
					found, c.used[group.name+"."+id.String()] = true, true
				}
				known = append(known, idTexts(sortedIDs(group.components))...)
			}
			if near := spec.Nearest(id.String(), known); !found {
				fault(at, "%s: references %s %q which is not configured; nearest: %s", where, kind, id, cmp.Or(strings.Join(near, ", "), "none"))
			}
		}
	}
	check([]string{"service", "extensions"}, "service::extensions", "extension", f.Service.Extensions, "extensions")
	for _, name := range sortedIDs(f.Service.Pipelines) {
		p := f.Service.Pipelines[name]
		if p == nil {
			p = &collectorStages{}
		}
		at, where := []string{"service", "pipelines", name.String()}, "service::pipelines::"+name.String()
		if len(p.Receivers) == 0 {
			fault(at, "%s: must have at least one receiver", where)
		}
		if len(p.Exporters) == 0 {
			fault(at, "%s: must have at least one exporter", where)
		}
		check(append(at, "receivers"), where, "receiver", p.Receivers, "receivers", "connectors")
		check(append(at, "processors"), where, "processor", p.Processors, "processors")
		check(append(at, "exporters"), where, "exporter", p.Exporters, "exporters", "connectors")
		for i, id := range p.Processors {
			if slices.Contains(p.Processors[:i], id) {
				fault(append(at, "processors"), "%s: references processor %q multiple times", where, id)
			}
		}
	}
}

// leftOut names what was not checked, and what is never started.
func (c *collectorReader) leftOut() {
	var unchecked, idle []string
	for _, group := range c.file.groups() {
		for _, id := range sortedIDs(group.components) {
			key := group.name + "." + id.String()
			if c.configs[key] == nil {
				unchecked = append(unchecked, key)
			}
			if !c.used[key] && (group.name != "exporters" || c.configs[key] == nil) { // of an output it is said there
				idle = append(idle, key)
			}
		}
	}
	if len(c.file.Service.Telemetry) > 0 {
		unchecked = append(unchecked, "service.telemetry")
	}
	if idle != nil {
		c.fault(Warning, "name them in service, or take them out", "never started, since service does not name them: %s", strings.Join(idle, ", "))
	}
	if unchecked != nil {
		c.fault(Unchecked, "", "not checked: %s", strings.Join(unchecked, ", "))
	}
}

// output looks at an exporter and at what stands before it.
func (c *collectorReader) output(id component.ID) {
	key := "exporters." + id.String()
	o := &Output{Name: key, Where: c.places.find("exporters", id.String()), Host: Collector}
	c.cfg.Outputs = append(c.cfg.Outputs, o)
	cfg := c.configs[key]
	storage := o.takeExporter(cfg)
	for line := range strings.SplitSeq(c.refused[key], "\n") {
		o.refused(line, strings.TrimPrefix(c.mend(line, reflect.TypeOf(cfg), "exporters", id.String()), "edit "))
	}
	o.checkShort("http.timeout")
	if storage == nil {
		o.fault(Warning, "name an ocems_storage extension as storage", "storage: not set: open windows and what waits to be sent are in memory, and a restart loses them")
	} else {
		o.Outbox = c.storage(o, "storage", *storage, component.KindExporter, id)
	}
	if o.AuditFile == "" {
		o.fault(Warning, "set audit_file", "audit_file: not set: final outcomes go to the log only")
	}
	for _, name := range c.pipelines(o, id) {
		if cfg := c.configs["processors."+name.String()]; cfg != nil {
			c.slots(o, name, slotsOf(cfg))
		}
	}
}

// slots looks at an ocems_slot that stands before an exporter.
func (c *collectorReader) slots(o *Output, name component.ID, s collectorSlots) {
	at := "processors." + name.String() + ": "
	o.Stamp = s.stamp
	if s.auditFile != "" {
		o.Audits = append(o.Audits, s.auditFile)
	}
	if s.storage == nil {
		o.fault(Warning, "name the storage extension as storage of "+name.String(), "%sstorage: not set: open windows are in memory, and a restart loses up to 15 minutes of readings", at)
	} else if store := c.storage(o, at+"storage", *s.storage, component.KindProcessor, name); store != nil {
		o.Slots = store
	}
}

// storage finds a storage extension and says what is wrong with it.
func (c *collectorReader) storage(o *Output, key string, id component.ID, kind component.Kind, of component.ID) *Store {
	do := "edit " + c.places.find(strings.ToLower(kind.String())+"s", of.String(), "storage")
	if _, ok := c.file.Extensions[id]; !ok {
		known := idTexts(sortedIDs(c.file.Extensions))
		if len(known) == 0 {
			known = []string{"ocems_storage"}
		}
		o.fault(Failed, do, "%s: there is no extension %q; nearest: %s", key, id, strings.Join(spec.Nearest(id.String(), known), ", "))
		return nil
	}
	if !slices.Contains(c.file.Service.Extensions, id) {
		o.fault(Failed, "edit "+c.places.find("service", "extensions"), "%s: there is no extension %q in service.extensions; add it", key, id)
	}
	cfg := c.configs["extensions."+id.String()]
	if cfg == nil {
		o.fault(Failed, do, "%s: %q cannot list its keys; use an ocems_storage extension", key, id)
		return nil
	}
	directory, create := storageOf(cfg)
	return &Store{Key: "extensions." + id.String() + ".directory", Directory: directory,
		File: filepath.Join(directory, ocemsstorage.FileName(kind, of, "")), Create: create}
}

// mayDrop are processors that change or drop what passes.
var mayDrop = []string{"cumulativetodelta", "deltatocumulative", "deltatorate", "metricstarttime", "filter", "probabilistic_sampler", "interval"}

// pipelines looks at the pipelines that the exporter stands in, and returns the ocems_slot processors of them.
func (c *collectorReader) pipelines(o *Output, id component.ID) (slots []component.ID) {
	in := 0
	for _, name := range sortedIDs(c.file.Service.Pipelines) {
		p := c.file.Service.Pipelines[name]
		if p == nil || !slices.Contains(p.Exporters, id) {
			continue
		}
		in++
		if name.Signal() != pipeline.SignalMetrics {
			o.failed("service.pipelines.%s: %s takes metrics only; put it into a pipeline of metrics", name, id)
			continue
		}
		last := ""
		for _, processor := range p.Processors {
			switch kind := processor.Type().String(); {
			case kind == "ocems_slot":
				if last != "" {
					o.failed("service.pipelines.%s: %s comes after %s: keep one", name, processor, last)
				}
				last = processor.String()
				slots = append(slots, processor)
			case kind == "batch" && last != "":
				o.fault(Warning, "put "+processor.String()+" before "+last+", or leave it out", "service.pipelines.%s: %s stands between %s and %s: it holds finished slots in memory, and a crash loses them",
					name, processor, last, id)
			case slices.Contains(mayDrop, kind) && last != "":
				o.fault(Warning, "put "+processor.String()+" before "+last, "service.pipelines.%s: %s stands between %s and %s: it may change or drop finished slots", name, processor, last, id)
			}
		}
	}
	if in == 0 {
		o.failed("service.pipelines: no pipeline has the exporter %s: it is never started", id)
	}
	slices.SortFunc(slots, func(a, b component.ID) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(slots)
}

func sortedIDs[ID interface {
	comparable
	fmt.Stringer
}, T any](of map[ID]T) []ID {
	return slices.SortedFunc(maps.Keys(of), func(a, b ID) int { return strings.Compare(a.String(), b.String()) })
}

func idTexts(ids []component.ID) (texts []string) {
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return texts
}

var (
	yamlQuote = regexp.MustCompile("`[^`]*`")
	yamlType  = regexp.MustCompile(` into \S+`)
)

// yamlError is the decoder's text without the values that it quotes, any of which may be the token, and without the
// names of types in here.
func yamlError(err error) string {
	inner := innermost(err)
	lines := []string{inner.Error()}
	if t := (*yaml.TypeError)(nil); errors.As(err, &t) {
		lines = t.Errors
	}
	for i, line := range lines {
		line = yamlQuote.ReplaceAllString(strings.TrimPrefix(line, "yaml: "), "the value")
		line = shortQuotes.ReplaceAllString(line, "...")
		lines[i] = yamlType.ReplaceAllString(line, "")
	}
	return strings.Join(lines, "\n")
}

// places are the files as they are written, for the lines of their keys.
type places []place

type place struct {
	name string
	root *yaml.Node
}

// find is the file and line of a key, or of the last key above it that is there.
func (p places) find(path ...string) string {
	deepest, at := 0, ""
	for _, place := range p {
		depth, line := descend(place.root, path)
		if depth >= deepest && depth > 0 {
			deepest, at = depth, fmt.Sprintf("%s:%d", place.name, line)
		}
	}
	if at == "" && len(p) > 0 {
		return p[0].name
	}
	return at
}

// descend goes along a path as far as it leads, and returns how far that is and on which line.
func descend(n *yaml.Node, path []string) (depth, line int) {
	for n != nil && n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || len(path) == 0 {
		return 0, 0
	}
	for i, key := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode && fmt.Sprint(i) == path[0]:
			depth, line = descend(key, path[1:])
			return depth + 1, max(line, key.Line)
		case n.Kind != yaml.MappingNode || i%2 == 1:
		case plainID(key.Value) == path[0]:
			depth, line = descend(n.Content[i+1], path[1:])
			if depth == 0 {
				line = key.Line
			}
			return depth + 1, line
		case key.ShortTag() == "!!merge":
			if d, l := descend(n.Content[i+1], path); d > depth {
				depth, line = d, l
			}
		}
	}
	return depth, line
}

// plainID is the name of a component without the spaces that it may have around its slash.
func plainID(id string) string {
	kind, name, named := strings.Cut(id, "/")
	if !named {
		return strings.TrimSpace(id)
	}
	return strings.TrimSpace(kind) + "/" + strings.TrimSpace(name)
}
