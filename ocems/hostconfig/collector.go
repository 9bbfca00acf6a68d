package hostconfig

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// collectorExporter has the keys of the exporter `ocems`. Those of type any are not looked into.
type collectorExporter struct {
	Endpoint            string                  `yaml:"endpoint"`
	HTTP                collectorHTTP           `yaml:"http"`
	PublicKey           registry.Secret         `yaml:"public_key"`
	PublicKeyFile       string                  `yaml:"public_key_file"`
	Devices             []registry.DeviceConfig `yaml:"devices"`
	DevicesFile         string                  `yaml:"devices_file"`
	DevicesFileInterval collectorDuration       `yaml:"devices_file_interval"`
	Storage             string                  `yaml:"storage"`
	AuditFile           string                  `yaml:"audit_file"`
	Coalesce            collectorDuration       `yaml:"coalesce"`
	Spread              collectorDuration       `yaml:"spread"`
	InitialBackoff      collectorDuration       `yaml:"initial_backoff"`
	MaxBackoff          collectorDuration       `yaml:"max_backoff"`
	HoldInterval        collectorDuration       `yaml:"hold_interval"`
	MaxConcurrency      int                     `yaml:"max_concurrency"`
	DryRun              bool                    `yaml:"dry_run"`
	RequireSlots        bool                    `yaml:"require_slots"`
}

// collectorHTTP has the keys of the collector's HTTP client.
type collectorHTTP struct {
	Endpoint             string            `yaml:"endpoint"`
	ProxyURL             string            `yaml:"proxy_url"`
	TLS                  collectorTLS      `yaml:"tls"`
	ReadBufferSize       any               `yaml:"read_buffer_size"`
	WriteBufferSize      any               `yaml:"write_buffer_size"`
	Timeout              collectorDuration `yaml:"timeout"`
	Headers              any               `yaml:"headers"`
	Auth                 any               `yaml:"auth"`
	Compression          string            `yaml:"compression"`
	CompressionParams    any               `yaml:"compression_params"`
	MaxIdleConns         any               `yaml:"max_idle_conns"`
	MaxIdleConnsPerHost  any               `yaml:"max_idle_conns_per_host"`
	MaxConnsPerHost      any               `yaml:"max_conns_per_host"`
	IdleConnTimeout      collectorDuration `yaml:"idle_conn_timeout"`
	DisableKeepAlives    any               `yaml:"disable_keep_alives"`
	HTTP2ReadIdleTimeout collectorDuration `yaml:"http2_read_idle_timeout"`
	HTTP2PingTimeout     collectorDuration `yaml:"http2_ping_timeout"`
	Cookies              any               `yaml:"cookies"`
	ForceAttemptHTTP2    any               `yaml:"force_attempt_http2"`
	Middlewares          any               `yaml:"middlewares"`
}

type collectorTLS struct {
	CAFile             string            `yaml:"ca_file"`
	CAPEM              string            `yaml:"ca_pem"`
	SystemCAs          bool              `yaml:"include_system_ca_certs_pool"`
	CertFile           string            `yaml:"cert_file"`
	CertPEM            string            `yaml:"cert_pem"`
	KeyFile            string            `yaml:"key_file"`
	KeyPEM             registry.Secret   `yaml:"key_pem"`
	MinVersion         string            `yaml:"min_version"`
	MaxVersion         string            `yaml:"max_version"`
	CipherSuites       any               `yaml:"cipher_suites"`
	ReloadInterval     collectorDuration `yaml:"reload_interval"`
	CurvePreferences   any               `yaml:"curve_preferences"`
	TPM                any               `yaml:"tpm"`
	Insecure           bool              `yaml:"insecure"`
	InsecureSkipVerify bool              `yaml:"insecure_skip_verify"`
	ServerName         string            `yaml:"server_name_override"`
}

