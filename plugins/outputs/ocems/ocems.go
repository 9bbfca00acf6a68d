// Package ocems is the Telegraf output that reports to India's CPCB over the OCEMS REST API v1.5.
package ocems

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	httpconfig "github.com/influxdata/telegraf/plugins/common/http"
	"github.com/influxdata/telegraf/plugins/outputs"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

//go:embed sample.conf
var sampleConfig string

const (
	closeWithin = 3 * time.Second  // of Close, for requests in flight
	shortest    = 30 * time.Second // timeout below which the server may store what counts as failed here
)

// Parameter says which field of which metric is a parameter of the device.
type Parameter = registry.ParameterConfig

// Device is one registered device.
type Device struct {
	StationID     string        `toml:"station_id"`
	DeviceID      string        `toml:"device_id"`
	TokenID       config.Secret `toml:"token_id"`
	TokenIDFile   string        `toml:"token_id_file"`
	Latitude      *float64      `toml:"latitude"`
	Longitude     *float64      `toml:"longitude"`
	PublicKey     config.Secret `toml:"public_key"`
	PublicKeyFile string        `toml:"public_key_file"`
	Parameters    []Parameter   `toml:"parameter"`
}

// OCEMS is the output.
type OCEMS struct {
	Endpoint            string          `toml:"endpoint"`
	StateDirectory      string          `toml:"state_directory"`
	AuditFile           string          `toml:"audit_file"`
	PublicKey           config.Secret   `toml:"public_key"`
	PublicKeyFile       string          `toml:"public_key_file"`
	Devices             []*Device       `toml:"device"`
	DevicesFile         string          `toml:"devices_file"`
	DevicesFileInterval config.Duration `toml:"devices_file_interval"`
	BoolsAsNumbers      bool            `toml:"bools_as_numbers"`
	StringsAsNumbers    bool            `toml:"strings_as_numbers"`
	Align               bool            `toml:"align"`
	Stamp               string          `toml:"stamp"`
	Grace               config.Duration `toml:"grace"`
	CalibrationGrace    config.Duration `toml:"calibration_grace"`
	Settle              config.Duration `toml:"settle"`
	MaxSkew             config.Duration `toml:"max_skew"`
	MinSamples          int             `toml:"min_samples"`
	MaxSeries           int             `toml:"max_series"`
	Coalesce            config.Duration `toml:"coalesce"`
	Spread              config.Duration `toml:"spread"`
	InitialBackoff      config.Duration `toml:"initial_backoff"`
	MaxBackoff          config.Duration `toml:"max_backoff"`
	HoldInterval        config.Duration `toml:"hold_interval"`
	MaxConcurrency      int             `toml:"max_concurrency"`
	DryRun              bool            `toml:"dry_run"`
	Log                 telegraf.Logger `toml:"-"`
	httpconfig.HTTPClientConfig

	registry *registry.Registry
	aligner  *slot.Aligner[series]
	delivery *delivery.Delivery
	trail    *audit.Trail
	backlog  *audit.Backlog // of what was refused; nil without a trail
	state    *state
	stats    *stats
	unwatch  context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex // guards all below, and the order of what happens to the aligner and the journal
	journal *journal
	said    map[string]int
	unsaved bool // a slot closed and is not saved: it must not go out, and no sample may come in
	untaken bool // a slot is in the outbox and still saved as closed: a crash would hand it over again
	fault   string

	closeFrom time.Time // when slots may close again after a batch was refused
}

// SampleConfig implements telegraf.Output.
func (*OCEMS) SampleConfig() string { return sampleConfig }

