package hostconfig

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/template"
	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// telegrafOutput has the keys of [[outputs.ocems]]. Those of type any are not looked into.
type telegrafOutput struct {
	Endpoint            string           `toml:"endpoint"`
	StateDirectory      string           `toml:"state_directory"`
	AuditFile           string           `toml:"audit_file"`
	PublicKey           registry.Secret  `toml:"public_key"`
	PublicKeyFile       string           `toml:"public_key_file"`
	Devices             []telegrafDevice `toml:"device"`
	DevicesFile         string           `toml:"devices_file"`
	DevicesFileInterval telegrafDuration `toml:"devices_file_interval"`
	BoolsAsNumbers      bool             `toml:"bools_as_numbers"`
	StringsAsNumbers    bool             `toml:"strings_as_numbers"`
	Align               bool             `toml:"align"`
	Stamp               string           `toml:"stamp"`
	Grace               telegrafDuration `toml:"grace"`
	CalibrationGrace    telegrafDuration `toml:"calibration_grace"`
	Settle              telegrafDuration `toml:"settle"`
	MaxSkew             telegrafDuration `toml:"max_skew"`
	MinSamples          int              `toml:"min_samples"`
	MaxSeries           int              `toml:"max_series"`
	Coalesce            telegrafDuration `toml:"coalesce"`
	Spread              telegrafDuration `toml:"spread"`
	InitialBackoff      telegrafDuration `toml:"initial_backoff"`
	MaxBackoff          telegrafDuration `toml:"max_backoff"`
	HoldInterval        telegrafDuration `toml:"hold_interval"`
	MaxConcurrency      int              `toml:"max_concurrency"`
	DryRun              bool             `toml:"dry_run"`
	telegrafClient
}

type telegrafDevice struct {
	StationID     string                     `toml:"station_id"`
	DeviceID      string                     `toml:"device_id"`
	TokenID       registry.Secret            `toml:"token_id"`
	TokenIDFile   string                     `toml:"token_id_file"`
	Latitude      *float64                   `toml:"latitude"`
	Longitude     *float64                   `toml:"longitude"`
	PublicKey     registry.Secret            `toml:"public_key"`
	PublicKeyFile string                     `toml:"public_key_file"`
	Parameters    []registry.ParameterConfig `toml:"parameter"`
}

// telegrafClient has the keys of Telegraf's HTTP client.
type telegrafClient struct {
	Timeout             telegrafDuration `toml:"timeout"`
	IdleConnTimeout     telegrafDuration `toml:"idle_conn_timeout"`
	MaxIdleConns        int              `toml:"max_idle_conn"`
	MaxIdleConnsPerHost int              `toml:"max_idle_conn_per_host"`
	ResponseTimeout     telegrafDuration `toml:"response_timeout"`
	LocalAddress        string           `toml:"local_address"`
	UseSystemProxy      bool             `toml:"use_system_proxy"`
	HTTPProxyURL        string           `toml:"http_proxy_url"`
	TLSCA               string           `toml:"tls_ca"`
	TLSCert             string           `toml:"tls_cert"`
	TLSKey              string           `toml:"tls_key"`
	TLSKeyPwd           registry.Secret  `toml:"tls_key_pwd"`
	TLSMinVersion       string           `toml:"tls_min_version"`
	TLSCipherSuites     []string         `toml:"tls_cipher_suites"`
	InsecureSkipVerify  bool             `toml:"insecure_skip_verify"`
	TLSServerName       string           `toml:"tls_server_name"`
	TLSRenegotiation    string           `toml:"tls_renegotiation_method"`
	TLSEnable           *bool            `toml:"tls_enable"`
	ClientID            any              `toml:"client_id"`
	ClientSecret        any              `toml:"client_secret"`
	TokenURL            any              `toml:"token_url"`
	Audience            any              `toml:"audience"`
	Scopes              any              `toml:"scopes"`
	CookieURL           any              `toml:"cookie_auth_url"`
	CookieMethod        any              `toml:"cookie_auth_method"`
	CookieHeaders       any              `toml:"cookie_auth_headers"`
	CookieUsername      any              `toml:"cookie_auth_username"`
	CookiePassword      any              `toml:"cookie_auth_password"`
	CookieBody          any              `toml:"cookie_auth_body"`
	CookieRenewal       any              `toml:"cookie_auth_renewal"`
}