// collectorSlots has the keys of the processor `ocems_slot`.
type collectorSlots struct {
	Stamp              string            `yaml:"stamp"`
	Grace              collectorDuration `yaml:"grace"`
	CalibrationGrace   collectorDuration `yaml:"calibration_grace"`
	Settle             collectorDuration `yaml:"settle"`
	MaxSkew            collectorDuration `yaml:"max_skew"`
	MinSamples         int               `yaml:"min_samples"`
	MaxSeries          int               `yaml:"max_series"`
	CheckpointInterval collectorDuration `yaml:"checkpoint_interval"`
	Storage            string            `yaml:"storage"`
	AuditFile          string            `yaml:"audit_file"`
	Statistics         []struct {
		Metric    string `yaml:"metric"`
		Statistic string `yaml:"statistic"`
	} `yaml:"statistics"`
}

// collectorStorage has the keys of the extension `ocems_storage`.
type collectorStorage struct {
	Directory       string `yaml:"directory"`
	CreateDirectory bool   `yaml:"create_directory"`
}

// collectorFileStorage has the keys of the extension `file_storage`.
type collectorFileStorage struct {
	Directory            string            `yaml:"directory"`
	Timeout              collectorDuration `yaml:"timeout"`
	Compaction           any               `yaml:"compaction"`
	Fsync                bool              `yaml:"fsync"`
	CreateDirectory      bool              `yaml:"create_directory"`
	DirectoryPermissions string            `yaml:"directory_permissions"`
	Recreate             bool              `yaml:"recreate"`
}

// collectorDuration is written as 10s, or a number of nanoseconds.
type collectorDuration time.Duration

func (d *collectorDuration) UnmarshalYAML(n *yaml.Node) error {
	if n.ShortTag() == "!!null" {
		return nil
	}
	if v, err := strconv.ParseInt(n.Value, 10, 64); err == nil && n.ShortTag() == "!!int" {
		*d = collectorDuration(v)
		return nil
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: not a duration such as 10s or 5m", n.Line)
	}
	*d = collectorDuration(v)
	return nil
}

// collector reads the collector's files, of which a later one changes the ones before.
func (r *reader) collector(files []file) {
	r.cfg.Host = Collector
	var root *yaml.Node
	origin := map[*yaml.Node]string{}
	unread := false
	for _, f := range files {
		var doc yaml.Node
		if err := yaml.NewDecoder(bytes.NewReader(f.data)).Decode(&doc); err != nil && err != io.EOF {
			r.fault(Failed, "edit "+f.name, "%s: %s", f.name, yamlError(err))
			unread = true
			continue
		}
		if doc.Kind == 0 {
			continue
		}
		resolveAliases(&doc)
		note(&doc, f.name, origin)
		if n := doc.Content[0]; root == nil {
			root = n
		} else {
			merge(root, n)
		}
	}
	if root == nil {
		return
	}
	r.expandYAML(root)
	at := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d", cmp.Or(origin[n], r.cfg.Files[0]), n.Line) }
	exporters, processors, extensions := child(root, "exporters"), child(root, "processors"), child(root, "extensions")
	service := child(root, "service")
	enabled := texts(child(service, "extensions"))
	found := unread // there may be one in it
	for id, n := range components(exporters, "ocems") {
		found = true
		o := &Output{Name: "exporters." + id, Where: at(n.key), Host: Collector}
		r.cfg.Outputs = append(r.cfg.Outputs, o)
		c := newCollectorExporter()
		o.decode("", n.value, &c)
		o.takeCollector(&c)
		if c.Storage == "" {
			o.fault(Warning, "name a storage extension, such as ocems_storage, as storage", "storage: not set: what waits to be sent is in memory, and a restart loses it")
		} else {
			o.Outbox = o.storage("storage", c.Storage, extensions, enabled, "exporter", id)
		}
		if c.AuditFile == "" {
			o.fault(Warning, "set audit_file", "audit_file: not set: final outcomes go to the log only")
		}
		slots := o.pipelines(id, service, child(root, "connectors"), c.RequireSlots)
		for _, name := range slots {
			p := componentOf(processors, name)
			if p == nil {
				o.failed("service.pipelines: there is no processor %q; nearest: %s", name, strings.Join(spec.Nearest(name, keys(processors)), ", "))
				continue
			}
			s := newCollectorSlots()
			o.decode("processors."+name+": ", p, &s)
			o.takeSlots(name, &s, extensions, enabled)
		}
	}
	if !found {
		r.fault(Failed, "give the file, or all the files, that the collector is started with", "there is no exporter `ocems`")
	}
}

