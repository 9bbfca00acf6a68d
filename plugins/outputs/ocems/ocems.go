// Package ocems is the Telegraf output that reports to India's CPCB over the OCEMS REST API v1.5.
package ocems

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	httpconfig "github.com/influxdata/telegraf/plugins/common/http"
	"github.com/influxdata/telegraf/plugins/outputs"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/store"
	"github.com/ocems-io/ocems/ocems/store/place"
)

//go:embed sample.conf
var sampleConfig string

const (
	closeWithin = 3 * time.Second  // how long Close waits for requests in flight
	patience    = 10 * time.Minute // Telegraf writes a refused batch again within this time
	rest        = 5 * time.Second  // and then all others
	observe     = time.Second      // between two updates of the gauges
	seldom      = 5                // every 5th update includes the gauges of parameters
	openAgain   = 5 * time.Second  // between attempts to open the state
	stateFile   = "state.db"
)

// Device is one registered device.
type Device struct {
	registry.DeviceConfig
	TokenID   config.Secret `toml:"token_id"`
	PublicKey config.Secret `toml:"public_key"`
}

// OCEMS is the output.
type OCEMS struct {
	StateDirectory   string        `toml:"state_directory"`
	PublicKey        config.Secret `toml:"public_key"`
	PublicKeyFile    string        `toml:"public_key_file"`
	Devices          []*Device     `toml:"device"`
	DevicesFile      string        `toml:"devices_file"`
	BoolsAsNumbers   bool          `toml:"bools_as_numbers"`
	StringsAsNumbers bool          `toml:"strings_as_numbers"`
	MaxSeries        *int          `toml:"max_series"` // no longer a key; Init says what to do instead
	registry.Common
	options.Slots
	options.Delivery
	httpconfig.HTTPClientConfig

	Log telegraf.Logger `toml:"-"`

	names   registry.Config
	file    *store.File
	stats   *stats
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.RWMutex // guards engine and fault
	engine *engine.Engine
	fault  error // why there is no engine
}

// SampleConfig implements telegraf.Output.
func (*OCEMS) SampleConfig() string { return sampleConfig }

// Init checks the configuration. It opens no connection and writes no file.
func (o *OCEMS) Init() error {
	var err error
	if o.names, err = o.registry(); err == nil {
		_, err = registry.New(o.names)
	}
	client := options.CheckClient("timeout", time.Duration(o.Timeout), "http_proxy_url", o.HTTPProxyURL,
		map[string]string{"tls_min_version": o.TLSMinVersion}, []string{"TLS12", "TLS13"})
	if o.AuditFile == "" && o.StateDirectory != "" {
		o.AuditFile = filepath.Join(o.StateDirectory, "audit.jsonl")
	}
	if o.MaxIdleConnsPerHost == 0 {
		o.MaxIdleConnsPerHost = o.MaxConcurrency // net/http keeps 2 connections; the other requests would each open a new one
	}
	if o.MaxSeries != nil {
		err = errors.Join(err, errors.New("max_series: the key is gone; "+options.NoMaxSeries))
	}
	return errors.Join(o.Slots.Check(), o.Delivery.Check(), client, err)
}

// registry returns the configuration of the registry with resolved secrets.
func (o *OCEMS) registry() (registry.Config, error) {
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
	cfg := registry.Config{PublicKey: reveal("public_key", o.PublicKey), PublicKeyFile: o.PublicKeyFile, DevicesFile: o.DevicesFile, Common: o.Common, Words: registry.Telegraf}
	for i, d := range o.Devices {
		c := d.DeviceConfig
		c.TokenID = reveal(fmt.Sprintf("device[%d].token_id", i), d.TokenID)
		c.PublicKey = reveal(fmt.Sprintf("device[%d].public_key", i), d.PublicKey)
		cfg.Devices = append(cfg.Devices, c)
	}
	return cfg, errors.Join(faults...)
}