// hostOptions are those that Telegraf keeps for every output, and ocems-telegraf refuses.
var hostOptions = []string{"name_override", "name_prefix", "name_suffix", "namepass", "namepass_separator", "namedrop",
	"namedrop_separator", "fieldpass", "fielddrop", "fieldinclude", "fieldexclude", "tagpass", "tagdrop", "taginclude", "tagexclude",
	"metricpass", "metric_batch_size", "metric_buffer_limit", "flush_interval", "flush_jitter", "startup_error_behavior"}

// telegrafDuration is written as 10s, 1d, or a number of seconds.
type telegrafDuration time.Duration

var durationDay = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

func (d *telegrafDuration) UnmarshalText(b []byte) error {
	text := string(b)
	if v, err := strconv.ParseFloat(text, 64); err == nil {
		*d = telegrafDuration(v * float64(time.Second))
		return nil
	}
	if text == "" {
		*d = 0
		return nil
	}
	text = durationDay.ReplaceAllStringFunc(text, func(days string) string {
		v, _ := strconv.ParseFloat(strings.TrimSuffix(days, "d"), 64)
		return strconv.FormatFloat(24*v, 'f', -1, 64) + "h"
	})
	v, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	*d = telegrafDuration(v)
	return nil
}

// agent is what of Telegraf's [agent] matters to an output.
type agent struct {
	FlushInterval telegrafDuration
	BatchSize     int
	BufferLimit   int
}

func newTelegrafOutput() telegrafOutput {
	second := func(n int) telegrafDuration { return telegrafDuration(time.Duration(n) * time.Second) }
	return telegrafOutput{Endpoint: DefaultEndpoint, Align: true, DevicesFileInterval: second(10), Coalesce: second(5), Spread: second(10),
		InitialBackoff: second(5), MaxBackoff: second(300), HoldInterval: second(600), MaxConcurrency: 32,
		telegrafClient: telegrafClient{Timeout: second(45)}}
}

// telegraf reads Telegraf's files, and those that outputs.execd gives to ocems-telegraf.
func (r *reader) telegraf(files []file) {
	var roots []*ast.Table
	only := len(files) == 1 && r.opt.Host == ""
	for _, f := range files {
		root, err := toml.Parse(bytes.TrimPrefix(f.data, []byte("\uFEFF")))
		if err != nil {
			r.fault(Failed, "edit "+f.name, "%s: %s", f.name, tomlError(err))
		}
		roots = append(roots, root)
		only = only && root != nil && isOwn(root)
	}
	if only && !strings.Contains(string(files[0].data), "@{") {
		r.cfg.Host = External
	} else if r.cfg.Host == "" {
		r.cfg.Host = Telegraf
	}
	if r.cfg.Host == External {
		for i, root := range roots {
			if root != nil {
				r.external(files[i].name, root)
			}
		}
		return
	}
	host := agent{FlushInterval: telegrafDuration(10 * time.Second), BatchSize: 1000, BufferLimit: 10_000}
	for i, root := range roots {
		if root == nil {
			continue
		}
		if err := r.expandTelegraf(root); err != nil {
			r.fault(Failed, "edit "+files[i].name, "%s: %v", files[i].name, err)
		}
		if t, ok := root.Fields["agent"].(*ast.Table); ok {
			host.read(t)
		}
	}
	found, dropping := slices.Contains(roots, nil), "" // what cannot be read may be what is missing
	for i, root := range roots {
		if root == nil {
			continue
		}
		for _, t := range tablesOf(root, "outputs", "ocems") {
			r.telegrafOutput(files[i].name, t, Telegraf, host)
			found = true
		}
		for _, t := range tablesOf(root, "outputs", "execd") {
			found = r.execd(files[i].name, t) || found
		}
		if aggregators, ok := root.Fields["aggregators"].(*ast.Table); ok {
			for name := range aggregators.Fields {
				for _, t := range tablesOf(root, "aggregators", name) {
					if textOf(t, "drop_original") == "true" {
						dropping = fmt.Sprintf("%s:%d: aggregators.%s", files[i].name, t.Line, name)
					}
				}
			}
		}
	}
	if !found {
		r.fault(Failed, "give the file, or all the files, that Telegraf is started with", "there is no [[outputs.ocems]] and no [[outputs.execd]] that starts ocems-telegraf")
	} else if dropping != "" {
		r.fault(Warning, "give it a namepass that leaves out what the board is to have",
			"%s has drop_original: what it takes is lost before the output sees it", dropping)
	}
}