func newCollectorExporter() collectorExporter {
	second := func(n int) collectorDuration { return collectorDuration(time.Duration(n) * time.Second) }
	return collectorExporter{Endpoint: DefaultEndpoint, HTTP: collectorHTTP{Timeout: second(45)}, DevicesFileInterval: second(10), Coalesce: second(5),
		Spread: second(10), InitialBackoff: second(5), MaxBackoff: second(300), HoldInterval: second(600), MaxConcurrency: 32, RequireSlots: true}
}

func newCollectorSlots() collectorSlots {
	second := func(n int) collectorDuration { return collectorDuration(time.Duration(n) * time.Second) }
	return collectorSlots{Stamp: "end", Grace: second(30), CalibrationGrace: second(10), Settle: second(5), MaxSkew: second(60),
		MinSamples: 1, MaxSeries: 100_000, CheckpointInterval: second(10)}
}

// takeCollector takes the values over, with the checks of the exporter's Validate in its words.
func (o *Output) takeCollector(c *collectorExporter) {
	o.Endpoint, o.DryRun, o.AuditFile, o.Stamp = c.Endpoint, c.DryRun, c.AuditFile, "end"
	t := c.HTTP.TLS
	o.Client = Client{Timeout: time.Duration(c.HTTP.Timeout), Proxy: c.HTTP.ProxyURL, SystemProxy: c.HTTP.ProxyURL == "",
		CAFile: t.CAFile, CAPEM: t.CAPEM, CAKey: "http.tls.ca_file", SystemCAs: t.SystemCAs, CertFile: t.CertFile, CertPEM: t.CertPEM, KeyFile: t.KeyFile,
		KeyPEM: t.KeyPEM, ServerName: t.ServerName, ServerNameKey: "http.tls.server_name_override", SkipVerify: t.InsecureSkipVerify,
		MinVersion: t.MinVersion, MaxVersion: t.MaxVersion}
	for _, v := range []struct {
		key   string
		value *string
	}{{"min_version", &o.Client.MinVersion}, {"max_version", &o.Client.MaxVersion}} {
		known := []string{"1.2", "1.3"}
		if *v.value != "" && !slices.Contains(known, *v.value) {
			o.failed("http.tls.%s: %q is not a version from TLS 1.2 on, below which nothing is sent; nearest: %s", v.key, *v.value, spec.Nearest(*v.value, known)[0])
			*v.value = ""
		}
	}
	switch hasCert, hasKey := t.CertFile+t.CertPEM != "", t.KeyFile+t.KeyPEM.Reveal() != ""; {
	case t.CAFile != "" && t.CAPEM != "":
		o.failed("http.tls: both ca_file and ca_pem are given; keep one")
	case t.CertFile != "" && t.CertPEM != "":
		o.failed("http.tls: both cert_file and cert_pem are given; keep one")
	case t.KeyFile != "" && t.KeyPEM != "":
		o.failed("http.tls: both key_file and key_pem are given; keep one")
	case hasCert != hasKey:
		o.failed("http.tls: a client certificate needs both cert_file and key_file")
	}
	if !isURL(c.Endpoint, "http", "https") {
		o.failed("endpoint: %q is not a URL with http or https and a host; nearest: %s", c.Endpoint, nearestURL(c.Endpoint))
	}
	if c.HTTP.Endpoint != "" {
		o.failed("http.endpoint: must not be set; set `endpoint`")
	}
	if p := c.HTTP.Compression; p != "" && p != "none" {
		o.failed("http.compression: must not be set; the server takes no compressed bodies")
	}
	if p := c.HTTP.ProxyURL; p != "" && !isURL(p, "http", "https", "socks5", "socks5h") {
		o.failed("http.proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)")
		o.Client.Proxy = ""
	}
	d := func(v collectorDuration) time.Duration { return time.Duration(v) }
	o.checkTimings([]timing{{"http.timeout", d(c.HTTP.Timeout), false}, {"devices_file_interval", d(c.DevicesFileInterval), false},
		{"initial_backoff", d(c.InitialBackoff), false}, {"hold_interval", d(c.HoldInterval), false},
		{"coalesce", d(c.Coalesce), true}, {"spread", d(c.Spread), true}}, d(c.InitialBackoff), d(c.MaxBackoff), c.MaxConcurrency)
	o.Names = registry.Config{PublicKey: c.PublicKey, PublicKeyFile: c.PublicKeyFile, Devices: c.Devices, DevicesFile: c.DevicesFile,
		Unused: map[string]string{
			"field":     "a metric of the collector has none: leave it out",
			"statistic": "set it in the ocems_slot processor's `statistics`",
		}}
	o.checkNames(func(text string) string { return text })
	o.checkShort("http.timeout")
}

