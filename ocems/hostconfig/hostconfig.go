package hostconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
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
	Outbox    *Store   // nil: in memory
	Windows   *Store   // of the open slots, where that is another place; nil: in memory
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
	Bucket    string
	Create    bool // the host makes the directory
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
	// Lookup finds a variable of the environment; os.LookupEnv when nil.
	Lookup func(string) (string, bool)
	// Host is which program reads the files; "" to tell it by the files.
	Host Host
}

// Load reads the files as the host does: YAML for the collector, TOML, or a directory of *.conf, for Telegraf. A file of
// nothing but [[outputs.ocems]] is taken for one of ocems-telegraf. The error is that of reading; what is wrong inside is
// among the faults.
func Load(paths []string, opt Options) (*Config, error) {
	if len(paths) == 0 {
		return nil, errors.New("no configuration is given")
	}
	if opt.Lookup == nil {
		opt.Lookup = os.LookupEnv
	}
	var files []file
	isYAML, isTOML := "", ""
	for _, path := range paths {
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
			files = append(files, file{name, data})
			switch ext := strings.ToLower(filepath.Ext(name)); ext {
			case ".yaml", ".yml":
				isYAML = name
			case ".conf", ".toml":
				isTOML = name
			default:
				return nil, fmt.Errorf("reading the configuration: %s ends neither in .conf or .toml, as Telegraf's does, nor in .yaml or .yml, as the collector's", name)
			}
		}
	}
	if isYAML != "" && isTOML != "" {
		return nil, fmt.Errorf("reading the configuration: %s is the collector's and %s is Telegraf's: give those of one host", isYAML, isTOML)
	}
	r := &reader{opt: opt, cfg: &Config{Host: opt.Host}}
	for _, f := range files {
		r.cfg.Files = append(r.cfg.Files, f.name)
	}
	switch {
	case isYAML != "" && (opt.Host == "" || opt.Host == Collector):
		r.collector(files)
	case isYAML == "" && opt.Host != Collector:
		r.telegraf(files)
	default:
		return nil, fmt.Errorf("reading the configuration: %s is not a configuration of %s", r.cfg.Files[0], opt.Host)
	}
	r.across()
	slices.Sort(r.cfg.Unset)
	r.cfg.Unset = slices.Compact(r.cfg.Unset)
	return r.cfg, nil
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

type file struct {
	name string
	data []byte
}

type reader struct {
	opt Options
	cfg *Config
}

func (r *reader) lookup(name string) (string, bool) { return r.opt.Lookup(name) }

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

// timing is what both hosts check alike, in the same words.
type timing struct {
	key         string
	value       time.Duration
	mayBeNought bool
}

func (o *Output) checkTimings(list []timing, initial, longest time.Duration, concurrency int) {
	for _, t := range list {
		switch {
		case t.mayBeNought && t.value < 0:
			o.failed("%s: %s must not be negative", t.key, t.value)
		case !t.mayBeNought && t.value <= 0:
			o.failed("%s: %s must be more than 0", t.key, t.value)
		}
	}
	if longest < initial {
		o.failed("max_backoff: %s must not be less than initial_backoff, %s", longest, initial)
	}
	if concurrency < 1 {
		o.failed("max_concurrency: %d must be at least 1", concurrency)
	}
}

func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && slices.Contains(schemes, u.Scheme)
}

// checkNames has the registry find the mistakes in the devices. words turns its words into those of the host.
func (o *Output) checkNames(words func(string) string) {
	if _, err := registry.New(o.Names); err != nil {
		for line := range strings.SplitSeq(words(err.Error()), "\n") {
			if o.Host == External && strings.Contains(line, "is not set in the environment") {
				continue // found when it was to be put in
			}
			do := "edit " + o.Where
			switch {
			case strings.Contains(line, "missing; give token_id"):
				do = "give it in " + o.Where + "; if a variable holds it, set that, or run this with the environment of the service: --env-file FILE"
			case strings.Contains(line, "is not set in the environment"):
				do = "set the variable, or run this with the environment of the service: --env-file FILE"
			case strings.Contains(line, ": no such file or directory") && !strings.Contains(line, "not a file's name"):
				do = "put the file there, or mend its path in " + o.Where
			case strings.Contains(line, ": permission denied"):
				do = "let the service's user read the file, and run this as that user"
			}
			o.fault(Failed, do, "%s", line)
		}
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

// checkSlots finds the mistakes in the rules of the slots.
func checkSlots(opt slot.Options) error {
	_, err := slot.New(opt, slot.StringCodec{})
	return err
}

// keysOf are the keys of a struct under the given tag, and of those embedded in it.
func keysOf(t reflect.Type, tag string) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get(tag), ",")
		switch {
		case f.Anonymous && name == "":
			for k, v := range keysOf(f.Type, tag) {
				out[k] = v
			}
		case f.IsExported() && name != "" && name != "-":
			out[name] = f.Type
		}
	}
	return out
}

func unknownKey(key string, known []string) string {
	slices.Sort(known)
	near := strings.Join(spec.Nearest(key, known), ", ")
	if len(key) > 32 { // no key is as long: where a colon or a quote is missing, the value stands in it
		key = key[:8] + "..."
	}
	return fmt.Sprintf("unknown key %q; nearest: %s", key, near)
}