// isOwn reports that a file holds nothing but [[outputs.ocems]] without Telegraf's own options.
func isOwn(root *ast.Table) bool {
	if !isOwnGroup(root) {
		return false
	}
	for _, t := range tablesOf(root, "outputs", "ocems") {
		for key := range t.Fields {
			if slices.Contains(hostOptions, key) {
				return false
			}
		}
	}
	return true
}

func tablesOf(root *ast.Table, kind, name string) []*ast.Table {
	group, ok := root.Fields[kind].(*ast.Table)
	if !ok {
		return nil
	}
	switch v := group.Fields[name].(type) {
	case []*ast.Table:
		return v
	case *ast.Table: // [outputs.ocems], which Telegraf takes too
		return []*ast.Table{v}
	}
	return nil
}

func (a *agent) read(t *ast.Table) {
	if v := textOf(t, "flush_interval"); v != "" {
		_ = a.FlushInterval.UnmarshalText([]byte(v))
	}
	if n, err := strconv.Atoi(textOf(t, "metric_batch_size")); err == nil && n != 0 {
		a.BatchSize = n
	}
	if n, err := strconv.Atoi(textOf(t, "metric_buffer_limit")); err == nil && n != 0 {
		a.BufferLimit = n
	}
}

// textOf is the value of a key as it is written, "" for none.
func textOf(t *ast.Table, key string) string {
	kv, ok := t.Fields[key].(*ast.KeyValue)
	if !ok {
		return ""
	}
	switch v := kv.Value.(type) {
	case *ast.String:
		return v.Value
	case *ast.Integer:
		return v.Value
	case *ast.Float:
		return v.Value
	case *ast.Boolean:
		return v.Value
	}
	return ""
}

// telegrafOutput reads one block.
func (r *reader) telegrafOutput(name string, t *ast.Table, host Host, a agent) {
	o := &Output{Name: "outputs.ocems", Where: fmt.Sprintf("%s:%d", name, t.Line), Host: host}
	if alias := textOf(t, "alias"); alias != "" {
		o.Name += "::" + alias
	}
	r.cfg.Outputs = append(r.cfg.Outputs, o)
	a.read(t)
	skip := append([]string{"alias", "log_level"}, hostOptions...)
	if host == Telegraf {
		skip = append(skip, "buffer_strategy", "buffer_directory", "buffer_disk_sync", "labels", "id", "tags", "data_format", "precision", "always_include_local_tags")
	}
	for _, key := range slices.Sorted(maps.Keys(t.Fields)) {
		if host == External && slices.Contains(hostOptions, key) {
			o.failed("line %d: %q is Telegraf's own: set it in the [[outputs.execd]] block", lineOf(t.Fields[key]), key)
		}
	}
	o.unknownTOML(t, reflect.TypeFor[telegrafOutput](), skip)
	for _, key := range skip {
		delete(t.Fields, key)
	}
	if len(o.Faults) > 0 { // what is unknown cannot be read further
		pruneTOML(t, reflect.TypeFor[telegrafOutput]())
	}
	c := newTelegrafOutput()
	if err := toml.UnmarshalTable(t, &c); err != nil {
		o.failed("%s", tomlError(err))
		return
	}
	o.takeTelegraf(&c)
	if host == Telegraf {
		o.checkFlush(c, a)
	}
}