// nearestURL keeps of a wrong endpoint what follows the scheme, where that has a host.
func nearestURL(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	if s = "https://" + rest; isURL(s, "https") {
		return s
	}
	return DefaultEndpoint
}

// takeSlots checks an ocems_slot processor as its Validate does, in its words.
func (o *Output) takeSlots(name string, c *collectorSlots, extensions *yaml.Node, enabled []string) {
	at := "processors." + name + ": "
	if o.Stamp = c.Stamp; c.Stamp != "end" && c.Stamp != "start" {
		o.Stamp = spec.Nearest(c.Stamp, []string{"end", "start"})[0]
		o.failed("%sstamp = %q: must be \"end\" or \"start\"; nearest is %q", at, c.Stamp, o.Stamp)
	}
	for _, d := range []struct {
		key   string
		value collectorDuration
		max   time.Duration
	}{{"grace", c.Grace, spec.MaxAge}, {"calibration_grace", c.CalibrationGrace, spec.MaxAge}, {"settle", c.Settle, spec.MaxAge},
		{"max_skew", c.MaxSkew, spec.MaxAge}, {"checkpoint_interval", c.CheckpointInterval, spec.SlotLength}} {
		if v := time.Duration(d.value); v <= 0 {
			o.failed("%s%s = %s: must be more than 0s and at most %s; nearest is 1ms", at, d.key, v, d.max)
		} else if v > d.max {
			o.failed("%s%s = %s: must be more than 0s and at most %s; nearest is %s", at, d.key, v, d.max, d.max)
		}
	}
	if c.MinSamples < 1 {
		o.failed("%smin_samples = %d: must be at least 1; nearest is 1", at, c.MinSamples)
	}
	if c.MaxSeries < 1 {
		o.failed("%smax_series = %d: must be at least 1; nearest is 1", at, c.MaxSeries)
	}
	seen := map[string]bool{}
	for i, s := range c.Statistics {
		if _, err := slot.ParseStatistic(s.Statistic); err != nil {
			o.failed("%sstatistics[%d].statistic = %q: %v", at, i, s.Statistic, err)
		}
		if seen[s.Metric] {
			o.failed("%sstatistics[%d].metric = %q: is listed twice; keep one", at, i, s.Metric)
		}
		if s.Metric == "" {
			o.failed("%sstatistics[%d].metric = \"\": must be the name of a metric", at, i)
		}
		seen[s.Metric] = true
	}
	if c.AuditFile != "" {
		o.Audits = append(o.Audits, c.AuditFile)
	}
	if c.Storage == "" {
		o.fault(Warning, "name the storage extension as storage of "+name, "%sstorage: not set: open windows are in memory, and a restart loses up to 15 minutes of readings", at)
		return
	}
	if s := o.storage(at+"storage", c.Storage, extensions, enabled, "processor", name); s != nil {
		o.Windows = s
	}
}

