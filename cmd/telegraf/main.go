// Command telegraf is Telegraf with outputs.ocems built in. It takes the options of Telegraf's own command that run an
// agent and its `config check`; what prints or edits configurations is left to that command.
//
// SIGHUP differs. Telegraf stops and then reads the configuration, so that a typing error in it ends a plant's reports.
// Here another process checks the configuration first, and the agent runs on if that fails. Then the program executes
// itself under the same process id, because what Telegraf keeps of the configuration before can spoil the next one: it
// links old secrets again, which a dynamic store refuses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
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

// errReload ends a run so that the next one can read the configuration.
var errReload = errors.New("reloading")

type options struct {
	files, directories            []string
	inputs, outputs, secretstores []string // filters
	test, once, debug, quiet      bool
	unprotected                   bool
	testWait                      int
	pidfile                       string
}

func main() {
	os.Setenv("DISABLE_KWALLET", "1") // the keyring's library would ask for a desktop's wallet
	err := run(os.Args[1:])
	memguard.Purge()
	if errors.Is(err, errReload) {
		err = fmt.Errorf("starting anew: %w", restart())
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Printf("E! [telegraf] %v", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	var labels []string
	into := func(to *[]string, separator rune) func(string) error {
		return func(s string) error {
			*to = append(*to, strings.FieldsFunc(s, func(r rune) bool { return r == separator })...)
			return nil
		}
	}
	flags := flag.NewFlagSet("telegraf", flag.ContinueOnError)
	flags.Func("config", "configuration `file` or URL; may be given several times", into(&o.files, ','))
	flags.Func("config-directory", "`directory` of further .conf files; may be given several times", into(&o.directories, ','))
	flags.Func("input-filter", "`names` of the inputs to use, separated by ':'", into(&o.inputs, ':'))
	flags.Func("output-filter", "`names` of the outputs to use, separated by ':'", into(&o.outputs, ':'))
	flags.Func("secretstore-filter", "`names` of the secret stores to use, separated by ':'", into(&o.secretstores, ':'))
	flags.Func("select", "use only plugins with these `labels`", func(s string) error { labels = append(labels, s); return nil })
	flags.BoolVar(&o.test, "test", false, "gather once, print the metrics and stop; outputs are not used")
	flags.IntVar(&o.testWait, "test-wait", 0, "`seconds` to wait for service inputs with --test and --once")
	flags.BoolVar(&o.once, "once", false, "gather once, write to the outputs and stop")
	flags.BoolVar(&o.debug, "debug", false, "log debug messages")
	flags.BoolVar(&o.quiet, "quiet", false, "log errors only")
	flags.BoolVar(&o.unprotected, "unprotected", false, "do not protect secrets in memory")
	flags.StringVar(&o.pidfile, "pidfile", "", "`file` for the process id")
	flags.BoolVar(&config.NonStrictEnvVarHandling, "non-strict-env-handling", false, "let environment variables replace more than text")
	flags.Bool("strict-env-handling", true, "let environment variables replace text only")
	password := flags.String("password", "", "`password` of secret stores")
	show := flags.Bool("version", false, "print the version and stop")

	if err := flags.Parse(args); err != nil {
		return err
	}
	check := flags.Arg(0) == "config" && flags.Arg(1) == "check"
	if check {
		if err := flags.Parse(flags.Args()[2:]); err != nil {
			return err
		}
	}
	switch {
	case *show || flags.Arg(0) == "version":
		fmt.Println(version())
		return nil
	case flags.NArg() > 0:
		return fmt.Errorf("unknown command %q", strings.Join(flags.Args(), " "))
	}
	if o.unprotected {
		log.Print("W! Running without secret protection!")
		config.DisableSecretProtection()
	}
	if *password != "" {
		config.Password = config.NewSecret([]byte(*password))
	}
	if err := config.SetPluginLabelSelections(labels); err != nil {
		return err
	}

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	c, err := o.load()
	if err != nil {
		return err
	}
	if check {
		return initialise(c)
	}
	return o.serve(c, hangup)
}

// version is Telegraf's. One built from a selection of the plugins says so, as Telegraf does in its log.
func version() string {
	telegraf, customized := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/influxdata/telegraf" {
				telegraf = strings.TrimPrefix(d.Version, "v")
			}
		}
		for _, s := range info.Settings {
			if s.Key == "-tags" && strings.Contains(","+s.Value+",", ",custom,") {
				customized = " (customized)"
			}
		}
	}
	return "Telegraf " + telegraf + customized + " with outputs.ocems"
}