// takeTelegraf takes the values over, with the checks of the plugin's Init in its words.
func (o *Output) takeTelegraf(c *telegrafOutput) {
	o.Endpoint, o.DryRun, o.AuditFile, o.Stamp = c.Endpoint, c.DryRun, c.AuditFile, "end"
	if c.Stamp == "start" {
		o.Stamp = c.Stamp
	}
	if c.StateDirectory == "" {
		o.fault(Warning, "set state_directory", "state_directory: not set: open slots and what waits to be sent are in memory, and a restart loses them")
	} else {
		o.Outbox = &Store{Key: "state_directory", Directory: c.StateDirectory, File: filepath.Join(c.StateDirectory, "state.db"), Bucket: "ocems", Create: true}
		if c.AuditFile == "" {
			o.AuditFile = filepath.Join(c.StateDirectory, "audit.jsonl")
		}
	}
	o.Client = Client{Timeout: time.Duration(c.Timeout), Proxy: c.HTTPProxyURL, SystemProxy: c.UseSystemProxy, LocalAddress: c.LocalAddress,
		CAFile: c.TLSCA, CAKey: "tls_ca", CertFile: c.TLSCert, KeyFile: c.TLSKey, KeyPassword: c.TLSKeyPwd, ServerName: c.TLSServerName,
		ServerNameKey: "tls_server_name", SkipVerify: c.InsecureSkipVerify, MinVersion: c.TLSMinVersion}
	if c.UseSystemProxy {
		o.Client.Proxy = "" // Telegraf obeys the environment then
	}
	if c.TLSEnable != nil && !*c.TLSEnable {
		o.Client.CAFile, o.Client.CertFile, o.Client.KeyFile, o.Client.ServerName, o.Client.SkipVerify = "", "", "", "", false
	}
	if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		o.failed("endpoint: %q is not a URL with http or https and a host", c.Endpoint)
	}
	if v := []string{"TLS12", "TLS13"}; c.TLSMinVersion != "" && !slices.Contains(v, c.TLSMinVersion) {
		o.failed("tls_min_version: %q is not a version from TLS 1.2 on, below which nothing is sent; nearest: %s", c.TLSMinVersion, spec.Nearest(c.TLSMinVersion, v)[0])
		o.Client.MinVersion = ""
	}
	if p := o.Client.Proxy; p != "" && !isURL(p, "http", "https", "socks5", "socks5h") {
		o.failed("http_proxy_url: not a URL such as http://proxy.example.org:3128 (it is not shown, since it may hold a password)")
		o.Client.Proxy = ""
	}
	d := func(v telegrafDuration) time.Duration { return time.Duration(v) }
	o.checkTimings([]timing{{"timeout", d(c.Timeout), false}, {"devices_file_interval", d(c.DevicesFileInterval), false},
		{"initial_backoff", d(c.InitialBackoff), false}, {"hold_interval", d(c.HoldInterval), false},
		{"coalesce", d(c.Coalesce), true}, {"spread", d(c.Spread), true}}, d(c.InitialBackoff), d(c.MaxBackoff), c.MaxConcurrency)
	if err := checkSlots(slot.Options{Stamp: c.Stamp, Grace: d(c.Grace), CalibrationGrace: d(c.CalibrationGrace), Settle: d(c.Settle),
		MaxSkew: d(c.MaxSkew), MinSamples: c.MinSamples, MaxSeries: c.MaxSeries}); err != nil {
		o.failed("%v", err)
	}
	stored := 0
	secret := func(s registry.Secret, standIn string) registry.Secret {
		if strings.Contains(s.Reveal(), "@{") {
			stored++
			return registry.Secret(standIn)
		}
		return s
	}
	o.Names = registry.Config{PublicKey: secret(c.PublicKey, standInKey()), PublicKeyFile: c.PublicKeyFile, DevicesFile: c.DevicesFile}
	for _, x := range c.Devices {
		o.Names.Devices = append(o.Names.Devices, registry.DeviceConfig{
			StationID: x.StationID, DeviceID: x.DeviceID, TokenID: secret(x.TokenID, standInToken), TokenIDFile: x.TokenIDFile,
			Latitude: x.Latitude, Longitude: x.Longitude,
			PublicKey: secret(x.PublicKey, standInKey()), PublicKeyFile: x.PublicKeyFile, Parameters: x.Parameters})
	}
	if stored > 0 {
		o.fault(Unchecked, "", "%d of the tokens and keys are in a secret store, which only Telegraf opens: not read", stored)
	}
	o.checkNames(func(text string) string {
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if c.DevicesFile == "" || !strings.HasPrefix(strings.TrimPrefix(line, "devices_file: "), c.DevicesFile+":") { // in there the words are its own
				lines[i] = tomlWords.Replace(line)
			}
		}
		return strings.Join(lines, "\n")
	})
	o.checkShort("timeout")
}

// checkFlush compares Telegraf's buffering with what the plugin's README asks for.
func (o *Output) checkFlush(c telegrafOutput, a agent) {
	grace := time.Duration(c.Grace)
	if grace == 0 {
		grace = 30 * time.Second
	}
	if flush := time.Duration(a.FlushInterval); c.Align && flush >= grace {
		o.fault(Warning, fmt.Sprintf("set flush_interval to 10s, or grace to more than %s", flush),
			"flush_interval: %s is not shorter than grace, %s: readings come after their slot has closed, and are late", flush, grace)
	}
	if a.BufferLimit < 10*a.BatchSize {
		o.fault(Warning, fmt.Sprintf("set metric_buffer_limit to %d or more: metrics a second times the seconds that a repair of the disk may take", 10*a.BatchSize),
			"metric_buffer_limit: %d holds less than ten batches of %d (metric_batch_size): while the state_directory cannot be written, Telegraf drops the oldest readings", a.BufferLimit, a.BatchSize)
	}
}

