package registry

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// Registry is the set of devices and the names of their parameters. It is safe for concurrent use.
type Registry struct {
	now    atomic.Pointer[snapshot]
	before atomic.Pointer[snapshot] // the one before now
	noUnit error                    // with the host's names of keys

	mu     sync.Mutex // one Reload at a time
	file   string
	seen   version     // of the current devices
	next   version     // of a different file at the last look
	few    version     // of a file with few devices, which is not used at the first look
	asked  <-chan look // a look that has no result yet
	secret func() look // reads the whole configuration; a closure hides the secrets of Config from print functions
}

// look is the result of reading the files.
type look struct {
	*snapshot // nil if not all files were read
	version
	err error
}

// Device is one registered device. It uses its credentials and never shows them.
type Device struct {
	StationID string
	DeviceID  string
	Latitude  *float64  // degrees; nil when not set
	Longitude *float64  // degrees; nil when not set
	Shared    *bool     // another sender reports it too; nil when not set
	Delay     *Duration // shortest time from the window's end until a slot is sent; nil when not set

	Timestamps string // as configured, or ""
	OddToken   string // why its token does not have a known form of the board's tokens, or ""

	parameters map[string]*mapping // by key
	formerly   map[string]string   // current keys by former keys
	rules      *Rules              // for parameters without an entry

	// These are closures, because fmt prints unexported strings.
	seal func([]byte) []byte
	sign func(time.Time) (string, error)
}

// Seal encrypts a payload under the device's token into a request body (spec 2.4).
func (d *Device) Seal(payload []byte) []byte { return d.seal(payload) }

// Sign makes the signature header of one attempt at the given time (spec 2.3.2).
func (d *Device) Sign(at time.Time) (string, error) { return d.sign(at) }

// snapshot is the part of the Registry that Reload replaces.
type snapshot struct {
	devices  map[string]*Device
	formerly map[string]*Device // by former ids
	ids      []string           // sorted
	index    map[selector]*group
	asked    map[string]bool          // attributes that the mappings need
	series   int                      // approximate number of named series
	hide     func(text []byte) []byte // a closure, as in Device
}

// Hide removes the tokens of all devices from a text of a server, for a log or the trail. This includes the devices before
// the last [Registry.Reload]. If it finds none, it returns text itself.
func (r *Registry) Hide(text []byte) []byte {
	text = r.now.Load().hide(text)
	if before := r.before.Load(); before != nil { // a request in flight may have its token
		text = before.hide(text)
	}
	return text
}

// New checks the whole configuration and reads the files that it names. The error joins all mistakes; each begins with its
// key. If New reads tokens, the process writes no core dumps any more.
func New(cfg Config) (*Registry, error) {
	if !cfg.NamesOnly {
		noCore()
	}
	r := &Registry{
		file:   cfg.DevicesFile,
		secret: func() look { return load(cfg) },
		noUnit: fmt.Errorf("it has no unit; configure one or set the %s %s", cfg.Words.Attribute, cfg.Words.Unit),
	}
	l, err := r.look(context.Background(), r.first)
	if err != nil {
		return nil, err
	}
	r.seen = l.version
	r.now.Store(l.snapshot)
	return r, nil
}

// Device finds a device by its id or by a former id.
func (r *Registry) Device(id string) (*Device, bool) {
	d := r.now.Load().device(id)
	return d, d != nil
}

// Devices returns all devices, sorted by id.
func (r *Registry) Devices() []*Device {
	s := r.now.Load()
	list := make([]*Device, len(s.ids))
	for i, id := range s.ids {
		list[i] = s.devices[id]
	}
	return list
}

// Version identifies the devices of a Registry until they change. It is comparable.
type Version struct{ s *snapshot }

// Version returns a different value after each [Registry.Reload] that changed the devices.
func (r *Registry) Version() Version { return Version{r.now.Load()} }

// Asks reports whether the result of Resolve may depend on an attribute.
func (v Version) Asks(key string) bool {
	switch key {
	case "ocems.device.id", "ocems_device_id", "ocems.flag", "ocems_flag", "ocems.unit", "ocems_unit":
		return true
	}
	return v.s.asked[key]
}

// Series returns the approximate number of series that the configuration names. A device without parameters counts as 10.
func (r *Registry) Series() int { return r.now.Load().series }

// source is a device's configuration, with the place and the name of each key.
type source struct {
	DeviceConfig
	at    func(key string) string
	words Words
}