// storage finds a storage extension and says what is wrong with it.
func (o *Output) storage(key, id string, extensions *yaml.Node, enabled []string, kind, component string) *Store {
	n := componentOf(extensions, id)
	if n == nil {
		known := keys(extensions)
		if len(known) == 0 {
			known = []string{"ocems_storage"}
		}
		o.failed("%s: there is no extension %q; nearest: %s", key, id, strings.Join(spec.Nearest(id, known), ", "))
		return nil
	}
	if !slices.Contains(enabled, id) {
		o.failed("%s: there is no extension %q in service.extensions; add it", key, id)
	}
	kindOf, nameOf, _ := strings.Cut(component, "/")
	file := sanitize(kind + "_" + strings.TrimSpace(kindOf) + "_" + strings.TrimSpace(nameOf))
	found := &Store{Key: "extensions." + id + ".directory"}
	longest := 255 // of a file's name
	switch t, _, _ := strings.Cut(id, "/"); t {
	case "ocems_storage":
		s := collectorStorage{CreateDirectory: true}
		o.decode("extensions."+id+": ", n, &s)
		if s.Directory == "" {
			o.failed("extensions.%s: directory: not set", id)
			return nil
		}
		found.Directory, found.Create, found.Bucket, longest = s.Directory, s.CreateDirectory, "state", 200
	case "file_storage":
		s := collectorFileStorage{Directory: "/var/lib/otelcol/file_storage", DirectoryPermissions: "0750"}
		o.decode("extensions."+id+": ", n, &s)
		if !s.Fsync && kind == "exporter" {
			o.fault(Failed, "set fsync: true in "+id, "extensions.%s: fsync is not true: a power cut may cost what was accepted", id)
		} else if !s.Fsync {
			o.fault(Warning, "set fsync: true in "+id, "extensions.%s: fsync is not true: a power cut may cost the open windows", id)
		}
		if _, err := strconv.ParseUint(s.DirectoryPermissions, 8, 32); err != nil && s.CreateDirectory {
			o.failed("extensions.%s: directory_permissions: %q is not octal, such as 0750", id, s.DirectoryPermissions)
		}
		found.Directory, found.Create, found.Bucket = s.Directory, s.CreateDirectory, "default"
	default:
		o.fault(Unchecked, "", "%s: %q is neither an ocems_storage nor a file_storage: what it keeps is not looked at", key, id)
		return nil
	}
	if len(file) > longest {
		sum := sha256.Sum256([]byte(file))
		file = hex.EncodeToString(sum[:])
	}
	found.File = filepath.Join(found.Directory, file)
	return found
}

// sanitize makes a component's name a file's name as both storages do.
func sanitize(name string) string {
	var b strings.Builder
	for _, c := range name {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c) {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, "~%04X", c)
		}
	}
	return b.String()
}