// tomlWords turns the registry's key paths, which are those of YAML, into those of Telegraf's tables, as the plugin does.
var tomlWords = strings.NewReplacer("devices[", "device[", "devices: none", "device: none", ".parameters[", ".parameter[", "also parameters[", "also parameter[",
	"].attributes", "].tags", "with the same field and attributes; add attributes", "with the same field and tags; add tags",
	"ocems.device.id", "ocems_device_id", "attribute ocems.unit", "tag ocems_unit")

// unknownTOML finds the keys that the plugin does not have.
func (o *Output) unknownTOML(t *ast.Table, options reflect.Type, skip []string) {
	fields := keysOf(options, "toml")
	for _, key := range slices.Sorted(maps.Keys(t.Fields)) {
		v := t.Fields[key]
		field, ok := fields[key]
		switch {
		case ok:
		case slices.Contains(skip, key):
			continue
		default:
			o.failed("line %d: %s", lineOf(v), unknownKey(key, slices.Collect(maps.Keys(fields))))
			continue
		}
		if field.Kind() != reflect.Slice || field.Elem().Kind() != reflect.Struct {
			continue
		}
		tables, ok := v.([]*ast.Table)
		if !ok {
			o.failed("line %d: %s is a list: write [[...%s]]", lineOf(v), key, key)
		}
		for _, sub := range tables {
			o.unknownTOML(sub, field.Elem(), nil)
		}
	}
}

