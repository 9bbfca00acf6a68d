// Command telegraf is Telegraf with outputs.ocems built in. It takes the options of Telegraf's own command that run an
// agent; those that only print or edit configurations are left to that command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/awnumar/memguard"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/influxdata/telegraf/agent"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"

	_ "github.com/influxdata/telegraf/plugins/aggregators/all"
	_ "github.com/influxdata/telegraf/plugins/inputs/all"
	_ "github.com/influxdata/telegraf/plugins/outputs/all"
	_ "github.com/influxdata/telegraf/plugins/parsers/all"
	_ "github.com/influxdata/telegraf/plugins/processors/all"
	_ "github.com/influxdata/telegraf/plugins/secretstores/all"
	_ "github.com/influxdata/telegraf/plugins/serializers/all"

	_ "github.com/ocems-io/ocems/plugins/outputs/ocems"
)

// version is Telegraf's, set when it is built.
var version = "1.38.3"

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type options struct {
	files, directories                    list
	test, once, debug, quiet, unprotected bool
	testWait                              int
	pidfile, password                     string
}

func main() {
	os.Setenv("DISABLE_KWALLET", "1") // the keyring's library would ask for a desktop's wallet
	err := run(os.Args[1:])
	memguard.Purge()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Printf("E! [telegraf] %v", err)
		_ = logger.CloseLogging()
		os.Exit(1)
	}
	_ = logger.CloseLogging()
}

func run(args []string) error {
	var o options
	flags := flag.NewFlagSet("telegraf", flag.ContinueOnError)
	flags.Var(&o.files, "config", "configuration `file` or URL; may be given several times")
	flags.Var(&o.directories, "config-directory", "`directory` of further .conf files; may be given several times")
	flags.BoolVar(&o.test, "test", false, "gather once, print the metrics and stop; outputs are not used")
	flags.IntVar(&o.testWait, "test-wait", 0, "`seconds` to wait for service inputs with --test and --once")
	flags.BoolVar(&o.once, "once", false, "gather once, write to the outputs and stop")
	flags.BoolVar(&o.debug, "debug", false, "log debug messages")
	flags.BoolVar(&o.quiet, "quiet", false, "log errors only")
	flags.BoolVar(&o.unprotected, "unprotected", false, "do not protect secrets in memory")
	flags.StringVar(&o.pidfile, "pidfile", "", "`file` for the process id")
	flags.StringVar(&o.password, "password", "", "`password` of secret stores")
	show := flags.Bool("version", false, "print the version and stop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *show || flags.Arg(0) == "version" {
		fmt.Printf("Telegraf %s with outputs.ocems\n", version)
		return nil
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown command %q", flags.Arg(0))
	}
	if o.unprotected {
		log.Print("W! Running without secret protection!")
		config.DisableSecretProtection()
	} else {
		config.EnableSecretProtection()
	}
	if o.password != "" {
		config.Password = config.NewSecret([]byte(o.password))
	}
	if o.pidfile != "" {
		if err := os.WriteFile(o.pidfile, fmt.Appendln(nil, os.Getpid()), 0o640); err != nil {
			log.Printf("E! Unable to create pidfile: %v", err)
		} else {
			defer os.Remove(o.pidfile)
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	c, err := o.load()
	for err == nil && c != nil {
		c, err = o.serve(c, signals)
	}
	return err
}

func (o *options) load() (*config.Config, error) {
	c := config.NewConfig()
	c.Agent.Quiet = o.quiet
	files := append(list{}, o.files...)
	for _, directory := range o.directories {
		more, err := config.WalkDirectory(directory)
		if err != nil {
			return nil, fmt.Errorf("reading config directory %q failed: %w", directory, err)
		}
		files = append(files, more...)
	}
	if len(files) == 0 {
		var err error
		if files, err = config.GetDefaultConfigPath(); err != nil {
			return nil, fmt.Errorf("unable to load default config paths: %w", err)
		}
	}
	if err := c.LoadAll(files...); err != nil {
		return nil, err
	}
	switch {
	case !o.test && o.testWait == 0 && len(c.Outputs) == 0:
		return nil, errors.New("no outputs found, probably invalid config file provided")
	case len(c.Inputs) == 0:
		return nil, errors.New("no inputs found, probably invalid config file provided")
	case c.Agent.Interval <= 0:
		return nil, fmt.Errorf("agent interval must be positive, found %s", time.Duration(c.Agent.Interval))
	case c.Agent.FlushInterval <= 0:
		return nil, fmt.Errorf("agent flush_interval must be positive, found %s", time.Duration(c.Agent.FlushInterval))
	}
	return c, nil
}

// serve runs an agent until it ends. A reload returns the next configuration; one that cannot be read leaves the agent
// running, because a plant that reports is worth more than a plant that has stopped over a typing error.
func (o *options) serve(c *config.Config, signals <-chan os.Signal) (next *config.Config, err error) {
	a := c.Agent
	if err := logger.SetupLogging(&logger.Config{
		Debug: a.Debug || o.debug, Quiet: a.Quiet || o.quiet,
		LogTarget: a.LogTarget, LogFormat: a.LogFormat, Logfile: a.Logfile, StructuredLogMessageKey: a.StructuredLogMessageKey,
		RotationInterval: time.Duration(a.LogfileRotationInterval), RotationMaxSize: int64(a.LogfileRotationMaxSize),
		RotationMaxArchives: a.LogfileRotationMaxArchives, LogWithTimezone: a.LogWithTimezone,
	}); err != nil {
		return nil, err
	}
	log.Printf("I! Starting Telegraf %s with outputs.ocems", version)
	log.Printf("I! Loaded inputs: %s", strings.Join(c.InputNames(), " "))
	log.Printf("I! Loaded aggregators: %s", strings.Join(c.AggregatorNames(), " "))
	log.Printf("I! Loaded processors: %s", strings.Join(c.ProcessorNames(), " "))
	log.Printf("I! Loaded secretstores: %s", strings.Join(c.SecretstoreNames(), " "))
	if !o.once && (o.test || o.testWait != 0) {
		log.Print("W! Outputs are not used in testing mode!")
	} else {
		log.Printf("I! Loaded outputs: %s", strings.Join(c.OutputNames(), " "))
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ag, wait := agent.NewAgent(c), time.Duration(o.testWait)*time.Second
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // where there is no systemd, nobody listens
		switch {
		case o.once:
			ended <- ag.Once(ctx, wait)
		case o.test || o.testWait != 0:
			ended <- ag.Test(ctx, wait)
		default:
			ended <- ag.Run(ctx)
		}
	}()
	for {
		select {
		case err = <-ended:
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			return next, err
		case s := <-signals:
			if s == syscall.SIGHUP {
				log.Print("I! Reloading Telegraf config")
				if next, err = o.load(); err != nil {
					log.Printf("E! The configuration of before stays in force: %v", err)
					continue
				}
			}
			cancel()
		}
	}
}
