package hostconfig

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/influxdata/telegraf/config"

	"github.com/ocems-io/ocems/ocems/spec"
)

// Severity is how much a fault matters.
type Severity int

// A Failed configuration does not start, or does not do what it says. A Warning costs readings or sleep one day. What is
// Unchecked cannot be known from the files.
const (
	Failed Severity = iota
	Warning
	Unchecked
)

// Fault is something wrong with a configuration. Its texts hold no token and no key.
type Fault struct {
	Severity Severity
	Text     string // what is wrong
	Do       string // what mends it
}

type faults []Fault

func (f *faults) fault(s Severity, do, format string, args ...any) {
	*f = append(*f, Fault{s, fmt.Sprintf(format, args...), do})
}

// Config is a host's configuration.
type Config struct {
	Host    Host
	Files   []string // in the order they were read
	Outputs []*Output
	Faults  faults   // of no output in particular
	Unset   []string // variables that are named, have no default and are not in the environment
}

// Options is what Load needs to know beside the files.
type Options struct {
	// Environment has variables that the host has and this process has not, or has otherwise.
	Environment map[string]string
	// Set is the collector's --set, each key=value.
	Set []string
	// Host is which program reads the files; "" to tell it by the files.
	Host Host
}

// source is a file, or another place that the collector takes a configuration from.
type source struct {
	name string // as it may be shown: a URI can hold a secret
	uri  string // of the collector, "" for a file
	data []byte
}

type reader struct {
	opt     Options
	cfg     *Config
	sources []source
}

// Load reads the files as the host does: YAML and URIs for the collector, TOML, or a directory of *.conf, for Telegraf. A
// file of nothing but [[outputs.ocems]] is taken for one of ocems-telegraf. The error is that of reading; what is wrong
// inside is among the faults.
func Load(paths []string, opt Options) (*Config, error) {
	r := &reader{opt: opt, cfg: &Config{Host: opt.Host}}
	host := Host("")
	for _, path := range paths {
		of, err := r.add(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if host != "" && of != host {
			return nil, fmt.Errorf("reading the configuration: %s is that of another program than %s: give those of one host", r.sources[len(r.sources)-1].name, r.sources[0].name)
		}
		host = of
	}
	if host == "" {
		return nil, errors.New("no configuration is given")
	}
	if opt.Host != "" && (opt.Host == Collector) != (host == Collector) {
		return nil, fmt.Errorf("reading the configuration: %s is not a configuration of %s", r.sources[0].name, opt.Host)
	}
	for _, set := range opt.Set {
		key, value, ok := strings.Cut(set, "=")
		switch {
		case host != Collector:
			return nil, errors.New("--set is the collector's, and the files are Telegraf's")
		case !ok:
			return nil, errors.New("--set: there is no = in it: write key=value")
		}
		r.sources = append(r.sources, source{name: "--set " + key, uri: "yaml:" + strings.TrimSpace(strings.ReplaceAll(key, ".", "::")) + ": " + strings.TrimSpace(value)})
	}
	for _, s := range r.sources {
		r.cfg.Files = append(r.cfg.Files, s.name)
	}
	loading.Lock()
	defer loading.Unlock()
	defer setEnvironment(opt.Environment)()
	if host == Collector {
		r.collector()
	} else {
		r.telegraf()
	}
	slices.Sort(r.cfg.Unset)
	r.cfg.Unset = slices.Compact(r.cfg.Unset)
	return r.cfg, nil
}

// uriScheme is that of a collector's URI; a drive of Windows has one letter.
var uriScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]+):`)

// add reads a file, or the files of a directory, and tells the host by their names.
func (r *reader) add(path string) (host Host, err error) {
	if scheme := uriScheme.FindStringSubmatch(path); scheme != nil && scheme[1] != "file" {
		r.sources = append(r.sources, source{name: scheme[1] + ":...", uri: path})
		return Collector, nil
	} else if scheme != nil {
		path, host = strings.TrimPrefix(path, "file:"), Collector
	}
	list := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if list, err = config.WalkDirectory(path); err != nil {
			return "", err
		}
		if len(list) == 0 {
			return "", fmt.Errorf("%s has no *.conf", path)
		}
	}
	for _, name := range list {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		r.sources = append(r.sources, source{name: name, data: data})
		switch ext := strings.ToLower(filepath.Ext(name)); {
		case host == Collector:
		case ext == ".yaml", ext == ".yml":
			host = Collector
		case ext == ".conf", ext == ".toml":
			host = Telegraf
		default:
			return "", fmt.Errorf("%s ends neither in .conf or .toml, as Telegraf's does, nor in .yaml or .yml, as the collector's", name)
		}
	}
	return host, nil
}

// loading guards what the hosts' code has one of in a process: the environment, Telegraf's list of plugins and its log.
var loading sync.Mutex

// setEnvironment gives the hosts' code, which asks the process, the service's variables; restore takes them back.
func setEnvironment(variables map[string]string) (restore func()) {
	before := os.Environ()
	for name, value := range variables {
		_ = os.Setenv(name, value)
	}
	return func() {
		for name := range variables {
			_ = os.Unsetenv(name)
		}
		for _, v := range before {
			if name, value, _ := strings.Cut(v, "="); name != "" {
				_ = os.Setenv(name, value)
			}
		}
	}
}

// refused notes what the host said of an output, a fault a line, each with what mends it.
func (o *Output) refused(lines []string, where func(line string) string) {
	for _, line := range lines {
		o.Faults.fault(Failed, doFor(line, where(line)), "%s", line)
	}
}

// doFor is what mends what a host refuses.
func doFor(text, where string) string {
	switch {
	case strings.Contains(text, "missing; give token_id"):
		return "give it in " + where + "; if a variable holds it, set that, or run this with the environment of the service: --env-file FILE"
	case strings.Contains(text, "is not set in the environment"):
		return "set the variable, or run this with the environment of the service: --env-file FILE"
	case strings.Contains(text, ": permission denied"):
		return "let the service's user read the file, and run this as that user"
	case strings.Contains(text, ": no such file or directory") && !strings.Contains(text, "not a file's name"):
		return "put the file there, or mend its path in " + where
	}
	return "edit " + where
}

// keysOf are the keys of a struct under the given tag, and of those embedded in it.
func keysOf(t reflect.Type, tag string) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get(tag), ",")
		switch {
		case f.Anonymous && name == "" || strings.Contains(options, "squash"):
			maps.Copy(out, keysOf(f.Type, tag))
		case f.IsExported() && name != "" && name != "-":
			out[name] = f.Type
		case f.IsExported() && name == "" && tag == "toml": // as Telegraf's decoder finds it
			out[strings.ToLower(wordBegins.ReplaceAllString(f.Name, "${1}_${2}"))] = f.Type
		}
	}
	return out
}

var wordBegins = regexp.MustCompile(`([a-z])([A-Z])`)

// element is what a list or a pointer holds.
func element(t reflect.Type) reflect.Type {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	return t
}

// nearest are the known keys of a struct that an unknown one may have been meant for.
func nearest(key string, t reflect.Type, tag string) string {
	if t = element(t); t == nil || t.Kind() != reflect.Struct {
		return ""
	}
	return "; nearest: " + strings.Join(spec.Nearest(key, slices.Sorted(maps.Keys(keysOf(t, tag)))), ", ")
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]{0,30}$`)

// shownKey is a key as it may be shown: where a colon or a quote is missing, a secret stands in it.
func shownKey(key string) string {
	if plainKey.MatchString(key) {
		return key
	}
	return key[:min(8, len(key))] + "..."
}

// innermost is an error's innermost cause.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
