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
	"strconv"
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

// collectorFile is the collector's merged configuration before the components read their parts.
type collectorFile struct {
	Receivers  map[component.ID]map[string]any `mapstructure:"receivers"`
	Processors map[component.ID]map[string]any `mapstructure:"processors"`
	Exporters  map[component.ID]map[string]any `mapstructure:"exporters"`
	Connectors map[component.ID]map[string]any `mapstructure:"connectors"`
	Extensions map[component.ID]map[string]any `mapstructure:"extensions"`
	Service    struct {
		Telemetry  map[string]any                  `mapstructure:"telemetry"`
		Extensions []component.ID                  `mapstructure:"extensions"`
		Pipelines  map[pipeline.ID]collectorStages `mapstructure:"pipelines"`
	} `mapstructure:"service"`
}

// collectorStages are the components of a pipeline.
type collectorStages struct {
	Receivers  []component.ID `mapstructure:"receivers"`
	Processors []component.ID `mapstructure:"processors"`
	Exporters  []component.ID `mapstructure:"exporters"`
}

// groups are the groups of components, by their keys.
func (f *collectorFile) groups() map[string]map[component.ID]map[string]any {
	return map[string]map[component.ID]map[string]any{"receivers": f.Receivers, "processors": f.Processors, "exporters": f.Exporters,
		"connectors": f.Connectors, "extensions": f.Extensions}
}

// compiledIn are the components whose own code reads their configuration.
var compiledIn = map[string]component.Factory{
	"exporters": ocemsexporter.NewFactory(), "processors": ocemsslotprocessor.NewFactory(), "extensions": ocemsstorage.NewFactory(),
}

// collectorReader reads a collector's files.
type collectorReader struct {
	*reader
	places  places
	conf    *confmap.Conf
	file    collectorFile
	configs map[string]component.Config // of compiled-in components, by group and id
	refused map[string][]string         // the host's errors, by group and id
	used    map[string]bool             // group and id in service
}

// collector reads the collector's files. A later file overrides an earlier one.
func (r *reader) collector() {
	r.cfg.Host = Collector
	c := &collectorReader{reader: r, configs: map[string]component.Config{}, refused: map[string][]string{}, used: map[string]bool{}}
	if !c.parse() || !c.resolve() {
		return
	}
	wrong := c.conf.Unmarshal(&c.file)
	for _, line := range errorLines(wrong) {
		r.cfg.Faults.fault(Failed, "edit "+c.mend(line, reflect.TypeFor[collectorFile]()), "%s", line)
	}
	c.decode()
	c.references()
	for _, id := range sortedIDs(c.file.Processors) {
		if cfg, ok := c.configs["processors."+id.String()].(*ocemsslotprocessor.Config); ok {
			o := c.output("processors", id, cfg)
			c.keep(o, o.takeProcessor(cfg), component.KindProcessor, id)
			c.behind(o, id)
		}
	}
	for _, id := range sortedIDs(c.file.Exporters) {
		if cfg, ok := c.configs["exporters."+id.String()].(*ocemsexporter.Config); ok {
			o := c.output("exporters", id, cfg)
			c.keep(o, o.takeExporter(cfg), component.KindExporter, id)
		}
	}
	if len(r.cfg.Outputs) == 0 && wrong == nil {
		r.cfg.Faults.fault(Failed, "give all files that the collector is started with", "there is no exporter `ocems` and no processor `ocems_slot`")
	}
	c.kafka()
	c.leftOut()
}

// parse reads each file separately, so that an error in the YAML names its file.
func (c *collectorReader) parse() (ok bool) {
	ok = true
	for _, s := range c.sources {
		root := &yaml.Node{}
		c.places = append(c.places, place{s.name, root})
		if s.uri != "" {
			continue
		}
		retrieved, err := confmap.NewRetrievedFromYAML(s.data)
		if err == nil {
			_, err = retrieved.AsConf()
		}
		if err == nil {
			err = yaml.Unmarshal(s.data, root)
		}
		if err != nil {
			ok = false
			for line := range strings.SplitSeq(yamlError(err), "\n") {
				c.cfg.Faults.fault(Failed, "edit "+s.name, "%s: %s", s.name, line)
			}
		}
	}
	return ok
}