// Connect opens the state and starts to deliver. It needs no server. If the disk is full or fails, Connect returns no error,
// because Telegraf would exit with all its other outputs. The output then opens the state as soon as possible.
func (o *OCEMS) Connect() error {
	if time.Duration(o.Timeout) < options.ShortTimeout {
		o.Log.Warnf("timeout = %q is short: the server is slow just after a quarter of an hour, and may have stored a request that timed out; set 30s or more",
			time.Duration(o.Timeout))
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.stop = cancel
	err := o.open(ctx)
	if err != nil && place.Cure(err) == "" {
		return errors.Join(err, o.Close())
	}
	if err != nil {
		o.Log.Errorf("No reading is accepted or sent until the disk works: %v", err)
		o.running.Go(func() { o.openLater(ctx) })
	}
	return nil
}

func (o *OCEMS) openLater(ctx context.Context) {
	ticker := time.NewTicker(openAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if o.open(ctx) == nil {
			return
		}
	}
}

func (o *OCEMS) open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, o.shut())
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.fault = err
	}()
	client, err := o.CreateClient(ctx, o.Log)
	if err != nil {
		return err
	}
	state, err := o.state()
	if err != nil {
		return err
	}
	shown := options.Shown(o.Endpoint)
	o.stats = newStats(map[string]string{"endpoint": shown, "state_directory": o.StateDirectory})
	e, err := engine.Open(ctx, engine.Config{
		Slots: o.Slots, Names: o.names, Store: state, Patience: patience, Rest: rest, Logger: slog.New(logHandler{log: o.Log}),
		Board: &engine.Board{Delivery: o.Delivery, Client: client, OnResult: o.stats.result, OnTry: o.stats.try},
	})
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.engine = e
	o.mu.Unlock()
	o.running.Go(func() { o.observe(ctx, e) })
	return nil
}

// state is the file in the state_directory, or memory without one.
func (o *OCEMS) state() (store.Store, error) {
	if o.StateDirectory == "" {
		o.Log.Warn("No state_directory is set: open windows and waiting slots are lost when Telegraf stops")
		return store.NewMemory(), nil
	}
	var err error
	if o.file, err = store.Open(filepath.Join(o.StateDirectory, stateFile)); err != nil {
		if errors.Is(err, store.ErrInUse) {
			return nil, tryAgain{fmt.Errorf("the state_directory %q is in use by another process or plugin; give each its own", o.StateDirectory)}
		}
		return nil, fmt.Errorf("state_directory: %w", err)
	}
	if damage := o.file.Damage(); damage != "" {
		o.Log.Error("The state " + damage)
	}
	return o.file, nil
}

// tryAgain is a temporary error of Connect. Telegraf then applies startup_error_behavior. Telegraf's error type for this is
// internal to its module, so As makes one when Telegraf asks for it.
type tryAgain struct{ error }

// As implements the method that errors.As calls.
func (e tryAgain) As(target any) bool {
	asked := reflect.ValueOf(target).Elem()
	if t := asked.Type(); t.Kind() != reflect.Pointer || t.Elem().Name() != "StartupError" || t.Elem().PkgPath() != "github.com/influxdata/telegraf/internal" {
		return false
	}
	startup := reflect.New(asked.Type().Elem())
	cause, again := startup.Elem().FieldByName("Err"), startup.Elem().FieldByName("Retry")
	if !cause.CanSet() || !again.CanSet() {
		return false // another version of Telegraf: the start fails
	}
	cause.Set(reflect.ValueOf(e.error))
	again.SetBool(true)
	asked.Set(startup)
	return true
}

// observe updates the metrics for inputs.internal.
func (o *OCEMS) observe(ctx context.Context, e *engine.Engine) {
	ticker := time.NewTicker(observe)
	defer ticker.Stop()
	for n := 0; ; n++ {
		o.stats.observe(e.Stats())
		if n%seldom == 0 {
			o.stats.observeParameters(e.Parameters())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Close sends nothing more. Waiting slots and open windows stay in the state directory.
func (o *OCEMS) Close() error {
	if o.stop != nil {
		o.stop()
	}
	o.running.Wait()
	err := o.shut()
	// Without this, Telegraf keeps the secrets and links them again at a reload, which fails if their store has dynamic = true.
	o.PublicKey.Destroy()
	for _, d := range o.Devices {
		d.TokenID.Destroy()
		d.PublicKey.Destroy()
	}
	return err
}

// shut undoes open.
func (o *OCEMS) shut() error {
	o.mu.Lock()
	e := o.engine
	o.engine = nil
	o.mu.Unlock()
	var errs []error
	if e != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		errs = append(errs, e.Close(ctx))
	}
	if o.stats != nil {
		o.stats.close()
	}
	if o.file != nil {
		errs = append(errs, o.file.Close())
	}
	o.stats, o.file = nil, nil
	return errors.Join(errs...)
}

func init() {
	outputs.Add("ocems", func() telegraf.Output {
		return &OCEMS{
			Common: registry.DefaultCommon(), Slots: options.DefaultSlots(), Delivery: options.DefaultDelivery(),
			HTTPClientConfig: httpconfig.HTTPClientConfig{Timeout: config.Duration(45 * time.Second)},
		}
	})
}