// Init checks the configuration. It opens no connection and writes no file.
func (o *OCEMS) Init() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if u, err := url.Parse(o.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		fault("endpoint: %q is not a URL with http or https and a host", o.Endpoint)
	}
	if v := []string{"TLS12", "TLS13"}; o.TLSMinVersion != "" && !slices.Contains(v, o.TLSMinVersion) {
		fault("tls_min_version: %q is not a version from TLS 1.2 on, below which nothing is sent; nearest: %s", o.TLSMinVersion, spec.Nearest(o.TLSMinVersion, v)[0])
	}
	for key, d := range map[string]config.Duration{"timeout": o.Timeout, "devices_file_interval": o.DevicesFileInterval,
		"initial_backoff": o.InitialBackoff, "hold_interval": o.HoldInterval} {
		if d <= 0 {
			fault("%s: %s must be more than 0", key, time.Duration(d))
		}
	}
	for key, d := range map[string]config.Duration{"coalesce": o.Coalesce, "spread": o.Spread} {
		if d < 0 {
			fault("%s: %s must not be negative", key, time.Duration(d))
		}
	}
	if o.MaxBackoff < o.InitialBackoff {
		fault("max_backoff: %s must not be less than initial_backoff, %s", time.Duration(o.MaxBackoff), time.Duration(o.InitialBackoff))
	}
	if o.MaxConcurrency < 1 {
		fault("max_concurrency: %d must be at least 1", o.MaxConcurrency)
	}
	if _, err := o.newAligner(); err != nil {
		faults = append(faults, err)
	}
	cfg, err := o.names()
	if err != nil {
		faults = append(faults, err)
	} else if o.registry, err = registry.New(cfg); err != nil {
		lines := strings.Split(err.Error(), "\n")
		for i, line := range lines {
			if o.DevicesFile == "" || !strings.HasPrefix(strings.TrimPrefix(line, "devices_file: "), o.DevicesFile+":") { // in there the words are its own
				lines[i] = tomlWords.Replace(line)
			}
		}
		faults = append(faults, errors.New(strings.Join(lines, "\n")))
	}
	if o.AuditFile == "" && o.StateDirectory != "" {
		o.AuditFile = filepath.Join(o.StateDirectory, "audit.jsonl")
	}
	if o.MaxIdleConnsPerHost == 0 {
		o.MaxIdleConnsPerHost = o.MaxConcurrency // net/http keeps 2, the others would connect anew for each request
	}
	o.said = map[string]int{}
	return errors.Join(faults...)
}

// tomlWords turns the registry's key paths, which are those of YAML, into those of Telegraf's tables.
var tomlWords = strings.NewReplacer("devices[", "device[", "devices: none", "device: none", ".parameters[", ".parameter[", "also parameters[", "also parameter[",
	"].attributes", "].tags", "with the same field and attributes; add attributes", "with the same field and tags; add tags",
	"ocems.device.id", "ocems_device_id", "attribute ocems.unit", "tag ocems_unit")

func (o *OCEMS) newAligner() (*slot.Aligner[series], error) {
	return slot.New(slot.Options{
		Stamp: o.Stamp, Grace: time.Duration(o.Grace), CalibrationGrace: time.Duration(o.CalibrationGrace),
		Settle: time.Duration(o.Settle), MaxSkew: time.Duration(o.MaxSkew), MinSamples: o.MinSamples, MaxSeries: o.MaxSeries,
	}, seriesCodec{})
}

// names is the registry's configuration, with the secrets resolved.
func (o *OCEMS) names() (registry.Config, error) {
	var faults []error
	reveal := func(key string, s config.Secret) registry.Secret {
		if s.Empty() {
			return ""
		}
		b, err := s.Get()
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", key, err))
			return ""
		}
		defer b.Destroy()
		return registry.Secret(b.String())
	}
	cfg := registry.Config{PublicKey: reveal("public_key", o.PublicKey), PublicKeyFile: o.PublicKeyFile, DevicesFile: o.DevicesFile}
	for i, d := range o.Devices {
		at := fmt.Sprintf("device[%d].", i)
		cfg.Devices = append(cfg.Devices, registry.DeviceConfig{
			StationID: d.StationID, DeviceID: d.DeviceID, TokenID: reveal(at+"token_id", d.TokenID), TokenIDFile: d.TokenIDFile,
			Latitude: d.Latitude, Longitude: d.Longitude,
			PublicKey: reveal(at+"public_key", d.PublicKey), PublicKeyFile: d.PublicKeyFile, Parameters: d.Parameters,
		})
	}
	return cfg, errors.Join(faults...)
}