// resolve merges the files and expands ${...}.
func (c *collectorReader) resolve() bool {
	core, logs := observer.New(zap.WarnLevel)
	set := confmap.ResolverSettings{DefaultScheme: "env", ProviderSettings: confmap.ProviderSettings{Logger: zap.New(core)},
		ProviderFactories: []confmap.ProviderFactory{envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory()}}
	for _, s := range c.sources {
		set.URIs = append(set.URIs, cmp.Or(s.uri, "file:"+s.name))
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
	c.cfg.Faults.fault(Failed, "edit "+c.cfg.Files[0]+"; a variable is written ${env:NAME} or ${env:NAME:-default}", "%s", text)
	return false
}

var resolveSecrets = regexp.MustCompile(`(:-|yaml:)[^"]*|(representation: ).*`) // a default, or a value

// decode has each compiled-in component read and check its part.
func (c *collectorReader) decode() {
	for group, factory := range compiledIn {
		for _, id := range sortedIDs(c.file.groups()[group]) {
			if id.Type() != factory.Type() {
				continue
			}
			cfg := factory.CreateDefaultConfig()
			section, err := c.conf.Sub(group + "::" + id.String())
			if err == nil {
				err = section.Unmarshal(&cfg)
			}
			if err == nil {
				err = xconfmap.Validate(cfg)
			}
			key := group + "." + id.String()
			c.configs[key], c.refused[key] = cfg, errorLines(err)
			for _, line := range c.refused[key] {
				if group == "extensions" { // others are reported with their output
					c.cfg.Faults.fault(Failed, "edit "+c.mend(line, reflect.TypeOf(cfg), group, id.String()), "%s: %s", key, line)
				}
			}
		}
	}
}

// errorLines returns the faults in an error, one for each unknown key.
func errorLines(err error) (lines []string) {
	if err == nil {
		return nil
	}
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
			lines = append(lines, shortQuotes.ReplaceAllString(line, "..."))
		}
	}
	return lines
}

var (
	ofRoot      = regexp.MustCompile(`^'(hostconfig\.collectorFile|\w+\.[A-Z]\w*)?' `) // a component's configuration as a whole
	shortQuotes = regexp.MustCompile(`"[^"]{32,}"|'[^'\[]{32,}'`)                      // longer than any key
	inQuotes    = regexp.MustCompile(`^'([^']*)'`)
	pathStep    = regexp.MustCompile(`[^.:\[\] =]+`)
)

// mend returns the file and line to edit for a fault, and the nearest key to an unknown one.
func (c *collectorReader) mend(line string, t reflect.Type, base ...string) string {
	of, key, unknown := strings.Cut(line, "has invalid keys: ")
	path, _, _ := strings.Cut(of, ": ")
	if quoted := inQuotes.FindStringSubmatch(line); quoted != nil {
		path = quoted[1]
	}
	steps := pathStep.FindAllString(path, -1)
	if !unknown {
		return c.places.find(append(base, steps...)...)
	}
	return c.places.find(append(append(base, steps...), key)...) + nearest(key, typeAt(t, steps), "mapstructure")
}

// typeAt is the type at a path, nil if it is not known.
func typeAt(t reflect.Type, path []string) reflect.Type {
	for _, step := range path {
		if _, err := strconv.Atoi(step); err == nil {
			continue // index of a list
		}
		if t = element(t); t == nil || t.Kind() != reflect.Struct {
			return nil
		}
		t = keysOf(t, "mapstructure")[step]
	}
	return t
}