func (o *options) load() (*config.Config, error) {
	files := o.files
	for _, directory := range o.directories {
		more, err := config.WalkDirectory(directory)
		if err != nil {
			return nil, fmt.Errorf("reading config directory failed: %w", err)
		}
		files = append(files, more...)
	}
	if len(files) == 0 {
		var err error
		if files, err = config.GetDefaultConfigPath(); err != nil {
			return nil, fmt.Errorf("unable to load default config paths: %w", err)
		}
	}
	c := config.NewConfig()
	c.Agent.Quiet = o.quiet
	c.InputFilters, c.OutputFilters, c.SecretStoreFilters = o.inputs, o.outputs, o.secretstores
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

// initialise goes as far as a start can without opening anything.
func initialise(c *config.Config) error {
	if c.Agent.SkipProcessorsAfterAggregators == nil {
		c.Agent.SkipProcessorsAfterAggregators = new(bool) // the agent's default
	}
	return agent.NewAgent(c).InitPlugins()
}

// serve runs an agent until it ends.
func (o *options) serve(c *config.Config, hangup <-chan os.Signal) error {
	unstopped, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(unstopped)
	defer cancel(nil)

	a := c.Agent
	if err := logger.SetupLogging(&logger.Config{
		Debug: a.Debug || o.debug, Quiet: a.Quiet || o.quiet,
		LogTarget: a.LogTarget, LogFormat: a.LogFormat, Logfile: a.Logfile, StructuredLogMessageKey: a.StructuredLogMessageKey,
		RotationInterval: time.Duration(a.LogfileRotationInterval), RotationMaxSize: int64(a.LogfileRotationMaxSize),
		RotationMaxArchives: a.LogfileRotationMaxArchives, LogWithTimezone: a.LogWithTimezone,
	}); err != nil {
		return err
	}
	testing := !o.once && (o.test || o.testWait != 0)
	log.Printf("I! Starting %s", version())
	log.Printf("I! Loaded inputs: %s", strings.Join(c.InputNames(), " "))
	log.Printf("I! Loaded aggregators: %s", strings.Join(c.AggregatorNames(), " "))
	log.Printf("I! Loaded processors: %s", strings.Join(c.ProcessorNames(), " "))
	log.Printf("I! Loaded secretstores: %s", strings.Join(c.SecretstoreNames(), " "))
	if testing {
		log.Print("W! Outputs are not used in testing mode!")
	} else {
		log.Printf("I! Loaded outputs: %s", strings.Join(c.OutputNames(), " "))
	}
	log.Printf("I! Tags enabled: %s", c.ListTags())
	// As Telegraf reckons: a secret takes three pages.
	if required, available := 3*c.NumberSecrets*uint64(os.Getpagesize()), lockable(); !o.unprotected && required > available {
		log.Printf("W! Insufficient lockable memory %dkb when %dkb is required for %d secrets. Please increase the limit for Telegraf in your Operating System!",
			available/1024, required/1024, c.NumberSecrets)
	}
	if o.pidfile != "" && !o.once && !testing {
		if err := os.WriteFile(o.pidfile, fmt.Appendln(nil, os.Getpid()), 0o640); err != nil {
			log.Printf("E! Unable to create pidfile: %v", err)
		} else {
			defer os.Remove(o.pidfile)
		}
	}

	go func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-hangup:
				log.Print("I! Reloading Telegraf config")
				if err := recheck(ctx); err == nil {
					cancel(errReload)
				} else if ctx.Err() == nil {
					log.Printf("E! [telegraf] The new configuration is refused, the one before stays in force: %v", err)
				}
			}
		}
	}()

	ag, wait := agent.NewAgent(c), time.Duration(o.testWait)*time.Second
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // where there is no systemd, nobody listens
	var err error
	switch {
	case o.once:
		err = ag.Once(ctx, wait)
	case testing:
		err = ag.Test(ctx, wait)
	default:
		err = ag.Run(ctx)
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("running the agent: %w", err)
	}
	if unstopped.Err() == nil && context.Cause(ctx) == errReload {
		if err != nil {
			log.Printf("E! [telegraf] %v", err)
		}
		return errReload
	}
	return err
}

// recheck lets another process judge the configuration as it is now.
func recheck(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args := append(os.Args[1:len(os.Args):len(os.Args)], "config", "check")
	said, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if _, why, ok := strings.Cut(string(said), " E! [telegraf] "); ok && err != nil {
		return errors.New(strings.TrimSpace(why))
	}
	if err != nil {
		return fmt.Errorf("checking it: %w: %s", err, said)
	}
	return nil
}

// restart returns only if it fails.
func restart() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP) // it would end the new process before that listens for it
	return syscall.Exec(program, os.Args, os.Environ())
}