// pipelines looks at the pipelines that the exporter stands in, and returns the ocems_slot processors of them.
func (o *Output) pipelines(id string, service, connectors *yaml.Node, requireSlots bool) (slots []string) {
	all := child(service, "pipelines")
	in := 0
	for i := 0; all != nil && i+1 < len(all.Content); i += 2 {
		name, p := all.Content[i].Value, all.Content[i+1]
		if !slices.Contains(texts(child(p, "exporters")), id) {
			continue
		}
		in++
		if kind, _, _ := strings.Cut(name, "/"); kind != "metrics" {
			o.failed("service.pipelines.%s: %s takes metrics only; put it into a pipeline of metrics", name, id)
			continue
		}
		last := ""
		for _, processor := range texts(child(p, "processors")) {
			switch kind, _, _ := strings.Cut(processor, "/"); {
			case kind == "ocems_slot":
				if last != "" {
					o.failed("service.pipelines.%s: %s comes after %s: keep one", name, processor, last)
				}
				last = processor
				slots = append(slots, processor)
			case kind == "batch" && last != "":
				o.fault(Warning, "put "+processor+" before "+last+", or leave it out", "service.pipelines.%s: %s stands between %s and %s: it holds finished slots in memory, and a crash loses them",
					name, processor, last, id)
			case slices.Contains([]string{"cumulativetodelta", "deltatocumulative", "deltatorate", "metricstarttime", "filter", "probabilistic_sampler", "interval"}, kind) && last != "":
				o.fault(Warning, "put "+processor+" before "+last, "service.pipelines.%s: %s stands between %s and %s: it may change or drop finished slots", name, processor, last, id)
			}
		}
		fed := slices.ContainsFunc(texts(child(p, "receivers")), func(r string) bool { return componentOf(connectors, r) != nil })
		switch {
		case last != "":
		case fed:
			o.fault(Warning, "see that the pipeline before the connector has ocems_slot", "service.pipelines.%s: there is no ocems_slot before %s; what comes by the connector must have passed one", name, id)
		case requireSlots:
			o.fault(Failed, "add the processor ocems_slot, with the same storage, to the pipeline; where another collector makes the slots, this one may stay",
				"service.pipelines.%s: there is no ocems_slot before %s: it refuses every point that no ocems_slot has made", name, id)
		default:
			o.fault(Warning, "add the processor ocems_slot, unless the slots are made upstream", "service.pipelines.%s: there is no ocems_slot before %s, and require_slots is false: points that are off the grid are refused", name, id)
		}
	}
	if in == 0 {
		o.failed("service.pipelines: no pipeline has the exporter %s: it is never started", id)
	}
	slices.Sort(slots)
	return slices.Compact(slots)
}

// decode reads a component's keys, and says which it does not have.
func (o *Output) decode(at string, n *yaml.Node, to any) {
	if n == nil || n.ShortTag() == "!!null" {
		return
	}
	before := len(o.Faults)
	o.checkYAML(at, "", n, reflect.TypeOf(to).Elem())
	if err := n.Decode(to); err != nil {
		for line := range strings.SplitSeq(yamlError(err), "\n") {
			where, _, _ := strings.Cut(line, ": ")
			if !slices.ContainsFunc(o.Faults[before:], func(f Fault) bool { return strings.HasPrefix(f.Text, at+where+": ") }) {
				o.failed("%s%s", at, line)
			}
		}
	}
}

// checkYAML finds the keys that the component does not have, and the values of another type than theirs: the collector
// takes a number or true for text only where a variable holds it.
func (o *Output) checkYAML(at, path string, n *yaml.Node, t reflect.Type) {
	within := strings.TrimSuffix(path, ".")
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, c := range n.Content {
			o.checkYAML(at, fmt.Sprintf("%s[%d].", within, i), c, t.Elem())
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 0; i+1 < len(n.Content); i += 2 {
			o.checkYAML(at, path+n.Content[i].Value+".", n.Content[i+1], t.Elem())
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		fields := keysOf(t, "yaml")
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			field, ok := fields[key.Value]
			switch {
			case key.ShortTag() == "!!merge":
				o.checkYAML(at, path, n.Content[i+1], t)
			case ok:
				o.checkYAML(at, path+key.Value+".", n.Content[i+1], field)
			case within == "":
				o.failed("%sline %d: %s", at, key.Line, unknownKey(key.Value, slices.Collect(maps.Keys(fields))))
			default:
				o.failed("%sline %d: %s: %s", at, key.Line, within, unknownKey(key.Value, slices.Collect(maps.Keys(fields))))
			}
		}
	case n.Kind == yaml.ScalarNode:
		o.checkScalar(fmt.Sprintf("%sline %d: %s", at, n.Line, within), n, t)
	}
}

func (o *Output) checkScalar(at string, n *yaml.Node, t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	given := map[string]string{"!!str": "text", "!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!timestamp": "a date"}[n.ShortTag()]
	switch kind := t.Kind(); {
	case given == "" || t == reflect.TypeFor[collectorDuration]():
	case kind == reflect.String && given != "text" && n.Style&expanded == 0:
		o.fault(Failed, "put it in quotes", "%s: %s stands where text is wanted", at, given)
	case kind == reflect.Bool && given != "true or false":
		o.fault(Failed, "write true or false", "%s: %s stands where true or false is wanted", at, given)
	case kind == reflect.Int && n.ShortTag() != "!!int":
		o.fault(Failed, "write a whole number, without quotes", "%s: %s stands where a whole number is wanted", at, given)
	case kind == reflect.Float64 && given != "a number":
		o.fault(Failed, "write a number, without quotes", "%s: %s stands where a number is wanted", at, given)
	}
}