// Connect opens the state and starts to deliver. The server need not be there.
func (o *OCEMS) Connect() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if time.Duration(o.Timeout) < shortest {
		o.Log.Warnf("timeout = %q is short: the server is slow after a boundary, and a request given up may be stored all the same; set 30s or more",
			time.Duration(o.Timeout))
	}
	if o.aligner, err = o.newAligner(); err != nil { // anew: Telegraf connects again after a failure, and restore would count twice
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.unwatch = cancel
	client, err := o.CreateClient(ctx, o.Log)
	if err != nil {
		return err
	}
	var outbox store.Store = store.NewMemory()
	var refused map[refusal]*audit.Entry
	if o.StateDirectory == "" {
		o.Log.Warn("No state_directory is set: open slots and what waits to be sent are lost when Telegraf stops")
	} else {
		if refused, err = o.restore(); err != nil {
			return err
		}
		outbox = o.state
	}
	if o.AuditFile == "" {
		o.Log.Warn("Neither state_directory nor audit_file is set: final outcomes go to the log only")
	} else {
		if o.trail, err = audit.Open(o.AuditFile); err != nil {
			return fmt.Errorf("audit_file: %w", err)
		}
		if damage := o.trail.Damage(); damage != "" {
			o.Log.Error(upper(damage))
		}
		o.backlog = &audit.Backlog{Trail: o.trail}
	}
	o.writeRefusals(refused)
	o.unsaved = len(refused) > 0 // the next checkpoint rids the journal of them
	shown := o.Endpoint
	if u, err := url.Parse(shown); err == nil {
		shown = u.Redacted()
	}
	o.stats = newStats(map[string]string{"endpoint": shown, "state_directory": o.StateDirectory})
	o.delivery, err = delivery.New(ctx, delivery.Config{
		Endpoint: o.Endpoint, Client: client, Store: outbox, Trail: o.trail, Lookup: o.lookup,
		Logger:   slog.New(logHandler{log: o.Log}),
		OnResult: o.stats.result, OnTry: o.stats.try,
		Coalesce: orNoWait(o.Coalesce), Spread: orNoWait(o.Spread),
		InitialBackoff: time.Duration(o.InitialBackoff), MaxBackoff: time.Duration(o.MaxBackoff), HoldInterval: time.Duration(o.HoldInterval),
		MaxConcurrency: o.MaxConcurrency, DryRun: o.DryRun,
	})
	if err != nil {
		return err
	}
	o.Log.Infof("Reporting %d devices to %s, of which %d slots wait to be sent", len(o.registry.Devices()), shown, o.delivery.Stats().Slots)
	o.running.Go(func() { o.run(ctx) })
	o.running.Go(func() {
		o.registry.Watch(ctx, time.Duration(o.DevicesFileInterval), func() {
			o.Log.Infof("The devices_file was read again: %d devices", len(o.registry.Devices()))
			o.delivery.Retry()
		}, func(err error) { o.Log.Errorf("The devices of before stay in force: %v", err) })
	})
	return nil
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// restore loads the last checkpoint and what the journal has beyond it. It returns what of that is refused, since a kill
// may have come before that was noted.
func (o *OCEMS) restore() (map[refusal]*audit.Entry, error) {
	s, damage, err := openState(o.StateDirectory)
	if err != nil {
		return nil, err
	}
	o.state = s
	if damage != "" {
		o.Log.Error(upper(damage))
	}
	b := batch{refused: map[refusal]*audit.Entry{}}
	entries, segment, err := s.loadSlots(o.aligner.Keys())
	twice := errors.Is(err, errJournalKey)
	if twice {
		o.Log.Errorf("All of the journal is read, also what may be in the checkpoint already: %v", err)
	} else if err != nil {
		return nil, err
	}
	if err := o.aligner.Restore(entries, time.Now()); err != nil {
		o.Log.Errorf("A part of the saved slots is damaged and left out; the rest is restored: %v", err)
		if kept, err := s.setAside(o.unreadable(entries)); err != nil {
			o.Log.Errorf("The damaged part stays where it is until it is written over: %v", err)
		} else {
			o.Log.Errorf("The damaged part is kept in %s as %q", stateFile, kept)
		}
	}
	unread := 0
	j, damaged, err := openJournal(o.StateDirectory, segment, func(content []byte) {
		now, samples, err := decodeSamples(content)
		if err != nil {
			unread++
			return
		}
		for _, x := range samples {
			if refused, ok := o.aligner.Add(x.series, x.statistic, x.at, x.value, x.flag, now).(*slot.RefusedError); ok && !twice { // then as now
				o.refuse(&b, x, string(refused.Reason))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, e := range b.refused {
		e.Detail = "found in the journal at a start, and perhaps noted before: " + e.Detail
	}
	for _, name := range damaged {
		o.Log.Errorf("The journal of samples is damaged; the rest of it is restored, and it is kept as %s", name)
	}
	if j.torn > 0 {
		o.Log.Warnf("The journal of samples ends in a frame that is cut short, by %d bytes that are left out; a crash in the middle of a write leaves this", j.torn)
	}
	if unread > 0 {
		o.Log.Errorf("%d batches of samples in the journal cannot be read and are left out", unread)
	}
	if n := o.aligner.Stats().Refused[slot.MaxSeries]; n > 0 {
		o.Log.Errorf("%d samples of the journal are left out: max_series is less than the series that they are of", n)
	}
	o.journal = j
	return b.refused, nil
}

// unreadable finds which of the aligner's entries are damaged.
func (o *OCEMS) unreadable(entries map[string][]byte) map[string][]byte {
	damaged := map[string][]byte{}
	for key, value := range entries {
		if a, err := o.newAligner(); err == nil && a.Restore(map[string][]byte{key: value}, time.Now()) != nil {
			damaged[key] = value
		}
	}
	return damaged
}

// Close sends nothing more. What waits, and the open slots, stay in the state directory.
func (o *OCEMS) Close() error {
	var errs []error
	if o.unwatch != nil {
		o.unwatch()
		o.running.Wait()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.backlog != nil {
		errs = append(errs, o.backlog.Append()) // before the journal forgets it
	}
	if o.journal != nil && o.delivery != nil {
		errs = append(errs, o.checkpoint())
	}
	if o.delivery != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		errs = append(errs, o.delivery.Close(ctx))
		cancel()
	}
	if o.stats != nil {
		o.stats.close()
	}
	if o.trail != nil {
		errs = append(errs, o.trail.Close())
	}
	if o.journal != nil {
		errs = append(errs, o.journal.close())
	}
	if o.state != nil {
		errs = append(errs, o.state.close())
	}
	o.unwatch, o.delivery, o.stats, o.trail, o.backlog, o.journal, o.state = nil, nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

func (o *OCEMS) lookup(id string) (delivery.Target, bool) {
	d, ok := o.registry.Device(id)
	if !ok {
		return delivery.Target{}, false
	}
	return delivery.Target{StationID: d.StationID, Latitude: d.Latitude, Longitude: d.Longitude, Sealer: d}, true
}

func orNoWait(d config.Duration) time.Duration {
	if d == 0 {
		return delivery.NoWait
	}
	return time.Duration(d)
}

func init() {
	outputs.Add("ocems", func() telegraf.Output {
		return &OCEMS{
			Endpoint:            "https://cems.cpcb.gov.in/v1.0/industry/data",
			Align:               true,
			DevicesFileInterval: config.Duration(10 * time.Second),
			Coalesce:            config.Duration(5 * time.Second),
			Spread:              config.Duration(10 * time.Second),
			InitialBackoff:      config.Duration(5 * time.Second),
			MaxBackoff:          config.Duration(5 * time.Minute),
			HoldInterval:        config.Duration(10 * time.Minute),
			MaxConcurrency:      32,
			HTTPClientConfig:    httpconfig.HTTPClientConfig{Timeout: config.Duration(45 * time.Second)},
		}
	})
}