// references checks the references in service. The collector stops at the first fault; this reports all, in its words.
func (c *collectorReader) references() {
	fault := func(at []string, format string, args ...any) {
		c.cfg.Faults.fault(Failed, "edit "+c.places.find(at...), "%s: %s", strings.Join(at[:min(3, len(at))], "::"), fmt.Sprintf(format, args...))
	}
	check := func(kind string, ids []component.ID, at ...string) {
		if len(ids) == 0 && (kind == "receiver" || kind == "exporter") {
			fault(at[:3], "must have at least one %s", kind)
		}
		for i, id := range ids {
			var known []string
			for group, components := range c.file.groups() {
				if group == kind+"s" || group == "connectors" && (kind == "receiver" || kind == "exporter") {
					known = append(known, texts(sortedIDs(components))...)
					c.used[group+"."+id.String()] = true
				}
			}
			if !slices.Contains(known, id.String()) {
				fault(at, "references %s %q which is not configured; nearest: %s", kind, id, cmp.Or(strings.Join(spec.Nearest(id.String(), known), ", "), "none"))
			}
			if kind == "processor" && slices.Contains(ids[:i], id) {
				fault(at, "references processor %q multiple times", id)
			}
			if len(at) > 2 && !strings.HasPrefix(at[2], "metrics") && strings.HasPrefix(id.Type().String(), "ocems") {
				fault(at, "%s accepts metrics only; put it into a metrics pipeline", id)
			}
		}
	}
	if len(c.file.Service.Pipelines) == 0 {
		fault([]string{"service", "pipelines"}, "service must have at least one pipeline")
	}
	check("extension", c.file.Service.Extensions, "service", "extensions")
	for _, name := range sortedIDs(c.file.Service.Pipelines) {
		p := c.file.Service.Pipelines[name]
		check("receiver", p.Receivers, "service", "pipelines", name.String(), "receivers")
		check("processor", p.Processors, "service", "pipelines", name.String(), "processors")
		check("exporter", p.Exporters, "service", "pipelines", name.String(), "exporters")
	}
}

// leftOut reports components that are not checked and components that never start.
func (c *collectorReader) leftOut() {
	var unchecked, idle []string
	for _, group := range []string{"receivers", "processors", "exporters", "connectors", "extensions"} {
		for _, id := range sortedIDs(c.file.groups()[group]) {
			key := group + "." + id.String()
			if c.configs[key] == nil {
				unchecked = append(unchecked, key)
			}
			if !c.used[key] && (c.configs[key] == nil || group == "extensions") { // outputs report it themselves
				idle = append(idle, key)
			}
		}
	}
	if idle != nil {
		c.cfg.Faults.fault(Warning, "name them in service, or remove them", "never started because service does not name them: %s", strings.Join(idle, ", "))
	}
	if len(c.file.Service.Telemetry) > 0 {
		unchecked = append(unchecked, "service.telemetry")
	}
	if len(unchecked) > 0 {
		c.cfg.Faults.fault(Unchecked, "", "not checked: %s", strings.Join(unchecked, ", "))
	}
}

// output adds an exporter or a processor, with the collector's errors.
func (c *collectorReader) output(group string, id component.ID, cfg component.Config) *Output {
	key := group + "." + id.String()
	o := &Output{Name: key, Where: c.places.find(group, id.String()), Host: Collector}
	c.cfg.Outputs = append(c.cfg.Outputs, o)
	o.refused(c.refused[key], func(line string) string {
		return c.mend(line, reflect.TypeOf(cfg), group, id.String())
	})
	if !c.used[key] {
		o.Faults.fault(Failed, "edit "+o.Where, "service.pipelines: no pipeline has %s: it is never started", id)
	}
	return o
}

// keep sets where an output keeps its state.
func (c *collectorReader) keep(o *Output, storage *component.ID, kind component.Kind, id component.ID) {
	if storage == nil {
		return
	}
	do := "edit " + c.places.find(strings.ToLower(kind.String())+"s", id.String(), "storage")
	if known := texts(c.file.Service.Extensions); !slices.Contains(known, storage.String()) {
		if near := spec.Nearest(storage.String(), known); len(near) > 0 {
			do += "; nearest: " + strings.Join(near, ", ")
		}
		o.Faults.fault(Failed, do, "storage: there is no extension %q in service.extensions", storage)
	} else if cfg, ok := c.configs["extensions."+storage.String()].(*ocemsstorage.Config); !ok {
		o.Faults.fault(Failed, do, "storage: %q cannot list its keys; use an ocems_storage extension", storage)
	} else {
		o.State = &State{Key: "extensions." + storage.String() + ".directory", Directory: cfg.Directory,
			File: filepath.Join(cfg.Directory, ocemsstorage.FileName(kind, id, "")), Create: cfg.CreateDirectory}
	}
}