func load(cfg Config) look {
	var (
		b    = builder{snapshot: &snapshot{devices: map[string]*Device{}, formerly: map[string]*Device{}, index: map[selector]*group{}}, tokens: newHider(), namesOnly: cfg.NamesOnly, noOutbox: cfg.NoOutbox, noField: cfg.Words.NoField}
		v    version
		list []source
	)
	for i, d := range cfg.Devices {
		list = append(list, source{d, func(key string) string { return cfg.Words.device(i, key) }, cfg.Words})
	}
	if cfg.DevicesFile != "" {
		more, seen, err := readDevices(cfg.DevicesFile)
		if err != nil {
			b.faults = append(b.faults, fmt.Errorf("devices_file: %w", err))
		}
		v, list = seen, append(list, more...)
	} else if len(cfg.Devices) == 0 {
		b.fault(cfg.Words.Devices, "none is given; give at least one, or a devices_file")
	}
	b.hide = b.tokens.hide
	b.addAll(cfg, list)
	if err := errors.Join(b.faults...); err != nil {
		return look{nil, v, err}
	}
	return look{b.snapshot, v, nil}
}

const perDevice = 10 // assumed parameters of a device without parameters

type builder struct {
	*snapshot
	tokens    *hider
	namesOnly bool
	noOutbox  bool
	noField   string // of Words
	faults    []error
	keys      map[string]parsedKey
}

type parsedKey struct {
	key *rsa.PublicKey
	err error
}

func (b *builder) fault(at, format string, args ...any) {
	b.faults = append(b.faults, fmt.Errorf("%s: "+format, append([]any{at}, args...)...))
}

// text returns the inline text or the content of the file. ok is false after a fault.
func (b *builder) text(at func(string) string, key string, inline Secret, file string) (text string, ok bool) {
	text = strings.TrimSpace(inline.Reveal())
	if file == "" {
		return text, true
	}
	if text != "" {
		b.fault(at(key), "both %s and %s_file are given; keep one", key, key)
		return "", false
	}
	data, err := os.ReadFile(file)
	if p := (*os.PathError)(nil); errors.As(err, &p) && maybeSecret(file) {
		b.fault(at(key+"_file"), "%w; this is not a file's name; if it is the %s itself, give it as %s", p.Err, key, key)
		return "", false
	}
	if err != nil {
		b.fault(at(key+"_file"), "%w", err)
		return "", false
	}
	if text = strings.TrimSpace(string(asUTF8(data))); text == "" {
		b.fault(at(key+"_file"), "%s is empty", file)
	}
	return text, text != ""
}

