package hostconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Host is a program that reports to the board.
type Host string

// The hosts. External is the output as an external plugin beside a Telegraf as it is.
const (
	Telegraf  Host = "Telegraf"
	External  Host = "ocems-telegraf"
	Collector Host = "OpenTelemetry collector"
)

// DefaultEndpoint is where readings go when no endpoint is configured (spec 2.1).
const DefaultEndpoint = "https://cems.cpcb.gov.in/v1.0/industry/data"

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
	Text     string // what is wrong, with key, value and nearest valid value
	Do       string // what mends it
}

// Config is a host's configuration.
type Config struct {
	Host    Host
	Files   []string // in the order they were read
	Outputs []*Output
	Faults  []Fault  // of no output in particular
	Unset   []string // variables that are named, have no default and are not in the environment
}

// Output is one [[outputs.ocems]] or one `ocems` exporter.
type Output struct {
	Name  string // outputs.ocems or exporters.ocems/name
	Where string // file:line
	Host  Host

	Endpoint  string
	DryRun    bool
	Names     registry.Config
	Client    Client
	Unread    bool     // the host refuses the block as a whole: what follows is not known
	Outbox    *Store   // of the open windows and of what waits; nil: in memory
	Slots     *Store   // of an ocems_slot before it; nil: there is none, or it is in memory
	AuditFile string   // "" for none
	Audits    []string // other trails that belong to it
	Stamp     string   // end or start

	Faults []Fault
}

// Store is a place on disk where a host keeps what must not be lost.
type Store struct {
	Key       string // that names it, such as state_directory
	Directory string
	File      string // path of the bbolt file
	Create    bool   // the host makes the directory
}