// kafka warns of receivers that lose messages by their defaults.
func (c *collectorReader) kafka() {
	for _, id := range sortedIDs(c.file.Receivers) {
		if id.Type().String() != "kafka" || !c.used["receivers."+id.String()] {
			continue
		}
		for _, k := range []struct{ section, key, why string }{
			{"message_marking", "after", "a message is marked before it is on disk, and a crash loses it"},
			{"error_backoff", "enabled", "after an error, such as a full disk, the partition stops until the next rebalance"},
		} {
			if keys, _ := c.file.Receivers[id][k.section].(map[string]any); keys[k.key] != true {
				c.cfg.Faults.fault(Warning, fmt.Sprintf("set %s: true in its %s: edit %s", k.key, k.section, c.places.find("receivers", id.String(), k.section)),
					"receivers.%s: %s.%s is not true: %s", id, k.section, k.key, k.why)
			}
		}
	}
}

// behind finds the components that get the slots of an ocems_slot.
func (c *collectorReader) behind(o *Output, id component.ID) {
	seen := map[pipeline.ID]bool{}
	for _, name := range sortedIDs(c.file.Service.Pipelines) {
		if at := slices.Index(c.file.Service.Pipelines[name].Processors, id); at >= 0 {
			c.follow(o, name, at+1, seen)
		}
	}
}

// follow walks a pipeline, from one of its processors on and through connectors.
func (c *collectorReader) follow(o *Output, name pipeline.ID, from int, seen map[pipeline.ID]bool) {
	if seen[name] {
		return
	}
	seen[name] = true
	p := c.file.Service.Pipelines[name]
	for _, id := range p.Processors[from:] {
		o.Behind = append(o.Behind, Stage{Pipeline: name.String(), Kind: "processors", ID: id})
	}
	for _, id := range p.Exporters {
		if _, connects := c.file.Connectors[id]; !connects {
			o.Behind = append(o.Behind, Stage{name.String(), "exporters", id, c.places.find("exporters", id.String(), "sending_queue"), c.file.Exporters[id]})
			continue
		}
		for _, other := range sortedIDs(c.file.Service.Pipelines) {
			if slices.Contains(c.file.Service.Pipelines[other].Receivers, id) {
				c.follow(o, other, 0, seen)
			}
		}
	}
}

func sortedIDs[ID interface {
	comparable
	fmt.Stringer
}, T any](of map[ID]T) []ID {
	return slices.SortedFunc(maps.Keys(of), func(a, b ID) int { return strings.Compare(a.String(), b.String()) })
}

func texts(ids []component.ID) (texts []string) {
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return texts
}

var yamlQuote = regexp.MustCompile("`[^`]*`")

// yamlError is the decoder's text without the values that it quotes, since each may be a token.
func yamlError(err error) string {
	lines := []string{innermost(err).Error()}
	if t := (*yaml.TypeError)(nil); errors.As(err, &t) {
		lines = t.Errors
	}
	return shortQuotes.ReplaceAllString(yamlQuote.ReplaceAllString(strings.Join(lines, "\n"), "the value"), "...")
}

// places are the parsed files, for the lines of their keys.
type places []place

type place struct {
	name string
	root *yaml.Node
}

// find returns the file and line of a key, or of its nearest existing parent.
func (p places) find(path ...string) (at string) {
	at, deepest := p[0].name, 1
	for _, place := range p {
		if depth, line := descend(place.root, path); depth >= deepest {
			deepest, at = depth, fmt.Sprintf("%s:%d", place.name, line)
		}
	}
	return at
}

// descend follows a path as far as it exists, and returns that depth and its line.
func descend(n *yaml.Node, path []string) (depth, line int) {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for i, key := range n.Content {
		value := key
		switch {
		case len(path) == 0, n.Kind == yaml.MappingNode && (i%2 == 1 || key.Value != path[0]), n.Kind == yaml.SequenceNode && strconv.Itoa(i) != path[0]:
			continue
		case n.Kind == yaml.MappingNode:
			value = n.Content[i+1]
		}
		depth, line = descend(value, path[1:])
		return depth + 1, cmp.Or(line, key.Line)
	}
	return 0, 0
}