var (
	yamlQuote = regexp.MustCompile("`[^`]*`")
	yamlType  = regexp.MustCompile(` into \S+`)
)

// yamlError is the decoder's text without the values that it quotes, any of which may be the token, and without the
// names of types in here.
func yamlError(err error) string {
	lines := []string{err.Error()}
	if t := (*yaml.TypeError)(nil); errors.As(err, &t) {
		lines = t.Errors
	}
	for i, line := range lines {
		line = yamlQuote.ReplaceAllString(strings.TrimPrefix(line, "yaml: "), "the value")
		lines[i] = yamlType.ReplaceAllString(line, "")
	}
	return strings.Join(lines, "\n")
}

// note remembers which file a key is of.
func note(n *yaml.Node, name string, origin map[*yaml.Node]string) {
	origin[n] = name
	for _, c := range n.Content {
		note(c, name, origin)
	}
}

// resolveAliases puts in what an anchor stands for, so that each use can be changed by itself.
func resolveAliases(n *yaml.Node) {
	const deep = 100
	var walk func(n *yaml.Node, depth int)
	walk = func(n *yaml.Node, depth int) {
		if n.Kind == yaml.AliasNode && depth < deep {
			line := n.Line
			*n = *clone(n.Alias)
			n.Line, n.Anchor = line, ""
		}
		for _, c := range n.Content {
			walk(c, depth+1)
		}
	}
	walk(n, 0)
}

func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = nil
	for _, x := range n.Content {
		if x.Kind == yaml.AliasNode {
			c.Content = append(c.Content, x)
		} else {
			c.Content = append(c.Content, clone(x))
		}
	}
	return &c
}

// merge brings the keys of b into a. Maps are merged, everything else is replaced.
func merge(a, b *yaml.Node) {
	if a.Kind != yaml.MappingNode || b.Kind != yaml.MappingNode {
		*a = *b
		return
	}
	for i := 0; i+1 < len(b.Content); i += 2 {
		key, value := b.Content[i], b.Content[i+1]
		if old := child(a, key.Value); old != nil {
			merge(old, value)
		} else {
			a.Content = append(a.Content, key, value)
		}
	}
}

// child is the value of a key, nil for none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func keys(n *yaml.Node) (list []string) {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		list = append(list, n.Content[i].Value)
	}
	return list
}

// texts are the strings of a list. A component's name may have spaces around its slash.
func texts(n *yaml.Node) (list []string) {
	if n == nil {
		return nil
	}
	for _, c := range n.Content {
		list = append(list, plainID(c.Value))
	}
	return list
}

func plainID(id string) string {
	kind, name, named := strings.Cut(id, "/")
	if !named {
		return strings.TrimSpace(id)
	}
	return strings.TrimSpace(kind) + "/" + strings.TrimSpace(name)
}

func componentOf(group *yaml.Node, id string) *yaml.Node {
	for i := 0; group != nil && group.Kind == yaml.MappingNode && i+1 < len(group.Content); i += 2 {
		if plainID(group.Content[i].Value) == plainID(id) {
			return group.Content[i+1]
		}
	}
	return nil
}

type component struct{ key, value *yaml.Node }

// components yields those of one type in the order of the file.
func components(group *yaml.Node, kind string) func(yield func(string, component) bool) {
	return func(yield func(string, component) bool) {
		for i := 0; group != nil && group.Kind == yaml.MappingNode && i+1 < len(group.Content); i += 2 {
			id := plainID(group.Content[i].Value)
			if t, _, _ := strings.Cut(id, "/"); t == kind && !yield(id, component{group.Content[i], group.Content[i+1]}) {
				return
			}
		}
	}
}