// pruneTOML takes out what cannot be read.
func pruneTOML(t *ast.Table, options reflect.Type) {
	fields := keysOf(options, "toml")
	for key, v := range t.Fields {
		field, ok := fields[key]
		tables, isList := v.([]*ast.Table)
		switch isStructs := ok && field.Kind() == reflect.Slice && field.Elem().Kind() == reflect.Struct; {
		case !ok || isStructs && !isList:
			delete(t.Fields, key)
		case isStructs:
			for _, sub := range tables {
				pruneTOML(sub, field.Elem())
			}
		}
	}
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

var goTypes = regexp.MustCompile(` ?into (Go )?(type )?\S+$|\(\S*\) `)

// tomlError is the decoder's text without the names of types in here.
func tomlError(err error) string { return goTypes.ReplaceAllString(err.Error(), "") }

// expandTelegraf puts the environment in as Telegraf does: in values only, and what is not set and has no default stays.
func (r *reader) expandTelegraf(root *ast.Table) error {
	keep := func(s string, m template.Mapping, cfg *template.Config) (string, error) {
		value, applied, err := template.DefaultReplacementAppliedFunc(s, m, cfg)
		switch {
		case err == nil && !applied:
			if name := strings.Trim(s, "${}"); isName.MatchString(name) {
				r.cfg.Unset = append(r.cfg.Unset, name)
			}
			return s, nil
		case err != nil && strings.HasPrefix(err.Error(), "Invalid template:"):
			return s, nil // such as ${1} of a regular expression
		}
		return value, err
	}
	return eachString(root, func(s *ast.String) error {
		v, err := template.SubstituteWithOptions(s.Value, r.lookup, template.WithReplacementFunction(keep), template.WithoutLogging)
		if err != nil {
			return err
		}
		setText(s, v)
		return nil
	})
}

var isName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func setText(s *ast.String, v string) {
	if v != s.Value {
		s.Value, s.Data = v, []rune(strconv.Quote(v))
	}
}

// eachString visits the strings among the values, in no order, and says at which line and key it failed.
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

// execd follows an [[outputs.execd]] to the file of ocems-telegraf. It reports whether it is one of those.
func (r *reader) execd(name string, t *ast.Table) bool {
	kv, _ := t.Fields["command"].(*ast.KeyValue)
	if kv == nil {
		return false
	}
	list, _ := kv.Value.(*ast.Array)
	if list == nil {
		return false
	}
	var argv []string
	for _, x := range list.Value {
		if s, ok := x.(*ast.String); ok {
			argv = append(argv, s.Value)
		}
	}
	if !slices.ContainsFunc(argv, func(s string) bool { return strings.HasPrefix(filepath.Base(s), "ocems-telegraf") }) {
		return false
	}
	where := fmt.Sprintf("%s:%d", name, t.Line)
	fault := func(s Severity, do, format string, args ...any) {
		r.fault(s, do, where+": outputs.execd: "+format, args...)
	}
	if v := textOf(t, "data_format"); v != "influx" {
		fault(Failed, `set data_format = "influx"`, "data_format: %q is not what ocems-telegraf reads", v)
	}
	if textOf(t, "use_batch_format") != "true" {
		fault(Warning, "set use_batch_format = true", "use_batch_format is not set: a batch with a metric of nothing but NaN is written again and again, and its readings count each time")
	}
	if textOf(t, "restart_delay") == "" {
		fault(Warning, `set restart_delay = "10s"`, "restart_delay is not set: a program that cannot start is started again and again without a pause")
	}
	path := ""
	for i, a := range argv {
		flag, value, joined := strings.Cut(a, "=")
		if flag = strings.TrimPrefix(flag, "-"); flag != "-config" && flag != "config" || !strings.HasPrefix(a, "-") {
			continue
		}
		if !joined && i+1 < len(argv) {
			value = argv[i+1]
		}
		path = value
	}
	if path == "" {
		fault(Failed, "give ocems-telegraf its file: --config FILE", "command: there is no --config")
		return true
	}
	if slices.Contains(r.cfg.Files, path) {
		return true // given to us by itself too
	}
	data, err := os.ReadFile(path)
	if err != nil {
		fault(Failed, "give the path that Telegraf's working directory makes of it, or mend the file's permissions", "the file of ocems-telegraf: %v", err)
		return true
	}
	r.cfg.Files = append(r.cfg.Files, path)
	root, err := toml.Parse(bytes.TrimPrefix(data, []byte("\uFEFF")))
	if err != nil {
		r.fault(Failed, "edit "+path, "%s: %s", path, tomlError(err))
		return true
	}
	r.external(path, root)
	return true
}

// external reads a file of ocems-telegraf, which holds [[outputs.ocems]] and nothing else.
func (r *reader) external(name string, root *ast.Table) {
	if !isOwnGroup(root) {
		r.fault(Failed, "edit "+name, "%s: only [[outputs.ocems]] belongs into a file of ocems-telegraf", name)
	}
	for _, t := range tablesOf(root, "outputs", "ocems") {
		if err := r.expandExternal(t); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				do := "edit " + name
				if strings.Contains(line, "is not set") {
					do = "set the variable, or run this with the environment of the service: --env-file FILE"
				}
				r.fault(Failed, do, "%s: %s", name, line)
			}
		}
		r.telegrafOutput(name, t, External, agent{})
	}
}

func isOwnGroup(root *ast.Table) bool {
	group, ok := root.Fields["outputs"].(*ast.Table)
	return ok && len(root.Fields) == 1 && len(group.Fields) == 1 && group.Fields["ocems"] != nil
}

var (
	variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)
	lone     = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)$`)
)

// expandExternal puts the environment in as ocems-telegraf does, in its words.
func (r *reader) expandExternal(t *ast.Table) error {
	return eachString(t, func(s *ast.String) error {
		if m := lone.FindStringSubmatch(s.Value); m != nil {
			return fmt.Errorf("write ${%s}; $%s alone is not expanded", m[1], m[1])
		}
		rest := variable.ReplaceAllStringFunc(s.Value, func(found string) string { return "=" + variable.FindStringSubmatch(found)[3] })
		if strings.Contains(rest, "${") {
			return errors.New("only ${VARIABLE} and ${VARIABLE:-default} are known; for a text with ${ in it, put it in a variable")
		}
		var missing error
		v := variable.ReplaceAllStringFunc(s.Value, func(found string) string {
			parts := variable.FindStringSubmatch(found)
			if v, ok := r.lookup(parts[1]); ok && (v != "" || parts[2] == "") {
				return v
			}
			if parts[2] == "" {
				r.cfg.Unset = append(r.cfg.Unset, parts[1])
				if missing == nil {
					missing = fmt.Errorf("the environment variable %s is not set", parts[1])
				}
				return found // so that it is told from a value that is missing
			}
			return parts[3]
		})
		if missing == nil && strings.Contains(v, "@{") {
			missing = errors.New("secret stores are Telegraf's; use ${VARIABLE} or a key that ends with _file")
		}
		setText(s, v)
		return missing
	})
}