// maybeSecret reports that a file name may be a token or key in the wrong place. No error may show it.
func maybeSecret(name string) bool {
	return tokenForm.MatchString(name) || len(name) >= 32 && !strings.ContainsAny(name, `./\`) || len(name) > 200 || strings.Contains(name, "-----BEGIN")
}

// publicKey parses a key. The same text is parsed only once, for hubs whose devices share one key.
func (b *builder) publicKey(at func(string) string, inline Secret, file string) (key *rsa.PublicKey, ok bool) {
	text, ok := b.text(at, "public_key", inline, file)
	if !ok || text == "" {
		return nil, ok
	}
	p, known := b.keys[text]
	if !known {
		p.key, p.err = seal.ParsePublicKey(text)
		if b.keys == nil {
			b.keys = map[string]parsedKey{}
		}
		b.keys[text] = p
	}
	if p.err != nil {
		if file != "" {
			b.fault(at("public_key_file"), "%s: %w", file, p.err)
		} else {
			b.fault(at("public_key"), "%w", p.err)
		}
		return nil, false
	}
	return p.key, true
}

func (b *builder) addAll(cfg Config, list []source) {
	var common *rsa.PublicKey
	commonOK := false
	if !b.namesOnly {
		common, commonOK = b.publicKey(func(key string) string { return key }, cfg.PublicKey, cfg.PublicKeyFile)
	}
	var (
		keyless  []string
		places   = map[string]string{} // device id: where
		taken    = map[string]string{} // selector with attributes: where
		owner    = map[string]int{}    // selector with attributes: device
		mappings []*mapping
		renamed  []renaming
		forAll   = b.common(cfg.Common)
	)
	for i, src := range list {
		src.StationID, src.DeviceID = strings.TrimSpace(src.StationID), strings.TrimSpace(src.DeviceID)
		if src.StationID == "" {
			b.fault(src.at("station_id"), "missing; give the station id that the board registered")
		}
		if src.DeviceID == "" {
			b.fault(src.at("device_id"), "missing; give the device id that the board registered")
		} else if first, ok := places[src.DeviceID]; ok {
			b.fault(src.at("device_id"), "%q is also %s; give each device once", src.DeviceID, first)
		} else {
			places[src.DeviceID] = src.at("device_id")
		}
		for _, id := range []struct{ key, value string }{{"station_id", src.StationID}, {"device_id", src.DeviceID}} {
			if asNumber.MatchString(id.value) {
				b.fault(src.at(id.key), "%q is a number that a spreadsheet has shortened; write the id as the board does, in a column of the format Text", id.value)
			}
			if !utf8.ValidString(id.value) || strings.ContainsFunc(id.value, unicode.IsControl) { // not valid in JSON or in a header
				b.fault(src.at(id.key), "%q is not one line of UTF-8; write it as the board does", id.value)
			}
			if len(id.value) > longest {
				b.fault(src.at(id.key), "%q is longer than %d bytes; write it as the board does", id.value[:longest], longest)
			}
		}
		degrees := func(key string, v *Number, limit Number) {
			if v != nil && !(*v >= -limit && *v <= limit) {
				b.fault(src.at(key), "%v is outside -%v to %v degrees; nearest: %v", *v, limit, limit, max(-limit, min(limit, *v)))
			}
		}
		if src.Timestamps = strings.TrimSpace(src.Timestamps); src.Timestamps != "" && !slices.Contains(Timestamps, src.Timestamps) {
			b.fault(src.at("timestamps"), "%w", WrongTimestamps(src.Timestamps))
		}
		if err := CheckDelay(src.Delay, src.SharedDevice); err != nil {
			b.fault(src.at("delay"), "%w", err)
		}
		degrees("latitude", src.Latitude, 90)
		degrees("longitude", src.Longitude, 180)

		device := &Device{StationID: src.StationID, DeviceID: src.DeviceID, Latitude: (*float64)(src.Latitude), Longitude: (*float64)(src.Longitude), Shared: src.SharedDevice, Delay: src.Delay, Timestamps: src.Timestamps,
			parameters: map[string]*mapping{}, formerly: map[string]string{}, rules: b.rules(src.at, forAll, &Validity{ReadingStamp: strings.TrimSpace(src.ReadingStamp)})}
		if !b.namesOnly {
			if b.credentials(device, src, common) && commonOK {
				keyless = append(keyless, src.at("public_key"))
			}
		}
		if src.DeviceID != "" && b.devices[src.DeviceID] == nil {
			b.devices[src.DeviceID] = device
			b.ids = append(b.ids, src.DeviceID)
		}
		if len(src.Formerly) > 0 {
			renamed = append(renamed, renaming{src.at("formerly"), src.DeviceID, src.Formerly, device})
		}

		params := map[string]int{}
		var keys []renaming
		for j, p := range src.Parameters {
			at := func(key string) string { return src.at(src.words.parameter(j, key)) }
			m := b.mapping(at, device, p)
			if m.parameter != "" {
				if first, ok := params[m.parameter]; ok {
					b.fault(at("parameter"), "%q is also %s[%d] of this device; map each parameter once", m.parameter, src.words.Parameters, first)
				} else {
					params[m.parameter] = j
				}
				device.parameters[m.parameter] = m
				keys = append(keys, renaming{at("formerly"), m.parameter, p.Formerly, device})
			}
			if m.metric == "" {
				continue
			}
			mappings = append(mappings, m)
			same := fmt.Sprintf("%q%q%q", m.metric, m.field, m.attributes)
			if n, ok := owner[same]; !ok {
				owner[same], taken[same] = i, at("metric")
			} else if n != i {
				b.fault(at("metric"), "%q is also %s, with the same field and %s; add %s that tell the devices apart, such as %s", m.metric, taken[same],
					src.words.Attributes, src.words.Attributes, src.words.DeviceID)
			}
		}
		present := map[string]string{}
		for key, j := range params {
			present[key] = src.at(src.words.parameter(j, "parameter"))
		}
		b.rename(keys, present, "is a current parameter of the device; name a key that it no longer has",
			func(n renaming, key string) { device.formerly[key] = n.name })
	}
	b.rename(renamed, places, "is a configured device; name an id that no device has any more",
		func(n renaming, id string) { b.formerly[id] = n.device })
	if len(keyless) > 0 {
		b.fault("public_key", "missing; give public_key or public_key_file (devices without their own: %d, the first %s)", len(keyless), keyless[0])
	}
	slices.Sort(b.ids)
	b.index, b.asked = newIndex(mappings), map[string]bool{}
	for _, m := range mappings {
		for _, a := range m.attributes {
			b.asked[a.key] = true
		}
	}
	for _, d := range b.devices {
		if b.series += len(d.parameters); len(d.parameters) == 0 {
			b.series += perDevice
		}
	}
}

// variableName matches the name of a variable that was not replaced by its value: ${NAME}, ${env:NAME} or, in Telegraf,
// $NAME. A name of 32 or more characters without braces may be a token after an unwanted $.
var variableName = regexp.MustCompile(`^\$(\{[A-Za-z_][A-Za-z0-9_:.]*\}|[A-Za-z_][A-Za-z0-9_]{0,30})$`)

// credentials reads the token and the key of a device. keyless says that there is neither its own nor a common key.
func (b *builder) credentials(device *Device, src source, common *rsa.PublicKey) (keyless bool) {
	token, ok := b.text(src.at, "token_id", src.TokenID, src.TokenIDFile)
	switch {
	case ok && token == "":
		b.fault(src.at("token_id"), "missing; give token_id or token_id_file")
	case variableName.MatchString(token) && len(token) <= 64: // not a token, so it may be shown
		b.fault(src.at("token_id"), "%q is the name of a variable that is not set in the environment", token)
		token = ""
	case strings.HasPrefix(token, "${"):
		b.fault(src.at("token_id"), "it begins with ${ but is not a variable such as ${NAME} (it is not shown, since it may hold the token)")
		token = ""
	default:
		if text := mistaken(token); text != "" {
			b.fault(src.at("token_id"), "%s (it is not shown)", text)
			token = ""
		}
	}
	device.OddToken = OddToken(token)
	key, ok := b.publicKey(src.at, src.PublicKey, src.PublicKeyFile)
	keyAt := src.at("public_key")
	if ok && key == nil {
		if key, keyAt = common, "public_key"; key == nil {
			return true
		}
	}
	if token != "" && key != nil {
		b.arm(device, src, keyAt, key, token)
	}
	return false
}

// arm gives a device its credentials.
func (b *builder) arm(d *Device, src source, keyAt string, key *rsa.PublicKey, token string) {
	if err := seal.CheckKey(key, token); err != nil {
		b.fault(keyAt, "%w", err)
		return
	}
	body, err := seal.NewBody(token)
	if err != nil {
		b.fault(src.at("token_id"), "%w", err)
		return
	}
	d.seal = body.Seal
	b.tokens.add(token)
	d.sign = func(at time.Time) (string, error) { return seal.Sign(key, token, at) }
}

// mapping checks one entry of parameters.
func (b *builder) mapping(at func(string) string, d *Device, p ParameterConfig) *mapping {
	m := &mapping{
		selector: selector{strings.TrimSpace(p.Metric), plainField(strings.TrimSpace(p.Field))},
		device:   d, decimals: -1, diagnostic: p.Diagnostic,
	}
	for k, v := range p.Attributes {
		m.attributes = append(m.attributes, attribute{k, v})
	}
	slices.SortFunc(m.attributes, func(x, y attribute) int { return cmp.Compare(x.key, y.key) })
	if m.metric == "" {
		b.fault(at("metric"), "missing; give the name of the metric")
	}

	m.parameter = strings.TrimSpace(p.Parameter)
	switch {
	case !utf8.ValidString(m.parameter):
		b.fault(at("parameter"), "%q is not UTF-8, which JSON requires; save the file as UTF-8", m.parameter)
	case m.parameter == "":
		if name := m.catalogueName(); spec.IsParameter(name) {
			m.parameter = name
		} else if name != "" {
			_, err := spec.LookupParameter(name)
			what := "metric"
			if m.field != "" {
				what = "field"
			}
			b.fault(at("parameter"), "missing, and the %s's name is not a parameter key: %w", what, err)
		} else {
			b.fault(at("parameter"), "missing; give a key of the catalogue")
		}
	case !p.AllowUnlisted:
		if _, err := spec.LookupParameter(m.parameter); err != nil {
			b.fault(at("parameter"), "%w", err)
		}
	}
	if m.unit = strings.TrimSpace(p.Unit); !utf8.ValidString(m.unit) {
		b.fault(at("unit"), "%q is not UTF-8, which JSON requires; save the file as UTF-8", m.unit)
	} else if m.unit != "" && !p.AllowUnlisted {
		unit, err := spec.ResolveUnit(m.unit)
		if err != nil {
			b.fault(at("unit"), "%w", err)
		}
		m.unit = unit
	}
	if b.noField != "" && m.field != "" {
		b.fault(at("field"), "%q does nothing here; %s", m.field, b.noField)
	}
	if p.Statistic != "" {
		stat, err := slot.ParseStatistic(p.Statistic)
		if err != nil {
			b.fault(at("statistic"), "%w", err)
		}
		m.statistic = &stat
	}
	if m.rules = b.rules(at, d.rules, &p.Validity); m.rules.EndStamped && m.statistic != nil && *m.statistic == slot.TimeWeighted {
		b.fault(at("reading_stamp"), `"end" does not fit the statistic time_weighted, where a value holds from its timestamp on; nearest: start`)
	}
	if p.Decimals != nil {
		if m.decimals = *p.Decimals; m.decimals < 0 || m.decimals > 10 {
			b.fault(at("decimals"), "%d is outside 0 to 10; nearest: %d", m.decimals, min(max(m.decimals, 0), 10))
		}
	}
	return m
}
