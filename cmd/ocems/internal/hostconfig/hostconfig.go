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

// Severity is the severity of a fault.
type Severity int

// Failed: the host does not start, or does not do what the configuration says. Warning: readings may be lost later.
// Unchecked: the files do not tell.
const (
	Failed Severity = iota
	Warning
	Unchecked
)

// Fault is something wrong with a configuration. Its texts hold no token and no key.
type Fault struct {
	Severity Severity
	Text     string // the fault
	Do       string // the cure
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
	Faults  faults   // those of no output
	Unset   []string // variables that are named, have no default and are not in the environment
}

// Options are the options of Load.
type Options struct {
	// Environment has the host's variables that this process lacks or has with other values.
	Environment map[string]string
	// Set is the collector's --set, each key=value.
	Set []string
	// Host is the program that reads the files; "" to detect it.
	Host Host
}

// source is a file or another source of a collector's configuration.
type source struct {
	name string // safe to show: a URI may hold a secret
	uri  string // of the collector, "" for a file
	data []byte
}

type reader struct {
	opt     Options
	cfg     *Config
	sources []source
}

// Load reads the files as the host does: YAML and URIs for the collector, TOML or a directory of *.conf for Telegraf. A
// file that has only [[outputs.ocems]] is one of ocems-telegraf. The error is that of reading; faults of the content are in
// Faults.
func Load(paths []string, opt Options) (*Config, error) {
	r := &reader{opt: opt, cfg: &Config{Host: opt.Host}}
	host := Host("")
	for _, path := range paths {
		of, err := r.add(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if host != "" && of != host {
			return nil, fmt.Errorf("reading the configuration: %s and %s belong to different programs: give the files of one host", r.sources[len(r.sources)-1].name, r.sources[0].name)
		}
		host = of
	}
	if host == "" {
		return nil, errors.New("no configuration given: --config FILE")
	}
	if opt.Host != "" && (opt.Host == Collector) != (host == Collector) {
		return nil, fmt.Errorf("reading the configuration: %s is not a configuration of %s", r.sources[0].name, opt.Host)
	}
	for _, set := range opt.Set {
		key, value, ok := strings.Cut(set, "=")
		switch {
		case host != Collector:
			return nil, errors.New("--set is for the collector only, and the files are Telegraf's")
		case !ok:
			return nil, errors.New("--set: it has no =: write key=value")
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

// uriScheme is that of a collector's URI; a Windows drive has one letter.
var uriScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]+):`)

// add reads a file, or the files of a directory, and detects the host by their names.
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
			return "", fmt.Errorf("%s: unknown ending: Telegraf's files end in .conf or .toml, the collector's in .yaml or .yml", name)
		}
	}
	return host, nil
}

// loading guards the process-wide state of the hosts' code: the environment, Telegraf's list of plugins and its log.
var loading sync.Mutex

// setEnvironment sets the service's variables in this process, where the hosts' code looks them up; restore undoes it.
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

// refused notes the host's errors of an output, one fault for each line, with its cure.
func (o *Output) refused(lines []string, where func(line string) string) {
	for _, line := range lines {
		o.Faults.fault(Failed, doFor(line, where(line)), "%s", line)
	}
}

// doFor is the cure for an error of the host.
func doFor(text, where string) string {
	switch {
	case strings.Contains(text, "missing; give token_id"):
		return "give it in " + where + "; if it is in a variable, set the variable here too, or give the service's environment: --env-file FILE"
	case strings.Contains(text, "is not set in the environment"):
		return "set the variable, or give the service's environment: --env-file FILE"
	case strings.Contains(text, ": permission denied"):
		return "let the service's user read the file, and run this as that user"
	case strings.Contains(text, ": no such file or directory") && !strings.Contains(text, "not a file's name"):
		return "put the file there, or correct its path in " + where
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
		case f.IsExported() && name == "" && tag == "toml": // as Telegraf's decoder names it
			out[strings.ToLower(wordBegins.ReplaceAllString(f.Name, "${1}_${2}"))] = f.Type
		}
	}
	return out
}

var wordBegins = regexp.MustCompile(`([a-z])([A-Z])`)

// element is the element type of a list or pointer.
func element(t reflect.Type) reflect.Type {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	return t
}

// nearest lists the known keys of a struct that resemble an unknown one.
func nearest(key string, t reflect.Type, tag string) string {
	if t = element(t); t == nil || t.Kind() != reflect.Struct {
		return ""
	}
	return "; nearest: " + strings.Join(spec.Nearest(key, slices.Sorted(maps.Keys(keysOf(t, tag)))), ", ")
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]{0,30}$`)

// shownKey is a key that is safe to show: if a colon or a quote is missing, a key may contain a secret.
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