// Client is how the host connects.
type Client struct {
	Timeout      time.Duration
	Proxy        string // URL; may hold a password
	SystemProxy  bool   // take it from HTTPS_PROXY, HTTP_PROXY and NO_PROXY
	LocalAddress string

	CAFile, CAPEM     string // CAKey names the key that holds it
	CAKey             string
	SystemCAs         bool // beside CAFile or CAPEM
	CertFile, KeyFile string
	CertPEM           string
	KeyPEM            registry.Secret
	KeyPassword       registry.Secret
	ServerName        string
	ServerNameKey     string
	SkipVerify        bool
	MinVersion        string // TLS12 or 1.2; "" for the default
	MaxVersion        string
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

// uriScheme is that of a collector's URI; a drive of Windows has one letter.
var uriScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]+):`)

// Load reads the files as the host does: YAML and URIs for the collector, TOML, or a directory of *.conf, for Telegraf. A
// file of nothing but [[outputs.ocems]] is taken for one of ocems-telegraf. The error is that of reading; what is wrong
// inside is among the faults.
func Load(paths []string, opt Options) (*Config, error) {
	if len(paths) == 0 {
		return nil, errors.New("no configuration is given")
	}
	var sources []source
	isYAML, isTOML := "", ""
	for _, path := range paths {
		if scheme := uriScheme.FindStringSubmatch(path); scheme != nil && scheme[1] == "file" {
			path = strings.TrimPrefix(path, "file:")
			isYAML = path
		} else if scheme != nil {
			isYAML = scheme[1] + ":..."
			sources = append(sources, source{name: isYAML, uri: path})
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		list := []string{path}
		if info.IsDir() {
			if list, err = confFiles(path); err != nil {
				return nil, fmt.Errorf("reading the configuration: %w", err)
			}
			isTOML = path
		}
		for _, name := range list {
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("reading the configuration: %w", err)
			}
			sources = append(sources, source{name: name, data: data})
			switch ext := strings.ToLower(filepath.Ext(name)); {
			case isYAML == name, ext == ".yaml", ext == ".yml":
				isYAML = name
			case ext == ".conf", ext == ".toml":
				isTOML = name
			default:
				return nil, fmt.Errorf("reading the configuration: %s ends neither in .conf or .toml, as Telegraf's does, nor in .yaml or .yml, as the collector's", name)
			}
		}
	}
	for _, set := range opt.Set {
		key, value, ok := strings.Cut(set, "=")
		if !ok {
			return nil, errors.New("--set: there is no = in it: write key=value")
		}
		sources = append(sources, source{name: "--set " + key, uri: "yaml:" + strings.TrimSpace(strings.ReplaceAll(key, ".", "::")) + ": " + strings.TrimSpace(value)})
	}
	if isYAML != "" && isTOML != "" {
		return nil, fmt.Errorf("reading the configuration: %s is the collector's and %s is Telegraf's: give those of one host", isYAML, isTOML)
	}
	if isYAML == "" && len(opt.Set) > 0 {
		return nil, errors.New("--set is the collector's, and the files are Telegraf's")
	}
	r := &reader{opt: opt, cfg: &Config{Host: opt.Host}}
	for _, s := range sources {
		r.cfg.Files = append(r.cfg.Files, s.name)
	}
	loading.Lock()
	defer loading.Unlock()
	defer setEnvironment(opt.Environment)()
	switch {
	case isYAML != "" && (opt.Host == "" || opt.Host == Collector):
		r.collector(sources)
	case isYAML == "" && opt.Host != Collector:
		r.telegraf(sources)
	default:
		return nil, fmt.Errorf("reading the configuration: %s is not a configuration of %s", r.cfg.Files[0], opt.Host)
	}
	r.across()
	slices.Sort(r.cfg.Unset)
	r.cfg.Unset = slices.Compact(r.cfg.Unset)
	return r.cfg, nil
}

// loading guards what the hosts' code has one of in a process: the environment, Telegraf's list of plugins and its log.
var loading sync.Mutex

// setEnvironment gives the hosts' code, which asks the process, the service's variables; restore takes them back.
func setEnvironment(variables map[string]string) (restore func()) {
	var undo []func()
	for name, value := range variables {
		if old, set := os.LookupEnv(name); set {
			undo = append(undo, func() { _ = os.Setenv(name, old) })
		} else {
			undo = append(undo, func() { _ = os.Unsetenv(name) })
		}
		_ = os.Setenv(name, value)
	}
	return func() {
		for _, u := range undo {
			u()
		}
	}
}

// confFiles are those that Telegraf reads of a directory.
func confFiles(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), "..") && path != dir:
			return filepath.SkipDir // Kubernetes' mounts, whose files are linked from outside
		case !d.IsDir() && strings.HasSuffix(d.Name(), ".conf") && len(d.Name()) > len(".conf"):
			list = append(list, path)
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s has no *.conf", dir)
	}
	return list, err
}

type reader struct {
	opt Options
	cfg *Config
}

func (r *reader) fault(s Severity, do, format string, args ...any) {
	r.cfg.Faults = append(r.cfg.Faults, Fault{s, fmt.Sprintf(format, args...), do})
}

func (o *Output) fault(s Severity, do, format string, args ...any) {
	o.Faults = append(o.Faults, Fault{s, fmt.Sprintf(format, args...), do})
}

// failed notes what the host itself would refuse.
func (o *Output) failed(format string, args ...any) {
	o.fault(Failed, "edit "+o.Where, format, args...)
}

// refused notes what the host said of an output, a fault a line, each with what mends it.
func (o *Output) refused(text, where string) {
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || o.Host == External && strings.Contains(line, "is not set in the environment") {
			continue // found when the variables were looked at
		}
		do := "edit " + where
		switch {
		case strings.Contains(line, "missing; give token_id"):
			do = "give it in " + where + "; if a variable holds it, set that, or run this with the environment of the service: --env-file FILE"
		case strings.Contains(line, "is not set in the environment"):
			do = "set the variable, or run this with the environment of the service: --env-file FILE"
		case strings.Contains(line, ": no such file or directory") && !strings.Contains(line, "not a file's name"):
			do = "put the file there, or mend its path in " + where
		case strings.Contains(line, ": permission denied"):
			do = "let the service's user read the file, and run this as that user"
		}
		o.fault(Failed, do, "%s", line)
	}
}

// checkShort warns of what the host warns of at its start.
func (o *Output) checkShort(key string) {
	const shortest = 30 * time.Second // below which the server may store what counts as failed here
	if t := o.Client.Timeout; t > 0 && t < shortest {
		o.fault(Warning, "set "+key+" to 30s or more",
			"%s: %s is short: the server is slow after a boundary, and a request given up may be stored all the same", key, t)
	}
}

// Registry names the devices without their secrets: tokens and keys are replaced by others of their kind, so that it can
// be made where the service's environment is missing. It must seal nothing.
func (o *Output) Registry() (*registry.Registry, error) {
	cfg := o.Names
	cfg.PublicKey, cfg.PublicKeyFile = registry.Secret(standInKey()), ""
	cfg.Devices = slices.Clone(cfg.Devices)
	for i := range cfg.Devices {
		d := &cfg.Devices[i]
		d.TokenID, d.TokenIDFile, d.PublicKey, d.PublicKeyFile = registry.Secret(standInToken), "", "", ""
	}
	return registry.New(cfg)
}

// across finds what outputs must not have in common.
func (r *reader) across() {
	absolute := func(path string) string {
		if a, err := filepath.Abs(path); err == nil {
			return a
		}
		return path
	}
	dirs, trails, devices := map[string]*Output{}, map[string]string{}, map[string]*Output{}
	for _, o := range r.cfg.Outputs {
		if o.Outbox != nil && o.Host != Collector { // file_storage has a file for each component
			dir := absolute(o.Outbox.Directory)
			if other := dirs[dir]; other != nil {
				o.fault(Failed, "give each output a state_directory of its own", "state_directory: %q is that of the output of %s too", o.Outbox.Directory, other.Where)
			} else {
				dirs[dir] = o
			}
		}
		for i, trail := range append([]string{o.AuditFile}, o.Audits...) {
			if trail == "" {
				continue
			}
			name := o.Name
			if i > 0 {
				name += "'s ocems_slot"
			}
			path := absolute(trail)
			if o.Outbox != nil && path == absolute(filepath.Join(o.Outbox.Directory, "audit.jsonl")) && dirs[absolute(o.Outbox.Directory)] != o && o.Host != Collector {
				continue // the fault of the state_directory
			}
			if other := trails[path]; other != "" && (i == 0 || other != name) {
				o.fault(Failed, "give each an audit_file of its own", "audit_file: %q of %s is that of %s too", trail, name, other)
			} else {
				trails[path] = name
			}
		}
		for _, d := range o.Names.Devices {
			id := strings.TrimSpace(d.DeviceID)
			if other := devices[id]; id != "" && other != nil && other != o {
				o.fault(Warning, "keep the device in one of them", "device %q is also one of the output of %s: the board gets its slots twice, and answers 111", id, other.Where)
			}
			devices[id] = o
		}
	}
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
		case f.IsExported() && name == "" && tag == "toml": // as Telegraf's decoder finds it
			out[strings.ToLower(wordBegins.ReplaceAllString(f.Name, "${1}_${2}"))] = f.Type
		case f.IsExported() && name != "" && name != "-":
			out[name] = f.Type
		}
	}
	return out
}

var wordBegins = regexp.MustCompile(`([a-z])([A-Z])`)

// nearest are the known keys of a struct that an unknown one may have been meant for.
func nearest(key string, t reflect.Type, tag string) string {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return ""
	}
	known := slices.Sorted(maps.Keys(keysOf(t, tag)))
	return strings.Join(spec.Nearest(key, known), ", ")
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
